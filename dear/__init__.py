"""AudioDEAR: a prompt becomes ten seconds of sound, from a masked transformer with a one-step energy-scoring head."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["AudioDEAR", "Output", "Savings", "__version__"]


def __getattr__(name: str) -> Any:
    """The public classes, imported on first use. Importing the package does not load torch."""
    if name == "AudioDEAR":
        from dear.pipeline import AudioDEAR

        return AudioDEAR
    if name == "Output":
        from dear.output import Output

        return Output
    if name == "Savings":
        from dear.config import Savings

        return Savings
    raise AttributeError(f"module 'dear' has no attribute {name!r}")
