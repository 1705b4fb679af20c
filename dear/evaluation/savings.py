"""Gain and cost of approximate savings: ``python -m dear.evaluation.savings --reference DIR``.

Each row is one setting of ``dear.Savings``, or fewer iterations: what it trades, its decoding time beside that of the
exact computation (one sound at a time, all rows in turn, medians), and accuracy and FD of the evaluation classifier on
clips of the same prompts and seeds. With ``--base`` decoding is timed at the paper's base size, too, on random weights.
A Markdown table goes to stdout, and ``--plot FILE`` draws accuracy over speed.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dear.cli import Parser, check_json, guarded, save_json
from dear.config import FAST, Savings
from dear.evaluation.bench.curves import check_picture, save_figure
from dear.evaluation.bench.jobs import base_job, checkpoint_job
from dear.evaluation.bench.machine import describe
from dear.evaluation.bench.timing import Job, Setting, measure
from dear.evaluation.bench.tradeoff import tradeoff_figure
from dear.evaluation.generation import check_fits, generate_for_scoring, named_prompts
from dear.evaluation.judge import DEFAULT, JUDGE_HELP, load_judge
from dear.evaluation.score import embed_reference, score_waveforms
from dear.presets import preset
from dear.request import check_whole

if TYPE_CHECKING:
    from dear.pipeline import AudioDEAR

EXACT = "exact"


@dataclass(frozen=True)
class Trial:
    """One row: savings, the share of the model's default iterations, and a description of the trade."""

    savings: Savings
    trades: str
    share: float = 1.0

    def options(self, iterations: int) -> dict[str, Any]:
        """Options of ``generate`` for a model with this default number of iterations."""
        return {"savings": self.savings, "iterations": max(1, round(self.share * iterations))}


def _iterations(count: int) -> str:
    return "1 iteration" if count == 1 else f"{count} iterations"


TRIALS = {
    EXACT: Trial(Savings(), "nothing"),
    **{
        f"refresh-{n}": Trial(Savings(refresh_every=n), f"known tokens are up to {_iterations(n - 1)} behind")
        for n in (2, 4, 8, 16)
    },
    **{
        f"null-{n}": Trial(Savings(null_every=n), f"what the condition changes is up to {_iterations(n - 1)} behind")
        for n in (2, 4, 8)
    },
    **{
        f"guided-{share}": Trial(Savings(guided_share=share / 100), f"no guidance after {share} % of the tokens")
        for share in (75, 50, 25)
    },
    "spread": Trial(Savings(order="spread"), "orders are less random"),
    "nested": Trial(Savings(order="nested"), "orders are less random"),
    **{f"iterations-{share}": Trial(Savings(), "more tokens are drawn at once", share / 100) for share in (75, 50, 25)},
    **{
        f"{savings.schedule}-iterations-{share}": Trial(savings, traded, share / 100)
        for share in (100, 50)
        for savings, traded in (
            (Savings(schedule="linear"), "fewer late tokens at once, more early ones"),
            (Savings(schedule="cubic"), "more late tokens at once, fewer early ones"),
        )
    },
    "fast": Trial(FAST, "known tokens are up to 7 iterations behind"),
    "refresh-8-guided-50": Trial(Savings(refresh_every=8, guided_share=0.5), "as both"),
    "refresh-8-null-2": Trial(Savings(refresh_every=8, null_every=2), "as both"),
    "refresh-8-iterations-75": Trial(Savings(refresh_every=8), "as both", 0.75),
    "refresh-8-iterations-25": Trial(Savings(refresh_every=8), "as both: no token is recomputed", 0.25),
    "spread-iterations-50": Trial(Savings(order="spread"), "as both", 0.5),
}


def time_trials(jobs: Mapping[str, Job], device: torch.device, repeats: int) -> dict[str, float]:
    """{name: median seconds of decoding}."""
    rows = measure(list(jobs.values()), device, repeats, peaks={})
    return {name: row.stages["decode"] for name, row in zip(jobs, rows, strict=True)}


def base_jobs(names: Sequence[str], device: torch.device) -> dict[str, Job]:
    """The trials at the paper's base size with batch 1."""
    setting, config = Setting(1, device, torch.float32, None), preset("base")
    sampling = config.variants[config.default_variant].sampling
    return {
        name: base_job(
            "base-ours", setting, sampling=dataclasses.replace(sampling, **TRIALS[name].options(sampling.iterations))
        )
        for name in names
    }


def run(args: argparse.Namespace, pipeline: AudioDEAR) -> dict[str, Any]:
    """All rows as plain data."""
    judge = load_judge(args.judge)
    check_fits(judge, pipeline)
    reference, prompts = embed_reference(args.reference, judge, args.fold), named_prompts(judge)
    default = pipeline.sampling.iterations
    options = {name: TRIALS[name].options(default) for name in args.rows}
    timed = {"": {name: checkpoint_job(name, pipeline, 1, **options[name]) for name in args.rows}}
    if args.base:
        timed["base_"] = base_jobs(args.rows, pipeline.device)
    seconds = {kind: time_trials(jobs, pipeline.device, args.repeats) for kind, jobs in timed.items()}
    rows = []
    for name in args.rows:
        waveforms, labels = generate_for_scoring(
            pipeline, prompts, args.clips_per_class, args.batch, args.seed, **options[name]
        )
        scores = score_waveforms(waveforms, labels, judge, reference)
        row = {"name": name, "trades": TRIALS[name].trades, "savings": dataclasses.asdict(options[name]["savings"])}
        row["iterations"] = options[name]["iterations"]
        for kind, found in seconds.items():
            row[f"{kind}decode_seconds"] = found[name]
            row[f"{kind}speed_up"] = found[EXACT] / found[name]
        rows.append(row | {key: scores[key] for key in ("clips", "accuracy", "top5", "fd")})
    made_by = {"name": pipeline.config.name, "variant": pipeline.variant, "digest": pipeline.digest, "seed": args.seed}
    shared = {"floor_fd": scores["floor_fd"], "reference": scores["reference"], "judge": scores["judge"]}
    return {"machine": describe(pipeline.device), "made_by": made_by, **shared, "rows": rows}


def table(result: Mapping[str, Any]) -> str:
    """The rows as Markdown."""
    based = "base_speed_up" in result["rows"][0]
    titles = ["row", "iterations", "trades", "decoding", *(["base size"] if based else []), "accuracy", "FD"]
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    for row in result["rows"]:
        speed = [f"{row['speed_up']:.2f}x", *([f"{row['base_speed_up']:.2f}x"] if based else [])]
        scores = [f"{row['accuracy']:.1%}", "" if row["fd"] is None else f"{row['fd']:.2f}"]
        lines.append("| " + " | ".join([row["name"], str(row["iterations"]), row["trades"], *speed, *scores]) + " |")
    floor = "" if result["floor_fd"] is None else f"; FD of real recordings among themselves: {result['floor_fd']:.2f}"
    by = f"judge: {result['judge']['name']} {result['judge']['digest']}"
    return "\n".join(lines) + f"\n\n{result['rows'][0]['clips']} clips in each row, one candidate each; {by}{floor}"


def _parser() -> Parser:
    parser = Parser(
        prog="python -m dear.evaluation.savings",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--reference", type=Path, required=True, metavar="DIR", help="recordings with a clips.csv")
    parser.add_argument("--fold", type=int, default=4, help="the held-out fold of the reference")
    parser.add_argument("--judge", default=DEFAULT, metavar="KIND[:PATH]", help=JUDGE_HELP)
    parser.add_argument("--clips-per-class", type=int, default=20, metavar="N")
    parser.add_argument("--rows", nargs="+", metavar="ROW", help=f"some of {', '.join(TRIALS)}; all where absent")
    parser.add_argument("--base", action="store_true", help="also time the base size (minutes for each row on a CPU)")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="timed runs of each row, after a warm-up")
    parser.add_argument("--batch", type=int, default=10, metavar="N", help="clips generated at a time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", metavar="PATH", help="a folder, or owner/name on the Hub; the bundled one if absent")
    parser.add_argument("--variant", help="student or teacher")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or mps")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw accuracy over speed (.png or .svg)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results to this file")
    return parser


def _check(args: argparse.Namespace) -> None:
    """Complete and check the options. Raises ValueError naming the option, its value and what is allowed."""
    for name in args.rows or ():
        if name not in TRIALS:
            raise ValueError(f"--rows must be some of {', '.join(TRIALS)}, got {name!r}")
    args.rows = list(dict.fromkeys((EXACT, *(args.rows or TRIALS))))
    check_whole("--clips-per-class", args.clips_per_class, 1, 1000)
    check_whole("--batch", args.batch, 1, 64)
    check_whole("--repeats", args.repeats, 1, 1000)
    if args.plot is not None:
        check_picture(args.plot, "--plot")
    check_json(args.json)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status: 0, or 2 after an error message."""
    from dear.pipeline import AudioDEAR

    def command() -> None:
        args = _parser().parse_args(argv)
        _check(args)
        result = run(args, AudioDEAR.from_pretrained(args.model, variant=args.variant, device=args.device))
        save_json(args.json, result)
        if args.plot is not None:
            save_figure(tradeoff_figure(result["rows"], result["judge"]["name"], EXACT), args.plot)
        print(table(result))

    return guarded(command)


if __name__ == "__main__":
    sys.exit(main())
