"""Helpers of the readers of datasets: finding sounds, reading tables, and captions.

A table that cannot be read raises :class:`DatasetError`, which names the file and the line.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dear.files import read_text
from training.data.captions import prompts
from training.data.manifest import Entry
from training.data.vocabulary import LABELS

SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3")
MAX_TABLE = 2**30  # bytes; WavCaps' tables have a quarter of that
WORDINGS = 5  # captions that a sound gets from its label


class DatasetError(ValueError):
    """A folder or table that is not what the dataset publishes."""


@dataclass(frozen=True)
class Skipped:
    """A sound that is left out of the manifest. The report beside the manifest has a line for it."""

    id: str
    path: str  # of its file, empty where there is none
    reason: str  # one word: missing, caption, blacklisted, excluded, duplicate, empty, broken, short, silent
    detail: str = ""


def find_sounds(folder: Path) -> dict[str, Path]:
    """Sound files below ``folder`` by name without suffix; of equal names the first in order of paths."""
    if not folder.is_dir():
        raise DatasetError(f"audio must be a folder, got {str(folder)!r}, which does not exist")
    found: dict[str, Path] = {}
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(place, name)
            if path.suffix.lower() in SUFFIXES:
                found.setdefault(path.stem, path)
    return found


def read_rows(table: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """(line, row) of a table with a header that has at least ``columns``."""
    rows = read_plain_rows(table)
    _, header = next(rows, (1, []))
    if absent := [name for name in columns if name not in header]:
        raise DatasetError(f"{table} must have the columns {', '.join(columns)}; {', '.join(absent)} missing")
    for line, row in rows:
        if row:
            if len(row) != len(header):
                raise DatasetError(f"{table}, line {line}: must have {len(header)} columns, got {len(row)}")
            yield line, dict(zip(header, row, strict=True))


def read_plain_rows(table: Path) -> Iterator[tuple[int, list[str]]]:
    """(line, cells) of a table without a header, or with its header as the first row."""
    reader = csv.reader(io.StringIO(_text(table), newline=""), skipinitialspace=True, strict=True)
    try:
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise DatasetError(f"{table}, line {reader.line_num}: {error}") from None


def read_json(path: Path) -> Any:
    """The value of a JSON file."""
    text = _text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path} is not valid JSON: {error}") from None


def _text(path: Path) -> str:
    try:
        return read_text(path, MAX_TABLE)
    except OSError as error:
        raise DatasetError(f"cannot read the table {path}: {error.strerror}") from None
    except ValueError as error:
        raise DatasetError(str(error)) from None


def with_captions(entry: Entry) -> Entry | Skipped:
    """The entry, or a :class:`Skipped` if none of its captions can be used."""
    if entry.captions:
        return entry
    return Skipped(
        entry.id, str(entry.path), "caption", "no caption of 1 to 1,000 characters without control characters"
    )


def label_captions(label: str, generator: np.random.Generator) -> tuple[str, ...]:
    """Captions of a class: some training wordings of its sound, or "the sound of ..." if the vocabulary lacks it."""
    if label not in LABELS:
        return (f"the sound of {label.replace('_', ' ')}",)
    wordings, _ = prompts(LABELS[label].name)
    chosen = generator.choice(len(wordings), min(WORDINGS, len(wordings)), replace=False)
    return tuple(wordings[index] for index in chosen)


def sound_generator(seed: int, name: str) -> np.random.Generator:
    """A generator for one sound, independent of other sounds."""
    return np.random.default_rng([seed, *hashlib.sha256(name.encode()).digest()[:8]])
