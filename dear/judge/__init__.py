"""What a judge of sound is, and the bundled one. :mod:`dear.evaluation.judge` lists all kinds."""

from __future__ import annotations

from dear.judge.base import Heard, Judge, JudgeError, describe
from dear.judge.classifier import load_classifier

__all__ = ["Heard", "Judge", "JudgeError", "describe", "load_classifier"]
