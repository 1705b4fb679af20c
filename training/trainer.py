"""The one training loop, on Accelerate: codec, classifier, teacher and student differ only by their :class:`Task`.

Step s of a run depends on the weights, the optimiser and s alone: the batch is a pure function of s, and every
random number, that of dropout included, comes from a generator seeded by ``(config.seed, s)``. So the step is the
whole random state of a checkpoint, and a run that was killed and started again reaches, bit for bit, the weights of
one that was never stopped (on the same machine, with the same number of threads).
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from dear.config import ConfigError
from training.files import StampError, difference, write_atomically
from training.progress import Progress

FINAL_LR = 0.05  # the cosine schedule ends at this fraction of the peak


class StateError(StampError):
    """A training state that cannot be read, or that belongs to another run."""


@dataclass(frozen=True)
class TrainConfig:
    """How one stage is trained. A saved state resumes only under an equal configuration."""

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

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "save_every", "log_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)!r}")
        for name in ("validate_every", "seed"):
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


class Task(Protocol):
    """What is trained and on what. A task may also have:

    - ``settings``: plain data (numbers, strings, lists, dicts) that says what the task is, such as the model's
      configuration and the digests of its cache and its initial weights; a state saved under others is refused;
    - ``validate() -> dict[str, float]``: called without gradients while ``module`` holds the averaged weights.
    """

    module: nn.Module  # its parameters are trained

    def batch(self, step: int) -> Mapping[str, Tensor]:
        """Tensors [B, ...] of step ``step``, from 0: a pure function; runs in a second thread, without gradients."""

    def loss(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> Mapping[str, Tensor]:
        """``loss``, a scalar with a gradient, and any other scalars to log. The batch lies on the module's device;
        the generator is on the CPU and the only source of random numbers."""


@runtime_checkable
class Validated(Protocol):
    """A task that measures itself; see :class:`Task`."""

    def validate(self) -> Mapping[str, float]: ...


def learning_rate(config: TrainConfig, step: int) -> float:
    """Learning rate of step ``step``, from 0: linear warm-up, then cosine or constant."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    if config.schedule == "constant":
        return config.lr
    done = (step - config.warmup) / max(1, config.steps - 1 - config.warmup)
    return config.lr * (FINAL_LR + (1 - FINAL_LR) * 0.5 * (1 + math.cos(math.pi * done)))


def ema_decay(config: TrainConfig, step: int) -> float:
    """Decay of the average at step ``step``, from 0: low at first, so that it forgets the initial weights."""
    return min(config.ema, (1 + step) / (10 + step))


def step_seed(seed: int, step: int, rank: int = 0) -> int:
    """A 63-bit seed for one step of one process; neighbouring arguments give unrelated seeds."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0]) >> 1


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters in two groups: weight matrices and kernels, which decay, and all the others."""
    embeddings = {id(p) for m in module.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    decayed, kept = [], []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            matrix = parameter.ndim >= 2 and name.endswith("weight") and id(parameter) not in embeddings
            (decayed if matrix else kept).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": kept, "weight_decay": 0.0}]


class _Objective(nn.Module):
    """The task's loss as a forward pass, so that Accelerate's wrappers see it and average its gradients."""

    def __init__(self, task: Task, precision: str):
        super().__init__()
        self.loss, self.precision = task.loss, precision
        self.module = task.module

    def forward(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> Mapping[str, Tensor]:
        device = next(iter(batch.values())).device.type
        # Accelerate's own autocast is fixed by the first Accelerator of a process; stages of one run may differ.
        with torch.autocast(device, torch.bfloat16, enabled=self.precision == "bf16"):
            return self.loss(batch, generator)


class _Average:
    """Exponential moving average of the trainable parameters, in float32."""

    def __init__(self, module: nn.Module):
        self.parameters = {n: p for n, p in module.named_parameters() if p.requires_grad}
        self.values = {n: p.detach().float().clone() for n, p in self.parameters.items()}

    def update(self, decay: float) -> None:
        current = [p.detach().float() for p in self.parameters.values()]
        get_ema_multi_avg_fn(decay)(list(self.values.values()), current, None)

    @torch.no_grad()
    def load(self, values: Mapping[str, Tensor]) -> None:
        for name, value in self.values.items():
            value.copy_(values[name])

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Within, the parameters hold the average; afterwards exactly what they held before."""
        before = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        try:
            self._assign(self.values)
            yield
        finally:
            self._assign(before)

    @torch.no_grad()
    def _assign(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(values[name])


@contextlib.contextmanager
def _deferred_signals() -> Iterator[Callable[[], int | None]]:
    """Hold SIGINT and SIGTERM back, so that no step is torn; the yielded function returns the one that came, if any.

    A second signal of a kind acts at once. Only a main thread may handle signals; in others this does nothing.
    """
    received: list[int] = []
    previous: dict[int, Any] = {}

    def restore() -> None:
        while previous:
            number, handler = previous.popitem()
            signal.signal(number, handler)

    def handle(number: int, frame: object) -> None:
        received.append(number)
        signal.signal(number, previous.pop(number))

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.getsignal(number)
            signal.signal(number, handle)

    def stopped() -> int | None:
        return received[0] if received else None

    try:
        yield stopped
    finally:
        restore()


def train(task: Task, config: TrainConfig, folder: str | Path, name: str) -> nn.Module:
    """Train ``task.module`` for ``config.steps`` and return a copy of it that holds the averaged weights.

    ``folder`` receives ``state.pt`` (weights, average, optimiser, step) every ``save_every`` steps and on SIGTERM or
    Ctrl-C, and ``log.jsonl``, one line per ``log_every`` steps. Called again, it goes on from the state; a finished
    run returns at once. ``task.module`` itself ends with the last raw weights; its initial weights must be the same at
    every call. Run under ``accelerate launch`` for several processes, which share each batch.

    Raises :class:`StateError` where ``state.pt`` is unreadable or belongs to another run, naming the field that
    differs; ``ArithmeticError`` where the loss or its gradient is no longer finite (the state on disk is the last
    sound one); ``ValueError`` where a batch has not ``batch_size`` items.
    """
    return _Run(task, config, Path(folder), name).finish()


class _Run:
    """One run in this process: what :func:`train` sets up, resumes and steps through."""

    def __init__(self, task: Task, config: TrainConfig, folder: Path, name: str):
        self.task, self.config, self.folder, self.name = task, config, folder, name
        self.accelerator = Accelerator(mixed_precision="no")
        if config.batch_size % self.accelerator.num_processes:
            raise ConfigError(
                f"batch_size must be a multiple of the {self.accelerator.num_processes} processes, "
                f"got {config.batch_size!r}"
            )
        if config.validate_every and not isinstance(task, Validated):
            raise ConfigError(f"validate_every must be 0 for a task without validate(), got {config.validate_every!r}")
        objective = _Objective(task, config.precision).to(self.accelerator.device)
        optimizer = torch.optim.AdamW(
            parameter_groups(task.module, config.weight_decay), lr=config.lr, betas=config.betas, fused=True
        )
        self.objective, self.optimizer = self.accelerator.prepare(objective, optimizer)
        self.average = _Average(task.module)
        self.step = 0  # steps done
        self.seconds = 0.0  # spent on them, over all sessions
        self.totals: dict[str, Tensor] = {}  # sums of what the loss returned since the last line of the log
        self.count = 0  # steps in those sums
        described = {"name": name, "config": dataclasses.asdict(config), "settings": getattr(task, "settings", {})}
        self.description = json.loads(json.dumps(described))  # tuples become lists, as in a saved one
        self.folder.mkdir(parents=True, exist_ok=True)
        self.state_path, self.log_path = folder / "state.pt", folder / "log.jsonl"

    def finish(self) -> nn.Module:
        if self.state_path.exists():
            self._load()
        if self.step < self.config.steps:
            if self.accelerator.is_main_process:
                self._trim_log()
            self._steps()
        with self.average.applied():
            return copy.deepcopy(self.task.module).eval()

    def _steps(self) -> None:
        config = self.config
        progress = Progress(self.name, config.steps, self.step, enabled=self.accelerator.is_main_process)
        self.task.module.train()
        with (
            contextlib.closing(progress),
            _deferred_signals() as stopped,
            ThreadPoolExecutor(1, "batches") as thread,
        ):
            upcoming = thread.submit(self._batch, self.step)
            while self.step < config.steps:
                started = time.perf_counter()
                batch = upcoming.result()
                if self.step + 1 < config.steps:
                    upcoming = thread.submit(self._batch, self.step + 1)
                self._update(batch)
                self.seconds += time.perf_counter() - started
                last, signalled = self.step == config.steps, stopped()
                note = None
                if last or self.step % config.log_every == 0:
                    note = f"loss {self._log_means():.4f}"
                if config.validate_every and (last or self.step % config.validate_every == 0):
                    self._validate()
                if last or signalled or self.step % config.save_every == 0:
                    self._save()
                progress.update(note=note)
                if signalled == signal.SIGINT:
                    raise KeyboardInterrupt
                if signalled is not None:
                    raise SystemExit(128 + signalled)

    @torch.no_grad()
    def _batch(self, step: int) -> dict[str, Tensor]:
        """This process's share of the batch of ``step``, on its device."""
        batch = self.task.batch(step)
        for key, value in batch.items():
            if len(value) != self.config.batch_size:
                raise ValueError(
                    f"batch[{key!r}] must have batch_size {self.config.batch_size} items, got {len(value)}"
                )
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        return {key: value[rank::processes].to(self.accelerator.device) for key, value in batch.items()}

    def _update(self, batch: Mapping[str, Tensor]) -> None:
        """One step of the optimiser and of the average."""
        config, device = self.config, self.accelerator.device
        lr = learning_rate(config, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        seed = step_seed(config.seed, self.step, self.accelerator.process_index)
        # The fork makes dropout, which knows only the global generator, a function of the step too.
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            values = self.objective(batch, torch.Generator().manual_seed(seed))
        self.optimizer.zero_grad()
        self.accelerator.backward(values["loss"])
        norm = self.accelerator.clip_grad_norm_(self.task.module.parameters(), config.clip)
        self.optimizer.step()
        self.average.update(ema_decay(config, self.step))
        self.step += 1
        self.count += 1
        for key, value in {**values, "gradient": norm}.items():
            value = torch.as_tensor(value).detach().float()
            self.totals[key] = self.totals[key] + value if key in self.totals else value

    def _check_finite(self) -> None:
        """Looked at only where a line or a state is written, since it makes an accelerator wait."""
        for key in ("loss", "gradient"):
            if key in self.totals and not math.isfinite(float(self.totals[key])):
                raise ArithmeticError(
                    f"{self.name}: the {key} is not finite within the last {self.count} steps before step {self.step}; "
                    f"lower lr {self.config.lr} or clip {self.config.clip}"
                )

    def _log_means(self) -> float:
        """Write the means since the last line; return that of the loss."""
        self._check_finite()
        means = {key: float(value) / self.count for key, value in self.totals.items()}
        self.totals, self.count = {}, 0
        self._log({**means, "lr": learning_rate(self.config, self.step - 1)})
        return means["loss"]

    def _validate(self) -> None:
        self.task.module.eval()
        with self.average.applied(), torch.no_grad():
            measured = {key: float(value) for key, value in self.task.validate().items()}
        self.task.module.train()
        self._log({"validation": measured})

    def _log(self, values: Mapping[str, Any]) -> None:
        if self.accelerator.is_main_process:
            line = {"step": self.step, **values, "seconds": round(self.seconds, 3)}
            with open(self.log_path, "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

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
        self._check_finite()
        if self.accelerator.is_main_process:
            state = {
                "description": json.dumps(self.description),
                "step": self.step,
                "seconds": self.seconds,
                "model": self.task.module.state_dict(),
                "ema": self.average.values,
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
        clause = difference(saved, self.description)
        if clause:
            raise StateError(
                f"{path} belongs to another run: {clause}; remove {self.folder} to start anew, or choose another"
            )
        try:
            self.task.module.load_state_dict(state["model"])
            self.average.load(state["ema"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, KeyError, ValueError) as error:
            raise StateError(f"{path} belongs to another network: {error}; remove it to start anew") from error
        self.step, self.seconds, self.count = state["step"], state["seconds"], state["count"]
        self.totals = {key: value.to(device) for key, value in state["totals"].items()}
