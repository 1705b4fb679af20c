"""The centres of the modes of the energy head: k-means on tokens of the training data."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dear.config import ConfigError
from dear.heads.energy import EnergyHead, nearest
from training.engine.stage import TokenCache

ROUNDS = 25
DISTANCES = 2**24  # computed at a time
# The sample: stretches of the cache, items of each, and tokens of an item; at most 4,096 items and 262,144 tokens.
STRETCHES, ITEMS, TOKENS = 64, 64, 64


def sample_tokens(cache: TokenCache, generator: torch.Generator) -> Tensor:
    """Tokens [N, D] of a few thousand items, spread over the cache in stretches, since stretches lie in few shards."""
    total = -(-len(cache) // ITEMS)
    found = []
    for stretch in np.unique(np.linspace(0, total - 1, STRETCHES).round().astype(int)).tolist():
        items = range(stretch * ITEMS, min(len(cache), (stretch + 1) * ITEMS))
        tokens = cache.batch(items)["tokens"]
        positions = torch.randperm(tokens.shape[1], generator=generator)[:TOKENS]
        found.append(tokens[:, positions].flatten(0, 1))
    return torch.cat(found)


def k_means(tokens: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Centres [count, K] of the clusters of tokens [N, K] by Lloyd's algorithm, which starts from random tokens.

    Empty clusters start again from random tokens. ``tokens`` and the generator are on the CPU.
    Raises ValueError if there are fewer tokens than clusters.
    """
    if len(tokens) < count:
        raise ValueError(f"count must be at most the {len(tokens)} tokens, got {count}")
    centres = tokens[torch.randperm(len(tokens), generator=generator)[:count]]
    for _ in range(ROUNDS):
        codes = torch.cat([nearest(part, centres) for part in tokens.split(max(1, DISTANCES // count))])
        sizes = codes.bincount(minlength=count)
        centres = torch.zeros_like(centres).index_add_(0, codes, tokens) / sizes.clamp(min=1)[:, None]
        empty = sizes == 0
        centres[empty] = tokens[torch.randint(len(tokens), (int(empty.sum()),), generator=generator)]
    return centres


@torch.no_grad()
def fit_modes(head: EnergyHead, tokens: Tensor, generator: torch.Generator) -> None:
    """Set the centres of the head's modes from tokens [N, D] of its training data.

    Raises ConfigError if the head has more modes than there are tokens.
    """
    config = head.config
    if len(tokens) < config.modes:
        raise ConfigError(f"head.modes must be at most the {len(tokens)} tokens of the sample, got {config.modes!r}")
    values = tokens[:, : config.mode_channels].float().contiguous()
    head.centres.copy_(k_means(values, config.modes, generator))
