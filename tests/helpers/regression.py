"""A task that trains in a moment, and a configuration for it."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from torch import nn

from training.engine.schedule import TrainConfig


class Regression:
    """A noisy linear map to be learnt by a two-layer network with dropout; ``delay`` seconds per batch."""

    def __init__(self, delay: float = 0.0, settings: dict | None = None):
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            self.module = nn.Sequential(
                nn.Linear(6, 16), nn.LayerNorm(16), nn.Dropout(0.1), nn.GELU(), nn.Linear(16, 3)
            )
            self.truth = torch.randn(6, 3)
        self.delay = delay
        self.settings = settings or {"width": 16}
        self.asked: list[int] = []

    def batch(self, step: int, items: slice = slice(None)) -> dict[str, torch.Tensor]:
        self.asked.append(step)
        time.sleep(self.delay)
        return {"x": torch.randn(8, 6, generator=torch.Generator().manual_seed(step))[items]}

    def loss(self, batch: dict[str, torch.Tensor], generator: torch.Generator) -> dict[str, torch.Tensor]:
        noise = 0.05 * torch.randn(8, 3, generator=generator)
        error = self.module(batch["x"]) - batch["x"] @ self.truth - noise
        return {"loss": error.square().mean(), "bias": error.detach().mean()}

    def validate(self) -> dict[str, float]:
        return {"norm": float(self.module[0].weight.norm())}


def config(**changes) -> TrainConfig:
    values = {"steps": 40, "batch_size": 8, "lr": 2e-2, "warmup": 5, "ema": 0.9, "save_every": 7, "log_every": 5}
    return TrainConfig(**{**values, **changes})


def states(folder: Path) -> dict:
    """The saved state of a run."""
    return torch.load(folder / "state.pt", weights_only=True)
