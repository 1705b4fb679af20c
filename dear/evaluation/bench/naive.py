"""The generation loop without any optimisation: the reference for speed and for exactness."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from dear.attended import take
from dear.conditioning import Conditioning
from dear.config import SamplingConfig
from dear.masking import random_order, token_schedule
from dear.model import MaskedModel
from dear.randomness import seeded
from dear.sampling import guidance_scale


@torch.no_grad()
def naive_generate(
    model: MaskedModel,
    conditioning: Conditioning,
    seeds: Sequence[int],
    sampling: SamplingConfig,
    only: Collection[int] | None = None,
) -> Iterator[Tensor]:
    """:func:`dear.sampling.generate` without its savings: yields the tokens [B, L, D] after each iteration.

    Every iteration computes all L positions in every block, encodes the conditioning again, and runs the two branches
    of guidance one after the other. As in MAR, the head draws only the tokens of the iteration. conditioning, seeds: B
    items.
    only: iterations to compute, from 0; the tokens of the others stay zero and count as known, for a clock that
    samples the schedule. None: all of them, which gives the tokens of ``generate`` for the same seeds.
    """
    parameter = next(model.parameters())
    device, dtype = parameter.device, parameter.dtype
    batch, dim = len(seeds), model.token_dim
    generators = [seeded(seed) for seed in seeds]
    order = torch.stack([random_order(model.length, generator) for generator in generators]).to(device)
    conditioning = conditioning.to(device, dtype)
    guided = sampling.cfg_scale != 1
    null = model.null(conditioning, torch.ones(batch, dtype=torch.bool, device=device))
    tokens = torch.zeros(batch, model.length, dim, device=device, dtype=dtype)
    known = torch.zeros(batch, model.length, dtype=torch.bool, device=device)
    start = 0
    for iteration, count in enumerate(token_schedule(model.length, sampling.iterations)):
        new = order[:, start : start + count]
        start += count
        computed = only is None or iteration in only
        if computed:
            branches = (conditioning, null) if guided else (conditioning,)
            contexts = [take(model.context(tokens, known, each), new) for each in branches]
            contexts = [each.flatten(0, 1) for each in model.head_inputs(contexts, tokens, known, new)]

            def draw(count: int = count) -> Tensor:
                rows = [torch.randn(count, dim, generator=generator) for generator in generators]
                return torch.cat(rows).to(device, dtype)

            values = model.head.sample(
                contexts[0],
                contexts[1] if guided else None,
                cfg_scale=guidance_scale(sampling, start / model.length),
                steps=sampling.steps,
                temperature=sampling.temperature,
                draw=draw,
            )
            tokens = tokens.scatter(1, new[..., None].expand(-1, -1, dim), values.view(batch, count, dim))
        known = known.scatter(1, new, True)
        if computed:
            yield tokens


def sampled(total: int, count: int) -> dict[int, int]:
    """``count`` of ``total`` iterations, the middle of equal stretches: {iteration: how many it stands for}.

    The weights sum to ``total``. Raises ValueError unless 1 <= count <= total.
    """
    if not 1 <= count <= total:
        raise ValueError(f"count must be a whole number from 1 to {total}, got {count!r}")
    bounds = [total * i // count for i in range(count + 1)]
    return {(low + high - 1) // 2: high - low for low, high in pairwise(bounds)}
