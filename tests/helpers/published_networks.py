"""States in the layout of published networks, small and random: PANNs' Cnn14 at 16 kHz, and VGGish."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

CNN14_CHANNELS = (1, 4, 4, 6, 6, 8, 8)
VGGISH_CHANNELS = (1, 4, 4, 6, 6, 8, 8)
VGGISH_PLACES = (0, 3, 6, 8, 11, 13)


def cnn14_weights(classes: int = 5, width: int = 8, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    angles = 2 * math.pi / 512 * torch.outer(torch.arange(257), torch.arange(512)).double()
    window = torch.hann_window(512, dtype=torch.float64)
    weights = {
        "spectrogram_extractor.stft.conv_real.weight": (angles.cos() * window).float()[:, None],
        "spectrogram_extractor.stft.conv_imag.weight": (-angles.sin() * window).float()[:, None],
        "logmel_extractor.melW": torch.rand(257, 64, generator=generator) / 100,
    }

    def norm(name: str, count: int, shift: float, scale: float) -> None:
        weights[f"{name}.weight"] = (torch.rand(count, generator=generator) + 0.5) * scale
        weights[f"{name}.bias"] = torch.randn(count, generator=generator) / 4
        weights[f"{name}.running_mean"] = torch.randn(count, generator=generator) * shift
        weights[f"{name}.running_var"] = torch.rand(count, generator=generator) + 0.5
        weights[f"{name}.num_batches_tracked"] = torch.tensor(1)

    norm("bn0", 64, 10, 0.05)
    for block, (inputs, outputs) in enumerate(itertools.pairwise(CNN14_CHANNELS), start=1):
        for layer, count in ((1, inputs), (2, outputs)):
            shape = (outputs, count, 3, 3)
            weights[f"conv_block{block}.conv{layer}.weight"] = torch.randn(shape, generator=generator) / count**0.5 / 2
            norm(f"conv_block{block}.bn{layer}", outputs, 0.2, 1)
    linear(weights, "fc1", CNN14_CHANNELS[-1], width, generator)
    linear(weights, "fc_audioset", width, classes, generator)
    return weights


def vggish_weights(width: int = 16, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weights: dict[str, Tensor] = {}
    for place, inputs, outputs in zip(VGGISH_PLACES, VGGISH_CHANNELS, VGGISH_CHANNELS[1:], strict=False):
        weights[f"features.{place}.weight"] = torch.randn(outputs, inputs, 3, 3, generator=generator) / inputs**0.5 / 2
        weights[f"features.{place}.bias"] = torch.randn(outputs, generator=generator) / 4
    linear(weights, "embeddings.0", VGGISH_CHANNELS[-1] * 6 * 4, width, generator)
    linear(weights, "embeddings.2", width, width, generator)
    linear(weights, "embeddings.4", width, 8, generator)
    return weights


def linear(weights: dict[str, Tensor], name: str, inputs: int, outputs: int, generator: torch.Generator) -> None:
    weights[f"{name}.weight"] = torch.randn(outputs, inputs, generator=generator) / inputs**0.5
    weights[f"{name}.bias"] = torch.randn(outputs, generator=generator) / 4
