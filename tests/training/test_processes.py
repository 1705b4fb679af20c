"""Training on two processes, and on another number of them after a stop."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from factory import tiny_config
from processes import end, start, wait_until
from small_training import Distilled, arguments, by_name, config, log, prepare, state, write_shards

from dear.config import ConfigError
from dear.files import write_json
from dear.pipeline import AudioDEAR
from training import teacher
from training.engine.recipe import DistillConfig
from training.engine.trainer import train
from training.runtime.lock import BusyError, locked

MODES = {"modes": 6, "mode_channels": 3}


def shared(folder: Path, delay: float = 0.0, asked: list[slice] | None = None) -> None:
    """A run in four micro-batches. In float64: Adam turns the rounding of a vanishing gradient into whole steps."""
    train(
        Distilled(DistillConfig(weight=10.0), torch.float64, delay, asked),
        config(micro_batch=2, steps=8, save_every=3),
        folder,
        "run",
    )


def first_session(folder: Path) -> None:
    with pytest.raises(BusyError, match="busy is in use by process"):
        shared(folder / "busy")
    asked: list[slice] = []
    shared(folder / "whole", asked=asked)
    write_json(folder / f"asked-{os.environ['RANK']}.json", [[each.start, each.stop, each.step] for each in asked])
    shared(folder / "stopped", delay=0.15)


def second_session(folder: Path) -> None:
    shared(folder / "stopped")
    shared(folder / "killed")
    for kind in ("meanflow", "shortcut"):
        by_name(folder / kind, kind)
    by_name(folder / "energy", "energy", **MODES)
    assert teacher.main(from_shards(folder, "out")) == 0


def from_shards(folder: Path, out: str) -> list[str]:
    """The command on a cache in shards, two of them at a time."""
    return [*arguments(folder, "teacher", "--max-steps", "2", out=out), "--data", str(folder / "shards")]


def join(function: Callable[[Path], None], folder: Path, rank: int, port: int) -> None:
    """Run ``function(folder)`` as one of two processes, as a launcher starts them."""
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in places.items()} | {"ACCELERATE_USE_CPU": "true"}
    function(folder)


def launch(function: Callable[[Path], None], folder: Path) -> list[BaseProcess]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [start(join, function, folder, rank, port) for rank in range(2)]


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    """Runs of two processes: ``whole``; ``stopped`` by a signal to one of them, then resumed; ``killed``, likewise."""
    folder = tmp_path_factory.mktemp("two")
    prepare(folder)
    write_shards(folder / "shards", tiny_config())
    with locked(folder / "busy"):
        processes = launch(first_session, folder)
        wait_until((folder / "stopped" / "state.pt").exists, *processes)
    shutil.copytree(folder / "stopped", folder / "killed")  # what a kill at this moment leaves
    processes[1].terminate()
    assert end(*processes) == [128 + signal.SIGTERM] * 2
    assert 3 <= state(folder / "stopped")["step"] < 8
    assert not (folder / "busy" / "state.pt").exists()
    shutil.copytree(folder / "stopped", folder / "fewer")
    assert end(*launch(second_session, folder)) == [0, 0]
    return folder


def test_two_processes_are_one_with_the_same_micro_batches(two, tmp_path):
    shared(tmp_path)
    assert [line["step"] for line in log(two / "whole")] == [3, 6, 8]
    for mine, theirs in zip(log(tmp_path), log(two / "whole"), strict=True):
        assert mine == pytest.approx(theirs, abs=1e-6)
    mine, theirs = state(tmp_path), state(two / "whole")
    for part in ("model", "ema"):
        for name, value in theirs[part].items():
            assert torch.allclose(mine[part][name], value, atol=1e-6, rtol=0), name


@pytest.mark.parametrize("run", ["stopped", "killed"])
def test_two_processes_go_on_as_if_nothing_had_happened(two, run):
    mine, theirs = state(two / run), state(two / "whole")
    assert mine["step"] == theirs["step"] == 8
    for part in ("model", "ema"):
        assert all(torch.equal(mine[part][name], value) for name, value in theirs[part].items())
    for mine, theirs in zip(log(two / run), log(two / "whole"), strict=True):
        assert mine == pytest.approx(theirs, abs=1e-6)


def test_a_run_goes_on_with_another_number_of_processes(two):
    shared(two / "fewer")
    mine, theirs = state(two / "fewer"), state(two / "whole")
    assert mine["step"] == 8
    assert all(torch.allclose(mine["model"][k], v, atol=1e-6, rtol=0) for k, v in theirs["model"].items())


def test_shards_are_dealt_alike_to_any_number_of_processes(two):
    assert teacher.main(from_shards(two, "alone")) == 0
    alone, both = log(two / "alone"), log(two / "out")
    assert [line["step"] for line in alone] == [line["step"] for line in both]
    for mine, theirs in zip(alone, both, strict=True):
        for name in mine.keys() & {"loss", "gradient"}:
            assert mine[name] == pytest.approx(theirs[name], rel=1e-3)


def test_two_processes_write_one_checkpoint(two):
    model = AudioDEAR.from_pretrained(two / "out" / "checkpoint", device="cpu")
    assert model.generate("rain", seed=0).waveform.isfinite().all()
    assert json.loads((two / "out" / "summary.json").read_text())["processes"] == 2


@pytest.mark.parametrize("kind", ["meanflow", "shortcut"])  # which go through their network more than once
def test_two_processes_train_any_head(two, tmp_path, kind):
    by_name(tmp_path, kind)
    assert log(two / kind)[0] == pytest.approx(log(tmp_path)[0], rel=1e-4)


def test_two_processes_have_the_centres_of_one(two, tmp_path):
    by_name(tmp_path, "energy", **MODES)
    mine, theirs = (state(folder)["model"]["head.centres"] for folder in (tmp_path, two / "energy"))
    assert torch.equal(mine, theirs) and mine.any()
    assert log(two / "energy")[0] == pytest.approx(log(tmp_path)[0], rel=1e-4)


def test_each_process_loads_its_share_alone(two):
    for rank in range(2):
        asked = {tuple(line) for line in json.loads((two / f"asked-{rank}.json").read_text())}
        assert asked == {(rank, None, 2)}


def test_a_process_that_did_not_join_the_others_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        ConfigError, match=r"a launcher started 2 processes, Accelerate joined 1; .* ACCELERATE_USE_CPU"
    ):
        train(Distilled(DistillConfig()), config(), tmp_path, "run")
