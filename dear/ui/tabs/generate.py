"""The tab that turns a prompt into sound and shows how the sound was made."""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import parse_qsl

import gradio as gr

from dear.config import Config
from dear.loudness import PAGE
from dear.output import Output
from dear.pipeline import AudioDEAR
from dear.ranking import default_judge, keep_best
from dear.ui.components import checks, chips, controls, result, takes
from dear.ui.components.runs import (
    QUIET,
    Start,
    expired,
    page_errors,
    progress_bar,
    refusal,
    run_buttons,
    runs,
    watch,
)
from dear.ui.components.sound_panel import Latest, sound_panel
from dear.ui.context import Context, OpenEvent, Tab
from dear.ui.examples import SEED, ExampleCache
from dear.ui.gpu import on_gpu
from dear.ui.link import (
    MAX_CHANGES,
    OPTIONS,
    Change,
    add_change,
    read_changes,
    read_link,
    read_variant,
)
from dear.ui.model_registry import ModelChoice
from dear.ui.speed import SpeedEstimate

REPORT_INTERVAL = 0.2  # seconds between reports of a run, and so between chances to stop it
PICTURE_INTERVAL = 0.4  # seconds between pictures of a run
PICTURE_SHARE = 0.12  # of the time of a run that goes into its pictures, at most
# A draft takes half as long as rendering one sound with Griffin-Lim, and as long with other vocoders. It is made if
# the rest of the run takes at least this many times as long as rendering, so that it is heard well before the end.
DRAFT_WORTH = 1.5
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
MORE: dict[str, Callable[..., Any]] = {
    "seconds": controls.seconds_slider,
    "negative_prompt": controls.negative_box,
    "candidates": controls.candidates_slider,
    "then": controls.changes_box,
}
PICK_JS = "() => [window.dearPicked, { __type__: 'update', value: '', visible: false }]"
RESTORED_JS = "() => window.dearRestored()"
FOLLOW_VARIANT = (*OPTIONS, "shown_variant")  # the controls that change with the variant


@dataclass(frozen=True)
class GenerateInterface:
    """The interface to other tabs: settings and sounds that they send or take."""

    prompt: gr.Textbox
    controls: dict[str, Any]  # by the keys of CONTROLS
    seed: gr.Number
    lock: gr.Checkbox
    use_as_start: gr.Button
    path: gr.State  # of the sound that is shown
    takes: gr.HTML


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
                made = {name: make(models.get(None)) for name, make in CONTROLS.items() if name != "steps"}
                seed, lock = controls.seed_row()
            changes_box = MORE["then"](models.get(None))
            with gr.Accordion("Length, negative prompt, candidates, steps", open=False, elem_id="more"):
                extra = {name: make(models.get(None)) for name, make in MORE.items() if name != "then"}
                made["steps"] = CONTROLS["steps"](models.get(None))  # only for a variant that takes several
            settings, more = {name: made[name] for name in CONTROLS}, extra | {"then": changes_box}
            families = chips.picker(chips.families_html(vocabulary), "families")
        with gr.Column(scale=7, min_width=320, elem_classes="dear-results"):
            panel = sound_panel(folder)
    link = gr.Textbox("", visible=False)  # of the take whose settings are restored

    @on_gpu()
    def draw(
        chosen: str,
        text: str,
        variant: str,
        count: int,
        expected: SpeedEstimate,
        options: dict[str, Any],
        seconds: float | None,
        candidates: int,
    ) -> Generator[tuple[Config, Output], None, None]:
        """The results of one generation, iteration by iteration. A partial result with a waveform is a draft."""
        with page_errors():
            model = models.get(chosen, variant)
            model.stream(text, num_samples=count, **options)  # checks the input
            names = checks.check_candidates(model, text, candidates)
            sounds = count * candidates
            every = round(REPORT_INTERVAL / (expected.iteration(options["steps"]) * sounds))
            every = min(max(every, 1), options["iterations"])
            began, drafted = time.perf_counter(), False
            for out in model.stream(text, num_samples=sounds, every=every, loudness=PAGE, **options):
                if out.iteration == out.iterations and candidates > 1:
                    out = keep_best(out, candidates, default_judge(), [names] * count)
                if out.iteration == out.iterations and seconds is not None:
                    out = model.fit(out, seconds)
                yield model.config, out
                if not drafted and out.iteration < out.iterations:
                    remaining = expected.remaining(out, time.perf_counter() - began)
                    drafted = remaining >= DRAFT_WORTH * expected.rendering
                    if drafted:
                        yield model.config, model.draft(out[0])

    def run(
        chosen: str, text: str, variant: str, cfg_scale: float, iterations: float, temperature: float, steps: float,
        count: int, shown_variant: str, number: float | None, keep: bool,
        seconds: float | None = None, negative: str = "", candidates: int = 1, then: str = "",
        example: bool = False,
    ) -> Iterator[dict[Any, Any]]:  # fmt: skip
        """One generation. Results of examples are cached."""
        checks.check_prompt(text)
        options: dict[str, Any] = {
            "cfg_scale": cfg_scale,
            "iterations": iterations,
            "temperature": temperature,
            "steps": steps,
        }
        with page_errors():
            in_memory = models.in_memory(models.choice(chosen), variant)
        if not in_memory:
            yield {panel.facts: progress_bar(f"Loading the {html.escape(variant)}", 0)}
        if shown_variant != variant:  # it was chosen a moment ago, and the sliders hold the settings of another one
            with page_errors():
                sampling = models.get(chosen, variant).sampling
            yield dict(zip([settings[name] for name in FOLLOW_VARIANT], show_defaults(chosen, variant), strict=True))
            options = {name: getattr(sampling, name) for name in OPTIONS}
        if negative.strip():
            options["negative_prompt"] = checks.check_negative(negative, options["cfg_scale"])
        with page_errors():
            length = None if seconds in (None, _clip(models.get(chosen, variant))) else seconds
        if length is not None and count > 1:
            raise refusal("Only a single variation can have another length. Set Variations to 1.")
        with page_errors():
            changes = [] if example else read_changes(then)
        if changes and count > 1:
            raise refusal("Only a single sound can be varied or looped. Set Variations to 1.")
        options["seed"] = SEED if example and not keep else checks.resolve_seed(number, keep)
        if not example or count != 1 or candidates != 1:
            yield from generate(chosen, text, variant, count, options, length, candidates, changes)
            return
        with page_errors():
            key = (models.choice(chosen), variant, text, length, *options.items())
        cached = cache.get(key)
        if cached is not None:
            yield from finish(*cached, options["seed"])
            return
        for report in generate(chosen, text, variant, count, options, length, candidates):
            if panel.latest in report:
                cache.put(key, report[panel.latest])
            yield report

    def run_example(chosen: str, text: str, *values: Any) -> Iterator[dict[Any, Any]]:
        yield from run(chosen, text, *values, example=True)  # type: ignore[misc]  # values end before example

    def generate(
        chosen: str,
        text: str,
        variant: str,
        count: int,
        options: dict[str, Any],
        seconds: float | None,
        candidates: int,
        changes: Sequence[Change] = (),
    ) -> Iterator[dict[Any, Any]]:
        """Pictures as the generation goes on, perhaps a draft, and last the sound after its ``changes``."""
        nonlocal speed
        began = time.perf_counter()
        reported_at, drawn_at, drawing, drafted = began, began, 0.0, False
        with closing(draw(chosen, text, variant, count, speed, options, seconds, candidates)) as results:
            for config, out in results:
                now = time.perf_counter()
                if out.iteration == out.iterations:
                    if seconds is None and candidates == 1:
                        speed = speed.updated(out)
                    break
                if out.waveform is not None:
                    drafted = True
                    progress = result.progress(out, speed.remaining(out, now - began))
                    yield {**panel.draft(out), panel.facts: progress}
                    continue
                report: dict[Any, Any] = {}
                if now - drawn_at >= PICTURE_INTERVAL and drawing <= PICTURE_SHARE * (now - began):
                    report = {
                        panel.pictures: result.pictures(config, out[0]),
                        panel.variation: gr.Radio(visible=False),
                    }
                    if not drafted:
                        report |= {panel.sound: gr.Audio(None, label="Sound"), **panel.no_tools()}
                    drawn_at = time.perf_counter()
                    drawing += drawn_at - now
                if report or now - reported_at >= REPORT_INTERVAL:
                    reported_at = time.perf_counter()
                    yield {panel.facts: result.progress(out, speed.remaining(out, now - began)), **report}
        number = out.seed
        for change in changes:
            config, out = yield from apply(chosen, out, change)
        yield from finish(config, out, number)

    @on_gpu()
    def derive(chosen: str, source: Output, change: Change) -> Generator[Any, None, None]:
        """The configuration, progress, and last a variation or a loop of ``source``, by its own settings."""
        with page_errors():
            model = models.get(chosen, source.settings["variant"])
            options = {name: source.settings[name] for name in OPTIONS}
            given = source.sound[0], source.sample_rate

            def call(progress: Any) -> Output:
                common: dict[str, Any] = options | {"seed": change.seed, "progress": progress}
                if change.strength is None:
                    return model.loop(*given, source.prompts[0], **common)
                return model.vary(*given, change.strength, source.prompts[0], **common)

            yield model.config
            yield from watch(call)

    def apply(chosen: str, source: Output, change: Change) -> Generator[dict[Any, Any], None, tuple[Config, Output]]:
        """Progress. Returns the configuration and the changed sound."""
        with closing(derive(chosen, source, change)) as reports:
            config = next(reports)
            for report in reports:
                if isinstance(report, tuple):
                    words = f"Iteration {report[0]} of {report[1]}"
                    yield {panel.facts: progress_bar(words, report[0] / report[1])}
        return config, add_change(report, source, change)

    def run_change(chosen: str, shown: Latest, index: Any, strength: float | None) -> Iterator[dict[Any, Any]]:
        if shown is None:
            raise expired("Generate")
        source = shown[1][index or 0]
        if len(read_changes(source.settings.get("changes", ""))) >= MAX_CHANGES:
            raise refusal(f"A sound can be changed {MAX_CHANGES} times. Generate another one.")
        config, out = yield from apply(chosen, source, Change(strength, checks.resolve_seed(None, False)))
        yield from finish(config, out)

    def run_vary(chosen: str, shown: Latest, index: Any, strength: float) -> Iterator[dict[Any, Any]]:
        yield from run_change(chosen, shown, index, round(strength, 2))

    def run_loop(chosen: str, shown: Latest, index: Any) -> Iterator[dict[Any, Any]]:
        yield from run_change(chosen, shown, index, None)

    def finish(config: Config, out: Output, number: int | None = None) -> Iterator[dict[Any, Any]]:
        """Show the result. number: the seed to generate it with; None leaves the seed as it is."""
        reports = panel.finish(config, out)
        chosen_seed = {} if number is None else {seed: number}
        yield {stop: gr.Button(interactive=False), **chosen_seed, **next(reports)}
        yield from reports

    def restore(chosen: str, request: gr.Request) -> list[Any]:
        """The settings in the page's address."""
        return settings_of(chosen, request.query_params)

    def restore_take(chosen: str, query: str | None) -> list[Any]:
        return settings_of(chosen, dict(parse_qsl((query or "").removeprefix("?"))))

    def settings_of(chosen: str, query: Mapping[str, str]) -> list[Any]:
        """The settings of a link, within the limits of the visitor's model."""
        with page_errors():
            model, notice = read_variant(query, models, chosen)
        values, notices = read_link(query, model)
        for each in notice + notices:
            gr.Warning(html.escape(each, quote=False))
        made = [make(model, values.get(name)) for name, make in (CONTROLS | MORE).items()]
        return [values.get("prompt", gr.skip()), values.get("seed", 0), "seed" in values, *made]

    def show_defaults(chosen: str, variant: str) -> list[Any]:
        """The controls that follow the variant, with its defaults."""
        with page_errors():
            model = models.get(chosen, variant)
        return [CONTROLS[name](model) for name in FOLLOW_VARIANT]

    outputs = [stop, seed, *panel.outputs]
    outputs += [settings[name] for name in FOLLOW_VARIANT]
    given = [context.chosen, prompt, *settings.values(), seed, lock, *more.values()]
    source = [context.chosen, panel.latest, panel.variation]
    picked = [each.click for each in (examples, families, panel.familiar)]
    gr.on(picked, None, None, [prompt, changes_box], js=PICK_JS, api_visibility="private")
    starts = [Start([start.click, prompt.submit], run, given), Start(picked, run_example, given, chips.PICKED_JS)]
    starts += [Start([panel.vary.click], run_vary, [*source, panel.strength])]
    starts += [Start([panel.loop.click], run_loop, source)]
    shown = [panel.latest, panel.variation]
    triggers = [trigger for each in starts for trigger in each.triggers]
    gr.on(triggers, None, None, panel.familiar, js="() => ''", api_visibility="private")  # that of an earlier prompt
    for run_event in runs(starts, outputs, stop, panel.facts):
        run_event.success(None, panel.new_takes, None, js=takes.ADD_JS, api_visibility="private")
        run_event.success(panel.other_files, shown, panel.other_downloads, **QUIET)
    restored = [prompt, seed, lock, *settings.values(), *more.values()]
    panel.takes.select(restore_take, [context.chosen, link], restored, js=takes.LINK_JS, **QUIET)
    changed = panel.variation.input(panel.show_variation, shown, panel.shown, **QUIET)
    changed.success(panel.other_files, shown, panel.other_downloads, **QUIET)
    settings["variant"].input(
        show_defaults, [context.chosen, settings["variant"]], [settings[name] for name in FOLLOW_VARIANT],
        show_progress="minimal", api_visibility="private",
    )  # fmt: skip
    for name, make in (CONTROLS | MORE).items():
        context.model_updates[(settings | more)[name]] = partial(_control, make)
    context.model_updates[examples] = lambda model, _: chips.examples_html(model.vocabulary)
    context.model_updates[families] = lambda model, _: chips.families_html(model.vocabulary)
    context.open_events.append(OpenEvent(restore, [context.chosen], restored, RESTORED_JS))
    context.offer(GenerateInterface(prompt, settings, seed, lock, panel.use_as_start, panel.path, panel.takes))


def _clip(model: AudioDEAR) -> float:
    return model.config.mel.samples / model.sample_rate


def _control(make: Callable[..., Any], model: AudioDEAR, _: ModelChoice) -> Any:
    return make(model)


TAB = Tab("generate", "Generate", build, styles=("generate.css", "takes.css"))
