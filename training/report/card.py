"""The model card of a reproduction: the model, its training, the measured figures, and the credits."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from dear.card import anatomy, front_matter
from dear.config import Config
from dear.heads.energy import EnergyConfig
from dear.judge.classifier import SoundClassifier
from training.data.clips import Clip
from training.data.vocabulary import SOUNDS
from training.engine.recipe import FurtherRecipe, MaskingConfig, Recipe, ScenesConfig
from training.report.attribution import attribution, families, vocabulary_table

NAMES = {
    "student": "student: one step, distilled",
    "teacher": "teacher: diffusion",
    "plain": "student: one step, lambda = 0",
}
VARIANTS = {"student": "student", "teacher": "teacher", "plain": "student"}


def hidden(masking: MaskingConfig) -> str:
    low, high = masking.ratio
    spread = "uniformly" if masking.shares == "uniform" else "each share as often as in decoding"
    nested = ", in nested decoding orders" if masking.order == "nested" else ""
    return f"{low:.0%} to {high:.0%} of a scene's tokens are hidden, {spread}{nested}"


def mixture(kinds: tuple[float, float, float]) -> str:
    single, then, during = (share / sum(kinds) for share in kinds)
    return f'{single:.0%} of the scenes are one sound, {then:.0%} "A, then B", {during:.0%} "A while B".'


def folds(scenes: ScenesConfig) -> str:
    """The folds that no stage of training uses."""
    return " and ".join(f"fold {fold} of {name}" for name, fold in scenes.held_out.items())


def wordings(scenes: ScenesConfig, masking: MaskingConfig, sounds: int) -> str:
    """The means against memorised captions, and the sounds that are favoured."""
    often = ", ".join(f"{label} {times} times" for label, times in scenes.often.items())
    measures = (
        (scenes.recaption, "at each use, a scene has the caption of any scene with the same sounds"),
        (scenes.wordings, f"or one of {scenes.wordings} further captions"),
        (
            masking.blurred,
            f"{masking.blurred:.0%} of the captions lose a random share of their word tokens"
            + (f", and noise of up to {masking.jitter:g} times their size moves the others" if masking.jitter else ""),
        ),
        (often, f"of every {sounds + sum(scenes.often.values()) - len(scenes.often)} scenes {often}"),
        (scenes.in_time, "clocks tick at whole numbers of tokens"),
    )
    text = "; ".join(sentence for applies, sentence in measures if applies)
    return text and text[0].upper() + text[1:] + "."


def last_phase(recipe: Recipe) -> str:
    """The student's second phase; empty where there is none."""
    if recipe.finish is None:
        return ""
    pull = recipe.finish_distill
    weight = "" if pull is None else f"lambda is {pull.weight:g}, and "
    return f"In the student's last phase of {recipe.finish.steps:,} more steps {weight}{hidden(recipe.finish_masking)}."


def scored(config: Config) -> str:
    """The groups of channels in the student's energy score; empty where it takes whole tokens only."""
    head = config.variants["student"].head
    if not isinstance(head, EnergyConfig) or not head.groups:
        return ""
    return (
        "Its energy score is the mean of the scores of the whole token and of consecutive groups of "
        f"{', '.join(map(str, head.groups))} channels, the codec's leading components first."
    )


def forms(kinds: tuple[float, float, float]) -> str:
    """The forms of scenes that the model was trained on."""
    single, then, during = kinds
    found = [
        text for share, text in ((single, "alone"), (then, "one after the other"), (during, "two at once")) if share
    ]
    return " or ".join(filter(None, (", ".join(found[:-1]), found[-1])))


def model_card(
    config: Config,
    recipe: Recipe,
    codecs: Mapping[str, Any],
    scores: Mapping[str, Any],
    composed: Mapping[str, Any],
    classifier: SoundClassifier,
    heard: Sequence[Clip],
    sounds: Sequence[str],
) -> str:
    """Markdown with the Hub's front matter; every figure comes from the reports of one reproduction.

    heard: the recordings of the training; sounds: the names of the sounds in its scenes.
    """
    fold, real = folds(recipe.scenes), scores["student"]["reference"]
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
    synthetic = [name for name in sounds if SOUNDS[name].synthesis]
    computed = f" and on {len(synthetic)} computed sounds" if synthetic else ""
    licence = "CC-BY-NC 4.0" if any("NC" in clip.license.upper() for clip in heard) else "CC-BY 4.0"
    tags = "text-to-audio", "energy-scoring", "distillation"
    front = front_matter(tags, license=licence.lower().replace(" ", "-"))
    return f"""{front}
# AudioDEAR mini

Text to {config.mel.samples / config.mel.sample_rate:g} seconds of sound ({config.mel.sample_rate / 1000:g} kHz, mono) for {len(sounds)} sounds, {forms(recipe.scenes.kinds)}. A masked transformer fills {config.length} tokens of
{config.vae.token_dim} values in {student.iterations} iterations; an energy-scoring head draws each token in one step.

{anatomy(config)}

## What it knows

{vocabulary_table(sounds)}

## How it was made

    python -m training.reproduce --clips DIR --out DIR

on the recordings listed below (without {fold}){computed}, composed into {recipe.scenes.count:,} scenes with captions. The teacher was trained for {recipe.teacher.steps:,} steps of {recipe.teacher.batch_size} scenes; the student
started from its backbone and was trained for {recipe.student.steps:,} steps with lambda =
{recipe.distill.weight:g} ({recipe.distill.channels} over channels). In training {hidden(recipe.masking)}.
{last_phase(recipe)} {scored(config)}
{mixture(recipe.scenes.kinds)} {wordings(recipe.scenes, recipe.masking, len(sounds))}

## Measured

No stage of training used {fold}; only codec and vocoder were chosen by it (last table). {scores["student"]["clips"]} clips a row, from wordings that training
never showed; the same seeds for every row, one candidate each, weights rounded as in the files; default settings (the student's:
guidance {student.cfg_scale:g}, temperature {student.temperature:g}, {student.iterations} iterations). Accuracy, Fréchet distance
(FD), KL and inception score (IS) are those of the classifier in `assets/classifier`
(digest {classifier.config.digest[:12]}), which names {real["accuracy"]:.1%} of the {real["clips"]} held-out recordings
correctly. It hears log-mels only, and so neither phase nor fine texture of the vocoder. For a judge of waveforms, run `python -m dear.evaluation.losses --clips DIR --judge efficientat:FILE`.
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

Held-out recordings after codec and vocoder (log-mel L1 in natural logarithms; FD against the original recordings;
seconds for one clip):

| codec and vocoder | L1 | accuracy | FD | seconds |
|---|---|---|---|---|
{ways}

`python -m dear.evaluation.score --reference DIR` repeats the student's row.

## What it can't do

It knows only the {len(sounds)} sounds of {len(families(sounds))} {"family" if len(families(sounds)) == 1 else "families"} above; other prompts give
the nearest of them. It was trained on {len(heard):,} recordings, which limit its variety.

## Licences and attribution

These weights: {licence}. {attribution(heard)}
"""


def settings(values: Mapping[str, Any]) -> str:
    return ", ".join(f"`{name}: {json.dumps(value)}`" for name, value in values.items())


def further_section(
    recipe: FurtherRecipe, start: str, command: str, heard: Sequence[Clip], sounds: Sequence[str]
) -> str:
    """Markdown for the end of the card of a checkpoint that was trained further.

    start: the fingerprint of the checkpoint as it was before. command: the one that trained it.
    """
    train = recipe.train
    changes = {"backbone": recipe.backbone, "head": recipe.head, "sampling": recipe.sampling}
    changed = "; ".join(f"{name}: {settings(values)}" for name, values in changes.items() if values)
    blend = ""
    if recipe.blend < 1:
        blend = f" {recipe.blend:.0%} of each weight are those after the training, the rest those before it."
    return f"""## Trained further

    {command}

The figures above are those of the checkpoint before this training (fingerprint {start}). Its {recipe.variant} was trained for
{train.steps:,} more steps of {train.batch_size} scenes on {recipe.scenes.count:,} scenes of {len(sounds)} sounds, composed from {len(heard):,} recordings
(without {folds(recipe.scenes)}). In training {hidden(recipe.masking)}. {mixture(recipe.scenes.kinds)} {wordings(recipe.scenes, recipe.masking, len(sounds))}
{f"New settings: {changed}." if changed else "No setting was changed."}{blend}

{attribution(heard)}
"""
