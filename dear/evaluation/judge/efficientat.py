"""EfficientAT, a tagger of the 527 classes of AudioSet, read from its published weights.

MobileNetV3 on a log-mel of 128 bands at 32 kHz, trained by distillation from transformers (Schmid, Koutini and Widmer
2023). It hears waveforms, including phase, and was not trained on this project's sounds.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dear.evaluation.judge.weights import Reader, Weights, read_weights
from dear.judge.base import Heard, JudgeError

NAMES = ("class_labels_indices.csv", "audioset527.csv")  # AudioSet's list of names, beside the weights
LARGEST = 128 * 2**20  # bytes; the widest published network has a third of that
RATE = 16_000  # Hz of what is judged
SAMPLES = 10 * RATE
INNER_RATE = 2 * RATE  # Hz of the network
N_FFT, WINDOW, HOP, BANDS, HIGHEST = 1024, 800, 320, 128, 15_000.0
STRIDES = (1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1)  # of the 15 blocks
HARD = 7  # the first block, counted from 1, with hard swish in place of ReLU
EPSILON = 1e-3  # of the batch norms


class EfficientAT(nn.Module):
    """Any width of MobileNetV3 that EfficientAT published with global pooling and one linear classifier (mnXX_as).

    Recordings are judged at 16 kHz, so that they have the bandwidth of generated sounds.
    """

    hears = "waveforms"
    exclusive = False
    measured: Mapping[str, float] = {}
    bands: Tensor  # [bands, bins]
    window: Tensor
    sample_rate, samples = RATE, SAMPLES

    def __init__(self, weights: Weights, names: tuple[str, ...], name: str, digest: str):
        """weights: the published state, by name. Raises :class:`JudgeError` where it is not of this architecture."""
        super().__init__()
        self.name, self.digest, self.names = name, digest, names
        reader = Reader(weights, "EfficientAT's MobileNetV3")
        self.stem = _layer(reader, "features.0", stride=2)
        self.blocks = nn.ModuleList(Block(reader, index, stride) for index, stride in enumerate(STRIDES, 1))
        self.last = _layer(reader, f"features.{len(STRIDES) + 1}")
        self.hidden, self.out = reader.linear("classifier.2"), reader.linear("classifier.5")
        reader.finish()
        if self.out.out_features != len(names):
            raise JudgeError(f"names must be {self.out.out_features}, one for each class, got {len(names)}")
        self.register_buffer("bands", _bands(), persistent=False)
        self.register_buffer("window", torch.hann_window(WINDOW, periodic=False), persistent=False)
        self.eval().requires_grad_(False)

    @torch.inference_mode()
    def hear(self, waveform: Tensor) -> Heard:
        """waveform [B, S] at 16 kHz -> features [B, K], independent probabilities [B, N]."""
        x = nn.functional.hardswish(self.stem(self.log_mel(_doubled(waveform))[:, None]))
        for block in self.blocks:
            x = block(x)
        features = nn.functional.hardswish(self.last(x)).mean(dim=(2, 3))
        return Heard(features, self.out(nn.functional.hardswish(self.hidden(features))).sigmoid())

    def log_mel(self, waveform: Tensor) -> Tensor:
        """waveform [B, S] at 32 kHz -> normalised log-mel [B, bands, frames], after pre-emphasis."""
        emphasised = waveform[:, 1:] - 0.97 * waveform[:, :-1]
        spectrum = torch.stft(emphasised, N_FFT, HOP, WINDOW, self.window, center=True, return_complex=True)
        return ((self.bands @ spectrum.abs().square() + 1e-5).log() + 4.5) / 5


class Block(nn.Module):
    """Inverted residual block: widen, filter each channel, weigh the channels, narrow."""

    def __init__(self, reader: Reader, index: int, stride: int):
        super().__init__()
        self.activate = nn.functional.relu if index < HARD else nn.functional.hardswish
        self.expand: nn.Conv2d | None = None
        self.attention: nn.Sequential | None = None
        parts = iter(range(4))
        name = f"features.{index}.block"
        if reader.look(f"{name}.0.0.weight").shape[1] > 1:
            self.expand = _layer(reader, f"{name}.{next(parts)}")
        self.filter = _layer(reader, f"{name}.{next(parts)}", stride, depthwise=True)
        weigh = f"{name}.{next(parts)}"
        if reader.has(f"{weigh}.conc_se_layers.0.fc1.weight"):
            squeeze, excite = (reader.linear(f"{weigh}.conc_se_layers.0.{layer}") for layer in ("fc1", "fc2"))
            self.attention = nn.Sequential(squeeze, nn.ReLU(), excite, nn.Sigmoid())
            weigh = f"{name}.{next(parts)}"
        self.narrow = _layer(reader, weigh)
        self.residual = stride == 1 and self.narrow.out_channels == (self.expand or self.filter).in_channels

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> [B, C', H / stride, W / stride], each side rounded up."""
        y = x if self.expand is None else self.activate(self.expand(x))
        y = self.activate(self.filter(y))
        if self.attention is not None:
            y = y * self.attention(y.mean(dim=(2, 3)))[:, :, None, None]
        y = self.narrow(y)
        return x + y if self.residual else y


def _layer(reader: Reader, name: str, stride: int = 1, depthwise: bool = False) -> nn.Conv2d:
    return reader.normed(f"{name}.0", f"{name}.1", EPSILON, stride, depthwise)


def load_efficientat(path: str | Path | None) -> EfficientAT:
    """The network in a published file such as ``mn04_as_mAP_432.pt``, with the names of AudioSet from the same folder.

    Raises :class:`JudgeError`, which names the file and the fault.
    """
    if path is None:
        raise JudgeError("judge must name the file of its weights as efficientat:PATH, got no path")
    path = Path(path)
    weights, digest = read_weights(path, LARGEST, "EfficientAT")
    name = f"EfficientAT {path.stem.partition('_mAP')[0]}"
    return EfficientAT(weights, audioset_names(path.parent), name, digest)


def audioset_names(folder: Path) -> tuple[str, ...]:
    """AudioSet's names in the order of their index, from a file of ``folder``. Raises :class:`JudgeError`."""
    path = next((folder / name for name in NAMES if (folder / name).is_file()), None)
    if path is None:
        raise JudgeError(f"{folder} must hold AudioSet's names as {' or '.join(NAMES)}, beside the weights")
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    try:
        return tuple(row["display_name"] for row in sorted(rows, key=lambda row: int(row["index"])))
    except (KeyError, TypeError, ValueError):
        raise JudgeError(f"{path} must have the columns index, mid and display_name") from None


def _bands() -> Tensor:
    """Kaldi's triangular filters, equally spaced in mel [bands, bins]; the bin at the Nyquist frequency is left out."""

    def mel(hertz: np.ndarray) -> np.ndarray:
        return 1127.0 * np.log1p(hertz / 700.0)

    edges = np.linspace(0.0, mel(np.array(HIGHEST)), BANDS + 2)[:, None]
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    bins = mel(np.arange(N_FFT // 2) * INNER_RATE / N_FFT)
    filters = np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre)).clip(min=0)
    return torch.tensor(np.pad(filters, ((0, 0), (0, 1))), dtype=torch.float32)


def _doubled(waveform: Tensor) -> Tensor:
    """waveform [B, S] -> [B, 2 S] at twice the rate."""
    from scipy.signal import resample_poly

    doubled = resample_poly(waveform.numpy(), 2, 1, axis=1, window=_low_pass())
    return torch.from_numpy(np.ascontiguousarray(doubled, dtype=np.float32))


@lru_cache(maxsize=1)
def _low_pass() -> np.ndarray:
    """The filter of soxr's high quality: flat to 7.3 kHz, 130 dB down from 8 kHz.

    SciPy's own is not steep enough. It leaves images above 8 kHz, which change probabilities by up to 0.3.
    """
    from scipy.signal import firwin

    return firwin(389, 7654.97, window=("kaiser", 12.974), fs=INNER_RATE)
