"""Small figures that explain the method: pure functions from arrays to SVG without axes.

The background is transparent, the colours are legible on white and on black, and the pictures scale with the page.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from dear.visual.plots import ACCENT, INK, SIGNED, UNDRAWN

WARM = "#cf7f4d"  # everything except the data, which is in ACCENT
_SIDE = 1000  # units of a scatter's side


def scatter_svg(sets: Sequence[tuple[ArrayLike, str]], reach: float, label: str) -> str:
    """Sets of points [N, 2], each with its colour, in the square from -``reach`` to ``reach``.

    Points outside the square are left out. label: the text for screen readers.
    """
    paths = []
    for points, colour in sets:
        places = np.asarray(points, dtype=np.float64).reshape(-1, 2)
        places = places[(np.abs(places) <= reach).all(axis=1)]
        x, y = np.rint((places / reach * (1, -1) + 1) * _SIDE / 2).astype(int).T
        # A line of no length under a round cap is a dot: a path of them is a tenth of so many circles.
        dots = "".join(f"M{a} {b}h0" for a, b in zip(x.tolist(), y.tolist(), strict=True))
        paths.append(f'<path d="{dots}" stroke="{colour}"/>')
    return (
        f'<svg role="img" aria-label="{html.escape(label)}" viewBox="0 0 {_SIDE} {_SIDE}" fill="none" '
        f'stroke-width="11" stroke-linecap="round">{"".join(paths)}</svg>'
    )


def tokens_svg(order: ArrayLike, since: int, grid: tuple[int, int], label: str) -> str:
    """Which tokens are known: one cell each, time to the right; those drawn from iteration ``since`` on stand out.

    order [L]: the iteration, from 0, that drew each token; -1 where it is not known. ``grid``: tokens along time and
    along frequency, of product L.
    """
    times, bands = grid
    values = np.asarray(order).reshape(times, bands)
    paths = []
    for chosen, colour in (
        (values < 0, UNDRAWN),
        ((values >= 0) & (values < since), ACCENT),
        (values >= since, WARM),
    ):
        cells = "".join(f"M{time} {bands - band}v-1h.8v1z" for time, band in np.argwhere(chosen))
        paths.append(f'<path d="{cells}" fill="{colour}"/>')
    return (
        f'<svg role="img" aria-label="{html.escape(label)}" viewBox="0 0 {times} {bands}" '
        f'preserveAspectRatio="none">{"".join(paths)}</svg>'
    )


def latents_strip(latents: ArrayLike) -> Figure:
    """Latents [Z, F', M'] as one picture: time to the right, the components of each time under one another."""
    values = np.asarray(latents, dtype=np.float32)
    rows = values.transpose(0, 2, 1).reshape(-1, values.shape[1])
    limit = float(np.percentile(np.abs(rows), 97)) or 1.0
    figure, axes = _bare(3.2, 1.0)
    axes.imshow(rows, cmap=SIGNED, vmin=-limit, vmax=limit, origin="lower", aspect="auto", interpolation="none")
    return figure


def waveform_strip(waveform: ArrayLike) -> Figure:
    """The envelope of a sound [S], as high as its peak."""
    samples = np.asarray(waveform, dtype=np.float32)
    parts = np.array_split(samples, min(len(samples), 320))
    low, high = np.array([part.min() for part in parts]), np.array([part.max() for part in parts])
    figure, axes = _bare(3.2, 1.0)
    limit = float(np.abs(samples).max()) or 1.0
    axes.fill_between(range(len(parts)), low - limit / 150, high + limit / 150, color=ACCENT, linewidth=0)
    axes.set(xlim=(0, len(parts) - 1), ylim=(-1.04 * limit, 1.04 * limit))
    return figure


def score_figure(target: ArrayLike, samples: ArrayLike) -> Figure:
    """Equation (3) in the plane: the distances of two samples [2, 2] to a target [2] and to each other.

    The arrows are what the loss does to each sample, the negative gradients of its two terms: a pull towards the
    target, and as strong a push away from the other sample.
    """
    y, x = np.asarray(target, dtype=float), np.asarray(samples, dtype=float)
    figure, axes = _bare(3.4, 2.2)
    for one, other in ((x[0], x[1]), (x[1], x[0])):
        axes.plot(*zip(one, y, strict=True), color=ACCENT, linewidth=1, linestyle=(0, (4, 3)))
        for way, colour in ((y - one, ACCENT), (one - other, WARM)):
            tip = one + 0.42 * way / np.linalg.norm(way)
            axes.annotate(
                "", tip, one, arrowprops={"arrowstyle": "-|>,head_width=.22,head_length=.4", "color": colour,
                "linewidth": 2.2, "shrinkA": 0, "shrinkB": 0},
            )  # fmt: skip
        across, up = (one + y) / 2 + _aside(one, y)
        axes.text(across, up, f"{np.linalg.norm(one - y):.2f}", color=ACCENT, **_CENTRED)
    axes.plot(*x.T, color=WARM, linewidth=1, linestyle=(0, (1, 2.5)))
    across, up = x.mean(0) - (0, 0.17)
    axes.text(across, up, f"{np.linalg.norm(x[0] - x[1]):.2f}", color=WARM, **_CENTRED)
    axes.plot(*x.T, "o", color=WARM, markersize=9)
    axes.plot(*y, "o", color=ACCENT, markersize=9)
    for (across, up), name in ((y, "target"), (x[0], "sample 1"), (x[1], "sample 2")):
        axes.text(across, up + (0.19 if name == "target" else -0.2), name, color=INK, **_CENTRED)
    middle = (x.min(0) + x.max(0) + y) / 3 * (1, 0) + (0, (min(*x[:, 1]) + y[1]) / 2)
    axes.set(xlim=(middle[0] - 1.53, middle[0] + 1.53), ylim=(middle[1] - 0.99, middle[1] + 0.99))
    return figure


def spread_figure(spreads: Sequence[float], attraction: Sequence[float], score: Sequence[float]) -> Figure:
    """Both results of :func:`dear.toy.spread_scores` over the model's spread, with their minima."""
    figure = Figure(figsize=(3.4, 2.2), facecolor="none")
    axes = figure.add_axes((0.03, 0.17, 0.94, 0.79), facecolor="none")
    for values, colour, name, above in (
        (attraction, WARM, "only attraction", -1.05),
        (score, ACCENT, "with repulsion", 0.22),
    ):
        axes.plot(spreads, values, color=colour, linewidth=2)
        at = int(np.argmin(values))
        axes.plot(spreads[at], values[at], "o", color=colour, markersize=8, clip_on=False)
        axes.text(spreads[-1], values[-1] + above, name, color=colour, fontsize=9, ha="right", va="center")
    axes.set(xlim=(-0.04, spreads[-1]), yticks=[])
    axes.set_xticks([0, 1, 2], ["one point", "that of the data", "twice that"])
    names = axes.get_xticklabels()
    names[0].set_horizontalalignment("left")
    names[2].set_horizontalalignment("right")
    axes.tick_params(colors=INK, labelsize=9, length=3, width=0.7)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(INK)
    return figure


_CENTRED: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 9}


def _aside(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """A short way from the line between two points, to the outside of a triangle that stands on its base."""
    across = np.array([b[1] - a[1], a[0] - b[0]]) / np.linalg.norm(b - a)
    return 0.17 * across * (-1 if b[0] > a[0] else 1)


def _bare(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), facecolor="none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    return figure, axes
