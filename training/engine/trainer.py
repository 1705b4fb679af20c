"""The one training loop, on Accelerate: codec, classifier, teacher and student differ only by their :class:`Task`.

Step s of a run depends on the weights, the optimiser and s alone: the batch is a pure function of s, and every
random number, that of dropout included, comes from a generator seeded by ``(config.seed, s)``. So the step is the
whole random state of a checkpoint, and a run that was killed and started again reaches, bit for bit, the weights of
one that was never stopped (on the same machine, with the same number of threads).

A step's batch is dealt to K micro-batches: item j belongs to micro-batch j % K, whose random numbers come from a
generator of its own, seeded by ``(config.seed, s, micro-batch)``, and micro-batch k to process k % W of W. The loss of
a step is the mean over its micro-batches of what the task returns for each. With ``micro_batch`` K is the
configuration's, so a run is the same on any number of processes that divides K, up to the order in which gradients are
added; without, K is W. The order of a cache in shards follows K, too.
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from dear.config import ConfigError
from dear.files import write_atomically
from training.engine.ema import EMA
from training.engine.schedule import TrainConfig, ema_decay, learning_rate, parameter_groups, step_seed
from training.runtime.interrupts import deferred_signals
from training.runtime.lock import BusyError, locked
from training.runtime.progress import Progress
from training.runtime.stamps import StampError, completed, difference, plain

__all__ = [
    "Observer",
    "StateError",
    "Task",
    "TrainConfig",
    "ema_decay",
    "learning_rate",
    "parameter_groups",
    "step_seed",
    "train",
]


class StateError(StampError):
    """A training state that cannot be read, or that belongs to another run."""


M = TypeVar("M", bound=nn.Module, covariant=True)
T = TypeVar("T", bound=nn.Module)


class Task(Protocol[M]):
    """What is trained and on what. A task may also have:

    - ``settings``: plain data (numbers, strings, lists, dicts), or dataclasses of it, that says what the task is, such
      as the model's configuration and the digests of its cache and its initial weights; a state saved under others is
      refused, but for fields that a dataclass has gained since and that are at their defaults;
    - ``validate() -> dict[str, float]``: called without gradients while ``module`` holds the averaged weights.
    """

    @property
    def module(self) -> M:
        """Its parameters are trained."""

    def batch(self, step: int) -> Mapping[str, Tensor]:
        """Tensors [B, ...] of step ``step``, from 0: a pure function; runs in a second thread, without gradients.

        B is the whole ``batch_size``, in every process; of W processes number r looks only at items r, r + W, ...
        """

    def loss(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> Mapping[str, Tensor]:
        """``loss``, a scalar with a gradient, and any other scalars to log, of one micro-batch. It lies on the module's
        device; the generator is on the CPU and the only source of random numbers."""


@runtime_checkable
class Validated(Protocol):
    """A task that measures itself; see :class:`Task`."""

    def validate(self) -> Mapping[str, float]: ...


class Observer(Protocol):
    """Watches a run in its first process. Nothing that it does changes the run."""

    per_step: Mapping[str, float]  # amounts of one step, such as tokens; the log tells them per second, as ``speed``
    every: int  # steps between calls of show(), which is also called after the last one; 0: never

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """What a line of the log holds: numbers, or objects of numbers."""

    def show(self, step: int) -> None:
        """Called without gradients while the task's ``module`` holds the averaged weights."""


class _Objective(nn.Module):
    """The task's loss as a forward pass, so that Accelerate's wrappers see it and average its gradients."""

    def __init__(self, task: Task[nn.Module], precision: str):
        super().__init__()
        self.loss, self.precision = task.loss, precision
        self.module = task.module

    def forward(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> Mapping[str, Tensor]:
        device = next(iter(batch.values())).device.type
        # Accelerate's own autocast is fixed by the first Accelerator of a process; stages of one run may differ.
        with torch.autocast(device, torch.bfloat16, enabled=self.precision == "bf16"):
            return self.loss(batch, generator)


def train(
    task: Task[T],
    config: TrainConfig,
    folder: str | Path,
    name: str,
    observer: Observer | None = None,
    max_steps: int | None = None,
) -> T:
    """Train ``task.module`` for ``config.steps`` and return a copy of it that holds the averaged weights.

    ``folder`` receives ``state.pt`` (weights, average, optimiser, step) every ``save_every`` steps and on SIGTERM or
    Ctrl-C, and ``log.jsonl``, one line per ``log_every`` steps. Called again, it goes on from the state; a finished
    run returns at once. ``task.module`` itself ends with the last raw weights; its initial weights must be the same at
    every call. Run under ``accelerate launch`` for several processes, which share each batch, on one machine or on
    several that share ``folder``; it may go on from its state on another number of them. While a run is at work no
    other is let into its folder.

    ``max_steps``: stop after that many steps of the run, as if it were killed there; its schedule stays.

    Raises :class:`~training.runtime.lock.BusyError` naming the folder and the process that is at work in it;
    :class:`StateError` where ``state.pt`` is unreadable or belongs to another run, naming the field that
    differs; ``ArithmeticError`` where the loss or its gradient is no longer finite (the state on disk is the last
    sound one); ``ValueError`` where a batch has not ``batch_size`` items.
    """
    return _Run(task, config, Path(folder), name, observer, max_steps).finish()


class _Run(Generic[T]):
    """One run in this process: what :func:`train` sets up, resumes and steps through."""

    def __init__(
        self,
        task: Task[T],
        config: TrainConfig,
        folder: Path,
        name: str,
        observer: Observer | None = None,
        max_steps: int | None = None,
    ):
        self.task, self.config, self.folder, self.name = task, config, folder, name
        self.end = config.steps if max_steps is None else min(max_steps, config.steps)
        self.accelerator = Accelerator(mixed_precision="no")
        launched = int(os.environ.get("WORLD_SIZE", "1"))
        if launched != self.accelerator.num_processes:  # each would train alone, over the other's files
            raise ConfigError(
                f"a launcher started {launched} processes, Accelerate joined {self.accelerator.num_processes}; "
                "where there is no GPU for each, set ACCELERATE_USE_CPU=true"
            )
        self.observer = observer if self.accelerator.is_main_process else None
        self.parts = config.parts(self.accelerator.num_processes)
        # Of the parts this process has those that hold the items which are its own whatever their number.
        self.own = range(self.accelerator.process_index, self.parts, self.accelerator.num_processes)
        if config.validate_every and not isinstance(task, Validated):
            raise ConfigError(f"validate_every must be 0 for a task without validate(), got {config.validate_every!r}")
        objective = _Objective(task, config.precision).to(self.accelerator.device)
        optimizer = torch.optim.AdamW(
            parameter_groups(task.module, config.weight_decay), lr=config.lr, betas=config.betas, fused=True
        )
        self.objective, self.optimizer = self.accelerator.prepare(objective, optimizer)
        self.ema = EMA(task.module)
        self.step = 0  # steps done
        self.seconds = 0.0  # spent on them, over all sessions
        self.told = (0, 0.0)  # steps and seconds at the last line of the log, or at the start of this session
        self.totals: dict[str, Tensor] = {}  # sums of what the loss returned since the last line of the log
        self.count = 0  # steps in those sums
        self.description = {"name": name, "config": config, "settings": getattr(task, "settings", {})}
        self.state_path, self.log_path = folder / "state.pt", folder / "log.jsonl"

    def finish(self) -> T:
        with self._folder_held():
            if self.state_path.exists():
                self._load()
            if self.step < self.end:
                if self.accelerator.is_main_process:
                    self._trim_log()
                self._steps()
        with self.ema.applied():
            return copy.deepcopy(self.task.module).eval()

    @contextlib.contextmanager
    def _folder_held(self) -> Iterator[None]:
        """The first process locks the folder for all; where it can't, none goes on."""
        with contextlib.ExitStack() as held:
            refusal: list[Exception | None] = [None]
            if self.accelerator.is_main_process:
                try:
                    held.enter_context(locked(self.folder))
                except (BusyError, OSError) as error:
                    refusal = [error]
            if self.accelerator.num_processes > 1:
                broadcast_object_list(refusal)
            if refusal[0] is not None:
                raise refusal[0]
            yield

    def _steps(self) -> None:
        config = self.config
        progress = Progress(self.name, self.end, self.step, enabled=self.accelerator.is_main_process)
        self.task.module.train()
        self.told = (self.step, self.seconds)
        with (
            contextlib.closing(progress),
            deferred_signals() as stopped,
            ThreadPoolExecutor(1, "batches") as thread,
        ):
            upcoming = thread.submit(self._batch, self.step)
            while self.step < self.end:
                started = time.perf_counter()
                batch = upcoming.result()
                if self.step + 1 < self.end:
                    upcoming = thread.submit(self._batch, self.step + 1)
                self._update(batch)
                last, signalled = self.step == self.end, self._agreed(stopped())
                line = last or self.step % config.log_every == 0
                save = last or signalled or self.step % config.save_every == 0
                if line or save:
                    self._settle()
                self.seconds += time.perf_counter() - started
                note = f"loss {self._log_means():.4f}" if line else None
                if config.validate_every and (last or self.step % config.validate_every == 0):
                    self._validate()
                observer = self.observer
                if observer and observer.every and (last or self.step % observer.every == 0):
                    self._watched(partial(observer.show, self.step))
                if save:
                    self._save()
                progress.update(note=note)
                if signalled == signal.SIGINT:
                    raise KeyboardInterrupt
                if signalled is not None:
                    raise SystemExit(128 + signalled)

    @torch.no_grad()
    def _batch(self, step: int) -> list[dict[str, Tensor]]:
        """This process's micro-batches of ``step``, on its device."""
        batch = self.task.batch(step)
        for key, value in batch.items():
            if len(value) != self.config.batch_size:
                raise ValueError(
                    f"batch[{key!r}] must have batch_size {self.config.batch_size} items, got {len(value)}"
                )
        device = self.accelerator.device
        return [{key: value[part :: self.parts].to(device) for key, value in batch.items()} for part in self.own]

    def _update(self, batches: list[dict[str, Tensor]]) -> None:
        """One step of the optimiser and of the average."""
        config = self.config
        lr = learning_rate(config, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad()
        sums: dict[str, Tensor] = {}
        for part, batch in zip(self.own, batches, strict=True):
            last = part == self.own[-1]
            # Processes exchange their gradients once a step, with those of the last micro-batch.
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.objective):
                values = self._loss(batch, step_seed(config.seed, self.step, part))
                self.accelerator.backward(values["loss"] / len(self.own))
            for key, value in values.items():
                sums[key] = sums.get(key, 0) + torch.as_tensor(value).detach().float() / len(self.own)
        sums["gradient"] = self.accelerator.clip_grad_norm_(self.task.module.parameters(), config.clip)
        self.optimizer.step()
        self.ema.update(ema_decay(config, self.step))
        self.step += 1
        self.count += 1
        for key, value in sums.items():
            value = value.detach().float()
            self.totals[key] = self.totals[key] + value if key in self.totals else value

    def _loss(self, batch: Mapping[str, Tensor], seed: int) -> Mapping[str, Tensor]:
        """What the task returns for one micro-batch."""
        device = self.accelerator.device
        # The fork makes dropout, which knows only the global generator, a function of the step too.
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            return self.objective(batch, torch.Generator().manual_seed(seed))

    def _agreed(self, signalled: int | None) -> int | None:
        """The signal that any process was sent, so that all of them stop after the same step."""
        if self.accelerator.num_processes == 1:
            return signalled
        numbers = self.accelerator.gather(torch.tensor([signalled or 0], device=self.accelerator.device))
        return int(numbers.max()) or None

    def _settle(self) -> None:
        """Take the means over all processes, and look whether they are finite.

        Only where a line or a state is written, since it makes an accelerator wait.
        """
        if self.accelerator.num_processes > 1:
            means = self.accelerator.reduce(torch.stack(list(self.totals.values())), "mean")
            self.totals = dict(zip(self.totals, means, strict=True))
        for key in ("loss", "gradient"):
            if not math.isfinite(float(self.totals[key])):
                raise ArithmeticError(
                    f"{self.name}: the {key} is not finite within the last {self.count} steps before step {self.step}; "
                    f"lower lr {self.config.lr} or clip {self.config.clip}"
                )

    def _log_means(self) -> float:
        """Write the means since the last line; return that of the loss."""
        line: dict[str, Any] = {key: float(value) / self.count for key, value in self.totals.items()}
        loss = line["loss"]
        self.totals, self.count = {}, 0
        line["lr"] = learning_rate(self.config, self.step - 1)
        if self.observer:
            steps, seconds = self.step - self.told[0], self.seconds - self.told[1]
            line["speed"] = {name: amount * steps / seconds for name, amount in self.observer.per_step.items()}
            self.told = (self.step, self.seconds)
        self._log(line)
        return loss

    def _validate(self) -> None:
        measured: dict[str, float] = {}
        task = self.task
        assert isinstance(task, Validated)  # else it is told before the first step
        self._watched(lambda: measured.update({key: float(value) for key, value in task.validate().items()}))
        if measured:
            self._log({"validation": measured})

    def _watched(self, look: Callable[[], object]) -> None:
        """Call ``look`` without gradients while the module holds the averaged weights."""
        self.task.module.eval()
        with self.ema.applied(), torch.no_grad():
            look()
        self.task.module.train()

    def _log(self, values: Mapping[str, Any]) -> None:
        if self.accelerator.is_main_process:
            line = {"step": self.step, **values, "seconds": round(self.seconds, 3)}
            with open(self.log_path, "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        if self.observer:
            self.observer.log(self.step, values)

    def _trim_log(self) -> None:
        """Drop what lies past the resumed step, or was cut off, so that the log tells one story."""
        if not self.log_path.exists():
            return
        kept = []
        for line in self.log_path.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] <= self.step:
                    kept.append(line + "\n")
            except ValueError:
                break
        write_atomically(self.log_path, lambda file: file.write("".join(kept).encode()))

    def _save(self) -> None:
        if self.accelerator.is_main_process:
            state = {
                "description": json.dumps(plain(self.description)),
                "step": self.step,
                "seconds": self.seconds,
                "model": self.task.module.state_dict(),
                "ema": self.ema.values,
                "optimizer": self.optimizer.state_dict(),
                "totals": self.totals,
                "count": self.count,
            }
            write_atomically(self.state_path, lambda file: torch.save(state, file))
        self.accelerator.wait_for_everyone()

    def _load(self) -> None:
        path, device = self.state_path, self.accelerator.device
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            saved = json.loads(state["description"])
        except Exception as error:  # torch.load answers a broken file with errors of many kinds
            raise StateError(f"{path} is not a training state ({error}); remove it to start anew") from error
        clause = difference(completed(saved, self.description), plain(self.description))
        if clause:
            raise StateError(
                f"{path} belongs to another run: {clause}; remove {self.folder} to start anew, or choose another"
            )
        try:
            self.task.module.load_state_dict(state["model"])
            self.ema.load(state["ema"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, KeyError, ValueError) as error:
            raise StateError(f"{path} belongs to another network: {error}; remove it to start anew") from error
        self.step, self.seconds, self.count = state["step"], state["seconds"], state["count"]
        self.totals = {key: value.to(device) for key, value in state["totals"].items()}
