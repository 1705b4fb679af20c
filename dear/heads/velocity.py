"""Flow matching and its few-step variants: a straight path, velocities along it, and Euler steps."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from dear.config import HeadConfig
from dear.heads.base import Draw, Head
from dear.heads.embedding import TimeEmbedding, on_device
from dear.layers import AdaLNMLP, init_weights
from dear.settings import Range


@dataclass(frozen=True)
class VelocityConfig(HeadConfig):
    levels: Annotated[int, Range(1, 1024)] = 4  # draws of noise and times per token and training step


def draw_times(kind: str, rows: int, generator: torch.Generator, mean: float = 0.0) -> Tensor:
    """Times [rows] from 0 to 1, on the generator's device: "uniform", or "logit-normal" around the logit ``mean``."""
    if kind == "uniform":
        return torch.rand(rows, generator=generator, device=generator.device)
    return (mean + torch.randn(rows, generator=generator, device=generator.device)).sigmoid()


class VelocityHead(Head):
    """Moves a token along ``z_t = (1 - t) x + t noise``, from noise at t = 1 to data at t = 0, by velocities."""

    config: VelocityConfig
    toy_options: ClassVar[Mapping[str, Any]] = {"levels": 1}

    def __init__(self, config: VelocityConfig, token_dim: int, context_dim: int):
        super().__init__(config, token_dim, context_dim)
        self.context_in = nn.Linear(context_dim, config.width)
        self.time_in = TimeEmbedding(config.width)
        self.net = AdaLNMLP(token_dim, token_dim, config.width, config.depth)
        init_weights(self)

    def forward(self, z: Tensor, r: Tensor, t: Tensor, context: Tensor) -> Tensor:
        """z [N, D] at times t [N], context [N, C] -> velocity [N, D] for the step from t down to r [N]."""
        return self.move(z, self.embed(r, t), self.context_in(context))

    def move(self, z: Tensor, times: Tensor, context: Tensor) -> Tensor:
        """:meth:`forward` with times and context embedded, [N, width]."""
        return self.net(z, context + times)

    def embed(self, r: Tensor, t: Tensor) -> Tensor:
        """Times r, t [N] -> [N, width]. Here an instant is known, and where the step ends is not."""
        return self.time_in(t)

    @abstractmethod
    def path_loss(
        self, target: Tensor, noise: Tensor, context: Tensor, generator: torch.Generator, null_context: Tensor | None
    ) -> Tensor:
        """Both ends of the path [N, D], contexts [N, C] -> loss [N] at times drawn from ``generator``.

        null_context: given where the head wants it.
        """

    def loss(
        self, target: Tensor, context: Tensor, generator: torch.Generator, null_context: Tensor | None = None
    ) -> Tensor:
        """Mean of :meth:`path_loss` over ``levels`` draws of noise and times per token."""
        count, levels = target.shape[0], self.config.levels
        target, context = target.repeat(levels, 1), context.repeat(levels, 1)
        null_context = None if null_context is None else null_context.repeat(levels, 1)
        noise = torch.randn(target.shape, generator=generator, device=generator.device).to(target)
        return self.path_loss(target, noise, context, generator, null_context).view(levels, count).mean(dim=0)

    def loss_flops(self) -> float:
        return self.config.levels * super().loss_flops()

    def schedule(self, steps: int) -> list[float]:
        """The ``steps`` + 1 times of a sample, from 1 down to 0."""
        return [1 - step / steps for step in range(steps + 1)]

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
        """``steps`` steps ``z_r = z_t - (t - r) u(z_t, r, t)``; temperature scales the noise at the start.

        Guidance mixes the velocities by default for steps of any size: one rule for any number of steps, which
        is that of flow matching where they are many, and there mixed representations fail (Table 8).
        """
        self.check_steps(steps)
        context = self.context_in(context)
        null_context = None if null_context is None else self.context_in(null_context)
        predict = self.guide(context, null_context, cfg_scale, self.move)
        schedule = self.schedule(steps)
        times = on_device(schedule, context.device)
        embedded = self.embed(times[1:], times[:-1])
        noise = draw()
        # In half precision many small steps would be lost to rounding.
        z = temperature * noise.to(torch.promote_types(noise.dtype, torch.float32))
        for step, (t, r) in enumerate(pairwise(schedule)):
            velocity = predict(z.to(noise.dtype), embedded[step].expand(len(z), -1))
            z = z - (t - r) * velocity.to(z.dtype)
        return z.to(noise.dtype)


class SpanHead(VelocityHead):
    """Velocities that know the length of their step, as a second time."""

    def __init__(self, config: VelocityConfig, token_dim: int, context_dim: int):
        super().__init__(config, token_dim, context_dim)
        self.span_in = TimeEmbedding(config.width)
        init_weights(self.span_in)

    def embed(self, r: Tensor, t: Tensor) -> Tensor:
        """Times r, t [N] -> [N, width]."""
        return self.time_in(t) + self.span_in(t - r)
