"""The estimated needs of a run: memory against the bytes that autograd keeps, the rest by arithmetic."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from factory import tiny_config

from dear import layers
from dear.conditioning import Conditioning
from dear.config import VariantConfig
from dear.heads.diffusion import DiffusionConfig
from dear.heads.energy import EnergyConfig
from dear.model import MaskedModel
from dear.presets import preset
from training import distill, teacher
from training.cache.tokens import CacheError
from training.engine.plan import backbone_bytes, head_bytes, memory, plan
from training.engine.recipe import HistoryConfig, ModelRecipe, load_recipe
from training.engine.schedule import TrainConfig

CONFIGS = Path(__file__).resolve().parents[2] / "training" / "configs"
SHOWN = 64  # known tokens of 256


def kept(model: MaskedModel, items: int, precision: str) -> tuple[int, int]:
    """Bytes that autograd keeps of the transformer and of the head."""
    sizes: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    tokens, known = torch.randn(items, 256, 128), torch.arange(256)[None].expand(items, -1) < SHOWN
    full = torch.ones(items, 78, dtype=torch.bool)
    condition = Conditioning(torch.randn(items, 78, 1024), full, padded=False)
    found = []
    with (
        torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"),
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
    ):
        context = model.context(tokens, known, condition)
        found.append(sum(sizes.values()))
        loss = model.head_loss(tokens, context.detach().requires_grad_(), ~known, torch.Generator())
        found.append(sum(sizes.values()) - found[0])
        assert loss.isfinite().all()
    return found[0], found[1]


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("base", EnergyConfig),
        ("base", partial(EnergyConfig, modes=1024, mode_channels=32)),
        ("base-visible", DiffusionConfig),
    ],
)
def test_memory_is_what_autograd_keeps(name, head, precision, monkeypatch):
    # Only CPUs are trained with attention in separate operations, and the plan is for GPUs.
    fused = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(layers, "plain_attention", lambda q, k, v, visible: fused(q, k, v, attn_mask=visible))
    config = preset(name)
    shape = replace(config.backbone, width=192, depth=2, heads=6)
    config = replace(config, backbone=shape, variants={"any": VariantConfig(head(width=256))})
    torch.manual_seed(0)
    model = MaskedModel(config)
    # The difference of two items and one excludes bytes that no batch changes, such as weights in half precision.
    one, two = kept(model, 1, precision), kept(model, 2, precision)
    hidden = 1 - SHOWN / 256
    inputs = (78 * 1024 + 256 * 128) * (2 if precision == "bf16" else 4)  # of the first projections
    assert backbone_bytes(config, 78, hidden, precision) == pytest.approx(two[0] - one[0] - inputs, rel=0.15)
    assert head_bytes(config, "any", hidden, precision) == pytest.approx(two[1] - one[1], rel=0.2)


def recipe(**changes) -> ModelRecipe:
    config = tiny_config()
    config = replace(config, variants={"student": config.variants["student"]})
    train = TrainConfig(**{"steps": 1000, "batch_size": 64, "micro_batch": 16, "lr": 1e-3} | changes)
    return ModelRecipe(config, train, history=HistoryConfig(every=100, keep=3))


def test_days_loads_and_disks_are_arithmetic():
    found = plan(recipe(), conditioning=5, items=6400, peak=1e-6, utilisation=0.5)
    model = MaskedModel(recipe().model)
    count = sum(p.numel() for p in model.parameters())
    one, eight = found["devices"][1], found["devices"][8]
    assert one["steps_per_second"] == pytest.approx(0.5e6 / found["flops_per_step"])
    assert one["days"] == pytest.approx(1000 / one["steps_per_second"] / 86_400)
    assert eight["days"] == pytest.approx(one["days"] / 8)
    assert (one["micro_batches"], one["micro_batch"]) == (4, 16)
    assert (eight["micro_batches"], eight["micro_batch"]) == (1, 8)  # 4 micro-batches are too few
    assert found["epochs"] == 10 and found["item_bytes"] == 2 * (8 * 16 + 5 * 384)
    assert found["cache_bytes"] == 6400 * found["item_bytes"]
    assert one["tokens_per_second"] == pytest.approx(one["steps_per_second"] * 64 * 8)
    assert one["loader_bytes_per_second"] == pytest.approx(one["steps_per_second"] * 64 * found["item_bytes"])
    assert (found["state_bytes"], found["history_bytes"]) == (16 * count, 3 * 2 * count)
    assert set(plan(recipe(batch_size=8, micro_batch=0), 5, None, None)["devices"]) == {1, 8}


def test_a_teacher_costs_its_weights_and_frozen_weights_need_no_gradients():
    student = load_recipe(CONFIGS / "base-student.yaml", ModelRecipe)
    used = memory(student, 78, 8)
    alone = memory(replace(student, distill=replace(student.distill, weight=0.0)), 78, 8)
    assert (used["the teacher's weights"], alone["the teacher's weights"]) == (pytest.approx(4 * 173e6, rel=0.01), 0)
    frozen = memory(replace(student, distill=replace(student.distill, weight=0.0, freeze=True)), 78, 8)
    assert frozen["weights, gradients, optimiser and average"] < 0.3 * 20 * 191_201_920
    assert frozen["activations of a micro-batch"] < 0.3 * alone["activations of a micro-batch"]
    assert used["weights, gradients, optimiser and average"] == 20 * 191_201_920


@pytest.mark.parametrize(
    ("command", "name"), [(teacher, "base-teacher"), (distill, "base-student"), (teacher, "base-visible-teacher")]
)
def test_a_dry_run_needs_no_data_and_writes_nothing(command, name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command.main(["--config", str(CONFIGS / f"{name}.yaml"), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "tokens: 2048 x 256 x 128" in printed and "at 40% of 312 TFLOP/s" in printed
    rows = [line for line in printed.splitlines() if line.startswith("| ")]
    assert [row.split(" |")[0] for row in rows][1:4] == ["| 1", "| 8", "| 64"]
    assert not list(tmp_path.iterdir())


def test_only_a_dry_run_goes_without_data(capsys):
    with pytest.raises(SystemExit):
        teacher.main(["--config", str(CONFIGS / "base-teacher.yaml")])
    assert "the following arguments are required: --data, --out" in capsys.readouterr().err
    assert teacher.main(["--config", str(CONFIGS / "base-teacher.yaml"), "--dry-run", "--data", "nowhere"]) == 2
    assert "nowhere is not a finished cache" in capsys.readouterr().err
    assert issubclass(CacheError, ValueError)
