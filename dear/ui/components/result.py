"""A generation as HTML, in progress or finished: what it took, its settings and its pictures."""

from __future__ import annotations

import html

import numpy as np

from dear.config import Config
from dear.output import Output
from dear.ui.components.pictures import FILM_BUTTON, figure, film, seconds_text
from dear.ui.components.runs import progress_bar
from dear.ui.link import write_link
from dear.visual import plots

STAGES = {"text": "text", "decode": "tokens", "codec": "codec", "vocoder": "vocoder"}


DERIVED = {
    "negative_prompt": "negative prompt",
    "seconds": "length in seconds",
    "strength": "strength of the variation",
    "loop": "seconds redrawn at either end",
    "changes": "after the generation",
    "candidates": "best of candidates",
    "judge": "chosen by",
}


def progress(out: Output, remaining: float) -> str:
    """The iteration that a generation has reached, the seconds left, and its settings."""
    text = f"Iteration {out.iteration} of {out.iterations} <span>about {max(remaining, 1):.0f} s left</span>"
    return progress_bar(text, out.iteration / out.iterations) + _settings(out)


def facts(one: Output, out: Output) -> str:
    """Seconds per stage, the real-time factor, the settings of ``one`` sound of ``out``, and a link to them."""
    # Not the pipeline's total, which includes the time that the page spent on its pictures.
    seconds = {name: one.timings[stage] for stage, name in STAGES.items()}
    total = sum(seconds.values())
    duration = len(out) * one.sound.shape[-1] / one.sample_rate
    factor = total / duration
    speed = f"{1 / factor:.1f}× faster" if factor <= 1 else f"{factor:.1f}× slower"
    stages = "".join(
        f'<span class="dear-stage-{i}" style="flex-grow:{each / total:.4f}"></span>'
        for i, each in enumerate(seconds.values())
    )
    legend = "".join(
        f'<li><i class="dear-stage-{i}"></i>{name} {seconds_text(each)}</li>'
        for i, (name, each) in enumerate(seconds.items())
    )
    legend += '<li class="dear-click"></li>'  # filled in by the browser
    return (
        f'<div class="dear-facts"><p class="dear-headline" role="status"><strong>{duration:.1f} s of sound in '
        f"{total:.2f} s</strong>, {speed} than real time <span>(real-time factor {factor:.2f})</span></p>"
        f'<div class="dear-stages" aria-hidden="true">{stages}</div><ul class="dear-legend">{legend}</ul>'
        f"</div>{_settings(one)}{_link(one)}"
    )


def _link(one: Output) -> str:
    """A link to all that the sound follows from."""
    return (
        f'<p class="dear-after"><a class="dear-link" href="{html.escape(write_link(one))}">'
        "Copy a link to this prompt and these settings</a></p>"
    )


def _settings(out: Output) -> str:
    """Everything that a sound follows from."""
    settings = {
        "prompt": out.prompts[0],
        "seed": out.seed,
        "CFG scale": f"{out.settings['cfg_scale']:g}",
        "iterations": out.settings["iterations"],
        "temperature": f"{out.settings['temperature']:g}",
        "steps": out.settings["steps"],
        **{name: out.settings[key] for key, name in DERIVED.items() if key in out.settings},
        "model": f"{out.settings['model']} {out.settings['variant']}",
    }
    rows = "".join(
        f"<div><dt>{name}</dt><dd><bdi>{html.escape(str(value))}</bdi></dd></div>" for name, value in settings.items()
    )
    return f'<dl class="dear-used">{rows}</dl>'


def pictures(config: Config, out: Output) -> str:
    """The pictures of one sound, finished or in progress, on one time axis."""
    seconds = out.mel.shape[1] * config.mel.hop_length / config.mel.sample_rate
    figures = []
    if out.waveform is None:
        figures.append(_pending("Waveform", plots.waveform_figure(np.zeros(2), 2, seconds)))
    else:
        wave = out.waveform[0].numpy()
        drawn = plots.waveform_figure(wave, out.sample_rate, seconds)
        figures.append(figure("Waveform", "", drawn, f"Waveform, peak {abs(wave).max():.2f} of 1", seconds))
    drawn = plots.mel_figure(out.mel[0].numpy(), config.mel)
    alt = f"Mel spectrogram, {config.mel.f_min:g} to {config.mel.f_max:g} hertz over {seconds:.1f} seconds"
    known = int((out.order[0] >= 0).sum())
    finished = out.waveform is not None and out.iteration == out.iterations
    whole = not {"seconds", "loop"} & set(out.settings)  # else the tokens are those of a part
    films = {"attributes": film(out, config.grid[1], drawn), "action": FILM_BUTTON} if finished and whole else {}
    figures.append(figure("Mel spectrogram", f"{config.mel.n_mels} bands", drawn, alt, seconds, smooth=True, **films))
    if not whole:
        return f'<div class="dear-pictures">{"".join(figures)}</div>'
    if finished:
        drawn = plots.latents_figure(out.latents[0].numpy(), seconds)
        alt = f"Latents of the {config.length} tokens over time, {config.vae.token_dim} values each"
        note = f"{config.length} tokens of {config.vae.token_dim} values"
        figures.append(figure("Latents", note, drawn, alt, seconds))
    else:
        figures.append(_pending("Latents", plots.latents_figure(np.zeros((2, 2)), seconds)))
    drawn = plots.order_figure(out.order[0].numpy(), out.iterations, config.grid, seconds)
    alt = f"Iteration, 1 to {out.iterations}, in which each token was drawn; {known} of {config.length} drawn"
    attributes = film(out, config.grid[1], drawn) if finished else ""
    figures.append(figure("Decoding order", "the iteration of each token", drawn, alt, seconds, attributes=attributes))
    return f'<div class="dear-pictures">{"".join(figures)}</div>'


def _pending(title: str, drawn: plots.Figure) -> str:
    """The place of a picture that comes last, as large as ``drawn``, so that the pictures below it do not move."""
    width, height = drawn.get_size_inches()
    return (
        f"<figure><figcaption>{title} <span>at the end</span></figcaption>"
        f'<div class="dear-pending" style="aspect-ratio:{width:g}/{height:g}"></div></figure>'
    )
