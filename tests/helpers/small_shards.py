"""Sounds of several formats, and the sharded cache that they are encoded to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
import torch
from small_caches import MEL, Letters, codec

from dear.codec.mel import MelSpectrogram
from dear.conditioning import Conditioning
from training.data.manifest import Entry, read_manifest
from training.prepare import prepare
from training.store.sharding import EncodeConfig, encode

CONFIG = EncodeConfig(variants=2, shard_items=8, batch_size=3, seed=5)


LENGTHS = (0.05, 0.1, 0.125, 0.3, 1.2)  # seconds; a clip of MEL has 0.125


SOUNDS = 21  # 42 items in 6 shards, the last of 2


class Hearing(Letters):
    """Letters that also encodes sounds, as two equal tokens of their statistics."""

    def encode_audio(self, waveforms, sample_rate):
        assert sample_rate == MEL.sample_rate and waveforms.shape[1] == MEL.samples
        level = waveforms.square().mean(1)
        tokens = (level[:, None] * torch.arange(1, 7))[:, None].repeat(1, 2, 1)
        return Conditioning(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool))


def sound(path: Path, seconds: float, seed: int, rate: int = 16000, channels: int = 1) -> Path:
    samples = 0.3 * np.random.default_rng(seed).uniform(-1, 1, (round(seconds * rate), channels))
    soundfile.write(path, np.round(samples * 32767).astype(np.int16), rate)
    return path


def make_entries(folder: Path) -> list[Entry]:
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for number in range(SOUNDS):
        kind = ("wav", "flac")[number % 2]
        path = sound(folder / f"odd é.{number}.{kind}", LENGTHS[number % 5], number, (16000, 22050)[number % 2])
        captions = None if number % 7 == 6 else tuple(f"sound {number} é " + "la " * k for k in range(number % 3 + 1))
        found.append(Entry(f"-{number}.x", path, "test", captions, f"freesound:{number}", ("class",)))
    prepare(found, folder / "manifest.jsonl")
    return read_manifest(folder / "manifest.jsonl")


def make(entries, folder: Path, config=CONFIG, worker=(0, 1), text_encoder=None, vae=None, peak=0.0) -> bool:
    vae, text_encoder = vae or codec(), text_encoder or Hearing()
    return encode(entries, folder, vae, MelSpectrogram(MEL), text_encoder, config, worker, peak)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
