"""The flow matching head: rectified flow with Euler steps (Table 4; Lipman et al. 2023, Liu et al. 2023)."""

from __future__ import annotations

import torch
from torch import Tensor

from dear.heads.velocity import VelocityHead, draw_times


class FlowHead(VelocityHead):
    """Velocity at one time; any number of Euler steps. Its logit-normal times are those of Esser et al. 2024."""

    title = "Flow"

    def path_loss(self, target: Tensor, noise: Tensor, context: Tensor, generator: torch.Generator) -> Tensor:
        """Mean squared error over D of the velocity ``noise - x``."""
        t = draw_times(self.config.times, len(target), generator).to(target.device)
        z = torch.lerp(target, noise, t[:, None].to(target.dtype))
        return (self(z, t, t, context) - (noise - target)).square().mean(dim=-1)
