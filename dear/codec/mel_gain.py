"""Log-mel to waveform by smooth gains towards the mel, which needs no weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dear.codec.convolution import in_groups
from dear.codec.frames import Frames, MelInverse, limit
from dear.config import MelConfig, VocoderConfig

DRAFT_SHARE = 4  # a draft takes one iteration in so many
LARGEST = 3.0  # natural log of the largest gain of one iteration


class MelGain(nn.Module):
    """Noise shaped by the mel, then corrected band by band until its own log-mel is the one asked for.

    Griffin-Lim forces the magnitude of every bin, which makes noise beat at 10 to 30 Hz. A mel gain scales the complex
    spectrum by a factor that is smooth over frequency, and keeps the phases. Each iteration starts from an
    extrapolation by ``momentum``, which saves more than half of the iterations; above 0.9 it may diverge.
    """

    usual: ClassVar[Mapping[str, Any]] = {"iterations": 24, "momentum": 0.9}  # needs no checkpoint

    def __init__(self, vocoder: VocoderConfig, mel: MelConfig):
        super().__init__()
        self.iterations, self.momentum = vocoder.iterations, vocoder.momentum
        self.floor = mel.floor
        self.inverse = MelInverse(mel)
        self.frames = Frames(mel.n_fft, mel.hop_length)

    @torch.no_grad()
    def forward(self, mel: Tensor) -> Tensor:
        """mel [B, F, M] log-mel -> waveform [B, F * hop] float32 in [-1, 1]."""
        return limit(in_groups(lambda part: self._signal(part, self.iterations), mel))

    @torch.no_grad()
    def draft(self, mel: Tensor) -> Tensor:
        """As forward, with a quarter of the iterations."""
        return limit(in_groups(lambda part: self._signal(part, -(-self.iterations // DRAFT_SHARE)), mel))

    def _signal(self, mel: Tensor, iterations: int) -> Tensor:
        mel = mel.float()
        magnitudes, share = self.inverse(mel), self.frames.share(mel.shape[1])
        signal = previous = self.frames.signal(magnitudes * self.frames.noise(mel.shape[1]), share)
        for _ in range(iterations):
            spectrum = self.frames.spectrum(torch.lerp(previous, signal, 1 + self.momentum))
            own = (spectrum.abs() @ self.inverse.filters).clamp_min(self.floor).log()
            gain = ((mel - own).clamp(-LARGEST, LARGEST) @ self.inverse.spread).exp()
            signal, previous = self.frames.signal(spectrum * gain, share), signal
        return self.frames.crop(signal)
