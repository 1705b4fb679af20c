"""The tab that edits a sound: draws a region of it again from a prompt, or continues it past its end."""

from __future__ import annotations

import html
import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from dear.audio import open_sound, read_sound
from dear.config import MelConfig
from dear.output import Output
from dear.pipeline import AudioDEAR
from dear.ui.assets import load
from dear.ui.components import checks, controls
from dear.ui.components.files import store
from dear.ui.components.pictures import figure
from dear.ui.components.runs import QUIET, Start, expired, page_errors, progress_bar, refusal, run_buttons, runs, watch
from dear.ui.context import Context, Tab
from dear.ui.gpu import on_gpu
from dear.ui.model_registry import ModelChoice
from dear.ui.tabs.generate import GenerateInterface
from dear.visual import plots

MAX_STEPS = 20  # of undo
MAX_SECONDS = 60.0  # of an uploaded sound
MEL_HEIGHT = 1.75  # inches; two spectrograms, the player and the buttons fit on a screen of 900 pixels
REDRAW, EXTEND = "Redraw a region", "Continue past the end"
EMPTY = (
    '<div class="dear-empty"><p>No sound yet.</p><p>Upload a sound, record one, or send one from Generate. It is '
    "converted to 16 kHz mono. Its spectrogram will appear here, so that you can choose the region to redraw.</p>"
    "</div>"
)
# In the order of the page and of the arguments of a run.
CONTROLS: dict[str, Callable[..., Any]] = {
    "cfg-scale": controls.cfg_scale_slider,
    "iterations": controls.iterations_slider,
    "temperature": controls.temperature_slider,
    "steps": controls.steps_slider,
}
MOVE_REGION_JS = load("move_region.js").rstrip()  # in the browser, so that the region follows the sliders at once
TAKE_JS = load("edit_take.js").rstrip()
SHOW_REGION_JS = load("show_region.js", REDRAW=REDRAW).rstrip()


@dataclass(frozen=True)
class History:
    """The sounds that one visitor has edited, one after the other, and the one that is shown."""

    files: tuple[str, ...] = ()
    at: int = -1

    def add(self, file: str | None) -> History:
        """Add a sound after the one that is shown, and drop later ones. The shown sound is not added again."""
        if file is None or (self.files and file == self.files[self.at]):
            return self
        files = (*self.files[: self.at + 1], file)[-MAX_STEPS:]
        return History(files, len(files) - 1)


def build(context: Context) -> None:
    models, folder = context.models, context.folder
    with gr.Row(equal_height=False, elem_classes="dear-tab"):
        with gr.Column(scale=4, min_width=320, elem_classes="dear-controls"):
            source = gr.Audio(
                label="Sound to edit, at most one minute", type="filepath", sources=["upload", "microphone"],
                editable=False, buttons=[],
                waveform_options=gr.WaveformOptions(show_recording_waveform=False), elem_id="edit-sound",
            )  # fmt: skip
            mode = gr.Radio(
                [REDRAW, EXTEND], value=REDRAW, label="What to do", show_label=False, elem_id="edit-mode",
                elem_classes="dear-pick",
            )  # fmt: skip
            prompt = controls.prompt_box("edit-prompt", "What should be heard there?")
            button, stop = run_buttons("Redraw", "edit")
            with gr.Group(elem_classes="dear-settings dear-columns"):
                start = gr.Slider(0, 10, 3, step=0.05, label="Start, s", elem_id="edit-start")
                end = gr.Slider(0, 10, 6, step=0.05, label="End, s", elem_id="edit-end")
                surroundings = gr.Slider(
                    0, 10, 0, step=0.1, label="Surroundings", elem_id="edit-around",
                    info="Seconds heard on either side, for a better fit. Less follows the prompt more.",
                )  # fmt: skip
                added = gr.Slider(
                    1, 30, 5, step=1, label="Length", info="Seconds to add after the end.", visible=False,
                    elem_id="edit-more",
                )  # fmt: skip
                settings = {name: make(models.get(None), name=f"edit-{name}") for name, make in CONTROLS.items()}
                seed, lock = controls.seed_row("edit-")
        with gr.Column(scale=7, min_width=320, elem_classes="dear-results"):
            before = gr.HTML(EMPTY, elem_id="edit-map", elem_classes="dear-map")
            status = gr.HTML("", elem_id="edit-status", elem_classes="dear-status")
            sound = gr.Audio(
                label="Result", type="filepath", format="wav", interactive=False, buttons=[], visible=False,
                waveform_options=gr.WaveformOptions(show_recording_waveform=False), elem_id="edit-result",
                elem_classes="dear-sound",
            )  # fmt: skip
            with gr.Row(elem_classes="dear-tools"):
                wav = gr.DownloadButton("Download WAV", size="sm", visible=False, elem_id="edit-wav")
                flac = gr.DownloadButton("Download FLAC", size="sm", visible=False, elem_id="edit-flac")
                again = gr.Button("Edit this result", size="sm", visible=False, elem_id="edit-again")
                undo = gr.Button("Undo", size="sm", interactive=False, elem_id="edit-undo")
                redo = gr.Button("Redo", size="sm", interactive=False, elem_id="edit-redo")
            after = gr.HTML("", elem_id="edit-after")
    path = gr.State(None)
    history = gr.State(History())

    def show_source(
        chosen: str, file: str | None, what: str, first: float, last: float, past: History = History()
    ) -> dict[Any, Any]:
        """Show the sound to edit and fit the sliders to it, or say why it can't be used. Clears earlier results."""
        past = past.add(file)
        cleared = {
            status: "",
            sound: gr.Audio(None, visible=False),
            wav: gr.DownloadButton(visible=False),
            flac: gr.DownloadButton(visible=False),
            again: gr.Button(visible=False),
            after: "",
            history: past,
            undo: gr.Button(interactive=past.at > 0),
            redo: gr.Button(interactive=past.at + 1 < len(past.files)),
        }
        if file is None:
            return {before: EMPTY, **cleared}
        try:
            model = models.get(chosen)
            samples = _decoded(file, model)
            mel = model.log_mel(samples, model.sample_rate).numpy()
        except ValueError as error:
            sentence = html.escape(str(error), quote=False)
            return {before: f'<p class="dear-refused" role="alert">{sentence}.</p>', **cleared}
        seconds = math.floor(len(samples) / model.sample_rate * 100) / 100
        if not first < last <= seconds:
            first, last = round(0.3 * seconds, 2), round(min(0.6 * seconds, 0.3 * seconds + _clip(model)), 2)
        return {
            **cleared,
            before: _map(model, mel, first, last, what == REDRAW),
            status: _read(file, model),
            start: gr.Slider(maximum=max(seconds, 0.01), value=first, step=0.01),
            end: gr.Slider(maximum=max(seconds, 0.01), value=last, step=0.01),
        }

    @on_gpu()
    def draw(
        chosen: str, file: str, what: str, text: str, first: float, last: float, heard: float, seconds: float,
        options: dict[str, Any],
    ) -> Generator[Any, None, None]:  # fmt: skip
        """The mel configuration, then progress, and last the result."""
        with page_errors():
            model = models.get(chosen)
            if what == REDRAW:
                checks.check_region(first, last, _clip(model))
            samples, rate = _decoded(file, model), model.sample_rate

            def call(progress: Any) -> Output:
                if what == REDRAW:
                    return model.redraw(samples, rate, first, last, text, context=heard, progress=progress, **options)
                return model.extend(samples, rate, seconds, text, progress=progress, **options)

            yield model.config.mel
            yield from watch(call)

    def run(
        chosen: str, file: str | None, what: str, text: str, first: float, last: float, heard: float, seconds: float,
        cfg_scale: float, iterations: float, temperature: float, steps: float, number: float | None, keep: bool,
    ) -> Iterator[dict[Any, Any]]:  # fmt: skip
        options: dict[str, Any] = {
            "cfg_scale": cfg_scale, "iterations": iterations, "temperature": temperature, "steps": steps,
        }  # fmt: skip
        if file is None:
            raise refusal("Upload or record a sound first, or send one from Generate.")
        if not Path(file).is_file():
            raise refusal("Sounds are deleted after an hour. Upload or send this one again.")
        checks.check_prompt(text)
        options["seed"] = checks.resolve_seed(number, keep)
        began = time.perf_counter()
        with closing(draw(chosen, file, what, text, first, last, heard, seconds, options)) as reports:
            config = next(reports)
            for report in reports:
                if isinstance(report, tuple):
                    words = f"Iteration {report[0]} of {report[1]}"
                    yield {status: progress_bar(words, report[0] / report[1])}
        name = store(report, folder)
        yield {
            stop: gr.Button(interactive=False),
            status: _headline(report, time.perf_counter() - began),
            sound: gr.Audio(name, visible=True),
            path: name,
            wav: gr.DownloadButton(value=name, visible=True),
            flac: gr.DownloadButton(value=store(report, folder, ".flac"), visible=True),
            again: gr.Button(visible=True),
            seed: report.seed,
        }
        yield {after: _pictures(config, report)}

    outputs = [before, start, end, status, sound, wav, flac, again, after, history, undo, redo]
    source.change(show_source, [context.chosen, source, mode, start, end, history], outputs, **QUIET)
    for move, step in ((undo, -1), (redo, 1)):
        move.click(partial(_step, step), history, [source, history], **QUIET)
    for slider in (start, end):
        slider.change(None, [start, end], None, js=MOVE_REGION_JS, api_visibility="private")
    mode.change(
        lambda what: [gr.Slider(visible=what == REDRAW)] * 3
        + [gr.Slider(visible=what == EXTEND), gr.Button("Redraw" if what == REDRAW else "Continue")],
        mode, [start, end, surroundings, added, button], queue=False, **QUIET,
    )  # fmt: skip
    mode.change(None, mode, None, js=SHOW_REGION_JS, api_visibility="private")
    inputs = [context.chosen, source, mode, prompt, start, end, surroundings, added, *settings.values(), seed, lock]
    outputs = [stop, status, sound, path, wav, flac, again, seed, after]
    runs([Start([button.click, prompt.submit], run, inputs)], outputs, stop, status)
    again.click(lambda file: _existing(file, "Redraw"), path, source, **QUIET)
    context.model_updates |= {
        settings[name]: partial(_control, make, f"edit-{name}") for name, make in CONTROLS.items()
    }

    def connect() -> None:
        """Take a sound from the tab Generate."""
        generate = context.find(GenerateInterface)
        carried = ("cfg_scale", "iterations", "temperature")
        if generate is not None:
            generate.takes.edit(
                None, None, [source, prompt, context.tabs], js=TAKE_JS, api_visibility="private",
            )  # fmt: skip
            generate.use_as_start.click(
                lambda file, *given: (_existing(file, "Generate"), gr.Tabs(selected="edit"), *given),
                [generate.path, generate.prompt, *(generate.controls[name] for name in carried)],
                [source, context.tabs, prompt, *(settings[name.replace("_", "-")] for name in carried)], **QUIET,
            )  # fmt: skip

    context.connect(connect)


def _step(step: int, past: History) -> tuple[str, History]:
    """Another sound of the history."""
    at = past.at + step
    if not 0 <= at < len(past.files):
        raise refusal("There is nothing more to undo or redo.")
    return _existing(past.files[at], "Redraw"), History(past.files, at)


def _decoded(file: str, model: AudioDEAR) -> np.ndarray:
    """The sound of an uploaded file, mono at the model's rate."""
    return read_sound(file, model.sample_rate, MAX_SECONDS, Path(file).name)


def _existing(file: str | None, button: str) -> str:
    """The file of a result, unless it has been deleted. ``button``: what makes it again."""
    if file is None or not Path(file).is_file():
        raise expired(button)
    return file


def _control(make: Callable[..., Any], name: str, model: AudioDEAR, _: ModelChoice) -> Any:
    return make(model, name=name)


def _clip(model: AudioDEAR) -> float:
    return model.config.mel.samples / model.sample_rate


def _map(model: AudioDEAR, mel: Any, first: float, last: float, shown: bool) -> str:
    """The spectrogram of the sound to edit, with the region marked."""
    config = model.config.mel
    seconds = len(mel) * config.hop_length / config.sample_rate
    alt = f"Mel spectrogram of the sound to edit, {seconds:.1f} seconds"
    drawn = plots.mel_figure(mel, config, height=MEL_HEIGHT)
    axes = drawn.axes[0].get_position()
    style = f"--top:{1 - axes.y1:.2%};--bottom:{axes.y0:.2%};--from:{first / seconds:.4f};--to:{last / seconds:.4f}"
    region = "shown" if shown else "none"
    return (
        '<div class="dear-pictures"><figure><figcaption>Before <span>drag over the picture to choose the region</span>'
        f'</figcaption><div class="dear-plot dear-smooth" data-seconds="{seconds}" data-region="{region}" '
        f'style="{style}">{plots.to_svg(drawn, alt)}</div></figure></div>'
    )


def _read(path: str, model: AudioDEAR) -> str:
    """Describe the uploaded sound and its conversion."""
    with open_sound(path) as file:
        rate, count, seconds = file.samplerate, file.channels, file.frames / file.samplerate
    channels = {1: "mono", 2: "stereo"}.get(count, f"{count} channels")
    given = f"{seconds:.1f} s, {rate / 1000:g} kHz {channels}"
    same = rate == model.sample_rate and count == 1
    done = "is edited as it is" if same else f"is converted to {model.sample_rate / 1000:g} kHz mono"
    return f'<p class="dear-note" role="status">This sound ({given}) {done}.</p>'


def _headline(out: Output, seconds: float) -> str:
    settings = out.settings
    if "seconds" in settings:
        what = f"{settings['seconds']:g} s added"
    else:
        what = f"{settings['start']:g} to {settings['end']:g} s redrawn"
    return (
        f'<p class="dear-headline" role="status"><strong>{what} in {seconds:.2f} s</strong> <span>seed {out.seed}; '
        f"the rest is unchanged, at {out.sample_rate / 1000:g} kHz mono</span></p>"
    )


def _pictures(config: MelConfig, out: Output) -> str:
    seconds = out.mel.shape[1] * config.hop_length / config.sample_rate
    wave = out.sound[0].numpy()
    drawn = plots.mel_figure(out.mel[0].numpy(), config, height=MEL_HEIGHT)
    alt = f"Mel spectrogram of the result, {seconds:.1f} seconds"
    shown = figure("After", "", drawn, alt, seconds, smooth=True)
    drawn = plots.waveform_figure(wave, out.sample_rate, seconds)
    shown += figure("Waveform", "", drawn, f"Waveform, peak {abs(wave).max():.2f} of 1", seconds)
    return f'<div class="dear-pictures">{shown}</div>'


TAB = Tab("edit", "Edit", build, styles=("edit.css",))
