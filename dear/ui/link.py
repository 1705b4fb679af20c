"""Links that hold all settings of a generation in their own text: nothing of them is kept on the server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from dear.conditioning import check_prompt
from dear.output import Output
from dear.pipeline import AudioDEAR
from dear.request import check_options, check_whole
from dear.ui.components import parts
from dear.ui.shelf import Shelf

OPTIONS = ("cfg_scale", "iterations", "temperature", "steps")
MAX_VARIATIONS = 8


def write_link(out: Output) -> str:
    """The query of an address that restores what ``out`` follows from."""
    settings = {name: out.settings[name] for name in ("variant", *OPTIONS)}
    settings = {"prompt": out.prompts[0], **settings, "seed": out.seed}
    return "?" + urlencode(settings | {"variations": len(out), "weights": out.settings["digest"]})


def read_variant(query: Mapping[str, str], shelf: Shelf, chosen: str | None) -> tuple[AudioDEAR, list[str]]:
    """The variant that an address names, else the visitor's own, and a sentence where there is none of that name.

    Raises CheckpointError where it can't be loaded.
    """
    own, wanted = shelf.get(chosen), query.get("variant")
    if wanted is None or wanted in own.config.variants:
        return shelf.get(chosen, wanted), []
    told = f"The link's variant must be one of {', '.join(own.config.variants)}, got {wanted!r}; it is ignored."
    return own, [told]


def read_link(query: Mapping[str, str], model: AudioDEAR) -> tuple[dict[str, Any], list[str]]:
    """The settings in an address, and a sentence for each that is ignored because it is not allowed."""
    checks = {
        "prompt": check_prompt,
        **{name: _option(name, model) for name in OPTIONS},
        "seed": lambda text: check_whole("seed", _number(text), 0, parts.LARGEST_SEED),
        "variations": lambda text: check_whole("variations", _number(text), 1, MAX_VARIATIONS),
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
            f"The link was made with other weights than those of this page, {model.digest}: it will sound different."
        )
    return settings, notices


def _option(name: str, model: AudioDEAR) -> Any:
    def check(text: str) -> Any:
        asked: dict[str, Any] = {name: _number(text)}
        return getattr(check_options(model.sampling, model.model.length, model.model.head, **asked), name)

    return check


def _number(text: str) -> float | int | str:
    """The number that ``text`` is, else ``text``, which no check lets pass."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
