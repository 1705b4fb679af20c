"""The centres of the modes of the energy head: k-means, its sample, and when training fits them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from factory import tiny_config
from small_training import MASKING, Tokens, config, state

from dear.config import ConfigError
from dear.heads.energy import EnergyConfig, nearest
from dear.model import MaskedModel
from training.engine.modes import TOKENS, k_means, sample_tokens
from training.engine.recipe import MaskingConfig
from training.engine.trainer import train
from training.teacher import MaskedModelling


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_centres_of_two_clusters_are_their_means():
    sides = torch.tensor([[-5.0, 0.0], [5.0, 1.0]]).repeat_interleave(500, dim=0)
    tokens = sides + torch.randn(1000, 2, generator=generator())
    for seed in range(3):
        centres = k_means(tokens, 2, generator(seed))
        wanted = torch.stack([tokens[:500].mean(0), tokens[500:].mean(0)])
        torch.testing.assert_close(centres[centres[:, 0].argsort()], wanted)
        assert torch.equal(centres, k_means(tokens, 2, generator(seed)))


def test_empty_clusters_start_again_until_every_cluster_has_a_centre():
    """Random tokens to start from are mostly copies of one another, whose clusters are empty."""
    points = 10 * torch.eye(4)
    tokens = points.repeat_interleave(torch.tensor([400, 10, 10, 10]), dim=0)
    centres = k_means(tokens, 8, generator())
    assert torch.cdist(points, centres).amin(dim=1).max() == 0


def test_fewer_tokens_than_centres_are_refused():
    with pytest.raises(ValueError, match="count must be at most the 3 tokens, got 4"):
        k_means(torch.zeros(3, 2), 4, generator())


class Numbered:
    """A cache whose tokens hold the number of their item and their position."""

    stamp: dict = {}  # noqa: RUF012 - nobody changes it

    def __init__(self, items: int, length: int):
        self.items, self.length = items, length

    def __len__(self) -> int:
        return self.items

    def batch(self, indices) -> dict[str, torch.Tensor]:
        items = torch.as_tensor(list(indices))
        assert items.max() < self.items
        positions = torch.arange(self.length).expand(len(items), -1)
        return {"tokens": torch.stack((items[:, None].expand_as(positions), positions), dim=2).float()}


def test_the_sample_is_spread_over_items_and_positions():
    found = sample_tokens(Numbered(100_000, 128), generator())
    items, positions = found[:, 0].unique(), found[:, 1].unique()
    assert len(found) == len(found.unique(dim=0)) == len(items) * TOKENS
    assert 4000 <= len(items) <= 4096
    assert items[0] == 0 and items[-1] == 99_999 and items.diff().max() < 2000
    assert len(positions) == 128


def test_a_small_cache_is_sampled_whole():
    found = sample_tokens(Numbered(100, 8), generator())
    assert len(found) == len(found.unique(dim=0)) == 800


def model(modes: int = 6) -> MaskedModel:
    base = tiny_config()
    head = EnergyConfig(width=16, depth=1, modes=modes, mode_channels=3)
    variant = replace(base.variants["student"], head=head)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MaskedModel(replace(base, variants={"student": variant}))


def modelling(module: MaskedModel, masking: MaskingConfig = MASKING) -> MaskedModelling:
    return MaskedModelling(module, Tokens(), None, masking, 8, 0)


def test_training_fits_the_centres_once(tmp_path):
    stopped = train(modelling(model()), config(steps=4), tmp_path / "run", "run", max_steps=2)
    tokens = Tokens().tokens[..., :3].flatten(0, 1)
    assert stopped.head.centres.unique(dim=0).shape == (6, 3)
    assert len(nearest(tokens, stopped.head.centres).unique()) == 6
    task = modelling(model())
    task.fit = lambda: pytest.fail("a resumed run fits again")
    resumed = train(task, config(steps=4), tmp_path / "run", "run")
    assert torch.equal(resumed.head.centres, stopped.head.centres)
    whole = train(modelling(model()), config(steps=4), tmp_path / "whole", "run")
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())
    assert torch.equal(state(tmp_path / "whole")["model"]["head.centres"], whole.head.centres)


def test_a_model_that_was_trained_before_keeps_its_centres(tmp_path):
    module = model()
    torch.nn.init.normal_(module.head.centres)
    before = module.head.centres.clone()
    assert torch.equal(train(modelling(module), config(steps=2), tmp_path, "run").head.centres, before)


def test_more_modes_than_tokens_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="head.modes must be at most the 192 tokens of the sample, got 193"):
        train(modelling(model(193)), config(steps=2), tmp_path, "run")
