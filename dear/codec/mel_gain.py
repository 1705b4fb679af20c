"""Log-mel to waveform by iterated smooth gains, without weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from dear.codec.base import Vocoder
from dear.codec.convolution import in_groups
from dear.codec.frames import Frames, MelInverse, limit, modulus
from dear.config import MelConfig, VocoderConfig
from dear.settings import Range

DRAFT_SHARE = 4  # a draft takes one iteration in so many
LARGEST = 3.0  # natural log of the largest gain of one iteration


@dataclass(frozen=True)
class MelGainConfig(VocoderConfig):
    kind: str = "mel-gain"
    iterations: Annotated[int, Range(1, 1024)] = 24
    momentum: Annotated[float, Range(0, 0.9)] = 0.9  # larger values may diverge


class MelGain(Vocoder):
    """Noise shaped by the mel, then corrected band by band until its log-mel matches.

    Griffin-Lim forces the magnitude of every bin, which makes noise beat at 10 to 30 Hz. A mel gain scales the complex
    spectrum by a factor that is smooth over frequency, and keeps the phases. Each iteration starts from an
    extrapolation by ``momentum``, which saves more than half of the iterations.
    """

    Config = MelGainConfig
    weightless = True

    def __init__(self, vocoder: MelGainConfig, mel: MelConfig):
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
        """Like forward, with a quarter of the iterations."""
        return limit(in_groups(lambda part: self._signal(part, -(-self.iterations // DRAFT_SHARE)), mel))

    def _signal(self, mel: Tensor, iterations: int) -> Tensor:
        mel = mel.float()
        magnitudes, share = self.inverse(mel), self.frames.share(mel.shape[1])
        signal = previous = self.frames.signal(magnitudes * self.frames.noise(mel.shape[1]), share)

        def corrected(spectrum: Tensor, part: slice) -> Tensor:
            own = (modulus(spectrum) @ self.inverse.filters).clamp_min(self.floor).log()
            gain = ((mel[:, part] - own).clamp(-LARGEST, LARGEST) @ self.inverse.spread).exp()
            return spectrum * gain

        for _ in range(iterations):
            ahead = torch.lerp(previous, signal, 1 + self.momentum)
            signal, previous = self.frames.changed(ahead, corrected, share), signal
        return self.frames.crop(signal)
