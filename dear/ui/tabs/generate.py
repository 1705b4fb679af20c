"""The tab that turns a prompt into sound and shows how the sound was made."""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr

from dear.config import Config
from dear.output import Output
from dear.pipeline import AudioDEAR
from dear.ui.components import checks, chips, controls, result
from dear.ui.components.files import LIFETIME, store
from dear.ui.components.runs import QUIET, Start, expired, page_errors, progress_bar, run_buttons, runs
from dear.ui.context import Context, OpenEvent, Tab
from dear.ui.examples import SEED, ExampleCache
from dear.ui.gpu import on_gpu
from dear.ui.link import OPTIONS, read_link, read_variant
from dear.ui.model_registry import ModelChoice
from dear.ui.speed import SpeedEstimate

EMPTY = (
    '<div class="dear-empty"><p>Nothing generated yet.</p><p>Type a prompt and press Generate, or choose an example. '
    "You will see the sound take shape, and hear it when it is done.</p></div>"
)
REPORT_INTERVAL = 0.2  # seconds between reports of a run, and so between chances to stop it
PICTURE_INTERVAL = 0.4  # seconds between pictures of a run
PICTURE_SHARE = 0.12  # of the time of a run that goes into its pictures, at most
# A draft takes half as long as rendering one sound with Griffin-Lim, and as long with other vocoders. It is made if
# the rest of the run takes at least this many times as long as rendering, so that it is heard well before the end.
DRAFT_WORTH = 1.5
GPU_SECONDS = 30  # limit of one generation under ZeroGPU
# In the order of the page and of the arguments of a run.
CONTROLS: dict[str, Callable[..., Any]] = {
    "variant": controls.variant_radio,
    "cfg_scale": controls.cfg_scale_slider,
    "iterations": controls.iterations_slider,
    "temperature": controls.temperature_slider,
    "steps": controls.steps_slider,
    "variations": controls.variations_slider,
    "shown_variant": controls.shown_variant_box,
}
FOLLOW_VARIANT = (*OPTIONS, "shown_variant")  # the controls that change with the variant


@dataclass(frozen=True)
class GenerateInterface:
    """What other tabs send to this one, and take from it."""

    prompt: gr.Textbox
    controls: dict[str, Any]  # by the keys of CONTROLS
    seed: gr.Number
    lock: gr.Checkbox
    use_as_start: gr.Button
    path: gr.State  # of the sound that is shown


def build(context: Context) -> None:
    models, folder = context.models, context.folder
    speed, cache = SpeedEstimate(), ExampleCache()
    with gr.Row(equal_height=False, elem_classes="dear-tab"):
        with gr.Column(scale=4, min_width=320, elem_classes="dear-controls"):
            prompt = controls.prompt_box("prompt", autofocus=True)
            start, stop = run_buttons("Generate", "generate")
            vocabulary = models.get(None).vocabulary
            examples = chips.picker(chips.examples_html(vocabulary), "examples")
            with gr.Group(elem_classes="dear-settings dear-columns"):
                settings = {name: make(models.get(None)) for name, make in CONTROLS.items()}
                seed, lock = controls.seed_row()
            families = chips.picker(chips.families_html(vocabulary), "families")
        with gr.Column(scale=7, min_width=320, elem_classes="dear-results"):
            facts = gr.HTML(EMPTY, elem_id="facts", elem_classes="dear-status")
            familiar = chips.picker("", "familiar")
            variation = gr.Radio([], label="Variations", visible=False, elem_id="variation", elem_classes="dear-pick")
            sound = gr.Audio(
                label="Sound", type="filepath", format="wav", interactive=False, buttons=[],
                waveform_options=gr.WaveformOptions(show_recording_waveform=False), elem_id="sound",
                elem_classes="dear-sound",
            )  # fmt: skip
            with gr.Row(elem_classes="dear-tools"):
                wav = gr.DownloadButton("Download WAV", size="sm", interactive=False, elem_id="wav")
                flac = gr.DownloadButton("Download FLAC", size="sm", interactive=False, elem_id="flac")
                use_as_start = gr.Button("Use as start", size="sm", interactive=False, elem_id="use")
            pictures = gr.HTML("", elem_id="pictures")
    latest = gr.State(None, time_to_live=LIFETIME)  # (config, output) of this visitor
    path = gr.State(None)

    @on_gpu(GPU_SECONDS)
    def draw(
        chosen: str, text: str, variant: str, count: int, expected: SpeedEstimate, options: dict[str, Any]
    ) -> Generator[tuple[Config, Output], None, None]:
        """The results of one generation, iteration by iteration. A partial result with a waveform is a draft."""
        with page_errors():
            model = models.get(chosen, variant)
            model.stream(text, num_samples=count, **options)  # checks the input
            every = round(REPORT_INTERVAL / (expected.iteration(options["steps"]) * count))
            every = min(max(every, 1), options["iterations"])
            began, drafted = time.perf_counter(), False
            for out in model.stream(text, num_samples=count, every=every, **options):
                yield model.config, out
                if not drafted and out.iteration < out.iterations:
                    remaining = expected.remaining(out, time.perf_counter() - began)
                    drafted = remaining >= DRAFT_WORTH * expected.rendering
                    if drafted:
                        yield model.config, model.draft(out[0])

    def run(
        chosen: str, text: str, variant: str, cfg_scale: float, iterations: float, temperature: float, steps: float,
        count: int, shown_variant: str, number: float | None, keep: bool, example: bool = False,
    ) -> Iterator[dict[Any, Any]]:  # fmt: skip
        """One generation. Results of examples are cached."""
        checks.check_prompt(text)
        options = {"cfg_scale": cfg_scale, "iterations": iterations, "temperature": temperature, "steps": steps}
        with page_errors():
            in_memory = models.in_memory(models.choice(chosen), variant)
        yield {familiar: ""}
        if not in_memory:
            yield {facts: progress_bar(f"Loading the {html.escape(variant)}", 0)}
        if shown_variant != variant:  # it was chosen a moment ago, and the sliders hold the settings of another one
            with page_errors():
                sampling = models.get(chosen, variant).sampling
            yield dict(zip([settings[name] for name in FOLLOW_VARIANT], show_defaults(chosen, variant), strict=True))
            options = {name: getattr(sampling, name) for name in OPTIONS}
        options["seed"] = SEED if example and not keep else checks.resolve_seed(number, keep)
        if not example or count != 1:
            yield from generate(chosen, text, variant, count, options)
            return
        with page_errors():
            key = (models.choice(chosen), variant, text, *options.values())
        cached = cache.get(key)
        if cached is not None:
            yield from finish(*cached)
            return
        for changes in generate(chosen, text, variant, count, options):
            if latest in changes:
                cache.put(key, changes[latest])
            yield changes

    def run_example(chosen: str, text: str, *values: Any) -> Iterator[dict[Any, Any]]:
        yield from run(chosen, text, *values, example=True)  # type: ignore[misc]  # values end before example

    def generate(chosen: str, text: str, variant: str, count: int, options: dict[str, Any]) -> Iterator[dict[Any, Any]]:
        """Pictures as the generation goes on, perhaps a draft, and last the sound."""
        nonlocal speed
        began = time.perf_counter()
        reported_at, drawn_at, drawing, drafted = began, began, 0.0, False
        with closing(draw(chosen, text, variant, count, speed, options)) as results:
            for config, out in results:
                now = time.perf_counter()
                if out.iteration == out.iterations:
                    speed = speed.updated(out)
                    yield from finish(config, out)
                    return
                if out.waveform is not None:
                    drafted = True
                    yield {
                        sound: gr.Audio(store(out, folder), label="Draft: a first listen before the end"),
                        facts: result.progress(out, speed.remaining(out, now - began)),
                        variation: gr.Radio(visible=False),
                        **no_tools(),
                    }
                    continue
                changes: dict[Any, Any] = {}
                if now - drawn_at >= PICTURE_INTERVAL and drawing <= PICTURE_SHARE * (now - began):
                    changes = {pictures: result.pictures(config, out[0]), variation: gr.Radio(visible=False)}
                    if not drafted:
                        changes |= {sound: gr.Audio(None, label="Sound"), **no_tools()}
                    drawn_at = time.perf_counter()
                    drawing += drawn_at - now
                if changes or now - reported_at >= REPORT_INTERVAL:
                    reported_at = time.perf_counter()
                    yield {facts: result.progress(out, speed.remaining(out, now - began)), **changes}

    def finish(config: Config, out: Output) -> Iterator[dict[Any, Any]]:
        """The sound first, then its pictures, which take longer."""
        yield {
            stop: gr.Button(interactive=False),
            seed: out.seed,
            latest: (config, out),
            variation: gr.Radio([(str(i + 1), i) for i in range(len(out))], value=0, visible=len(out) > 1),
            **show(out, 0),
        }
        yield {pictures: result.pictures(config, out[0])}

    def no_tools() -> dict[Any, Any]:
        return {
            wav: gr.DownloadButton(interactive=False),
            flac: gr.DownloadButton(interactive=False),
            use_as_start: gr.Button(interactive=False),
        }

    def show(out: Output, index: int) -> dict[Any, Any]:
        """One of the sounds of a finished generation, with its files and facts."""
        one = out[index]
        file = store(one, folder)
        return {
            sound: gr.Audio(file, label="Sound"),
            path: file,
            wav: gr.DownloadButton(value=file, interactive=True),
            flac: gr.DownloadButton(value=store(one, folder, ".flac"), interactive=True),
            use_as_start: gr.Button(interactive=True),
            facts: result.facts(one, out),
            familiar: chips.nearest_html(one.nearest[0] if one.nearest else None),
        }

    def show_variation(shown: tuple[Config, Output] | None, index: int) -> Iterator[dict[Any, Any]]:
        if shown is None:
            raise expired("Generate")
        config, out = shown
        yield show(out, index)
        yield {pictures: result.pictures(config, out[index])}

    def restore(chosen: str, request: gr.Request) -> list[Any]:
        """The settings in the page's address, within the limits of the visitor's model."""
        with page_errors():
            model, notice = read_variant(request.query_params, models, chosen)
        values, notices = read_link(request.query_params, model)
        for each in notice + notices:
            gr.Warning(html.escape(each, quote=False))
        made = [make(model, values.get(name)) for name, make in CONTROLS.items()]
        return [values.get("prompt", gr.skip()), values.get("seed", 0), "seed" in values, *made]

    def show_defaults(chosen: str, variant: str) -> list[Any]:
        """The controls that follow the variant, with its defaults."""
        with page_errors():
            model = models.get(chosen, variant)
        return [CONTROLS[name](model) for name in FOLLOW_VARIANT]

    outputs = [stop, variation, sound, wav, flac, use_as_start, facts, familiar, pictures, seed, latest, path]
    outputs += [settings[name] for name in FOLLOW_VARIANT]
    given = [context.chosen, prompt, *settings.values(), seed, lock]
    picked = [each.click for each in (examples, families, familiar)]
    gr.on(picked, None, None, prompt, js="() => window.dearPicked", api_visibility="private")
    starts = [Start([start.click, prompt.submit], run, given), Start(picked, run_example, given, chips.PICKED_JS)]
    runs(starts, outputs, stop, facts)
    variation.input(
        show_variation, [latest, variation], [sound, path, wav, flac, use_as_start, facts, familiar, pictures], **QUIET
    )
    settings["variant"].input(
        show_defaults, [context.chosen, settings["variant"]], [settings[name] for name in FOLLOW_VARIANT],
        show_progress="minimal", api_visibility="private",
    )  # fmt: skip
    context.model_updates |= {settings[name]: partial(_control, make) for name, make in CONTROLS.items()}
    context.model_updates[examples] = lambda model, _: chips.examples_html(model.vocabulary)
    context.model_updates[families] = lambda model, _: chips.families_html(model.vocabulary)
    context.open_events.append(OpenEvent(restore, [context.chosen], [prompt, seed, lock, *settings.values()]))
    context.offer(GenerateInterface(prompt, settings, seed, lock, use_as_start, path))


def _control(make: Callable[..., Any], model: AudioDEAR, _: ModelChoice) -> Any:
    return make(model)


TAB = Tab("generate", "Generate", build, styles=("generate.css",))
