"""Whether both sounds of "A, then B" are recognised in order: ``python -m dear.evaluation.compositions``.

Prints JSON to stdout and a summary to stderr. The judge hears the beginning and the end of each clip separately,
without the middle, where the sounds change over.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from torch import Tensor

from dear.bundled import bundled
from dear.cli import Parser, guarded
from dear.evaluation.generation import check_fits, generate_each
from dear.evaluation.judge import DEFAULT, JUDGE_HELP, Judge, describe, load_judge
from dear.evaluation.judge.answers import all_choices
from dear.evaluation.judge.features import embed
from dear.evaluation.score import ROUNDED

PROMPTS = bundled("eval_compositions.json")  # [[prompt, first label, second label], ...], none seen in training
BEGINNING, END = 0.36, 0.6  # the beginning ends, and the end begins, at these shares of a clip


def score_compositions(
    waveforms: Iterable[np.ndarray | Tensor], pairs: Sequence[Sequence[str]], judge: Judge
) -> dict[str, Any]:
    """waveforms [N,S], or N arrays [S], at the judge's sample rate; pairs: N times a first and a second label.

    Returns ``clips`` (N) and shares of them: the beginning is heard as the first label (``first``), the end as the
    second (``second``), ``both``; the end is still heard as the first (``same``). Raises :class:`JudgeError` for
    labels that the judge cannot name, and :class:`SoundsError` as :func:`dear.evaluation.judge.features.embed` does.
    """
    parts = (part for wave in waveforms for part in (wave[: int(BEGINNING * len(wave))], wave[int(END * len(wave)) :]))
    labels = [label for pair in pairs for label in pair]
    choices = all_choices(judge, labels)
    heard = np.array(choices.judge(embed(parts, labels, judge).probabilities, labels).heard)
    begins, ends = heard[0::2], heard[1::2]
    first, second = np.array(pairs).T
    shares = {
        "first": begins == first,
        "second": ends == second,
        "both": (begins == first) & (ends == second),
        "same": ends == first,
    }
    return {"clips": len(pairs)} | {name: round(float(values.mean()), ROUNDED) for name, values in shares.items()}


def load_compositions() -> list[tuple[str, str, str]]:
    """Prompts with their first and second label: one for each ordered pair of the bundled model's labels."""
    return [tuple(row) for row in json.loads(PROMPTS.read_text(encoding="utf-8"))]


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status: 0, or 2 after an error message."""
    parser = Parser(
        prog="python -m dear.evaluation.compositions", description=__doc__.partition("\n")[0], allow_abbrev=False
    )
    parser.add_argument(
        "--model", metavar="PATH", help="a folder, or owner/name on the Hub; the bundled one by default"
    )
    parser.add_argument("--variant", help="student or teacher")
    parser.add_argument("--device", help="where to generate, such as cpu or cuda")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--judge", default=DEFAULT, metavar="KIND[:PATH]", help=JUDGE_HELP)
    from dear.pipeline import AudioDEAR

    def command() -> None:
        args = parser.parse_args(argv)
        judge, rows = load_judge(args.judge), load_compositions()
        given = {name: getattr(args, name) for name in ("variant", "device") if getattr(args, name) is not None}
        pipeline = AudioDEAR.from_pretrained(args.model, **given)
        check_fits(judge, pipeline)
        waveforms = generate_each(pipeline, [text for text, *_ in rows], seed=args.seed)
        result = score_compositions(waveforms, [pair for _, *pair in rows], judge)
        summary = (
            "{clips} clips of two sounds: the first is heard in {first:.1%}, the second in {second:.1%}, "
            "both in {both:.1%}; judge: {name} {digest}"
        )
        print(summary.format(**result, **describe(judge)), file=sys.stderr)
        made_by = {
            "name": pipeline.config.name,
            "variant": pipeline.variant,
            "digest": pipeline.digest,
            "seed": args.seed,
            "options": asdict(pipeline.sampling),
        }
        print(json.dumps(result | {"judge": describe(judge), "made_by": made_by}, indent=2))

    return guarded(command)


if __name__ == "__main__":
    sys.exit(main())
