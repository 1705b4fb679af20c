import pytest
import torch

from dear.masking import cosine_schedule, random_mask, random_order


@pytest.mark.parametrize("total", [1, 2, 7, 64, 128, 256])
def test_every_schedule_draws_all_tokens_and_at_least_one_each_time(total):
    for iterations in range(1, total + 1):
        counts = cosine_schedule(total, iterations)
        assert len(counts) == iterations
        assert sum(counts) == total
        assert min(counts) >= 1


def test_the_schedule_is_the_cosine():
    # Hidden after iteration k of 8, of 256: floor(256 cos(pi k / 16)).
    hidden = [251, 236, 212, 181, 142, 97, 49, 0]
    assert cosine_schedule(256, 8) == [a - b for a, b in zip([256, *hidden], hidden, strict=False)]


@pytest.mark.parametrize("iterations", [0, -3, 9])
def test_more_iterations_than_tokens_or_none_are_refused(iterations):
    with pytest.raises(ValueError, match=rf"iterations must be a whole number from 1 to 8, got {iterations}"):
        cosine_schedule(8, iterations)


def test_an_order_is_a_permutation_of_its_generator():
    order = random_order(50, torch.Generator().manual_seed(1))
    assert sorted(order.tolist()) == list(range(50))
    assert torch.equal(order, random_order(50, torch.Generator().manual_seed(1)))
    assert not torch.equal(order, random_order(50, torch.Generator().manual_seed(2)))


def test_masks_hide_a_share_in_the_range_uniformly_over_positions():
    mask = random_mask(4000, 40, (0.5, 0.9), torch.Generator().manual_seed(0))
    share = mask.float().mean(dim=1)
    assert share.min() >= 0.5 and share.max() <= 0.9
    assert share.mean().item() == pytest.approx(0.7, abs=0.01)
    assert (mask.float().mean(dim=0) - 0.7).abs().max() < 0.04


def test_a_mask_hides_one_position_at_least_and_can_hide_all():
    generator = torch.Generator().manual_seed(0)
    assert random_mask(100, 16, (0.0, 0.0), generator).sum(dim=1).tolist() == [1] * 100
    assert random_mask(100, 16, (1.0, 1.0), generator).all()
