"""The one generation loop: iterative parallel decoding with a continuous head (Section 3.1, Appendix F)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from dear.conditioning import Conditioning
from dear.config import SamplingConfig
from dear.contexts import Contexts
from dear.masking import nested_order, random_order, spread_order, token_schedule
from dear.model import MaskedModel
from dear.randomness import seeded


@dataclass(frozen=True)
class State:
    """A generation after one of its iterations.

    tokens: [B, L, D], zeros where not yet known; known: [B, L] bool; order: [B, L] int64, the iteration (from 0) that
        drew each token, or -1 if it is not drawn yet or was given; iteration: number of finished iterations;
        iterations: their total number.
    """

    tokens: Tensor
    known: Tensor
    order: Tensor
    iteration: int
    iterations: int


def guidance_scale(sampling: SamplingConfig, known_share: float) -> float:
    """The guidance scale of an iteration after which ``known_share`` of the tokens are known."""
    if sampling.guidance == "linear":
        return 1 + (sampling.cfg_scale - 1) * known_share
    return sampling.cfg_scale


def _equal(chosen: Tensor) -> int:
    """The number of chosen tokens of each item of [B, L]. Raises ValueError unless all items choose equally many."""
    counts = chosen.sum(dim=1).tolist()
    if len(set(counts)) != 1:
        raise ValueError(f"given_mask and left_out must hold equally many tokens of each item, got {counts}")
    return counts[0]


@torch.no_grad()
def generate(
    model: MaskedModel,
    conditioning: Conditioning,
    seeds: Sequence[int],
    sampling: SamplingConfig,
    *,
    given: Tensor | None = None,
    given_mask: Tensor | None = None,
    left_out: Tensor | None = None,
    negative: Conditioning | None = None,
) -> Iterator[State]:
    """Fill L tokens for each of B items and yield the state after each of ``sampling.iterations`` iterations.

    conditioning: B items, on the model's device.
    seeds: B seeds. Each item draws its order and its noise from its own CPU generator, so it does not depend on its
        batch.
    given, given_mask: tokens [B, L, D] to keep where the mask [B, L] is True, equally many in each item. The loop draws
        the others.
    left_out: [B, L] bool, tokens that are neither given nor drawn, equally many in each item.
    negative: B items that replace the null condition in guidance.
    Raises ValueError if ``iterations`` exceeds the number of tokens to draw, if shapes do not match, or if the backbone
    does not support ``sampling.savings``.
    """
    model.config.check_savings(sampling.savings)
    parameter = next(model.parameters())
    device, dtype = parameter.device, parameter.dtype
    if device.type == "cuda":
        # cuDNN's attention makes a plan for each shape, and each iteration has its own shape. The switch holds for the
        # whole process; other kernels compute the same.
        torch.backends.cuda.enable_cudnn_sdp(False)
    batch, length, dim = len(seeds), model.length, model.token_dim
    if len(conditioning) != batch:
        raise ValueError(f"seeds must hold one seed per conditioning item ({len(conditioning)}), got {batch}")
    if given is None or given_mask is None:
        given = torch.zeros(batch, length, dim, dtype=dtype, device="cpu")
        given_mask = torch.zeros(batch, length, dtype=torch.bool, device="cpu")
    if given.shape != (batch, length, dim) or given_mask.shape != (batch, length):
        raise ValueError(
            f"given and given_mask must be {[batch, length, dim]} and {[batch, length]}, "
            f"got {list(given.shape)} and {list(given_mask.shape)}"
        )
    role = (~given_mask.cpu()).long()  # 0: given, 1: to draw, 2: left out
    if left_out is not None:
        if left_out.shape != role.shape or (left_out.cpu() & (role == 0)).any():
            raise ValueError(f"left_out must be {list(role.shape)} and nowhere given, got {list(left_out.shape)}")
        role += left_out.cpu()
    start, wanted = (_equal(role == each) for each in (0, 1))
    counts = token_schedule(wanted, sampling.iterations, sampling.savings.schedule)

    generators = [seeded(seed) for seed in seeds]
    orders: dict[str, Callable[[int, torch.Generator], Tensor]] = {
        "random": random_order,
        "spread": spread_order,
        "nested": partial(nested_order, bands=model.config.grid[1]),
    }
    order = torch.stack([orders[sampling.savings.order](length, generator) for generator in generators])
    # Positions in decoding order [B, L], with the given ones first: a stable sort keeps their order otherwise.
    order = order.gather(1, role.gather(1, order).argsort(dim=1, stable=True)).to(device)

    given_mask = given_mask.to(device)
    tokens = torch.where(given_mask[..., None], given.to(device, dtype), 0)
    known = given_mask.clone()
    drawn_at = torch.full((batch, length), -1, dtype=torch.long, device=device)
    if negative is not None:
        negative = negative.to(device, dtype)
    with closing(Contexts(model, conditioning.to(device, dtype), order, start, counts, sampling, negative)) as contexts:
        for iteration, count in enumerate(counts):
            end = start + count
            new = order[:, start:end]

            def draw(count: int = count) -> Tensor:
                rows = [
                    torch.randn(count, dim, generator=generator, dtype=torch.float32, device="cpu")
                    for generator in generators
                ]
                noise = torch.cat(rows).to(dtype)
                # From pinned memory, the loop need not wait for the device.
                return noise.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else noise.to(device)

            found = [each for each in contexts(tokens, known, iteration) if each is not None]
            inputs = [each.flatten(0, 1) for each in model.head_inputs(found, tokens, known, new)]
            values = model.head.sample(
                inputs[0],
                inputs[1] if len(inputs) > 1 else None,
                cfg_scale=guidance_scale(sampling, end / length),
                steps=sampling.steps,
                temperature=sampling.temperature,
                draw=draw,
            )
            tokens = tokens.scatter(1, new[..., None].expand(-1, -1, dim), values.view(batch, count, dim))
            known = known.scatter(1, new, True)
            drawn_at = drawn_at.scatter(1, new, iteration)
            start = end
            yield State(tokens, known, drawn_at, iteration + 1, len(counts))
