"""Named configurations: ``mini`` is the bundled model's, the others have the paper's size.

``base`` and ``base-teacher`` are the paper's models to the parameter. ``base-visible`` and ``base-visible-teacher`` are
a plain stack of as many blocks in which conditioning attends to itself and no token attends to hidden tokens, so that
decoding can leave hidden tokens out and cache known ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from dear.codec.audioldm import AudioLDMVAEConfig, AudioLDMVocoderConfig
from dear.codec.mel_gain import MelGainConfig
from dear.codec.patch import PatchConfig
from dear.conditioning.minilm import MiniLMConfig
from dear.conditioning.paper import PaperConfig
from dear.config import BackboneConfig, Config, ConfigError, HeadConfig, SamplingConfig, VariantConfig
from dear.heads.diffusion import DiffusionConfig
from dear.heads.energy import EnergyConfig


def _mini() -> Config:
    return Config(
        vae=PatchConfig(deblock=0.1, texture=1.0, substitution=True),
        vocoder=MelGainConfig(),
        conditioning=MiniLMConfig(),
        backbone=BackboneConfig(positions="both", neighbours=2),
        variants={
            "student": VariantConfig(
                head=EnergyConfig(
                    width=320,
                    samples=4,
                    groups=(4, 12, 48, 64),
                    relative=True,
                    channels=2.0,
                    directions=1.0,
                    direction_from=16,
                    innovations=2.0,
                    direct_noise=True,
                    mixed_noise=True,
                    direct_context=True,
                ),
                sampling=SamplingConfig(cfg_scale=2.0, iterations=32, temperature=0.9),
            ),
            "teacher": VariantConfig(
                head=DiffusionConfig(prediction="velocity"),
                sampling=SamplingConfig(cfg_scale=3.0, iterations=32, steps=100),
            ),
        },
    )


JOINT = BackboneConfig(
    width=768, depth=24, heads=12, attention="joint", masked_attention="full", positions="learned", conv_width=0
)
VISIBLE = replace(JOINT, attention="prefix", masked_attention="visible")


def _student(name: str, backbone: BackboneConfig) -> Config:
    return _base(name, backbone, "student", EnergyConfig(width=1024), SamplingConfig(cfg_scale=4.0))


def _teacher(name: str, backbone: BackboneConfig) -> Config:
    head = DiffusionConfig(width=1024, variance="learned")
    return _base(name, backbone, "teacher", head, SamplingConfig(cfg_scale=5.0, steps=100))


def _base(name: str, backbone: BackboneConfig, variant: str, head: HeadConfig, sampling: SamplingConfig) -> Config:
    return Config(
        name=name,
        vae=AudioLDMVAEConfig(token_dim=128, peak=0.5),
        vocoder=AudioLDMVocoderConfig(),
        conditioning=PaperConfig(dim=1024, max_tokens=78),
        backbone=backbone,
        variants={variant: VariantConfig(head=head, sampling=sampling)},
    )


PRESETS: dict[str, Callable[[], Config]] = {
    "mini": _mini,
    "base": lambda: _student("base", JOINT),
    "base-teacher": lambda: _teacher("base-teacher", JOINT),
    "base-visible": lambda: _student("base-visible", VISIBLE),
    "base-visible-teacher": lambda: _teacher("base-visible-teacher", VISIBLE),
}


def preset(name: str) -> Config:
    """The named configuration. Raises ConfigError for an unknown name."""
    if name not in PRESETS:
        raise ConfigError(f"preset must be one of {', '.join(PRESETS)}, got {name!r}")
    return PRESETS[name]()
