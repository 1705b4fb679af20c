"""Captioned clips of a test set: one caption each, a sound for each, in files named by clip.

A manifest has one JSON object a line, as ``python -m training.prepare`` writes them. Read are ``id``, ``captions`` (one
or several), and of the recording ``path`` (absolute, or relative to the manifest), ``start`` and ``duration`` in
seconds.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from dear.evaluation.judge.features import SUFFIXES, SoundsError
from dear.files import read_json, write_json

if TYPE_CHECKING:
    from dear.pipeline import AudioDEAR

RECORD = "generation.json"  # beside the sounds: what they were made by


@dataclass(frozen=True)
class Recording:
    """A part of a sound file."""

    path: Path
    start: float = 0.0  # seconds
    duration: float | None = None  # seconds; None: to the end


@dataclass(frozen=True)
class Clip:
    """One caption of a test set, and the recording that it was written for."""

    name: str  # of its sound's file, without suffix
    caption: str
    recording: Recording | None


def read_clips(manifest: str | Path, seed: int = 0) -> list[Clip]:
    """The clips of a manifest in its order, each with one of its captions, drawn by ``seed`` and the id of the clip.

    Raises :class:`SoundsError`, which names the line.
    """
    path = Path(manifest)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SoundsError(f"cannot read the manifest {path}: {error}") from None
    clips, names = [], set()
    for number, line in enumerate(lines, start=1):
        try:
            clip = _clip(json.loads(line), path.absolute().parent, seed)
        except (TypeError, KeyError, ValueError) as error:
            detail = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise SoundsError(f"{path}, line {number}: {detail}") from None
        if clip.name in names:
            raise SoundsError(f"{path}, line {number}: the file name {clip.name!r} is that of another clip already")
        names.add(clip.name)
        clips.append(clip)
    if not clips:
        raise SoundsError(f"{path} lists no clip")
    return clips


def _clip(data: Any, folder: Path, seed: int) -> Clip:
    name, captions = data["id"], data["captions"]
    captions = [captions] if isinstance(captions, str) else captions
    if not (isinstance(name, str) and name):
        raise TypeError(f"id must be text, got {name!r}")
    if not (isinstance(captions, list) and captions and all(isinstance(text, str) and text for text in captions)):
        raise TypeError(f"captions must be a text or a list of texts, got {captions!r}")
    generator = np.random.default_rng([seed, *hashlib.sha256(name.encode()).digest()[:8]])
    caption = captions[generator.integers(len(captions))]
    recording = None
    if data.get("path"):
        duration = data.get("duration")
        recording = Recording(
            folder / data["path"], float(data.get("start") or 0), None if duration is None else float(duration)
        )
    return Clip(re.sub(r"[^\w.-]", "_", name), caption, recording)


def share(count: int, worker: tuple[int, int]) -> range:
    """The positions among ``count`` clips of worker ``i`` of ``n``: consecutive ones, as equal in number as can be."""
    index, workers = worker
    return range(index * count // workers, (index + 1) * count // workers)


def generate_clips(
    pipeline: AudioDEAR,
    clips: Sequence[Clip],
    folder: Path,
    seed: int = 0,
    batch: int = 8,
    worker: tuple[int, int] = (0, 1),
    **options: Any,
) -> None:
    """Write ``NAME.wav`` into ``folder`` for each missing clip of the worker's share.

    Clip i of all clips has the seed ``seed + i``, whatever the batch and the number of workers. options: those of
    ``AudioDEAR.generate``. Raises :class:`SoundsError` if ``folder`` holds sounds of another model or of other
    settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _check_record(folder / RECORD, made_by(pipeline, clips, seed, options))
    absent = [index for index in share(len(clips), worker) if not (folder / f"{clips[index].name}.wav").is_file()]
    with tqdm(total=len(absent), desc="generating", unit="sound", disable=None) as bar:
        for _, run in groupby(enumerate(absent), lambda pair: pair[1] - pair[0]):  # consecutive seeds
            indices = [index for _, index in run]
            sounds = pipeline.generate_many(
                [clips[index].caption for index in indices], batch=batch, seed=seed + indices[0], **options
            )
            position = iter(indices)
            for out in sounds:
                for item in out:
                    item.save(folder / f"{clips[next(position)].name}.wav")
                    bar.update()


def made_by(pipeline: AudioDEAR, clips: Sequence[Clip], seed: int, options: dict[str, Any]) -> dict[str, Any]:
    """The values that determine the sounds of ``clips``, as plain data."""
    given = {name: value for name, value in options.items() if value is not None}
    captions = json.dumps([[clip.name, clip.caption] for clip in clips])
    return {
        "name": pipeline.config.name,
        "variant": pipeline.variant,
        "digest": pipeline.digest,
        "options": json.loads(json.dumps(asdict(pipeline.sampling) | given)),
        "seed": seed,
        "candidates": 1,
        "clips": len(clips),
        "captions": hashlib.sha256(captions.encode()).hexdigest()[:12],
    }


def _check_record(path: Path, record: dict[str, Any]) -> None:
    if not path.is_file():
        write_json(path, record)
        return
    found = read_json(path)
    for name, value in record.items():
        if found.get(name) != value:
            raise SoundsError(
                f"{path.parent} holds sounds of {name} {found.get(name)!r}, got {value!r}: choose another folder"
            )


def find_clips(clips: Sequence[Clip], folder: Path) -> list[Recording]:
    """The sound of each clip in ``folder``, by name. Raises :class:`SoundsError` naming one that is absent."""
    if not folder.is_dir():
        raise SoundsError(f"{folder} is not a folder of sounds")
    files = {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES}
    absent = [clip.name for clip in clips if clip.name not in files]
    if absent:
        raise SoundsError(f"{folder} must hold a sound for each clip, got none for {len(absent)}, such as {absent[0]}")
    return [Recording(files[clip.name]) for clip in clips]
