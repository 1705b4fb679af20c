"""The tab that changes a sound: a region of it drawn anew from a prompt, or what follows its end."""

from __future__ import annotations

import html
import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from dear.audio import AudioError, read_channels
from dear.config import MelConfig
from dear.output import Output
from dear.pipeline import AudioDEAR
from dear.ui.assets import load
from dear.ui.components import parts
from dear.ui.components.controls import cfg_slider, iterations_slider, steps_slider, temperature_slider
from dear.ui.components.parts import QUIET, Update
from dear.ui.gpu import on_gpu
from dear.ui.shelf import Choice, Shelf
from dear.ui.tabs.generate import GenerateTab
from dear.visual import plots

LONGEST = 60.0  # seconds of a sound that comes in
GPU_SECONDS = 60  # that one edit is allowed under ZeroGPU
REDRAW, EXTEND = "Redraw a region", "Continue past the end"
EMPTY = (
    '<div class="dear-empty"><p>No sound yet.</p><p>Upload one, record one, or send one from Generate: its spectrogram '
    "appears here, with the region that will be drawn anew.</p></div>"
)
# In the order of the page, and of the arguments of a run.
CONTROLS: dict[str, Callable[..., Any]] = {
    "cfg-scale": cfg_slider,
    "iterations": iterations_slider,
    "temperature": temperature_slider,
    "steps": steps_slider,
}
# The region follows the sliders at once, without asking the server.
MOVE = load("move.js").rstrip()


def edit_tab(shelf: Shelf, chosen: gr.Textbox, folder: Path, generate: GenerateTab, tabs: gr.Tabs) -> dict[Any, Update]:
    """Lay out the tab inside the current Blocks. Files of results go into ``folder``."""
    with gr.Row(equal_height=False, elem_classes="dear-tab"):
        with gr.Column(scale=4, min_width=320, elem_classes="dear-controls"):
            source = gr.Audio(
                label="Start from a sound of at most a minute", type="filepath", sources=["upload", "microphone"],
                editable=False, buttons=[],
                waveform_options=gr.WaveformOptions(show_recording_waveform=False), elem_id="edit-sound",
            )  # fmt: skip
            mode = gr.Radio(
                [REDRAW, EXTEND], value=REDRAW, label="What to do", elem_id="edit-mode", elem_classes="dear-pick"
            )
            prompt = parts.prompt_box("edit-prompt", "What should be heard there?")
            button, stop = parts.go_row("Redraw", "edit")
            with gr.Group(elem_classes="dear-settings"):
                start = gr.Slider(0, 10, 3, step=0.05, label="Start", info="Seconds.", elem_id="edit-start")
                end = gr.Slider(0, 10, 6, step=0.05, label="End", info="At most one clip after it.", elem_id="edit-end")
                around = gr.Slider(
                    0, 10, 0, step=0.1, label="Surroundings", elem_id="edit-around",
                    info="Seconds on either side that are heard: more fits in better, and the prompt counts less.",
                )  # fmt: skip
                more = gr.Slider(
                    1, 30, 5, step=1, label="Length", info="Seconds to add after the end.", visible=False,
                    elem_id="edit-more",
                )  # fmt: skip
                controls = {name: make(shelf.get(None), name=f"edit-{name}") for name, make in CONTROLS.items()}
                seed, lock = parts.seed_row("edit-")
        with gr.Column(scale=7, min_width=320, elem_classes="dear-results"):
            before = gr.HTML(EMPTY, elem_id="edit-map", elem_classes="dear-map")
            status = gr.HTML("", elem_id="edit-status", elem_classes="dear-status")
            sound = gr.Audio(
                label="Result", type="filepath", format="wav", interactive=False, buttons=[], visible=False,
                waveform_options=gr.WaveformOptions(show_recording_waveform=False), elem_id="edit-result",
                elem_classes="dear-sound",
            )  # fmt: skip
            with gr.Row(visible=False, elem_classes="dear-tools") as tools:
                wav = gr.DownloadButton("Download WAV", size="sm")
                flac = gr.DownloadButton("Download FLAC", size="sm")
                again = gr.Button("Edit this one", size="sm", elem_id="edit-again")
            after = gr.HTML("", elem_id="edit-after")
    path = gr.State(None)

    def look(which: str, file: str | None, what: str, first: float, last: float) -> dict[Any, Any]:
        """Show what came in, and fit the sliders to it; or say why it can't be taken. Earlier results go."""
        cleared = {status: "", sound: gr.Audio(None, visible=False), tools: gr.Row(visible=False), after: ""}
        if file is None:
            return {before: EMPTY, **cleared}
        try:
            model = shelf.get(which)
            samples, rate = read_channels(file, LONGEST)
            mel = model.log_mel(samples, rate).numpy()
        except ValueError as error:
            sentence = html.escape(str(error), quote=False)
            return {before: f'<p class="dear-refused" role="alert">{sentence}.</p>', **cleared}
        seconds = math.floor(samples.shape[1] / rate * 100) / 100
        if not first < last <= seconds:
            first, last = round(0.3 * seconds, 2), round(min(0.6 * seconds, 0.3 * seconds + _clip(model)), 2)
        return {
            **cleared,
            before: _map(model, mel, first, last, what == REDRAW),
            start: gr.Slider(maximum=max(seconds, 0.01), value=first, step=0.01),
            end: gr.Slider(
                maximum=max(seconds, 0.01), value=last, step=0.01, info=f"At most {_clip(model):g} s after the start."
            ),
        }

    @on_gpu(GPU_SECONDS)
    def draw(
        which: str, file: str | None, what: str, text: str, first: float, last: float, reach: float,
        added: float, options: dict[str, Any],
    ) -> Generator[Any, None, None]:  # fmt: skip
        """The mel's configuration, then reports of progress, and last the result."""
        with parts.told():
            model = shelf.get(which)
            if file is None:
                raise AudioError("sound must be uploaded, recorded, or sent from Generate first")
            if not Path(file).is_file():
                raise AudioError("sounds that come in are kept for an hour only: upload or send it again")
            samples, rate = read_channels(file, LONGEST)

            def call(progress: Any) -> Output:
                if what == REDRAW:
                    return model.redraw(samples, rate, first, last, text, context=reach, progress=progress, **options)
                return model.extend(samples, rate, added, text, progress=progress, **options)

            yield model.config.mel
            yield from parts.watch(call)

    def run(
        which: str, file: str | None, what: str, text: str, first: float, last: float, reach: float,
        added: float, scale: float, passes: float, heat: float, steps: float, number: float | None, keep: bool,
    ) -> Iterator[dict[Any, Any]]:  # fmt: skip
        options: dict[str, Any] = {
            "cfg_scale": scale, "iterations": passes, "temperature": heat, "steps": steps,
        }  # fmt: skip
        with parts.told():
            options["seed"] = parts.seed_of(number, keep)
        began = time.perf_counter()
        with closing(draw(which, file, what, text, first, last, reach, added, options)) as reports:
            config = next(reports)
            for report in reports:
                if isinstance(report, tuple):
                    words = f"Iteration {report[0]} of {report[1]}"
                    yield {status: parts.progress_bar(words, report[0] / report[1])}
        name = parts.store(report, folder)
        took = time.perf_counter() - began
        yield {
            stop: gr.Button(interactive=False),
            status: _told(report, took),
            sound: gr.Audio(name, visible=True),
            path: name,
            wav: gr.DownloadButton(value=name),
            flac: gr.DownloadButton(value=parts.store(report, folder, ".flac")),
            tools: gr.Row(visible=True),
            seed: report.seed,
        }
        yield {after: _pictures(config, report)}

    seen = [before, start, end, status, sound, tools, after]
    source.change(look, [chosen, source, mode, start, end], seen, **QUIET)
    for slider in (start, end):
        slider.change(None, [start, end], None, js=MOVE, api_visibility="private")
    mode.change(
        lambda what: [gr.Slider(visible=what == REDRAW)] * 3
        + [gr.Slider(visible=what == EXTEND), gr.Button("Redraw" if what == REDRAW else "Continue")],
        mode, [start, end, around, more, button], queue=False, **QUIET,
    )  # fmt: skip
    hide = f"""(what) => {{
      const plot = document.querySelector('#edit-map .dear-plot');
      if (plot) plot.dataset.region = what === {REDRAW!r} ? 'shown' : 'none';
    }}"""
    mode.change(None, mode, None, js=hide, api_visibility="private")
    triggers = [button.click, prompt.submit]
    parts.runs(
        [(triggers, run, [chosen, source, mode, prompt, start, end, around, more, *controls.values(), seed, lock])],
        [stop, status, sound, path, wav, flac, tools, seed, after], stop, status,
    )  # fmt: skip
    again.click(lambda file: _kept(file, "Redraw"), path, source, **QUIET)
    generate.use.click(
        lambda file: (_kept(file, "Generate"), gr.Tabs(selected="edit")), generate.path, [source, tabs], **QUIET
    )
    return {controls[name]: partial(_control, make, f"edit-{name}") for name, make in CONTROLS.items()}


def _kept(file: str | None, button: str) -> str:
    """A result's file, while it is there."""
    if file is None or not Path(file).is_file():
        raise parts.forgotten(button)
    return file


def _control(make: Callable[..., Any], name: str, model: AudioDEAR, _: Choice) -> Any:
    return make(model, name=name)


def _clip(model: AudioDEAR) -> float:
    return model.config.mel.samples / model.sample_rate


def _map(model: AudioDEAR, mel: Any, first: float, last: float, shown: bool) -> str:
    """The spectrogram of what came in, with the region marked."""
    config = model.config.mel
    seconds = len(mel) * config.hop_length / config.sample_rate
    alt = f"Mel spectrogram of the sound to change, {seconds:.1f} seconds"
    picture = plots.to_svg(plots.mel_figure(mel, config), alt)
    style = f"--from:{first / seconds:.4f};--to:{last / seconds:.4f}"
    region = "shown" if shown else "none"
    return (
        '<div class="dear-pictures"><figure><figcaption>Before <span>drag over it to choose the region</span>'
        f'</figcaption><div class="dear-plot dear-smooth" data-seconds="{seconds}" data-region="{region}" '
        f'style="{style}">{picture}</div></figure></div>'
    )


def _told(out: Output, took: float) -> str:
    what = (
        f"{out.settings['seconds']:g} s more"
        if "seconds" in out.settings
        else f"{out.settings['start']:g} to {out.settings['end']:g} s anew"
    )
    return (
        f'<p class="dear-headline" role="status"><strong>{what} in {took:.2f} s</strong> <span>seed {out.seed}, '
        f"the rest kept, at {out.sample_rate / 1000:g} kHz in mono</span></p>"
    )


def _pictures(config: MelConfig, out: Output) -> str:
    seconds = out.mel.shape[1] * config.hop_length / config.sample_rate
    wave = out.sound[0].numpy()
    drawn = plots.waveform_figure(wave, out.sample_rate, seconds)
    shown = parts.figure("Waveform", "", drawn, f"Waveform, peak {abs(wave).max():.2f} of 1", seconds)
    drawn = plots.mel_figure(out.mel[0].numpy(), config)
    alt = f"Mel spectrogram of the result, {seconds:.1f} seconds"
    shown += parts.figure("After", "", drawn, alt, seconds, smooth=True)
    return f'<div class="dear-pictures">{shown}</div>'
