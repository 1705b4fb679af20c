"""The MeanFlow head: average velocities from the MeanFlow identity (Table 4; Geng et al. 2025, arXiv 2505.13447)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor

from dear.heads.velocity import SpanHead, VelocityConfig, draw_times
from dear.settings import Range

LOGIT_MEAN = -0.4  # of logit-normal times (their Table 1d)
ADAPTIVE_FLOOR = 1e-3  # c of the adaptive weight


@dataclass(frozen=True)
class MeanFlowConfig(VelocityConfig):
    kind: str = "meanflow"
    times: Literal["logit-normal", "uniform"] = "logit-normal"  # distribution of times in training
    flow_share: Annotated[float, Range(0, 1)] = 0.75  # of training rows on plain flow matching (its paper's value)
    adaptive_power: Annotated[float, Range(0, 4)] = 1.0  # p of the adaptive loss weight; 0: none


def meanflow_target(
    u: Callable[[Tensor, Tensor, Tensor], Tensor], z: Tensor, r: Tensor, t: Tensor, velocity: Tensor
) -> Tensor:
    """What the MeanFlow identity says ``u(z, r, t)`` [N, D] should be: ``v - (t - r) du/dt`` along the path, detached.

    z, velocity: [N, D]; r, t: [N].
    """
    with torch.no_grad():
        _, rate, *_ = torch.func.jvp(u, (z, r, t), (velocity, torch.zeros_like(r), torch.ones_like(t)))
        return velocity - (t - r)[:, None] * rate


class MeanFlowHead(SpanHead):
    """Average velocity between any two times: one step crosses the whole path; more steps are possible, too."""

    config: MeanFlowConfig
    Config = MeanFlowConfig
    title = "MeanFlow"
    train_passes = 4.0  # the derivative along the path adds one
    toy_iterations = 1500
    # In a short training the adaptive weights of the paper leave too little gradient to rows that are far off.
    toy_options: ClassVar[Mapping[str, Any]] = {
        "levels": 1,
        "adaptive_power": 0.0,
        "flow_share": 0.5,
        "times": "uniform",
    }

    def path_loss(self, target: Tensor, noise: Tensor, context: Tensor, generator: torch.Generator) -> Tensor:
        """Squared distance to the identity's target, times the adaptive weight ``1 / (distance + c)^p``, detached.

        With p = 1 its value is near 1 however good the head is: only its gradient tells.
        """
        rows, config = len(target), self.config
        first, second = (draw_times(config.times, rows, generator, LOGIT_MEAN) for _ in range(2))
        t = torch.maximum(first, second)
        instant = draw_times("uniform", rows, generator) < config.flow_share
        r = torch.where(instant, t, torch.minimum(first, second))
        t, r = t.to(target.device), r.to(target.device)
        z = torch.lerp(target, noise, t[:, None].to(target.dtype))
        wanted = meanflow_target(lambda z, r, t: self(z, r, t, context), z, r, t, noise - target)
        distance = (self(z, r, t, context) - wanted).square().sum(dim=-1)
        return distance / (distance.detach() + ADAPTIVE_FLOOR) ** config.adaptive_power
