"""The tab that turns a prompt into sound and shows how it was made, and the endpoint /generate for programs.

Annotations are evaluated here: Gradio reads from them what the endpoint takes and returns.
"""

import html
import json
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from dear import plots
from dear.output import Output
from dear.pipeline import AudioDEAR

EXAMPLES = {
    "One sound": [
        "a dog barking",
        "a rooster crowing at dawn",
        "heavy rain falling",
        "waves breaking on a beach",
        "a clock ticking steadily",
        "a chainsaw cutting wood",
    ],
    "One after the other": [
        "a dog barks, then rain falls",
        "a sneeze, then a baby cries",
        "a clock ticks, then a rooster crows",
    ],
    "At the same time": [
        "a dog barks while a fire crackles",
        "rain falls while a clock ticks",
        "a helicopter flies while a baby cries",
    ],
}
KNOWN = (
    "The bundled model has heard ten kinds of sound: dogs, roosters, rain, sea waves, crackling fires, crying babies, "
    "sneezes, ticking clocks, helicopters and chainsaws."
)
EMPTY = (
    '<div class="dear-empty"><p>Nothing generated yet.</p><p>Waveform, spectrogram, latents and the order in which '
    "the tokens were drawn will appear here, on one time axis.</p></div>"
)
STAGES = {"text": "text", "decode": "tokens", "codec": "codec", "vocoder": "vocoder"}
PICTURE_EVERY = 0.4  # seconds between pictures of a generation in progress
PICTURE_SHARE = 0.12  # of the time of a generation in progress, at most, goes into its pictures
KEEP = 3600  # seconds for which a result's file is kept for the page and the endpoint to fetch
# No caller waits for more than this many others; one generation runs at a time, for it uses all cores.
QUEUE = {"concurrency_id": "generation", "concurrency_limit": 1}
SHOW_RESULTS = (
    "() => { if (window.innerWidth < 820)"
    " document.querySelector('.dear-results')?.scrollIntoView({ behavior: 'smooth' }); }"
)


def generate_tab(model: AudioDEAR, folder: Path) -> None:
    """Lay out the tab inside the current Blocks. Files of results go into ``folder``."""
    defaults = model.sampling
    with gr.Row(equal_height=False, elem_classes="dear-tab"):
        with gr.Column(scale=4, min_width=320, elem_classes="dear-controls"):
            prompt = gr.Textbox(
                label="Prompt", placeholder="What should be heard?", lines=1, max_lines=5, autofocus=True,
                elem_id="prompt",
            )  # fmt: skip
            button = gr.Button("Generate", variant="primary", elem_id="generate")
            examples = [
                gr.Dataset(
                    components=["textbox"], samples=[[text] for text in texts], label=label, type="values",
                    layout="gallery", elem_classes="dear-examples",
                )
                for label, texts in EXAMPLES.items()
            ]  # fmt: skip
            gr.HTML(f'<p class="dear-note">{KNOWN}</p>')
            with gr.Group(elem_classes="dear-settings"):
                cfg_scale = gr.Slider(
                    0, max(10.0, defaults.cfg_scale), defaults.cfg_scale, step=0.1, label="CFG scale",
                    info="How closely to follow the prompt; 1 is without guidance.", elem_id="cfg-scale",
                )  # fmt: skip
                iterations = gr.Slider(
                    1, model.config.length, defaults.iterations, step=1, label="Iterations",
                    info=f"Passes in which the {model.config.length} tokens are drawn; fewer are faster.",
                    elem_id="iterations",
                )  # fmt: skip
                temperature = gr.Slider(
                    0, 2, defaults.temperature, step=0.05, label="Temperature",
                    info="Less is safer and plainer, more is freer.", elem_id="temperature",
                )  # fmt: skip
                with gr.Row(elem_classes="dear-seed"):
                    seed = gr.Number(0, label="Seed", precision=0, minimum=0, min_width=120, elem_id="seed")
                    dice = gr.Checkbox(True, label="🎲 Random", min_width=120, elem_id="dice")
        with gr.Column(scale=7, min_width=320, elem_classes="dear-results"):
            sound = gr.Audio(
                label="Sound", type="filepath", format="wav", interactive=False, buttons=["download"],
                waveform_options=gr.WaveformOptions(show_recording_waveform=False), elem_id="sound",
            )  # fmt: skip
            facts = gr.HTML("", elem_id="facts")
            pictures = gr.HTML(EMPTY, elem_id="pictures")

    def run(text: str, scale: float, passes: float, heat: float, number: float | None, roll: bool) -> Iterator[tuple]:
        """One generation for the page: pictures as it goes, and last the sound."""
        began = time.perf_counter()
        drawn_at, drawing = began, 0.0
        try:
            for out in model.stream(
                text, cfg_scale=scale, iterations=passes, temperature=heat, seed=None if roll else number
            ):
                now = time.perf_counter()
                if out.waveform is not None:
                    # The sound does not wait for its pictures.
                    yield gr.Audio(store(out, folder)), _facts(model, out), gr.skip(), out.seed
                    yield gr.skip(), gr.skip(), _pictures(model, out), gr.skip()
                elif now - drawn_at >= PICTURE_EVERY and drawing <= PICTURE_SHARE * (now - began):
                    view = _pictures(model, out)
                    drawn_at = time.perf_counter()
                    drawing += drawn_at - now
                    yield gr.Audio(None), _progress(out), view, gr.skip()
        except (ValueError, FloatingPointError) as error:
            raise gr.Error(str(error), print_exception=False) from None

    def generate(
        prompt: str,
        cfg_scale: float | None = None,
        iterations: int | None = None,
        temperature: float | None = None,
        seed: int | None = None,
    ) -> tuple[gr.FileData, dict[str, Any]]:
        """Generate ten seconds of sound from a prompt. Returns the WAV file, and the seed, settings and seconds."""
        try:
            out = model.generate(prompt, cfg_scale=cfg_scale, iterations=iterations, temperature=temperature, seed=seed)
        except (ValueError, FloatingPointError) as error:
            raise gr.Error(str(error), print_exception=False) from None
        path = store(out, folder)
        facts = {"seed": out.seed, "settings": out.settings, "timings": out.timings}
        return gr.FileData(path=path, orig_name=Path(path).name, mime_type="audio/wav"), facts

    gr.on(
        [button.click, prompt.submit],
        run,
        [prompt, cfg_scale, iterations, temperature, seed, dice],
        [sound, facts, pictures, seed],
        show_progress="minimal",
        show_progress_on=[facts],
        api_visibility="private",
        **QUEUE,
    )
    gr.on([button.click, prompt.submit], None, js=SHOW_RESULTS, api_visibility="private")
    # In the browser itself, so that Generate may be pressed in the same breath. A Dataset's value is an index there.
    for each, texts in zip(examples, EXAMPLES.values(), strict=True):
        each.click(None, each, prompt, js=f"(index) => {json.dumps(texts)}[index]", api_visibility="private")
    # Typing a seed means wanting that seed.
    seed.input(None, None, dice, js="() => false", api_visibility="private")
    gr.api(generate, api_name="generate", **QUEUE)


def store(out: Output, folder: Path) -> str:
    """Write a result as 16-bit WAV into a folder of its own inside ``folder``, and forget results that are old."""
    for old in folder.iterdir():
        if time.time() - old.stat().st_mtime > KEEP:
            shutil.rmtree(old, ignore_errors=True)
    words = re.sub(r"[^a-z0-9]+", "-", out.prompts[0].lower()).strip("-")[:48].strip("-") or "sound"
    path = Path(tempfile.mkdtemp(dir=folder)) / f"{words}-{out.seed}.wav"
    out.save(path)
    return str(path)


def _progress(out: Output) -> str:
    share = 100 * out.iteration / out.iterations
    return (
        f'<div class="dear-facts" role="status"><p class="dear-headline">Iteration {out.iteration} of '
        f'{out.iterations}</p><div class="dear-bar"><span style="width:{share:.1f}%"></span></div></div>'
    )


def _facts(model: AudioDEAR, out: Output) -> str:
    """What it took: seconds per stage, the real-time factor, and the settings that give this sound again."""
    # Not the pipeline's total: the time that the page itself took for its pictures would be part of that.
    seconds = {name: out.timings[stage] for stage, name in STAGES.items()}
    total = sum(seconds.values())
    duration = out.waveform.shape[-1] / out.sample_rate
    factor = total / duration
    pace = f"{1 / factor:.1f}× faster" if factor <= 1 else f"{factor:.1f}× slower"
    stages = "".join(
        f'<span class="dear-stage-{i}" style="flex-grow:{each / total:.4f}"></span>'
        for i, each in enumerate(seconds.values())
    )
    legend = "".join(
        f'<li><i class="dear-stage-{i}"></i>{name} {_duration(each)}</li>'
        for i, (name, each) in enumerate(seconds.items())
    )
    settings = {
        "seed": out.seed,
        "CFG scale": f"{out.settings['cfg_scale']:g}",
        "iterations": out.settings["iterations"],
        "temperature": f"{out.settings['temperature']:g}",
        "model": f"{model.config.name} {model.variant}",
    }
    listed = "".join(
        f"<div><dt>{name}</dt><dd>{html.escape(str(value))}</dd></div>" for name, value in settings.items()
    )
    return (
        f'<div class="dear-facts" role="status"><p class="dear-headline"><strong>{duration:.1f} s of sound in '
        f"{total:.2f} s</strong>, {pace} than real time <span>(real-time factor {factor:.2f})</span></p>"
        f'<div class="dear-stages" aria-hidden="true">{stages}</div><ul class="dear-legend">{legend}</ul>'
        f"<dl>{listed}</dl></div>"
    )


def _duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 0.995 else f"{1000 * seconds:.0f} ms"


def _pictures(model: AudioDEAR, out: Output) -> str:
    """The pictures of one result, or of one in progress, under one another on one time axis."""
    config = model.config
    seconds = config.mel.frames * config.mel.hop_length / config.mel.sample_rate
    shown = []
    if out.waveform is not None:
        wave = out.waveform[0].numpy()
        figure = plots.waveform_figure(wave, out.sample_rate, seconds)
        shown.append(_figure("Waveform", "", figure, f"Waveform, peak {abs(wave).max():.2f} of 1", seconds))
    figure = plots.mel_figure(out.mel[0].numpy(), config.mel)
    alt = f"Mel spectrogram, {config.mel.f_min:g} to {config.mel.f_max:g} hertz over {seconds:.1f} seconds"
    shown.append(_figure("Mel spectrogram", f"{config.mel.n_mels} bands", figure, alt, seconds))
    known = int((out.order[0] >= 0).sum())
    if known == config.length:
        latents = out.latents[0].numpy()
        figure = plots.latents_figure(latents, seconds)
        alt = f"Latents of the {config.length} tokens over time, {config.vae.token_dim} values each"
        note = f"{config.length} tokens of {config.vae.token_dim} values"
        shown.append(_figure("Latents", note, figure, alt, seconds))
    figure = plots.order_figure(out.order[0].numpy(), out.iterations, config.grid, seconds)
    alt = f"Iteration, 1 to {out.iterations}, in which each token was drawn; {known} of {config.length} drawn"
    note = "the iteration of each token"
    shown.append(_figure("Decoding order", note, figure, alt, seconds))
    return f'<div class="dear-pictures">{"".join(shown)}</div>'


def _figure(title: str, note: str, figure: plots.Figure, alt: str, seconds: float) -> str:
    smooth = " dear-smooth" if title == "Mel spectrogram" else ""
    return (
        f'<figure><figcaption>{title} <span>{note}</span></figcaption><div class="dear-plot{smooth}" '
        f'data-seconds="{seconds}">{plots.to_svg(figure, alt)}</div></figure>'
    )
