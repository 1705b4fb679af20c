"""Log-mel to waveform by a small trained ISTFT vocoder."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from dear.codec.base import Vocoder
from dear.codec.convolution import in_groups
from dear.codec.frames import Frames, MelInverse, limit
from dear.config import MelConfig, VocoderConfig
from dear.layers import ConvNeXtBlock, init_by_fan_in
from dear.settings import Range


@dataclass(frozen=True)
class ISTFTConfig(VocoderConfig):
    kind: str = "istft"
    width: Annotated[int, Range(1, 1024)] = 192  # channels
    depth: Annotated[int, Range(1, 32)] = 6  # ConvNeXt blocks


class ISTFTVocoder(Vocoder):
    """A vocoder after Vocos: ConvNeXt blocks over frames shape a fixed noise into sound in the STFT domain.

    A convolution over frames alone maps a steady mel to identical frames, whose overlap holds only harmonics of the
    frame rate. Therefore the phases of the fixed noise are an input, and the output is

        S = A exp(a) (N + c),  A the magnitudes that the mel implies, N the noise's phases,

    with a (real) and c (complex) from the network. Its last layer starts at zero: an untrained vocoder is
    noise filtered by the mel, already right for rain and surf.
    """

    Config = ISTFTConfig

    def __init__(self, vocoder: ISTFTConfig, mel: MelConfig):
        super().__init__()
        self.frames = Frames(4 * mel.hop_length, mel.hop_length)
        self.bins = 2 * mel.hop_length + 1
        self.inverse = MelInverse(mel, updates=0)
        # A shorter window sees proportionally smaller magnitudes of noise (its energy) at proportionally spaced bins.
        self.ratio = (self.frames.n_fft / mel.n_fft) ** 0.5
        self.centre = math.log(mel.floor) / 2
        self.mel_in = nn.Conv1d(mel.n_mels, vocoder.width, 7, padding=3)
        self.noise_in = nn.Linear(2 * self.bins, vocoder.width)
        self.blocks = nn.ModuleList(ConvNeXtBlock(vocoder.width, taps=7, expansion=3) for _ in range(vocoder.depth))
        self.norm = nn.LayerNorm(vocoder.width)
        self.out = nn.Linear(vocoder.width, 3 * self.bins)
        init_by_fan_in(self)
        nn.init.zeros_(self.out.weight)

    def forward(self, mel: Tensor) -> Tensor:
        """mel [B, F, M] log-mel -> waveform [B, F * hop] float32 in [-1, 1]."""
        noise = self.frames.noise(mel.shape[1])
        return limit(in_groups(lambda part: self.synthesise(part, noise), mel))

    def synthesise(self, mel: Tensor, noise: Tensor) -> Tensor:
        """Like forward, without a limit and with the phases ``noise`` complex [1 or B, F, bins], for training.

        Training draws new noise at each step, so that the network does not overfit to one noise.
        """
        phases = torch.view_as_real(noise).flatten(2)
        x = self.mel_in((mel.float() - self.centre).transpose(1, 2) / 4).transpose(1, 2) + self.noise_in(phases)
        for block in self.blocks:
            x = block(x)
        gain, real, imaginary = self.out(self.norm(x)).chunk(3, dim=-1)
        base = nn.functional.interpolate(self.inverse(mel), self.bins, mode="linear", align_corners=True) * self.ratio
        # The bound keeps one bad frame of early training from overflowing.
        magnitudes = base * gain.clamp(max=8).exp()
        return self.frames.crop(self.frames.signal(magnitudes * (noise + torch.complex(real, imaginary))))
