"""Training on several processes and in micro-batches, the commands that train one model, and their counting."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from factory import tiny_checkpoint, tiny_config, tiny_models
from processes import end, start, wait_until
from safetensors.torch import save_file
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dear.conditioning import Conditioning
from dear.config import Config, ConfigError
from dear.files import sha256, write_json
from dear.heads import HEADS
from dear.heads.energy import EnergyConfig
from dear.heads.meanflow import MeanFlowConfig
from dear.heads.shortcut import ShortcutConfig
from dear.model import MaskedModel
from dear.pipeline import AudioDEAR
from dear.presets import preset
from training import distill, teacher
from training.cache.tokens import weights_digest
from training.data.manifest import Entry, write_manifest
from training.distill import DistilledModelling, load_teacher
from training.engine.board import Board
from training.engine.provenance import command_line, facts, git_commit
from training.engine.recipe import DistillConfig, MaskingConfig, ModelRecipe, load_recipe
from training.engine.schedule import TrainConfig, step_seed
from training.engine.stage import open_cache
from training.engine.throughput import backbone_flops, head_flops, measured_peak, step_flops
from training.engine.trainer import StateError, train
from training.runtime import lock
from training.runtime.lock import BusyError, locked
from training.runtime.stamps import completed, difference, plain
from training.store.shards import Item, shard_name, write_shard

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "training" / "configs"
MASKING = MaskingConfig()


class Tokens:
    """A cache in memory: 24 items of the tiny model's shapes, behind 5 conditioning tokens."""

    stamp = {"made": "of noise"}  # noqa: RUF012

    def __init__(self, dtype: torch.dtype = torch.float32):
        generator = torch.Generator().manual_seed(0)
        self.tokens = torch.randn(24, 8, 16, generator=generator).to(dtype)
        self.conditioning = torch.randn(24, 5, 384, generator=generator).to(dtype)

    def __len__(self) -> int:
        return len(self.tokens)

    def indices(self, step: int, batch_size: int, seed: int) -> np.ndarray:
        return (np.arange(step * batch_size, (step + 1) * batch_size) * 5 + seed) % len(self)

    def batch(self, indices) -> dict[str, torch.Tensor]:
        index = torch.as_tensor(np.asarray(indices))
        mask = torch.ones(len(index), 5, dtype=torch.bool)
        return {"tokens": self.tokens[index], "conditioning": self.conditioning[index], "mask": mask}


class Distilled(DistilledModelling):
    """A tiny student under a tiny teacher; ``delay`` seconds per batch."""

    def __init__(self, distill: DistillConfig, dtype: torch.dtype = torch.float32, delay: float = 0.0):
        models = {name: model.to(dtype) for name, model in tiny_models(tiny_config()).items()}
        super().__init__(models["student"], models["teacher"], "digest", Tokens(dtype), None, MASKING, distill, 8, 0)
        self.delay = delay

    def batch(self, step: int) -> dict[str, torch.Tensor]:
        time.sleep(self.delay)
        return super().batch(step)


def config(**changes) -> TrainConfig:
    values = {"steps": 12, "batch_size": 8, "lr": 1e-3, "warmup": 2, "ema": 0.9, "save_every": 4, "log_every": 3}
    return TrainConfig(**{**values, **changes})


def state(folder: Path) -> dict:
    return torch.load(folder / "state.pt", weights_only=True)


def log(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in ("seconds", "speed")} for line in lines]


# Two processes


def shared(folder: Path, delay: float = 0.0) -> None:
    """A run in four micro-batches. In float64: Adam turns the rounding of a vanishing gradient into whole steps."""
    train(
        Distilled(DistillConfig(weight=10.0), torch.float64, delay),
        config(micro_batch=2, steps=8, save_every=3),
        folder,
        "run",
    )


def first_session(folder: Path) -> None:
    with pytest.raises(BusyError, match="busy is in use by process"):
        shared(folder / "busy")
    shared(folder / "whole")
    shared(folder / "stopped", delay=0.15)


def second_session(folder: Path) -> None:
    shared(folder / "stopped")
    shared(folder / "killed")
    for kind in ("meanflow", "shortcut"):
        by_name(folder / kind, kind)
    assert teacher.main(from_shards(folder, "out")) == 0


def from_shards(folder: Path, out: str) -> list[str]:
    """The command on a cache in shards, two of them at a time."""
    return [*arguments(folder, "teacher", "--max-steps", "2", out=out), "--data", str(folder / "shards")]


def join(function: Callable[[Path], None], folder: Path, rank: int, port: int) -> None:
    """``function(folder)`` as one of two processes, as a launcher starts them."""
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


def test_a_process_that_did_not_join_the_others_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        ConfigError, match=r"a launcher started 2 processes, Accelerate joined 1; .* ACCELERATE_USE_CPU"
    ):
        train(Distilled(DistillConfig()), config(), tmp_path, "run")


# Micro-batches


def test_micro_batches_have_noise_of_their_own_and_their_gradients_are_averaged(tmp_path):
    task = Distilled(DistillConfig(weight=10.0))
    values, expected = [], Distilled(DistillConfig(weight=10.0))
    batch = expected.batch(0)
    for part in range(4):
        generator = torch.Generator().manual_seed(step_seed(0, 0, part))
        loss = expected.loss({key: value[part::4] for key, value in batch.items()}, generator)["loss"]
        (loss / 4).backward()
        values.append(loss.item())
    norm = torch.nn.utils.clip_grad_norm_(expected.module.parameters(), 3.0).item()
    train(task, config(micro_batch=2, log_every=1), tmp_path, "run", max_steps=1)
    assert log(tmp_path)[0]["loss"] == pytest.approx(np.mean(values), rel=1e-5)
    assert log(tmp_path)[0]["gradient"] == pytest.approx(norm, rel=1e-5)
    assert len(set(values)) == 4


def test_one_micro_batch_is_the_plain_step(tmp_path):
    train(Distilled(DistillConfig()), config(steps=3), tmp_path / "plain", "run")
    train(Distilled(DistillConfig()), config(steps=3, micro_batch=8), tmp_path / "micro", "run")
    plain, micro = state(tmp_path / "plain")["model"], state(tmp_path / "micro")["model"]
    assert all(torch.equal(plain[name], micro[name]) for name in plain)


@pytest.mark.parametrize(("changes", "processes"), [({}, 3), ({"micro_batch": 2}, 3), ({"micro_batch": 4}, 4)])
def test_micro_batches_that_cannot_be_shared_out_are_refused(changes, processes):
    with pytest.raises(ConfigError, match=f"must be a multiple of the {processes} processes"):
        config(**changes).parts(processes)


def test_a_micro_batch_that_does_not_divide_the_batch_is_refused():
    with pytest.raises(ConfigError, match="micro_batch must divide batch_size 8, got 3"):
        config(micro_batch=3)


def test_a_run_that_stops_early_goes_on_along_the_same_schedule(tmp_path):
    train(Distilled(DistillConfig()), config(), tmp_path / "whole", "run")
    for steps in (5, 12):
        train(Distilled(DistillConfig()), config(), tmp_path / "parts", "run", max_steps=steps)
        assert state(tmp_path / "parts")["step"] == steps
    whole, parts = state(tmp_path / "whole")["model"], state(tmp_path / "parts")["model"]
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


# States and freezing


def test_a_state_from_before_a_field_existed_is_one_with_its_default(tmp_path):
    train(Distilled(DistillConfig()), config(), tmp_path, "run", max_steps=2)
    saved = state(tmp_path)
    description = json.loads(saved["description"])
    for part, field in ((description["config"], "micro_batch"), (description["settings"]["head"], "samples")):
        del part[field]
    torch.save(saved | {"description": json.dumps(description)}, tmp_path / "state.pt")
    train(Distilled(DistillConfig()), config(), tmp_path, "run", max_steps=3)
    assert state(tmp_path)["step"] == 3
    torch.save(saved | {"description": json.dumps(description)}, tmp_path / "state.pt")
    with pytest.raises(StateError, match=r"config\.micro_batch is 0, wanted is 4"):
        train(Distilled(DistillConfig()), config(micro_batch=4), tmp_path, "run")


def test_what_nested_settings_have_gained_since_is_at_its_default():
    wanted = {"model": tiny_config()}
    saved = plain(wanted)
    del saved["model"]["vae"]["peak"], saved["model"]["backbone"]["positions"]
    saved["model"]["vocoder"] |= {"width": 192, "depth": 6}  # of another kind
    assert completed(saved, wanted) == plain(wanted)
    other = {"model": replace(tiny_config(), vae=replace(tiny_config().vae, peak=0.5))}
    assert difference(completed(saved, other), plain(other)) == "its model.vae.peak is 0.0, wanted is 0.5"


def test_freezing_trains_the_head_alone(tmp_path):
    task = Distilled(DistillConfig(weight=0.0, freeze=True))
    before = {name: value.clone() for name, value in task.module.state_dict().items()}
    averaged = train(task, config(), tmp_path, "run")
    for module in (task.module, averaged):
        for name, value in module.state_dict().items():
            assert torch.equal(value, before[name]) == (not name.startswith("head.")), name
    with pytest.raises(StateError, match="freeze"):
        train(Distilled(DistillConfig(weight=0.0)), config(), tmp_path, "run")


@pytest.mark.parametrize("change", [{"weight": -1.0}, {"channels": "max"}, {"weight": 1.0, "freeze": True}])
def test_a_bad_distillation_is_named(change):
    with pytest.raises(ConfigError, match=f"distill.{next(iter(change))}"):
        DistillConfig(**change)


def by_name(folder: Path, kind: str) -> None:
    """A model with the head that ``kind`` names, trained for two steps."""
    base = tiny_config()
    variant = replace(
        base.variants["student"], head=HEADS[kind].Config(**{"width": 16, "depth": 1} | HEADS[kind].toy_options)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MaskedModel(replace(base, variants={"student": variant}))
    task = teacher.MaskedModelling(model, Tokens(), None, MASKING, 8, 0)
    train(task, config(steps=2, micro_batch=4, precision="bf16", validate_every=1), folder, kind)


@pytest.mark.parametrize("kind", HEADS)
def test_every_head_trains_by_its_name(tmp_path, kind):
    by_name(tmp_path, kind)
    assert [line["step"] for line in log(tmp_path)] == [2]  # and no line of a validation without data


# What people watch


def test_tensorboard_holds_the_log_and_forgets_what_was_lost(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def session(max_steps: int) -> None:
        board = Board(tmp_path, {"tokens": 64.0}, tiny_config().mel)
        train(Distilled(DistillConfig()), config(log_every=1), tmp_path, "run", board, max_steps)
        board.close()

    session(6)
    early = state(tmp_path)
    session(9)
    torch.save(early, tmp_path / "state.pt")
    session(12)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert {"loss", "representation", "lr", "speed/tokens"} <= set(events.Tags()["scalars"])
    losses = events.Scalars("loss")
    assert [event.step for event in losses] == [line["step"] for line in log(tmp_path)] == list(range(1, 13))
    assert [event.value for event in losses] == pytest.approx([line["loss"] for line in log(tmp_path)])
    assert all(event.value > 0 for event in events.Scalars("speed/tokens"))


# Counting


def counted(model: MaskedModel, conditioning: int, hidden: int) -> tuple[float, float, float]:
    """Backbone's and head's forward pass of one item, and a step, by torch's own counter."""
    length, dim = model.length, model.token_dim
    device = next(model.parameters()).device
    with torch.device(device):
        tokens, known = torch.zeros(1, length, dim), torch.zeros(1, length, dtype=torch.bool)
        condition = Conditioning(
            torch.zeros(1, conditioning, model.config.conditioning.dim), torch.ones(1, conditioning, dtype=torch.bool)
        )
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        context = model.context(tokens, known, condition)
        backbone = counter.get_total_flops()
        loss = model.head.loss(tokens[0, :hidden], context[0, :hidden], torch.Generator().manual_seed(0))
        head = counter.get_total_flops() - backbone
        loss.mean().backward()
    return backbone, head, counter.get_total_flops()


@pytest.mark.parametrize("name", ["base", "base-teacher"])
def test_the_formulas_are_what_torch_counts_at_the_papers_width(name):
    config = preset(name)
    config = replace(config, backbone=replace(config.backbone, depth=2))  # all blocks are alike
    with torch.device("meta"):
        model = MaskedModel(config)
    head = config.variants[model.variant].head
    backbone, heads, step = counted(model, 78, 128)
    assert backbone == pytest.approx(backbone_flops(config, 78), rel=1e-6)
    assert heads == pytest.approx(128 * head_flops(head, 128, 768), rel=1e-6)
    assert step == pytest.approx(step_flops(config, model.variant, 1, 78, 0.5), rel=0.05)


HEADS_COUNTED = {
    **{kind: HEADS[kind].Config(width=64) for kind in HEADS},
    "shortcut": ShortcutConfig(width=64, flow_share=0.5),
    "noise as condition": EnergyConfig(width=64, noise_as="condition", samples=3),
}
# Torch's counter sees each product of a forward derivative at two levels, and so counts it twice.
del HEADS_COUNTED["meanflow"]


@pytest.mark.parametrize("name", HEADS_COUNTED)
def test_every_head_is_counted(name):
    config, head = tiny_config(), HEADS_COUNTED[name]
    config = replace(config, variants={"student": replace(config.variants["student"], head=head)})
    _, heads, step = counted(MaskedModel(config), 5, 8)
    leaps = 1.0 if name == "shortcut" else 0.0  # two more passes on about half of the rows
    assert heads / (8 * head_flops(head, 16, 32)) == pytest.approx(1 + leaps, rel=0.3 * leaps + 1e-6)
    assert step == pytest.approx(step_flops(config, "student", 1, 5, 1.0), rel=0.15)


def test_meanflow_is_one_pass_and_its_derivative():
    head = MeanFlowConfig(width=64, levels=1)
    network, rows = HEADS["meanflow"](head, 16, 32), torch.zeros(8)
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(8, 16), rows, rows, torch.zeros(8, 32))
    assert counter.get_total_flops() == pytest.approx(8 * head_flops(head, 16, 32))
    config = tiny_config()
    steps = []
    for kind in ("flow", "meanflow"):
        variant = replace(config.variants["student"], head=HEADS[kind].Config(width=64, levels=1))
        config = replace(config, variants={"student": variant})
        without = 4 * 3 * backbone_flops(config, 5)
        steps.append((step_flops(config, "student", 4, 5, 1.0) - without) / head_flops(variant.head, 16, 32))
    assert steps == pytest.approx([3 * 4 * 8, 4 * 4 * 8])


def test_the_work_of_a_step_adds_up():
    config, args = preset("base"), (32, 78, 0.85)
    whole = step_flops(config, "student", *args)
    backbone = 32 * backbone_flops(config, 78)
    assert step_flops(config, "student", *args, teacher=True) == pytest.approx(whole + backbone)
    assert step_flops(config, "student", *args, frozen=True) == pytest.approx(whole - 2 * backbone)
    assert step_flops(config, "student", 64, 78, 0.85) == pytest.approx(2 * whole)
    assert 1e8 < measured_peak(torch.device("cpu"), "no") < 1e14


# The commands


def prepare(folder: Path) -> None:
    """A checkpoint with a codec, a cache, and recipes of both commands, all tiny."""
    tiny_checkpoint(folder / "tiny")
    cache(folder / "cache", tiny_config())
    for name in ("teacher", "student"):
        model = tiny_config()
        model = replace(model, name=name, variants={name: model.variants[name]})
        recipe = {
            "model": model.to_dict(),
            "train": {"steps": 6, "batch_size": 4, "micro_batch": 2, "lr": 1e-3, "warmup": 1, "precision": "bf16"},
            "samples": {"prompts": ["rain", "a dog barks"], "every": 2},
        }
        recipe["train"] |= {"validate_every": 2}
        if name == "student":
            recipe["distill"] = {"weight": 100.0}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(recipe))))


def cache(folder: Path, config: Config, items: int = 12, conditioning: int = 5) -> Path:
    """Noise in the format of ``training.cache.tokens``."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    shape = (items, config.length, config.vae.token_dim)
    np.save(folder / "tokens.npy", rng.standard_normal(shape, dtype=np.float32).astype(np.float16))
    tokens = torch.randn(items, conditioning, config.conditioning.dim, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(items, conditioning, dtype=torch.bool)
    save_file({"tokens": tokens.half(), "mask": mask}, folder / "conditioning.safetensors")
    table = {"captions": [str(i) for i in range(items)], "caption": list(range(items))}
    write_json(folder / "captions.json", table | {"labels": [[]] * items, "kind": ["noise"] * items})
    write_json(folder / "stamp.json", {"made": "of noise", "items": items})
    return folder


def write_shards(folder: Path, config: Config) -> None:
    """Noise in the format of ``training.store.shards``: 24 items in 6 shards."""
    folder.mkdir()
    rng, index = np.random.default_rng(0), []
    shapes = (config.length, config.vae.token_dim), (5, config.conditioning.dim)
    for number in range(6):
        items = [
            Item(f"{number}-{i}", *(rng.standard_normal(shape).astype(np.float16) for shape in shapes), {})
            for i in range(4)
        ]
        with open(folder / shard_name(number), "wb") as file:
            write_shard(file, items)
        index.append({"items": 4, "sha256": sha256(folder / shard_name(number))})
    write_json(folder / "index.json", {"shards": index})
    stamp = {"token_shape": shapes[0], "longest": 5, "conditioning_dim": shapes[1][1]}
    write_json(folder / "stamp.json", stamp | {"index": sha256(folder / "index.json")})


def arguments(folder: Path, name: str, *more: str, out: str = "out") -> list[str]:
    paths = {"config": f"{name}.yaml", "data": "cache", "held-out": "cache", "codec": "tiny", "out": out}
    return [text for key, path in paths.items() for text in (f"--{key}", str(folder / path))] + list(more)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Teacher and student after two steps each."""
    folder = tmp_path_factory.mktemp("commands")
    prepare(folder)
    assert teacher.main(arguments(folder, "teacher", "--max-steps", "2", out="teacher")) == 0
    more = ("--teacher", str(folder / "teacher"), "--max-steps", "2")
    assert distill.main(arguments(folder, "student", *more, out="student")) == 0
    return folder


@pytest.mark.parametrize("name", ["teacher", "student"])
def test_two_steps_end_in_a_checkpoint_that_makes_sound(trained, name):
    model = AudioDEAR.from_pretrained(trained / name / "checkpoint", device="cpu")
    assert model.variant == name
    out = model.generate("rain", seed=0)
    assert out.waveform.shape == (1, 10_000) and out.waveform.isfinite().all()
    averaged = state(trained / name)["ema"]
    for key, value in model.model.state_dict().items():
        assert torch.equal(value, averaged[key].half().float())


@pytest.mark.parametrize("name", ["teacher", "student"])
def test_a_run_tells_its_speed_and_lets_itself_be_heard(trained, name):
    summary = json.loads((trained / name / "summary.json").read_text())
    assert summary["steps"] == 2 and summary["tokens_per_step"] == 4 * 8
    assert summary["tokens_per_second"] == pytest.approx(32 * summary["steps_per_second"])
    expected = summary["flops_per_step"] * summary["steps_per_second"] / summary["peak_flops_per_second"]
    assert summary["utilisation"] == pytest.approx(expected)
    lines = [json.loads(line) for line in (trained / name / "log.jsonl").read_text().splitlines()]
    assert any(set(line.get("speed", {})) == {"steps", "tokens", "utilisation"} for line in lines)
    assert any("hidden_1" in line.get("validation", {}) for line in lines)
    names = sorted(path.name for path in (trained / name / "samples").iterdir())
    assert names == [f"0000002-{i}.{kind}" for i in (1, 2) for kind in ("png", "wav")]
    sound, rate = soundfile.read(trained / name / "samples" / "0000002-1.wav")
    model = AudioDEAR.from_pretrained(trained / name / "checkpoint", device="cpu")
    assert (len(sound), rate) == (10_000, model.sample_rate)


def test_samples_leave_the_run_alone(trained):
    recipe = yaml.safe_load((trained / "teacher.yaml").read_text())
    del recipe["samples"]
    (trained / "silent.yaml").write_text(yaml.safe_dump(recipe))
    assert teacher.main(arguments(trained, "silent", "--max-steps", "2", out="silent")) == 0
    assert not (trained / "silent" / "samples").exists()
    heard, silent = state(trained / "teacher")["model"], state(trained / "silent")["model"]
    assert all(torch.equal(heard[name], silent[name]) for name in heard)


def test_a_student_starts_from_the_teachers_average_wherever_it_lies(trained):
    student = load_recipe(trained / "student.yaml", ModelRecipe).model
    average = state(trained / "teacher")["ema"]
    for source in ("teacher", "teacher/state.pt", "teacher/checkpoint"):
        found = load_teacher(str(trained / source), student).state_dict()
        assert all(torch.allclose(found[name], average[name], atol=1e-3, rtol=1e-3) for name in average)
    settings = json.loads(state(trained / "student")["description"])["settings"]
    assert settings["teacher"] == weights_digest(load_teacher(str(trained / "teacher"), student))
    wider = replace(student, backbone=replace(student.backbone, width=64))
    with pytest.raises(ConfigError, match=r"its backbone\.width is 32, wanted is 64"):
        load_teacher(str(trained / "teacher"), wider)
    with pytest.raises(StateError, match="not the training state of a teacher"):
        load_teacher(str(trained / "tiny.pt"), student)


def test_a_manifest_is_encoded_on_first_use(trained, capsys):
    rng, entries = np.random.default_rng(0), []
    for number in range(3):
        path = trained / f"{number}.wav"
        soundfile.write(path, 0.1 * rng.standard_normal(10_240), 16000)
        entries.append(
            Entry(
                id=str(number),
                path=path,
                dataset="noise",
                captions=(f"noise {number}",),
                licence="CC0" if number else None,
                duration=0.64,
                sample_rate=16000,
                channels=1,
                digest=str(number),
            )
        )
    write_manifest(trained / "noise.jsonl", entries)
    wanted = arguments(trained, "teacher", "--max-steps", "1", out="from-manifest")
    wanted[wanted.index("--data") + 1] = str(trained / "noise.jsonl")
    assert teacher.main(wanted) == 2
    assert "python -m training.encode --manifest" in capsys.readouterr().err
    assert teacher.main([*wanted, "--cache", str(trained / "shards")]) == 0
    whole = open_cache(str(trained / "shards"))
    assert len(whole) == 3
    for rank in range(2):  # of two processes each reads its own micro-batches, here two of four
        own = open_cache(str(trained / "shards"), rank, 2, parts=4)
        indices = own.indices(0, 8, 0)
        for part in (rank, rank + 2):
            read, wanted = (cache.batch(indices)["tokens"][part::4] for cache in (own, whole))
            assert torch.equal(read, wanted) and wanted.any()
    assert state(trained / "from-manifest")["step"] == 1
    card = (trained / "from-manifest" / "checkpoint" / "README.md").read_text()
    assert "3 items of 3 sounds" in card and "| noise | 3 | 3 | unknown, CC0 |" in card
    assert "Licences of the sounds that were trained on: CC0 (2), unknown (1)." in card


@pytest.mark.parametrize(("name", "module"), [("teacher", "teacher"), ("student", "distill")])
def test_the_card_tells_data_command_commit_and_size(trained, name, module):
    card = (trained / name / "checkpoint" / "README.md").read_text()
    assert '## Data\n\n12 items of a cache that was made from:\n\n    {"made": "of noise", "items": 12}\n' in card
    typed = [line for line in card.splitlines() if line.startswith("    python -m ")]
    more = ("--teacher", str(trained / "teacher")) if name == "student" else ()
    wanted = arguments(trained, name, *more, "--max-steps", "2", out=name)
    assert [shlex.split(line) for line in typed] == [["python", "-m", f"training.{module}", *wanted]]
    parameters = sum(p.numel() for p in tiny_models(tiny_config())[name].parameters())
    assert f"after 2 of 6 steps of 4 sounds; {parameters:,} of {parameters:,} parameters were trained." in card
    assert ("Commit of the code: " in card) == (git_commit() is not None)


def test_a_second_run_in_a_folder_is_refused_in_one_sentence(trained, capsys, monkeypatch):
    monkeypatch.setattr(lock, "PATIENCE", 0.0)
    before = state(trained / "teacher")["step"]
    with locked(trained / "teacher"):
        assert teacher.main(arguments(trained, "teacher", "--max-steps", "3", out="teacher")) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    holder = f"process {os.getpid()} on {socket.gethostname()}"
    assert error.startswith(f"error: {trained / 'teacher'} is in use by {holder}; ")
    assert state(trained / "teacher")["step"] == before


def test_the_card_of_a_model_on_audioldm_tells_its_licence():
    assert "CC BY-NC-SA 4.0" in facts(preset("base"), {"made": "of noise"}, 1, "", "", None).licences
    assert facts(tiny_config(), {"made": "of noise"}, 1, "", "", None).licences is None


def test_several_processes_and_odd_names_are_told_as_they_are_typed():
    told = command_line("python -m training.teacher", ["--data", "a b", "--out", "x"], 4)
    assert told == "accelerate launch --num_processes 4 -m training.teacher --data 'a b' --out x"


@pytest.mark.skipif(shutil.which("git") is None, reason="this machine has no git")
def test_the_commit_is_that_of_the_code_and_tells_of_changes(tmp_path):
    def git(*words: str) -> str:
        user = ("-c", "user.name=n", "-c", "user.email=e@example.org")
        return subprocess.run(["git", *user, *words], cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    git("init")
    assert git_commit(tmp_path) is None
    (tmp_path / "code.py").write_text("1")
    git("add", "code.py")
    git("commit", "-m", "first")
    commit = git("rev-parse", "HEAD").strip()
    assert git_commit(tmp_path) == commit
    (tmp_path / "code.py").write_text("2")
    assert git_commit(tmp_path) == f"{commit} and changes on top of it"
    (tmp_path / "installed").mkdir()
    assert git_commit(tmp_path / "installed") is None


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--data", "nothing", "nothing is not a finished cache"),
        ("--data", "wide", "--data must hold 8 tokens of 16 values behind conditioning of 384 values"),
        ("--config", "two.yaml", "model.variants must name the one variant that is trained, got student, teacher"),
        ("--config", "student.yaml", "distill must be absent"),
        ("--codec", None, "--codec must name a checkpoint"),
        ("--max-steps", "0", "--max-steps must be at least 1"),
        ("--peak", "-1", "--peak must be above 0"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(trained, capsys, option, value, words):
    if not (trained / "wide").exists():
        model = tiny_config()
        cache(trained / "wide", replace(model, vae=replace(model.vae, token_dim=24)))
        recipe = yaml.safe_load((trained / "teacher.yaml").read_text())
        recipe["model"] = json.loads(model.to_json())
        (trained / "two.yaml").write_text(yaml.safe_dump(recipe))
    wanted = arguments(trained, "teacher", out="refused")
    if value is None:
        del wanted[wanted.index(option) : wanted.index(option) + 2]
    else:
        wanted += [option, value if option in ("--max-steps", "--peak") else str(trained / value)]
    assert teacher.main(wanted) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and words in error
    assert not (trained / "refused").exists()


def test_the_papers_recipes_are_the_presets():
    taught = load_recipe(CONFIGS / "base-teacher.yaml", ModelRecipe)
    student = load_recipe(CONFIGS / "base-student.yaml", ModelRecipe)
    assert taught.model == preset("base-teacher")
    assert student.model == preset("base")
    for name, recipe in (("teacher", taught), ("student", student)):
        assert asdict(recipe.masking) == {
            "ratio": (0.7, 1.0),
            "shares": "uniform",
            "drop": 0.1,
            "blurred": 0.0,
            "jitter": 0.0,
        }
        assert (recipe.train.batch_size, recipe.train.lr, recipe.train.parts(8)) == (2048, 1e-3, 32)
        lines = [line for line in (CONFIGS / f"base-{name}.yaml").read_text().splitlines() if not line.startswith("#")]
        assert all(" # " in line for line in lines if ": " in line)  # where each value comes from
    assert student.distill == DistillConfig(weight=1000.0, channels="mean", freeze=False)
