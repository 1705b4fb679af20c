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
    # Guidance within training (its Section 4.2): velocities are omega v + kappa u(z, t, t) + (1 - omega - kappa) times
    # the unconditional u(z, t, t), a guidance scale of omega / (1 - kappa). Samples are then drawn with cfg_scale 1.
    omega: Annotated[float, Range(0, 20)] = 1.0
    kappa: Annotated[float, Range(0, 0.99)] = 0.0


def meanflow_target(
    u: Callable[[Tensor, Tensor, Tensor], Tensor], z: Tensor, r: Tensor, t: Tensor, velocity: Tensor
) -> Tensor:
    """The target of ``u(z, r, t)`` [N, D] by the MeanFlow identity: ``v - (t - r) du/dt`` along the path, detached.

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
    train_passes = 4.0  # the derivative along the path adds one; guidance within training one or two more
    toy_iterations = 1500
    # In a short training the adaptive weights of the paper leave too little gradient to rows that are far off.
    toy_options: ClassVar[Mapping[str, Any]] = {
        "levels": 1,
        "adaptive_power": 0.0,
        "flow_share": 0.5,
        "times": "uniform",
    }

    def __init__(self, config: MeanFlowConfig, token_dim: int, context_dim: int):
        super().__init__(config, token_dim, context_dim)
        self.wants_null_context = config.omega + config.kappa != 1
        self.train_passes = 4.0 + self.wants_null_context + (config.kappa > 0)

    def path_loss(
        self,
        target: Tensor,
        noise: Tensor,
        context: Tensor,
        generator: torch.Generator,
        null_context: Tensor | None = None,
    ) -> Tensor:
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
        velocity = self.guided(noise - target, z, t, context, null_context)
        wanted = meanflow_target(lambda z, r, t: self(z, r, t, context), z, r, t, velocity)
        distance = (self(z, r, t, context) - wanted).square().sum(dim=-1)
        return distance / (distance.detach() + ADAPTIVE_FLOOR) ** config.adaptive_power

    @torch.no_grad()
    def guided(self, velocity: Tensor, z: Tensor, t: Tensor, context: Tensor, null_context: Tensor | None) -> Tensor:
        """The velocities [N, D] that training follows, of the path's own, at z [N, D] and t [N].

        Rows whose condition is dropped follow ``omega v + (1 - omega) u(z, t, t)``, whose fixed point is v.
        """
        omega, kappa = self.config.omega, self.config.kappa
        mixed = omega * velocity
        if kappa:
            mixed = mixed + kappa * self(z, t, t, context)
        if self.wants_null_context:
            if null_context is None:
                raise ValueError("null_context must be given for guidance within training, got None")
            mixed = mixed + (1 - omega - kappa) * self(z, t, t, null_context)
        return mixed
