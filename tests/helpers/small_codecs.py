"""Sizes of tiny AudioLDM networks, and scenes of noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dear.config import MelConfig
from training.data.scenes import Scene

SMALL = {"block_out_channels": (8, 8, 8), "layers_per_block": 1, "norm_num_groups": 4, "scaling_factor": 0.5}
NARROW = {"upsample_initial_channel": 32, "resblock_kernel_sizes": (3,), "resblock_dilation_sizes": ((1, 3),)}


class Noises:
    """Scenes of coloured noise, in place of a SceneSource."""

    mel = MelConfig(frames=64, samples=10_000)
    settings = {"seed": 0}  # noqa: RUF012 - plain data that nobody changes

    def scene(self, index: int) -> Scene:
        generator = torch.Generator().manual_seed(index)
        wave = torch.randn(self.mel.frames * self.mel.hop_length, generator=generator).cumsum(0)
        return Scene((0.5 * wave / wave.abs().max()).numpy(), "noise", ("rain",), "single")


def improve(task: Any, mels: Callable[[], Tensor], generator: torch.Generator) -> None:
    """Sixty steps of a task of a codec on new mels."""
    optimizer = torch.optim.AdamW(task.module.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        task.loss({"mel": mels()}, generator)["loss"].backward()
        optimizer.step()
