"""Judges of sound: ``JUDGES`` lists the kinds that ``--judge KIND[:PATH]`` may name.

A judge takes waveforms and gives features and class probabilities (:class:`dear.judge.base.Judge`).
``efficientat`` was trained outside this project and hears the waveform, phase included. ``classifier`` was trained here
on log-mels, so it hears neither phase nor texture finer than a frame: claims about vocoders need the former.
``EMBEDDERS`` lists the kinds of the paper's metrics, which ``--embedders KIND[:SOURCE]`` may name beside the judges.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from dear.evaluation.judge.embedder import Embedder, JudgeEmbedder
from dear.evaluation.judge.weights import PUBLISHED
from dear.judge import Heard, Judge, JudgeError, describe
from dear.registry import load_kinds

# Each loads a judge from a path, or its bundled weights for None where it has some.
JUDGES: dict[str, Callable[[Path | None], Judge]] = load_kinds(
    {
        "classifier": "dear.judge.classifier:load_classifier",
        "efficientat": "dear.evaluation.judge.efficientat:load_efficientat",
        "panns": "dear.evaluation.judge.panns:load_panns_judge",
    }
)
# Each loads an embedder from its source to a device.
EMBEDDERS: dict[str, Callable[[str, torch.device], Embedder]] = load_kinds(
    {
        "panns": "dear.evaluation.judge.panns:load_panns",
        "vggish": "dear.evaluation.judge.vggish:load_vggish",
        "clap": "dear.evaluation.judge.clap:load_clap_embedder",
    }
)
DEFAULT = "classifier"
JUDGE_HELP = (
    "efficientat:FILE or panns:FILE, which hear waveforms, or classifier[:DIR], which hears mels; default: %(default)s"
)
EMBEDDER_HELP = (
    "panns:SOURCE and vggish:SOURCE, where SOURCE is the published file or the word published, which downloads it; "
    "clap[:SOURCE], a folder or owner/name; or a judge's KIND[:PATH]"
)

__all__ = [
    "DEFAULT",
    "EMBEDDERS",
    "EMBEDDER_HELP",
    "JUDGES",
    "JUDGE_HELP",
    "Embedder",
    "Heard",
    "Judge",
    "JudgeError",
    "describe",
    "load_embedder",
    "load_judge",
]


def load_judge(text: str = DEFAULT) -> Judge:
    """The judge that ``KIND:PATH`` names, or ``KIND`` for a judge that has bundled weights or needs none.

    Raises :class:`JudgeError` for an unknown kind or a missing path, and the kind's own error for a damaged file.
    """
    kind, _, path = text.partition(":")
    if kind not in JUDGES:
        raise JudgeError(f"judge must be KIND:PATH with KIND one of {', '.join(JUDGES)}, got {text!r}")
    return JUDGES[kind](Path(path) if path else None)


def load_embedder(text: str, device: torch.device | str = "cpu") -> Embedder:
    """The embedder that ``KIND:SOURCE`` names, with ``published`` as the source of the files that their authors host.

    device: of the networks of the paper's metrics; judges stay on the CPU.
    Raises :class:`JudgeError` for an unknown kind or a missing source, and the kind's own error for a damaged file.
    """
    kind, _, source = text.partition(":")
    if kind not in EMBEDDERS:
        if kind in JUDGES:
            return JudgeEmbedder(load_judge(text))
        kinds = ", ".join(dict.fromkeys((*EMBEDDERS, *JUDGES)))
        raise JudgeError(f"an embedder must be KIND:SOURCE with KIND one of {kinds}, got {text!r}")
    if not source and kind != "clap":
        raise JudgeError(f"an embedder must name its weights as {kind}:PATH or {kind}:{PUBLISHED}, got {text!r}")
    return EMBEDDERS[kind](source, torch.device(device))
