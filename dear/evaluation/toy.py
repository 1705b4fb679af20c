"""The five heads on a toy (Appendix H), measured and drawn: a Markdown table goes to stdout.

python -m dear.evaluation.toy --out roll.png
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from dear.cli import Parser, guarded
from dear.evaluation.bench.curves import SUFFIXES, TEXT, save_figure
from dear.heads import HEADS
from dear.request import check_whole
from dear.toy import MOST_STEPS, TOYS, ToyTraining, mmd, reference, wasserstein

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REACH = 2.4  # of the panels, in both directions
# Beside the heads at their settings for toys: MeanFlow at those of its paper.
PUBLISHED: dict[str, tuple[str, Mapping[str, Any] | None]] = {"meanflow-published": ("meanflow", {"levels": 1})}
CALIBRATION = 50  # iterations that tell how many fit into a time


@dataclass(frozen=True)
class Row:
    """Points [N, 2] that a trained head drew in ``steps`` steps; ``seconds`` of processor time is its training's."""

    head: str
    seed: int
    iterations: int
    steps: int
    points: Tensor
    mmd: float
    wsd: float
    seconds: float


def measure_toy(
    toy: str,
    steps: Sequence[int],
    seeds: Sequence[int],
    iterations: int | None = None,
    seconds: float | None = None,
) -> list[Row]:
    """Train each head with each seed, and draw from it with each of ``steps`` that it takes.

    iterations: of every training; seconds: of processor time that every training may take instead; without either each
    head takes a number of its own. Raises ValueError naming an argument.
    """
    target, rows = reference(toy), []
    kinds: dict[str, tuple[str, Mapping[str, Any] | None]] = {kind: (kind, None) for kind in HEADS}
    for name, (kind, options) in (kinds | PUBLISHED).items():
        count = iterations if seconds is None else fitting(kind, toy, seconds, options)
        for seed in seeds:
            training = ToyTraining(kind, toy, seed, count, options)
            began = time.process_time()
            training.train(training.iterations)
            took = time.process_time() - began
            for drawn in dict.fromkeys(training.steps_taken(each) for each in steps):
                points = training.draw(drawn)
                distances = mmd(target, points), wasserstein(target, points)
                rows.append(Row(name, seed, training.iterations, drawn, points, *distances, took))
    return rows


def fitting(kind: str, toy: str, seconds: float, options: Mapping[str, Any] | None = None) -> int:
    """Iterations of a head's training that fit into ``seconds`` of processor time."""
    training = ToyTraining(kind, toy, 0, 3 * CALIBRATION, options)
    training.train(CALIBRATION)  # warms up
    began = time.process_time()
    training.train(CALIBRATION)
    return max(1, round(seconds * CALIBRATION / (time.process_time() - began)))


def table(toy: str, rows: Sequence[Row]) -> str:
    """Means over the seeds, with standard deviations, below what two draws of the target itself are apart."""
    target, other = reference(toy), reference(toy, draw=1)
    lines = [
        "| head | steps | MMD | WSD | iterations | seconds of training |",
        "|---|---|---|---|---|---|",
        f"| the target, drawn again | | {mmd(target, other):.3f} | {wasserstein(target, other):.3f} | | |",
    ]
    for head, steps in dict.fromkeys((row.head, row.steps) for row in rows):
        same = [row for row in rows if (row.head, row.steps) == (head, steps)]
        seconds = statistics.mean(row.seconds for row in same)
        lines.append(
            f"| {head} | {steps} | {_spread([row.mmd for row in same])} | {_spread([row.wsd for row in same])} "
            f"| {same[0].iterations} | {seconds:.1f} |"
        )
    return "\n".join(lines)


def _spread(values: Sequence[float]) -> str:
    mean = f"{statistics.mean(values):.3f}"
    return f"{mean} ± {statistics.stdev(values):.3f}" if len(values) > 1 else mean


def toy_figure(toy: str, rows: Sequence[Row]) -> Figure:
    """One column per head and one line per number of steps, over the target, on one scale and a white background.

    Of several seeds the first is shown.
    """
    from matplotlib.figure import Figure  # of the extra ui

    from dear.visual.plots import ACCENT
    from dear.visual.sketches import WARM

    rows = [row for row in rows if row.seed == rows[0].seed]
    heads = list(dict.fromkeys(row.head for row in rows))
    counts = sorted({row.steps for row in rows})
    found = {(row.steps, row.head): row for row in rows}
    figure = Figure(figsize=(2.1 * len(heads), 2.45 * len(counts)), facecolor="white")
    panels = figure.subplots(len(counts), len(heads), squeeze=False)
    figure.subplots_adjust(0.01, 0.01, 0.99, 1 - 0.4 / (2.45 * len(counts)), wspace=0.06, hspace=0.22)
    target = reference(toy).numpy()
    for count, line in zip(counts, panels, strict=True):
        for head, axes in zip(heads, line, strict=True):
            axes.set(xlim=(-REACH, REACH), ylim=(-REACH, REACH), aspect="equal")
            axes.set_axis_off()
            row = found.get((count, head))
            if row is None:  # the energy head has one step
                continue
            axes.scatter(*target.T, s=5, color=ACCENT, alpha=0.3, linewidths=0)
            axes.scatter(*row.points.numpy().T, s=5, color=WARM, linewidths=0)
            steps = f"{count} step" + ("s" if count > 1 else "")
            title = f"{head}, {steps}\nMMD {row.mmd:.3f}  WSD {row.wsd:.3f}"
            axes.set_title(title, color=TEXT, fontsize=9, loc="left", pad=3)
    return figure


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(prog="python -m dear.evaluation.toy", description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--out", type=Path, help="a .png or .svg file for the picture")
    parser.add_argument("--toy", default="swiss-roll", help=" or ".join(TOYS))
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 32], help=f"1 to {MOST_STEPS}, several in turn")
    parser.add_argument("--seed", type=int, default=0, help="the first one")
    parser.add_argument("--seeds", type=int, default=1, help="how many, one after the other")
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--iterations", type=int, help="of each training; a number of each head's own where absent")
    budget.add_argument("--seconds", type=float, help="of processor time for each training, in place of iterations")

    def command() -> None:
        options = parser.parse_args(arguments)
        out = options.out
        if out and (out.suffix.lower() not in SUFFIXES or not out.absolute().parent.is_dir()):
            raise ValueError(f"--out must be a .png or .svg file in an existing directory, got {str(out)!r}")
        count = check_whole("--seeds", options.seeds, 1, 100)
        if options.seconds is not None and not 0 < options.seconds <= 3600:
            raise ValueError(f"--seconds must be above 0 and at most 3600, got {options.seconds}")
        seeds = range(options.seed, options.seed + count)
        rows = measure_toy(options.toy, options.steps, seeds, options.iterations, options.seconds)
        print(table(options.toy, rows))
        if out:
            save_figure(toy_figure(options.toy, rows), out)

    return guarded(command)


if __name__ == "__main__":
    sys.exit(main())
