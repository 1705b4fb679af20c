"""The axes of a comparison's grid, read from text."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from dear.options import OPTIONS
from dear.pipeline import AudioDEAR
from dear.ui.components.checks import check_prompt, read_numbers
from dear.ui.components.runs import refusal
from dear.ui.link import LARGEST_SEED


@dataclass(frozen=True)
class Axis:
    """One setting that varies. read: the values in a text, for a model. example: such a text. show: one value."""

    title: str
    info: str
    read: Callable[[str, AudioDEAR], list[Any]]
    example: Callable[[AudioDEAR], str]
    show: Callable[[Any], str]


def _variants(text: str, model: AudioDEAR) -> list[str]:
    names = [name.strip() for name in text.replace(";", ",").split(",") if name.strip()]
    allowed = list(model.config.variants)
    if not names or not set(names) <= set(allowed):
        raise refusal(f"The variants of this model are {', '.join(allowed)}.")
    return names


def _prompts(text: str, model: AudioDEAR) -> list[str]:
    prompts = [line.strip() for line in text.splitlines() if line.strip()]
    for prompt in prompts or [""]:
        check_prompt(prompt)
    return prompts


def _numbers(name: str, words: str) -> Callable[[str, AudioDEAR], list[Any]]:
    option = OPTIONS[name]

    def read(text: str, model: AudioDEAR) -> list[Any]:
        high = model.model.length if name == "iterations" else option.high
        return read_numbers(words, text, option.low, high, whole=option.whole)

    return read


def _count(iterations: Any) -> str:
    return f"{iterations:g} iteration" + ("s" if iterations > 1 else "")


AXES: dict[str, Axis] = {
    "cfg_scale": Axis(
        "CFG scale", "Numbers from 0 to 20, separated by commas.", _numbers("cfg_scale", "CFG scales"),
        lambda _: "1, 2, 3, 4, 5, 6", lambda value: f"CFG {value:g}",
    ),
    "iterations": Axis(
        "Iterations", "Whole numbers, separated by commas.", _numbers("iterations", "iterations"),
        lambda model: ", ".join(str(max(model.sampling.iterations // part, 1)) for part in (4, 2, 1)), _count,
    ),
    "temperature": Axis(
        "Temperature", "Numbers from 0 to 2, separated by commas.", _numbers("temperature", "temperatures"),
        lambda _: "0.8, 0.9, 1", lambda value: f"temperature {value:g}",
    ),
    "seed": Axis(
        "Seed", "Whole numbers, separated by commas.",
        lambda text, _: [int(seed) for seed in read_numbers("seeds", text, 0, LARGEST_SEED, whole=True)],
        lambda _: "1, 2, 3, 4", lambda value: f"seed {value}",
    ),
    "variant": Axis(
        "Variant", "Names, separated by commas.", _variants,
        lambda model: ", ".join(model.config.variants), str,
    ),
    "prompt": Axis("Prompt", "One prompt on each line.", _prompts, lambda _: "", str),
}  # fmt: skip
BY_TITLE = {axis.title: name for name, axis in AXES.items()}


def grid(columns: tuple[str, Sequence[Any]], rows: tuple[str, Sequence[Any]] | None) -> list[dict[str, Any]]:
    """The settings of all cells, row by row, without duplicates. Each argument: an axis and its values."""
    across = list(dict.fromkeys(columns[1]))
    if rows is None:
        return [{columns[0]: value} for value in across]
    down = list(dict.fromkeys(rows[1]))
    return [{columns[0]: one, rows[0]: two} for two, one in itertools.product(down, across)]


def names(settings: dict[str, Any]) -> list[str]:
    """The settings of a cell in words."""
    return [AXES[name].show(value) for name, value in settings.items()]
