"""Checks of what visitors type. Their errors tell a visitor what to do; the errors of the pipeline are for programs."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence

from dear.conditioning import MAX_PROMPT, control_character
from dear.pipeline import AudioDEAR
from dear.ranking import default_judge, labels
from dear.ui.components.runs import refusal
from dear.ui.link import LARGEST_SEED


def check_prompt(text: str) -> None:
    """Raise a refusal unless ``text`` is a prompt."""
    length = len(text.strip())
    if not length:
        raise refusal("Type a prompt first.")
    if length > MAX_PROMPT:
        raise refusal(f"The prompt has {length:,} characters. Shorten it to {MAX_PROMPT:,}.")
    if control := control_character(text.strip()):
        raise refusal(f"The prompt has a control character ({control}). Remove it.")


def check_negative(text: str, cfg_scale: float) -> str:
    """A negative prompt. Raises a refusal unless guidance can honour it."""
    check_prompt(text)
    if cfg_scale == 1:
        raise refusal("A negative prompt needs guidance. Choose a CFG scale other than 1.")
    return text.strip()


def check_candidates(model: AudioDEAR, text: str, candidates: int) -> list[str]:
    """What the judge listens for in candidates; empty for one. Raises a refusal where it cannot rank them."""
    if candidates == 1:
        return []
    judge = default_judge()
    try:
        return labels(judge, text, model.nearest(text), model.sample_rate)
    except ValueError:
        known = ", ".join(name.replace("_", " ") for name in judge.names)
        raise refusal(
            f"Candidates can't be compared for this prompt: their judge knows only {known}. Set Candidates to 1."
        ) from None


def resolve_seed(number: float | None, keep: bool) -> int:
    """The seed that a visitor keeps, else a random one."""
    if number is None or not keep:
        return secrets.randbelow(2**32)
    if number != int(number) or not 0 <= number <= LARGEST_SEED:
        raise refusal(f"A seed is a whole number from 0 to {LARGEST_SEED:,}.")
    return int(number)


def read_numbers(name: str, text: str, low: float, high: float, whole: bool = False) -> list[float]:
    """Numbers from ``low`` to ``high``, separated by commas, semicolons or spaces. ``name``: what they are."""
    words = re.split(r"[,;\s]+", text.strip(" ,;\t\n"))
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        raise refusal(f"Write the {name} as numbers separated by commas, such as 1, 2, 4.") from None
    if any(not low <= number <= high or (whole and number != int(number)) for number in numbers):
        kind = "whole numbers" if whole else "numbers"
        raise refusal(f"The {name} must be {kind} from {low:g} to {f'{high:,}' if whole else f'{high:g}'}.")
    return numbers


def check_count(settings: Sequence[object], limit: int) -> None:
    """Raise a refusal if a comparison would make more than ``limit`` sounds."""
    if len(settings) > limit:
        raise refusal(f"That makes {len(settings)} sounds. Choose at most {limit}.")


def check_region(start: float, end: float, longest: float) -> None:
    """Raise a refusal unless a region in seconds has a length of up to ``longest``."""
    if end <= start:
        raise refusal("The end of the region must come after its start.")
    if end - start > longest:
        raise refusal(f"A region can be at most {longest:g} seconds long.")
