"""The options of a generation: one place for their names, ranges and help, read by Python, command line and page.

Their defaults are those of a checkpoint, a :class:`dear.config.SamplingConfig`.
"""

from __future__ import annotations

import typing
from dataclasses import dataclass
from typing import Any, TypedDict

from dear.config import SamplingConfig, Savings
from dear.settings import Range, field_annotations


class SamplingOptions(TypedDict, total=False):
    """The options of a caller. An option that is absent or None takes the checkpoint's default.

    cfg_scale: guidance scale, 0 to 20. 1 turns guidance off.
    iterations: 1 to L, the number of tokens to draw.
    temperature: factor on the head's noise, 0 to 2.
    steps: sampling steps of the head, 1 to 1000, or the most that the head takes.
    savings: approximations that save time, such as ``dear.Savings(refresh_every=4)``.
    """

    cfg_scale: float | None
    iterations: int | None
    temperature: float | None
    steps: int | None
    savings: Savings | None


@dataclass(frozen=True)
class Option:
    """A numeric option: its range, both ends included, and a sentence of help."""

    name: str
    low: float
    high: float
    whole: bool
    help: str


HELP = {
    "cfg_scale": "How closely to follow the prompt. 1 turns guidance off.",
    "iterations": "Each iteration draws some of the tokens. Fewer are faster.",
    "temperature": "Lower is safer, higher is more varied.",
    "steps": "Sampling steps of the head per token. Fewer are faster.",
}


def _option(name: str) -> Option:
    kind, allowed = typing.get_args(field_annotations(SamplingConfig)[name])
    assert isinstance(allowed, Range)
    whole = kind is int
    low, high = (int(end) if whole else end for end in (allowed.low, allowed.high))
    return Option(name, low, high, whole, HELP[name])


OPTIONS: dict[str, Option] = {name: _option(name) for name in HELP}
NAMES = tuple(SamplingOptions.__annotations__)


def chosen(source: Any) -> SamplingOptions:
    """The options among the attributes of ``source``, such as parsed arguments."""
    return typing.cast(SamplingOptions, {name: getattr(source, name) for name in NAMES})
