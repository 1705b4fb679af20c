"""A listening study on disk: one folder of sounds per system, with shared file names, and the prompts.

    study/
      prompts.csv          file,prompt
      ours/0001.wav        the file name is the clip's id
      theirs/0001.wav

Without ``prompts.csv``, each prompt is read from the sounds' own metadata: the field ``title``.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import secrets
import wave
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from dear.audio import AudioError, blocks, duration, open_sound
from dear.files import read_text, sha256, write_atomically
from dear.output import read_title

SUFFIXES = (".wav", ".flac")
PROMPTS = "prompts.csv"
MAX_TABLE = 2**24  # bytes of the table of prompts
LONGEST = 600.0  # seconds of one clip


class StudyError(ValueError):
    """A folder that is not a complete study."""


@dataclass(frozen=True)
class Clip:
    """One sound of one system."""

    system: str  # its folder's name
    name: str  # its file's name, the same for all systems
    prompt: str
    path: Path
    seconds: float
    digest: str  # sha256 of the file, in hex


def read_study(folder: str | Path) -> list[Clip]:
    """The clips of a study, by system and name.

    Raises :class:`StudyError` where a system lacks a sound that others have or that ``prompts.csv`` lists, where a
    file is no sound, and where a prompt is missing or not the same for all systems.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise StudyError(f"study must be a folder, got {str(folder)!r}")
    systems = {
        each.name: {file.name: file for file in sorted(each.iterdir()) if _is_sound(file)}
        for each in sorted(folder.iterdir())
        if each.is_dir() and not each.name.startswith((".", "_"))
    }
    if not systems:
        raise StudyError(f"study {folder} must hold one folder of sounds per system, it has no folder at all")
    prompts = _read_prompts(folder / PROMPTS) if (folder / PROMPTS).exists() else None
    names = sorted(set().union(prompts or (), *systems.values()))
    if not names:
        raise StudyError(f"study {folder} must hold sounds ({', '.join(SUFFIXES)}), its folders have none")
    for system, files in systems.items():
        if missing := [name for name in names if name not in files]:
            raise StudyError(f"study {folder}: system {system!r} lacks {_listed(missing)}")
    if prompts is None:
        prompts = {name: _prompt_inside([files[name] for files in systems.values()]) for name in names}
    if missing := [name for name in names if name not in prompts]:
        raise StudyError(f"{folder / PROMPTS} lacks the prompt of {_listed(missing)}")
    return [_clip(system, prompts[name], files[name]) for system, files in systems.items() for name in names]


def order_for(rater: str, clips: Iterable[Clip]) -> list[Clip]:
    """The clips in a random order that is fixed for each rater and differs between raters.

    Clips are sorted by a hash of rater and clip, so those added to a study later don't change the order of the others.
    """
    return sorted(clips, key=lambda clip: hashlib.sha256("\0".join((rater, clip.system, clip.name)).encode()).digest())


def anonymous_copy(clip: Clip, folder: Path) -> Path:
    """A 16-bit WAV of the clip below ``folder`` whose path, name and metadata do not identify the system."""
    # Not the digest itself, which anyone with the systems' files could look up.
    path = folder / hashlib.sha256(f"{_SALT}{clip.system}\0{clip.name}".encode()).hexdigest()[:32] / "clip.wav"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        work = path.with_name(secrets.token_hex(4))  # another visitor may copy it at the same moment
        write_atomically(work, lambda file: _copy(clip.path, file))
        os.replace(work, path)
    return path


def _copy(source: Path, target: BinaryIO) -> None:
    with open_sound(source) as file, wave.open(target, "wb") as copy:
        copy.setparams((file.channels, 2, file.samplerate, file.frames, "NONE", ""))
        for block in blocks(file, file.frames, "float64"):
            # 16-bit samples are copied exactly, unlike floats.
            copy.writeframes(np.clip(np.rint(block * 32768), -32768, 32767).astype("<i2").tobytes())


_SALT = secrets.token_hex(16)


def _is_sound(file: Path) -> bool:
    return file.suffix.lower() in SUFFIXES and not file.name.startswith(".")


def _read_prompts(path: Path) -> dict[str, str]:
    try:
        rows = list(csv.DictReader(io.StringIO(read_text(path, MAX_TABLE), newline=""), strict=True))
    except OSError as error:
        raise StudyError(f"{path} can't be read as a table: {error.strerror}") from None
    except (ValueError, csv.Error) as error:
        raise StudyError(f"{path} can't be read as a table: {error}") from None
    prompts: dict[str, str] = {}
    for line, row in enumerate(rows, 2):
        name, prompt = ((row.get(column) or "").strip() for column in ("file", "prompt"))
        if not (name and prompt):
            raise StudyError(f"{path} must have the columns file and prompt, filled in: see row {line}")
        if name in prompts:
            raise StudyError(f"{path} must list each file once, {name!r} comes again in row {line}")
        prompts[name] = prompt
    return prompts


def _prompt_inside(files: Sequence[Path]) -> str:
    """The prompt that the sounds of one clip carry in their metadata."""
    prompts: dict[str, Path] = {}
    for path in files:
        try:
            if title := read_title(path).strip():
                prompts.setdefault(title, path)
        except AudioError as error:
            raise StudyError(str(error)) from None
    if not prompts:
        raise StudyError(f"{files[0].name} has no prompt: add {PROMPTS} to {files[0].parent.parent}")
    if len(prompts) > 1:
        (one, first), (other, second), *_ = prompts.items()
        raise StudyError(f"{first} and {second} must have the same prompt, got {one!r} and {other!r}")
    return next(iter(prompts))


def _clip(system: str, prompt: str, path: Path) -> Clip:
    try:
        with open_sound(path) as sound:
            seconds = sound.frames / sound.samplerate
        digest = sha256(path)
    except (OSError, AudioError) as error:
        raise StudyError(str(error)) from None
    if not 0 < seconds <= LONGEST:
        raise StudyError(f"{path} must hold a sound of up to {duration(LONGEST)}, got {duration(seconds)}")
    return Clip(system, path.name, prompt, path, seconds, digest)


def _listed(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
