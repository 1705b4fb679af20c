"""The model card of the sound classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dear.judge.classifier import SoundClassifier
from training.data.clips import Clip
from training.report.attribution import attribution, collections, vocabulary_table


def classifier_card(model: SoundClassifier, result: Mapping[str, Any], clips: Sequence[Clip]) -> str:
    """Markdown. result: as :func:`training.classifier.measure` returns it. clips: the recordings of the training."""
    names = {
        "recordings": "recordings, looped to 10 s",
        "scenes": "single-event scenes made of them",
        "recordings_returned": "recordings through a linear codec and Griffin-Lim",
        "scenes_returned": "scenes through a linear codec and Griffin-Lim",
    }
    rows = "\n".join(f"| {names[name]} | {s['clips']} | {s['accuracy']:.3f} |" for name, s in result.items())
    each = "\n".join(
        f"| {label} | {result['recordings']['per_class'][label]:.2f} | {result['scenes']['per_class'][label]:.2f} | "
        + ", ".join(f"{n} {other}" for other, n in result["recordings"]["heard_as"][label].items() if other != label)
        + " |"
        for label in model.labels
    )
    kinds = ", ".join(f"`{name}` ({len(members):,})" for name, members in collections(clips).items())
    parameters = sum(p.numel() for p in model.parameters())
    return f"""# AudioDEAR's sound classifier

Names one of {len(model.labels)} sounds in a mono clip of {model.config.mel.sample_rate} Hz.
It scores AudioDEAR's generated sounds (`python -m dear.evaluation.score`): accuracy from its answers, Fréchet distance
in its {model.config.width} features, KL divergence and inception score from its probabilities.

A convolutional network of {parameters:,} parameters on the log-mel spectrogram, trained by
`python -m training.classifier` on {len(clips):,} recordings ({kinds}) and scenes made of them.

## Sounds

{vocabulary_table(model.labels)}

## Measured on held-out clips

| clips | number | accuracy |
|---|---|---|
{rows}

| class | recordings | scenes | recordings mistaken for |
|---|---|---|---|
{each}

## Limits

It hears log-mels only. A waveform with the right log-mel scores well however it sounds, so this classifier cannot judge
vocoders; `python -m dear.evaluation.losses` takes a judge of waveforms.

It answers with one of its {len(model.labels)} labels for any sound. It normalises loudness, so it cannot detect a sound
that is too loud or too soft. Figures in its features compare only with figures of this same file
(its digest is in `config.json`), never with FD or KL of other judges.

## Attribution

{attribution(clips)}
"""
