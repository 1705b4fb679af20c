"""Judges of sound: ``JUDGES`` lists the kinds that ``--judge KIND[:PATH]`` may name.

A judge takes waveforms and gives features and class probabilities (:class:`dear.evaluation.judge.base.Judge`).
``efficientat`` was trained outside this project and hears the waveform, phase included. ``classifier`` was trained here
on log-mels, so it hears neither phase nor texture finer than a frame: claims about vocoders need the former.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dear.evaluation.judge.base import Heard, Judge, JudgeError, describe
from dear.evaluation.judge.classifier import load_classifier
from dear.evaluation.judge.efficientat import load_efficientat

# Each loads a judge from a path, or its bundled weights for None where it has some.
JUDGES: dict[str, Callable[[Path | None], Judge]] = {
    "classifier": load_classifier,
    "efficientat": load_efficientat,
}
DEFAULT = "classifier"
JUDGE_HELP = "efficientat:FILE, which hears waveforms, or classifier[:DIR], which hears mels; default: %(default)s"

__all__ = ["DEFAULT", "JUDGES", "JUDGE_HELP", "Heard", "Judge", "JudgeError", "describe", "load_judge"]


def load_judge(text: str = DEFAULT) -> Judge:
    """The judge that ``KIND:PATH`` names, or ``KIND`` alone where it has bundled weights or needs none.

    Raises :class:`JudgeError` for an unknown kind or a missing path, and the kind's own error for a damaged file.
    """
    kind, _, path = text.partition(":")
    if kind not in JUDGES:
        raise JudgeError(f"judge must be KIND:PATH with KIND one of {', '.join(JUDGES)}, got {text!r}")
    return JUDGES[kind](Path(path) if path else None)
