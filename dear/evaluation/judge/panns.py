"""PANNs' Cnn14 at 16 kHz, read from its published weights: FD, KL and IS of the paper are computed with it.

Fourteen layers on a log-mel of 64 bands, trained on the 527 classes of AudioSet (Kong et al. 2020).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from dear.evaluation.judge.efficientat import audioset_names
from dear.evaluation.judge.embedder import Embedded
from dear.evaluation.judge.reading import PANNS as READING
from dear.evaluation.judge.weights import Reader, Weights, find_weights, read_weights
from dear.judge.base import Heard, JudgeError

ADDRESS = "https://zenodo.org/record/3987831/files/Cnn14_16k_mAP%3D0.438.pth"
FILE = "Cnn14_16k_mAP=0.438.pth"
LARGEST = 512 * 2**20  # bytes; the published file has 327 million
RATE = 16_000  # Hz
N_FFT, HOP = 512, 160
BLOCKS = 6
POOLED = 5  # blocks that halve both sides
EPSILON = 1e-5  # of the batch norms
FLOOR = 1e-10  # power of a band that counts as silent
FRONT_END = ("spectrogram_extractor.stft.conv_real.weight", "spectrogram_extractor.stft.conv_imag.weight")


class Cnn14(nn.Module):
    """Features [2048] behind the penultimate layer, and logits, of sounds at 16 kHz of any length from 0.32 s on."""

    name = "PANNs Cnn14 16k"
    hears = "waveforms"
    exclusive = False
    measured: Mapping[str, float] = {}
    reading = READING
    sample_rate, samples = RATE, 10 * RATE
    window: Tensor
    filters: Tensor  # [bins, M]
    scale: Tensor
    shift: Tensor

    def __init__(self, weights: Weights, digest: str, names: tuple[str, ...] = ()):
        """weights: the published state, by name. names: of the classes; none where only distances are wanted.

        Raises :class:`JudgeError` where the weights are not of this architecture.
        """
        super().__init__()
        self.digest, self.names = digest, names
        reader = Reader(weights, "PANNs' Cnn14")
        for name in FRONT_END:  # a Fourier transform, written as convolutions
            reader.take(name)
        self.register_buffer("filters", reader.take("logmel_extractor.melW"))
        for name, values in zip(("scale", "shift"), reader.affine("bn0", EPSILON), strict=True):
            self.register_buffer(name, values)
        self.convolutions = nn.ModuleList(
            reader.normed(f"conv_block{block}.conv{layer}", f"conv_block{block}.bn{layer}", EPSILON)
            for block in range(1, BLOCKS + 1)
            for layer in (1, 2)
        )
        self.hidden, self.out = reader.linear("fc1"), reader.linear("fc_audioset")
        reader.finish()
        if names and len(names) != self.out.out_features:
            raise JudgeError(f"names must be {self.out.out_features}, one for each class, got {len(names)}")
        self.register_buffer("window", torch.hann_window(N_FFT))
        self.eval().requires_grad_(False)

    @torch.inference_mode()
    def forward(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        """waveform [B, S] -> features [B, K], logits [B, N]."""
        x = (self.log_mel(waveform) * self.scale + self.shift)[:, None]
        for index in range(BLOCKS):
            for layer in self.convolutions[2 * index : 2 * index + 2]:
                x = nn.functional.relu(layer(x))
            if index < POOLED:
                x = nn.functional.avg_pool2d(x, 2)
        x = x.mean(dim=3)
        features = nn.functional.relu(self.hidden(x.amax(dim=2) + x.mean(dim=2)))
        return features, self.out(features)

    def log_mel(self, waveform: Tensor) -> Tensor:
        """waveform [B, S] -> decibels [B, frames, M]."""
        spectrum = torch.stft(waveform, N_FFT, HOP, window=self.window, center=True, return_complex=True)
        power = spectrum.abs().square().transpose(1, 2) @ self.filters
        return 10 * power.clamp_min(FLOOR).log10()

    def hear(self, waveform: Tensor) -> Heard:
        """waveform [B, S] -> features [B, K], independent probabilities [B, N]."""
        features, logits = self(waveform)
        return Heard(features, logits.sigmoid())

    def embed(self, waveform: Tensor) -> Embedded:
        """waveform [S] -> features [1, K], logits [N], on the CPU."""
        features, logits = self(waveform.to(self.window.device)[None])
        return Embedded(features.cpu(), logits[0].cpu())


def load_panns(source: str | Path, device: torch.device | str = "cpu") -> Cnn14:
    """The network in the published file ``Cnn14_16k_mAP=0.438.pth``; ``published`` downloads it.

    Raises :class:`JudgeError` naming the file and what is wrong with it.
    """
    weights, digest = read_weights(find_weights(source, ADDRESS, FILE), LARGEST, "PANNs")
    return Cnn14(weights, digest).to(device)


def load_panns_judge(source: str | Path | None) -> Cnn14:
    """:func:`load_panns` with AudioSet's names from beside the weights."""
    if source is None:
        raise JudgeError("judge must name the file of its weights as panns:PATH, got no path")
    path = find_weights(source, ADDRESS, FILE)
    weights, digest = read_weights(path, LARGEST, "PANNs")
    return Cnn14(weights, digest, audioset_names(path.parent))
