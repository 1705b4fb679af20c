"""Small masked models, conditions for them, and the forms of a backbone that the tests of decoding cover."""

import dataclasses

import torch
from factory import tiny_config

from dear.conditioning import Conditioning
from dear.config import MelConfig
from dear.model import MaskedModel
from dear.sampling import generate

T = 5  # conditioning tokens
L = 16  # audio tokens of longer()
ROTARY = {"masked_attention": "visible", "positions": "rotary", "conv_width": 5}
BOTH = ROTARY | {"positions": "both"}
LEARNED = {"masked_attention": "visible", "positions": "learned", "conv_width": 0}


def build(variant="student", dtype=torch.float64, config=None, **backbone):
    config = config or tiny_config()
    config = dataclasses.replace(config, backbone=dataclasses.replace(config.backbone, **backbone))
    torch.manual_seed(0)
    model = MaskedModel(config, variant).to(dtype).eval()
    # Weights at initialisation hardly listen to the condition; larger ones make every mistake visible.
    for parameter in model.parameters():
        parameter.data.mul_(1.5)
    return model


def condition(model, batch, seed=0, length=T):
    generator = torch.Generator().manual_seed(seed)
    dtype = next(model.parameters()).dtype
    tokens = torch.randn(batch, length, model.config.conditioning.dim, generator=generator, dtype=torch.float64)
    mask = torch.arange(length) < torch.tensor([length, length - 2] * batch)[:batch, None]
    return Conditioning(tokens.to(dtype) * mask[..., None], mask)


def run(model, conditioning, seeds, sampling, **options):
    return list(generate(model, conditioning, seeds, sampling, **options))


CASES = [
    {"masked_attention": "visible", "positions": "rotary", "conv_width": 5},
    {"masked_attention": "visible", "positions": "both", "conv_width": 5},
    {"masked_attention": "visible", "positions": "learned", "conv_width": 0},
    {"masked_attention": "full", "positions": "learned", "conv_width": 0},
    {"masked_attention": "full", "positions": "rotary", "conv_width": 3},
    {"attention": "joint", "masked_attention": "full", "positions": "learned", "conv_width": 0},
]


def longer(variant="student", **backbone):
    """A model of ``L`` tokens in float64."""
    config = dataclasses.replace(tiny_config(), mel=MelConfig(frames=8 * L, samples=10_000))
    return build(variant, config=config, **backbone)
