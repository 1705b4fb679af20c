"""Sounds that are larger than they look, damaged, or no sounds: as uploads, in a study, and for ``prepare``."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import soundfile
from factory import tiny_checkpoint, tiny_config

from dear import AudioDEAR
from dear.audio import read_sound
from dear.listening.study import anonymous_copy, read_study
from dear.ui.tabs.edit import MAX_SECONDS
from training.data.manifest import Entry
from training.data.probe import probe
from training.store.segments import load_segment

FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "u8.wav": ("WAV", "PCM_U8"),
    "float.wav": ("WAV", "FLOAT"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "aiff": ("AIFF", "PCM_16"),
}
# (rate, channels, seconds)
SMALL = [(384_000, 8, 59.9), (384_000, 4, 59.9), (655_350, 1, 59.9), (192_000, 8, 59.9), (44_100, 2, 3600.0)]
LARGE = [
    *((rate, channels, 59.9) for rate in (1, 999, 1000, 15_999, 96_001, 383_999) for channels in (1, 2)),
    *((8000, channels, 59.9) for channels in (64, 65, 255, 1024)),
    (2**31 - 1, 1, 0.001), (48_000, 2, 0.0), (16_000, 1, 1 / 16_000), (1000, 1, 7200.0),
]  # fmt: skip


def cases(large: bool) -> Iterator[tuple[str, Callable[[], object]]]:
    folder = Path(tempfile.mkdtemp())
    model = AudioDEAR.from_pretrained(tiny_checkpoint(folder / "tiny", tiny_config()), device="cpu")
    model.redraw(np.zeros(16_000, np.float32), 16_000, 0.1, 0.2, "rain", seed=0)  # what is imported late is no cost

    def upload(path: Path) -> None:
        sound = read_sound(path, model.sample_rate, MAX_SECONDS, path.name)
        assert sound.ndim == 1 and len(sound) <= MAX_SECONDS * model.sample_rate + 1
        end = min(0.2, len(sound) / model.sample_rate)
        out = model.redraw(sound, model.sample_rate, 0, end, "rain", seed=0)
        assert out.sound.isfinite().all() and model.log_mel(sound, model.sample_rate).isfinite().all()

    def study(path: Path) -> None:
        with tempfile.TemporaryDirectory() as place:
            (Path(place) / "ours").mkdir()
            os.symlink(path, Path(place) / "ours" / f"a{path.suffix}")
            (Path(place) / "prompts.csv").write_text(f"file,prompt\na{path.suffix},rain\n")
            for clip in read_study(place):
                anonymous_copy(clip, Path(place))

    def prepare(path: Path) -> None:
        found = probe(str(path))
        if "reason" in found:
            raise ValueError(f"left out: {found['reason']}")
        entry = Entry("x", path, "test", duration=found["frames"] / found["sample_rate"])
        assert load_segment(entry, 16_000, 160_000, 0, 0).shape == (160_000,)

    doors = {"upload": upload, "study": study, "prepare": prepare}
    for name, make in _files(large):
        path = folder / name
        if make(path):
            for door, use in doors.items():
                yield f"{door}: {name}", lambda use=use, path=path: use(path)
        path.unlink(missing_ok=True)


def _files(large: bool) -> Iterator[tuple[str, Callable[[Path], bool]]]:
    """Names of files, and what writes them; it returns False where libsndfile can't write such a file."""
    formats = FORMATS if large else {kind: FORMATS[kind] for kind in ("flac", "ogg")}
    for suffix, (kind, subtype) in formats.items():
        for rate, channels, seconds in SMALL + (LARGE if large else []):
            if kind in ("WAV", "AIFF") and rate * channels * seconds > 50e6:
                continue  # as large on disk as in memory
            name = f"{rate}x{channels}x{seconds:g}.{suffix}"
            yield name, lambda path, args=(rate, channels, seconds, kind, subtype): _written(path, *args)
    whole = tempfile.mkdtemp()
    rng = np.random.default_rng(0)
    for suffix, (kind, subtype) in FORMATS.items():
        path = Path(whole, f"a.{suffix}")
        soundfile.write(path, 0.1 * rng.standard_normal((16_000, 2)), 16_000, subtype, format=kind)
        data = path.read_bytes()
        for number in range(200 if large else 3):
            broken = bytearray(data)
            for at in rng.integers(min(len(data), 120), size=3):  # in the header
                broken[at] = rng.integers(256)
            yield f"header-{number}.{suffix}", lambda path, data=bytes(broken): bool(path.write_bytes(data))
            cut = data[: rng.integers(len(data))]
            yield f"cut-{number}.{suffix}", lambda path, data=cut: path.write_bytes(data) >= 0
        yield f"text.{suffix}", lambda path: bool(path.write_text("no sound\n" * 100))
        yield f"empty.{suffix}", lambda path: path.touch() is None
        yield f"pipe.{suffix}", lambda path: os.mkfifo(path) is None


def _written(*arguments: object) -> bool:
    """Call :func:`_silence` in a process of its own: libsndfile crashes on some rates and channels of Vorbis."""
    process = multiprocessing.get_context("fork").Process(target=_silence, args=arguments)
    process.start()
    process.join()
    return process.exitcode == 0


def _silence(path: Path, rate: int, channels: int, seconds: float, kind: str, subtype: str) -> None:
    left = round(rate * seconds)
    # libsndfile crashes where it writes more frames of Vorbis at once
    block = np.zeros((min(left, 2**12), channels), np.int16)
    block[:1] = 1000
    with soundfile.SoundFile(path, "w", rate, channels, subtype, format=kind) as file:
        while left > 0:
            file.write(block[:left])
            left -= len(block)
