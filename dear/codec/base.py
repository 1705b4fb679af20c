"""The contracts of codecs and vocoders."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from dear.config import VAEConfig, VocoderConfig


class Codec(nn.Module, ABC):
    """Log-mel to tokens of about unit variance, and back.

    It is built from its settings and those of the mel; a kind with ``files`` takes their folder as a third argument.
    """

    Config: ClassVar[type[VAEConfig]]
    # Weights that a checkpoint does not hold, in the folder or repository that ``Config.source`` names.
    files: ClassVar[tuple[str, ...]] = ()
    token_shape: tuple[int, int]  # (L, D)

    @abstractmethod
    def encode(self, mel: Tensor) -> Tensor:
        """mel [B, F, M] log-mel -> tokens [B, L, D]. F may be any multiple of patch_frames; ValueError otherwise."""

    @abstractmethod
    def decode(self, tokens: Tensor) -> Tensor:
        """tokens [B, L, D] -> log-mel [B, F, M], never below the mel's floor."""

    def check_weights(self) -> None:
        """Raises ValueError for weights with which the codec cannot compute."""

    @abstractmethod
    def latents(self, tokens: Tensor) -> Tensor:
        """tokens [B, L, D] -> the same values as a picture [B, Z, F', M']."""


class Vocoder(nn.Module, ABC):
    """Log-mel to waveform; the same mel gives the same samples.

    It is built from its settings and those of the mel; a kind with ``files`` takes their folder as a third argument.
    """

    Config: ClassVar[type[VocoderConfig]]
    files: ClassVar[tuple[str, ...]] = ()  # as for a codec
    weightless: ClassVar[bool] = False  # whether it works without any weights

    @abstractmethod
    def forward(self, mel: Tensor) -> Tensor:
        """mel [B, F, M] log-mel -> waveform [B, F * hop] float32 in [-1, 1]."""

    def draft(self, mel: Tensor) -> Tensor:
        """Like forward, but faster and less exact if the kind supports it."""
        return self(mel)
