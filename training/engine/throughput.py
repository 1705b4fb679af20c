"""FLOPs of a training step, by closed formulas, and the peak rate of a device.

Only matrix products count, as two operations per multiply-add; norms, activations and the depthwise convolution are
well under a percent. ``tests/training/test_throughput.py`` checks the formulas against
torch's counter.
"""

from __future__ import annotations

import resource
import sys
import time

import torch

from dear.config import Config, HeadConfig
from dear.heads import HEADS, Head
from dear.layers import shapes_alone

ROUNDS = 6  # timed products, of which the fastest counts, after one to warm up


def backbone_flops(config: Config, conditioning: int, hidden: float = 1.0, scored: int = 0) -> float:
    """One forward pass for one item of L audio tokens behind T = ``conditioning`` tokens.

    ``2 (T E C + L D C) + depth (2 (T + L) (4 + 2 r) C^2 + 4 C (T^2 + L (T + L)))``, r the MLP's ratio: projections
    into the width C, then per block queries, keys, values, output and MLP of all tokens, and attention, where
    conditioning tokens attend to T tokens and audio tokens to T + L.

    Under ``attention`` "joint", where the encoder omits the share ``hidden`` of the audio tokens, K = (1 - hidden) L
    replaces L in the first half of the blocks, a product of C^2 joins the halves, and all tokens attend to all. Of the
    conditioning tokens the last block computes keys and values alone.

    scored: audio tokens that are scored where the other hidden ones are left out (``masking.targets`` under
    ``masked_attention`` "visible"), 0 for none left out. L is then their number and that of the known ones, on average.
    """
    width, length, count = config.backbone.width, float(config.length), conditioning
    if scored and config.backbone.masked_attention == "visible":
        length = min(length, (1 - hidden) * length + scored)
    hidden_width = int(width * config.backbone.mlp_ratio)

    def block(tokens: float, seen: float) -> float:
        """tokens: computed; seen: pairs of a token and one that it attends to."""
        return 2 * tokens * (4 * width**2 + 2 * width * hidden_width) + 4 * width * seen

    if config.backbone.attention == "joint":
        known, half = (1 - hidden) * length, config.backbone.depth // 2
        projections = 2 * width * (count * config.conditioning.dim + known * config.vae.token_dim)
        projections += 2 * (count + known) * width**2
        halves = (block(count + n, (count + n) ** 2) for n in (known, length))
        # The last block needs only keys and values of conditioning tokens.
        spared = block(count, count * (count + length)) - 2 * count * 2 * width**2
        return projections + half * sum(halves) - spared
    projections = 2 * width * (count * config.conditioning.dim + length * config.vae.token_dim)
    return projections + config.backbone.depth * block(count + length, count**2 + length * (count + length))


def head_flops(head: HeadConfig, token_dim: int, context_dim: int) -> float:
    """One forward pass of the head's loss for one masked token of D values with a context of C, all draws included."""
    return _head(head, token_dim, context_dim).loss_flops()


def _head(head: HeadConfig, token_dim: int, context_dim: int) -> Head:
    with shapes_alone():
        return HEADS[head.kind](head, token_dim, context_dim)


def step_flops(
    config: Config,
    variant: str,
    batch_size: int,
    conditioning: int,
    hidden: float,
    teacher: bool = False,
    frozen: bool = False,
    targets: int = 0,
) -> float:
    """One training step, which costs three forward passes: one forward and two for the backward pass.

    conditioning: T of the batches. hidden: mean share of masked tokens. teacher: whether a teacher's backbone runs
    forward too. frozen: whether the backbone runs forward only. targets: ``masking.targets``. A head may take more
    passes: see ``Head.train_passes``.
    """
    head = _head(config.variants[variant].head, config.vae.token_dim, config.context_dim)
    scored = config.length * hidden
    heads = head.train_passes * (min(targets, scored) if targets else scored) * head.loss_flops()
    forwards = (1 if frozen else 3) + teacher + head.wants_null_context
    return batch_size * (backbone_flops(config, conditioning, hidden, targets) * forwards + heads)


def measured_peak(device: torch.device, precision: str) -> float:
    """Operations per second of a large matrix product on ``device``, in the precision of training."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    size = 1024 if device.type == "cpu" else 8192
    a = torch.full((size, size), 0.5, dtype=dtype, device=device)
    best = float("inf")
    for round_number in range(ROUNDS + 1):
        started = time.perf_counter()
        product = a @ a
        product[0, 0].item()  # waits for the device
        if round_number:
            best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def peak_memory(device: torch.device) -> int:
    """The peak memory of this process in bytes: on the device, or main memory for a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
