"""The training loop, on Accelerate, for every :class:`training.engine.task.Task`.

Step s of a run depends only on the weights, the optimiser and s: the batch is a pure function of s, and every random
number, including those of dropout, comes from a generator seeded by ``(config.seed, s)``. The number of the step is
therefore the whole random state. A run that was killed and resumed reaches bit for bit the weights of one that was
never stopped, on the same machine with the same number of threads.

The batch of a step is split into K micro-batches. Item j belongs to micro-batch j % K, whose random numbers come from
its own generator, seeded by ``(config.seed, s, micro-batch)``. Micro-batch k belongs to process k % W of W. The loss of
a step is the mean of the task's losses over the micro-batches. With ``micro_batch`` the configuration fixes K, and a
run is the same on any number of processes that divides K, up to the order in which gradients are added. Without it, K
is W. The order of a sharded cache depends on K too.
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, broadcast_object_list
from torch import Tensor, nn

from dear.config import ConfigError
from dear.files import errors_naming, write_atomically
from training.engine.ema import EMA
from training.engine.schedule import TrainConfig, ema_decay, learning_rate, parameter_groups, step_seed
from training.engine.state import StateError, read_state, save_state
from training.engine.task import Compiled, Fitted, Following, Objective, Observer, Task, Validated
from training.runtime.interrupts import deferred_signals
from training.runtime.lock import BusyError, locked
from training.runtime.progress import Progress
from training.runtime.stamps import completed, difference, plain
from training.runtime.workers import one_worker

AHEAD = 4  # batches to load while earlier ones are trained on

T = TypeVar("T", bound=nn.Module)


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
    Ctrl-C, and ``log.jsonl``, one line per ``log_every`` steps. A later call resumes from the state; a finished run
    returns at once. ``task.module`` itself ends with the last raw weights. Its initial weights must be the same at
    every call. Under ``accelerate launch`` several processes share each batch, on one machine or on several that share
    ``folder``. A run may resume on another number of processes. Its folder is locked while it runs.

    max_steps: stop after this many steps of the run; the schedule of the learning rate does not change.

    Raises :class:`~training.runtime.lock.BusyError` naming the folder and the process that holds it;
    :class:`StateError` naming the field that differs, where ``state.pt`` is unreadable or belongs to another run;
    ``ArithmeticError`` where the loss or its gradient is not finite (the state on disk is the last finite one);
    ``ValueError`` where a batch does not have ``batch_size`` items.
    """
    return _Run(task, config, Path(folder), name, observer, max_steps).finish()


class _Run(Generic[T]):
    """One run of :func:`train` in this process."""

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
        self.signals = torch.distributed.new_group(backend="gloo") if launched > 1 else None
        self.parts = config.parts(self.accelerator.num_processes)
        # Micro-batches of this process.
        self.own = range(self.accelerator.process_index, self.parts, self.accelerator.num_processes)
        if config.validate_every and not isinstance(task, Validated):
            raise ConfigError(f"validate_every must be 0 for a task without validate(), got {config.validate_every!r}")
        if config.compile:
            if not isinstance(task, Compiled):
                raise ConfigError("compile must be false for a task without compile(), got True")
            task.compile()
        objective = Objective(task, config.precision).to(self.accelerator.device)
        optimizer = torch.optim.AdamW(
            parameter_groups(task.module, config.weight_decay), lr=config.lr, betas=config.betas, fused=True
        )
        self.objective, self.optimizer = self.accelerator.prepare(objective, optimizer)
        self.ema = EMA(task.module)
        if isinstance(task, Following):
            task.follow(self.ema.values)
        self.step = 0  # steps done
        self.seconds = 0.0  # spent on them, over all sessions
        self.logged = (0, 0.0)  # steps and seconds at the last line of the log, or at the start of this session
        self.totals: dict[str, Tensor] = {}  # sums of the logged values since the last line of the log
        self.count = 0  # steps in those sums
        self.description = {"name": name, "config": config, "settings": getattr(task, "settings", {})}
        self.state_path, self.log_path = folder / "state.pt", folder / "log.jsonl"

    def finish(self) -> T:
        with self._folder_held():
            if self.state_path.exists():
                self._load()
            elif isinstance(self.task, Fitted):
                self._fit(self.task)
            if self.step < self.end:
                if self.accelerator.is_main_process:
                    self._trim_log()
                self._steps()
        with self.ema.applied():
            return copy.deepcopy(self.task.module).eval()

    @contextlib.contextmanager
    def _folder_held(self) -> Iterator[None]:
        """Lock the folder in the first process. Raises its error in every process."""
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

    @torch.no_grad()
    def _fit(self, task: Fitted) -> None:
        if self.accelerator.is_main_process:
            task.fit()
        if self.accelerator.num_processes > 1:
            broadcast(list(self.task.module.buffers()))  # in place

    def _steps(self) -> None:
        config = self.config
        progress = Progress(self.name, self.end, self.step, enabled=self.accelerator.is_main_process)
        self.task.module.train()
        self.logged = (self.step, self.seconds)
        with (
            contextlib.closing(progress),
            deferred_signals() as stopped,
            one_worker("batches") as thread,
        ):
            upcoming: deque[Future[list[dict[str, Tensor]]]] = deque()
            while self.step < self.end:
                started = time.perf_counter()
                for step in range(self.step + len(upcoming), min(self.step + AHEAD, self.end)):
                    upcoming.append(thread.submit(self._batch, step))
                self._update(upcoming.popleft().result())
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
                    self._with_average(partial(observer.show, self.step))
                if observer and observer.keep_every and self.step % observer.keep_every == 0:
                    self._with_average(partial(observer.keep, self.step))
                if save:
                    self._save()
                progress.update(note=note)
                if signalled == signal.SIGINT:
                    raise KeyboardInterrupt
                if signalled is not None:
                    raise SystemExit(128 + signalled)

    @torch.no_grad()
    def _batch(self, step: int) -> list[dict[str, Tensor]]:
        """This process's micro-batches of ``step``, in pinned memory if its device is CUDA."""
        items = slice(self.accelerator.process_index, None, self.accelerator.num_processes)
        batch = self.task.batch(step, items)
        share = len(range(self.config.batch_size)[items])
        for key, value in batch.items():
            if len(value) != share:
                raise ValueError(f"batch[{key!r}] must have {share} items, the share of a process, got {len(value)}")
        pinned, count = self.accelerator.device.type == "cuda", len(self.own)
        parts = ({key: value[number::count] for key, value in batch.items()} for number in range(count))
        return [{key: value.pin_memory() if pinned else value for key, value in part.items()} for part in parts]

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
        """The task's loss and logged values of one micro-batch."""
        device = self.accelerator.device
        batch = {key: value.to(device, non_blocking=True) for key, value in batch.items()}
        # Dropout uses the global generator; the fork makes it a function of the step too.
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            return self.objective(batch, torch.Generator().manual_seed(seed))

    def _agreed(self, signalled: int | None) -> int | None:
        """The signal that any process received, so that all stop after the same step."""
        if self.accelerator.num_processes == 1:
            return signalled
        # In main memory: reading a number from an accelerator would wait for all its work.
        number = torch.tensor([signalled or 0])
        torch.distributed.all_reduce(number, torch.distributed.ReduceOp.MAX, group=self.signals)
        return int(number) or None

    def _settle(self) -> None:
        """Average the logged values over all processes, and check that they are finite.

        This synchronises with the accelerator, so it is done only before a line or a state is written.
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
        """Log the means since the last line. Returns the mean loss."""
        line: dict[str, Any] = {key: float(value) / self.count for key, value in self.totals.items()}
        loss = line["loss"]
        self.totals, self.count = {}, 0
        line["lr"] = learning_rate(self.config, self.step - 1)
        if self.observer:
            steps, seconds = self.step - self.logged[0], self.seconds - self.logged[1]
            line["speed"] = {name: amount * steps / seconds for name, amount in self.observer.per_step.items()}
            self.logged = (self.step, self.seconds)
        self._log(line)
        return loss

    def _validate(self) -> None:
        measured: dict[str, float] = {}
        task = self.task
        assert isinstance(task, Validated)  # checked before the first step
        self._with_average(lambda: measured.update({key: float(value) for key, value in task.validate().items()}))
        if measured:
            self._log({"validation": measured})

    def _with_average(self, call: Callable[[], object]) -> None:
        """Run ``call`` without gradients while the module holds the averaged weights."""
        self.task.module.eval()
        with self.ema.applied(), torch.no_grad():
            call()
        self.task.module.train()

    def _log(self, values: Mapping[str, Any]) -> None:
        if self.accelerator.is_main_process:
            line = {"step": self.step, **values, "seconds": round(self.seconds, 3)}
            with errors_naming(self.log_path), open(self.log_path, "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        if self.observer:
            self.observer.log(self.step, values)

    def _trim_log(self) -> None:
        """Drop lines after the resumed step, and a last line that was cut off."""
        if not self.log_path.exists():
            return
        kept = []
        for line in self.log_path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                if json.loads(line)["step"] <= self.step:
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError):
                break
        write_atomically(self.log_path, lambda file: file.write("".join(kept).encode()))

    def _save(self) -> None:
        if self.accelerator.is_main_process:
            state = {
                "step": self.step,
                "seconds": self.seconds,
                "model": self.task.module.state_dict(),
                "ema": self.ema.values,
                "optimizer": self.optimizer.state_dict(),
                "totals": self.totals,
                "count": self.count,
            }
            save_state(self.state_path, plain(self.description), state)
        self.accelerator.wait_for_everyone()

    def _load(self) -> None:
        path, device = self.state_path, self.accelerator.device
        saved, state = read_state(path)
        clause = difference(completed(saved, self.description), plain(self.description))
        if clause:
            raise StateError(
                f"{path} belongs to another run: {clause}; remove {self.folder} to start again, or use another folder"
            )
        try:
            self.task.module.load_state_dict(state["model"])
            self.ema.load(state["ema"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.seconds, self.count = state["step"], state["seconds"], state["count"]
            self.totals = {key: value.to(device) for key, value in state["totals"].items()}
        except (RuntimeError, KeyError, ValueError) as error:
            raise StateError(f"{path} belongs to another network: {error}; remove it to start again") from error
