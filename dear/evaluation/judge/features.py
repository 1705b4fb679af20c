"""Sounds on disk or in memory -> a judge's features and probabilities, a few at a time."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dear.audio import read_sound
from dear.judge.base import Judge

SUFFIXES = (".wav", ".ogg", ".flac")
MANIFESTS = ("clips.csv", "meta/esc50.csv", "manifest.csv", "manifest.json")  # in this order of preference


class SoundsError(ValueError):
    """Sounds that can't be found, read or matched to a label."""


@dataclass(frozen=True)
class Sound:
    """One labelled sound file."""

    path: Path
    label: str
    fold: int | None = None


@dataclass(frozen=True)
class Embedding:
    """A judge's output for N labelled sounds."""

    features: np.ndarray  # [N, K] float32
    probabilities: np.ndarray  # [N, names] float32
    labels: tuple[str, ...]  # of each sound, as its maker meant it


def find_sounds(folder: str | Path, manifest: str | Path | None = None) -> list[Sound]:
    """The labelled sounds of a folder.

    Labels come from ``manifest``, or from the first of clips.csv, meta/esc50.csv, manifest.csv and manifest.json in the
    folder, or else from the names of its subfolders. A CSV has the columns file and label (or ESC-50's filename and
    category), and may have fold; a JSON is ``{file: label}``. Files lie in the folder or in its folder audio.

    Raises :class:`SoundsError` naming the folder, the manifest's line or the file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise SoundsError(f"{folder} is not a folder of sounds")
    if manifest is None:
        manifest = next((folder / name for name in MANIFESTS if (folder / name).is_file()), None)
    if manifest is not None:
        sounds = [Sound(_locate(folder, name), label, fold) for name, label, fold in _rows(Path(manifest))]
    else:
        paths = sorted(path for path in folder.glob("*/*") if path.suffix.lower() in SUFFIXES)
        sounds = [Sound(path, path.parent.name) for path in paths]
    if not sounds:
        raise SoundsError(
            f"{folder} holds no labelled sounds: put {', '.join(SUFFIXES)} files into one subfolder per label, "
            "or list them with their labels in manifest.csv or manifest.json"
        )
    return sounds


def fit(waveform: np.ndarray | Tensor, samples: int) -> Tensor:
    """waveform [S] -> float32 [samples]: cropped, or looped as a recording shorter than a scene is in training.

    A real 5-second recording and a generated 10-second clip then differ in content, not in the amount of silence.
    """
    waveform = torch.as_tensor(waveform, dtype=torch.float32, device="cpu").detach()
    if waveform.ndim != 1 or not len(waveform):
        raise SoundsError(f"waveforms must be [S] each, S at least 1, got shape {list(waveform.shape)}")
    return waveform.repeat(-(-samples // len(waveform)))[:samples]


@torch.inference_mode()
def embed(waveforms: Iterable[np.ndarray | Tensor], labels: Sequence[str], judge: Judge, batch: int = 8) -> Embedding:
    """Waveforms, each [S] at the judge's sample rate, in [-1, 1] -> features and class probabilities.

    ``waveforms`` may be an array [N, S] or a generator: at most ``batch`` of them are held at a time. Each is fitted to
    the length that the judge takes. Raises :class:`SoundsError` for a waveform that isn't finite, or where the numbers
    of labels and waveforms differ.
    """
    features, probabilities = [], []
    rest = iter(waveforms)
    while chunk := [fit(waveform, judge.samples) for waveform in islice(rest, batch)]:
        stacked = torch.stack(chunk)
        if not stacked.isfinite().all():
            raise SoundsError("waveforms must be finite, got NaN or infinity")
        heard = judge.hear(stacked)
        features.append(heard.features.numpy())
        probabilities.append(heard.probabilities.numpy())
    count = sum(map(len, features))
    if count != len(labels) or not count:
        raise SoundsError(f"labels must name one label per waveform, {count}, got {len(labels)}")
    return Embedding(np.concatenate(features), np.concatenate(probabilities), tuple(labels))


def embed_sounds(sounds: Sequence[Sound], judge: Judge) -> Embedding:
    """:func:`embed` of files, read one at a time."""
    waveforms = (read_sound(sound.path, judge.sample_rate) for sound in sounds)
    return embed(waveforms, [sound.label for sound in sounds], judge)


def _locate(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / "audio" / name):
        if path.is_file():
            return path
    raise SoundsError(f"{name} is listed but lies neither in {folder} nor in {folder / 'audio'}")


def _rows(manifest: Path) -> Iterator[tuple[str, str, int | None]]:
    """(file, label, fold) of each line of a manifest."""
    try:
        text = manifest.read_text(encoding="utf-8-sig")
        if manifest.suffix == ".json":
            table = json.loads(text)
            if not isinstance(table, dict) or not all(isinstance(label, str) for label in table.values()):
                raise SoundsError(f"{manifest} must be an object that maps each file to its label")
            yield from ((name, label, None) for name, label in table.items())
            return
        for number, row in enumerate(csv.DictReader(text.splitlines()), start=2):
            name, label = row.get("file") or row.get("filename"), row.get("label") or row.get("category")
            if not (name and label):
                raise SoundsError(f"{manifest} line {number} must have a file and a label")
            try:
                fold = int(row["fold"]) if row.get("fold") else None
            except ValueError:
                raise SoundsError(
                    f"{manifest} line {number} must have a whole number as fold, got {row['fold']!r}"
                ) from None
            yield name, label, fold
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise SoundsError(f"{manifest} can't be read as a manifest: {error}") from None
