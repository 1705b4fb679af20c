"""ZeroGPU: in such a Space a GPU is available only inside decorated functions, each run in a forked process."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable
from typing import Any, TypeVar

from dear.ui.cost import Cost, cost

F = TypeVar("F", bound=Callable[..., Any])
START = 10  # seconds for the process, the weights' way to the GPU, the text encoder
MOST = 120  # seconds of the longest run
# Seconds of one pass, of one step of the head in it, and of one sound's codec and vocoder: what the bundled model takes
# on two cores of a CPU. No GPU is known to take longer; a run that exceeds its limit is ended.
PASS, STEP, RENDERING = 0.01, 0.001, 0.25
STEPS = 100  # of the head, where a run does not name them: as many as the bundled teacher takes


def is_zero() -> bool:
    """Whether this is a Space with ZeroGPU, by the same rule as the package ``spaces``."""
    return os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")


def on_gpu(sounds: int = 1) -> Callable[[F], F]:
    """``spaces.GPU`` in a Space with ZeroGPU; elsewhere the function itself.

    A run asks for the GPU for as long as :func:`limit` expects, so short ones come first. sounds: that the function
    makes, where its parameters do not say.
    There, arguments and results are pickled, so the function gets its model from the registry that it closes over.
    Other changes that it makes are lost. Of its errors, only a ``gr.Error`` keeps its message. When a visitor stops a
    generator, it ends at its next ``yield``.
    """
    if not is_zero():
        return lambda function: function
    import spaces

    def decorate(function: F) -> F:
        signature = inspect.signature(function)

        def duration(*args: Any, **kwargs: Any) -> int:
            values = signature.bind(*args, **kwargs).arguments
            settings = values.get("settings")
            each = settings if isinstance(settings, list) else [values]
            return limit([cost(one, STEPS, sounds) for one in each])

        return spaces.GPU(duration=duration)(function)

    return decorate


def limit(costs: list[Cost]) -> int:
    """Seconds after which runs of these costs, one after the other, are ended."""
    seconds = sum(each.passes * (PASS + STEP * each.steps) + RENDERING * each.sounds for each in costs)
    return min(math.ceil(START + seconds), MOST)
