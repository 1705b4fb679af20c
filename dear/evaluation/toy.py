"""The five heads on a toy (Appendix H), measured and drawn: a Markdown table goes to stdout.

python -m dear.evaluation.toy --out roll.png
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from torch import Tensor

from dear.cli import Parser, guarded
from dear.evaluation.bench.curves import SUFFIXES, TEXT, save_figure
from dear.heads import HEADS
from dear.toy import MOST_STEPS, TOYS, ToyTraining, mmd, reference, wasserstein
from dear.visual.plots import ACCENT
from dear.visual.sketches import WARM

REACH = 2.4  # of the panels, in both directions


@dataclass(frozen=True)
class Row:
    """Points [N, 2] that one trained head drew in ``steps`` steps; ``seconds`` is what its training took."""

    head: str
    iterations: int
    steps: int
    points: Tensor
    mmd: float
    wsd: float
    seconds: float


def measure_toy(toy: str, steps: Sequence[int], seed: int, iterations: int | None = None) -> list[Row]:
    """Train each head, and draw from it with each of ``steps`` that it takes. Raises ValueError naming an argument."""
    target, rows = reference(toy), []
    for kind in HEADS:
        training = ToyTraining(kind, toy, seed, iterations)
        counts = list(dict.fromkeys(training.steps_taken(count) for count in steps))
        began = time.perf_counter()
        training.train(training.iterations)
        seconds = time.perf_counter() - began
        for count in counts:
            points = training.draw(count)
            distances = mmd(target, points), wasserstein(target, points)
            rows.append(Row(kind, training.iterations, count, points, *distances, seconds))
    return rows


def table(toy: str, rows: Sequence[Row]) -> str:
    """Rows in Markdown, below what two draws of the target itself are apart."""
    target, other = reference(toy), reference(toy, draw=1)
    lines = [
        "| head | steps | MMD | WSD | iterations | seconds of training |",
        "|---|---|---|---|---|---|",
        f"| the target, drawn again | | {mmd(target, other):.3f} | {wasserstein(target, other):.3f} | | |",
        *(
            f"| {row.head} | {row.steps} | {row.mmd:.3f} | {row.wsd:.3f} | {row.iterations} | {row.seconds:.1f} |"
            for row in rows
        ),
    ]
    return "\n".join(lines)


def toy_figure(toy: str, rows: Sequence[Row]) -> Figure:
    """One column per head and one line per number of steps, over the target, on one scale. On white."""
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
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--iterations", type=int, help="of each training; a number of each head's own where absent")

    def command() -> None:
        options = parser.parse_args(arguments)
        out = options.out
        if out and (out.suffix.lower() not in SUFFIXES or not out.absolute().parent.is_dir()):
            raise ValueError(f"--out must be a .png or .svg file in an existing directory, got {str(out)!r}")
        rows = measure_toy(options.toy, options.steps, options.seed, options.iterations)
        print(table(options.toy, rows))
        if out:
            save_figure(toy_figure(options.toy, rows), out)

    return guarded(command)


if __name__ == "__main__":
    sys.exit(main())
