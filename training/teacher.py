"""Masked modelling on a cache of tokens, for the teacher and for any head trained without one (Section 3.1).

    python -m training.teacher --config training/configs/base-teacher.yaml --data CACHE --out DIR
    accelerate launch --num_processes 8 -m training.teacher ...

A later call with the same ``--out`` resumes from the last saved state.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dear.conditioning import Conditioning
from dear.config import ConfigError
from dear.heads.energy import EnergyHead
from dear.layers import to_device
from dear.masking import nested_order, random_mask, random_targets
from dear.model import MaskedModel
from training.engine.modes import fit_modes, sample_tokens
from training.engine.recipe import MaskingConfig, ModelRecipe, load_recipe
from training.engine.stage import Stage, TokenCache, command, dry_run, parse
from training.runtime.commands import guarded

# Shares of hidden tokens at which a model is validated: an empty scene, half a scene, a nearly finished one.
VALIDATION_RATIOS = (1.0, 0.8, 0.5, 0.2)
VALIDATION_BATCH = 64


def thin(conditioning: Conditioning, chosen: Tensor, generator: torch.Generator) -> Conditioning:
    """Drop conditioning tokens, so that a model learns the meaning of a prompt and not single words.

    Items in ``chosen`` [B] lose a share of their tokens, uniform from none to all of them, but never the last token,
    the pooled vector. ``chosen`` and the generator are on the CPU.
    """
    batch, length = conditioning.mask.shape
    share = torch.where(chosen, torch.rand(batch, generator=generator), 0.0)
    kept = to_device(torch.rand(batch, length, generator=generator) >= share[:, None], conditioning.mask.device)
    last = conditioning.mask.sum(1, keepdim=True) - 1
    kept |= torch.arange(length, device=kept.device) == last
    return Conditioning(conditioning.tokens, conditioning.mask & kept)


def jitter(conditioning: Conditioning, chosen: Tensor, size: float, generator: torch.Generator) -> Conditioning:
    """Add noise to conditioning tokens, so that a model responds alike to similar wordings.

    The noise of items in ``chosen`` [B] is up to ``size`` times as large as their tokens, uniformly. ``chosen`` and the
    generator are on the CPU.
    """
    if size == 0:
        return conditioning
    tokens = conditioning.tokens
    share = torch.where(chosen, size * torch.rand(len(tokens), generator=generator), 0.0)[:, None, None]
    noise = share * torch.randn(tokens.shape, generator=generator)
    scale = tokens.square().mean(dim=2, keepdim=True).sqrt()
    noise = to_device(noise.to(tokens.dtype), tokens.device)
    return Conditioning(tokens + noise * scale, conditioning.mask, conditioning.padded)


class MaskedModelling:
    """A :class:`training.engine.task.Task`: mask tokens, drop some conditions, and score the masked tokens."""

    def __init__(
        self,
        model: MaskedModel,
        cache: TokenCache,
        held_out: TokenCache | None,
        masking: MaskingConfig,
        batch_size: int,
        seed: int,
    ):
        """cache, held_out: the training data, and the data to validate on, if any. seed: of the order of items."""
        self.module = model
        self.cache = cache
        self.held_out = held_out
        self.masking = masking
        self.batch_size = batch_size
        self.seed = seed

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that a saved state must share to be resumed."""
        config = self.module.config
        return {
            "backbone": config.backbone,
            "head": config.variants[self.module.variant].head,
            "masking": self.masking,
            "cache": self.cache.stamp,
        }

    def batch(self, step: int, items: slice = slice(None)) -> dict[str, Tensor]:
        batch = self.cache.batch(self.cache.indices(step, self.batch_size, self.seed)[items])
        # Padding is never attended to, and costs as much as words.
        used = int(batch["mask"].sum(1).max())
        batch |= {key: batch[key][:, :used] for key in ("conditioning", "mask")}
        # Here it is known for sure, and without asking a device; attention is faster without a mask.
        if self.masking.blurred == 0 and batch["mask"].all():
            del batch["mask"]
        return batch

    def follow(self, averages: Mapping[str, Tensor]) -> None:
        head, prefix = self.module.head, "head."
        if head.wants_average:
            own = {name: value for name, value in averages.items() if name.startswith(prefix)}
            head.average = {name.removeprefix(prefix): value for name, value in own.items()}

    def fit(self) -> None:
        """Fit the centres of the head's modes, if it has any and does not have them from an earlier training."""
        head = self.module.head
        if isinstance(head, EnergyHead) and head.config.modes and not head.centres.any():
            generator = torch.Generator().manual_seed(self.seed)
            fit_modes(head, sample_tokens(self.cache, generator), generator)

    def compile(self) -> None:
        self.module.compile_blocks()

    def loss(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        tokens, conditioning, masking = batch["tokens"], _conditioning(batch), self.masking
        drop = torch.rand(len(tokens), generator=generator) < masking.drop
        order = self.order(len(tokens), generator)
        mask = random_mask(
            len(tokens),
            self.module.length,
            masking.ratio,
            generator,
            masking.shares,
            masking.empty,
            together=masking.targets > 0,
            order=order,
        )
        wanted = random_targets(mask, masking.targets, generator, order) if masking.targets else None
        blurred = torch.rand(len(tokens), generator=generator) < masking.blurred
        conditioning = thin(conditioning, blurred, generator)
        conditioning = jitter(conditioning, blurred, masking.jitter, generator)
        drop = to_device(drop, tokens.device)
        return self.objective(tokens, conditioning, drop, mask, generator, wanted)

    def order(self, batch: int, generator: torch.Generator) -> Tensor | None:
        """Positions [B, L] in the decoding order of each item, on the CPU; None: masks are random."""
        if self.masking.order == "random":
            return None
        length, bands = self.module.length, self.module.config.grid[1]
        return torch.stack([nested_order(length, generator, bands) for _ in range(batch)])

    def objective(
        self,
        tokens: Tensor,
        conditioning: Conditioning,
        drop: Tensor,
        mask: Tensor,
        generator: torch.Generator,
        wanted: Tensor | None,
    ) -> dict[str, Tensor]:
        """drop [B]: items without condition. mask [B, L]: hidden tokens, on the CPU. wanted [B, W]: the positions to
        score, on the CPU; None: all hidden ones."""
        conditioning = self.module.null(conditioning, drop)
        return {"loss": self.module.loss(tokens, conditioning, mask, generator, wanted).mean()}

    def validate(self) -> dict[str, float]:
        """The head's loss on held-out items, with fixed noise, for each share of hidden tokens."""
        if self.held_out is None:
            return {}
        device = next(self.module.parameters()).device
        batch = self.held_out.batch(range(min(len(self.held_out), VALIDATION_BATCH)))
        batch = {key: value.to(device) for key, value in batch.items()}
        conditioning = Conditioning(batch["conditioning"], batch["mask"])
        losses = {}
        for ratio in VALIDATION_RATIOS:
            generator = torch.Generator().manual_seed(0)
            mask = random_mask(len(conditioning), self.module.length, (ratio, ratio), generator)
            losses[f"hidden_{ratio:g}"] = self.module.loss(batch["tokens"], conditioning, mask, generator).mean().item()
        return losses


def _conditioning(batch: Mapping[str, Tensor]) -> Conditioning:
    """The conditioning of a batch, whose mask is absent if no token is padding."""
    tokens = batch["conditioning"]
    if "mask" in batch:
        return Conditioning(tokens, batch["mask"])
    return Conditioning(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device), padded=False)


def main(arguments: list[str] | None = None) -> int:
    options = parse(command("teacher", __doc__), arguments)

    def run() -> None:
        recipe = load_recipe(options.config, ModelRecipe)
        if recipe.distill is not None:
            raise ConfigError(
                f"{options.config}: distill must be absent, since this command uses no teacher, got {recipe.distill}"
            )
        if options.dry_run:
            dry_run(recipe, options)
            return
        stage, config = Stage(recipe, options), recipe.train
        cache, held_out = stage.caches()
        task = MaskedModelling(stage.new_model(), cache, held_out, recipe.masking, config.batch_size, config.seed)
        stage.train(task, "teacher")

    return guarded(run)


if __name__ == "__main__":
    sys.exit(main())
