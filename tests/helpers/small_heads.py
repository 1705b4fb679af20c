"""Heads at a small size, with noise and contexts for them."""

from __future__ import annotations

import torch

from dear.heads import HEADS

D, C, N = 6, 16, 9


def build(kind, seed=0, **options):
    torch.manual_seed(seed)
    config = HEADS[kind].Config(width=24, depth=2, **options)
    head = HEADS[kind](config, D, C).double().eval()
    if options.get("modes"):  # as after some training, which moves both from zero
        torch.nn.init.normal_(head.centres)
        torch.nn.init.normal_(head.pick[-1].weight)
    return head


def drawer(seed, count=N, dim=D):
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(count, dim, generator=generator, dtype=torch.float64)


def steps_of(head):
    """A few sampling steps, as far as the head takes them."""
    return min(5, head.max_steps)
