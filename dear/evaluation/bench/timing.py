"""Timing on a shared machine: synchronised clocks, rows measured in turn, medians and quartiles."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from tqdm import tqdm

from dear.evaluation.bench.energy import Energy
from dear.evaluation.bench.machine import PeakMemory, synchronise


def _attention(queries: Sequence[int], keys: Sequence[int], values: Sequence[int], *_: Any, **__: Any) -> int:
    return sdpa_flop_count(queries, keys, values)


# torch has no count for attention on a CPU.
ATTENTION = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention}


M = TypeVar("M", bound=nn.Module)


class Meter:
    """Seconds of one generation by stage, and its floating-point operations (multiply-adds count two)."""

    def __init__(self, device: torch.device, count: bool = False, clock: Callable[[], float] = time.perf_counter):
        """count: also count the operations of matrix products, convolutions and attention, which slows the run."""
        self.device = device
        self.count = count
        self.clock = clock
        self.seconds: dict[str, float] = {}
        self.cpu = 0.0  # processor seconds of this process, over all threads
        self.joules: float | None = 0.0  # None where the machine has no counter
        self.flops = 0.0

    @contextmanager
    def stage(self, name: str, weight: float = 1.0) -> Iterator[None]:
        """Add the time of the block to stage ``name``, times ``weight`` where it stands for more work of its kind."""
        counter = FlopCounterMode(display=False, custom_mapping=ATTENTION) if self.count else None
        synchronise(self.device)
        energy = Energy(self.device)
        begin, cpu = self.clock(), time.process_time()
        if counter is None:
            yield
        else:
            with counter:
                yield
            self.flops += weight * counter.get_total_flops()
        synchronise(self.device)
        self.seconds[name] = self.seconds.get(name, 0.0) + weight * (self.clock() - begin)
        self.cpu += weight * (time.process_time() - cpu)
        used = energy.joules()
        self.joules = None if used is None or self.joules is None else self.joules + weight * used

    def split(self, name: str, parts: Mapping[str, float]) -> None:
        """Move ``parts`` {stage: seconds} from stage ``name`` to stages of their own."""
        for part, seconds in parts.items():
            self.seconds[part] = self.seconds.get(part, 0.0) + seconds
            self.seconds[name] -= seconds


@dataclass(frozen=True)
class Setting:
    """Settings of all rows: ``batch`` sounds at a time, on ``device``, in ``dtype``.

    timed: how many iterations or steps of equal cost stand for all; None: all of them.
    """

    batch: int
    device: torch.device
    dtype: torch.dtype
    timed: int | None
    built: dict[Any, Any] = field(default_factory=dict)  # modules that rows share, to save memory

    def place(self, key: Any, build: Callable[[], M], dtype: torch.dtype | None = None) -> M:
        """The module of ``build``, frozen, on the device, in ``dtype`` or the setting's; built once per ``key``."""
        if key not in self.built:
            module: nn.Module = build().to(self.device, dtype or self.dtype)
            self.built[key] = module.eval().requires_grad_(False)
        return self.built[key]


@dataclass(frozen=True, eq=False)
class Job:
    """A benchmark job. ``run(meter)`` generates ``batch`` sounds, in whole or in part with weights of the meter."""

    name: str
    run: Callable[[Meter], None]
    batch: int
    seconds_of_sound: float  # of each sound of the batch
    network: nn.Module | None  # whose parameters are reported, as in the paper: without codec and encoders
    others: tuple[nn.Module, ...]  # further modules in memory
    precision: str
    iterations: int | None  # decoding iterations of a masked model
    steps: int | None  # of the head in each iteration, or of a diffusion model
    timed: str  # what was timed, as text
    notes: str = ""
    compile: Callable[[], object] | None = None  # compiles the model, after its operations were counted


@dataclass(frozen=True)
class Row:
    """A job's result. Times are seconds; ``low`` and ``high`` are the quartiles of ``seconds``."""

    name: str
    batch: int
    iterations: int | None
    steps: int | None
    parameters: int | None
    precision: str
    threads: int
    seconds_of_sound: float  # of each of the batch
    median: float
    low: float
    high: float
    seconds: list[float]  # each repeat
    cpu_seconds: float  # median; far below time x threads on a busy machine
    stages: dict[str, float]  # medians
    joules: float | None  # median; None where the machine has no counter
    flops: float
    utilisation: float | None  # flops / median / peak of a matrix product; None where not counted
    weights_bytes: int
    peak_bytes: int | None  # weights plus the peak of a run; None where unknown
    timed: str
    notes: str


def measure(
    jobs: Sequence[Job],
    device: torch.device,
    repeats: int,
    peaks: Mapping[str, float],
    clock: Callable[[], float] = time.perf_counter,
    failed: list[dict[str, Any]] | None = None,
) -> list[Row]:
    """Run every job once to warm up, counting operations and memory, then all in turn ``repeats`` times.

    Operations of compiled code cannot be counted, so all jobs are counted before any is compiled and warmed up again.
    Jobs run in turn so that changes of the machine's speed affect all alike. Returns one row per job.
    peaks: operations per second of the device in each precision. failed: receives a row with the reason of each job
    that fails, for example for lack of memory, and the others continue. None: the error is raised.
    """
    left = list(jobs)

    def attempt(job: Job, act: Callable[[], None]) -> None:
        try:
            act()
        except (RuntimeError, ValueError, MemoryError) as error:
            if failed is None:
                raise
            left.remove(job)
            reason = (str(error) or type(error).__name__).strip().partition("\n")[0]
            identity = {"name": job.name, "batch": job.batch, "precision": job.precision}
            failed.append(identity | {"skipped": f"it failed: {reason}", "failed": True})

    counted: dict[Job, tuple[float, int | None]] = {}
    meters: dict[Job, list[Meter]] = {job: [] for job in jobs}

    def count(job: Job) -> None:
        meter = Meter(device, count=True, clock=clock)
        with PeakMemory(device) as memory:
            job.run(meter)
        counted[job] = meter.flops, memory.bytes

    def compile_(job: Job) -> None:
        with PeakMemory(device) as memory:
            assert job.compile is not None  # only such jobs are compiled
            job.compile()
            job.run(Meter(device, clock=clock))
        counted[job] = counted[job][0], memory.bytes

    def take(job: Job) -> None:
        meter = Meter(device, clock=clock)
        job.run(meter)
        meters[job].append(meter)

    stages = [(count, jobs), (compile_, [job for job in jobs if job.compile is not None]), *[(take, jobs)] * repeats]
    with tqdm(total=sum(len(each) for _, each in stages), desc="timing", unit="run", disable=None) as bar:
        for act, each in stages:
            for job in each:
                if job in left:
                    attempt(job, partial(act, job))
                bar.update()
    return [row(job, meters[job], *counted[job], peaks.get(job.precision)) for job in left]


def row(job: Job, meters: Sequence[Meter], flops: float, working: int | None, peak: float | None) -> Row:
    """The statistics of a job's repeats."""
    totals = [sum(meter.seconds.values()) for meter in meters]
    low, median, high = np.percentile(totals, [25, 50, 75]).tolist()
    modules = [module for module in (job.network, *job.others) if module is not None]
    weights = sum(p.numel() * p.element_size() for module in modules for p in module.parameters())
    names = dict.fromkeys(name for meter in meters for name in meter.seconds)
    joules = [meter.joules for meter in meters if meter.joules is not None]
    return Row(
        name=job.name,
        batch=job.batch,
        iterations=job.iterations,
        steps=job.steps,
        parameters=None if job.network is None else sum(p.numel() for p in job.network.parameters()),
        precision=job.precision,
        threads=torch.get_num_threads(),
        seconds_of_sound=job.seconds_of_sound,
        median=median,
        low=low,
        high=high,
        seconds=totals,
        cpu_seconds=float(np.median([meter.cpu for meter in meters])),
        stages={name: float(np.median([meter.seconds.get(name, 0.0) for meter in meters])) for name in names},
        joules=float(np.median(joules)) if len(joules) == len(meters) else None,
        flops=flops,
        utilisation=flops / median / peak if flops and median and peak else None,
        weights_bytes=weights,
        peak_bytes=None if working is None or not modules else weights + working,
        timed=job.timed,
        notes=job.notes,
    )


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows (plain data) as a Markdown table; a skipped row states the reason."""
    stages = list(dict.fromkeys(stage for each in rows for stage in each.get("stages", {})))
    titles = ["row", "batch", "iterations x steps", "parameters", "precision", "threads", "seconds (quartiles)"]
    titles += [*(f"{stage} (share)" for stage in stages), "J", "TFLOP", "of peak", "memory", "timed"]
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    for each in rows:
        if "skipped" in each:
            cells = [each["name"], str(each["batch"]), "", "", each["precision"], *[""] * (len(titles) - 6)]
            cells.append(f"skipped: {each['skipped']}")
        else:
            loop = " x ".join(str(n) for n in (each["iterations"], each["steps"]) if n is not None)
            cells = [
                each["name"],
                str(each["batch"]),
                loop,
                "" if each["parameters"] is None else f"{each['parameters'] / 1e6:.1f} M",
                each["precision"],
                str(each["threads"]),
                f"{each['median']:.3g} ({each['low']:.3g} to {each['high']:.3g})",
                *(_share(each, stage) if stage in each["stages"] else "" for stage in stages),
                "" if each["joules"] is None else f"{each['joules']:.3g}",
                f"{each['flops'] / 1e12:.3g}" if each["flops"] else "",
                "" if each["utilisation"] is None else f"{each['utilisation']:.0%}",
                "" if each["peak_bytes"] is None else f"{each['peak_bytes'] / 2**30:.2f} GiB",
                "; ".join(filter(None, (each["timed"], each["notes"]))),
            ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _share(row: Mapping[str, Any], stage: str) -> str:
    seconds, whole = row["stages"][stage], sum(row["stages"].values())
    return f"{seconds:.3g} ({seconds / whole:.0%})" if whole else f"{seconds:.3g}"
