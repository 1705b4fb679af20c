"""Energy of a run: read from RAPL (Linux's powercap) for processors, and from NVML for GPUs by NVIDIA."""

from __future__ import annotations

import ctypes
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

POWERCAP = Path("/sys/class/powercap")
NVML = "libnvidia-ml.so.1"


class Energy:
    """Joules since it was made, of the GPU for a CUDA device, else of the processor's packages.

    All that runs there counts, other programs included.

    The counters move in steps of 1 ms (processors) to 100 ms (GPUs), so short runs say little.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.begin = self._read()

    def joules(self) -> float | None:
        """None where the machine has no counter, or none that this process may read, as in most virtual machines."""
        end = self._read()
        if not self.begin or self.begin.keys() != end.keys():
            return None
        # Processors' counters start again at their range.
        return sum((end[key][0] - first) % span for key, (first, span) in self.begin.items()) / 1e6

    def _read(self) -> dict[str, tuple[int, int]]:
        """{counter: (microjoules, range)}"""
        if self.device.type == "cuda":
            return _gpu(self.device)
        return _packages() if self.device.type == "cpu" else {}


def _packages() -> dict[str, tuple[int, int]]:
    found = {}
    try:
        for path in sorted(POWERCAP.iterdir()):
            # Its parts (cores, memory) have further numbers, and are contained in it.
            if re.fullmatch(r"intel-rapl:\d+", path.name) and (path / "name").read_text().startswith("package"):
                values = (int((path / name).read_text()) for name in ("energy_uj", "max_energy_range_uj"))
                found[path.name] = (next(values), next(values) + 1)
    except (OSError, ValueError):
        return {}
    return found


def _gpu(device: torch.device) -> dict[str, tuple[int, int]]:
    try:
        library = load_nvml()
        handle, value = ctypes.c_void_p(), ctypes.c_ulonglong()
        name = f"GPU-{torch.cuda.get_device_properties(device).uuid}".encode()
        failed = library.nvmlDeviceGetHandleByUUID(name, ctypes.byref(handle))
        failed = failed or library.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(value))
    except (OSError, AttributeError):
        return {}
    return {} if failed else {"gpu": (value.value * 1000, 1 << 64)}


@lru_cache
def load_nvml() -> Any:
    """NVIDIA's library of counters. Raises OSError if it is absent or does not start."""
    library = ctypes.CDLL(NVML)
    if library.nvmlInit_v2():
        raise OSError(f"{NVML} does not start")
    return library
