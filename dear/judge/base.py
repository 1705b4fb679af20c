"""The contract of a judge: waveforms in, features and class probabilities out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from torch import Tensor


class JudgeError(ValueError):
    """A judge that cannot be loaded, or a name that it does not know."""


class Heard(NamedTuple):
    """A judge's output for B waveforms."""

    features: Tensor  # [B, K] float32, for Fréchet distances
    probabilities: Tensor  # [B, N] float32, in the order of the judge's names


class Judge(Protocol):
    """A frozen network that names sounds. Each figure that is computed with it states ``name`` and ``digest``."""

    @property
    def name(self) -> str:
        """The name of the network in reports."""

    @property
    def hears(self) -> str:
        """ "waveforms" or "mels": a judge of mels is deaf to phase."""

    @property
    def digest(self) -> str:
        """First 12 hexadecimal digits of the sha256 of its weights."""

    @property
    def names(self) -> tuple[str, ...]:
        """The N classes, in the order of the probabilities."""

    @property
    def measured(self) -> Mapping[str, float]:
        """Accuracy on sounds that its training never saw, where it is known."""

    @property
    def exclusive(self) -> bool:
        """Whether the probabilities of one waveform sum to 1. Otherwise any number of classes may be present."""

    @property
    def sample_rate(self) -> int:
        """Hz of the waveforms that it takes."""

    @property
    def samples(self) -> int:
        """S to which waveforms are looped or cropped, so that clips of different lengths are comparable."""

    def hear(self, waveform: Tensor) -> Heard:
        """waveform [B, S] float32 in [-1, 1] -> :class:`Heard`. An item does not depend on its batch."""


def describe(judge: Judge) -> dict[str, Any]:
    """The description of the judge in reports, as plain data."""
    return {
        "name": judge.name,
        "digest": judge.digest,
        "names": len(judge.names),
        "hears": judge.hears,
        "measured": dict(judge.measured),
    }
