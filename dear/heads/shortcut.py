"""The shortcut head: velocities for steps of a given size (Table 4; Frans et al. 2025, arXiv 2410.12557)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor
from torch.func import functional_call

from dear.config import MAX_STEPS, ConfigError
from dear.heads.velocity import SpanHead, VelocityConfig, draw_times
from dear.settings import Range


@dataclass(frozen=True)
class ShortcutConfig(VelocityConfig):
    kind: str = "shortcut"
    flow_share: Annotated[float, Range(0, 1)] = 0.75  # of training rows on plain flow matching (its paper's value)
    # The most sampling steps, a power of two; the step sizes in between are trained.
    max_steps: Annotated[int, Range(2, 1024)] = 128
    # Whose half steps are the targets: the head's own, or those of its averaged weights, as in the published code.
    targets: Literal["current", "averaged"] = "current"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_steps & (self.max_steps - 1):
            raise ConfigError(f"head.max_steps must be a power of two, got {self.max_steps!r}")


def shortcut_target(s: Callable[[Tensor, Tensor, Tensor], Tensor], z: Tensor, r: Tensor, t: Tensor) -> Tensor:
    """The velocity of the two half steps of ``s(z, r, t)`` [N, D] that lead from z [N, D] at t [N] down to r [N]."""
    middle = (r + t) / 2
    first = s(z, middle, t)
    return (first + s(z - (t - middle)[:, None].to(z.dtype) * first, r, middle)) / 2


class ShortcutHead(SpanHead):
    """Velocity for steps of sizes 1, 1/2, ..., 1 / ``max_steps``; the last stands for an instant."""

    config: ShortcutConfig
    Config = ShortcutConfig
    title = "Shortcut"
    toy_iterations = 2600

    def __init__(self, config: ShortcutConfig, token_dim: int, context_dim: int):
        super().__init__(config, token_dim, context_dim)
        self.max_steps = min(config.max_steps, MAX_STEPS)
        # The half steps add two forward passes on the rows that are not plain flow matching.
        self.wants_average = config.targets == "averaged"
        self.train_passes = 3 + 2 * (1 - config.flow_share)

    def embed(self, r: Tensor, t: Tensor) -> Tensor:
        """Times r, t [N] -> [N, width]."""
        return super().embed(torch.where(t - r > 1.5 / self.config.max_steps, r, t), t)

    def path_loss(
        self,
        target: Tensor,
        noise: Tensor,
        context: Tensor,
        generator: torch.Generator,
        null_context: Tensor | None = None,
    ) -> Tensor:
        """Mean squared error over D: on ``flow_share`` of the rows of the velocity ``noise - x``, on the others, the
        first ones, of the velocity that two half steps of the head make."""
        rows, config = len(target), self.config
        leaps = round((1 - config.flow_share) * rows)  # as many in each batch, so that no device is asked how many
        t = draw_times("uniform", rows, generator)
        halvings = torch.randint(config.max_steps.bit_length() - 1, (leaps,), generator=generator, device=t.device)
        span = torch.exp2(-halvings.float())
        # Sampling takes a step of this size from its multiples only.
        t = torch.cat(((torch.floor(t[:leaps] / span) + 1) * span, t[leaps:]))
        r = torch.cat((t[:leaps] - span, t[leaps:]))
        t, r = t.to(target.device), r.to(target.device)
        z = torch.lerp(target, noise, t[:, None].to(target.dtype))
        with torch.no_grad():
            part, average = context[:leaps].detach(), self.average or {}
            step = lambda *inputs: functional_call(self, dict(average), (*inputs, part))  # noqa: E731 - one branch
            consistent = shortcut_target(step, z[:leaps], r[:leaps], t[:leaps])
        wanted = torch.cat((consistent.to(target.dtype), (noise - target)[leaps:]))
        return (self(z, r, t, context) - wanted).square().mean(dim=-1)

    def schedule(self, steps: int) -> list[float]:
        """Each step has a trained size for any number of ``steps``: the first ones are halves of the others."""
        whole = 1 << steps.bit_length() - 1
        halved = steps - whole
        return [1 - step / (2 * whole) for step in range(2 * halved)] + [
            1 - step / whole for step in range(halved, whole + 1)
        ]
