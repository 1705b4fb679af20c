"""The interfaces of a task and of an observer of the training loop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module, covariant=True)


class Task(Protocol[M]):
    """A module to train, its data and its loss. A task may also define:

    - ``settings``: plain data (numbers, strings, lists, dicts), or dataclasses of it, that identifies the task, such as
      the model's configuration and the digests of its cache and initial weights. A saved state with other settings is
      refused, except for dataclass fields that were added since and have their default values.
    - ``validate() -> dict[str, float]``: called without gradients while ``module`` holds the averaged weights.
    - ``follow(averages)``: called once before the first step with the averaged parameters, by name, which the run goes
      on updating in place.
    - ``fit()``: called once before the first step of a new run, without gradients and in the first process only, to
      fill buffers of ``module`` from the data. The other processes receive its buffers.
    - ``compile()``: called once before the first step, if the configuration has ``compile``.
    """

    @property
    def module(self) -> M:
        """The module whose parameters are trained."""

    def batch(self, step: int, items: slice) -> Mapping[str, Tensor]:
        """Tensors [B, ...] of step ``step``, counted from 0.

        A pure function, called in a second thread without gradients.
        items: which of the ``batch_size`` items to return; process r of W asks for r, r + W, ...
        """

    def loss(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> Mapping[str, Tensor]:
        """The scalar ``loss`` of one micro-batch, with a gradient, and further scalars to log.

        batch: on the module's device. generator: on the CPU, the only source of random numbers.
        """


@runtime_checkable
class Validated(Protocol):
    """A task that measures itself; see :class:`Task`."""

    def validate(self) -> Mapping[str, float]: ...


@runtime_checkable
class Compiled(Protocol):
    """A task with networks to compile; see :class:`Task`."""

    def compile(self) -> None: ...


@runtime_checkable
class Following(Protocol):
    """A task that uses the averaged weights; see :class:`Task`."""

    def follow(self, averages: Mapping[str, Tensor]) -> None: ...


@runtime_checkable
class Fitted(Protocol):
    """A task that fills buffers from its data; see :class:`Task`."""

    def fit(self) -> None: ...


class Observer(Protocol):
    """Follows a run in its first process, without any effect on it."""

    per_step: Mapping[str, float]  # amounts of one step, such as tokens, which the log gives per second as ``speed``
    every: int  # steps between calls of show(), which is also called after the last step; 0: never
    keep_every: int  # steps between calls of keep(); 0: never

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """values: one line of the log, numbers or objects of numbers."""

    def show(self, step: int) -> None:
        """Called without gradients while the task's ``module`` holds the averaged weights."""

    def keep(self, step: int) -> None:
        """Called likewise, to keep these weights."""


class Objective(nn.Module):
    """A task's loss as a forward pass, so that Accelerate's wrappers apply to it and average its gradients."""

    def __init__(self, task: Task[nn.Module], precision: str):
        super().__init__()
        self.loss, self.precision = task.loss, precision
        self.module = task.module

    def forward(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> Mapping[str, Tensor]:
        device = next(iter(batch.values())).device.type
        # Accelerate's own autocast is fixed by the first Accelerator of a process; stages of one run may differ.
        with torch.autocast(device, torch.bfloat16, enabled=self.precision == "bf16"):
            return self.loss(batch, generator)
