"""Figures of sounds: pure functions from arrays to matplotlib figures with a common time axis.

Figures use matplotlib's object-oriented interface, so several threads may draw at once. The background is transparent,
and the text is a middle grey that is legible on white and on black; :func:`to_svg` turns that grey into
``currentColor``, the text colour of the page. All time figures have the same margins, so that their seconds line up.
"""

from __future__ import annotations

import html
import io
import math
import re
import textwrap
import threading
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from dear.config import MelConfig
from dear.melscale import hertz_to_mel

INK = "#6f777d"  # text and ticks: contrast above 4 on white and on near-black
ACCENT = "#2b8f8a"
CARD = "#101a20"  # behind a card
UNDRAWN = "#8a929933"  # a token that is not known yet
DECIBELS = 20 / math.log(10)  # natural logarithm of a magnitude -> decibels

LOUDNESS_COLOURS = ["#0c1116", "#14283a", "#1a4a63", "#1f757d", "#42a68a", "#9dd39a", "#f4f8d6"]
LOUDNESS = LinearSegmentedColormap.from_list("dear-loudness", LOUDNESS_COLOURS)
SIGNED = LinearSegmentedColormap.from_list(
    "dear-signed", ["#164a5c", "#2b8f8a", "#9fcfc6", "#f3f1ea", "#ecc39a", "#cf7f4d", "#7d3b24"]
)
SEQUENCE = LinearSegmentedColormap.from_list("dear-sequence", ["#17324a", "#1f757d", "#5fb88a", "#e6e27a"])

WIDTH = 7.4  # inches, every time figure
LEFT, RIGHT = 0.08, 0.915  # the plotted area as fractions of the width
_SVG_LOCK = threading.Lock()


def waveform_figure(waveform: ArrayLike, sample_rate: int, seconds: float | None = None) -> Figure:
    """The envelope (lowest and highest sample of each column) of one sound.

    waveform [S] in [-1, 1]; ``sample_rate`` in Hz; ``seconds``: length of the time axis, by default that of the sound.
    The vertical axis ends at the smallest of 0.1, 0.25, 0.5 and 1 that is not below the peak.
    """
    samples = _array(waveform, 1, "waveform", "[S]")
    duration = len(samples) / sample_rate
    figure, axes = _time_axes(0.9, seconds or duration)
    starts = np.linspace(0, len(samples), min(len(samples), 900), endpoint=False).astype(int)
    times = (starts + np.diff(starts, append=len(samples)) / 2) / sample_rate
    low, high = np.minimum.reduceat(samples, starts), np.maximum.reduceat(samples, starts)
    peak = float(np.abs(samples).max())
    limit = next((limit for limit in (0.1, 0.25, 0.5) if peak <= limit), 1.0)
    hair = limit / 250  # silence shows as a line
    axes.fill_between(times, low - hair, high + hair, color=ACCENT, linewidth=0)
    axes.set_ylim(-limit * 1.06, limit * 1.06)
    axes.set_yticks([-limit, 0, limit], [_text(-limit), "0", _text(limit)])
    return figure


def mel_figure(
    mel: ArrayLike, config: MelConfig, limits: tuple[float, float] = (-80.0, 10.0), height: float = 2.05
) -> Figure:
    """A mel spectrogram in decibels.

    mel [F, M], natural logarithm of magnitudes; ``limits``: decibels of the darkest and of the brightest colour;
    ``height`` of the picture without its axis, in inches.
    """
    values = _array(mel, 2, "mel", "[F, M]")
    seconds = len(values) * config.hop_length / config.sample_rate
    figure, axes = _time_axes(height, seconds)
    _mel_image(axes, values, config, seconds, limits)
    _hertz_ticks(axes, config)
    low, high = limits
    _colour_bar(figure, axes, LOUDNESS, {0.0: _text(low), 0.5: _text((low + high) / 2), 1.0: f"{_text(high)} dB"})
    return figure


def mel_strip(mel: ArrayLike, config: MelConfig, limits: tuple[float, float] = (-80.0, 10.0)) -> Figure:
    """A mel spectrogram without axes, to be compared with others of the same ``limits``: see :func:`mel_figure`."""
    values = _array(mel, 2, "mel", "[F, M]")
    figure = Figure(figsize=(3.2, 1.0), facecolor="none")
    axes = figure.add_axes((0, 0, 1, 1))
    _mel_image(axes, values, config, len(values) * config.hop_length / config.sample_rate, limits)
    axes.set_axis_off()
    return figure


def latents_figure(latents: ArrayLike, seconds: float) -> Figure:
    """Continuous tokens [L, D], or latents [Z, F', M'] (Z channels over time x frequency), over ``seconds``.

    Time runs to the right; the rows are components, those of one channel beside each other. The colours are symmetric
    about 0 and end at the 99.5th percentile of the absolute values.
    """
    values = np.asarray(latents, dtype=np.float32)
    if values.ndim == 3:
        rows = values.transpose(0, 2, 1).reshape(-1, values.shape[1])  # [Z * M', F']
    else:
        rows = _array(values, 2, "latents", "[L, D] or [Z, F', M']").T  # [D, L]
    figure, axes = _time_axes(1.45, seconds)
    limit = float(np.percentile(np.abs(rows), 99.5)) or 1.0
    _image(axes, rows, SIGNED, (-limit, limit), seconds)
    axes.set_yticks([0, len(rows) - 1], ["1", str(len(rows))])
    _colour_bar(figure, axes, SIGNED, {0.0: _text(-limit), 0.5: "0", 1.0: _text(limit)})
    return figure


def order_figure(order: ArrayLike, iterations: int, grid: tuple[int, int], seconds: float) -> Figure:
    """The iteration that drew each token.

    order [L] with values from 0 to ``iterations`` - 1, or -1 for a token that is given or not drawn yet (grey);
    ``grid``: tokens along time and along frequency (their product is L; token i lies at divmod(i, grid[1])).
    """
    values = _array(order, 1, "order", "[L]")
    if values.size != grid[0] * grid[1]:
        raise ValueError(f"order must hold one value for each token of the grid {grid}, got {values.size}")
    cells = np.ma.masked_less(values.reshape(grid).T + 1, 1)  # [grid[1], grid[0]], iterations from 1
    figure, axes = _time_axes(0.6 if grid[1] == 1 else 1.45, seconds)
    axes.set_facecolor(UNDRAWN)
    _image(axes, cells, SEQUENCE, (0.5, iterations + 0.5), seconds)
    axes.set_yticks([])
    _colour_bar(figure, axes, SEQUENCE, {0.0: "1", 1.0: str(iterations)} if iterations > 1 else {0.5: "1"})
    return figure


def spectrogram_grid(
    real: Sequence[ArrayLike],
    generated: Sequence[ArrayLike],
    labels: Sequence[str],
    config: MelConfig,
    titles: tuple[str, str] = ("recorded", "generated"),
    limits: tuple[float, float] = (-80.0, 10.0),
) -> Figure:
    """Mel spectrograms side by side: one row per label, with the real clip on the left and the generated one on the
    right.

    real, generated: mels [F, M], natural logarithm, one per label. The background is white, for pages that cannot be
        themed.
    """
    if not len(real) == len(generated) == len(labels) > 0:
        raise ValueError(
            "real, generated and labels must be of one length above 0, "
            f"got {len(real)}, {len(generated)} and {len(labels)}"
        )
    rows = len(labels)
    figure = Figure(figsize=(11, 0.95 * rows + 0.55), facecolor="white")
    height = 0.95 * rows + 0.55
    cells = figure.subplots(rows, 2, squeeze=False, sharex=True)
    figure.subplots_adjust(0.125, 0.34 / height, 0.93, 1 - 0.24 / height, wspace=0.05, hspace=0.14)
    for row, (pair, label) in enumerate(zip(zip(real, generated, strict=True), labels, strict=True)):
        for axes, mel in zip(cells[row], pair, strict=True):
            values = _array(mel, 2, "mel", "[F, M]")
            _mel_image(axes, values, config, len(values) * config.hop_length / config.sample_rate, limits)
            _style(axes)
            axes.set_yticks([])
            axes.tick_params(bottom=row == rows - 1, labelbottom=row == rows - 1)
        cells[row, 0].set_ylabel(label, rotation=0, ha="right", va="center", color="#22292e", fontsize=10)
    for axes, title in zip(cells[0], titles, strict=True):
        axes.set_title(title, color="#22292e", fontsize=10, loc="left", pad=5)
    for axes in cells[-1]:
        _seconds_ticks(axes, axes.get_xlim()[1])
    bar = figure.add_axes((0.942, 0.34 / height, 0.007, 1 - 0.58 / height))
    low, high = limits
    _gradient(bar, LOUDNESS, {0.0: _text(low), 1.0: f"{_text(high)} dB"})
    return figure


def card_figure(mel: ArrayLike, config: MelConfig, title: str) -> Figure:
    """A card to share, 1200 by 630 pixels: the title over the mel spectrogram. mel [F, M] as for :func:`mel_figure`."""
    values = _array(mel, 2, "mel", "[F, M]")
    figure = Figure(figsize=(12, 6.3), dpi=100, facecolor=CARD)
    axes = figure.add_axes((0, 0, 1, 0.74))
    _mel_image(axes, values, config, len(values) * config.hop_length / config.sample_rate, (-80.0, 10.0))
    axes.set_axis_off()
    lines = textwrap.wrap(title, 46, max_lines=2, placeholder=" …") or [""]
    size = 40 if len(title) <= 34 else 28  # larger letters would be cut off at the edge
    text = "\n".join(lines)
    figure.text(0.04, 0.885, text, size=size, color="white", va="center", linespacing=1.25, parse_math=False)
    figure.text(0.96, 0.775, "AudioDEAR", size=15, color="#9fcfc6", va="center", ha="right")
    return figure


def to_png(figure: Figure) -> bytes:
    """The figure as a PNG, at its own resolution."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


def to_svg(figure: Figure, label: str) -> str:
    """The figure as one scalable ``<svg>`` element for a page, with text in the page's font and colour.

    label: the text for screen readers. The same figure gives the same text.
    """
    buffer = io.StringIO()
    # The SVG backend reads these options from matplotlib's global table, hence the lock.
    with _SVG_LOCK, matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "dear"}):
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # Remove what would affect the rest of a page: rules for all elements, names of groups, a font.
    text = re.sub(r"<(metadata|style).*?</\1>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*">', "<g>", text)
    text = re.sub(r" font-family: [^;\"]*;", "", text)
    text = text.replace(INK, "currentColor")
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    return text.replace("<svg", f'<svg role="img" aria-label="{html.escape(label)}"', 1)


def _array(values: ArrayLike, dimensions: int, name: str, shape: str) -> NDArray[np.float32]:
    array = np.asarray(values, dtype=np.float32)
    if array.ndim != dimensions or array.size == 0:
        raise ValueError(f"{name} must be of shape {shape} and not empty, got {list(array.shape)}")
    return array


def _text(number: float) -> str:
    """Two digits, with a true minus sign."""
    return f"{number:.2g}".replace("-", "−")


def _time_axes(height: float, seconds: float) -> tuple[Figure, Axes]:
    """A figure of the plotted ``height`` in inches, whose horizontal axis runs from 0 to ``seconds``."""
    bottom, top = 0.25, 0.08  # inches for the seconds below and half a letter above
    total = height + bottom + top
    figure = Figure(figsize=(WIDTH, total), facecolor="none")
    axes = figure.add_axes((LEFT, bottom / total, RIGHT - LEFT, height / total))
    _style(axes)
    axes.set_xlim(0, seconds)
    _seconds_ticks(axes, seconds)
    return figure, axes


def _style(axes: Axes) -> None:
    axes.set_facecolor("none")
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(colors=INK, labelsize=8.5, length=3, width=0.7, pad=3)


def _seconds_ticks(axes: Axes, seconds: float) -> None:
    step = next((step for step in (0.1, 0.5, 1, 2, 5, 10, 30) if seconds / step <= 6), 60)
    ticks = np.arange(0, seconds + 1e-6, step)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks[:-1]] + [f"{ticks[-1]:g} s"])


def _image(axes: Axes, rows: NDArray, colours: Colormap, limits: tuple[float, float], seconds: float) -> None:
    """rows [vertical, horizontal], the first row at the bottom; one unit of the vertical axis is one row."""
    axes.imshow(
        rows,
        cmap=colours,
        vmin=limits[0],
        vmax=limits[1],
        origin="lower",
        aspect="auto",
        interpolation="none",  # unchanged, since the viewer of the SVG scales it
        extent=(0, seconds, -0.5, len(rows) - 0.5),
    )


def _mel_image(axes: Axes, values: NDArray, config: MelConfig, seconds: float, limits: tuple[float, float]) -> None:
    if values.shape[1] != config.n_mels:
        raise ValueError(f"mel must have {config.n_mels} bins, got {values.shape[1]}")
    _image(axes, values.T * DECIBELS, LOUDNESS, limits, seconds)


def _hertz_ticks(axes: Axes, config: MelConfig) -> None:
    """Marks at the bins whose centres have round frequencies (Slaney's mel scale, as in the filters)."""
    low, high = (float(hertz_to_mel(hertz)) for hertz in (config.f_min, config.f_max))
    hertz = [hertz for hertz in (500, 1000, 2000, 4000) if config.f_min < hertz < config.f_max]
    marks = [float(hertz_to_mel(each)) for each in hertz]
    bins = [(mark - low) / (high - low) * (config.n_mels + 1) - 1 for mark in marks]
    names = [f"{each / 1000:g}" for each in hertz[:-1]] + [f"{each / 1000:g} kHz" for each in hertz[-1:]]
    axes.set_yticks(bins, names)


def _colour_bar(figure: Figure, axes: Axes, colours: Colormap, labels: dict[float, str]) -> None:
    """A bar right of the axes. ``labels``: height from 0 to 1 -> text."""
    place = axes.get_position()
    _gradient(figure.add_axes((RIGHT + 0.012, place.y0, 0.009, place.height)), colours, labels)


def _gradient(axes: Axes, colours: Colormap, labels: dict[float, str]) -> None:
    _style(axes)
    axes.imshow(
        np.linspace(0, 1, 128)[:, None], cmap=colours, origin="lower", aspect="auto", extent=(0, 1, 0, 1),
        interpolation="none",
    )  # fmt: skip
    axes.set_xticks([])
    axes.yaxis.tick_right()
    axes.tick_params(length=0)
    axes.set_yticks(list(labels), list(labels.values()))
    for height, text in zip(labels, axes.get_yticklabels(), strict=True):
        text.set_verticalalignment("bottom" if height == 0 else "top" if height == 1 else "center")
