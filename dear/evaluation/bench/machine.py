"""The machine under a benchmark: what it is, how fast it multiplies, how much memory it holds."""

from __future__ import annotations

import ctypes
import os
import platform
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

STATUS = Path("/proc/self/status")  # Linux alone has these two
CLEAR = Path("/proc/self/clear_refs")


def synchronise(device: torch.device) -> None:
    """Wait for the work that was handed to ``device``: a clock read before would miss it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def describe(device: torch.device) -> dict[str, Any]:
    """Facts that a reader needs to judge a time: processor, cores, threads, versions, and the current load."""
    facts: dict[str, Any] = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": str(device),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts |= {"gpu": properties.name, "gpu_bytes": properties.total_memory, "cuda": torch.version.cuda}
    return facts


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def matmul_peak(device: torch.device, dtype: torch.dtype, size: int | None = None, repeats: int = 5) -> float:
    """Floating-point operations per second of the fastest of ``repeats`` square matrix products of ``dtype``."""
    size = size or (8192 if device.type == "cuda" else 2048)
    # Random values: a GPU multiplies ones at a higher clock.
    matrix = torch.randn(size, size, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    seconds = []
    for _ in range(repeats + 1):  # the first one warms up
        synchronise(device)
        begin = time.perf_counter()
        matrix @ matrix
        synchronise(device)
        seconds.append(time.perf_counter() - begin)
    return 2 * size**3 / min(seconds[1:])


def resident_bytes() -> int | None:
    """Memory that this process holds now; None where the system does not tell."""
    return _status("VmRSS")


def _status(field: str) -> int | None:
    try:
        lines = STATUS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":")), None)


class PeakMemory:
    """``with PeakMemory(device) as peak: ...`` leaves in ``peak.bytes`` the most that was held at once on top of what
    was held before: the device's allocations on CUDA, resident memory on a CPU; None where the system does not tell."""

    def __init__(self, device: torch.device):
        self.device = device
        self.bytes: int | None = None

    def __enter__(self) -> PeakMemory:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self.before: int | None = torch.cuda.memory_allocated(self.device)
            return self
        try:
            ctypes.CDLL(None).malloc_trim(0)  # what earlier runs have freed would hide what this one takes
            CLEAR.write_text("5", encoding="utf-8")  # VmHWM starts again from now
            self.before = resident_bytes() if self.device.type == "cpu" else None
        except (OSError, AttributeError, TypeError):  # not Linux, not glibc, or not allowed
            self.before = None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        cuda = self.device.type == "cuda"
        peak = torch.cuda.max_memory_allocated(self.device) if cuda else _status("VmHWM")
        if self.before is not None and peak is not None:
            self.bytes = max(0, peak - self.before)
