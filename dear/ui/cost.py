"""What a run costs, estimated from the values of its parameters before any of them is checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

from dear.output import Output

ITERATIONS = 32  # where a run does not name them
CLIP = 10  # seconds of sound that are drawn at once


@dataclass(frozen=True)
class Cost:
    """passes: iterations over one sound of ten seconds. steps: of the head in each. sounds: of ten seconds."""

    passes: float
    steps: float
    sounds: float


def cost(values: Mapping[str, Any], steps: float = 1, sounds: float = 1) -> Cost:
    """The cost of a run with these parameters.

    Read are iterations, steps, count, candidates, cfg_scales and seconds, in ``values`` or its ``options``; or those
    of the Output ``source``. steps, sounds: where a run does not name them.
    """
    if isinstance(values.get("options"), Mapping):
        values = {**values, **values["options"]}
    if isinstance(values.get("source"), Output):
        values = {**values, **{name: values["source"].settings[name] for name in ("iterations", "steps")}}
    iterations = _numbers(values.get("iterations"), ITERATIONS)
    many = len(_numbers(values.get("cfg_scales"), 1)) * _numbers(values.get("count"), sounds)[0]
    many *= _numbers(values.get("candidates"), 1)[0] * max(1.0, _numbers(values.get("seconds"), 1)[0] / CLIP)
    return Cost(sum(iterations) * many, _numbers(values.get("steps"), steps)[0], len(iterations) * many)


def _numbers(value: Any, default: float) -> list[float]:
    """The numbers of a value as the page or a program gives it: one, a list, or a text of several."""
    if isinstance(value, str):
        value = value.replace(",", " ").replace(";", " ").split()
    numbers = []
    for each in value if isinstance(value, list) else [value]:
        try:
            number = float(each) if isinstance(each, str | Real) else math.nan
        except (ValueError, OverflowError):
            number = math.nan
        numbers.append(min(max(number, 1.0), 1000.0) if math.isfinite(number) else default)
    return numbers[:64] or [default]
