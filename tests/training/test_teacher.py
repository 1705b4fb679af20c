from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from factory import tiny_config
from small_models import build, condition, nested_levels

from dear.conditioning import Conditioning
from dear.config import ConfigError
from training.engine.recipe import MaskingConfig
from training.teacher import MaskedModelling, jitter, thin


def conditioning(batch: int = 4000, length: int = 12) -> Conditioning:
    """Items of 3 to ``length`` real tokens."""
    counts = 3 + torch.arange(batch) % (length - 2)
    return Conditioning(torch.ones(batch, length, 2), torch.arange(length) < counts[:, None])


def test_thinning_hides_words_but_never_the_pooled_vector():
    whole = conditioning()
    chosen = torch.arange(len(whole)) % 2 == 0
    thinned = thin(whole, chosen, torch.Generator().manual_seed(0))
    assert torch.equal(thinned.mask[~chosen], whole.mask[~chosen])
    assert not (thinned.mask & ~whole.mask).any()
    last = whole.mask.sum(1) - 1
    assert thinned.mask[torch.arange(len(whole)), last].all()
    kept = (thinned.mask.sum(1) - 1) / last
    untouched = (kept == 1).float().mean()
    assert 0.5 <= untouched < 0.65  # of short ones some lose nothing by chance
    assert 0.7 < kept.mean() < 0.8  # the others lose half on average
    assert (kept == 0).any()
    assert torch.equal(thinned.tokens, whole.tokens)


def test_no_thinning_leaves_everything_and_draws_as_much():
    whole, one, other = conditioning(), torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    assert torch.equal(thin(whole, torch.zeros(len(whole), dtype=torch.bool), one).mask, whole.mask)
    thin(whole, torch.ones(len(whole), dtype=torch.bool), other)
    assert torch.equal(one.get_state(), other.get_state())


def test_jitter_moves_tokens_by_at_most_so_many_times_their_size():
    whole = Conditioning(torch.randn(500, 6, 256) * 3, torch.ones(500, 6, dtype=torch.bool))
    chosen = torch.arange(len(whole)) < 400
    moved = jitter(whole, chosen, 0.5, torch.Generator().manual_seed(0))
    assert torch.equal(moved.mask, whole.mask)
    assert torch.equal(moved.tokens[~chosen], whole.tokens[~chosen])
    size = ((moved.tokens - whole.tokens).norm(dim=2) / whole.tokens.norm(dim=2)).mean(dim=1)[chosen]
    assert size.max() < 0.55 and 0.2 < size.mean() < 0.3 and size.min() < 0.02
    assert jitter(whole, chosen, 0.0, torch.Generator()) is whole
    again = jitter(whole, chosen, 0.5, torch.Generator().manual_seed(0))
    assert torch.equal(again.tokens, moved.tokens)


@pytest.mark.parametrize(
    "change",
    [
        {"jitter": -0.1},
        {"jitter": float("nan")},
        {"jitter": 0.5},  # without an effect, since no prompt is blurred
        {"blurred": 1.5},
        {"blurred": -0.1},
        {"drop": 1.0},
        {"ratio": (0.8, 0.2)},
        {"empty": 1.1},
        {"order": "spread"},
        {"targets": -1},
    ],
)
def test_bad_masking_is_named(change):
    with pytest.raises(ConfigError, match=f"masking.{next(iter(change))}"):
        MaskingConfig(**change)


class Recorded(MaskedModelling):
    """Keeps the orders, and what is masked and scored."""

    def order(self, batch, generator):
        self.orders = super().order(batch, generator)
        return self.orders

    def objective(self, tokens, conditioning, drop, mask, generator, wanted):
        self.mask, self.wanted = mask, wanted
        return super().objective(tokens, conditioning, drop, mask, generator, wanted)


@pytest.mark.parametrize("options", [{}, {"targets": 3}])
def test_nested_training_visits_what_nested_decoding_visits(options):
    config = tiny_config()
    model = build(config=replace(config, vae=replace(config.vae, patch_mels=32)), neighbours=2)
    assert model.config.grid == (8, 2)
    masking = MaskingConfig(ratio=(0.2, 1.0), shares="cosine", empty=0.2, order="nested", **options)
    task = Recorded(model, None, None, masking, batch_size=2, seed=0)
    tokens = torch.randn(3, 16, model.token_dim, dtype=torch.float64)
    batch = {"tokens": tokens, "conditioning": condition(model, 3).tokens}
    for seed in range(12):
        loss = task.loss(batch, torch.Generator().manual_seed(seed))["loss"]
        assert loss.isfinite()
        known = (~task.mask).sum(1).tolist()
        for i, order in enumerate(task.orders):
            fits = (nested_levels(order.tolist(), 2, offset) for offset in range(8))
            assert any(levels == sorted(levels) for levels in fits)
            assert task.mask[i][order].tolist() == [False] * known[i] + [True] * (16 - known[i])
            if options:
                assert torch.equal(task.wanted[i], order[known[i] : known[i] + 3])
            else:
                assert task.wanted is None
