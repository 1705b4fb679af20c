"""Manifests, the common list of sounds of all datasets: JSON lines, one sound per line.

Each line is an object with exactly these fields:

- ``id``: text, unique in the manifest
- ``path``: of the sound file, absolute or relative to the folder of the manifest, with forward slashes
- ``start``, ``duration``: seconds; which part of the file is meant
- ``captions``: what people wrote about the sound, one text or several, each of 1 to 1,000 characters; null where
  nobody did
- ``dataset``: name of the dataset, as ``python -m training.prepare`` knows it
- ``source``: which recording it was cut from, as ``youtube:ID``, ``freesound:ID``, ``bbc:ID`` or ``soundbible:ID``, the
  same in every dataset that holds a part of it; null where unknown
- ``labels``: classes of the dataset, may be empty
- ``licence``, ``split``: text, null where unknown
- ``sample_rate`` in Hz, ``channels``: of the file
- ``digest``: of the decoded samples, which identifies the same sound under another name or in another lossless format
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from dear.conditioning import control_character
from dear.files import write_atomically

MAX_CAPTION = 1000  # characters, as a prompt


class ManifestError(ValueError):
    """A manifest that can't be read; says file and line."""


@dataclass(frozen=True)
class Entry:
    """One sound. Fields as in the module's docstring; the measured ones (from ``duration`` on) come from its file."""

    id: str
    path: Path  # absolute, once read
    dataset: str
    captions: tuple[str, ...] | None = None
    source: str | None = None
    labels: tuple[str, ...] = ()
    licence: str | None = None
    split: str | None = None
    start: float = 0.0
    duration: float = 0.0
    sample_rate: int = 0
    channels: int = 0
    digest: str = ""


def clean_caption(text: object) -> str | None:
    """A caption with single spaces; None where it can't serve as a prompt."""
    if not isinstance(text, str):
        return None
    text = " ".join(text.split())
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # lone surrogates, as scraped texts have them
        return None
    return text if 1 <= len(text) <= MAX_CAPTION and not control_character(text) else None


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _or_null(rule: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or rule(value)


def _list_of(rule: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(rule(item) for item in value)


_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "id": (_is_text, "text"),
    "path": (_is_text, "text"),
    "dataset": (_is_text, "text"),
    "captions": (
        _or_null(lambda value: value != [] and _list_of(lambda text: clean_caption(text) is not None)(value)),
        f"null or a list of texts of 1 to {MAX_CAPTION} characters",
    ),
    "source": (_or_null(_is_text), "null or text"),
    "labels": (_list_of(_is_text), "a list of texts"),
    "licence": (_or_null(_is_text), "null or text"),
    "split": (_or_null(_is_text), "null or text"),
    "start": (lambda value: _is_number(value) and value >= 0, "seconds of at least 0"),
    "duration": (lambda value: _is_number(value) and value > 0, "seconds above 0"),
    "sample_rate": (_is_count, "a whole number of Hz of at least 1"),
    "channels": (_is_count, "a whole number of at least 1"),
    "digest": (_is_text, "text"),
}


def _fault(data: Any) -> str:
    """The fault in the content of one line, or an empty string."""
    if not isinstance(data, dict):
        return f"a line must be an object, got {data!r}"
    for name in data:
        if name not in _RULES:
            return f"unknown field {name!r}; allowed are {', '.join(_RULES)}"
    for name, (rule, allowed) in _RULES.items():
        if name not in data:
            return f"{name} is missing"
        if not rule(data[name]):
            return f"{name} must be {allowed}, got {data[name]!r}"
    return ""


def read_manifest(path: str | Path) -> list[Entry]:
    """The entries of a manifest, with absolute paths; the sound files themselves are not looked at.

    Raises :class:`ManifestError` naming the file and the line of the first fault.
    """
    path = Path(path)
    folder = path.absolute().parent
    entries: list[Entry] = []
    lines: dict[str, int] = {}
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    data = json.loads(line)
                except ValueError as error:
                    raise ManifestError(f"{path}, line {number}: not valid JSON: {error}") from None
                if fault := _fault(data):
                    raise ManifestError(f"{path}, line {number}: {fault}")
                first = lines.setdefault(data["id"], number)
                if first != number:
                    raise ManifestError(f"{path}, line {number}: id {data['id']!r} is that of line {first} already")
                captions = data["captions"]
                data |= {
                    "path": folder / data["path"],
                    "captions": None if captions is None else tuple(captions),
                    "labels": tuple(data["labels"]),
                }
                entries.append(Entry(**data))
    except OSError as error:
        raise ManifestError(f"cannot read the manifest {path}: {error.strerror}") from None
    if not entries:
        raise ManifestError(f"{path} lists no sound")
    return entries


def composition(entries: Iterable[Entry]) -> dict[str, dict[str, Any]]:
    """By dataset: how many ``sounds``, how many of them ``captioned``, and how many under each of the ``licences``."""
    found: dict[str, dict[str, Any]] = {}
    for entry in entries:
        counts = found.setdefault(entry.dataset, {"sounds": 0, "captioned": 0, "licences": {}})
        counts["sounds"] += 1
        counts["captioned"] += entry.captions is not None
        licence = entry.licence or "unknown"
        counts["licences"][licence] = counts["licences"].get(licence, 0) + 1
    return found


def write_manifest(path: str | Path, entries: Iterable[Entry]) -> None:
    """Write a manifest atomically. Paths below its folder become relative, so that both can be moved together."""
    path = Path(path)
    folder = path.absolute().parent
    text = "".join(_line(entry, folder) for entry in entries)
    write_atomically(path, lambda file: file.write(text.encode()))


def _line(entry: Entry, folder: Path) -> str:
    place = entry.path.absolute()
    data = {field.name: getattr(entry, field.name) for field in fields(entry)}
    data["path"] = (place.relative_to(folder) if place.is_relative_to(folder) else place).as_posix()
    return json.dumps(data, ensure_ascii=False) + "\n"
