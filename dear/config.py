"""Every hyper-parameter of AudioDEAR, as frozen dataclasses that travel as JSON.

A checkpoint's ``config.json`` is one :class:`Config`: what all its variants share (mel, codec,
conditioning, backbone) and, per variant, the head and its default sampling options. Numbers of the
paper are those of Section 4.2; where the paper is silent the comment says whose value stands.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")

VAE_KINDS = ("patch", "conv", "audioldm")
VOCODER_KINDS = ("griffin-lim", "mel-gain", "istft", "audioldm")
CONDITIONING_KINDS = ("minilm", "paper")
TEXT_EMBEDDINGS = ("clap+t5", "t5", "clap")
CLAP_BACKENDS = ("transformers", "laion_clap")
AUDIOLDM = "cvssp/audioldm-s-full-v2"


class ConfigError(ValueError):
    """A configuration with an unknown field, a missing field, or a value out of range."""


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")


def _at_least(name: str, value: float, low: float) -> None:
    if not value >= low:
        raise ConfigError(f"{name} must be at least {low}, got {value!r}")


@dataclass(frozen=True)
class MelConfig:
    """Waveform to natural-log mel, AudioLDM's protocol."""

    sample_rate: int = 16000  # Hz, mono
    n_fft: int = 1024  # samples per analysis window
    hop_length: int = 160  # samples between frames: 10 ms
    n_mels: int = 64  # M, Slaney mel bands
    f_min: float = 0.0  # Hz
    f_max: float = 8000.0  # Hz
    frames: int = 1024  # F, frames of one clip: 10.24 s
    samples: int = 160_000  # S, what a generated waveform is cropped to: 10 s
    floor: float = 1e-5  # magnitudes are clamped here before the logarithm

    def __post_init__(self) -> None:
        for name in ("sample_rate", "n_fft", "hop_length", "n_mels", "frames", "samples"):
            _at_least(f"mel.{name}", getattr(self, name), 1)
        if not 0 <= self.f_min < self.f_max <= self.sample_rate / 2:
            raise ConfigError(
                f"mel.f_min and mel.f_max must satisfy 0 <= f_min < f_max <= {self.sample_rate / 2}, "
                f"got {self.f_min!r} and {self.f_max!r}"
            )
        if not self.floor > 0:
            raise ConfigError(f"mel.floor must be above 0, got {self.floor!r}")
        if self.samples > self.frames * self.hop_length:
            raise ConfigError(f"mel.samples must be at most frames * hop_length, got {self.samples!r}")


@dataclass(frozen=True)
class VAEConfig:
    """Log-mel to tokens and back. The scale and shift of the tokens live in the codec's weights."""

    kind: str = "patch"  # patch (linear), conv (linear plus convolutions), audioldm (from the Hub)
    patch_frames: int = 8  # mel frames under one token; for audioldm: 4 latents of 4 frames
    patch_mels: int = 64  # mel bins under one token; for audioldm: 4 latents of 4 bins
    token_dim: int = 128  # D, values per token
    width: int = 64  # channels of the refinement of conv
    depth: int = 4  # residual convolution blocks of the refinement of conv
    source: str = AUDIOLDM  # where audioldm comes from: owner/name on the Hub, or a folder that holds vae/
    # What recordings are scaled to, without their mean, before they are encoded to be trained on; 0: left as they are.
    peak: float = 0.0  # AudioLDM's is 0.5 (`normalize_wav` in its data code)

    def __post_init__(self) -> None:
        _one_of("vae.kind", self.kind, VAE_KINDS)
        for name in ("patch_frames", "patch_mels", "token_dim", "width", "depth"):
            _at_least(f"vae.{name}", getattr(self, name), 1)
        if not 0 <= self.peak <= 1:
            raise ConfigError(f"vae.peak must be from 0 to 1, got {self.peak!r}")
        if not self.source:
            raise ConfigError("vae.source must be owner/name on the Hub or a folder, got ''")


@dataclass(frozen=True)
class VocoderConfig:
    """Log-mel to waveform."""

    kind: str = "griffin-lim"  # griffin-lim and mel-gain (no weights), istft (trained here), audioldm (from the Hub)
    iterations: int = 32  # of griffin-lim and mel-gain
    momentum: float = 0.99  # of griffin-lim and mel-gain, which diverges above 0.9
    width: int = 192  # channels of the ISTFT vocoder
    depth: int = 6  # ConvNeXt blocks of the ISTFT vocoder
    source: str = AUDIOLDM  # where audioldm comes from: owner/name on the Hub, or a folder that holds vocoder/

    def __post_init__(self) -> None:
        _one_of("vocoder.kind", self.kind, VOCODER_KINDS)
        for name in ("iterations", "width", "depth"):
            _at_least(f"vocoder.{name}", getattr(self, name), 1)
        if not 0 <= self.momentum < 1:
            raise ConfigError(f"vocoder.momentum must be in [0, 1), got {self.momentum!r}")
        if not self.source:
            raise ConfigError("vocoder.source must be owner/name on the Hub or a folder, got ''")


@dataclass(frozen=True)
class ConditioningConfig:
    """Which frozen encoders turn a prompt into the conditioning sequence."""

    kind: str = "minilm"  # minilm (token states + pooled vector), paper (Flan-T5-large + CLAP)
    dim: int = 384  # E, values per conditioning token
    max_tokens: int = 64  # T at most; longer prompts keep their first word pieces and their pooled vector
    # Of the paper alone:
    text_embeddings: str = "clap+t5"  # what a caption becomes (Table 6): clap+t5, t5 or clap
    t5: str = "google/flan-t5-large"  # a folder, or owner/name on the Hub
    # LAION's checkpoint: a path, or owner/name/file.pt on the Hub; or a ClapModel: a folder, or owner/name
    clap: str = "lukewys/laion_clap/630k-audioset-fusion-best.pt"
    clap_backend: str = "transformers"  # transformers, or laion_clap: LAION's own code, for its checkpoints alone

    def __post_init__(self) -> None:
        _one_of("conditioning.kind", self.kind, CONDITIONING_KINDS)
        _one_of("conditioning.text_embeddings", self.text_embeddings, TEXT_EMBEDDINGS)
        _one_of("conditioning.clap_backend", self.clap_backend, CLAP_BACKENDS)
        if self.clap_backend == "laion_clap" and not self.clap.endswith(".pt"):
            raise ConfigError(f"conditioning.clap must be a .pt file for clap_backend 'laion_clap', got {self.clap!r}")
        _at_least("conditioning.dim", self.dim, 1)
        _at_least("conditioning.max_tokens", self.max_tokens, 2)


@dataclass(frozen=True)
class BackboneConfig:
    """The masked transformer over L audio tokens behind a conditioning prefix."""

    width: int = 192  # C, hidden width
    depth: int = 6  # blocks
    heads: int = 6  # attention heads
    mlp_ratio: float = 4.0  # hidden width of a block's MLP over C
    masked_attention: str = "visible"  # full: all attend to all; visible: to conditioning, known tokens, self
    # rotary: angles among audio tokens; learned: a vector for each of them, as in MAR; both: these, and angles among a
    # prompt's words too, from which the order of two sounds is understood.
    positions: str = "rotary"
    conv_width: int = 5  # taps of the depthwise convolution in each block; 0: none

    def __post_init__(self) -> None:
        for name in ("width", "depth", "heads"):
            _at_least(f"backbone.{name}", getattr(self, name), 1)
        _at_least("backbone.mlp_ratio", self.mlp_ratio, 0.1)
        _one_of("backbone.masked_attention", self.masked_attention, ("full", "visible"))
        _one_of("backbone.positions", self.positions, ("rotary", "learned", "both"))
        if self.width % self.heads:
            raise ConfigError(f"backbone.heads must divide width {self.width}, got {self.heads!r}")
        if self.positions != "learned" and (self.width // self.heads) % 2:
            raise ConfigError(
                f"backbone.width / heads must be even for rotary positions, got {self.width}/{self.heads}"
            )
        if self.conv_width and (self.conv_width < 0 or self.conv_width % 2 == 0):
            raise ConfigError(f"backbone.conv_width must be 0 or odd, got {self.conv_width!r}")


@dataclass(frozen=True)
class HeadConfig:
    """The continuous sampler over one token, conditioned on the backbone's context."""

    kind: str = "energy"  # a key of dear.heads.HEADS
    width: int = 192  # hidden width of the residual MLP
    depth: int = 3  # residual MLP blocks
    guidance_level: str = "default"  # what guidance mixes: prediction, representation, or what is the head's default
    noise_as: str = "input"  # energy: input (Appendix E, b), or condition (a): the context is the input
    samples: int = 2  # energy: m of equation (8)
    # energy: sizes of consecutive groups of a token's channels, together D, each of which is scored on its own beside
    # the whole token; (): the whole alone, as in the paper
    groups: tuple[int, ...] = ()
    levels: int = 4  # all but energy: noise levels drawn per token and training step (MAR's diffusion_batch_mul)
    timesteps: int = 1000  # diffusion: length of the training schedule
    eta: float = 1.0  # diffusion: share of fresh noise per sampling step; 1: ancestral, 0: DDIM
    # diffusion: what the network predicts: noise, as in MAR, or velocity (Salimans and Ho 2022), which has something to
    # teach at every noise level; guidance mixes either alike
    prediction: str = "noise"
    times: str = "logit-normal"  # flow, meanflow: where training looks between data and noise; or uniform
    flow_share: float = 0.75  # meanflow, shortcut: share of training rows on plain flow matching (their papers' value)
    adaptive_power: float = 1.0  # meanflow: p of the adaptive loss weight; 0: none
    max_steps: int = 128  # shortcut: the most sampling steps, a power of two; the sizes in between are trained

    def __post_init__(self) -> None:
        for name in ("width", "depth", "levels", "timesteps"):
            _at_least(f"head.{name}", getattr(self, name), 1)
        _at_least("head.samples", self.samples, 2)
        for size in self.groups:
            _at_least("head.groups", size, 1)
        if not 0 <= self.eta <= 1:
            raise ConfigError(f"head.eta must be from 0 to 1, got {self.eta!r}")
        _one_of("head.guidance_level", self.guidance_level, ("default", "prediction", "representation"))
        _one_of("head.noise_as", self.noise_as, ("input", "condition"))
        _one_of("head.prediction", self.prediction, ("noise", "velocity"))
        _one_of("head.times", self.times, ("logit-normal", "uniform"))
        if not 0 <= self.flow_share <= 1:
            raise ConfigError(f"head.flow_share must be from 0 to 1, got {self.flow_share!r}")
        _at_least("head.adaptive_power", self.adaptive_power, 0)
        if self.max_steps < 2 or self.max_steps & (self.max_steps - 1):
            raise ConfigError(f"head.max_steps must be a power of two from 2 on, got {self.max_steps!r}")


@dataclass(frozen=True)
class Savings:
    """What a generation may save at some cost to the sound. The defaults give up nothing; each option says what."""

    # The states of known tokens are recomputed in every n-th iteration only; in the others, what they give to attention
    # and local mixing lags behind what has become known since.
    refresh_every: int = 1
    # Guidance only until this share of the tokens to draw is drawn; the later ones follow the prompt less closely.
    guided_share: float = 1.0
    # The null branch runs in every n-th iteration only, for the next n at once: what the condition changes about their
    # tokens is judged without what they draw.
    null_every: int = 1
    # random, or spread: tokens of one iteration lie far apart in time, where they matter less to each other; but orders
    # are then few of those that models are trained on.
    order: str = "random"
    # cosine (the paper's), linear or cubic: how many tokens each iteration draws. Cubic gives more of the iterations to
    # the first tokens, which decide the most, and so draws more of the last ones at once; linear is the reverse.
    schedule: str = "cosine"

    def __post_init__(self) -> None:
        for name in ("refresh_every", "null_every"):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= 1024:
                raise ConfigError(f"savings.{name} must be a whole number from 1 to 1024, got {value!r}")
        share = self.guided_share
        if type(share) not in (int, float) or not 0 <= share <= 1:
            raise ConfigError(f"savings.guided_share must be a number from 0 to 1, got {share!r}")
        _one_of("savings.order", self.order, ("random", "spread"))
        _one_of("savings.schedule", self.schedule, ("cosine", "linear", "cubic"))

    @classmethod
    def parse(cls, text: str) -> Savings:
        """From "fast", or options such as "refresh_every=4,order=spread". Raises ConfigError naming what is wrong."""
        if text == "fast":
            return FAST
        kinds: dict[str, Callable[[str], Any]] = {each.name: type(each.default) for each in dataclasses.fields(cls)}
        chosen: dict[str, Any] = {}
        for part in text.split(","):
            name, _, value = (piece.strip() for piece in part.partition("="))
            if name not in kinds or name in chosen:
                raise ConfigError(f"savings must be fast, or once each of {'=, '.join(kinds)}=, got {text!r}")
            try:
                chosen[name] = kinds[name](value)
            except ValueError:
                raise ConfigError(f"savings.{name} must be a number, got {value!r}") from None
        return cls(**chosen)


FAST = Savings(refresh_every=8)  # what is recommended where speed counts


@dataclass(frozen=True)
class SamplingConfig:
    """What a generation uses where the caller names nothing."""

    cfg_scale: float = 4.0  # guidance scale s of equation (9); 1: none
    iterations: int = 64  # decoding iterations, each one pass of the backbone
    temperature: float = 1.0  # factor on the head's noise
    steps: int = 1  # sampling steps of the head per decoding iteration
    guidance: str = "constant"  # constant, or linear: from 1 up to cfg_scale as tokens become known (MAR)
    savings: Savings = field(default_factory=Savings)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.cfg_scale) and 0 <= self.cfg_scale <= 20):
            raise ConfigError(f"sampling.cfg_scale must be a number from 0 to 20, got {self.cfg_scale!r}")
        if not (math.isfinite(self.temperature) and 0 <= self.temperature <= 2):
            raise ConfigError(f"sampling.temperature must be a number from 0 to 2, got {self.temperature!r}")
        _at_least("sampling.iterations", self.iterations, 1)
        _at_least("sampling.steps", self.steps, 1)
        _one_of("sampling.guidance", self.guidance, ("constant", "linear"))


@dataclass(frozen=True)
class VariantConfig:
    """One set of weights of a checkpoint: its head, and how it is sampled by default."""

    head: HeadConfig = field(default_factory=HeadConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)


@dataclass(frozen=True)
class Config:
    """A whole checkpoint. ``variants`` maps a variant's name ("student", "teacher") to what is its own."""

    name: str = "mini"  # shown to people and written into files
    mel: MelConfig = field(default_factory=MelConfig)
    vae: VAEConfig = field(default_factory=VAEConfig)
    vocoder: VocoderConfig = field(default_factory=VocoderConfig)
    conditioning: ConditioningConfig = field(default_factory=ConditioningConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    variants: Mapping[str, VariantConfig] = field(default_factory=lambda: {"student": VariantConfig()})

    def __post_init__(self) -> None:
        if not self.variants:
            raise ConfigError("variants must name at least one variant, got none")
        if self.mel.frames % self.vae.patch_frames or self.mel.n_mels % self.vae.patch_mels:
            raise ConfigError(
                f"vae.patch_frames and vae.patch_mels must divide {self.mel.frames} x {self.mel.n_mels}, "
                f"got {self.vae.patch_frames} x {self.vae.patch_mels}"
            )
        for name, variant in self.variants.items():
            if variant.sampling.iterations > self.length:
                raise ConfigError(
                    f"variants.{name}.sampling.iterations must be at most {self.length} tokens, "
                    f"got {variant.sampling.iterations}"
                )
            self.check_savings(variant.sampling.savings)

    def check_savings(self, savings: Savings) -> None:
        """Raises :class:`ConfigError` for an option that this backbone cannot honour."""
        if savings.refresh_every > 1 and self.backbone.masked_attention == "full":
            raise ConfigError(
                'savings.refresh_every must be 1 for masked_attention "full", where hidden tokens are seen, too, '
                f"got {savings.refresh_every!r}"
            )

    @property
    def grid(self) -> tuple[int, int]:
        """Tokens along time and along frequency; token i lies at (i // grid[1], i % grid[1])."""
        return self.mel.frames // self.vae.patch_frames, self.mel.n_mels // self.vae.patch_mels

    @property
    def length(self) -> int:
        """L, audio tokens of one clip."""
        return self.grid[0] * self.grid[1]

    @property
    def default_variant(self) -> str:
        return "student" if "student" in self.variants else next(iter(self.variants))

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2) + "\n"

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Config:
        """Build from plain data. Raises :class:`ConfigError` naming any unknown or ill-typed field."""
        return from_dict(cls, data)

    @classmethod
    def from_json(cls, text: str) -> Config:
        """Parse ``config.json``. Raises :class:`ConfigError` where it is not JSON or not a configuration."""
        try:
            data = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ConfigError(f"the configuration is not valid JSON: {error}") from None
        return cls.from_dict(data)


def from_dict(cls: type[T], data: Any, path: str = "") -> T:
    """Build dataclass ``cls`` from nested plain data; fields that are absent keep their defaults.

    Raises :class:`ConfigError` that names the dotted path of an unknown field or a value of the wrong type.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f"{path or cls.__name__} must be an object with fields, got {data!r}")
    hints = typing.get_type_hints(cls)
    known = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]  # T is a dataclass
    prefix = f"{path}." if path else ""
    for key in data:
        if key not in known:
            raise ConfigError(f"unknown field {prefix}{key}; allowed are {', '.join(known)}")
    return cls(**{key: _convert(hints[key], value, prefix + key) for key, value in data.items()})


def _convert(hint: Any, value: Any, path: str) -> Any:
    origin = typing.get_origin(hint)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return from_dict(hint, value, path)
    if origin is types.UnionType:  # X | None
        return None if value is None else _convert(typing.get_args(hint)[0], value, path)
    if origin is Mapping:
        if not isinstance(value, typing.Mapping):
            raise ConfigError(f"{path} must be an object with fields, got {value!r}")
        inner = typing.get_args(hint)[1]
        return {str(key): _convert(inner, item, f"{path}.{key}") for key, item in value.items()}
    if origin is tuple:
        inner = typing.get_args(hint)
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{path} must be a list, got {value!r}")
        inner = (inner[0],) * len(value) if len(inner) == 2 and inner[1] is Ellipsis else inner
        if len(value) != len(inner):
            raise ConfigError(f"{path} must hold {len(inner)} values, got {value!r}")
        return tuple(_convert(kind, item, path) for kind, item in zip(inner, value, strict=True))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(f"{path} must be of type {hint.__name__}, got {value!r}")
    if hint is float and not math.isfinite(value):
        raise ConfigError(f"{path} must be a finite number, got {value!r}")
    return value


def _base(variant: str, head: HeadConfig, sampling: SamplingConfig) -> Config:
    return Config(
        name="base" if variant == "student" else f"base-{variant}",
        vae=VAEConfig(kind="audioldm", patch_frames=16, patch_mels=16, token_dim=128, peak=0.5),
        vocoder=VocoderConfig(kind="audioldm"),
        conditioning=ConditioningConfig(kind="paper", dim=1024, max_tokens=78),
        backbone=BackboneConfig(
            width=768, depth=24, heads=12, masked_attention="full", positions="learned", conv_width=0
        ),
        variants={variant: VariantConfig(head=head, sampling=sampling)},
    )


def preset(name: str) -> Config:
    """The named configuration: ``mini`` (bundled), ``base`` or ``base-teacher`` (the paper's sizes)."""
    if name == "mini":
        return Config(
            vae=VAEConfig(width=256),
            backbone=BackboneConfig(positions="both"),
            variants={
                "student": VariantConfig(
                    head=HeadConfig(kind="energy", width=320, samples=4, groups=(4, 12, 48, 64)),
                    sampling=SamplingConfig(cfg_scale=2.0, iterations=32, temperature=0.9),
                ),
                "teacher": VariantConfig(
                    head=HeadConfig(kind="diffusion", prediction="velocity"),
                    sampling=SamplingConfig(cfg_scale=3.0, iterations=32, steps=100),
                ),
            },
        )
    if name == "base":
        return _base("student", HeadConfig(kind="energy", width=1024), SamplingConfig(cfg_scale=4.0))
    if name == "base-teacher":
        return _base("teacher", HeadConfig(kind="diffusion", width=1024), SamplingConfig(cfg_scale=5.0, steps=100))
    raise ConfigError(f"preset must be one of {', '.join(PRESETS)}, got {name!r}")


PRESETS = ("mini", "base", "base-teacher")
