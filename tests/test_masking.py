from itertools import pairwise

import pytest
import torch
from small_models import nested_levels

from dear.masking import SCHEDULES, nested_order, random_mask, random_order, random_targets, token_schedule
from training.engine.recipe import MaskingConfig


@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize("total", [1, 2, 7, 64, 128, 256])
def test_every_schedule_draws_all_tokens_and_at_least_one_each_time(total, kind):
    for iterations in range(1, total + 1):
        counts = token_schedule(total, iterations, kind)
        assert len(counts) == iterations
        assert sum(counts) == total
        assert min(counts) >= 1


def test_the_schedule_is_the_cosine():
    # Hidden after iteration k of 8, of 256: floor(256 cos(pi k / 16)).
    hidden = [251, 236, 212, 181, 142, 97, 49, 0]
    assert token_schedule(256, 8) == [a - b for a, b in zip([256, *hidden], hidden, strict=False)]


@pytest.mark.parametrize("iterations", [0, -3, 9])
def test_more_iterations_than_tokens_or_none_are_refused(iterations):
    with pytest.raises(ValueError, match=rf"iterations must be a whole number from 1 to 8, got {iterations}"):
        token_schedule(8, iterations)


def test_an_order_is_a_permutation_of_its_generator():
    order = random_order(50, torch.Generator().manual_seed(1))
    assert sorted(order.tolist()) == list(range(50))
    assert torch.equal(order, random_order(50, torch.Generator().manual_seed(1)))
    assert not torch.equal(order, random_order(50, torch.Generator().manual_seed(2)))


@pytest.mark.parametrize(
    ("length", "bands"), [(1, 1), (3, 1), (7, 1), (8, 1), (9, 1), (61, 1), (128, 1), (26, 2), (36, 4)]
)
def test_a_nested_order_is_a_permutation_level_by_level(length, bands):
    offsets = set()
    for seed in range(60):
        order = nested_order(length, torch.Generator().manual_seed(seed), bands)
        assert torch.equal(order, nested_order(length, torch.Generator().manual_seed(seed), bands))
        assert sorted(order.tolist()) == list(range(length))
        fits = [
            offset for offset in range(8) if (levels := nested_levels(order.tolist(), bands, offset)) == sorted(levels)
        ]
        assert fits
        offsets |= {fits[0]} if len(fits) == 1 else set()
    if length // bands >= 16:
        assert offsets == set(range(8))


def test_nested_orders_are_random_within_each_level_and_among_bands():
    generator, bands = torch.Generator().manual_seed(0), 2
    orders = [nested_order(32, generator, bands).tolist() for _ in range(400)]
    sizes = [0, 4, 8, 16, 32]  # positions drawn before each level, and in all
    for begin, end in pairwise(sizes):
        assert len({tuple(order[begin:end]) for order in orders}) > 100
        firsts = torch.bincount(torch.tensor([order[begin] for order in orders]), minlength=32)
        assert firsts.min() > 0 and firsts.max() < 35  # 12.5 each on average


def test_masks_and_targets_follow_an_order():
    generator = torch.Generator().manual_seed(0)
    orders = torch.stack([nested_order(26, generator, 2) for _ in range(50)])
    mask = random_mask(50, 26, (0.1, 0.9), generator, together=True, order=orders)
    known = int((~mask[0]).sum())
    assert 0 < known < 26 and torch.equal(mask, torch.ones_like(mask).scatter(1, orders[:, :known], False))
    assert torch.equal(random_targets(mask, 5, generator, orders), orders[:, known : known + 5])
    assert torch.equal(random_targets(mask, 50, generator, orders), orders[:, known:])
    assert torch.equal(random_targets(~mask, 2, generator, orders.flip(1)), orders[:, known - 2 : known].flip(1))
    own = random_mask(50, 26, (0.1, 0.9), generator, order=orders)
    counts = (~own).sum(1)
    assert len(set(counts.tolist())) > 10
    for row, order, count in zip(own, orders, counts.tolist(), strict=True):
        assert row[order].tolist() == [False] * count + [True] * (26 - count)
    least = 26 - int(counts.max())
    targets = random_targets(own, 50, generator, orders)
    assert all(torch.equal(targets[i], orders[i, counts[i] : counts[i] + least]) for i in range(50))


def test_masks_hide_a_share_in_the_range_uniformly_over_positions():
    mask = random_mask(4000, 40, (0.5, 0.9), torch.Generator().manual_seed(0))
    share = mask.float().mean(dim=1)
    assert share.min() >= 0.5 and share.max() <= 0.9
    assert share.mean().item() == pytest.approx(0.7, abs=0.01)
    assert (mask.float().mean(dim=0) - 0.7).abs().max() < 0.04


def test_shares_by_cosine_are_those_that_decoding_meets():
    mask = random_mask(20_000, 64, (0.0, 1.0), torch.Generator().manual_seed(0), "cosine")
    counts = torch.tensor(token_schedule(256, 64))
    met = 1 - torch.cat((torch.zeros(1), counts.cumsum(0)[:-1])) / 256  # hidden at the beginning of each iteration
    for quantile in (0.25, 0.5, 0.75):
        wanted = met.sort().values.quantile(quantile)
        assert mask.float().mean(dim=1).quantile(quantile).item() == pytest.approx(wanted.item(), abs=0.05)
    narrow = random_mask(4000, 100, (0.4, 0.9), torch.Generator().manual_seed(0), "cosine").float().mean(dim=1)
    assert narrow.min() >= 0.395 and narrow.max() <= 0.905
    assert narrow.mean().item() == pytest.approx(MaskingConfig((0.4, 0.9), "cosine").mean_share, abs=0.01)


def test_a_mask_hides_one_position_at_least_and_can_hide_all():
    generator = torch.Generator().manual_seed(0)
    assert random_mask(100, 16, (0.0, 0.0), generator).sum(dim=1).tolist() == [1] * 100
    assert random_mask(100, 16, (1.0, 1.0), generator).all()


def test_some_masks_hide_all_that_they_may_and_a_batch_can_share_one_share():
    mask = random_mask(4000, 100, (0.2, 0.9), torch.Generator().manual_seed(0), empty=0.25)
    assert (mask.float().mean(dim=1) == 0.9).float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert mask.float().mean().item() == pytest.approx(MaskingConfig((0.2, 0.9), empty=0.25).mean_share, abs=0.01)
    generator = torch.Generator().manual_seed(0)
    shared = [random_mask(8, 100, (0.2, 0.9), generator, empty=0.25, together=True).sum(dim=1) for _ in range(400)]
    assert all((counts == counts[0]).all() for counts in shared)
    counts = torch.stack(shared)[:, 0]
    assert counts.min() >= 20 and counts.max() == 90
    assert (counts == 90).float().mean().item() == pytest.approx(0.25, abs=0.08)


def test_targets_are_different_hidden_positions_chosen_evenly():
    generator = torch.Generator().manual_seed(0)
    mask = random_mask(2000, 20, (0.5, 0.5), generator)
    targets = random_targets(mask, 4, generator)
    assert targets.shape == (2000, 4)
    assert mask.gather(1, targets).all()
    assert all(len(set(row)) == 4 for row in targets.tolist())
    often = torch.bincount(targets.flatten(), minlength=20) / len(mask)
    assert (often - 4 / 20).abs().max() < 0.03
    assert random_targets(mask, 50, generator).shape == (2000, 10)
