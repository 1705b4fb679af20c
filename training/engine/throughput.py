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


def backbone_flops(config: Config, conditioning: int) -> float:
    """One forward pass for one item of L audio tokens behind T = ``conditioning`` tokens.

    ``2 (T E C + L D C) + depth (2 (T + L) (4 + 2 r) C^2 + 4 C (T^2 + L (T + L)))``, r the MLP's ratio: projections
    into the width C, then per block queries, keys, values, output and MLP of all tokens, and attention, where
    conditioning tokens attend to T tokens and audio tokens to T + L.
    """
    width, length, count = config.backbone.width, config.length, conditioning
    projections = 2 * width * (count * config.conditioning.dim + length * config.vae.token_dim)
    matrices = 2 * (count + length) * (4 * width**2 + 2 * width * int(width * config.backbone.mlp_ratio))
    attention = 4 * width * (count**2 + length * (count + length))
    return projections + config.backbone.depth * (matrices + attention)


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
) -> float:
    """One training step, which costs three forward passes: one forward and two for the backward pass.

    conditioning: T of the batches. hidden: mean share of masked tokens. teacher: whether a teacher's backbone runs
    forward too. frozen: whether the backbone runs forward only. A head may take more passes: see ``Head.train_passes``.
    """
    head = _head(config.variants[variant].head, config.vae.token_dim, config.backbone.width)
    heads = head.train_passes * config.length * hidden * head.loss_flops()
    return batch_size * (backbone_flops(config, conditioning) * ((1 if frozen else 3) + teacher) + heads)


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
