"""Short recordings with the table of their sounds."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import soundfile

from training.data.clips import Clip, read_clips

COLUMNS = ("file", "fold", "label", "title", "source", "author", "license")
RATE = 22050
TEN = (
    "dog", "rooster", "rain", "sea_waves", "crackling_fire", "crying_baby", "sneezing", "clock_tick", "helicopter",
    "chainsaw",
)  # fmt: skip


def sound(label: str, seed: int) -> np.ndarray:
    """Two seconds that behave like a class: short bursts in digital silence, regular ticks, or noise."""
    rng = np.random.default_rng(seed)
    time = np.arange(2 * RATE) / RATE
    if label == "clock_tick":
        return 0.3 * rng.standard_normal(2 * RATE) * (time % 0.25 < 0.01) + 1e-4 * rng.standard_normal(2 * RATE)
    if label in ("dog", "rooster", "crying_baby", "sneezing"):
        burst = (time > 0.5) & (time < 0.9)
        return 0.5 * np.sin(2 * np.pi * 440 * time) * burst
    return 0.2 * rng.standard_normal(2 * RATE)


def write_table(path: Path, rows: list[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def clip_of(folder: Path, label: str, file: str, title: str, author: str = "me", seed: int = 0) -> Clip:
    """One second of noise that fades, between silences, as a recording of its own."""
    audio = np.zeros(RATE * 3 // 2)
    audio[RATE // 4 : RATE // 4 + RATE] = np.random.default_rng(seed).standard_normal(RATE) * np.geomspace(
        0.3, 3e-3, RATE
    )
    soundfile.write(folder / file, audio, RATE, format="WAV")
    return Clip(folder / file, 1, label, title, f"source {file}", author, "CC0")


def ten_sounds(folder: Path) -> Path:
    """A folder of two recordings of each of ``TEN``, in folds 1 and 2."""
    (folder / "audio").mkdir(parents=True)
    rows = []
    for label in TEN:
        for take in range(2):
            name = f"{take + 1}-{label}.wav"
            soundfile.write(folder / "audio" / name, sound(label, take), RATE)
            rows.append(dict(zip(COLUMNS, (name, take + 1, label, "a, quoted", f"s{take}", "me", "CC0"), strict=True)))
    write_table(folder / "clips.csv", rows)
    return folder


def read(folder: Path) -> list[Clip]:
    return read_clips([folder], {folder.name: 9})


def assert_same_audio(found: bytes, wanted: bytes) -> None:
    """Assert that two 16-bit WAV files are the same, but for the rounding of samples in another batch.

    A sample may differ by 1e-4 of full scale, which is 3 steps. Everything around the samples is the same.
    """
    (around, samples), (around_wanted, samples_wanted) = map(_split_wav, (found, wanted))
    assert around == around_wanted
    np.testing.assert_allclose(samples, samples_wanted, rtol=0, atol=3)


def _split_wav(file: bytes) -> tuple[bytes, np.ndarray]:
    """The bytes of a WAV file around its samples, and its samples."""
    start = file.index(b"data") + 8
    end = start + int.from_bytes(file[start - 4 : start], "little")
    return file[:start] + file[end:], np.frombuffer(file[start:end], "<i2").astype(int)
