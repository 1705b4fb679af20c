"""Which parts of a mel look like noise, whose fluctuation a linear codec loses."""

from __future__ import annotations

import torch
from torch import Tensor

from dear.codec.mel import MelSpectrogram
from dear.config import MelConfig

LEVEL = 0.1  # standard deviation of the noise; the fluctuation of its log-mel does not depend on it
TONAL = 2.5  # a spectrum up to this many times as rough as that of noise counts as noise


def noise_mel(config: MelConfig, frames: int, device: torch.device) -> Tensor:
    """The log-mel [1, frames, M] of one fixed white noise. A frame hardly depends on the number of frames."""
    generator = torch.Generator("cpu").manual_seed(0)
    rows = [torch.randn(config.hop_length, generator=generator, dtype=torch.float32) for _ in range(frames)]
    return MelSpectrogram(config).to(device)(LEVEL * torch.cat(rows)[None].to(device))


def roughness(mel: Tensor, size: int) -> Tensor:
    """How much the mean spectrum of each stretch of ``size`` frames varies from band to band: mel [B, F, M] -> [B, F'].

    It is the mean square of the second differences. That of harmonics is several times that of noise.
    """
    spectrum = mel.unflatten(1, (-1, size)).mean(2)
    return (spectrum[..., 2:] - 2 * spectrum[..., 1:-1] + spectrum[..., :-2]).square().mean(-1)


def noisiness(mel: Tensor, size: int, expected: Tensor) -> Tensor:
    """[B, F', 1] for each stretch of ``size`` frames of mel [B, F, M]: 1 where it looks like noise, towards 0 the more
    tonal it is.

    expected: the roughness of noise.
    """
    return (TONAL * expected / roughness(mel, size).clamp_min(1e-9)).clamp(max=1).square()[..., None]
