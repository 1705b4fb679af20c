"""Pictures of sounds as HTML: figures on a common time axis, films of a generation, small spectrograms."""

from __future__ import annotations

from dear.config import MelConfig
from dear.output import Output
from dear.visual import plots

FILM_BUTTON = '<button type="button" class="dear-film">Watch it being drawn</button>'  # plays all films beside it
LOUDNESS_SCALE = '<div class="dear-scale-bar"><span>−80 dB</span><i></i><span>10 dB</span></div>'


def figure(
    title: str,
    note: str,
    drawn: plots.Figure,
    alt: str,
    seconds: float,
    smooth: bool = False,
    attributes: str = "",
    action: str = "",
) -> str:
    """One picture with its title. A line runs over it while the player beside it plays.

    attributes: of the picture's element, such as those of :func:`film`; action: HTML at the end of the title.
    """
    return (
        f'<figure><figcaption>{title} <span>{note}</span>{action}</figcaption><div class="dear-plot'
        f'{" dear-smooth" if smooth else ""}" data-seconds="{seconds}"{attributes}>{plots.to_svg(drawn, alt)}'
        "</div></figure>"
    )


def film(out: Output, rows: int, drawn: plots.Figure) -> str:
    """Attributes of a picture that the browser covers, then uncovers token by token in the order of generation.

    rows: tokens along frequency; drawn: the picture, of which the axes are covered.
    """
    order, axes = ",".join(map(str, out.order[0].tolist())), drawn.axes[0].get_position()
    style = f"--top:{1 - axes.y1:.2%};--bottom:{axes.y0:.2%}"
    return f' data-order="{order}" data-rows="{rows}" data-iterations="{out.iterations}" style="{style}"'


def strip(out: Output, config: MelConfig, alt: str) -> str:
    """The mel of a result, small and without axes. Colours mean the same loudness in every strip."""
    drawn = plots.mel_strip(out.mel[0].numpy(), config)
    return f'<div class="dear-strip">{plots.to_svg(drawn, alt)}</div>'


def seconds_text(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 0.995 else f"{1000 * seconds:.0f} ms"
