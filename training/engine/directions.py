"""The whitening of the energy head's score of directions, from stationary noise through the codec."""

from __future__ import annotations

import torch
from torch import Tensor

from dear.codec.base import Codec
from dear.codec.mel import MelSpectrogram
from dear.config import MelConfig
from dear.heads.energy import EnergyHead
from dear.model import MaskedModel

CLIPS = 16
LEVEL = 0.1  # standard deviation of the noise; another one moves the mean of the tokens, which is removed
FLOOR = 1e-4  # added to the variances, as a share of their mean


@torch.no_grad()
def noise_whitening(vae: Codec, config: MelConfig, start: int) -> Tensor:
    """[K, K] that makes the K channels from ``start`` on independent, with unit variance, in tokens of white noise.

    The log-mel of any stationary noise fluctuates alike, whatever its spectrum. ``vae`` is on the CPU.
    """
    generator = torch.Generator().manual_seed(0)
    noise = LEVEL * torch.randn(CLIPS, config.samples, generator=generator)
    tokens = vae.encode(MelSpectrogram(config)(noise))[..., start:].flatten(0, 1).double()
    covariance = torch.cov(tokens.T).reshape(tokens.shape[1], -1)
    identity = torch.eye(len(covariance), dtype=torch.float64)
    covariance += FLOOR * covariance.diagonal().mean() * identity
    return torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), identity, upper=False).float()


def fit_directions(model: MaskedModel, vae: Codec) -> None:
    """Set the whitening of the model's head, if it scores directions and does not have it from an earlier training."""
    head = model.head
    if not isinstance(head, EnergyHead) or not head.config.directions:
        return
    if torch.equal(head.whitening, torch.eye(len(head.whitening))):
        head.whitening.copy_(noise_whitening(vae, model.config.mel, head.config.direction_from))
