"""Every hyper-parameter of AudioDEAR, as frozen dataclasses that travel as JSON.

A checkpoint's ``config.json`` is one :class:`Config`: what all its variants share (mel, codec, conditioning, backbone)
and, per variant, the head and its default sampling options. Head, codec, vocoder and text encoder come in kinds: the
base classes here hold what every kind has, and each kind adds its own settings in its own module. Numbers of the paper
are those of Section 4.2; where the paper is silent the comment names the source.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from dear.settings import ConfigError, Kinds, KindSettings, Range, Settings, as_kind, check_text, from_dict

__all__ = [
    "FAST",
    "BackboneConfig",
    "ConditioningConfig",
    "Config",
    "ConfigError",
    "HeadConfig",
    "MelConfig",
    "SamplingConfig",
    "Savings",
    "VAEConfig",
    "VariantConfig",
    "VocoderConfig",
    "as_kind",
    "from_dict",
]

MAX_TOKENS = 4096  # L
MAX_FRAMES = 2**23  # samples under the windows of a clip, frames * n_fft: eight times those of a clip of ten seconds
MAX_VARIANTS = 16
MAX_STEPS = 1000  # sampling steps of a head
MAX_PATCH = 16_384  # mel values under one token


@dataclass(frozen=True)
class MelConfig(Settings):
    """Waveform to natural-log mel, AudioLDM's protocol."""

    section: ClassVar[str] = "mel"

    sample_rate: Annotated[int, Range(1000, 384_000)] = 16000  # Hz, mono
    n_fft: Annotated[int, Range(16, 16_384)] = 1024  # samples per analysis window
    hop_length: Annotated[int, Range(1, 16_384)] = 160  # samples between frames: 10 ms
    n_mels: Annotated[int, Range(1, 512)] = 64  # M, Slaney mel bands
    f_min: Annotated[float, Range(0, 192_000)] = 0.0  # Hz
    f_max: Annotated[float, Range(0, 192_000)] = 8000.0  # Hz
    frames: Annotated[int, Range(1, 65_536)] = 1024  # F, frames of one clip: 10.24 s
    samples: Annotated[int, Range(1, 10_000_000)] = 160_000  # S, what a generated waveform is cropped to: 10 s
    floor: Annotated[float, Range(1e-12, 1)] = 1e-5  # magnitudes are clamped here before the logarithm

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.f_min < self.f_max <= self.sample_rate / 2:
            raise ConfigError(
                f"mel.f_min and mel.f_max must satisfy 0 <= f_min < f_max <= {self.sample_rate / 2}, "
                f"got {self.f_min!r} and {self.f_max!r}"
            )
        if self.hop_length > self.n_fft:
            raise ConfigError(f"mel.hop_length must be at most n_fft {self.n_fft}, got {self.hop_length!r}")
        if self.frames * self.n_fft > MAX_FRAMES:
            raise ConfigError(f"mel.frames * n_fft must be at most {MAX_FRAMES}, got {self.frames * self.n_fft}")
        if self.samples > self.frames * self.hop_length:
            raise ConfigError(f"mel.samples must be at most frames * hop_length, got {self.samples!r}")


@dataclass(frozen=True)
class VAEConfig(KindSettings):
    """Log-mel to tokens and back: what every codec of ``dear.codec.CODECS`` has.

    The scale and shift of the tokens live in the codec's weights.
    """

    section: ClassVar[str] = "vae"
    shared_fields: ClassVar[frozenset[str]] = frozenset({"patch_frames", "patch_mels", "token_dim", "width", "depth"})

    patch_frames: Annotated[int, Range(1, 256)] = 8  # mel frames under one token
    patch_mels: Annotated[int, Range(1, 512)] = 64  # mel bins under one token
    token_dim: Annotated[int, Range(1, 2048)] = 128  # D, values per token
    # Peak that recordings are scaled to, without their mean, before they are encoded for training; 0: left as they are.
    peak: Annotated[float, Range(0, 1)] = 0.0  # AudioLDM's is 0.5 (`normalize_wav` in its data code)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.patch_frames * self.patch_mels > MAX_PATCH:
            raise ConfigError(
                f"vae.patch_frames * patch_mels must be at most {MAX_PATCH}, got {self.patch_frames * self.patch_mels}"
            )


@dataclass(frozen=True)
class VocoderConfig(KindSettings):
    """Log-mel to waveform, by a vocoder of ``dear.codec.VOCODERS``."""

    section: ClassVar[str] = "vocoder"
    shared_fields: ClassVar[frozenset[str]] = frozenset({"iterations", "momentum", "width", "depth"})


@dataclass(frozen=True)
class ConditioningConfig(KindSettings):
    """Prompts to the conditioning sequence: what every encoder of ``dear.conditioning.ENCODERS`` has."""

    section: ClassVar[str] = "conditioning"
    shared_fields: ClassVar[frozenset[str]] = frozenset({"dim", "max_tokens", "text_embeddings", "t5", "clap"})

    dim: Annotated[int, Range(1, 8192)] = 384  # E, values per conditioning token
    max_tokens: Annotated[int, Range(2, 1024)] = 64  # T at most; longer prompts keep their first word pieces


@dataclass(frozen=True)
class BackboneConfig(Settings):
    """The masked transformer over L audio tokens behind a conditioning prefix."""

    section: ClassVar[str] = "backbone"

    width: Annotated[int, Range(1, 4096)] = 192  # C, hidden width
    depth: Annotated[int, Range(1, 128)] = 6  # blocks
    heads: Annotated[int, Range(1, 128)] = 6  # attention heads
    mlp_ratio: Annotated[float, Range(0.1, 16)] = 4.0  # hidden width of a block's MLP over C
    # prefix: conditioning attends only to itself, so it is computed once per generation. joint: MAR's layout, in which
    # half of the blocks encode known tokens and the others decode, and conditioning and audio attend to each other.
    attention: Literal["prefix", "joint"] = "prefix"
    # full: all attend to all; visible: to conditioning, known tokens, self
    masked_attention: Literal["full", "visible"] = "visible"
    # rotary: angles among audio tokens; learned: a vector for each of them, as in MAR; both: these, and angles among a
    # prompt's words too, which tell the order of two sounds.
    positions: Literal["rotary", "learned", "both"] = "rotary"
    conv_width: Annotated[int, Range(0, 63)] = 5  # taps of the depthwise convolution in each block; 0: none
    # Tokens on each side of a drawn one whose values the head receives beside its context, zeros where hidden.
    neighbours: Annotated[int, Range(0, 16)] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % self.heads:
            raise ConfigError(f"backbone.heads must divide width {self.width}, got {self.heads!r}")
        if self.positions != "learned" and (self.width // self.heads) % 2:
            raise ConfigError(
                f"backbone.width / heads must be even for rotary positions, got {self.width}/{self.heads}"
            )
        if self.attention == "joint":
            for name, wanted in (("masked_attention", "full"), ("positions", "learned"), ("conv_width", 0)):
                if getattr(self, name) != wanted:
                    got = getattr(self, name)
                    raise ConfigError(f'backbone.{name} must be {wanted!r} for attention "joint", got {got!r}')
            if self.depth % 2:
                raise ConfigError(f'backbone.depth must be even for attention "joint", got {self.depth!r}')
        if self.conv_width and self.conv_width % 2 == 0:
            raise ConfigError(f"backbone.conv_width must be 0 or odd, got {self.conv_width!r}")


@dataclass(frozen=True)
class HeadConfig(KindSettings):
    """The continuous sampler over one token: what every head of ``dear.heads.HEADS`` has."""

    section: ClassVar[str] = "head"
    shared_fields: ClassVar[frozenset[str]] = frozenset({"width", "depth", "samples", "levels", "timesteps", "eta"})

    width: Annotated[int, Range(1, 8192)] = 192  # hidden width of the residual MLP
    depth: Annotated[int, Range(1, 64)] = 3  # residual MLP blocks
    # What guidance mixes: predictions, representations, or the head's default.
    guidance_level: Literal["default", "prediction", "representation"] = "default"


@dataclass(frozen=True)
class Savings(Settings):
    """Ways to generate faster at some cost to the sound. The defaults are exact; each option states its cost."""

    section: ClassVar[str] = "savings"

    # The states of known tokens are recomputed in every n-th iteration only. In the others, their keys, values and
    # inputs of local mixing do not reflect the tokens drawn since.
    refresh_every: Annotated[int, Range(1, 1024)] = 1
    # Guidance ends once this share of the tokens is drawn; later tokens follow the prompt less closely.
    guided_share: Annotated[float, Range(0, 1)] = 1.0
    # The null branch runs in every n-th iteration only, for the tokens of the next n iterations at once. Its difference
    # from the conditional contexts then ignores the tokens that those iterations draw.
    null_every: Annotated[int, Range(1, 1024)] = 1
    # random; spread: tokens of one iteration lie far apart in time, where they depend less on each other, but orders
    # are less diverse than in training; nested: every 8th moment first, then those half way between, and so on, for
    # models that are trained with ``masking.order: nested``.
    order: Literal["random", "spread", "nested"] = "random"
    # How many tokens each iteration draws: cosine (the paper's), linear or cubic. Cubic spends more iterations on the
    # first tokens, which decide the most, and draws more of the last ones at once; linear is the reverse.
    schedule: Literal["cosine", "linear", "cubic"] = "cosine"

    @classmethod
    def parse(cls, text: str) -> Savings:
        """Parse "fast", or options such as "refresh_every=4,order=spread". Raises ConfigError naming the fault."""
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


FAST = Savings(refresh_every=8)  # recommended where speed counts


@dataclass(frozen=True)
class SamplingConfig(Settings):
    """The options of a generation. A checkpoint's own are used where the caller names none."""

    section: ClassVar[str] = "sampling"

    cfg_scale: Annotated[float, Range(0, 20)] = 4.0  # guidance scale s of equation (9); 1: none
    iterations: Annotated[int, Range(1, MAX_TOKENS)] = 64  # decoding iterations, each one pass of the backbone
    temperature: Annotated[float, Range(0, 2)] = 1.0  # factor on the head's noise
    steps: Annotated[int, Range(1, MAX_STEPS)] = 1  # sampling steps of the head per decoding iteration
    # constant, or linear: from 1 up to cfg_scale as tokens become known (MAR)
    guidance: Literal["constant", "linear"] = "constant"
    savings: Savings = field(default_factory=Savings)


@dataclass(frozen=True)
class VariantConfig:
    """One set of weights of a checkpoint: its head, and how it is sampled by default."""

    head: HeadConfig
    sampling: SamplingConfig = field(default_factory=SamplingConfig)


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole checkpoint. ``variants`` maps a variant's name ("student", "teacher") to its head and options."""

    name: str = "mini"  # shown to people and written into files
    mel: MelConfig = field(default_factory=MelConfig)
    vae: VAEConfig
    vocoder: VocoderConfig
    conditioning: ConditioningConfig
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    variants: Mapping[str, VariantConfig]

    def __post_init__(self) -> None:
        check_text("name", self.name)
        if not self.variants:
            raise ConfigError("variants must name at least one variant, got none")
        if len(self.variants) > MAX_VARIANTS:
            raise ConfigError(f"variants must name at most {MAX_VARIANTS} variants, got {len(self.variants)}")
        for name in self.variants:
            check_text("variants", name)
        if self.mel.frames % self.vae.patch_frames or self.mel.n_mels % self.vae.patch_mels:
            raise ConfigError(
                f"vae.patch_frames and vae.patch_mels must divide {self.mel.frames} x {self.mel.n_mels}, "
                f"got {self.vae.patch_frames} x {self.vae.patch_mels}"
            )
        if self.length > MAX_TOKENS:
            raise ConfigError(f"a clip must have at most {MAX_TOKENS} tokens, got {self.length}")
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
                'savings.refresh_every must be 1 for masked_attention "full", which shows hidden tokens, as in '
                f'the presets base and base-teacher ("visible" is that of base-visible), got {savings.refresh_every!r}'
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
    def context_dim(self) -> int:
        """C', the width of the head's input: the context, and with ``backbone.neighbours`` what lies beside a token."""
        return self.backbone.width + 2 * self.backbone.neighbours * (self.vae.token_dim + 1)

    @property
    def default_variant(self) -> str:
        return "student" if "student" in self.variants else next(iter(self.variants))

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2) + "\n"

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], kinds: Kinds) -> Config:
        """Build from plain data. kinds: those that it may name, usually ``dear.kinds.KINDS``.

        Raises :class:`ConfigError` naming any unknown kind, or any unknown, missing or ill-typed field.
        """
        return from_dict(cls, data, kinds=kinds)

    @classmethod
    def from_json(cls, text: str, kinds: Kinds) -> Config:
        """Parse ``config.json``. Raises :class:`ConfigError` where it is not JSON or not a configuration."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"the configuration is not valid JSON: {error}") from None
        return cls.from_dict(data, kinds)
