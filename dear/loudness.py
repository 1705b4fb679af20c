"""Loudness by ITU-R BS.1770-4, and fades at the ends of a sound."""

from __future__ import annotations

import math

import torch
from torch import Tensor

PAGE = -20.0  # LUFS, of the page's sounds: between broadcast (EBU R 128: -23) and streaming (-14 to -16)
LOWEST, HIGHEST = -60.0, -5.0  # LUFS that can be asked for
CEILING = 10 ** (-1 / 20)  # of true peaks: -1 dBFS
OVERSAMPLING = 4  # with which the standard measures true peaks
GATE = 0.4  # seconds of one of its gating blocks
FADE = 0.005  # seconds


def measure(waveform: Tensor, rate: int) -> float:
    """Integrated, gated loudness in LUFS of a sound [S] at ``rate`` Hz; -inf where all of it is below the gate."""
    from pyloudnorm import Meter  # here, as it imports scipy

    samples = waveform.double().numpy()
    return float(Meter(rate, block_size=min(GATE, len(samples) / rate)).integrated_loudness(samples))


def true_peak(waveform: Tensor) -> float:
    """The peak of a sound [S], including values between its samples."""
    from scipy.signal import resample_poly

    return float(abs(resample_poly(waveform.double().numpy(), OVERSAMPLING, 1)).max())


def normalise(waveform: Tensor, rate: int, target: float) -> Tensor:
    """waveform [B, S] -> each item with one gain, at ``target`` LUFS, or quieter if true peaks would exceed -1 dBFS.
    Silence stays silence.
    """
    items = []
    for item in waveform:
        loudness, peak = measure(item, rate), true_peak(item)
        gain = 10 ** ((target - loudness) / 20) if math.isfinite(loudness) else 1.0
        items.append(item * min(gain, CEILING / peak if peak else 1.0))
    return torch.stack(items)


def fade_ends(waveform: Tensor, rate: int, begin: bool = True, end: bool = True) -> Tensor:
    """Let waveform [B, S] begin and end at zero, by half a period of a cosine over at most 5 ms."""
    length = min(round(FADE * rate), waveform.shape[1] // 2)
    ramp = (1 - torch.cos(torch.arange(length, dtype=torch.float32, device="cpu") * (math.pi / max(length, 1)))) / 2
    faded = waveform.clone()
    if begin:
        faded[:, :length] *= ramp
    if end:
        faded[:, waveform.shape[1] - length :] *= ramp.flip(0)
    return faded
