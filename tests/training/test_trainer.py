from __future__ import annotations

import errno
import fcntl
import json
import signal
import socket
import threading
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from processes import end, start, wait_until
from regression import Regression, config, states
from torch import nn

from dear.config import ConfigError
from training.engine.schedule import ema_decay, learning_rate, parameter_groups
from training.engine.trainer import StateError, train
from training.runtime import lock
from training.runtime.lock import BusyError, locked


def log(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def equal(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


class Stop(Exception):
    pass


class Interrupted(Regression):
    """Fails in its loss at one step, as a crash would: nothing is saved on the way out."""

    def __init__(self, at: int):
        super().__init__()
        self.at, self.done = at, 0

    def loss(self, batch, generator):
        if self.done == self.at:
            raise Stop
        self.done += 1
        return super().loss(batch, generator)


def test_the_loss_falls_and_the_log_says_so(tmp_path):
    task = Regression()
    train(task, config(steps=200, log_every=20, validate_every=100), tmp_path, "regression")
    lines = log(tmp_path)
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 10
    assert losses[-1] < 0.2 * losses[0]
    assert [line["step"] for line in lines if "validation" in line] == [100, 200]
    assert {"step", "loss", "bias", "gradient", "lr"} == set(lines[0])
    assert lines[0]["lr"] == learning_rate(config(steps=200), 19)
    assert sorted(task.asked) == list(range(200))  # each batch is asked for once


def test_the_average_is_the_closed_form_and_serves_validation(tmp_path):
    trace: list[torch.Tensor] = []

    class Traced(Regression):
        def loss(self, batch, generator):
            trace.append(self.module[0].weight.detach().clone())
            return super().loss(batch, generator)

    task, settings = Traced(), config(steps=25, validate_every=25)
    averaged = train(task, settings, tmp_path, "traced")
    trace.append(task.module[0].weight.detach().clone())
    expected = trace[0].double()
    for step, weight in enumerate(trace[1:]):
        decay = min(0.9, (1 + step) / (10 + step))
        assert ema_decay(settings, step) == decay
        expected = decay * expected + (1 - decay) * weight.double()
    assert torch.allclose(averaged[0].weight.double(), expected, atol=1e-6)
    assert not torch.equal(averaged[0].weight, task.module[0].weight)
    assert log(tmp_path)[-1]["validation"]["norm"] == pytest.approx(averaged[0].weight.norm().item())
    assert not averaged.training
    assert averaged[0].weight.requires_grad


def test_validation_and_other_generators_do_not_touch_the_run(tmp_path):
    plain = train(Regression(), config(), tmp_path / "plain", "run")
    before = torch.random.get_rng_state()
    validated = train(Regression(), config(validate_every=3, log_every=1), tmp_path / "validated", "run")
    assert torch.equal(torch.random.get_rng_state(), before)  # no global seeding
    torch.rand(17)
    assert equal(plain, validated)
    assert not equal(plain, train(Regression(), config(seed=1), tmp_path / "seed", "run"))


@pytest.mark.parametrize("at", [3, 7, 18, 39])
def test_a_crash_changes_nothing(tmp_path, at):
    whole = train(Regression(), config(validate_every=4), tmp_path / "whole", "run")
    folder = tmp_path / "crashed"
    with pytest.raises(Stop):
        train(Interrupted(at), config(validate_every=4), folder, "run")
    (folder / "state.pt.tmp").write_bytes(b"half a state")  # left by a kill while writing
    with open(folder / "log.jsonl", "a") as file:
        file.write('{"step": 3')  # a line cut off
    task = Regression()
    assert equal(train(task, config(validate_every=4), folder, "run"), whole)
    assert min(task.asked) == at // 7 * 7  # it went on from the last state
    assert log(folder) == log(tmp_path / "whole")


def test_a_finished_run_returns_at_once(tmp_path):
    first, task = train(Regression(), config(), tmp_path, "run"), Regression()
    before = log(tmp_path)
    assert equal(train(task, config(), tmp_path, "run"), first)
    assert task.asked == []
    assert log(tmp_path) == before


def slow_run(folder: Path) -> None:
    train(Regression(delay=0.02), config(steps=60), folder, "run")


def wait_for_steps(folder: Path, process: BaseProcess, steps: int) -> None:
    path = folder / "log.jsonl"
    wait_until(lambda: path.exists() and path.read_bytes().count(b"\n") * 5 >= steps, process)


def test_a_folder_is_waited_for_that_another_run_only_looks_into(tmp_path):
    held, let_go = threading.Event(), threading.Event()

    def look() -> None:
        with locked(tmp_path):
            held.set()
            let_go.wait(60)

    looking = threading.Thread(target=look)
    looking.start()
    assert held.wait(60)
    threading.Timer(0.3, let_go.set).start()
    with locked(tmp_path):
        assert let_go.is_set()
    looking.join()


def test_killed_and_terminated_runs_reach_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "PATIENCE", 0.0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    whole = train(Regression(), config(steps=60), tmp_path / "whole", "run")
    torch.set_num_threads(threads)
    folder = tmp_path / "killed"

    process = start(slow_run, folder)
    wait_for_steps(folder, process, 10)
    with pytest.raises(BusyError) as busy:
        train(Regression(), config(steps=60), folder, "run")
    assert f"{folder} is in use by process {process.pid} on {socket.gethostname()}; " in str(busy.value)
    process.kill()
    assert end(process) == [-signal.SIGKILL]
    assert states(folder)["step"] in range(7, 60, 7)

    process = start(slow_run, folder)
    wait_for_steps(folder, process, 30)
    process.terminate()
    assert end(process) == [128 + signal.SIGTERM]
    stopped = states(folder)["step"]
    assert 30 <= stopped < 60  # saved on the signal, between two steps

    assert end(start(slow_run, folder)) == [0]
    a, b = states(folder), states(tmp_path / "whole")
    assert all(torch.equal(a["model"][key], b["model"][key]) for key in b["model"])
    assert all(torch.equal(a["ema"][key], b["ema"][key]) for key in b["ema"])
    assert a["step"] == b["step"] == 60
    assert log(folder) == log(tmp_path / "whole")
    assert equal(whole, train(Regression(), config(steps=60), folder, "run"))


def test_a_file_system_without_locks_keeps_nobody_out(tmp_path, monkeypatch, capsys):
    def unknown(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unknown)
    with locked(tmp_path), locked(tmp_path):
        assert f"{tmp_path} can't be locked (No locks available)" in capsys.readouterr().err


def test_another_run_is_refused_by_the_name_of_what_differs(tmp_path):
    train(Regression(), config(steps=5), tmp_path, "run")
    with pytest.raises(StateError, match=r"config\.lr is 0\.02, wanted is 0\.01"):
        train(Regression(), config(steps=5, lr=1e-2), tmp_path, "run")
    with pytest.raises(StateError, match="its name is 'run', wanted is 'other'"):
        train(Regression(), config(steps=5), tmp_path, "other")
    with pytest.raises(StateError, match=r"settings\.width is 16, wanted is 17"):
        train(Regression(settings={"width": 17}), config(steps=5), tmp_path, "run")
    task = Regression()
    task.module = nn.Linear(6, 3)
    with pytest.raises(StateError, match="another network"):
        train(task, config(steps=5), tmp_path, "run")
    (tmp_path / "state.pt").write_bytes((tmp_path / "state.pt").read_bytes()[:500])
    with pytest.raises(StateError, match=r"state\.pt is not a training state"):
        train(Regression(), config(steps=5), tmp_path, "run")


def test_a_loss_that_is_not_finite_stops_the_run_before_it_is_saved(tmp_path):
    class Broken(Regression):
        def loss(self, batch, generator):
            values = super().loss(batch, generator)
            return {"loss": values["loss"] * float("nan")} if batch["x"][0, 0] == self.poison else values

    task = Broken()
    task.poison = float(task.batch(9)["x"][0, 0])
    with pytest.raises(ArithmeticError, match="loss is not finite"):
        train(task, config(), tmp_path, "run")
    assert states(tmp_path)["step"] == 7
    assert all(value.isfinite().all() for value in states(tmp_path)["model"].values())


def test_a_batch_of_another_size_is_refused(tmp_path):
    with pytest.raises(ValueError, match="must have 4 items, the share of a process, got 8"):
        train(Regression(), config(batch_size=4), tmp_path, "run")


def test_a_task_without_validation_is_reported_before_any_step(tmp_path):
    class Blind(Regression):
        validate = None

    task = Blind()
    with pytest.raises(ConfigError, match="validate_every must be 0"):
        train(task, config(validate_every=2), tmp_path, "run")
    assert task.asked == []


def test_bfloat16_and_float32_in_one_process(tmp_path):
    seen = []

    class Watched(Regression):
        def loss(self, batch, generator):
            seen.append(self.module[0](batch["x"]).dtype)
            return super().loss(batch, generator)

    train(Watched(), config(steps=5, precision="bf16"), tmp_path / "bf16", "run")
    averaged = train(Watched(), config(steps=5), tmp_path / "float32", "run")
    assert set(seen[:5]) == {torch.bfloat16}
    assert set(seen[5:]) == {torch.float32}
    assert averaged[0].weight.dtype == torch.float32


def test_the_schedule(tmp_path):
    cosine = config(steps=101, warmup=10, lr=1.0)
    assert learning_rate(cosine, 0) == pytest.approx(0.1)
    assert learning_rate(cosine, 10) == pytest.approx(1.0)
    assert learning_rate(cosine, 55) == pytest.approx(0.05 + 0.95 / 2)
    assert learning_rate(cosine, 100) == pytest.approx(0.05)
    assert learning_rate(config(steps=101, warmup=0, schedule="constant", lr=1.0), 100) == 1.0


def test_only_matrices_decay():
    module = nn.ModuleDict(
        {
            "linear": nn.Linear(2, 3),
            "norm": nn.LayerNorm(3),
            "embedding": nn.Embedding(5, 3),
            "conv": nn.Conv1d(3, 3, 5),
        }
    )
    module.register_parameter("positions", nn.Parameter(torch.zeros(4, 3)))
    module["conv"].bias.requires_grad_(False)
    decayed, kept = parameter_groups(module, 0.1)
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    assert {names[id(p)] for p in decayed["params"]} == {"linear.weight", "conv.weight"}
    assert {names[id(p)] for p in kept["params"]} == {
        "linear.bias",
        "norm.weight",
        "norm.bias",
        "embedding.weight",
        "positions",
    }
    assert decayed["weight_decay"] == 0.1
    assert kept["weight_decay"] == 0.0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0),
        ("lr", float("nan")),
        ("ema", 1.0),
        ("warmup", 41),
        ("schedule", "linear"),
        ("precision", "fp16"),
        ("betas", (0.9, 1.0)),
        ("clip", 0.0),
        ("weight_decay", -1.0),
        ("seed", -1),
    ],
)
def test_a_bad_configuration_is_named(field, value):
    with pytest.raises(ConfigError, match=field):
        config(**{field: value})


def test_progress_keeps_telling_the_last_loss_where_there_is_no_terminal(capsys, monkeypatch):
    from training.runtime import progress

    monkeypatch.setattr(progress, "QUIET_SECONDS", 0.0)
    shown = progress.Progress("stage", 3)
    for note in ("loss 0.5", None, None):
        shown.update(note=note)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(", ")[:2] for line in lines] == [[f"stage: step {n}/3", "loss 0.5"] for n in (1, 2, 3)]
    assert all(line.endswith(" left") for line in lines)
