"""Measurements by which a reproduction chooses codec, vocoder and sampling settings."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from dear.codec.mel import MelSpectrogram
from dear.codec.patch import PatchVAE
from dear.evaluation.generation import generate_for_scoring
from dear.evaluation.judge.features import Embedding, embed, fit
from dear.evaluation.judge.metrics import frechet_distance
from dear.evaluation.score import Reference, score_embedding, score_waveforms
from dear.judge.base import Judge
from dear.judge.classifier import SoundClassifier
from dear.pipeline import AudioDEAR
from training.data.clips import Clip, load_waveform
from training.engine.codec import measure_codec, measure_vocoder
from training.engine.recipe import MeasureConfig
from training.runtime.progress import Progress

CLOSE = 0.02  # accuracies this close to the best count as equal, and the lower FD decides


def recordings(clips: Sequence[Clip], mel: MelSpectrogram) -> tuple[Tensor, list[str]]:
    """Log-mels [N, F, M] of recordings, each looped to the length of a clip, and their sounds."""
    samples = mel.config.frames * mel.config.hop_length
    with torch.no_grad():
        mels = [mel(fit(load_waveform(clip, mel.config.sample_rate), samples)[None]) for clip in clips]
    return torch.cat(mels), [clip.sound for clip in clips]


def embed_training(clips: Sequence[Clip], classifier: SoundClassifier) -> Reference:
    """The recordings of the training folds as a reference, for choices that must not use a held-out fold."""
    return Reference(_embedded(clips, classifier), None, "recordings of the training")


def embed_held_out(held_out: Sequence[Clip], others: Sequence[Clip], judge: Judge) -> Reference:
    """The recordings of the held-out folds as a reference, with their distance from the other recordings."""
    embedding = _embedded(held_out, judge)
    floor = frechet_distance(embedding.features, _embedded(others, judge).features)
    return Reference(embedding, floor, "recordings of the held-out folds")


def _embedded(clips: Sequence[Clip], judge: Judge) -> Embedding:
    sounds = (load_waveform(clip, judge.sample_rate) for clip in clips)
    return embed(sounds, [clip.sound for clip in clips], judge)


@torch.no_grad()
def compare_codecs(
    vaes: Mapping[str, PatchVAE],
    vocoders: Mapping[str, nn.Module],
    mels: Tensor,
    labels: Sequence[str],
    classifier: SoundClassifier,
    reference: Reference,
) -> dict[str, Any]:
    """Errors, accuracy, FD and seconds per clip: each vocoder on real mels, each codec with the first vocoder."""
    spectrogram = MelSpectrogram(classifier.config.mel)
    sounds: dict[str, tuple[PatchVAE | None, nn.Module]] = {name: (None, one) for name, one in vocoders.items()}
    usual = next(iter(vocoders))
    sounds |= {f"{name} + {usual}": (vae, vocoders[usual]) for name, vae in vaes.items()}
    table = {}
    for name, (vae, vocoder) in sounds.items():
        found, started = [], time.perf_counter()
        with closing(Progress(name, len(mels), unit="recording")) as progress:
            for mel in mels:
                found.append(vocoder(mel[None] if vae is None else vae.decode(vae.encode(mel[None]))))
                progress.update()
        waveforms, seconds = torch.cat(found), (time.perf_counter() - started) / len(mels)
        score = score_embedding(embed(waveforms, labels, classifier), classifier, reference)
        errors = measure_vocoder(vocoder, spectrogram, mels) if vae is None else measure_codec(vae, mels)
        table[name] = {
            "l1": round(errors["l1"], 4),
            "accuracy": score["accuracy"],
            "fd": score["fd"],
            "seconds": round(seconds, 3),
        }
    return table


def choose_codec(table: Mapping[str, Any], usual: str) -> tuple[str, str]:
    """The (vae, vocoder) to publish.

    A refined codec is chosen only if its error is lower and its accuracy, or FD at equal accuracy, better than those of
    the linear codec; the ISTFT vocoder only if its error and accuracy are no worse than those of ``usual``.
    """
    linear, *refined = [name.partition(" + ")[0] for name in table if " + " in name]
    vae, plain = linear, table[f"{linear} + {usual}"]
    for name in refined:
        other = table[f"{name} + {usual}"]
        if other["l1"] < plain["l1"] and (other["accuracy"], -other["fd"]) > (plain["accuracy"], -plain["fd"]):
            vae = name
    if "istft" not in table:
        return vae, usual
    slow, fast = table[usual], table["istft"]
    lossless = fast["l1"] <= slow["l1"] and fast["accuracy"] >= slow["accuracy"]
    return vae, "istft" if lossless else usual


def sampling_grid(
    pipeline: AudioDEAR,
    prompts: Mapping[str, Sequence[str]],
    classifier: SoundClassifier,
    reference: Reference,
    config: MeasureConfig,
) -> list[dict[str, Any]]:
    """Accuracy and FD of each guidance scale and temperature, on the same prompts and seeds."""
    rows = []
    for cfg_scale, temperature in product(config.cfg_scales, config.temperatures[pipeline.variant]):
        row: dict[str, Any] = {"cfg_scale": cfg_scale, "temperature": temperature}
        waveforms, labels = generate_for_scoring(pipeline, prompts, config.tuning_clips, seed=config.tuning_seed, **row)
        score = score_waveforms(waveforms, labels, classifier, reference)
        rows.append(row | {"accuracy": score["accuracy"], "fd": score["fd"], "is": score["is"]})
    return rows


def choose_sampling(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The settings with the lowest FD among those whose accuracy is within CLOSE of the best."""
    best = max(row["accuracy"] for row in rows)
    chosen = min((row for row in rows if row["accuracy"] >= best - CLOSE), key=lambda row: row["fd"])
    return {"cfg_scale": chosen["cfg_scale"], "temperature": chosen["temperature"]}
