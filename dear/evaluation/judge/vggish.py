"""VGGish, which the paper's FAD uses, with the weights of its PyTorch port.

It has ten layers on log-mels of 0.96 s and was trained on the labels of a large set of videos (Hershey et al. 2017). As
in audioldm_eval, the 128 values are taken before the last ReLU, without whitening and rounding to 8 bits.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dear.evaluation.judge.embedder import Embedded
from dear.evaluation.judge.features import SoundsError
from dear.evaluation.judge.reading import VGGISH as READING
from dear.evaluation.judge.weights import Reader, Weights, find_weights, read_weights
from dear.judge.base import JudgeError

ADDRESS = "https://github.com/harritaylor/torchvggish/releases/download/v0.1/vggish-10086976.pth"
FILE = "vggish-10086976.pth"  # the digits begin its sha256
LARGEST = 512 * 2**20  # bytes; the published file has 288 million
RATE = 16_000  # Hz
WINDOW, HOP, N_FFT = 400, 160, 512
BANDS, LOWEST, HIGHEST = 64, 125.0, 7500.0
FRAMES = 96  # of one row of features
OFFSET = 0.01  # added to magnitudes before the logarithm
LAYERS = (0, 3, 6, 8, 11, 13)  # convolutions by their place in the published list
POOLED = (0, 3, 8, 13)  # those that a maximum over 2 x 2 follows


class VGGish(nn.Module):
    """Sounds at 16 kHz of any length from 0.975 s on -> 128 values for each whole 0.96 s."""

    name = "VGGish"
    reading = READING
    sample_rate = RATE
    window: Tensor
    filters: Tensor  # [bins, bands]

    def __init__(self, weights: Weights, digest: str):
        """weights: the published state, by name. Raises :class:`JudgeError` where it is not of this architecture."""
        super().__init__()
        self.digest = digest
        reader = Reader(weights, "VGGish")
        convolutions = [reader.convolution(f"features.{index}") for index in LAYERS]
        linears = [reader.linear(f"embeddings.{index}") for index in (0, 2, 4)]
        reader.finish()
        wanted = convolutions[-1].out_channels * FRAMES // 16 * BANDS // 16
        if linears[0].in_features != wanted:
            raise JudgeError(f"embeddings.0 of VGGish must take {wanted} values, got {linears[0].in_features}")
        self.convolutions, self.linears = nn.ModuleList(convolutions), nn.ModuleList(linears)
        self.register_buffer("window", torch.hann_window(WINDOW, dtype=torch.float64))
        self.register_buffer("filters", _bands())
        self.eval().requires_grad_(False)

    @torch.inference_mode()
    def forward(self, examples: Tensor) -> Tensor:
        """Log-mels [E, 96, 64] -> [E, 128]."""
        x = examples[:, None]
        for index, layer in zip(LAYERS, self.convolutions, strict=True):
            x = nn.functional.relu(layer(x))
            if index in POOLED:
                x = nn.functional.max_pool2d(x, 2)
        x = x.permute(0, 2, 3, 1).flatten(1)
        for layer in self.linears[:2]:
            x = nn.functional.relu(layer(x))
        return self.linears[2](x)

    def log_mel(self, waveform: Tensor) -> Tensor:
        """waveform [S] -> natural logarithm of mel magnitudes [E, 96, 64]; what does not fill a row is left out."""
        frames = waveform.double().unfold(0, WINDOW, HOP) * self.window
        mel = (torch.fft.rfft(frames, N_FFT).abs() @ self.filters + OFFSET).log()
        count = len(mel) // FRAMES
        return mel[: count * FRAMES].reshape(count, FRAMES, BANDS).float()

    def embed(self, waveform: Tensor) -> Embedded:
        """waveform [S] -> features [E, 128] on the CPU; no logits."""
        shortest = WINDOW + (FRAMES - 1) * HOP
        if len(waveform) < shortest:
            raise SoundsError(f"VGGish needs sounds of at least {shortest / RATE:g} s, got {len(waveform) / RATE:g} s")
        return Embedded(self(self.log_mel(waveform.to(self.window.device))).cpu(), None)


def load_vggish(source: str | Path, device: torch.device | str = "cpu") -> VGGish:
    """The network in the published file ``vggish-10086976.pth``; ``published`` downloads it.

    Raises :class:`JudgeError` naming the file and what is wrong with it.
    """
    path = find_weights(source, ADDRESS, FILE, FILE.removesuffix(".pth").rpartition("-")[2])
    weights, digest = read_weights(path, LARGEST, "VGGish")
    return VGGish(weights, digest).to(device)


def _bands() -> Tensor:
    """HTK's triangular filters, equally spaced in mel [bins, bands]; the constant part is left out."""

    def mel(hertz: np.ndarray) -> np.ndarray:
        return 1127.0 * np.log1p(hertz / 700.0)

    edges = np.linspace(mel(np.array(LOWEST)), mel(np.array(HIGHEST)), BANDS + 2)
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    bins = mel(np.arange(N_FFT // 2 + 1) * RATE / N_FFT)[:, None]
    filters = np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre)).clip(min=0)
    filters[0] = 0
    return torch.from_numpy(filters)
