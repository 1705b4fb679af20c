import ctypes

import pytest
import torch

from dear.evaluation.bench import energy
from dear.evaluation.bench.energy import Energy
from dear.evaluation.bench.timing import Meter

CPU = torch.device("cpu")


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Two processors with a counter of 1,000 microjoules each, and a part of the first. Returns how to set one."""
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)

    def set_(name, value, label="package-0"):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        for file, text in (("name", label), ("energy_uj", value), ("max_energy_range_uj", 999)):
            (folder / file).write_text(f"{text}\n")

    set_("intel-rapl:0", 100)
    set_("intel-rapl:1", 900, "package-1")
    set_("intel-rapl:0:0", 50, "core")
    set_("intel-rapl:2", 5, "psys")
    return set_


def test_packages_are_added_and_their_counters_start_again(packages):
    used = Energy(CPU)
    packages("intel-rapl:0", 350)
    packages("intel-rapl:1", 150, "package-1")
    packages("intel-rapl:0:0", 999, "core")
    assert used.joules() == pytest.approx((250 + 250) / 1e6)


def test_a_meter_multiplies_joules_as_seconds(packages):
    meter = Meter(CPU)
    with meter.stage("decode", 4):
        packages("intel-rapl:0", 200)
    with meter.stage("codec"):
        packages("intel-rapl:0", 210)
    assert meter.joules == pytest.approx(410 / 1e6)


def test_without_a_counter_there_is_no_energy(tmp_path, packages, monkeypatch):
    used = Energy(CPU)
    (tmp_path / "intel-rapl:1" / "energy_uj").unlink()
    assert used.joules() is None
    monkeypatch.setattr(energy, "POWERCAP", tmp_path / "none")
    meter = Meter(CPU)
    with meter.stage("decode"):
        pass
    assert meter.joules is None
    assert Energy(torch.device("mps")).joules() is None


def test_a_gpu_counts_millijoules(monkeypatch):
    readings, asked = iter((5_000, 7_500)), []

    class Library:
        def nvmlDeviceGetHandleByUUID(self, name, handle):
            asked.append(name)
            return 0

        def nvmlDeviceGetTotalEnergyConsumption(self, handle, value):
            ctypes.cast(value, ctypes.POINTER(ctypes.c_ulonglong))[0] = next(readings)
            return 0

    class Properties:
        uuid = "1234"

    monkeypatch.setattr(energy, "load_nvml", Library)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)
    used = Energy(torch.device("cuda"))
    assert used.joules() == pytest.approx(2.5)
    assert asked == [b"GPU-1234"] * 2
