"""The contract that every codec keeps."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Codec(nn.Module, ABC):
    """Log-mel to tokens of about unit variance, and back."""

    token_shape: tuple[int, int]  # (L, D)

    @abstractmethod
    def encode(self, mel: Tensor) -> Tensor:
        """mel [B, F, M] log-mel -> tokens [B, L, D]. F may be any multiple of patch_frames; ValueError otherwise."""

    @abstractmethod
    def decode(self, tokens: Tensor) -> Tensor:
        """tokens [B, L, D] -> log-mel [B, F, M], never below the mel's floor."""

    @abstractmethod
    def latents(self, tokens: Tensor) -> Tensor:
        """tokens [B, L, D] -> the same values as a picture [B, Z, F', M']."""
