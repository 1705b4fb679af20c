"""Which parts of a mel look like noise, whose fluctuation a linear codec loses."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from dear.codec.mel import MelSpectrogram
from dear.config import MelConfig

LEVEL = 0.1  # standard deviation of the noise; the fluctuation of its log-mel does not depend on it
TONAL = 2.5  # a spectrum up to this many times as rough as that of noise counts as noise
BROAD = 9  # bands, an odd number: what neighbouring bands do together is broad, the rest is fine
SLOW = 2.0  # Hz: changes that are faster are fluctuation
# Standard deviation of the fluctuation of the level, natural-log units: up to the first a sound is steady, from the
# second on it is not. That of rain and the sea is below 0.15, that of fire and of single events is above 0.25.
STEADY = (0.15, 0.25)


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


def broad(mel: Tensor) -> Tensor:
    """The mean of each band of [..., M] and its neighbours, ``BROAD`` bands in all; the outermost are repeated."""
    rows = F.pad(mel.reshape(-1, 1, mel.shape[-1]), (BROAD // 2, BROAD // 2), mode="replicate")
    return F.avg_pool1d(rows, BROAD, stride=1).reshape(mel.shape)


def slow(values: Tensor, frame_rate: float) -> Tensor:
    """What changes slowly in values [B, F, M] with ``frame_rate`` frames per second.

    The Gaussian filter has a gain of ``exp(-(f / SLOW)^2)`` at f Hz.
    """
    deviation = frame_rate / (math.sqrt(2) * math.pi * SLOW)
    radius = math.ceil(3 * deviation)
    weights = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, device=values.device) / deviation) ** 2)
    rows = F.pad(values.mT.reshape(-1, 1, values.shape[1]), (radius, radius), mode="replicate")
    return F.conv1d(rows, (weights / weights.sum()).to(values)[None, None]).reshape(values.mT.shape).mT


def fine_fluctuation(mel: Tensor, frame_rate: float) -> Tensor:
    """What changes fast and in single bands of mel [B, F, M]."""
    fine = mel - broad(mel)
    return fine - slow(fine, frame_rate)


def steadiness(mel: Tensor, frame_rate: float) -> Tensor:
    """[B, F, 1] for each frame of mel [B, F, M]: 1 where the level is steady, 0 where it fluctuates as in events."""
    level = mel.mean(dim=2, keepdim=True)
    deviation = slow((level - slow(level, frame_rate)).square(), frame_rate).clamp_min(0).sqrt()
    low, high = STEADY
    return ((high - deviation) / (high - low)).clamp(0, 1)
