"""Training of the decoder that draws the detail of a sound."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dear.codec.detail import DetailVAE
from dear.heads.energy import energy_score
from training.engine.codec import CodecTask

SAMPLES = 3  # draws of each scene
GROUP = 32  # channels that are scored together; a norm over many hardly depends on how their variance is distributed
TOKEN_NOISE = 0.1  # largest standard deviation of the noise on tokens, which are a model's later


class TrainDetail(CodecTask[DetailVAE]):
    """A :class:`training.engine.task.Task`: train the decoder of :class:`dear.codec.detail.DetailVAE` on scenes.

    Loss: energy scores (equation 8) of groups of channels, of the same groups of two adjacent tokens, of single
    channels, and of the whole detail, each relative to the distance of two draws. The scores of pairs teach the decoder
    how the detail continues from token to token.
    """

    def loss(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        channels = self.module.encode_all(batch["mel"])
        tokens, detail = channels.split((self.module.token_shape[1], self.module.detail_dim), dim=-1)
        disturbed = TOKEN_NOISE * torch.rand(len(tokens), 1, 1, generator=generator).to(tokens)
        tokens = tokens + disturbed * torch.randn(tokens.shape, generator=generator).to(tokens)
        noise = torch.randn(SAMPLES, *detail.shape, generator=generator).to(tokens)
        return {"loss": detail_loss(self.module.detail(tokens, noise), detail)}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """The loss on the held-out mels, and the variance of the drawn detail over that of the recordings'."""
        channels = self.module.encode_all(self.held_out.to(self.module.mean.device))
        tokens, detail = channels.split((self.module.token_shape[1], self.module.detail_dim), dim=-1)
        noise = torch.randn(SAMPLES, *detail.shape, generator=torch.Generator().manual_seed(0)).to(tokens)
        drawn = self.module.detail(tokens, noise)
        return {
            "loss": detail_loss(drawn, detail).item(),
            "variance": (drawn.square().mean() / detail.square().mean()).item(),
        }


def detail_loss(drawn: Tensor, detail: Tensor) -> Tensor:
    """The mean score of draws [m, B, L, E] of a detail [B, L, E], see :class:`TrainDetail`."""
    scored = [(drawn, detail)]
    for part, wanted in zip(drawn.split(GROUP, dim=-1), detail.split(GROUP, dim=-1), strict=True):
        scored += [(part, wanted), (pairs(part), pairs(wanted)), (part[..., None], wanted[..., None])]
    scores = [energy_score(some.flatten(1, 2), one.flatten(0, 1), relative=True) for some, one in scored]
    return torch.stack([each.mean() for each in scores]).mean()


def pairs(channels: Tensor) -> Tensor:
    """The channels of adjacent tokens beside each other: [..., L, K] -> [..., L - 1, 2 K]."""
    return torch.cat((channels[..., :-1, :], channels[..., 1:, :]), dim=-1)
