"""Whether of "A, then B" both are heard, in this order: ``python -m dear.evaluation.compositions``.

JSON goes to stdout, one line for people to stderr. A clip's beginning and end are cut out, apart from the middle where
one sound gives way to the other, and the classifier hears each of them alone, repeated to the length of a clip.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from dear.evaluation.classifier import BUNDLED, SoundClassifier, check_mel, load_classifier
from dear.evaluation.features import SoundsError, embed
from dear.evaluation.score import ROUNDED, generate_for_scoring

if TYPE_CHECKING:
    from dear.pipeline import AudioDEAR

PROMPTS = BUNDLED.parent / "eval_compositions.json"  # [[prompt, first label, second label], ...], none seen in training
BEGINNING, END = 0.4, 0.6  # shares of a clip: until the one and from the other on, a single sound is expected

Composition = tuple[str, str, str]


def score_compositions(
    waveforms: Iterable[np.ndarray | Tensor], pairs: Sequence[tuple[str, str]], classifier: SoundClassifier
) -> dict[str, Any]:
    """Shares of N clips whose beginning is heard as the first label, whose end as the second, and both.

    waveforms [N,S], or N arrays [S], at the classifier's sample rate; pairs: N pairs of labels. ``same`` is the share
    of clips whose end is heard as their first sound. Raises :class:`SoundsError` as
    :func:`dear.evaluation.features.embed` does.
    """
    halves: list[Tensor] = []
    for wave in map(torch.as_tensor, waveforms):
        samples = len(wave)
        for part in (wave[: int(BEGINNING * samples)], wave[int(END * samples) :]):
            halves.append(part.repeat(-(-samples // len(part)))[:samples])
    heard = embed(halves, [label for pair in pairs for label in pair], classifier).probabilities.argmax(axis=1)
    first, second = ([classifier.labels[i] for i in heard[at::2]] for at in (0, 1))
    begins = np.array([label == pair[0] for label, pair in zip(first, pairs, strict=True)])
    ends = np.array([label == pair[1] for label, pair in zip(second, pairs, strict=True)])
    same = np.array([label == pair[0] for label, pair in zip(second, pairs, strict=True)])
    shares = {"first": begins, "second": ends, "both": begins & ends, "same": same}
    return {"clips": len(pairs)} | {name: round(float(values.mean()), ROUNDED) for name, values in shares.items()}


def generate_compositions(
    pipeline: AudioDEAR, compositions: Sequence[Composition], batch: int = 10, seed: int = 0
) -> Tensor:
    """One clip for each prompt at the pipeline's own settings -> waveforms [N,S]; clip i has seed ``seed + i``."""
    return generate_for_scoring(pipeline, {text: [text] for text, _, _ in compositions}, 1, batch, seed)[0]


def load_compositions(path: str | Path = PROMPTS) -> list[Composition]:
    """Prompts with their two labels. Raises :class:`SoundsError` naming the file."""
    try:
        rows = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SoundsError(f"{path} can't be read as compositions: {error}") from None
    if not isinstance(rows, list) or not all(
        isinstance(row, list) and len(row) == 3 and all(isinstance(text, str) for text in row) for row in rows
    ):
        raise SoundsError(f"{path} must hold a list of [prompt, first label, second label]")
    return [tuple(row) for row in rows]


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status: 0, or 2 after one sentence about what was wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m dear.evaluation.compositions", description=__doc__.partition("\n")[0]
    )
    parser.add_argument(
        "--model", metavar="PATH", help="a folder, or owner/name on the Hub; the bundled one by default"
    )
    parser.add_argument("--variant", help="student or teacher")
    parser.add_argument("--device", help="where to generate, such as cpu or cuda")
    parser.add_argument("--batch", type=int, default=10, metavar="N", help="clips generated at a time")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    from dear.pipeline import AudioDEAR

    try:
        classifier, compositions = load_classifier(), load_compositions()
        given = {name: getattr(args, name) for name in ("variant", "device") if getattr(args, name) is not None}
        pipeline = AudioDEAR.from_pretrained(args.model, **given)
        check_mel(classifier.config.mel, pipeline.config.mel)
        waveforms = generate_compositions(pipeline, compositions, args.batch, args.seed)
        result = score_compositions(waveforms, [pair for _, *pair in compositions], classifier)
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    told = (
        "{clips} clips of two sounds: the first is heard in {first:.1%}, the second in {second:.1%}, both in {both:.1%}"
    )
    print(told.format(**result), file=sys.stderr)
    print(json.dumps(result | {"variant": pipeline.variant, "digest": pipeline.digest}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
