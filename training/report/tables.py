"""A table of the paper beside the figures of this project, in Markdown and as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from scipy.stats import kendalltau

from training.engine.ablation import PAPER, Row, Table

OURS = {"fd": "FD", "kl": "KL", "is": "IS", "accuracy": "accuracy"}
ACCENT, WARM = "#1f7a6d", "#d9822b"  # the paper's bars, and ours


def agreement(table: Table, found: Mapping[str, Mapping[str, Any]]) -> tuple[float, int] | None:
    """Kendall's tau of the two orders by FD, and over how many rows; None where the paper has fewer than two."""
    rows = [(row.paper[0], found[name]["fd"]) for name, row in table.rows.items() if row.paper and name in found]
    if len(rows) < 2:
        return None
    return float(kendalltau(*zip(*rows, strict=True)).statistic), len(rows)


def markdown(number: str, table: Table, found: Mapping[str, Mapping[str, Any]]) -> str:
    """found: what was measured of each row."""
    heads = [table.column, *(f"{name} (paper)" for name in PAPER), *(f"{name} (ours)" for name in OURS.values())]
    lines = [f"Table {number}: {table.title}", "", f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for name, row in table.rows.items():
        ours = found.get(name, {})
        cells = [name, *_paper(row), *(_shown(ours.get(key)) for key in OURS)]
        lines.append(f"| {' | '.join(cells)} |")
    some = next(iter(found.values()))
    lines += ["", f"{some['clips']} clips in each row, one candidate each; judge: {some['judge']}.", ""]
    lines.append(f"The paper's claim: {table.claim}.")
    if tau := agreement(table, found):
        lines.append(f"Agreement of the two orders by FD (Kendall's tau): {tau[0]:.2f} over {tau[1]} rows.")
    return "\n".join(lines) + "\n"


def _paper(row: Row) -> Sequence[str]:
    return [f"{value:g}" for value in row.paper] or [""] * len(PAPER)


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def picture(number: str, table: Table, found: Mapping[str, Mapping[str, Any]]) -> Figure:
    """FD of each row: the paper's, and ours, whose judges and data differ, so on scales of their own."""
    names = list(table.rows)
    figure = Figure(figsize=(8, 0.9 + 0.32 * len(names)), facecolor="white", layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    published = [row.paper[0] if row.paper else 0.0 for row in table.rows.values()]
    ours = [found[name]["fd"] if name in found else 0.0 for name in names]
    for axes, values, label, colour in zip(
        panels, (published, ours), ("FD, the paper", "FD, ours"), (ACCENT, WARM), strict=True
    ):
        bars = axes.barh(names, values, color=colour)
        axes.bar_label(bars, [f"{value:.3g}" if value else "" for value in values], padding=3, fontsize=8)
        axes.set_title(label, fontsize=9, loc="left")
        axes.margins(x=0.15)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    panels[0].invert_yaxis()  # shared by both
    figure.suptitle(f"Table {number}: {table.title}", fontsize=10)
    return figure
