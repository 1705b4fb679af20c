"""A small listening study."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import soundfile

PROMPTS = {"0001.wav": "a dog barks, then rain falls", "0002.wav": "waves", "0003.wav": "a «clock» ticks"}


def make_study(folder: Path, systems: tuple[str, ...] = ("ours", "theirs"), seconds: float = 0.1) -> Path:
    """Write a study of noise to ``folder``: the same three sounds of each system."""
    rng = np.random.default_rng(0)
    for system in systems:
        (folder / system).mkdir(parents=True)
        for name in PROMPTS:
            sound = rng.integers(-32768, 32768, int(16_000 * seconds), dtype=np.int16)
            soundfile.write(folder / system / name, sound, 16_000)
    with open(folder / "prompts.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("file", "prompt"), *PROMPTS.items()])
    return folder
