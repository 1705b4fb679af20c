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
    # Weights at initialisation hardly depend on the condition; larger ones make every mistake visible.
    for parameter in model.parameters():
        parameter.data.mul_(1.5)
    return model


def new_model(variant="student", seed=0, **backbone):
    """A model with its initial weights, in float64."""
    config = tiny_config()
    config = dataclasses.replace(config, backbone=dataclasses.replace(config.backbone, **backbone))
    torch.manual_seed(seed)
    return MaskedModel(config, variant).double()


def two_items():
    """Tokens [2, 8, 16], known [2, 8] and a conditioning [2, 4, 384] of which the second item has two tokens."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(2, 8, 16, generator=generator, dtype=torch.float64)
    known = torch.tensor([[1, 0, 0, 1, 1, 0, 1, 0], [0, 0, 1, 0, 0, 0, 0, 1]], dtype=torch.bool)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]], dtype=torch.bool)
    condition = torch.randn(2, 4, 384, generator=generator, dtype=torch.float64) * mask[..., None]
    return tokens, known, Conditioning(condition, mask)


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
    {"masked_attention": "visible", "positions": "rotary", "conv_width": 5, "neighbours": 2},
    {"attention": "joint", "masked_attention": "full", "positions": "learned", "conv_width": 0},
]


def longer(variant="student", **backbone):
    """A model of ``L`` tokens in float64."""
    config = dataclasses.replace(tiny_config(), mel=MelConfig(frames=8 * L, samples=10_000))
    return build(variant, config=config, **backbone)


def nested_levels(order, bands, offset):
    """The level of each position of an order, for strides of 8, 4, 2 and 1 moments."""
    return [next(k for k in range(4) if (i // bands - offset) % (8 >> k) == 0) for i in order]
