"""ZeroGPU: in such a Space a GPU is available only inside decorated functions, each run in a forked process."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def is_zero() -> bool:
    """Whether this is a Space with ZeroGPU, by the same rule as the package ``spaces``."""
    return os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")


def on_gpu(seconds: int) -> Callable[[F], F]:
    """``spaces.GPU(duration=seconds)`` in a Space with ZeroGPU; elsewhere the function itself.

    There, arguments and results are pickled, so the function gets its model from the registry that it closes over.
    Other changes that it makes are lost. Of its errors, only a ``gr.Error`` keeps its message. When a visitor stops a
    generator, it ends at its next ``yield``.
    """
    if not is_zero():
        return lambda function: function
    import spaces

    return spaces.GPU(duration=seconds)
