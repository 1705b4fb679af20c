"""Folders of labelled recordings -> the clips of the vocabulary's sounds."""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dear.audio import AudioError, read_sound
from dear.files import read_text
from training.data.vocabulary import LABELS

MAX_TABLE = 2**28  # bytes of a table


class DataError(ValueError):
    """A folder of clips, a table or a recording that can't be used."""


@dataclass(frozen=True)
class Clip:
    """One labelled recording and its credit."""

    path: Path
    fold: int
    label: str  # in the table of its folder
    title: str
    source: str  # where it came from
    author: str
    license: str
    held_out: bool = False  # whether its fold is for measurement only

    @property
    def sound(self) -> str:
        """The name of its sound in the vocabulary. Raises :class:`DataError` where no sound has the label."""
        if self.label not in LABELS:
            raise DataError(f"{self.path}: label must be one of a sound of the vocabulary, got {self.label!r}")
        return LABELS[self.label].name


def read_clips(folders: Iterable[str | Path], held_out: Mapping[str, int]) -> list[Clip]:
    """The clips of folders with ``clips.csv`` or with ESC-50's own ``meta/esc50.csv``, sound files under ``audio``.

    held_out: {name of a folder: its fold for measurement only}. Clips whose label no sound of
    the vocabulary has, and those that a sound drops, are left out. Raises :class:`DataError` naming a missing folder,
    table, column or sound file, a fold that is not a number, and a folder whose held-out fold isn't stated.
    """
    clips: list[Clip] = []
    names: set[str] = set()
    for folder in map(Path, folders):
        name = os.path.basename(os.path.abspath(folder))
        if not folder.is_dir():
            raise DataError(f"clips must be a folder, got {str(folder)!r}, which does not exist")
        if name not in held_out:
            stated = ", ".join(held_out) or "none"
            raise DataError(f"held_out must state the held-out fold of the folder {name!r}, got it for {stated}")
        if name in names:
            raise DataError(f"clips must be folders of different names, got {name!r} twice")
        names.add(name)
        clips += _read(folder, held_out[name])
    return clips


def _read(folder: Path, held_out: int) -> list[Clip]:
    own, esc50 = folder / "clips.csv", folder / "meta" / "esc50.csv"
    if own.is_file():
        table, rows = own, _rows(own, _COLUMNS)
    elif esc50.is_file():
        table, rows = esc50, [_from_esc50(row) for row in _rows(esc50, _ESC50_COLUMNS)]
    else:
        raise DataError(f"{folder} must hold clips.csv or meta/esc50.csv, found neither")
    clips = []
    for row in rows:
        label, fold = row["label"], _fold(row, table)
        if label in LABELS and row["file"] not in LABELS[label].drop:
            about = row["title"], row["source"], row["author"], row["license"]
            clips.append(Clip(folder / "audio" / row["file"], fold, label, *about, held_out=fold == held_out))
    if not clips:
        raise DataError(f"{table} lists no clip of a sound of the vocabulary")
    for clip in clips:
        if not clip.path.is_file():
            raise DataError(f"{clip.path} is listed in the table of {folder} but does not exist")
    return clips


_COLUMNS = ("file", "fold", "label", "title", "source", "author", "license")
_ESC50_COLUMNS = ("filename", "fold", "category", "esc10", "src_file")


def _from_esc50(row: Mapping[str, str]) -> dict[str, str]:
    """A row of ESC-50's table -> one of ``clips.csv``."""
    return {
        "file": row["filename"],
        "fold": row["fold"],
        "label": row["category"],
        "title": row["filename"],
        "source": f"https://freesound.org/s/{row['src_file']}/",
        "author": "",
        "license": "CC-BY" if row["esc10"] == "True" else "CC-BY-NC",
    }


def _rows(table: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    try:
        text = read_text(table, MAX_TABLE)
    except OSError as error:
        raise DataError(f"cannot read the table {table}: {error.strerror}") from None
    except ValueError as error:
        raise DataError(str(error)) from None
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        absent = [name for name in columns if name not in (reader.fieldnames or ())]
        if absent:
            raise DataError(f"{table} must have the columns {', '.join(columns)}; {', '.join(absent)} missing")
        rows = list(reader)
    except csv.Error as error:
        raise DataError(f"{table}, line {reader.line_num}: {error}") from None
    for line, row in enumerate(rows, start=2):
        if any(row[name] is None for name in columns):
            raise DataError(f"{table}: row {line} has too few columns")
    return rows


def _fold(row: dict[str, str], table: Path) -> int:
    try:
        return int(row["fold"])
    except ValueError:
        raise DataError(f"{table}: fold must be a whole number, got {row['fold']!r}") from None


def load_waveform(clip: Clip, sample_rate: int) -> np.ndarray:
    """The recording as mono float32 [S] at ``sample_rate`` Hz. Raises :class:`DataError` naming a broken file."""
    try:
        return read_sound(clip.path, sample_rate)
    except AudioError as error:
        raise DataError(str(error)) from None


def clips_digest(clips: Sequence[Clip]) -> str:
    """First 12 hex digits of a sha256 over the labels, folds and bytes of recordings."""
    digest = hashlib.sha256()
    for clip in clips:
        digest.update(f"{clip.path.name} {clip.fold} {clip.label}\n".encode())
        digest.update(clip.path.read_bytes())
    return digest.hexdigest()[:12]
