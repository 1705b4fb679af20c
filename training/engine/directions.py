"""The matrices of the energy head's scores of directions and innovations, from stationary noise through the codec."""

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
INNOVATION_FLOOR = 1e-3  # likewise; directions in which noise hardly varies tell little of other sounds


def noise_tokens(vae: Codec, config: MelConfig) -> Tensor:
    """Tokens [CLIPS, L, D] of white noise, in float64. ``vae`` is on the CPU."""
    generator = torch.Generator().manual_seed(0)
    noise = LEVEL * torch.randn(CLIPS, config.samples, generator=generator)
    return vae.encode(MelSpectrogram(config)(noise)).double()


@torch.no_grad()
def noise_whitening(vae: Codec, config: MelConfig, start: int) -> Tensor:
    """[K, K] that makes the K channels from ``start`` on independent, with unit variance, in tokens of white noise.

    The log-mel of any stationary noise fluctuates alike, whatever its spectrum. ``vae`` is on the CPU.
    """
    tokens = noise_tokens(vae, config)[..., start:].flatten(0, 1)
    covariance = torch.cov(tokens.T).reshape(tokens.shape[1], -1)
    identity = torch.eye(len(covariance), dtype=torch.float64)
    covariance += FLOOR * covariance.diagonal().mean() * identity
    return torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), identity, upper=False).float()


@torch.no_grad()
def innovation_basis(vae: Codec, config: MelConfig) -> Tensor:
    """[D, D] whose rows are the principal directions of what the tokens beside a token of white noise leave open,
    sorted by variance and divided by its root. ``vae`` is on the CPU.
    """
    tokens = noise_tokens(vae, config)
    tokens = tokens - tokens.mean(dim=(0, 1))
    beside = torch.cat((tokens[:, :-2], tokens[:, 2:]), dim=2).flatten(0, 1)
    token = tokens[:, 1:-1].flatten(0, 1)
    open_ = token - beside @ torch.linalg.lstsq(beside, token).solution
    variances, directions = torch.linalg.eigh(torch.cov(open_.T).reshape(token.shape[1], -1))
    return (directions / (variances + INNOVATION_FLOOR * variances.mean()).sqrt()).T.float()


def fit_directions(model: MaskedModel, vae: Codec) -> None:
    """Set the matrices of the scores that the model's head uses, if it does not have them from an earlier training."""
    head, mel = model.head, model.config.mel
    if not isinstance(head, EnergyHead):
        return
    if head.config.directions and _is_new(head.whitening):
        head.whitening.copy_(noise_whitening(vae, mel, head.config.direction_from))
    if head.config.innovations and _is_new(head.innovation_basis):
        head.innovation_basis.copy_(innovation_basis(vae, mel))


def _is_new(matrix: Tensor) -> bool:
    return torch.equal(matrix, torch.eye(len(matrix)))
