"""The result of a generation, and how to write it to files."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from dear.audio import open_sound
from dear.files import errors_naming, replace, resolve_links
from dear.vocabulary import Nearest

# By suffix: libsndfile's names of a format and of its samples. MP3 and Ogg Vorbis are lossy.
FORMATS = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
    ".ogg": ("OGG", "VORBIS"),
}
MAX_NAME = 255  # bytes of a file's name, on the usual file systems
MAX_HEADER = 2**16  # bytes before the samples of a WAV that are searched for its title


def check_paths(path: str | os.PathLike[str], count: int = 1) -> list[Path]:
    """The paths for ``count`` sounds: ``path``, or ``stem-1``, ``stem-2``, ... in the same folder.

    Raises ValueError for an unknown suffix, a missing directory, a name that is too long for the file system, or a path
    that is not a regular file.
    """
    if not isinstance(path, str | os.PathLike) or not isinstance(os.fspath(path), str) or "\0" in str(path):
        raise ValueError(f"path must be a file name, got {path!r}")
    first = Path(path)
    if first.suffix.lower() not in FORMATS:
        raise ValueError(f"path must end in {', '.join(FORMATS)}, got {str(path)!r}")
    names = [first.name] if count == 1 else [f"{first.stem}-{i + 1}{first.suffix}" for i in range(count)]
    longest = max(len(os.fsencode(name)) for name in names)
    if longest > MAX_NAME:
        raise ValueError(f"path must have a name of at most {MAX_NAME} bytes, got {longest} for {names[-1]!r:.80}")
    try:
        if not first.parent.is_dir():
            raise ValueError(f"path must lie in an existing directory, got {str(path)!r}: there is no {first.parent}")
        paths = [first.with_name(name) for name in names]
        for each in map(resolve_links, paths):
            if each.is_dir():
                raise ValueError(f"path must be a file, got the directory {str(each)!r}")
            if each.exists() and not each.is_file():
                raise ValueError(f"path must be a file, got {str(each)!r}, which is a device or a pipe")
            if not each.parent.is_dir():
                raise ValueError(f"path must lead to an existing directory, got {str(path)!r}: a link to {each}")
    except OSError as error:
        raise ValueError(
            f"path must be a file name that can be used, got {str(path)!r:.80}: {error.strerror}"
        ) from None
    return paths


def read_title(path: Path) -> str:
    """The title of a sound file, which is the prompt in a file of :meth:`Output.save`, or an empty string.

    libsndfile skips texts of more than 2,045 bytes in a WAV, so these are read here. Raises AudioError.
    """
    with open_sound(path) as sound:
        title: str = sound.title
    return title or _wav_title(path)


def _wav_title(path: Path) -> str:
    """The field INAM of the LIST chunk before the samples of a WAV, or an empty string."""
    with open(path, "rb") as file:
        data = file.read(MAX_HEADER)
    if data[:4] != b"RIFF" or data[8:16] != b"WAVEfmt ":
        return ""
    at, end = 12, len(data)
    while at + 8 <= end and data[at : at + 4] != b"data":
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        if name == b"INAM":
            return data[at + 8 : at + 8 + size].split(b"\0")[0].decode("utf-8", "replace")
        at += 12 if name == b"LIST" and data[at + 8 : at + 12] == b"INFO" else 8 + size + size % 2
    return ""


@dataclass(frozen=True, eq=False)
class Output:
    """Sounds of one call, with all tensors on the CPU. Item i was drawn with ``seeds[i]`` for ``prompts[i]``.

    A partial output, from :meth:`AudioDEAR.stream`, has no waveform yet and holds the mel's floor where no token is
    known. ``out[i]`` is an output with only item i, so an output can be iterated over.
    """

    waveform: Tensor | None  # [B, S] float32 in [-1, 1]
    sample_rate: int  # Hz
    mel: Tensor  # [B, F, M] natural-log mel
    tokens: Tensor  # [B, L, D]; zeros where not known
    latents: Tensor  # [B, Z, F', M'], the tokens as a picture
    order: Tensor  # [B, L] iteration, from 0, that drew each token; -1: given, or not drawn yet
    iteration: int  # iterations done
    iterations: int  # of how many
    seed: int  # that of item 0; the others follow it one by one, except for candidates that were chosen
    seeds: list[int]
    prompts: list[str]
    settings: dict[str, Any]  # what determines the sound, besides prompts and seeds
    timings: dict[str, float] = field(default_factory=dict)  # seconds: text, decode, codec, vocoder, total
    # What training knew of each prompt. Empty in a partial output, and where the checkpoint has no vocabulary.
    nearest: list[Nearest] = field(default_factory=list)

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def __iter__(self) -> Iterator[Output]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Output:
        """An output with only item ``index``. Raises IndexError beyond the last."""
        seed = self.seeds[index]
        item = slice(index, index + 1 or None)
        return dataclasses.replace(
            self,
            waveform=None if self.waveform is None else self.waveform[item],
            mel=self.mel[item],
            tokens=self.tokens[item],
            latents=self.latents[item],
            order=self.order[item],
            seed=seed,
            seeds=[seed],
            prompts=[self.prompts[index]],
            nearest=self.nearest[item],
        )

    @property
    def sound(self) -> Tensor:
        """``waveform`` [B, S]. Raises ValueError for a partial output, which has none."""
        if self.waveform is None:
            raise ValueError(f"there is no sound yet after {self.iteration} of {self.iterations} iterations")
        return self.waveform

    def save(self, path: str | os.PathLike[str], *, float_samples: bool = False) -> list[Path]:
        """Write the sounds as 16-bit WAV or FLAC, MP3 or Ogg Vorbis, by the suffix.

        Several sounds become ``stem-1``, ``stem-2``, ...

        float_samples: write 32-bit floating samples, for WAV only.
        Each file holds its settings. Its title (INAM in a WAV's LIST chunk, TITLE of a FLAC's Vorbis comments) is the
        prompt, and its comment (ICMT, COMMENT) is a JSON object of the seed and ``settings``. Programs that use
        libsndfile cannot read a WAV's title of more than 2,045 bytes; :func:`read_title` can. The same sound gives the
        same bytes, except for Ogg files, which have a random serial number.

        Returns the paths. Each file is written beside its target and then moved, so no partial file appears. A link is
        followed, and a replaced file keeps its permissions.

        Raises ValueError as :func:`check_paths` does, and for a partial output.
        """
        import soundfile

        paths = check_paths(path, len(self))
        if self.waveform is None:
            raise ValueError(
                f"save needs a finished output, got one after {self.iteration} of {self.iterations} iterations"
            )
        kind, samples = FORMATS[Path(path).suffix.lower()]
        if float_samples and kind != "WAV":
            raise ValueError(f"path must end in .wav for floating samples, got {str(path)!r}")
        targets = [resolve_links(each) for each in paths]
        work = [target.with_name(f".{secrets.token_hex(8)}.tmp") for target in targets]
        try:
            for name, target, item in zip(work, targets, self, strict=True):
                file = io.BytesIO()  # of a full disk libsndfile says nothing that helps
                subtype = "FLOAT" if float_samples else samples
                with soundfile.SoundFile(file, "w", self.sample_rate, 1, subtype, format=kind) as sound:
                    # The comment first: libsndfile reads nothing after a text of more than 2,045 bytes.
                    sound.comment = json.dumps({"seed": item.seed} | self.settings)
                    sound.title = item.prompts[0]
                    sound.write(item.sound[0].numpy())
                with errors_naming(target):
                    name.write_bytes(_without_time(file.getvalue()) if float_samples else file.getvalue())
            for name, target in zip(work, targets, strict=True):
                replace(name, target)
        finally:
            for name in work:
                name.unlink(missing_ok=True)
        return paths


def _without_time(wav: bytes) -> bytes:
    """A floating WAV whose PEAK chunk has no time stamp: libsndfile writes the current time there."""
    at = wav.find(b"PEAK", 0, wav.find(b"data"))
    return wav if at < 0 else wav[: at + 12] + bytes(4) + wav[at + 16 :]
