"""Small real objects for tests: the whole system at a size that runs in milliseconds."""

from __future__ import annotations

from pathlib import Path

import torch

from dear.checkpoint import save_checkpoint
from dear.codec import build_vae, build_vocoder
from dear.codec.griffin_lim import GriffinLimConfig
from dear.codec.patch import PatchConfig
from dear.conditioning.minilm import MiniLMConfig
from dear.config import BackboneConfig, Config, MelConfig, SamplingConfig, VariantConfig
from dear.heads.diffusion import DiffusionConfig
from dear.heads.energy import EnergyConfig
from dear.model import MaskedModel


def tiny_config() -> Config:
    """L = 8 tokens of D = 16 values over 64 frames; C = 32; an energy student and a diffusion teacher."""
    return Config(
        name="tiny",
        mel=MelConfig(frames=64, samples=10_000),
        vae=PatchConfig(patch_frames=8, patch_mels=64, token_dim=16),
        vocoder=GriffinLimConfig(iterations=4),
        conditioning=MiniLMConfig(),
        backbone=BackboneConfig(width=32, depth=2, heads=2),
        variants={
            "student": VariantConfig(
                head=EnergyConfig(width=32, depth=1),
                sampling=SamplingConfig(cfg_scale=2.0, iterations=4),
            ),
            "teacher": VariantConfig(
                head=DiffusionConfig(width=32, depth=1, timesteps=50),
                sampling=SamplingConfig(cfg_scale=2.0, iterations=4, steps=3),
            ),
        },
    )


def tiny_models(config: Config, seed: int = 0) -> dict[str, MaskedModel]:
    """A randomly initialised model of each variant, the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return {variant: MaskedModel(config, variant).eval() for variant in config.variants}


def tiny_checkpoint(folder: str | Path, config: Config | None = None, seed: int = 0) -> Path:
    """A checkpoint with random weights, in the published format, written to ``folder``."""
    config = config or tiny_config()
    models = tiny_models(config, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae, vocoder = build_vae(config.vae, config.mel), build_vocoder(config.vocoder, config.mel)
    return save_checkpoint(folder, config, models, vae, vocoder, card="# tiny\n")
