"""MAR's layout of the transformer, attention without a mask, and guidance within training."""

import dataclasses

import pytest
import torch
from factory import tiny_config
from small_models import new_model as build
from small_models import two_items

from dear.conditioning import Conditioning
from dear.config import SamplingConfig, VariantConfig
from dear.distillation import Distillation
from dear.heads import HEADS
from dear.model import MaskedModel

KEPT = torch.tensor([False, False])
JOINT = {"attention": "joint", "masked_attention": "full", "positions": "learned", "conv_width": 0}


@pytest.fixture
def batch():
    return two_items()


def literal_mar(model, tokens, known, conditioning):
    """MAR's forward pass for one item, without masks: hidden tokens and padding are left out of the sequence."""
    net, real = model.backbone, conditioning.mask[0]
    places = torch.cat((torch.arange(len(real))[real], net.longest + known[0].nonzero()[:, 0]))
    x = torch.cat((net.conditioning_in(conditioning.tokens[0, real]), net.token_in(tokens[0, known[0]])))[None]
    x = net.input_norm(x + net.encoder_positions[places])
    for block in net.encoder:
        x = block.prefix(x, torch.ones(1, 1, 1, x.shape[1], dtype=torch.bool), None)[0]
    x = net.decoder_in(net.encoder_norm(x))[0]
    count, length = int(real.sum()), known.shape[1]
    audio = net.mask_token.repeat(length, 1)
    audio[known[0]] = x[count:]
    places = torch.cat((torch.arange(len(real))[real], net.longest + torch.arange(length)))
    x = torch.cat((x[:count], audio))[None] + net.decoder_positions[places]
    for block in net.decoder:
        x = block.prefix(x, torch.ones(1, 1, 1, x.shape[1], dtype=torch.bool), None)[0]
    return net.decoder_norm(x[:, count:]) + net.context_positions


def test_joint_attention_is_mar_s_whatever_fills_a_batch_up(batch):
    """Items that know different numbers of tokens, with conditioning of different lengths."""
    model, (tokens, known, conditioning) = build(**JOINT), batch
    together = model.context(tokens, known, conditioning)
    for item in range(2):
        one = slice(item, item + 1)
        alone = literal_mar(model, tokens[one], known[one], conditioning.select([item]))
        torch.testing.assert_close(together[one], alone, rtol=0, atol=1e-12)
    chosen = torch.tensor([[1, 5], [7, 0]])
    prefix = model.backbone.prefix(conditioning.tokens, conditioning.mask)
    some = model.backbone(tokens, known, prefix, chosen)
    wanted = together.gather(1, chosen[..., None].expand(-1, -1, 32))
    torch.testing.assert_close(some, wanted, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="conditioning must have at most 64 tokens, got 65"):
        model.backbone.prefix(torch.zeros(1, 65, 384, dtype=torch.float64), torch.ones(1, 65, dtype=torch.bool))


def test_conditioning_listens_to_audio_under_joint_attention_alone(batch):
    tokens, known, conditioning = batch
    for backbone, hears in ((JOINT, True), (JOINT | {"attention": "prefix"}, False)):
        model, seen = build(**backbone), []
        method = "forward" if hears else "prefix"
        run = getattr(model.backbone.blocks[-1], method)
        wrapped = lambda x, *rest, seen=seen, run=run: (seen.append(x[:, :4]), run(x, *rest))[1]  # noqa: E731
        setattr(model.backbone.blocks[-1], method, wrapped)
        for each in (tokens, tokens + 1):
            model.context(each, known, conditioning)
        assert torch.equal(*seen) != hears


@pytest.mark.parametrize("backbone", [JOINT, JOINT | {"attention": "prefix"}])
def test_where_nothing_is_padded_attention_has_no_mask(batch, backbone, monkeypatch):
    """Flash attention needs this; the contexts are the same."""
    tokens, known, conditioning = batch
    known = torch.stack([known[0], known[0].flip(0)])  # as many in each item, as when sounds are made
    full = Conditioning(conditioning.tokens, torch.ones_like(conditioning.mask))
    model, masks, attend = build(**backbone), [], torch.nn.functional.scaled_dot_product_attention
    wanted = model.context(tokens, known, full)
    monkeypatch.setattr(
        torch.nn.functional,
        "scaled_dot_product_attention",
        lambda *x, attn_mask=None: (masks.append(attn_mask), attend(*x, attn_mask=attn_mask))[1],
    )
    got = model.context(tokens, known, full.trim())
    assert masks and all(mask is None for mask in masks)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)
    assert conditioning.trim().padded and conditioning.select([0]).trim().padded is False


def test_guidance_within_training_hears_the_null_condition(batch):
    """The loss of a MeanFlow head with guidance depends on what the model makes of its null condition."""
    tokens, known, conditioning = batch
    head = HEADS["meanflow"].Config(width=32, depth=1, omega=2.0, adaptive_power=0.0)
    torch.manual_seed(0)
    variant = VariantConfig(head=head, sampling=SamplingConfig(iterations=3))
    config = dataclasses.replace(tiny_config(), variants={"any": variant})
    model = MaskedModel(config).double()
    loss = lambda: model.loss(tokens, conditioning, ~known, torch.Generator().manual_seed(0))  # noqa: E731
    before = loss()
    before.mean().backward()
    assert model.null.vector.grad is None  # a target, which is not trained
    with torch.no_grad():
        model.null.vector.add_(1.0)
    assert not torch.allclose(loss(), before)
    values = Distillation(model, build("teacher"), weight=0.0)(
        tokens, conditioning, KEPT, ~known, torch.Generator().manual_seed(0)
    )
    torch.testing.assert_close(values["loss"], loss().mean())
