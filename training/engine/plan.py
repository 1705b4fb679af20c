"""Estimate the needs of a run before a cluster is rented: ``--dry-run`` of the commands that train one model.

Everything here is a formula. Memory counts the values that autograd keeps for the backward pass with flash attention;
``tests/training/test_plan.py`` compares it with the values that torch keeps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from dear.config import Config, ConfigError
from dear.model import MaskedModel
from training.engine.recipe import ModelRecipe
from training.engine.schedule import TrainConfig
from training.engine.throughput import step_flops

DEVICES = (1, 8, 64)
PEAK = 312.0  # TFLOP/s of an A100 in bfloat16, without sparsity
UTILISATION = 0.4  # of the peak, which training of transformers usually reaches
GB = 1e9

# Bytes per value that is kept, by precision: of the residual stream and what norms read; and of what products read.
STREAM = {"no": 4, "bf16": 4}
PRODUCT = {"no": 4, "bf16": 2}


def block_bytes(config: Config, tokens: float, precision: str) -> float:
    """Values that one block of the transformer keeps for ``tokens`` tokens: the inputs of both norms and of the
    products that follow them, queries, keys and values, the result of attention, and both sides of the MLP's
    activation.
    """
    ratio = config.backbone.mlp_ratio
    return tokens * config.backbone.width * (2 * STREAM[precision] + (6 + 2 * ratio) * PRODUCT[precision])


def backbone_bytes(config: Config, conditioning: int, hidden: float, precision: str) -> float:
    """Values that the transformer keeps for one item of L audio tokens behind T = ``conditioning`` tokens, if the share
    ``hidden`` is hidden.
    """
    depth, width, every = config.backbone.depth, config.backbone.width, conditioning + config.length
    if config.backbone.attention == "joint":
        encoded = conditioning + (1 - hidden) * config.length
        return depth / 2 * (block_bytes(config, encoded, precision) + block_bytes(config, every, precision))
    # Audio tokens attend to keys and values that are copied behind those of the conditioning, through a mask.
    more = (2 * every * width + config.length * every) * PRODUCT[precision]
    return depth * (block_bytes(config, every, precision) + more)


def head_bytes(config: Config, variant: str, hidden: float, precision: str) -> float:
    """About how many values the head keeps for one item. For each draw of a masked token and each block, it keeps the
    input and the result of the norm, both sides of the activation, the value that the gate multiplies, and the
    modulations, which the draws of the energy head share. Its classifier of modes runs once for all draws. The numbers
    were measured with torch.
    """
    head = config.variants[variant].head
    samples, levels = getattr(head, "samples", 1), getattr(head, "levels", 1)
    rows = config.length * hidden * samples * levels
    kept = rows * head.width * (head.depth + 0.5) * (5.7 + 6 / samples) * PRODUCT[precision]
    if modes := getattr(head, "modes", 0):
        classifier = (config.context_dim + 2 * head.width) * PRODUCT[precision] + modes * STREAM[precision]
        kept += rows / samples * classifier
    return kept


def memory(recipe: ModelRecipe, conditioning: int, devices: int) -> dict[str, float]:
    """Bytes of one device by use."""
    config, train = recipe.model, recipe.train
    with torch.device("meta"):
        model = MaskedModel(config, recipe.variant)
    count = sum(parameter.numel() for parameter in model.parameters())
    distill = recipe.distill
    frozen = count - sum(p.numel() for p in model.head.parameters()) if distill and distill.freeze else 0
    trained = count - frozen
    taught = sum(p.numel() for p in model.backbone.parameters()) if distill and distill.weight > 0 else 0
    items = train.batch_size // train.parts(devices)
    hidden = recipe.masking.mean_share
    kept = head_bytes(config, recipe.variant, hidden, train.precision)
    if not frozen:
        kept += backbone_bytes(config, conditioning, hidden, train.precision)
    return {
        "weights, gradients, optimiser and average": 4.0 * count + 16.0 * trained,
        "the teacher's weights": 4.0 * taught,
        "weights in bfloat16": 2.0 * (count + taught) if train.precision == "bf16" else 0.0,
        "activations of a micro-batch": items * kept,
    }


def item_bytes(config: Config, conditioning: int) -> int:
    """Bytes of an item in a cache, in half precision."""
    return 2 * (config.length * config.vae.token_dim + conditioning * config.conditioning.dim)


def plan(
    recipe: ModelRecipe, conditioning: int, items: int | None, peak: float | None, utilisation: float = UTILISATION
) -> dict[str, Any]:
    """The needs of training a recipe. conditioning: T of the data; items: of the cache, None if there is no cache yet;
    peak: TFLOP/s of one device, None for :data:`PEAK`.
    """
    config, train = recipe.model, recipe.train
    with torch.device("meta"):
        model = MaskedModel(config, recipe.variant)
    distill = recipe.distill
    flops = step_flops(
        config,
        recipe.variant,
        train.batch_size,
        conditioning,
        recipe.masking.mean_share,
        teacher=distill is not None and distill.weight > 0,
        frozen=distill is not None and distill.freeze,
        targets=recipe.masking.targets,
    )
    size = item_bytes(config, conditioning)
    each = {}
    for devices in DEVICES:
        micro_batch, rest = divmod(train.batch_size, devices)
        if rest:
            continue
        shared = recipe
        try:
            parts = train.parts(devices)
        except ConfigError:  # the recipe's micro-batches are too large for so many devices
            shared = replace(recipe, train=replace(train, micro_batch=micro_batch))
            parts = devices
        rate = devices * (peak or PEAK) * 1e12 * utilisation / flops
        used = memory(shared, conditioning, devices)
        each[devices] = {
            "micro_batch": train.batch_size // parts,
            "micro_batches": parts // devices,
            "days": train.steps / rate / 86_400,
            "steps_per_second": rate,
            "tokens_per_second": rate * train.batch_size * config.length,
            "loader_bytes_per_second": rate * train.batch_size * size / devices,
            "memory": used | {"total": sum(used.values())},
        }
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {
        "shapes": {
            "tokens": [train.batch_size, config.length, config.vae.token_dim],
            "conditioning": [train.batch_size, conditioning, config.conditioning.dim],
            "contexts": [train.batch_size, config.length, config.backbone.width],
        },
        "parameters": parameters,
        "steps": train.steps,
        "flops_per_step": flops,
        "peak_tflops": peak or PEAK,
        "utilisation": utilisation,
        "items": items,
        "epochs": train.steps * train.batch_size / items if items else None,
        "item_bytes": size,
        "cache_bytes": size * items if items else None,
        "state_bytes": 16 * parameters,
        "history_bytes": 2 * parameters * _kept(recipe, train),
        "devices": each,
    }


def _kept(recipe: ModelRecipe, train: TrainConfig) -> int:
    """Checkpoints that the history ends with."""
    history = recipe.history
    made = train.steps // history.every if history.every else 0
    return min(made, history.keep) if history.keep else made


def shown(found: Mapping[str, Any]) -> str:
    """A plan in Markdown."""
    lines = [f"{name}: {' x '.join(map(str, shape))}" for name, shape in found["shapes"].items()]
    steps, flops = found["steps"], found["flops_per_step"]
    lines.append(f"parameters: {found['parameters']:,}; {flops:.3g} FLOP a step; {steps:,} steps")
    if found["items"]:
        size = found["cache_bytes"] / GB
        lines.append(f"cache: {found['items']:,} items, {size:.3g} GB, {found['epochs']:.1f} epochs")
    else:
        lines.append(f"cache: {1000 * found['item_bytes'] / GB:.2f} GB for 1,000 items")
    state, history = found["state_bytes"] / GB, found["history_bytes"] / GB
    lines.append(f"on disk: {state:.2f} GB of state, {history:.2f} GB of history")
    names = "devices", "micro-batches, each", "days", "steps/s", "tokens/s to load", "MB/s to load, each", "GB, each"
    lines += [
        f"at {found['utilisation']:.0%} of {found['peak_tflops']:g} TFLOP/s of each device:",
        "",
        f"| {' | '.join(names)} |",
        "|---|---|---|---|---|---|---|",
    ]
    for devices, each in found["devices"].items():
        micro_batches = f"{each['micro_batches']} of {each['micro_batch']}"
        lines.append(
            f"| {devices} | {micro_batches} | {each['days']:.3g} | {each['steps_per_second']:.3g} | "
            f"{each['tokens_per_second']:,.0f} | {each['loader_bytes_per_second'] / 1e6:.1f} | "
            f"{each['memory']['total'] / GB:.1f} |"
        )
    lines += ["", "| memory of one device | GB |", "|---|---|"]
    first = next(iter(found["devices"].values()))["memory"]
    lines += [f"| {name} | {value / GB:.2f} |" for name, value in first.items()]
    return "\n".join(lines)
