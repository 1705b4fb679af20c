"""Linear lapped codec: overlapping patches, in channels in which noise is independent."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dear.codec.patch import PatchVAE
from dear.config import MelConfig, VAEConfig


@dataclass(frozen=True)
class LappedConfig(VAEConfig):
    kind: str = "lapped"


class LappedVAE(PatchVAE):
    """Linear codec of overlapping patches in noise units, kind "lapped".

    Two properties make errors of a model that draws tokens separately inaudible:

    - An orthogonal filter (Tran, Liang and Tu 2003, type II) mixes the ``patch_frames`` frames around each border of
      two patches; its transpose after decoding turns a patch into a smooth bump that reaches half a patch into its
      neighbours. With adjacent patches, every error of a token is a step at its borders, and steps at a regular rate
      sound like a motor. The filter preserves constants and energy. The first and last half patch stay unfiltered.
    - The channels of a token are uncorrelated both over all sounds and within stationary noise. The log-mel of any
      noise fluctuates in the same way, whatever its level and colour: smoothly in time, since windows overlap. In
      principal components, this fluctuation has a strength that differs by 20 dB between directions, which a model
      has to learn for every sound; roughness where noise is smooth sounds like a motor, too. Here, noise is the same
      independent Gaussian in every channel of every noisy sound.

    ``token = ((patch - mean) @ components) * scale`` as in :class:`PatchVAE`, but ``components`` are not orthonormal:
    ``synthesis`` [D, P] is their inverse on the span that the codec keeps.

    Raises ValueError for an odd ``patch_frames``, and as :class:`PatchVAE`.
    """

    Config: ClassVar[type[VAEConfig]] = LappedConfig
    lap: Tensor  # [patch_frames, patch_frames]
    synthesis: Tensor  # [D, P]

    def __init__(self, vae: VAEConfig, mel: MelConfig):
        super().__init__(vae, mel)
        if vae.patch_frames % 2:
            raise ValueError(f"vae.patch_frames must be even for the lapped codec, got {vae.patch_frames}")
        self.register_buffer("lap", border_filter(vae.patch_frames).float(), persistent=False)
        self.register_buffer("synthesis", self.components.T.contiguous())

    def project(self, tokens: Tensor) -> Tensor:
        """tokens [B, L, D] -> mel [B, F, M] by the affine inverse, which is exact on the span of the components."""
        return self.unpatch((tokens / self.scale) @ self.synthesis + self.mean)

    def patches(self, mel: Tensor) -> Tensor:
        """mel [B, F, M] -> [B, L, P] of the filtered mel. F may be any multiple of patch_frames above 0."""
        self.check(mel)
        return super().patches(self._across(mel, self.lap))

    def unpatch(self, patches: Tensor) -> Tensor:
        """patches [B, L, P] -> mel [B, F, M]: the exact inverse of :meth:`patches`."""
        return self._across(super().unpatch(patches), self.lap.T)

    def _across(self, mel: Tensor, matrix: Tensor) -> Tensor:
        """mel [B, F, M] with ``matrix`` applied to the frames around each border."""
        half = self.patch[0] // 2
        first, borders, last = mel.split((half, mel.shape[1] - 2 * half, half), dim=1)
        mixed = matrix.to(mel) @ borders.unflatten(1, (-1, 2 * half))  # [B, borders, patch_frames, M]
        return torch.cat((first, mixed.flatten(1, 2), last), dim=1)


def border_filter(size: int) -> Tensor:
    """The orthogonal filter over ``size`` frames around a border, ``size`` even: [size, size], float64.

    ``B diag(I, V) B / 2`` with butterflies ``B = [[I, J], [J, -I]]`` and ``V = J C2' C4 J``, where J reverses an order
    and C2 and C4 are cosine transforms of type II and IV.
    """
    half = size // 2
    identity = torch.eye(half, dtype=torch.float64, device="cpu")
    reverse = identity.flip(0)
    butterfly = torch.cat((torch.cat((identity, reverse), 1), torch.cat((reverse, -identity), 1)))
    rotation = reverse @ _cosines(half, 0.0).T @ _cosines(half, 0.5) @ reverse
    return butterfly @ torch.block_diag(identity, rotation) @ butterfly / 2


def _cosines(size: int, shift: float) -> Tensor:
    """Orthonormal cosine transform [size, size] of type II (``shift`` 0) or IV (``shift`` 0.5), float64."""
    index = torch.arange(size, dtype=torch.float64, device="cpu")
    matrix = torch.cos(math.pi / size * torch.outer(index + shift, index + 0.5)) * math.sqrt(2 / size)
    if shift == 0:
        matrix[0] /= math.sqrt(2)
    return matrix
