"""Prompts of every kind of character and length, and names of files: generated, saved, and read back."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import soundfile
from factory import tiny_checkpoint, tiny_config

from dear import AudioDEAR
from dear.output import read_title

PROMPTS = {
    "nul": "\0a dog",
    "nul inside": "a\0dog",
    "bell": "a \a dog",
    "escape": "\x1b[31ma dog",
    "next line": "a\x85dog",
    "surrogate": "a \ud800 dog",
    "lines": "a dog,\nthen\r\nrain\tfalls",
    "right to left": "\u202ea dog\u202c نباح",
    "not a character": "\ufdd0\U0010ffff",
    "combining": "a" + "\u0301" * 999,
    "joined": "👨‍👩‍👧‍👦" * 142,
    "ideographs": "犬" * 1000,
    "four bytes": "🐶" * 1000,
    "markup": "<script>alert(1)</script>'\";--",
    "format": "{0} %s %n ${HOME} `id`",
    "spaces": "\u3000a\u2003dog\u00a0",
    "one": "a",
    "too long": "a" * 1001,
    "a million": "a" * 1_000_000,
    "nothing": "\u2003\n",
}
NAMES = {
    "255 bytes": "x" * 251,
    "256 bytes": "x" * 252,
    "255 bytes of UTF-8": "é" * 125 + "x",
    "nul": "a\0b",
    "lines": "a\nb",
    "dots": "..",
    "surrogate": "a\udcffb",
    "dash": "-o",
    "spaces": " a ",
}


def cases(large: bool) -> Iterator[tuple[str, Callable[[], object]]]:
    folder = Path(tempfile.mkdtemp())
    model = AudioDEAR.from_pretrained(tiny_checkpoint(folder / "tiny", tiny_config()), device="cpu")
    out = model.generate("a dog", seed=0)

    def prompt(text: str, suffix: str) -> None:
        made = model.generate(text, seed=0, iterations=1)
        (path,) = made.save(folder / f"sound.{suffix}")
        assert read_title(path) == text.strip()
        with soundfile.SoundFile(path) as file:
            assert json.loads(file.comment)["seed"] == 0

    def name(stem: str, suffix: str) -> None:
        with tempfile.TemporaryDirectory() as place:
            (path,) = out.save(os.path.join(place, f"{stem}.{suffix}"))
            assert os.listdir(os.fsencode(place)) == [os.fsencode(path.name)]

    for suffix in ("wav", "flac"):
        for label, text in PROMPTS.items():
            yield f"prompt: {label}, {suffix}", lambda text=text, suffix=suffix: prompt(text, suffix)
        for label, stem in NAMES.items():
            yield f"name: {label}, {suffix}", lambda stem=stem, suffix=suffix: name(stem, suffix)
    rng = np.random.default_rng(0)
    for number in range(1000 if large else 10):
        points = rng.integers(0x110000, size=int(rng.integers(1, 1001)))
        if number % 2:  # without those that are refused at once
            points = points[(points >= 160) & ((points < 0xD800) | (points > 0xDFFF))]
        text = "".join(map(chr, points))
        yield f"prompt: random {number}", lambda text=text: prompt(text, "wav")
