"""The contract of an embedder: one waveform in, rows of features and, where it classifies, logits out.

A :class:`~dear.judge.base.Judge` names sounds of one length. An embedder serves distances between sets of
sounds of any length, and may give several rows for one sound, or name nothing at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from dear.evaluation.judge.features import fit
from dear.evaluation.judge.reading import PLAIN, Reading
from dear.judge.base import Judge


class Embedded(NamedTuple):
    """The output of an embedder for one sound."""

    features: Tensor  # [E, K] float32, E rows
    logits: Tensor | None  # [N] float32; None where nothing is classified


class Embedder(Protocol):
    """A frozen network. Each figure that is computed with it states ``name`` and ``digest``."""

    @property
    def name(self) -> str:
        """The common name of the network."""

    @property
    def digest(self) -> str:
        """First 12 hexadecimal digits of the sha256 of its weights."""

    @property
    def sample_rate(self) -> int:
        """Hz of the waveforms that it takes."""

    @property
    def reading(self) -> Reading:
        """The reading of files in published results of this network."""

    def embed(self, waveform: Tensor) -> Embedded:
        """waveform [S] float32 in [-1, 1], any S that holds a row. Raises SoundsError for a shorter one."""


@runtime_checkable
class TextEmbedder(Embedder, Protocol):
    """An embedder that also places texts among the features of sounds."""

    def embed_text(self, prompts: Sequence[str]) -> Tensor:
        """B prompts -> [B, K] float32 of unit norm."""


class JudgeEmbedder:
    """A judge as an embedder: sounds are looped or cropped to the length that the judge takes."""

    reading = PLAIN

    def __init__(self, judge: Judge):
        self.judge = judge
        self.name, self.digest, self.sample_rate = judge.name, judge.digest, judge.sample_rate

    def embed(self, waveform: Tensor) -> Embedded:
        """waveform [S] -> features [1, K]; logits [N], from the probabilities, each at least 1e-7 from 0 and 1."""
        features, probabilities = self.judge.hear(fit(waveform, self.judge.samples)[None])
        p = probabilities[0].double()
        logits = p.clamp_min(1e-7).log() if self.judge.exclusive else torch.logit(p, eps=1e-7)
        return Embedded(features, logits.float())
