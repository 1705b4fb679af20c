"""Shared parts of the vocoders: magnitudes from a log-mel, windowed frames of a signal, and its peak.

Sound is framed as :class:`dear.codec.mel.MelSpectrogram` does, and phases start from those of one fixed noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor, nn

from dear.codec.mel import MelSpectrogram
from dear.config import MelConfig

TINY = 1e-9
TILE = 128  # frames that a CPU takes at a time: all that is computed of them stays in its caches
PEAK = 0.99


class MelInverse(nn.Module):
    """Log-mel to the magnitudes that explain it: multiplicative updates of the generalised KL divergence.

    Non-negative by construction, and far closer than the clamped pseudo-inverse: the start spreads each band evenly
    over its bins, twelve updates leave a log-mel error of about 0.001 on recordings. (Lee and Seung 2001, eq. 5.)
    """

    filters: Tensor  # [bins, M]
    bands: Tensor  # [M]
    spread: Tensor  # [M, bins]

    def __init__(self, mel: MelConfig, updates: int = 12):
        super().__init__()
        self.updates = updates
        self.floor = math.log(mel.floor) + 1e-4  # a decoder's clamp rounds
        filters = MelSpectrogram(mel).filters  # [bins, M]
        share = filters / filters.sum(1, keepdim=True).clamp_min(TINY)  # how a bin divides over the bands
        self.register_buffer("filters", filters, persistent=False)
        self.register_buffer("bands", filters.sum(0).clamp_min(TINY), persistent=False)
        self.register_buffer("spread", share.T.contiguous(), persistent=False)

    def forward(self, mel: Tensor) -> Tensor:
        """mel [B, F, M] log-mel -> STFT magnitudes [B, F, n_fft // 2 + 1]."""
        step = TILE if mel.device.type == "cpu" else mel.shape[1]
        return torch.cat([self._magnitudes(part.float()) for part in mel.split(step, dim=1)], dim=1)

    def _magnitudes(self, mel: Tensor) -> Tensor:
        # The floor stands for all quieter values, including silence.
        target = torch.where(mel > self.floor, mel.exp(), 0.0)
        magnitudes = (target / self.bands) @ self.spread
        for _ in range(self.updates):
            magnitudes = magnitudes * ((target / (magnitudes @ self.filters).clamp_min(TINY)) @ self.spread)
        return magnitudes


class Frames(nn.Module):
    """Windowed frames of a signal and back by least-squares overlap-add: F frames, (F - 1) * hop + n_fft samples."""

    window: Tensor  # [n_fft]

    def __init__(self, n_fft: int, hop: int):
        super().__init__()
        self.n_fft, self.hop = n_fft, hop
        self.register_buffer("window", torch.hann_window(n_fft, dtype=torch.float32), persistent=False)

    def spectrum(self, signal: Tensor) -> Tensor:
        """signal [B, (F - 1) * hop + n_fft] -> complex [B, F, bins]."""
        return torch.fft.rfft(signal.unfold(1, self.n_fft, self.hop) * self.window)

    def signal(self, spectrum: Tensor, share: Tensor | None = None) -> Tensor:
        """spectrum complex [B, F, bins] -> [B, (F - 1) * hop + n_fft]. share: that of F frames, where it is at hand."""
        share = self.share(spectrum.shape[1]) if share is None else share
        return self._overlap(torch.fft.irfft(spectrum, self.n_fft)) * share

    def changed(self, signal: Tensor, change: Callable[[Tensor, slice], Tensor], share: Tensor) -> Tensor:
        """``signal(change(spectrum(signal), slice(None)), share)``, on a CPU a few frames at a time.

        change: (spectrum complex [B, F', bins], which of the F frames) -> [B, F', bins].
        """
        frames = signal.unfold(1, self.n_fft, self.hop)
        count = frames.shape[1]
        step = TILE if signal.device.type == "cpu" else count
        total = self._room(frames)
        for first in range(0, count, step):
            part = slice(first, min(first + step, count))
            spectrum = change(torch.fft.rfft(frames[:, part] * self.window), part)
            self._add(total, torch.fft.irfft(spectrum, self.n_fft), first)
        return self._joined(total, count) * share

    def share(self, count: int) -> Tensor:
        """[1, (F - 1) * hop + n_fft]: one over the sum of the squared windows of ``count`` = F frames."""
        return self._overlap(self.window.expand(1, count, -1)).clamp_min(TINY).reciprocal()

    def _overlap(self, frames: Tensor) -> Tensor:
        """frames [B, F, n_fft] -> their sum under the window [B, (F - 1) * hop + n_fft]."""
        total = self._room(frames)
        self._add(total, frames, 0)
        return self._joined(total, frames.shape[1])

    def _room(self, frames: Tensor) -> Tensor:
        """Zeros [B, hops, hop] for the sum of frames [B, F, n_fft]."""
        return frames.new_zeros(frames.shape[0], frames.shape[1] - 1 - (-self.n_fft // self.hop), self.hop)

    def _add(self, total: Tensor, frames: Tensor, first: int) -> None:
        """Add frames [B, F', n_fft] under the window, from the frame ``first`` on."""
        # One addition per hop of the window: three times faster than nn.functional.fold.
        for index in range(-(-self.n_fft // self.hop)):
            part = slice(index * self.hop, min((index + 1) * self.hop, self.n_fft))
            into = total[:, first + index : first + index + frames.shape[1], : part.stop - part.start]
            into.addcmul_(frames[:, :, part], self.window[part])

    def _joined(self, total: Tensor, count: int) -> Tensor:
        return total.flatten(1)[:, : (count - 1) * self.hop + self.n_fft]

    def noise(self, count: int, generator: torch.Generator | None = None, items: int = 1) -> Tensor:
        """Phases of white noise, unit complex [items, count, bins], from a CPU generator; None: one fixed noise.

        Unlike independent phases, these belong to a signal, so noisy sounds are right from the start.
        """
        length = (count - 1) * self.hop + self.n_fft
        if generator is None:
            return _unit(self.spectrum(_fixed_noise(length, self.window.device)))
        noise = torch.randn(items, length, generator=generator, dtype=torch.float32, device="cpu")
        return _unit(self.spectrum(noise.to(self.window.device)))

    def crop(self, signal: Tensor) -> Tensor:
        """signal [B, (F - 1) * hop + n_fft] -> [B, F * hop]: removes the padding of the analysis on each side."""
        padding = (self.n_fft - self.hop) // 2
        return signal[:, padding : signal.shape[1] - (self.n_fft - self.hop - padding)]


@lru_cache(maxsize=8)
def _fixed_noise(length: int, device: torch.device) -> Tensor:
    """[1, length], cached on the device, since a copy from the host would wait for the device's queue."""
    with torch.inference_mode(False):
        generator = torch.Generator("cpu").manual_seed(0)
        return torch.randn(1, length, generator=generator, dtype=torch.float32, device="cpu").to(device)


def _unit(spectrum: Tensor) -> Tensor:
    return spectrum * inverse_abs(torch.view_as_real(spectrum))


def modulus(spectrum: Tensor) -> Tensor:
    """spectrum complex [...] -> its absolute values [...]."""
    # Squares instead of abs(): hypot costs more than the transforms. Both at once: neither is contiguous.
    real, imaginary = torch.view_as_real(spectrum).square().unbind(-1)
    return (real + imaginary).sqrt_()


def inverse_abs(spectrum: Tensor) -> Tensor:
    """spectrum [..., 2] real and imaginary -> [...], one over its modulus."""
    # Squares instead of abs(): hypot costs more than the transforms.
    real, imaginary = spectrum.unbind(-1)
    return torch.addcmul(real.square(), imaginary, imaginary).clamp_min(TINY**2).rsqrt()


def limit(waveform: Tensor) -> Tensor:
    """waveform [B, S] -> the same, with each item that would clip scaled to the peak ``PEAK``."""
    peak = waveform.abs().amax(dim=1, keepdim=True)
    return waveform * (PEAK / peak.clamp_min(PEAK))
