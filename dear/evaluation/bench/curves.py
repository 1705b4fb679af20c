"""Scaling curves: the time of a generation against iterations, batch size, threads and length."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dear.evaluation.bench.jobs import PROMPT, pipeline_run
from dear.evaluation.bench.timing import Job, Meter, measure
from dear.files import write_atomically
from dear.output import Output

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from dear.pipeline import AudioDEAR

TEXT = "#22292e"  # on white
FAINT = "#8a949b"
SUFFIXES = (".png", ".svg")


@dataclass(frozen=True)
class Curve:
    """Seconds of a generation along one axis: medians, quartiles, and the median of only the decoding."""

    name: str  # iterations, batch, threads or length
    values: list[float]
    median: list[float]
    low: list[float]
    high: list[float]
    decode: list[float]


def measure_curves(
    pipeline: AudioDEAR,
    repeats: int,
    *,
    iterations: Sequence[int] = (1, 8, 16, 32, 64, 128),
    batches: Sequence[int] = (1, 2, 4, 8),
    threads: Sequence[int] | None = None,
    clips: Sequence[int] = (1, 2, 3),
) -> list[Curve]:
    """Time whole generations from prompt to waveform, with all points of all curves in turn.

    threads: None for 1, 2, 4, ... up to the number of cores. clips: lengths in clips; each further clip extends the
    sound. Numbers of iterations above the model's tokens are left out.
    """
    cores = os.cpu_count() or 1
    threads = [n for n in (1, 2, 4, 8, 16, 32, 64) if n <= cores] if threads is None else threads
    seconds = pipeline.config.mel.samples / pipeline.sample_rate
    length = pipeline.model.length

    def once(batch: int = 1, iterations: int | None = None) -> list[Output]:
        return [pipeline.generate(PROMPT, seed=0, num_samples=batch, iterations=iterations)]

    def continued(clips: int) -> list[Output]:
        outputs = once()
        if clips > 1:
            sound, rate = outputs[0].sound[0], pipeline.sample_rate
            outputs.append(pipeline.extend(sound, rate, (clips - 1) * seconds, PROMPT, seed=1))
        return outputs

    axes: dict[str, dict[float, Callable[[Meter], None]]] = {
        "iterations": {n: pipeline_run(partial(once, iterations=n)) for n in iterations if n <= length},
        "batch": {n: pipeline_run(partial(once, batch=n)) for n in batches},
        "threads": {n: pipeline_run(once, n) for n in threads},
        "length": {n * seconds: pipeline_run(partial(continued, n)) for n in clips},
    }
    jobs = [
        Job(f"{name} {value}", run, 1, seconds, None, (), "", None, None, "")
        for name, points in axes.items()
        for value, run in points.items()
    ]
    rows = iter(measure(jobs, pipeline.device, repeats, peaks={}))
    curves = []
    for name, points in axes.items():
        found = [next(rows) for _ in points]
        curves.append(
            Curve(
                name,
                list(points),
                [row.median for row in found],
                [row.low for row in found],
                [row.high for row in found],
                [row.stages["decode"] for row in found],
            )
        )
    return curves


TITLES = {
    "iterations": "decoding iterations",
    "batch": "sounds in a batch",
    "threads": "threads",
    "length": "seconds of sound",
}


def curves_figure(curves: Sequence[Curve], title: str) -> Figure:
    """One panel per curve: seconds of a whole generation, its quartiles, and only the decoding. The background is
    white.
    """
    from matplotlib.figure import Figure  # of the extra ui

    if not curves:
        raise ValueError("curves must hold at least one curve, got none")
    figure = Figure(figsize=(2.5 * len(curves), 2.7), facecolor="white")
    panels = figure.subplots(1, len(curves), squeeze=False)[0]
    figure.subplots_adjust(0.22 / len(curves), 0.18, 0.995, 0.86, wspace=0.26)
    for axes, curve in zip(panels, curves, strict=True):
        _panel(axes, curve)
    panels[0].set_ylabel("seconds", color=TEXT, fontsize=10)
    panels[0].legend(frameon=False, fontsize=9, labelcolor=TEXT, loc="upper left")
    figure.text(0.22 / len(curves), 0.93, title, color=TEXT, fontsize=11)
    return figure


def _panel(axes: Axes, curve: Curve) -> None:
    from matplotlib.ticker import NullLocator

    from dear.visual.plots import ACCENT

    axes.fill_between(curve.values, curve.low, curve.high, color=ACCENT, alpha=0.2, linewidth=0)
    axes.plot(
        curve.values, curve.median, color=ACCENT, marker="o", markersize=3.5, linewidth=1.6, label="prompt to waveform"
    )
    axes.plot(curve.values, curve.decode, color=FAINT, marker="o", markersize=2.5, linewidth=1, label="decoding")
    if curve.name != "length":
        axes.set_xscale("log", base=2)
        axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(curve.values, [f"{value:g}" for value in curve.values])
    axes.set_ylim(0, max(curve.high) * 1.3)
    axes.set_xlabel(TITLES.get(curve.name, curve.name), color=TEXT, fontsize=10)
    axes.tick_params(colors=TEXT, labelsize=9, length=3, width=0.7)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(FAINT)


def check_picture(path: Path, option: str = "--curves") -> Path:
    """The path of a picture. Raises ValueError for an unknown suffix or a missing directory."""
    if path.suffix.lower() not in SUFFIXES or not path.parent.is_dir():
        raise ValueError(f"{option} must be a .png or .svg file in an existing directory, got {str(path)!r}")
    return path


def save_figure(figure: Figure, path: Path) -> None:
    """Write the figure atomically."""
    write_atomically(path, lambda file: figure.savefig(file, format=path.suffix[1:].lower(), dpi=160))
