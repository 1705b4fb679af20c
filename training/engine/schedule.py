"""The settings of a training stage, and pure functions of the step: learning rate, decay of the average, seeds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from dear.config import ConfigError

FINAL_LR = 0.05  # the cosine schedule ends at this fraction of the peak


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one training stage. A saved state resumes only under an equal configuration."""

    steps: int  # optimiser steps of the whole run
    batch_size: int  # items per step, over all processes together
    lr: float  # peak learning rate of AdamW
    betas: tuple[float, float] = (0.9, 0.95)  # MAR's
    weight_decay: float = 0.02  # on weight matrices only: no norms, biases, embeddings or bare vectors
    warmup: int = 100  # steps of linear rise to lr
    schedule: str = "cosine"  # cosine: down to 0.05 lr at the last step; constant
    ema: float = 0.999  # decay of the averaged weights; step t uses at most (1 + t) / (10 + t)
    clip: float = 3.0  # largest gradient norm
    precision: str = "no"  # no: float32; bf16: autocast around the loss
    seed: int = 0  # of every random number of the loss
    save_every: int = 500  # steps between saved states
    log_every: int = 50  # steps per line of the log, each the mean over them
    validate_every: int = 0  # steps between calls of the task's validate(); 0: never
    compile: bool = False  # run the networks' blocks through torch.compile, where the task can
    micro_batch: int = 0  # items per forward pass, whose gradients are accumulated; 0: a process's whole share

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "save_every", "log_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)!r}")
        for name in ("validate_every", "seed", "micro_batch"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must be at least 0, got {getattr(self, name)!r}")
        for name in ("lr", "clip"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ConfigError(f"{name} must be a positive number, got {getattr(self, name)!r}")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise ConfigError(f"weight_decay must be a number of at least 0, got {self.weight_decay!r}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"betas must be two numbers in [0, 1), got {self.betas!r}")
        if not 0 <= self.ema < 1:
            raise ConfigError(f"ema must be in [0, 1), got {self.ema!r}")
        if not 0 <= self.warmup <= self.steps:
            raise ConfigError(f"warmup must be from 0 to steps {self.steps}, got {self.warmup!r}")
        if self.schedule not in ("cosine", "constant"):
            raise ConfigError(f"schedule must be one of cosine, constant, got {self.schedule!r}")
        if self.precision not in ("no", "bf16"):
            raise ConfigError(f"precision must be one of no, bf16, got {self.precision!r}")
        if self.micro_batch and self.batch_size % self.micro_batch:
            raise ConfigError(f"micro_batch must divide batch_size {self.batch_size}, got {self.micro_batch!r}")

    def parts(self, processes: int) -> int:
        """Micro-batches of a step over all processes. Raises ConfigError where they cannot be divided evenly."""
        parts = self.batch_size // self.micro_batch if self.micro_batch else processes
        if self.batch_size % parts or parts % processes:
            what = "batch_size / micro_batch" if self.micro_batch else "batch_size"
            got = parts if self.micro_batch else self.batch_size
            raise ConfigError(f"{what} must be a multiple of the {processes} processes, got {got!r}")
        return parts


def learning_rate(config: TrainConfig, step: int) -> float:
    """Learning rate of step ``step``, from 0: linear warm-up, then cosine or constant."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    if config.schedule == "constant":
        return config.lr
    done = (step - config.warmup) / max(1, config.steps - 1 - config.warmup)
    return config.lr * (FINAL_LR + (1 - FINAL_LR) * 0.5 * (1 + math.cos(math.pi * done)))


def ema_decay(config: TrainConfig, step: int) -> float:
    """Decay of the average at step ``step``, from 0: low at first, to forget the initial weights."""
    return min(config.ema, (1 + step) / (10 + step))


def step_seed(seed: int, step: int, part: int = 0) -> int:
    """A 63-bit seed for one micro-batch of one step; neighbouring arguments give unrelated seeds."""
    return int(np.random.SeedSequence([seed, step, part]).generate_state(1, np.uint64)[0]) >> 1


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters in two groups: weight matrices and kernels, which decay, and all the others."""
    embeddings = {id(p) for m in module.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            matrix = parameter.ndim >= 2 and name.endswith("weight") and id(parameter) not in embeddings
            (decayed if matrix else kept).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": kept, "weight_decay": 0.0}]
