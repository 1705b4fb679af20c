"""Published networks, read layer by layer from the tensors that their authors released."""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from dear.judge.base import JudgeError

Weights = Mapping[str, Tensor]
PUBLISHED = "published"  # in place of a path: download the file, once
IGNORED = "num_batches_tracked"  # of a batch norm: not needed for inference


class Reader:
    """Builds layers from the published tensors, each read once. ``left`` holds the names of unread tensors."""

    def __init__(self, weights: Weights, network: str):
        """network: its name, for errors."""
        self.weights, self.network = weights, network
        self.left = {name for name in weights if not name.endswith(IGNORED)}

    def has(self, name: str) -> bool:
        return name in self.weights

    def look(self, name: str) -> Tensor:
        """The tensor, which stays to be read. Raises :class:`JudgeError` where there is none of this name."""
        if name not in self.weights:
            raise JudgeError(f"the weights must be those of {self.network}, got none named {name!r}")
        return self.weights[name].float()

    def take(self, name: str) -> Tensor:
        tensor = self.look(name)
        self.left.discard(name)
        return tensor

    def linear(self, name: str) -> nn.Linear:
        weight, bias = self.take(f"{name}.weight"), self.take(f"{name}.bias")
        with torch.device("meta"):  # the layer takes the file's tensors, and no random numbers are drawn
            layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.load_state_dict({"weight": weight, "bias": bias}, assign=True)
        return layer

    def convolution(self, name: str) -> nn.Conv2d:
        """A convolution with bias, which keeps the size."""
        return _convolution(self.take(f"{name}.weight"), self.take(f"{name}.bias"))

    def normed(self, name: str, norm: str, epsilon: float, stride: int = 1, depthwise: bool = False) -> nn.Conv2d:
        """A convolution with the batch norm folded in."""
        weight = self.take(f"{name}.weight")
        scale, shift = self.affine(norm, epsilon)
        return _convolution(weight * scale[:, None, None, None], shift, stride, depthwise)

    def affine(self, norm: str, epsilon: float) -> tuple[Tensor, Tensor]:
        """A batch norm in evaluation: ``scale`` and ``shift`` [C] with ``norm(x) = scale * x + shift``."""
        parts = ("weight", "bias", "running_mean", "running_var")
        scale, bias, mean, variance = (self.take(f"{norm}.{part}") for part in parts)
        scale = scale / (variance + epsilon).sqrt()
        return scale, bias - mean * scale

    def finish(self) -> None:
        """Raises :class:`JudgeError` where a tensor was not read."""
        if self.left:
            raise JudgeError(f"the weights must be those of {self.network}, got {sorted(self.left)[0]}, too")


def _convolution(weight: Tensor, bias: Tensor, stride: int = 1, depthwise: bool = False) -> nn.Conv2d:
    count, inputs, size, _ = weight.shape
    groups = count if depthwise else 1
    with torch.device("meta"):
        layer = nn.Conv2d(inputs * groups, count, size, stride, size // 2, groups=groups)
    layer.load_state_dict({"weight": weight, "bias": bias}, assign=True)
    return layer


def read_weights(path: Path, largest: int, network: str) -> tuple[Weights, str]:
    """The tensors of a PyTorch file by name, and the first 12 digits of its sha256. No code from the file is run.

    largest: bytes. Raises :class:`JudgeError` naming the file and what is wrong with it.
    """
    try:
        size = path.stat().st_size
        if size > largest:
            raise JudgeError(f"{path} must be at most {largest} bytes, got {size}")
        data = path.read_bytes()
    except OSError as error:
        raise JudgeError(f"{path} can't be read as {network}'s weights: {error.strerror}") from None
    try:
        weights = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise JudgeError(f"{path} is not a file of weights: {' '.join(str(error).split()):.200}") from None
    if isinstance(weights, Mapping) and isinstance(weights.get("model"), Mapping):  # beside counters of the training
        weights = weights["model"]
    if not isinstance(weights, Mapping) or not all(isinstance(tensor, Tensor) for tensor in weights.values()):
        raise JudgeError(f"{path} must hold tensors by name, got {type(weights).__name__}")
    return weights, hashlib.sha256(data).hexdigest()[:12]


def find_weights(source: str | Path, address: str, name: str, digest: str | None = None) -> Path:
    """The file that ``source`` names; for ``published`` that at ``address``, downloaded once into PyTorch's cache.

    name: of the file in the cache. digest: the beginning of its sha256, where its publishers state it.
    Raises :class:`JudgeError` where it cannot be downloaded.
    """
    if str(source) != PUBLISHED:
        return Path(source)
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(address, str(path), hash_prefix=digest, progress=False)
        except (OSError, RuntimeError) as error:
            raise JudgeError(f"could not download {address} ({error}); fetch it yourself and name its path") from None
    return path
