"""Log-mel to waveform by Griffin-Lim, which needs no weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from dear.codec.base import Vocoder
from dear.codec.convolution import in_groups
from dear.codec.frames import Frames, MelInverse, inverse_abs, limit
from dear.config import MelConfig, VocoderConfig
from dear.settings import Range

DRAFT_SHARE = 4  # a draft takes one iteration in so many


@dataclass(frozen=True)
class GriffinLimConfig(VocoderConfig):
    kind: str = "griffin-lim"
    iterations: Annotated[int, Range(1, 1024)] = 32
    momentum: Annotated[float, Range(0, 0.999)] = 0.99


class GriffinLim(Vocoder):
    """Fast Griffin-Lim (Perraudin et al. 2013, alpha from ``momentum``) from a fixed phase; it has no weights."""

    Config = GriffinLimConfig
    weightless = True

    def __init__(self, vocoder: GriffinLimConfig, mel: MelConfig):
        super().__init__()
        self.iterations, self.momentum = vocoder.iterations, vocoder.momentum
        self.inverse = MelInverse(mel)
        self.frames = Frames(mel.n_fft, mel.hop_length)

    @torch.no_grad()
    def forward(self, mel: Tensor) -> Tensor:
        """mel [B, F, M] log-mel -> waveform [B, F * hop] float32 in [-1, 1]."""
        return limit(in_groups(lambda part: self._signal(part, self.iterations), mel))

    @torch.no_grad()
    def draft(self, mel: Tensor) -> Tensor:
        """Like forward with a quarter of the iterations, which raises the log-mel error by about a tenth."""
        return limit(in_groups(lambda part: self._signal(part, -(-self.iterations // DRAFT_SHARE)), mel))

    def _signal(self, mel: Tensor, iterations: int) -> Tensor:
        magnitudes, share = self.inverse(mel), self.frames.share(mel.shape[1])
        spectrum = magnitudes * self.frames.noise(mel.shape[1])
        previous = torch.zeros_like(spectrum)
        weight = self.momentum / (1 + self.momentum)
        for _ in range(iterations):
            consistent = self.frames.spectrum(self.frames.signal(spectrum, share))
            parts = torch.view_as_real(torch.sub(consistent, previous, alpha=weight))
            parts *= (magnitudes * inverse_abs(parts)).unsqueeze(-1)
            spectrum, previous = torch.view_as_complex(parts), consistent
        return self.frames.crop(self.frames.signal(spectrum, share))
