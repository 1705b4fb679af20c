"""The contexts of the tokens to draw, under guidance: exact by default, or approximate as ``Savings`` allow.

Two of the savings are caches as in LazyMAR, MARche and ReCAP: keys and values of known tokens are reused for some
iterations (``refresh_every``), and so is the difference between conditional and null contexts (``null_every``).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from dear.conditioning import Conditioning
from dear.config import SamplingConfig
from dear.model import MaskedModel

CONDITIONAL, BOTH = 1, 2  # branches of guidance in a forward pass


class Contexts:
    """Computes the head's inputs in each iteration of one generation: conditional and, for guidance, null contexts.

    Both branches are one batch, the conditional one first. Some iterations compute only the conditional half.
    """

    def __init__(
        self,
        model: MaskedModel,
        conditioning: Conditioning,
        order: Tensor,
        start: int,
        counts: Sequence[int],
        sampling: SamplingConfig,
        negative: Conditioning | None = None,
    ):
        """conditioning: B items. order: [B, L] positions in decoding order, of which the first ``start`` are given.
        counts: how many tokens each iteration draws. negative: B items in place of the null condition."""
        self.order = order
        self.savings = sampling.savings
        self.bounds = list(accumulate(counts, initial=start))
        most = start + self.savings.guided_share * sum(counts)
        self.guided = sum(begin <= most for begin in self.bounds[:-1]) if sampling.cfg_scale != 1 else 0  # iterations
        conditioning = model.decoding.fit(conditioning, model.config.conditioning.max_tokens)
        if negative is not None and self.guided:
            negative = model.decoding.fit(negative, model.config.conditioning.max_tokens)
            longest = max(conditioning.tokens.shape[1], negative.tokens.shape[1])
            conditioning, negative = conditioning.pad(longest), negative.pad(longest)
        tokens, mask = conditioning.tokens, conditioning.mask
        if self.guided:
            dropped = torch.ones(len(order), dtype=torch.bool, device=order.device)
            null = model.null(conditioning, dropped) if negative is None else negative
            tokens, mask = torch.cat((tokens, null.tokens)), torch.cat((mask, null.mask))
        self.session = model.decoding.begin(model.backbone.prefix(tokens, mask, conditioning.padded))
        # Of each branch: how many known tokens its cache holds, and the iteration in which they are recomputed.
        self.cached, self.refresh_at = [0, 0], [0, 0]
        self.difference: Tensor | None = None  # null minus conditional contexts [B, N, C], of this iteration and on

    def __call__(self, tokens: Tensor, known: Tensor, iteration: int) -> tuple[Tensor, Tensor | None]:
        """tokens [B, L, D], known [B, L] -> contexts [B, N, C] of the N tokens that ``iteration`` draws, and null ones.

        Iterations come one after the other. Null contexts are None where there is no guidance.
        """
        start, end = self.bounds[iteration : iteration + 2]
        count, every = end - start, self.savings.null_every
        if iteration >= self.guided:
            return self._compute(tokens, known, CONDITIONAL, iteration, start, end), None
        if iteration % every:
            contexts = self._compute(tokens, known, CONDITIONAL, iteration, start, end)
            assert self.difference is not None  # set by the iteration before, where every > 1
            null = contexts + self.difference[:, :count]
        else:
            until = self.bounds[min(iteration + every, self.guided)]
            contexts, null = self._compute(tokens, known, BOTH, iteration, start, until).chunk(2)
            self.difference = null - contexts if every > 1 else None
            contexts, null = contexts[:, :count], null[:, :count]
        if self.difference is not None:
            self.difference = self.difference[:, count:]
        return contexts, null

    def _compute(self, tokens: Tensor, known: Tensor, branches: int, iteration: int, start: int, end: int) -> Tensor:
        """Contexts [branches * B, end - start, C] of the tokens from ``start`` to ``end`` in decoding order."""
        first = min(self.cached[:branches])
        if iteration >= min(self.refresh_at[:branches]):
            first = 0
            self.refresh_at[:branches] = [iteration + self.savings.refresh_every] * branches
        self.cached[:branches] = [start] * branches
        order, known = self.order.repeat(branches, 1), known.repeat(branches, 1)
        return self.session(tokens.repeat(branches, 1, 1), known, order, first, start, end)

    def close(self) -> None:
        """Release the memory of the generation."""
        self.session.close()
