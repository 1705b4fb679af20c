"""Masks, orders and schedules of tokens, as pure functions of a generator (Section 3.1)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

# Share of tokens that are still hidden when a share t of the iterations is done.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine": lambda t: math.cos(math.pi / 2 * t),
    "linear": lambda t: 1 - t,
    "cubic": lambda t: 1 - t**3,
}
NESTED_STRIDE = 8  # moments from one token to the next in the first level of a nested order, a power of two


def token_schedule(total: int, iterations: int, kind: str = "cosine") -> list[int]:
    """The number of tokens to draw in each iteration, from a function of :data:`SCHEDULES`.

    "cosine" is the schedule of MaskGIT and of the paper: few tokens at first, many at the end. "cubic" is more uneven,
    and "linear" draws equally many in each iteration. Every entry is at least 1 and the entries sum to ``total``.
    Raises ValueError unless 1 <= iterations <= total.
    """
    if not 1 <= iterations <= total:
        raise ValueError(f"iterations must be a whole number from 1 to {total}, got {iterations!r}")
    counts, left = [], total
    for k in range(1, iterations + 1):
        hidden = math.floor(total * SCHEDULES[kind](k / iterations))
        # One token at least now, and one at least for each iteration to come.
        after = min(max(hidden, iterations - k), left - 1)
        counts.append(left - after)
        left = after
    return counts


def random_order(length: int, generator: torch.Generator) -> Tensor:
    """A random permutation [L] of the positions, in decoding order, on the CPU."""
    return torch.randperm(length, generator=generator, device="cpu")


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


def nested_order(length: int, generator: torch.Generator, bands: int = 1) -> Tensor:
    """A permutation [L] of the positions, level by level, with the positions of each level in random order, on the CPU.

    bands: tokens of one moment, which are neighbours in position and have the same level.
    The first level is every :data:`NESTED_STRIDE`-th moment from a random offset on. Each further level is the moments
    half way between those of the earlier levels, until all are drawn. A level may be empty in a short clip.
    """
    offset = torch.randint(NESTED_STRIDE, (), generator=generator)
    moments = torch.arange(length) // bands - offset
    level, stride = torch.zeros_like(moments), NESTED_STRIDE
    while stride > 1:
        level += moments % stride != 0
        stride //= 2
    order = random_order(length, generator)
    return order[level[order].argsort(stable=True)]


def random_mask(
    batch: int,
    length: int,
    ratio: tuple[float, float],
    generator: torch.Generator,
    shares: str = "uniform",
    empty: float = 0.0,
    together: bool = False,
    order: Tensor | None = None,
) -> Tensor:
    """Mask [B, L] (True: hidden) of a training step; each item's share of hidden tokens lies in ``ratio``.

    shares: how they are distributed there: "uniform" (Section 4.2), or "cosine": each as often as decoding by
        the cosine schedule meets it, so that nearly empty scenes, in which everything is decided, are frequent.
    empty: probability that the share is the largest of ``ratio`` instead.
    together: all items have one share, so that they know equally many tokens.
    order: [B, L] positions in decoding order, of which the last ones are hidden; None: random ones are.
    At least one position of every item is hidden, so that every item is trained on.
    """
    device = generator.device
    low, high = ratio
    rows = 1 if together else batch
    share = torch.rand(rows, 1, generator=generator, device=device)
    if shares == "cosine":
        share = torch.cos(math.acos(high) + (math.acos(low) - math.acos(high)) * share)
    else:
        share = low + (high - low) * share
    if empty:
        share = torch.where(torch.rand(rows, 1, generator=generator, device=device) < empty, high, share)
    hidden = (share * length).round().clamp(1, length)
    if order is None:
        order = torch.rand(batch, length, generator=generator, device=device).argsort(dim=1)
    else:
        order = order.flip(1)
    return order.argsort(dim=1) < hidden


def random_targets(mask: Tensor, count: int, generator: torch.Generator, order: Tensor | None = None) -> Tensor:
    """Positions [B, W] of hidden tokens: ``count`` of each item, or as many as every item hides.

    mask: [B, L], True: hidden, on the generator's device.
    order: [B, L] positions in decoding order, of which the first hidden ones are chosen; None: random ones are.
    """
    if order is None:
        order = (torch.rand(mask.shape, generator=generator, device=mask.device) + ~mask).argsort(dim=1)
    else:
        order = order.gather(1, (~mask).gather(1, order).argsort(dim=1, stable=True))
    return order[:, : min(count, int(mask.sum(1).min()))]
