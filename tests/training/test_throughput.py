"""The FLOPs of a training step, against torch's counter."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from factory import tiny_config
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dear.conditioning import Conditioning
from dear.heads import HEADS
from dear.heads.energy import EnergyConfig
from dear.heads.meanflow import MeanFlowConfig
from dear.heads.shortcut import ShortcutConfig
from dear.model import MaskedModel
from dear.presets import preset
from training.engine.throughput import backbone_flops, head_flops, measured_peak, step_flops


def counted(model: MaskedModel, conditioning: int, hidden: int) -> tuple[float, float, float]:
    """Backbone's and head's forward pass of one item, and a step, by torch's own counter."""
    length, dim = model.length, model.token_dim
    device = next(model.parameters()).device
    with torch.device(device):
        tokens, known = torch.zeros(1, length, dim), torch.arange(length, device="cpu")[None] >= hidden
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


@pytest.mark.parametrize("name", ["base", "base-teacher", "base-visible"])
def test_the_formulas_are_what_torch_counts_at_the_papers_width(name):
    config = preset(name)
    config = replace(config, backbone=replace(config.backbone, depth=2))  # all blocks are alike
    with torch.device("meta"):
        model = MaskedModel(config)
    head = config.variants[model.variant].head
    backbone, heads, step = counted(model, 78, 128)
    assert backbone == pytest.approx(backbone_flops(config, 78, 0.5), rel=1e-6)
    assert heads == pytest.approx(128 * head_flops(head, 128, 768), rel=1e-6)
    assert step == pytest.approx(step_flops(config, model.variant, 1, 78, 0.5), rel=0.05)


# Not meanflow: torch's counter sees each product of a forward derivative at two levels, and so counts it twice.
HEADS_COUNTED = {
    **{kind: HEADS[kind].Config(width=64) for kind in HEADS if kind != "meanflow"},
    "shortcut": ShortcutConfig(width=64, flow_share=0.5),
    "noise as condition": EnergyConfig(width=64, noise_as="condition", samples=3),
    "modes": EnergyConfig(width=64, modes=8, mode_channels=4, direct_noise=True),
}


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
    backbone = 32 * backbone_flops(config, 78, 0.85)
    assert backbone < 32 * backbone_flops(preset("base-visible"), 78)  # the encoder omits hidden tokens
    assert step_flops(config, "student", *args, teacher=True) == pytest.approx(whole + backbone)
    assert step_flops(config, "student", *args, frozen=True) == pytest.approx(whole - 2 * backbone)
    assert step_flops(config, "student", 64, 78, 0.85) == pytest.approx(2 * whole)
    # Where every hidden token is a target, nothing is left out; with few of them, most of the work is.
    visible = preset("base-visible")
    whole = step_flops(visible, "student", *args)
    assert step_flops(visible, "student", *args, targets=visible.length) == pytest.approx(whole)
    assert step_flops(visible, "student", *args, targets=1) < 0.35 * whole
    assert 1e8 < measured_peak(torch.device("cpu"), "no") < 1e14
