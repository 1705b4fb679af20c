"""Small caches, and the tones, letters and linear codec that they are made of."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dear.codec.mel import MelSpectrogram
from dear.codec.patch import PatchConfig, PatchVAE
from dear.conditioning import Conditioning
from dear.config import MelConfig
from training.cache.tokens import Cache, build

MEL = MelConfig(n_mels=16, frames=16, samples=2000)


@dataclass(frozen=True)
class Tone:
    waveform: np.ndarray
    caption: str
    labels: tuple[str, ...]
    kind: str


@dataclass(frozen=True)
class Tones:
    """Noisy tones, a pure function of (seed, index)."""

    seed: int = 0
    delay: float = 0.0
    gain: float = 0.5

    def scene(self, index: int) -> Tone:
        time.sleep(self.delay)
        rng = np.random.default_rng([self.seed, index])
        pitch = int(rng.integers(1, 8))
        phase = 2 * np.pi * 200 * pitch * np.arange(2560) / MEL.sample_rate
        waveform = self.gain * np.sin(phase) + 0.01 * rng.standard_normal(2560)
        return Tone(waveform.astype(np.float32), "beep " * pitch + "é", (f"tone{pitch}",), "single")

    def captions(self, labels: tuple[str, ...], kind: str, count: int) -> list[str]:
        return [f"{kind} {labels[0]} {i}" for i in range(count)]


class Letters:
    """One random vector per letter, padded with zeros to the longest prompt."""

    digest = "letters-1"

    def __init__(self):
        self.table = torch.randn(256, 6, generator=torch.Generator().manual_seed(0))

    def encode(self, prompts):
        rows = [self.table[torch.tensor(list(prompt.encode()))] for prompt in prompts]
        lengths = torch.tensor([len(row) for row in rows])
        tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return Conditioning(tokens, torch.arange(tokens.shape[1]) < lengths[:, None])


def codec(scale: float = 1.0) -> PatchVAE:
    vae = PatchVAE(PatchConfig(patch_frames=4, patch_mels=16, token_dim=8), MEL)
    basis = torch.linalg.qr(torch.randn(64, 8, generator=torch.Generator().manual_seed(1))).Q
    vae.components.copy_(basis)
    vae.scale.fill_(scale)
    return vae


def make(
    folder: Path, scenes=None, count: int = 70, vae=None, stamps=None, workers: int = 1, wordings: int = 0
) -> Cache:
    """A cache of ``count`` tones in ``folder``."""
    encoders = vae or codec(), MelSpectrogram(MEL), Letters()
    return build(folder, scenes or Tones(), count, *encoders, stamps or {"seed": 0}, workers, wordings)
