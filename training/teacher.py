"""Masked modelling on a cache of tokens: the task of the teacher, and of any head trained without one (Section 3.1).

    python -m training.teacher --config training/configs/base-teacher.yaml --data CACHE --out DIR
    accelerate launch --num_processes 8 -m training.teacher ...

Called again with the same ``--out``, it goes on from the last saved state.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dear.conditioning import Conditioning
from dear.config import ConfigError
from dear.masking import random_mask
from dear.model import MaskedModel
from training.engine.recipe import MaskingConfig, ModelRecipe, load_recipe
from training.engine.stage import Stage, TokenCache, command, parse
from training.runtime.commands import guarded

# Shares of hidden tokens at which a model is validated: an empty scene, half a scene, a nearly finished one.
VALIDATION_RATIOS = (1.0, 0.8, 0.5, 0.2)
VALIDATION_BATCH = 64


def thin(conditioning: Conditioning, chosen: Tensor, generator: torch.Generator) -> Conditioning:
    """Hide conditioning tokens, so that a model learns to understand a prompt by its sense and not by one word.

    Of chosen [B] items a share is lost, uniform from none to all of their tokens, but never the last one, the pooled
    vector. ``chosen`` and the generator are on the CPU.
    """
    batch, length = conditioning.mask.shape
    share = torch.where(chosen, torch.rand(batch, generator=generator), 0.0)
    kept = (torch.rand(batch, length, generator=generator) >= share[:, None]).to(conditioning.mask.device)
    last = conditioning.mask.sum(1, keepdim=True) - 1
    kept |= torch.arange(length, device=kept.device) == last
    return Conditioning(conditioning.tokens, conditioning.mask & kept)


def jitter(conditioning: Conditioning, chosen: Tensor, size: float, generator: torch.Generator) -> Conditioning:
    """Move conditioning tokens at random, so that a model answers alike to wordings that lie near each other.

    The noise of chosen [B] items is at most ``size`` times as large as their tokens, uniformly. ``chosen`` and the
    generator are on the CPU.
    """
    if size == 0:
        return conditioning
    tokens = conditioning.tokens
    share = torch.where(chosen, size * torch.rand(len(tokens), generator=generator), 0.0)[:, None, None]
    noise = share * torch.randn(tokens.shape, generator=generator)
    scale = tokens.square().mean(dim=2, keepdim=True).sqrt()
    return Conditioning(tokens + noise.to(tokens) * scale, conditioning.mask)


class MaskedModelling:
    """A :class:`training.engine.task.Task`: hide tokens and some conditions; the head scores the hidden ones."""

    def __init__(
        self,
        model: MaskedModel,
        cache: TokenCache,
        held_out: TokenCache | None,
        masking: MaskingConfig,
        batch_size: int,
        seed: int,
    ):
        """cache, held_out: what is trained on, and what is measured on, if anything; seed: of the items' order."""
        self.module = model
        self.cache = cache
        self.held_out = held_out
        self.masking = masking
        self.batch_size = batch_size
        self.seed = seed

    @property
    def settings(self) -> dict[str, Any]:
        """What a saved state must agree with to be resumed."""
        config = self.module.config
        return {
            "backbone": config.backbone,
            "head": config.variants[self.module.variant].head,
            "masking": self.masking,
            "cache": self.cache.stamp,
        }

    def batch(self, step: int) -> dict[str, Tensor]:
        return self.cache.batch(self.cache.indices(step, self.batch_size, self.seed))

    def loss(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        tokens, conditioning = batch["tokens"], Conditioning(batch["conditioning"], batch["mask"])
        drop = torch.rand(len(tokens), generator=generator) < self.masking.drop
        masking = self.masking
        mask = random_mask(len(tokens), self.module.length, masking.ratio, generator, masking.shares)
        blurred = torch.rand(len(tokens), generator=generator) < masking.blurred
        conditioning = thin(conditioning, blurred, generator)
        conditioning = jitter(conditioning, blurred, masking.jitter, generator)
        return self.objective(tokens, conditioning, drop.to(tokens.device), mask.to(tokens.device), generator)

    def objective(
        self, tokens: Tensor, conditioning: Conditioning, drop: Tensor, mask: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """drop [B]: whose condition is lost; mask [B, L]: which tokens are hidden."""
        conditioning = self.module.null(conditioning, drop)
        return {"loss": self.module.loss(tokens, conditioning, mask, generator).mean()}

    def validate(self) -> dict[str, float]:
        """The head's loss on held-out items, with fixed noise, by share of hidden tokens."""
        if self.held_out is None:
            return {}
        device = next(self.module.parameters()).device
        batch = self.held_out.batch(range(min(len(self.held_out), VALIDATION_BATCH)))
        batch = {key: value.to(device) for key, value in batch.items()}
        conditioning = Conditioning(batch["conditioning"], batch["mask"])
        losses = {}
        for ratio in VALIDATION_RATIOS:
            generator = torch.Generator().manual_seed(0)
            mask = random_mask(len(conditioning), self.module.length, (ratio, ratio), generator).to(device)
            losses[f"hidden_{ratio:g}"] = self.module.loss(batch["tokens"], conditioning, mask, generator).mean().item()
        return losses


def main(arguments: list[str] | None = None) -> int:
    options = parse(command("teacher", __doc__), arguments)

    def run() -> None:
        recipe = load_recipe(options.config, ModelRecipe)
        if recipe.distill is not None:
            raise ConfigError(
                f"{options.config}: distill must be absent, since this command uses no teacher, got {recipe.distill}"
            )
        stage, config = Stage(recipe, options), recipe.train
        cache, held_out = stage.caches()
        task = MaskedModelling(stage.new_model(), cache, held_out, recipe.masking, config.batch_size, config.seed)
        stage.train(task, "teacher")

    return guarded(run)


if __name__ == "__main__":
    sys.exit(main())
