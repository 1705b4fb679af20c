"""ZeroGPU: in such a Space there is a GPU only while a decorated function runs, in a forked process of its own."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def is_zero() -> bool:
    """Whether this is a Space with ZeroGPU, as the package ``spaces`` itself tells it."""
    return os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")


def on_gpu(seconds: int) -> Callable[[F], F]:
    """``spaces.GPU(duration=seconds)`` in a Space with ZeroGPU, nothing at all elsewhere.

    The decorated function's arguments and what it returns or yields are pickled there, so the model comes from the
    shelf that it closes over; what it changes elsewhere is lost, and of its errors only a ``gr.Error`` keeps its
    sentence. Where a visitor stops a generator, it ends at its next ``yield``.
    """
    if not is_zero():
        return lambda function: function
    import spaces

    return spaces.GPU(duration=seconds)
