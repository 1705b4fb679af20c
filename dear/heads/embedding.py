"""The time embedding of diffusion and flow heads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

FEATURES = 256


def on_device(times: Sequence[float], device: torch.device) -> Tensor:
    """``times`` [N] as a tensor, filled on the device: a copy from the host would wait for earlier work."""
    return torch.cat([torch.full((1,), time, dtype=torch.float32, device=device) for time in times])


class TimeEmbedding(nn.Module):
    """Time [N] -> [N, width]: sinusoids, then two layers (DiT)."""

    def __init__(self, width: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(FEATURES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        dtype = next(self.mlp.parameters()).dtype
        half = FEATURES // 2
        frequencies = 10000 ** (-torch.arange(half, device=t.device, dtype=torch.float32) / half)
        # Half precision cannot tell neighbouring times apart.
        angles = t[:, None].to(torch.promote_types(t.dtype, torch.float32)) * frequencies
        return self.mlp(torch.cat((angles.cos(), angles.sin()), dim=-1).to(dtype))
