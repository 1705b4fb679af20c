"""The classifier trained by this repository: a small convolutional network on log-mels, and its file format.

It hears mels only, and so neither phase nor anything else that a log-mel does not show: a vocoder that keeps the mel
scores well however it sounds. ``dear.evaluation.judge.efficientat`` hears waveforms.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from dear.bundled import bundled
from dear.codec.mel import MelSpectrogram
from dear.config import ConfigError, MelConfig, from_dict
from dear.files import write_atomically
from dear.judge.base import Heard, JudgeError

BUNDLED = bundled("classifier")
RANGE = 10.0  # natural-log units below a clip's loudest mel value at which levels are clamped (87 dB)
SPECTRUM = ("sample_rate", "n_fft", "hop_length", "n_mels", "f_min", "f_max", "floor")  # what makes a mel comparable


class ClassifierError(JudgeError):
    """A classifier's folder that is missing, damaged, or made for another spectrogram."""


@dataclass(frozen=True)
class ClassifierConfig:
    """The contents of ``config.json`` beside the weights."""

    labels: tuple[str, ...] = ()  # K classes, in the order of the logits
    mel: MelConfig = field(default_factory=MelConfig)  # the spectrogram that the network was trained on
    channels: tuple[int, ...] = (24, 48, 80, 104, 128)  # of the stem and of each block behind it
    width: int = 128  # W, values of a clip's features
    measured: Mapping[str, float] = field(default_factory=dict)  # accuracy on clips that training never saw
    digest: str = ""  # sha256 of model.safetensors: the two files belong together

    def __post_init__(self) -> None:
        if len(self.labels) < 2 or len(set(self.labels)) != len(self.labels):
            raise ConfigError(f"labels must be two or more different names, got {list(self.labels)!r}")
        if len(self.channels) < 2 or any(c < 8 or c % 8 for c in self.channels):
            raise ConfigError(f"channels must be two or more multiples of 8, got {list(self.channels)!r}")
        if self.width < 1:
            raise ConfigError(f"width must be at least 1, got {self.width!r}")


class Block(nn.Module):
    """Downsample by two, widen the channels, and add a residual convolution."""

    def __init__(self, channels: int, wider: int):
        super().__init__()
        self.down = nn.Conv2d(channels, wider, 3, stride=2, padding=1, bias=False)
        self.down_norm = nn.GroupNorm(8, wider)
        self.conv = nn.Conv2d(wider, wider, 3, padding=1, bias=False)
        self.conv_norm = nn.GroupNorm(8, wider)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, channels, F, M] -> [B, wider, F / 2, M / 2], each side rounded up."""
        x = nn.functional.silu(self.down_norm(self.down(x)))
        return x + nn.functional.silu(self.conv_norm(self.conv(x)))


class SoundClassifier(nn.Module):
    """Log-mel [B,F,M] of any number of frames -> features [B,W] and logits [B,K]; as a judge, from waveforms.

    Levels are relative to the loudest mel value of the clip. Group norms make an item independent of its batch and of
    the training mode.
    """

    name = "SoundClassifier"
    hears = "mels"
    exclusive = True

    def __init__(self, config: ClassifierConfig):
        super().__init__()
        self.config = config
        self.spectrogram = MelSpectrogram(config.mel)  # has no weights
        first, last = config.channels[0], config.channels[-1]
        self.stem = nn.Conv2d(2, first, 5, stride=2, padding=2, bias=False)
        self.stem_norm = nn.GroupNorm(8, first)
        self.blocks = nn.Sequential(*(Block(a, b) for a, b in zip(config.channels, config.channels[1:], strict=False)))
        self.embed = nn.Linear(2 * last, config.width)
        self.head = nn.Linear(config.width, len(config.labels))

    @property
    def labels(self) -> tuple[str, ...]:
        return self.config.labels

    @property
    def names(self) -> tuple[str, ...]:
        return self.config.labels

    @property
    def measured(self) -> Mapping[str, float]:
        return self.config.measured

    @property
    def digest(self) -> str:
        return self.config.digest[:12]

    @property
    def sample_rate(self) -> int:
        return self.config.mel.sample_rate

    @property
    def samples(self) -> int:
        return self.config.mel.samples

    @torch.inference_mode()
    def hear(self, waveform: Tensor) -> Heard:
        """waveform [B,S] -> features [B,W], probabilities [B,K] that sum to 1."""
        found = self.features(self.spectrogram(waveform))
        return Heard(found, self.head(found).softmax(dim=1))

    def features(self, mel: Tensor) -> Tensor:
        """mel [B,F,M], natural logarithm -> penultimate features [B,W]."""
        if mel.ndim != 3 or mel.shape[1] < 1 or mel.shape[2] != self.config.mel.n_mels:
            raise ClassifierError(f"mel must have shape [B, F, {self.config.mel.n_mels}], got {list(mel.shape)}")
        level = (mel - mel.amax(dim=(1, 2), keepdim=True)).clamp_min(-RANGE) / (RANGE / 2) + 1  # in [-1, 1]
        pitch = torch.linspace(-1, 1, mel.shape[2], dtype=mel.dtype, device=mel.device).expand_as(mel)
        x = torch.stack((level, pitch), dim=1).contiguous(memory_format=torch.channels_last)
        x = self.blocks(nn.functional.silu(self.stem_norm(self.stem(x))))
        pooled = torch.cat((x.mean(dim=(2, 3)), x.amax(dim=(2, 3))), dim=1)
        return nn.functional.silu(self.embed(pooled))

    def forward(self, mel: Tensor) -> Tensor:
        """mel [B,F,M], natural logarithm -> logits [B,K]."""
        return self.head(self.features(mel))


def load_classifier(folder: str | Path | None = None, mel: MelConfig | None = None) -> SoundClassifier:
    """The classifier saved in ``folder`` (None: the bundled one), in float32 and evaluation mode.

    With ``mel``, also checks that the network was trained on that kind of spectrogram (its length may differ).
    Raises :class:`ClassifierError` that names the file and what is wrong with it.
    """
    folder = BUNDLED if folder is None else Path(folder)
    text, weights = _read(folder / "config.json").decode("utf-8", "replace"), _read(folder / "model.safetensors")
    try:
        config = from_dict(ClassifierConfig, json.loads(text))
    except (json.JSONDecodeError, ConfigError) as error:
        raise ClassifierError(f"{folder / 'config.json'} is not a classifier's configuration: {error}") from None
    if hashlib.sha256(weights).hexdigest() != config.digest:
        raise ClassifierError(
            f"{folder / 'model.safetensors'} is damaged or belongs to another config.json: its sha256 is not "
            f"{config.digest[:12] or 'stated'}; train it again with python -m training.classifier"
        )
    if mel is not None:
        check_mel(config.mel, mel)
    model = SoundClassifier(config)
    try:
        model.load_state_dict({name: tensor.float() for name, tensor in load_tensors(weights).items()})
    except (SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ClassifierError(f"{folder / 'model.safetensors'} does not fit its config.json: {reason}") from None
    return model.eval().requires_grad_(False)


def check_mel(trained: MelConfig, given: MelConfig) -> None:
    """Raise :class:`ClassifierError` naming the first field in which two spectrograms are of different kinds."""
    for name in SPECTRUM:
        want, got = getattr(trained, name), getattr(given, name)
        if want != got:
            raise ClassifierError(f"mel.{name} must be {want!r}, which the classifier was trained on, got {got!r}")


def save_classifier(
    folder: str | Path, model: SoundClassifier, measured: Mapping[str, float] | None = None, card: str | None = None
) -> None:
    """Write ``config.json``, ``model.safetensors`` (float16) and, where given, the model card ``README.md``.

    Each file is replaced atomically; the digest in the configuration tells a half-replaced folder from a whole one.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = save_tensors({name: tensor.half().contiguous() for name, tensor in model.state_dict().items()})
    config = asdict(model.config)
    config |= {"digest": hashlib.sha256(weights).hexdigest()}
    if measured is not None:
        config |= {"measured": dict(measured)}
    _write(folder / "model.safetensors", weights)
    if card is not None:
        _write(folder / "README.md", card.encode())
    _write(folder / "config.json", (json.dumps(config, indent=2) + "\n").encode())


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ClassifierError(
            f"{path} can't be read ({error.strerror}); train a classifier with python -m training.classifier"
        ) from None


def _write(path: Path, data: bytes) -> None:
    write_atomically(path, lambda file: file.write(data))
