"""Micro-batches, schedules, frozen backbones and the curves of a run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from factory import tiny_config
from small_training import MASKING, Distilled, Tokens, by_name, config, log, state
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dear.config import ConfigError
from dear.heads import HEADS
from dear.heads.shortcut import ShortcutConfig
from dear.model import MaskedModel
from training.distill import DistilledModelling
from training.engine.board import Board
from training.engine.recipe import DistillConfig
from training.engine.schedule import step_seed
from training.engine.trainer import StateError, train
from training.runtime.stamps import completed, difference, plain
from training.teacher import MaskedModelling


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
    del saved["digest"]  # a field added even later
    description = json.loads(saved["description"])
    for part, field in ((description["config"], "micro_batch"), (description["settings"]["head"], "samples")):
        del part[field]
    torch.save(saved | {"description": json.dumps(description)}, tmp_path / "state.pt")
    train(Distilled(DistillConfig()), config(), tmp_path, "run", max_steps=3)
    assert state(tmp_path)["step"] == 3
    torch.save(saved | {"description": json.dumps(description)}, tmp_path / "state.pt")
    with pytest.raises(StateError, match=r"config\.micro_batch is 0, wanted is 4"):
        train(Distilled(DistillConfig()), config(micro_batch=4), tmp_path, "run")


def test_a_state_of_nested_masks_resumes_with_nested_masks_only(tmp_path):
    def task(order: str) -> Distilled:
        made = Distilled(DistillConfig())
        made.masking = replace(MASKING, ratio=(0.2, 1.0), order=order, targets=2)
        return made

    train(task("nested"), config(), tmp_path / "whole", "run")
    for steps in (5, 12):
        train(task("nested"), config(), tmp_path / "parts", "run", max_steps=steps)
    whole, parts = state(tmp_path / "whole")["model"], state(tmp_path / "parts")["model"]
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    with pytest.raises(StateError, match=r"settings\.masking\.order is 'nested', wanted is 'random'"):
        train(task("random"), config(), tmp_path / "parts", "run")


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


@pytest.mark.parametrize("kind", HEADS)
def test_every_head_trains_by_its_name(tmp_path, kind):
    by_name(tmp_path, kind)
    assert [line["step"] for line in log(tmp_path)] == [2]  # and no line of a validation without data


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


# The average, and waiting for a device


def test_a_shortcut_head_follows_the_average_of_its_run(tmp_path):
    """A resumed run follows the same average, to the last bit."""

    def run(folder: Path, **options) -> MaskedModelling:
        head = ShortcutConfig(width=16, depth=1, flow_share=0.5, targets="averaged")
        model = tiny_config()
        model = replace(model, variants={"any": replace(model.variants["student"], head=head)})
        with torch.random.fork_rng():
            torch.manual_seed(0)
            task = MaskedModelling(MaskedModel(model), Tokens(), None, MASKING, 8, 0)
        train(task, config(steps=6, save_every=2), folder, "run", **options)
        return task

    followed = run(tmp_path / "whole").module.head
    saved = state(tmp_path / "whole")
    assert followed.average.keys() == dict(followed.named_parameters()).keys()
    assert all(torch.equal(value, saved["ema"]["head." + name]) for name, value in followed.average.items())
    run(tmp_path / "halves", max_steps=3)
    run(tmp_path / "halves")
    again = state(tmp_path / "halves")
    assert all(torch.equal(value, again["model"][name]) for name, value in saved["model"].items())


class Synchronised(TorchDispatchMode):
    """Refuses what makes the host wait for tensors of the meta device, which stands for an accelerator."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        on_device = any(isinstance(each, torch.Tensor) and each.is_meta for each in tree_leaves(args))
        waits = name in ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "item")
        assert not (on_device and waits), name
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("backbone", [{}, {"attention": "joint", "masked_attention": "full", "conv_width": 0}])
def test_a_micro_batch_never_waits_for_the_device(kind, backbone, monkeypatch):
    """Forward and backward pass of a student under its teacher. All noise is drawn on the CPU, the only device here."""
    monkeypatch.setattr("dear.model.generator_on", lambda device, generator: generator)
    model = tiny_config()
    shape = replace(model.backbone, positions="learned", **backbone)
    head = HEADS[kind].Config(width=32, depth=1)
    model = replace(model, backbone=shape, variants={"any": replace(model.variants["student"], head=head)})
    with torch.device("meta"):
        models = [MaskedModel(model) for _ in range(2)]
    task = DistilledModelling(*models, "digest", Tokens(), None, MASKING, DistillConfig(10.0), 8, 0)
    batch = {key: value.to("meta") for key, value in task.batch(0).items()}
    with Synchronised():
        task.loss(batch, torch.Generator().manual_seed(0))["loss"].backward()
    assert all(p.grad is not None for p in task.module.parameters() if p.requires_grad)
    with Synchronised(), pytest.raises(AssertionError, match="nonzero"):
        torch.ones(3, device="meta").nonzero()
