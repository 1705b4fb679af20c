"""Recipes: the settings of a run in one YAML file of ``training/configs``.

:class:`Recipe` describes a whole reproduction, :class:`ModelRecipe` the training of one model, and
:class:`FurtherRecipe` more training of a checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from dear.codec.conv import ConvConfig
from dear.codec.detail import DetailConfig
from dear.codec.istft import ISTFTConfig
from dear.conditioning import check_prompt
from dear.config import Config, ConfigError, from_dict
from dear.distillation import REDUCTIONS
from dear.kinds import KINDS
from dear.request import MAX_SAMPLES
from training.data.vocabulary import VocabularyError, select
from training.engine.schedule import TrainConfig

R = TypeVar("R")
RECIPES = Path(__file__).parents[1] / "configs"
SHARES = ("uniform", "cosine")
ORDERS = ("random", "nested")


@dataclass(frozen=True)
class ScenesConfig:
    """The training data of the generator: scenes composed from recordings."""

    count: int = 8000  # training scenes in the cache
    sounds: tuple[str, ...] = ()  # sounds or families of the vocabulary; empty: all that have clips, or are computed
    validation: int = 256  # scenes from the held-out folds, with held-back wordings
    kinds: tuple[float, float, float] = (0.7, 0.15, 0.15)  # shares of single, "A, then B", "A while B"
    often: Mapping[str, int] = field(
        default_factory=dict
    )  # {label: how often it comes in each turn of all labels}, if more than once
    in_time: bool = False  # the speed of clocks is set so that ticks are a whole number of tokens apart
    recaption: bool = False  # at each use, a scene has the caption of any scene of the same sounds
    wordings: int = 0  # with ``recaption``, further captions for all scenes of the same kind and sounds
    # {name of a folder of recordings: fold that no training stage uses}. Other folders are refused.
    held_out: Mapping[str, int] = field(default_factory=lambda: {"esc10": 4})
    fit: int = 512  # scenes that the linear codec is fitted to
    classifier: int = 1200  # scenes that the evaluation classifier is trained on, beside the recordings
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("count", "validation", "fit", "classifier"):
            if getattr(self, name) < 1:
                raise ConfigError(f"scenes.{name} must be at least 1, got {getattr(self, name)!r}")
        if self.wordings < 0 or (self.wordings and not self.recaption):
            raise ConfigError(f"scenes.wordings must be at least 0, and 0 without recaption, got {self.wordings!r}")
        try:
            select(self.sounds)
            select(tuple(self.often))
        except VocabularyError as error:
            raise ConfigError(f"scenes: {error}") from None
        if not (all(share >= 0 for share in self.kinds) and sum(self.kinds) > 0):
            raise ConfigError(f"scenes.kinds must be shares from 0 on, not all 0, got {self.kinds!r}")


@dataclass(frozen=True)
class MaskingConfig:
    """Masking of tokens and dropping of conditions in training."""

    ratio: tuple[float, float] = (0.7, 1.0)  # range of the share of hidden tokens (the paper's by default)
    shares: str = "uniform"  # distribution of the share: uniform (the paper's), or cosine, as in decoding
    empty: float = 0.0  # probability that the share is the largest of ``ratio`` instead
    # Which tokens are known: random ones, or the first ones of a nested order, as in decoding by
    # ``savings.order: nested``. With nested, ``targets`` are the next ones of that order.
    order: Literal["random", "nested"] = "random"
    # Hidden tokens that are scored in each item, chosen at random; the other hidden ones are left out of the pass, and
    # all items of a micro-batch share one share. Many items with few targets each teach what a prompt means sooner than
    # few items with many. 0: all are scored.
    targets: int = 0
    drop: float = 0.1  # probability that an item's condition is dropped, for guidance
    # Probability that an item's prompt is blurred: it loses some conditioning tokens, and noise is added to the others.
    # A blurred prompt hardly tells the order of two sounds, so some prompts should stay as they are.
    blurred: float = 0.0
    jitter: float = 0.0  # largest noise on a blurred item's tokens relative to their size; uniform from 0

    def __post_init__(self) -> None:
        low, high = self.ratio
        if not 0 <= low <= high <= 1:
            raise ConfigError(f"masking.ratio must satisfy 0 <= low <= high <= 1, got {self.ratio!r}")
        if self.shares not in SHARES:
            raise ConfigError(f"masking.shares must be one of {', '.join(SHARES)}, got {self.shares!r}")
        if not 0 <= self.empty <= 1:
            raise ConfigError(f"masking.empty must be in [0, 1], got {self.empty!r}")
        if self.order not in ORDERS:
            raise ConfigError(f"masking.order must be one of {', '.join(ORDERS)}, got {self.order!r}")
        if self.targets < 0:
            raise ConfigError(f"masking.targets must be at least 0, got {self.targets!r}")
        if not 0 <= self.drop < 1:
            raise ConfigError(f"masking.drop must be in [0, 1), got {self.drop!r}")
        if not 0 <= self.blurred <= 1:
            raise ConfigError(f"masking.blurred must be in [0, 1], got {self.blurred!r}")
        if not 0 <= self.jitter < math.inf:
            raise ConfigError(f"masking.jitter must be a number from 0 on, got {self.jitter!r}")
        if self.jitter and not self.blurred:
            raise ConfigError(f"masking.jitter must be 0 where masking.blurred is 0, got {self.jitter!r}")

    @property
    def mean_share(self) -> float:
        """The mean share of hidden tokens."""
        low, high = self.ratio
        mean = (low + high) / 2
        if self.shares == "cosine" and low < high:
            mean = (math.sqrt(1 - low**2) - math.sqrt(1 - high**2)) / (math.acos(low) - math.acos(high))
        return self.empty * high + (1 - self.empty) * mean


@dataclass(frozen=True)
class DistillConfig:
    """Equation (5) at this recipe's size."""

    weight: float = 1000.0  # lambda
    channels: str = "mean"  # or sum: how equation (4) reduces over channels
    freeze: bool = False  # train only the head, on the unchanged backbone of the teacher ("freeze" of Table 2)

    def __post_init__(self) -> None:
        if not self.weight >= 0:
            raise ConfigError(f"distill.weight must be at least 0, got {self.weight!r}")
        if self.channels not in REDUCTIONS:
            raise ConfigError(f"distill.channels must be one of {', '.join(REDUCTIONS)}, got {self.channels!r}")
        if self.freeze and self.weight:
            raise ConfigError(
                f"distill.weight must be 0 with freeze, since the backbone does not train, got {self.weight!r}"
            )


@dataclass(frozen=True)
class MeasureConfig:
    """Choice of sampling settings, and scoring of the result."""

    cfg_scales: tuple[float, ...] = (1.5, 2.0, 3.0)
    # {variant: temperatures}; every guidance scale is tried with every temperature.
    temperatures: Mapping[str, tuple[float, ...]] = field(
        default_factory=lambda: {"student": (0.7, 0.85, 1.0), "teacher": (1.0,)}
    )
    tuning_clips: int = 8  # per class and setting, on wordings used in training
    tuning_seed: int = 10_000  # of the first clip; different from the seeds of the scores
    scored_clips: int = 20  # per class and variant, on held-back wordings
    pairs: int = 90  # ordered pairs of sounds in "A, then B" prompts, at most
    plain: bool = True  # also train and measure a student without distillation

    def __post_init__(self) -> None:
        for name in ("tuning_clips", "scored_clips", "pairs"):
            if getattr(self, name) < 1:
                raise ConfigError(f"measure.{name} must be at least 1, got {getattr(self, name)!r}")
        if not self.cfg_scales:
            raise ConfigError("measure.cfg_scales must hold at least one scale, got none")


@dataclass(frozen=True)
class Recipe:
    """All stages of ``python -m training.reproduce``."""

    model: Config
    teacher: TrainConfig
    student: TrainConfig
    conv: TrainConfig | None = None  # refinement of the linear codec; None: there is none
    detail: TrainConfig | None = None  # decoder that draws the detail; None: there is none
    vocoder: TrainConfig | None = None  # the ISTFT vocoder; None: the model's own vocoder is taken, without comparison
    classifier: TrainConfig | None = None  # the evaluation classifier; None: the bundled one, for the sounds it knows
    finish: TrainConfig | None = None  # the student's second phase, from its averaged weights; None: one phase only
    scenes: ScenesConfig = field(default_factory=ScenesConfig)
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    finish_masking: MaskingConfig = field(default_factory=MaskingConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    finish_distill: DistillConfig | None = None  # of the second phase; None: as in the first
    measure: MeasureConfig = field(default_factory=MeasureConfig)

    def __post_init__(self) -> None:
        if self.conv is None and isinstance(self.model.vae, ConvConfig):
            raise ConfigError("conv must be there for a codec of kind conv, got none")
        if self.detail is None and isinstance(self.model.vae, DetailConfig):
            raise ConfigError("detail must be there for a codec of kind detail, got none")
        if self.vocoder is None and isinstance(self.model.vocoder, ISTFTConfig):
            raise ConfigError("vocoder must be there for a vocoder of kind istft, got none")
        if missing := [name for name in self.model.variants if not self.measure.temperatures.get(name)]:
            raise ConfigError(f"measure.temperatures must name some for every variant, got none for {missing[0]!r}")


@dataclass(frozen=True)
class FurtherRecipe:
    """More training of one variant of a checkpoint, by ``python -m training.further``.

    ``backbone``, ``head`` and ``sampling`` hold the settings that differ from the checkpoint's. The last two are those
    of the variant that is trained.
    """

    train: TrainConfig
    variant: str = "student"
    backbone: Mapping[str, Any] = field(default_factory=dict)
    head: Mapping[str, Any] = field(default_factory=dict)
    sampling: Mapping[str, Any] = field(default_factory=dict)
    scenes: ScenesConfig = field(default_factory=ScenesConfig)
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    # Share of the trained weights in those of the result; the rest are the checkpoint's. Below 1, a model keeps more of
    # what it knew before.
    blend: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.blend <= 1:
            raise ConfigError(f"blend must be above 0 and at most 1, got {self.blend!r}")

    def changed(self, start: Config) -> Config:
        """The configuration of a checkpoint with the settings of this recipe.

        Raises ConfigError for a variant or a setting that ``start`` does not have.
        """
        data = start.to_dict()
        if self.variant not in data["variants"]:
            raise ConfigError(f"variant must be one of {', '.join(data['variants'])}, got {self.variant!r}")
        variant = data["variants"][self.variant]
        variant |= {"head": variant["head"] | self.head, "sampling": variant["sampling"] | self.sampling}
        data["backbone"] |= self.backbone
        return Config.from_dict(data, KINDS)


@dataclass(frozen=True)
class SamplesConfig:
    """Sounds of the averaged weights, generated while a model trains."""

    prompts: tuple[str, ...] = ()
    every: int = 0  # steps between samples, which are also made after the last step; 0: never
    seed: int = 0  # of the first prompt, plus 1 for each later one

    def __post_init__(self) -> None:
        for name in ("every", "seed"):
            if getattr(self, name) < 0:
                raise ConfigError(f"samples.{name} must be at least 0, got {getattr(self, name)!r}")
        if self.every and not self.prompts:
            raise ConfigError("samples.prompts must name at least one prompt where samples.every is above 0, got none")
        if len(self.prompts) > MAX_SAMPLES:
            raise ConfigError(f"samples.prompts must be at most {MAX_SAMPLES}, got {len(self.prompts)}")
        for prompt in self.prompts:
            check_prompt(prompt)


@dataclass(frozen=True)
class HistoryConfig:
    """Checkpoints of the averaged weights to keep during a run, so that one can be chosen by its FD."""

    every: int = 0  # steps between them; 0: none
    keep: int = 0  # of the latest ones; 0: all

    def __post_init__(self) -> None:
        for name in ("every", "keep"):
            if getattr(self, name) < 0:
                raise ConfigError(f"history.{name} must be at least 0, got {getattr(self, name)!r}")


@dataclass(frozen=True)
class ModelRecipe:
    """One model, trained by masked modelling (``training.teacher``) or under a teacher (``training.distill``)."""

    model: Config  # its one variant is the one to train, with any head
    train: TrainConfig
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    samples: SamplesConfig = field(default_factory=SamplesConfig)
    history: HistoryConfig = field(default_factory=HistoryConfig)
    distill: DistillConfig | None = None  # None: no teacher

    def __post_init__(self) -> None:
        if len(self.model.variants) != 1:
            raise ConfigError(
                f"model.variants must name the one variant that is trained, got {', '.join(self.model.variants)}"
            )

    @property
    def variant(self) -> str:
        return self.model.default_variant


def load_recipe(path: str | Path, kind: type[R], section: str = "") -> R:
    """Read a recipe of ``kind``, or one section of any recipe as ``kind``.

    Raises ConfigError that names the file and the field at fault.
    """
    path = Path(path)
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the recipe {path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    if section and not (isinstance(data, Mapping) and section in data):
        raise ConfigError(f"{path} must have a section {section}")
    try:
        return from_dict(kind, data[section] if section else data, section, KINDS)
    except (ConfigError, TypeError) as error:
        raise ConfigError(f"{path}: {error}") from None
