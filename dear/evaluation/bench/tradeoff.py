"""A picture of accuracy by a judge over speed, with one point per setting."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dear.evaluation.bench.curves import FAINT, TEXT

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def tradeoff_figure(rows: Sequence[Mapping[str, Any]], judge: str, exact: str) -> Figure:
    """Accuracy over decoding speed, relative to the row named ``exact``, which a ring marks, on a white background.

    rows: those of ``dear.evaluation.savings``. Bars are one binomial standard error of the clips of a row.
    """
    from matplotlib.figure import Figure  # of the extra ui

    from dear.visual.plots import ACCENT

    if not rows:
        raise ValueError("rows must hold at least one row, got none")
    figure = Figure(figsize=(6.4, 4.2), facecolor="white")
    axes = figure.subplots()
    for row in rows:
        speed, accuracy = row["speed_up"], 100 * row["accuracy"]
        error = 100 * math.sqrt(row["accuracy"] * (1 - row["accuracy"]) / row["clips"])
        axes.errorbar(speed, accuracy, error, color=ACCENT, marker="o", markersize=4, linewidth=0, elinewidth=0.7)
        axes.annotate(row["name"], (speed, accuracy), (4, 4), textcoords="offset points", color=TEXT, fontsize=7)
        if row["name"] == exact:
            axes.plot(speed, accuracy, marker="o", markersize=10, markerfacecolor="none", color=TEXT, linewidth=0)
    axes.set_xlabel("decoding speed, exact = 1", color=TEXT, fontsize=10)
    axes.set_ylabel(f"accuracy in % ({judge})", color=TEXT, fontsize=10)
    axes.tick_params(colors=TEXT, labelsize=9, length=3, width=0.7)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(FAINT)
    figure.tight_layout()
    return figure
