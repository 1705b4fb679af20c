"""The model card of a checkpoint: what it is, what it was trained on, what was measured, whom to thank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dear.card import anatomy, front_matter
from dear.config import Config
from dear.evaluation.judge.classifier import SoundClassifier
from dear.heads.energy import EnergyConfig
from training.data.clips import Clip
from training.engine.recipe import MaskingConfig, Recipe

NAMES = {
    "student": "student: one step, distilled",
    "teacher": "teacher: diffusion",
    "plain": "student: one step, lambda = 0",
}
VARIANTS = {"student": "student", "teacher": "teacher", "plain": "student"}


def hidden(masking: MaskingConfig) -> str:
    low, high = masking.ratio
    spread = "uniformly" if masking.shares == "uniform" else "each share as often as decoding meets it"
    return f"{low:.0%} to {high:.0%} of a scene's tokens are hidden, {spread}"


def mixture(kinds: tuple[float, float, float]) -> str:
    single, then, during = (share / sum(kinds) for share in kinds)
    return f'{single:.0%} of the scenes are one sound, {then:.0%} "A, then B", {during:.0%} "A while B".'


def folds(recipe: Recipe) -> str:
    """What no stage of training hears."""
    return " and ".join(f"fold {fold} of {name}" for name, fold in recipe.scenes.held_out.items())


def wordings(recipe: Recipe, sounds: int) -> str:
    """How a recipe keeps its models from learning captions by heart, and which of its sounds it favours."""
    scenes, masking = recipe.scenes, recipe.masking
    often = ", ".join(f"{label} {times} times" for label, times in scenes.often.items())
    told = (
        (scenes.recaption, "each time that a scene is seen, it has the caption of any scene with the same sounds"),
        (
            masking.blurred,
            f"{masking.blurred:.0%} of the captions lose a random share of their word tokens"
            + (f", and noise of up to {masking.jitter:g} times their size moves the others" if masking.jitter else ""),
        ),
        (often, f"of every {sounds + sum(scenes.often.values()) - len(scenes.often)} scenes {often}"),
        (scenes.in_time, "clocks tick at whole numbers of tokens"),
    )
    text = "; ".join(sentence for applies, sentence in told if applies)
    return text and text[0].upper() + text[1:] + "."


def last_phase(recipe: Recipe) -> str:
    """How the student's second phase differs; empty where it has one only."""
    if recipe.finish is None:
        return ""
    return f"In the student's last phase of {recipe.finish.steps:,} more steps {hidden(recipe.finish_masking)}."


def scored(config: Config) -> str:
    """What the student's energy score is taken over, where that is not the whole token alone."""
    head = config.variants["student"].head
    if not isinstance(head, EnergyConfig) or not head.groups:
        return ""
    return (
        "Its energy score is the mean of that of the whole token and of those of consecutive groups of "
        f"{', '.join(map(str, head.groups))} channels, the codec's leading components first."
    )


def attribution(heard: Sequence[Clip]) -> str:
    """Where recordings came from, under which licences, and whom to thank for each."""
    freesound = all("freesound.org" in clip.source for clip in heard)
    origin = "recordings from freesound.org, collected in" if freesound else "recordings of the classes of"
    credits = (
        f'- "{clip.title}"{f" by {clip.author}" if clip.author else ""}, {clip.license}, {clip.source}'
        for clip in heard
    )
    licences = " and ".join(sorted({clip.license for clip in heard}))
    return f"""They were trained on {origin} ESC-10
(K. J. Piczak, "ESC: Dataset for Environmental Sound Classification", 2015), under {licences}:

""" + "\n".join(credits)


def model_card(
    config: Config,
    recipe: Recipe,
    codecs: Mapping[str, Any],
    scores: Mapping[str, Any],
    composed: Mapping[str, Any],
    classifier: SoundClassifier,
    heard: Sequence[Clip],
    sounds: int,
) -> str:
    """Markdown with the Hub's front matter; every figure comes from the reports of one reproduction.

    heard: the recordings of the training; sounds: how many sounds its scenes are of.
    """
    fold, real = folds(recipe), scores["student"]["reference"]
    quality = "\n".join(
        f"| {NAMES[name]} | {config.variants[VARIANTS[name]].sampling.steps} | {row['accuracy']:.3f} | {row['fd']:.1f} | {row['kl']:.2f} | "
        f"{row['is']:.2f} |"
        for name, row in scores.items()
    )
    classes = "\n".join(
        f"| {label} | " + " | ".join(f"{row['per_class'][label]:.2f}" for row in scores.values()) + " |"
        for label in scores["student"]["per_class"]
    )
    heard_both = "\n".join(
        f"| {NAMES.get(name, name)} | {row['first']:.3f} | {row['second']:.3f} | {row['both']:.3f} | {row['same']:.3f} |"
        for name, row in composed.items()
    )
    ways = "\n".join(
        f"| {name} | {row['l1']:.3f} | {row['accuracy']:.3f} | {row['fd']:.3f} | {row['seconds']:.3f} |"
        for name, row in codecs.items()
    )
    student = config.variants["student"].sampling
    licence = "CC-BY-NC 4.0" if any("NC" in clip.license.upper() for clip in heard) else "CC-BY 4.0"
    tags = "text-to-audio", "energy-scoring", "distillation"
    front = front_matter(tags, license=licence.lower().replace(" ", "-"))
    return f"""{front}
# AudioDEAR mini

Text to ten seconds of sound (16 kHz, mono) for ten classes of environmental sound, alone, one after the other, or two
at once. It is the small, bundled model of AudioDEAR: a masked transformer fills {config.length} tokens of
{config.vae.token_dim} values in {student.iterations} iterations; an energy-scoring head draws each token in one step.

{anatomy(config)}

## How it was made

    python -m training.reproduce --clips DIR --out DIR

on the recordings listed below (without {fold}), composed into {recipe.scenes.count:,} scenes of ten seconds
with captions. The teacher was trained for {recipe.teacher.steps:,} steps of {recipe.teacher.batch_size} scenes; the student
started from its backbone and was trained for {recipe.student.steps:,} steps with lambda =
{recipe.distill.weight:g} ({recipe.distill.channels} over channels). In training {hidden(recipe.masking)}.
{last_phase(recipe)} {scored(config)}
{mixture(recipe.scenes.kinds)} {wordings(recipe, sounds)}

## Measured

No stage of training heard {fold}; codec and vocoder alone were chosen by it (last table). {scores["student"]["clips"]} clips a row, from wordings that training
never showed; the same seeds for every row, one candidate each, weights rounded as in the files; default settings (the student's:
guidance {student.cfg_scale:g}, temperature {student.temperature:g}, {student.iterations} iterations). Accuracy, Fréchet distance
(FD), KL and inception score (IS) are those of the classifier in `assets/classifier`
(digest {classifier.config.digest[:12]}), which names {real["accuracy"]:.1%} of the {real["clips"]} held-out recordings
correctly. It hears log-mels only: what the vocoder does to phase and texture is lost on it. For a judge of waveforms,
run `python -m dear.evaluation.losses --clips DIR --judge efficientat:FILE`.
FD of real against real ({fold} against the others): {scores["student"]["floor_fd"]:.1f}.
IS of real: {real["is"]:.2f}.

| variant | steps | accuracy | FD | KL | IS |
|---|---|---|---|---|---|
{quality}

Judge: {classifier.name} {classifier.digest}, also of the tables below.

Accuracy by class, in the same order of variants:

| class | {" | ".join(scores)} |
|---|{"---|" * len(scores)}
{classes}

"A, then B": one held-back caption for each of {composed["student"]["clips"]} ordered pairs. Beginning and end of each clip
are judged alone (`python -m dear.evaluation.compositions`); the first row is of held-out recordings composed so.

| clips | beginning is A | end is B | both | end is A |
|---|---|---|---|---|
{heard_both}

How held-out recordings survive the way to sound (log-mel L1 in natural logarithms; FD against the same recordings
untouched; seconds for one clip):

| way | L1 | accuracy | FD | seconds |
|---|---|---|---|---|
{ways}

`python -m dear.evaluation.score --reference DIR` repeats the student's row.

## What it can't do

It knows ten sounds ({", ".join(classifier.labels)}) and no music, speech or anything else; other prompts
give the nearest of what it knows. It was trained on {len(heard)} recordings, so its variety is theirs.

## Licences and attribution

These weights: {licence}. {attribution(heard)}
"""
