"""Links that hold the settings of a generation in their own text. The server stores nothing for them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from dear.conditioning import check_prompt
from dear.output import Output
from dear.pipeline import AudioDEAR
from dear.request import check_number, check_options, check_whole
from dear.ui.model_registry import ModelRegistry
from dear.variations import LONGEST, SHORTEST

OPTIONS = ("cfg_scale", "iterations", "temperature", "steps")
MORE = ("seconds", "negative_prompt")  # in a link where they are in the settings
MAX_VARIATIONS = 8
MAX_CHANGES = 16  # of one sound, one after the other
LARGEST_SEED = 2**53 - 1  # browsers round larger whole numbers


@dataclass(frozen=True)
class Change:
    """A variation of a finished sound, or a loop of it where ``strength`` is None, drawn with ``seed``."""

    strength: float | None
    seed: int

    def __str__(self) -> str:
        return f"loop {self.seed}" if self.strength is None else f"vary {self.strength:g} {self.seed}"


def read_changes(text: str) -> list[Change]:
    """The changes that ``write_changes`` wrote, or that a visitor typed. Raises ValueError."""
    changes = []
    for part in filter(None, map(str.strip, text.split(","))):
        found = re.fullmatch(r"(?:loop|vary +([0-9.]+)) +([0-9]+)", part)
        if found is None:
            raise ValueError(f"then must be variations and loops such as 'vary 0.3 5, loop 7', got {text!r:.80}")
        given = found.group(1)
        strength = None if given is None else float(check_number("strength", _number(given), 0, 1))
        changes.append(Change(strength, check_whole("seed", int(found.group(2)), 0, LARGEST_SEED)))
    if len(changes) > MAX_CHANGES:
        raise ValueError(f"then must hold at most {MAX_CHANGES} variations and loops, got {len(changes)}")
    return changes


def write_changes(changes: Sequence[Change]) -> str:
    """Changes as text: ``vary STRENGTH SEED`` or ``loop SEED``, separated by commas."""
    return ", ".join(map(str, changes))


def add_change(out: Output, source: Output, change: Change) -> Output:
    """``out``, which ``change`` made of the single sound ``source``, with what its link needs in its settings."""
    first = source.settings.get("source", write_link(source))
    changes = [*read_changes(source.settings.get("changes", "")), change]
    return dataclasses.replace(out, settings=out.settings | {"source": first, "changes": write_changes(changes)})


def write_link(out: Output) -> str:
    """The query of an address that restores the settings of ``out``, or of its source and its changes."""
    if "changes" in out.settings:
        return f"{out.settings['source']}&{urlencode({'then': out.settings['changes']})}"
    settings = {name: out.settings[name] for name in ("variant", *OPTIONS)}
    settings |= {name: out.settings[name] for name in MORE if name in out.settings}
    settings = {"prompt": out.prompts[0], **settings, "seed": out.seed}
    return "?" + urlencode(settings | {"variations": len(out), "weights": out.settings["digest"]})


def read_variant(query: Mapping[str, str], models: ModelRegistry, chosen: str | None) -> tuple[AudioDEAR, list[str]]:
    """The variant that an address names, else the visitor's own; and a notice if there is none of that name.

    Raises CheckpointError if it can't be loaded.
    """
    own, variant = models.get(chosen), query.get("variant")
    if variant is None or variant in own.config.variants:
        return models.get(chosen, variant), []
    notice = f"The link's variant must be one of {', '.join(own.config.variants)}, got {variant!r}; it is ignored."
    return own, [notice]


def read_link(query: Mapping[str, str], model: AudioDEAR) -> tuple[dict[str, Any], list[str]]:
    """The settings in an address, and a notice for each one that is ignored because it isn't allowed."""
    checks = {
        "prompt": check_prompt,
        **{name: _option(name, model) for name in OPTIONS},
        "seed": lambda text: check_whole("seed", _number(text), 0, LARGEST_SEED),
        "seconds": lambda text: check_number("seconds", _number(text), SHORTEST, LONGEST),
        "negative_prompt": check_prompt,
        "variations": lambda text: check_whole("variations", _number(text), 1, MAX_VARIATIONS),
        "then": lambda text: write_changes(read_changes(text)),
    }
    settings, notices = {}, []
    for name, check in checks.items():
        if name in query:
            try:
                settings[name] = check(query[name])
            except ValueError as error:
                notices.append(f"The link's {error}; it is ignored.")
    weights = query.get("weights", model.digest)
    if weights != model.digest:
        notices.append(
            f"The link was made with other weights than this page's, {model.digest}. It will sound different."
        )
    return settings, notices


def _option(name: str, model: AudioDEAR) -> Callable[[str], Any]:
    def check(text: str) -> Any:
        option: dict[str, Any] = {name: _number(text)}
        return getattr(check_options(model.sampling, model.model.length, model.model.head, **option), name)

    return check


def _number(text: str) -> float | int | str:
    """``text`` as a number if it is one. Other text is returned as it is; every check refuses it."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
