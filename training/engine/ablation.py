"""The paper's tables as data: runs to train, rows to measure, and budgets (``training/configs/tables.yaml``)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from dear.config import ConfigError, HeadConfig
from training.cache.embeddings import EMBEDDINGS
from training.engine.recipe import DistillConfig, MaskingConfig
from training.engine.schedule import TrainConfig

TEACHER = "teacher"  # the run that students start from
PAPER = ("FD", "FAD", "KL", "IS", "CLAP")  # figures of a row, as the paper prints them
LEVELS = ("default", "prediction", "representation")


@dataclass(frozen=True)
class Budget:
    """The amount of training and the number of sounds that are judged."""

    scenes: int  # of the cache
    clips: int  # of each label and row
    teacher: TrainConfig  # of runs from new weights
    student: TrainConfig  # of runs from the teacher's weights

    def __post_init__(self) -> None:
        for name in ("scenes", "clips"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)!r}")


@dataclass(frozen=True)
class Run:
    """A model that rows share."""

    head: HeadConfig
    student: DistillConfig | None = None  # how it is trained under the teacher; None: from new weights, without one
    # Of the conditioning: all of it, words, or the pooled vector; the teacher's contexts are those of the same part.
    embeddings: str = "all"

    def __post_init__(self) -> None:
        if self.embeddings not in EMBEDDINGS:
            raise ConfigError(f"embeddings must be one of {', '.join(EMBEDDINGS)}, got {self.embeddings!r}")


@dataclass(frozen=True)
class Row:
    """A run, and how sounds are drawn from it."""

    run: str
    paper: tuple[float, ...] = ()  # PAPER's figures; (): the paper has no such row
    cfg_scale: float | None = None  # None: the recipe's, here and below
    temperature: float | None = None
    steps: int = 1
    guidance_level: Literal["default", "prediction", "representation"] = "default"

    def __post_init__(self) -> None:
        if len(self.paper) not in (0, len(PAPER)) or not all(map(math.isfinite, self.paper)):
            raise ConfigError(f"paper must hold {len(PAPER)} figures or none, got {self.paper!r}")
        if self.guidance_level not in LEVELS:
            raise ConfigError(f"guidance_level must be one of {', '.join(LEVELS)}, got {self.guidance_level!r}")


@dataclass(frozen=True)
class Table:
    """A table of the paper."""

    title: str
    column: str  # heading of the names of rows
    claim: str  # what the paper finds
    rows: Mapping[str, Row]


@dataclass(frozen=True)
class AblationRecipe:
    """All tables."""

    budgets: Mapping[str, Budget]
    runs: Mapping[str, Run]
    tables: Mapping[str, Table]
    masking: MaskingConfig = field(default_factory=MaskingConfig)

    def __post_init__(self) -> None:
        if TEACHER not in self.runs or self.runs[TEACHER].student is not None:
            raise ConfigError(f"runs must name {TEACHER!r}, which has no teacher of its own")
        for number, table in self.tables.items():
            for name, row in table.rows.items():
                if row.run not in self.runs:
                    allowed = ", ".join(self.runs)
                    raise ConfigError(f"tables.{number}.rows.{name}.run must be one of {allowed}, got {row.run!r}")

    def needed(self, number: str) -> list[str]:
        """The runs of a table in the order of training."""
        used = dict.fromkeys(row.run for row in self.tables[number].rows.values())
        taught = any(self.runs[name].student is not None for name in used)
        return list(dict.fromkeys(([TEACHER] if taught else []) + list(used)))
