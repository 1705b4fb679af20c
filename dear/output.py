"""The result of a generation, and how to write it to files."""

from __future__ import annotations

import io
import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from dear.vocabulary import Nearest

# By suffix: libsndfile's names of a format and of its samples. MP3 and Ogg Vorbis are lossy.
FORMATS = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
    ".ogg": ("OGG", "VORBIS"),
}


def check_path(path: str | Path) -> Path:
    """``path`` of a sound to write. Raises ValueError for an unknown suffix, a missing directory or a directory."""
    if not isinstance(path, str | Path):
        raise ValueError(f"path must be a file name, got {path!r}")
    checked = Path(path)
    if checked.suffix.lower() not in FORMATS:
        raise ValueError(f"path must end in {', '.join(FORMATS)}, got {str(path)!r}")
    if not checked.parent.is_dir():
        raise ValueError(f"path must lie in an existing directory, got {str(path)!r}: there is no {checked.parent}")
    if checked.is_dir():
        raise ValueError(f"path must be a file, got the directory {str(path)!r}")
    return checked


@dataclass(frozen=True, eq=False)
class Output:
    """Sounds of one call, all tensors on the CPU. Item i was drawn with ``seeds[i]`` for ``prompts[i]``.

    A partial one, from :meth:`AudioDEAR.stream`, has no waveform yet and holds the mel's floor where no token is known.
    ``out[i]`` is item i alone, and so an output can be iterated over.
    """

    waveform: Tensor | None  # [B, S] float32 in [-1, 1]
    sample_rate: int  # Hz
    mel: Tensor  # [B, F, M] natural-log mel
    tokens: Tensor  # [B, L, D]; zeros where not known
    latents: Tensor  # [B, Z, F', M'], the tokens as a picture
    order: Tensor  # [B, L] iteration, from 0, that drew each token; -1: given, or not drawn yet
    iteration: int  # iterations done
    iterations: int  # of how many
    seed: int  # that of item 0; the others follow it one by one
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
        """Item ``index`` alone. Raises IndexError beyond the last."""
        seed = self.seeds[index]
        item = slice(index, index + 1 or None)
        return replace(
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

    def save(self, path: str | Path, *, float_samples: bool = False) -> list[Path]:
        """Write the sounds as 16-bit WAV or FLAC, MP3 or Ogg Vorbis, by the suffix.

        Several become ``stem-1``, ``stem-2``, ... float_samples: 32-bit floating samples, of a WAV alone.
        Each file holds its settings: its title (INAM in a WAV's LIST chunk, TITLE of a FLAC's Vorbis comments)
        is the prompt, its comment (ICMT, COMMENT) a JSON object of the seed and ``settings``. The same sound gives the
        same bytes, but for Ogg files, which have a random serial number.
        Returns the paths. Each file is written beside its target and then moved, so none is ever half there.
        Raises ValueError for an unknown suffix, a missing directory, or a partial output.
        """
        import soundfile

        path = check_path(path)
        if self.waveform is None:
            raise ValueError(
                f"save needs a finished output, got one after {self.iteration} of {self.iterations} iterations"
            )
        kind, samples = FORMATS[path.suffix.lower()]
        if float_samples and kind != "WAV":
            raise ValueError(f"path must end in .wav for floating samples, got {str(path)!r}")
        count = len(self)
        names = [path.name] if count == 1 else [f"{path.stem}-{i + 1}{path.suffix}" for i in range(count)]
        targets = [check_path(path.with_name(name)) for name in names]
        work = [target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp") for target in targets]
        try:
            for name, item in zip(work, self, strict=True):
                file = io.BytesIO()  # of a full disk libsndfile says nothing that helps
                subtype = "FLOAT" if float_samples else samples
                with soundfile.SoundFile(file, "w", self.sample_rate, 1, subtype, format=kind) as sound:
                    # The comment first: libsndfile reads nothing after a text of more than 2047 bytes.
                    sound.comment = json.dumps({"seed": item.seed} | self.settings)
                    sound.title = item.prompts[0]
                    sound.write(item.sound[0].numpy())
                name.write_bytes(_without_time(file.getvalue()) if float_samples else file.getvalue())
            for name, target in zip(work, targets, strict=True):
                os.replace(name, target)
        finally:
            for name in work:
                name.unlink(missing_ok=True)
        return targets


def _without_time(wav: bytes) -> bytes:
    """A floating WAV whose PEAK chunk has no time stamp: libsndfile writes the current time there."""
    at = wav.find(b"PEAK", 0, wav.find(b"data"))
    return wav if at < 0 else wav[: at + 12] + bytes(4) + wav[at + 16 :]
