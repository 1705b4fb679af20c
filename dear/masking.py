"""Which tokens are hidden, and in what order they are drawn: pure functions of a generator (Section 3.1)."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def cosine_schedule(total: int, iterations: int) -> list[int]:
    """Tokens to draw in each iteration: few at first, many at last, as MaskGIT's cosine leaves them.

    Every entry is at least 1 and the entries sum to ``total``. Raises ValueError unless 1 <= iterations <= total.
    """
    if not 1 <= iterations <= total:
        raise ValueError(f"iterations must be a whole number from 1 to {total}, got {iterations!r}")
    counts, left = [], total
    for k in range(1, iterations + 1):
        hidden = math.floor(total * math.cos(math.pi / 2 * k / iterations))
        # One token at least now, and one at least for each iteration to come.
        after = min(max(hidden, iterations - k), left - 1)
        counts.append(left - after)
        left = after
    return counts


def random_order(length: int, generator: torch.Generator) -> Tensor:
    """A random permutation [L] of the positions, in decoding order, on the CPU."""
    return torch.randperm(length, generator=generator)


def spread_order(length: int, generator: torch.Generator) -> Tensor:
    """A random permutation [L] whose beginnings all spread evenly over the positions, on the CPU.

    A van der Corput sequence (bit-reversed counting) under Owen's scrambling: at each level the halves of each half of
    the positions take turns, and a coin decides which of them begins.
    """
    bits = (length - 1).bit_length()
    coins = torch.randint(2, (1 << bits,), generator=generator)
    positions = torch.arange(length)
    rank, node = torch.zeros_like(positions), torch.ones_like(positions)
    for level in range(bits):
        half = positions >> (bits - 1 - level) & 1
        rank += (half ^ coins[node]) << level
        node = 2 * node + half
    return rank.argsort()


def random_mask(batch: int, length: int, ratio: tuple[float, float], generator: torch.Generator) -> Tensor:
    """Mask [B, L] (True: hidden) of a training step; each item's ratio is uniform in ``ratio`` (Section 4.2).

    At least one position of every item is hidden, so that every item is trained on.
    """
    device = generator.device
    low, high = ratio
    share = low + (high - low) * torch.rand(batch, 1, generator=generator, device=device)
    hidden = (share * length).round().clamp(1, length)
    ranks = torch.rand(batch, length, generator=generator, device=device).argsort(dim=1).argsort(dim=1)
    return ranks < hidden
