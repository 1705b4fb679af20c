"""The energy-scoring head: noise in, token out, one step (Section 3.2, Appendix B)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from dear.config import ConfigError, HeadConfig
from dear.heads.base import Draw, Head, matrix_flops
from dear.layers import AdaLNMLP, init_weights
from dear.settings import Range


@dataclass(frozen=True)
class EnergyConfig(HeadConfig):
    kind: str = "energy"
    noise_as: Literal["input", "condition"] = "input"  # Appendix E: (b), or (a), where the context is the input
    samples: Annotated[int, Range(2, 64)] = 2  # m of equation (8)
    # Sizes of consecutive groups of a token's channels, together D, each of which is scored on its own beside the whole
    # token; (): only the whole, as in the paper.
    groups: tuple[Annotated[int, Range(1, 2048)], ...] = ()
    # Divide each score by the distance of the samples: quiet and steady tokens weigh as much as loud and varied ones.
    relative: bool = False
    # Weight of the scores of single channels, beside those of the token and its groups.
    channels: Annotated[float, Range(0, 100)] = 0.0
    # Add the noise itself to the output, scaled for each channel by the context.
    direct_noise: bool = False
    # Add a linear function of the context to the output.
    direct_context: bool = False


# Smallest distance per channel**0.5 that a relative score is divided by.
SPREAD_FLOOR = 0.05


def energy_loss(samples: Tensor, target: Tensor) -> Tensor:
    """Equation (8), which for m = 2 is equation (3): samples [m, N, D], target [N, D] -> [N].

    ``(2 / m) sum_i |x_i - y| - (1 / (m (m - 1))) sum_{i != j} |x_i - x_j|`` with Euclidean norms over D, taken in
    float32 or better. Raises ValueError for fewer than two samples or shapes that do not match.
    """
    m = samples.shape[0]
    if m < 2 or samples.shape[1:] != target.shape:
        raise ValueError(
            f"samples must be [m >= 2, N, D] for target [N, D], got {list(samples.shape)} and {list(target.shape)}"
        )
    precision = torch.promote_types(torch.promote_types(samples.dtype, target.dtype), torch.float32)
    samples, target = samples.to(precision), target.to(precision)
    attraction = torch.linalg.vector_norm(samples - target, dim=-1).sum(0)
    return 2 / m * attraction - spread(samples)


def spread(samples: Tensor) -> Tensor:
    """Mean Euclidean distance of two of the samples [m, ..., D] -> [...]."""
    m = samples.shape[0]
    i, j = torch.triu_indices(m, m, offset=1, device=samples.device)
    # Each unordered pair stands for (i, j) and (j, i).
    return 2 * torch.linalg.vector_norm(samples[i] - samples[j], dim=-1).sum(0) / (m * (m - 1))


class EnergyHead(Head):
    """Residual MLP in the two designs of Appendix E. Noise is the input, and the context enters through adaptive
    LayerNorm; or, in design (a), the reverse.
    """

    config: EnergyConfig
    Config = EnergyConfig
    title = "Energy scoring"
    max_steps = 1
    # Mixed samples are no sample, and would cost a second pass of the head (Appendix F.1).
    guidance_levels = ("representation",)

    def __init__(self, config: EnergyConfig, token_dim: int, context_dim: int):
        super().__init__(config, token_dim, context_dim)
        if config.groups and sum(config.groups) != token_dim:
            raise ConfigError(f"head.groups must sum to the token's {token_dim} channels, got {config.groups!r}")
        if config.noise_as == "input":
            self.context_in = nn.Linear(context_dim, config.width)
            self.net = AdaLNMLP(token_dim, token_dim, config.width, config.depth)
        else:
            self.noise_in = nn.Linear(token_dim, config.width)
            self.net = AdaLNMLP(context_dim, token_dim, config.width, config.depth)
        # The last layer is not zeroed: samples that coincide have no direction to move apart in.
        init_weights(self)
        if config.direct_noise:
            self.direct = nn.Linear(context_dim, token_dim)
            nn.init.zeros_(self.direct.weight)
            nn.init.constant_(self.direct.bias, 0.1)
        if config.direct_context:
            self.linear = nn.Linear(context_dim, token_dim)
            nn.init.zeros_(self.linear.weight)
            nn.init.zeros_(self.linear.bias)

    def forward(self, noise: Tensor, context: Tensor) -> Tensor:
        """noise [..., D], context [N, C] -> tokens [..., D]."""
        if self.config.noise_as == "input":
            tokens = self.net(noise, self.context_in(context))
        else:
            tokens = self.net(context, self.noise_in(noise))
        if self.config.direct_noise:
            tokens = tokens + self.direct(context) * noise
        return tokens + self.linear(context) if self.config.direct_context else tokens

    def loss(self, target: Tensor, context: Tensor, generator: torch.Generator) -> Tensor:
        """Equation (8). With ``groups``, the mean of the scores of the whole token and of groups of its channels; plus
        ``channels`` times the mean score of single channels.

        A norm over many channels depends on their total variance and hardly on its distribution. A mean of proper
        scores that includes the score of the whole token has the same minimum and depends on both. A weight that
        depends only on the context would also keep the minimum. ``relative`` estimates such a weight, one over the
        expected distance of two samples, from the samples.
        """
        shape = (self.config.samples, *target.shape)
        noise = torch.randn(shape, generator=generator, device=generator.device).to(target)
        samples = self(noise, context)
        sizes = self.config.groups or (target.shape[-1],)
        groups = list(zip(samples.split(sizes, dim=-1), target.split(sizes, dim=-1), strict=True))
        parts = [(samples, target), *groups] if self.config.groups else groups
        loss = torch.stack([self.score(*part) for part in parts]).mean(0)
        if self.config.channels:
            scores = [self.score(part[..., None], wanted[..., None]) for part, wanted in groups]
            loss = loss + self.config.channels * torch.stack(scores).mean(0)
        return loss

    def score(self, samples: Tensor, target: Tensor) -> Tensor:
        """samples [m, N, D] or those of K channels [m, N, K, 1], target without m -> [N]."""
        score = energy_loss(samples, target)
        distance = spread(samples.detach().to(score)) if self.config.relative else None
        if score.ndim > 1:  # the channels of a group share one distance, which is less noisy than one of each
            score = score.mean(-1)
            distance = None if distance is None else distance.mean(-1)
        return score if distance is None else score / (distance + SPREAD_FLOOR * target.shape[-1] ** 0.5)

    def sample(
        self,
        context: Tensor,
        null_context: Tensor | None,
        *,
        cfg_scale: float,
        steps: int,
        temperature: float,
        draw: Draw,
    ) -> Tensor:
        """One step; guidance mixes the representations first, ``h = s h_cond + (1 - s) h_uncond`` (equation 9)."""
        self.check_steps(steps)
        return self.guide(context, null_context, cfg_scale)(temperature * draw())

    def loss_flops(self) -> float:
        """The draws share the computations that depend only on the context, which is the condition or the input of the
        network.
        """
        modulations = matrix_flops(self, "modulation.weight")
        if self.config.noise_as == "input":
            shared = matrix_flops(self.context_in) + modulations
        else:
            shared = matrix_flops(self.net.input)
        if self.config.direct_noise:
            shared += matrix_flops(self.direct)
        if self.config.direct_context:
            shared += matrix_flops(self.linear)
        return shared + self.config.samples * (matrix_flops(self) - shared)
