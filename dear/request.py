"""Check the arguments of a generation before any work."""

from __future__ import annotations

import dataclasses
import math
import reprlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Unpack

import numpy as np
from torch import Tensor

from dear.conditioning import check_prompt
from dear.config import Config, SamplingConfig, Savings
from dear.heads import Head
from dear.loudness import HIGHEST, LOWEST
from dear.options import NAMES, OPTIONS, SamplingOptions

MAX_SAMPLES = 64
MAX_SEED = 2**63 - 1 - MAX_SAMPLES
Progress = Callable[[int, int], object]


@dataclass(frozen=True, eq=False)
class Request:
    """The checked arguments of one call. None of them is stored on the model."""

    prompts: list[str]
    num_samples: int
    seeds: list[int]
    sampling: SamplingConfig
    settings: dict[str, Any]
    progress: Progress | None
    given: Tensor | None = None  # [B, L, D]
    given_mask: Tensor | None = None  # [B, L] bool, given tokens that the model is shown
    left_out: Tensor | None = None  # [B, L] bool, positions that the model is neither shown nor draws
    negative: str | None = None  # takes the place of the null condition in guidance
    draft: bool = False  # whether the vocoder's draft is enough
    fade: bool = True  # whether the sound stands alone: it is then faded in and out
    loudness: float | None = None  # LUFS; None: as the vocoder gives it


def check_number(name: str, value: Any, low: float, high: float) -> float:
    """``value`` as a float from ``low`` to ``high``; else ValueError naming both."""
    if isinstance(value, bool) or not isinstance(value, Real) or not low <= value <= high:  # type: ignore[operator]  # Real has an order
        raise ValueError(f"{name} must be a number from {low:g} to {high:g}, got {_shown(value)}")
    return float(value)


def check_whole(name: str, value: Any, low: int, high: int) -> int:
    """``value`` as a whole number from ``low`` to ``high``; else ValueError naming both."""
    whole = isinstance(value, Integral) or (isinstance(value, Real) and math.isfinite(value) and value == int(value))  # type: ignore[call-overload]  # Real has int()
    if isinstance(value, bool) or not whole or not low <= value <= high:
        raise ValueError(f"{name} must be a whole number from {low} to {high}, got {_shown(value)}")
    return int(value)


def _shown(value: object) -> str:
    """``value`` for a message. Long texts are cut, and a number with thousands of digits, which has no repr, is
    described.
    """
    try:
        return reprlib.repr(value.item() if isinstance(value, np.generic) else value)
    except ValueError:
        return "a far larger number"


def check_options(
    defaults: SamplingConfig,
    length: int,
    head: Head,
    **options: Unpack[SamplingOptions],
) -> SamplingConfig:
    """``defaults`` with the options that the caller chooses, all checked before any work.

    length: L, the most iterations. Raises ValueError naming the option, its value and what is allowed, and TypeError
    for an unknown option.
    """
    if unknown := set(options).difference(NAMES):
        raise TypeError(f"options must be among {', '.join(NAMES)}, got {', '.join(sorted(unknown))}")
    chosen: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    for name, option in OPTIONS.items():
        high = length if name == "iterations" else option.high
        if name in chosen and option.whole:
            chosen[name] = check_whole(name, chosen[name], int(option.low), int(high))
        elif name in chosen:
            chosen[name] = check_number(name, chosen[name], option.low, high)
    if not isinstance(chosen.get("savings", defaults.savings), Savings):
        raise ValueError(f"savings must be a dear.Savings or None, got {_shown(chosen['savings'])}")
    sampling = dataclasses.replace(defaults, **chosen)
    head.check_steps(sampling.steps)
    return sampling


def make_request(
    config: Config,
    head: Head,
    defaults: SamplingConfig,
    most_iterations: int,
    settings: Mapping[str, Any],
    prompt: str | Sequence[str],
    options: SamplingOptions,
    *,
    seed: int | None,
    num_samples: int = 1,
    progress: Progress | None = None,
    negative_prompt: str | None = None,
    loudness: float | None = None,
) -> Request:
    """Check all inputs of a call.

    head: of the model that draws. defaults: of its variant. settings: identify the model in the settings of its
        results.
    The options and the errors are those of :meth:`dear.AudioDEAR.generate`.
    """
    if isinstance(prompt, list | tuple):
        prompts = [check_prompt(one) for one in prompt]
        if not 1 <= len(prompts) <= MAX_SAMPLES:
            raise ValueError(f"prompt must be 1 to {MAX_SAMPLES} prompts, got {len(prompts)}")
    else:
        prompts = [check_prompt(prompt)]
    num_samples = check_whole("num_samples", num_samples, 1, MAX_SAMPLES)
    count = len(prompts) * num_samples
    if count > MAX_SAMPLES:
        raise ValueError(
            f"num_samples must be at most {MAX_SAMPLES // len(prompts)} for {len(prompts)} prompts "
            f"({MAX_SAMPLES} sounds), got {num_samples}"
        )
    sampling = check_options(defaults, most_iterations, head, **options)
    config.check_savings(sampling.savings)
    # 32 bits: enough for chance, and a number that people and web pages can copy.
    seed = secrets.randbelow(2**32) if seed is None else check_whole("seed", seed, 0, MAX_SEED)
    if progress is not None and not callable(progress):
        raise ValueError(f"progress must be a function of (iteration, iterations) or None, got {progress!r}")
    identity = dict(settings)
    if loudness is not None:
        identity["loudness"] = loudness = check_number("loudness", loudness, LOWEST, HIGHEST)
    if negative_prompt is not None:
        try:
            negative_prompt = check_prompt(negative_prompt)
        except ValueError as error:
            raise ValueError(f"negative_{error}") from None
        if sampling.cfg_scale == 1:
            raise ValueError("negative_prompt needs guidance: cfg_scale must not be 1, got 1")
        identity["negative_prompt"] = negative_prompt
    return Request(
        prompts=prompts,
        num_samples=num_samples,
        seeds=[seed + i for i in range(count)],
        sampling=sampling,
        settings=identity | dataclasses.asdict(sampling),
        progress=progress,
        negative=negative_prompt,
        loudness=loudness,
    )
