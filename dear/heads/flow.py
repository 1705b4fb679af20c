"""The flow matching head: rectified flow with Euler steps (Table 4; Lipman et al. 2023, Liu et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dear.heads.velocity import VelocityConfig, VelocityHead, draw_times


@dataclass(frozen=True)
class FlowConfig(VelocityConfig):
    kind: str = "flow"
    times: Literal["logit-normal", "uniform"] = "logit-normal"  # distribution of times in training


class FlowHead(VelocityHead):
    """Velocity at one time; any number of Euler steps. Its logit-normal times are those of Esser et al. 2024."""

    config: FlowConfig
    Config = FlowConfig
    title = "Flow"

    def path_loss(
        self,
        target: Tensor,
        noise: Tensor,
        context: Tensor,
        generator: torch.Generator,
        null_context: Tensor | None = None,
    ) -> Tensor:
        """Mean squared error over D of the velocity ``noise - x``."""
        t = draw_times(self.config.times, len(target), generator).to(target.device)
        z = torch.lerp(target, noise, t[:, None].to(target.dtype))
        return (self(z, t, t, context) - (noise - target)).square().mean(dim=-1)
