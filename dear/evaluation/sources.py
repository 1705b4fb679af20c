"""Sounds for a judge: recordings, log-mels, codec and vocoder outputs, and generated sounds."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from dear.audio import read_sound
from dear.codec import VOCODERS, build_vocoder
from dear.codec.mel import MelSpectrogram
from dear.config import Config, MelConfig
from dear.evaluation.judge.features import Sound, SoundsError, find_sounds, fit

if TYPE_CHECKING:
    from dear.pipeline import AudioDEAR


@dataclass(frozen=True)
class Source:
    """Log-mels for vocoders, and the time to make them."""

    name: str
    mels: Tensor  # [N,F,M]
    labels: tuple[str, ...]
    seconds: float  # for 10 s of sound, without the vocoder
    wanted: Tensor  # [N, F, M]: the reference for the mel of the waveform


@dataclass(frozen=True)
class Row:
    """N waveforms, their error and the time to make them."""

    name: str
    waveforms: Tensor  # [N,S]
    labels: tuple[str, ...]
    error: float | None  # mean absolute difference of log-mels, in natural-log units
    seconds: float | None  # for 10 s of sound


def split(folders: Sequence[Path], folds: Sequence[int], count: int) -> tuple[list[Sound], list[Sound]]:
    """The first ``count`` recordings of each label in the held-out fold of each folder, and as many of other folds.

    Raises :class:`SoundsError` for a folder without recordings of its held-out fold.
    """
    measured: list[Sound] = []
    others: list[Sound] = []
    for folder, fold in zip(folders, folds, strict=True):
        sounds = find_sounds(folder)
        inside = [sound for sound in sounds if sound.fold == fold]
        if not inside:
            known = sorted({sound.fold for sound in sounds if sound.fold is not None})
            raise SoundsError(f"fold must be one of {known} in {folder}, got {fold!r}")
        measured += inside
        others += [sound for sound in sounds if sound.fold != fold]
    return _first(measured, count), _first(others, count)


def vocoders(config: Config, vocoder: nn.Module) -> dict[str, nn.Module]:
    """{kind: vocoder}: the checkpoint's own, then all kinds that need no weights, with default settings."""
    found: dict[str, nn.Module] = {config.vocoder.kind: vocoder}
    for kind, network in VOCODERS.items():
        if network.weightless and kind not in found:
            found[kind] = build_vocoder(network.Config(), config.mel)
    return found


def recorded(sounds: Sequence[Sound], config: Config) -> Source:
    """Recordings looped to the length of a clip, peak at most 1."""
    spectrogram, samples = MelSpectrogram(config.mel), config.mel.frames * config.mel.hop_length
    mels = [spectrogram(fit(read_sound(sound.path, config.mel.sample_rate), samples)[None]) for sound in sounds]
    labels = tuple(sound.label for sound in sounds)
    return Source("mel", torch.cat(mels), labels, 0.0, torch.cat(mels))


@torch.inference_mode()
def coded(source: Source, vae: Any, config: Config) -> Source:
    """A source after encoding and decoding by the codec."""
    decoded, began = [], time.perf_counter()
    for mel in source.mels:
        decoded.append(vae.decode(vae.encode(mel[None])))
    seconds = (time.perf_counter() - began) / len(decoded) * _per_ten(config.mel)
    return replace(source, name="codec", mels=torch.cat(decoded), seconds=seconds)


def generated(pipeline: AudioDEAR, prompts: Mapping[str, Sequence[str]], count: int, seed: int) -> Source:
    """Generated sounds of held-back prompts, one at a time, with default options; clip i has seed ``seed + i``."""
    items = [(label, texts[i % len(texts)]) for label, texts in prompts.items() for i in range(count)]
    mels, seconds = [], 0.0
    sounds = pipeline.generate_many([text for _, text in items], batch=1, seed=seed)
    for out in tqdm(sounds, desc=pipeline.variant, total=len(items), unit="sound", disable=None):
        mels.append(out.mel)
        seconds += out.timings["total"] - out.timings["vocoder"]
    found = torch.cat(mels)
    labels = tuple(label for label, _ in items)
    return Source(pipeline.variant, found, labels, seconds / len(items) * _per_ten(pipeline.config.mel), found)


@torch.inference_mode()
def voiced(source: Source, kind: str, vocoder: nn.Module, config: Config) -> Row:
    """A source through a vocoder, one clip at a time."""
    waveforms, began = [], time.perf_counter()
    for mel in source.mels:
        waveforms.append(vocoder(mel[None]))
    seconds = (time.perf_counter() - began) / len(waveforms) * _per_ten(config.mel)
    spectrogram = MelSpectrogram(config.mel)
    errors = [(spectrogram(wave) - wanted).abs().mean() for wave, wanted in zip(waveforms, source.wanted, strict=True)]
    sound = torch.cat(waveforms)[:, : config.mel.samples]
    return Row(
        f"{source.name}, {kind}", sound, source.labels, float(torch.stack(errors).mean()), source.seconds + seconds
    )


def tone(config: Config) -> Tensor:
    """A steady tone of 440 Hz with five harmonics, for one clip [1, F * hop]."""
    clock = torch.arange(config.mel.frames * config.mel.hop_length) / config.mel.sample_rate
    parts = [torch.sin(2 * torch.pi * 440 * number * clock) / number for number in range(1, 6)]
    return 0.3 * torch.stack(parts).sum(0)[None]


def _first(sounds: Sequence[Sound], count: int) -> list[Sound]:
    taken: dict[str, int] = {}
    kept = []
    for sound in sounds:
        taken[sound.label] = taken.get(sound.label, 0) + 1
        if taken[sound.label] <= count:
            kept.append(sound)
    return kept


def _per_ten(mel: MelConfig) -> float:
    """Factor from the seconds for one clip to the seconds for 10 s of sound."""
    return 10 * mel.sample_rate / (mel.frames * mel.hop_length)
