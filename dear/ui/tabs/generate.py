"""The tab that turns a prompt into sound and shows how it was made."""

from __future__ import annotations

import html
import json
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from dear.config import Config
from dear.output import Output
from dear.pipeline import AudioDEAR
from dear.ui.components import parts
from dear.ui.components.controls import (
    cfg_slider,
    head_radio,
    iterations_slider,
    steps_slider,
    temperature_slider,
    variations_slider,
)
from dear.ui.components.parts import KEEP, QUIET, Update, store
from dear.ui.examples import EXAMPLES, SEED, ExampleCache
from dear.ui.gpu import on_gpu
from dear.ui.link import OPTIONS, read_link, read_variant, write_link
from dear.ui.shelf import Choice, Shelf
from dear.visual import plots

KNOWN = (
    "The bundled model has heard ten kinds of sound: dogs, roosters, rain, sea waves, crackling fires, crying babies, "
    "sneezes, ticking clocks, helicopters and chainsaws."
)
EMPTY = (
    '<div class="dear-empty"><p>Nothing generated yet.</p><p>Waveform, spectrogram, latents and the order in which '
    "the tokens were drawn will appear here, on one time axis.</p></div>"
)
STAGES = {"text": "text", "decode": "tokens", "codec": "codec", "vocoder": "vocoder"}
TOLD_EVERY = 0.2  # seconds between reports of a generation in progress: that often it can be stopped
PICTURE_EVERY = 0.4  # seconds between pictures of a generation in progress
PICTURE_SHARE = 0.12  # of the time of a generation in progress, at most, goes into its pictures
# A draft takes half as long as turning tokens into one sound with Griffin-Lim, and as long with other vocoders. It is
# made where at least so many times that is still to be waited, and heard well before the end.
DRAFT_WORTH = 1.5
GPU_SECONDS = 30  # that one generation is allowed under ZeroGPU
# In the order of the page, and of the arguments of a run.
CONTROLS: dict[str, Callable[..., Any]] = {
    "variant": head_radio,
    "cfg_scale": cfg_slider,
    "iterations": iterations_slider,
    "temperature": temperature_slider,
    "steps": steps_slider,
    "variations": variations_slider,
}


@dataclass(frozen=True)
class Pace:
    """How fast this machine was last time: no visitor's, so all share it. Until there was one, a guess."""

    sound: float = 0.25  # seconds from tokens to one sound
    passes: tuple[tuple[float, float], ...] = ()  # (steps of the head, seconds of one pass over one item)

    def one_pass(self, steps: float) -> float:
        return dict(self.passes).get(steps, 0.01 * (1 + steps / 10))

    def after(self, out: Output) -> Pace:
        seconds = out.timings["decode"] / out.iterations / len(out)
        passes = dict(self.passes) | {out.settings["steps"]: seconds}
        return Pace((out.timings["codec"] + out.timings["vocoder"]) / len(out), tuple(passes.items()))


@dataclass(frozen=True)
class GenerateTab:
    """What other tabs send to this one, or take from it."""

    prompt: gr.Textbox
    variant: gr.Radio
    cfg_scale: gr.Slider
    iterations: gr.Slider
    temperature: gr.Slider
    steps: gr.Slider
    seed: gr.Number
    lock: gr.Checkbox
    variations: gr.Slider
    use: gr.Button  # "use as start"
    path: gr.State  # of the sound that is shown
    updates: dict[Any, Update]
    restore: Callable[[str, gr.Request], list[Any]]  # what becomes of ``restored`` when the page is opened
    restored: list[Any]


def generate_tab(shelf: Shelf, chosen: gr.Textbox, folder: Path) -> GenerateTab:
    """Lay out the tab inside the current Blocks. Files of results go into ``folder``."""
    pace, cache = Pace(), ExampleCache()
    with gr.Row(equal_height=False, elem_classes="dear-tab"):
        with gr.Column(scale=4, min_width=320, elem_classes="dear-controls"):
            prompt = parts.prompt_box("prompt", autofocus=True)
            button, stop = parts.go_row("Generate", "generate")
            examples = [
                gr.Dataset(
                    components=["textbox"], samples=[[text] for text in texts], label=label, type="values",
                    layout="gallery", elem_classes="dear-examples",
                )
                for label, texts in EXAMPLES.items()
            ]  # fmt: skip
            note = gr.HTML(_note(shelf.own))
            with gr.Group(elem_classes="dear-settings"):
                controls = {name: make(shelf.get(None)) for name, make in CONTROLS.items()}
                seed, lock = parts.seed_row()
        with gr.Column(scale=7, min_width=320, elem_classes="dear-results"):
            choice = gr.Radio([], label="Variations", visible=False, elem_id="variation", elem_classes="dear-pick")
            sound = gr.Audio(
                label="Sound", type="filepath", format="wav", interactive=False, buttons=[],
                waveform_options=gr.WaveformOptions(show_recording_waveform=False), elem_id="sound",
                elem_classes="dear-sound",
            )  # fmt: skip
            with gr.Row(visible=False, elem_classes="dear-tools") as tools:
                wav = gr.DownloadButton("Download WAV", size="sm", elem_id="wav")
                flac = gr.DownloadButton("Download FLAC", size="sm", elem_id="flac")
                use = gr.Button("Use as start", size="sm", elem_id="use")
            facts = gr.HTML("", elem_id="facts", elem_classes="dear-status")
            pictures = gr.HTML(EMPTY, elem_id="pictures")
    kept = gr.State(None, time_to_live=KEEP)  # (config, output) of this visitor
    path = gr.State(None)

    @on_gpu(GPU_SECONDS)
    def draw(
        which: str, text: str, variant: str, count: int, known: Pace, options: dict[str, Any]
    ) -> Generator[tuple[Config, Output], None, None]:
        """The results of one generation as they come, and perhaps a draft among them: it has a sound before the end."""
        with parts.told():
            model = shelf.get(which, variant)
            model.stream(text, num_samples=count, **options)  # checks the input
            every = round(TOLD_EVERY / (known.one_pass(options["steps"]) * count))
            every = min(max(every, 1), options["iterations"])
            began, drafted = time.perf_counter(), False
            for out in model.stream(text, num_samples=count, every=every, **options):
                yield model.config, out
                if not drafted and out.iteration < out.iterations:
                    drafted = _left(out, time.perf_counter() - began, known) >= DRAFT_WORTH * known.sound
                    if drafted:
                        yield model.config, model.draft(out[0])

    def run(
        which: str, text: str, variant: str, scale: float, passes: float, heat: float, steps: float,
        count: int, number: float | None, keep: bool, example: bool = False,
    ) -> Iterator[dict[Any, Any]]:  # fmt: skip
        """One generation for the page; of an example, what was made before is heard at once."""
        options = {"cfg_scale": scale, "iterations": passes, "temperature": heat, "steps": steps}
        with parts.told():
            options["seed"] = SEED if example and not keep else parts.seed_of(number, keep)
        if not example or count != 1:
            yield from produce(which, text, variant, count, options)
            return
        with parts.told():
            key = (shelf.choice(which), variant, text, *options.values())
        made = cache.get(key)
        if made is not None:
            yield from finish(*made)
            return
        for changes in produce(which, text, variant, count, options):
            if kept in changes:
                cache.put(key, changes[kept])
            yield changes

    def run_example(which: str, sample: list[str], *settings: Any) -> Iterator[dict[Any, Any]]:
        yield from run(which, sample[0], *settings, example=True)  # type: ignore[misc]  # settings end before example

    def produce(which: str, text: str, variant: str, count: int, options: dict[str, Any]) -> Iterator[dict[Any, Any]]:
        """One generation for the page: pictures as it goes, perhaps a draft, and last the sound."""
        nonlocal pace
        began = time.perf_counter()
        told_at, drawn_at, drawing, drafted = began, began, 0.0, False
        with closing(draw(which, text, variant, count, pace, options)) as results:
            for config, out in results:
                now = time.perf_counter()
                if out.iteration == out.iterations:
                    pace = pace.after(out)
                    yield from finish(config, out)
                    return
                if out.waveform is not None:
                    drafted = True
                    yield {
                        sound: gr.Audio(store(out, folder), label="First listen: a draft, before the end"),
                        facts: _progress(out, _left(out, now - began, pace)),
                        tools: gr.Row(visible=False),
                        choice: gr.Radio(visible=False),
                    }
                    continue
                changed: dict[Any, Any] = {}
                if now - drawn_at >= PICTURE_EVERY and drawing <= PICTURE_SHARE * (now - began):
                    changed = {pictures: _pictures(config, out[0]), choice: gr.Radio(visible=False)}
                    if not drafted:
                        changed |= {sound: gr.Audio(None, label="Sound"), tools: gr.Row(visible=False)}
                    drawn_at = time.perf_counter()
                    drawing += drawn_at - now
                if changed or now - told_at >= TOLD_EVERY:
                    told_at = time.perf_counter()
                    yield {facts: _progress(out, _left(out, now - began, pace)), **changed}

    def finish(config: Config, out: Output) -> Iterator[dict[Any, Any]]:
        """The sound, and then its pictures, which it does not wait for."""
        yield {
            stop: gr.Button(interactive=False),
            seed: out.seed,
            kept: (config, out),
            choice: gr.Radio([(str(i + 1), i) for i in range(len(out))], value=0, visible=len(out) > 1),
            **show(out, 0),
        }
        yield {pictures: _pictures(config, out[0])}

    def show(out: Output, index: int) -> dict[Any, Any]:
        """One of the sounds of a finished generation, with its files and facts."""
        one = out[index]
        file = store(one, folder)
        return {
            sound: gr.Audio(file, label="Sound"),
            path: file,
            wav: gr.DownloadButton(value=file),
            flac: gr.DownloadButton(value=store(one, folder, ".flac")),
            tools: gr.Row(visible=True),
            facts: _facts(one, len(out), write_link(out)),
        }

    def pick(made: tuple[Config, Output] | None, index: int) -> Iterator[dict[Any, Any]]:
        if made is None:  # an hour has gone by
            raise parts.forgotten("Generate")
        config, out = made
        yield show(out, index)
        yield {pictures: _pictures(config, out[index])}

    def restore(which: str, request: gr.Request) -> list[Any]:
        """The settings that the page's address holds, in the bounds of the visitor's model."""
        with parts.told():
            model, notice = read_variant(request.query_params, shelf, which)
        settings, notices = read_link(request.query_params, model)
        for each in notice + notices:
            gr.Warning(html.escape(each, quote=False))
        values = [make(model, settings.get(name)) for name, make in CONTROLS.items()]
        return [settings.get("prompt", gr.skip()), settings.get("seed", 0), "seed" in settings, *values]

    def switch(which: str, variant: str) -> list[Any]:
        """The other controls, as this variant has them by default."""
        with parts.told():
            model = shelf.get(which, variant)
        return [CONTROLS[name](model) for name in OPTIONS]

    triggers = [button.click, prompt.submit]
    shown = [stop, choice, sound, tools, wav, flac, facts, pictures, seed, kept, path]
    settings = [*controls.values(), seed, lock]
    starts: list[tuple[list[Any], Callable[..., Any], list[Any]]] = [(triggers, run, [chosen, prompt, *settings])]
    for each, texts in zip(examples, EXAMPLES.values(), strict=True):
        # In the browser itself: what is pressed next finds the prompt there. A Dataset's value is an index in it.
        each.click(None, each, prompt, js=f"(index) => {json.dumps(texts)}[index]", api_visibility="private")
        starts.append(([each.click], run_example, [chosen, each, *settings]))
    parts.runs(starts, shown, stop, facts)
    choice.input(pick, [kept, choice], [sound, path, wav, flac, tools, facts, pictures], **QUIET)
    controls["variant"].input(
        switch, [chosen, controls["variant"]], [controls[name] for name in OPTIONS], show_progress="minimal",
        api_visibility="private",
    )  # fmt: skip
    updates: dict[Any, Update] = {controls[name]: partial(_control, make) for name, make in CONTROLS.items()}
    updates[note] = lambda _, choice: _note(choice)
    return GenerateTab(
        prompt=prompt, seed=seed, lock=lock, use=use, path=path, updates=updates, restore=restore,
        restored=[prompt, seed, lock, *controls.values()], **controls,
    )  # fmt: skip


def _control(make: Callable[..., Any], model: AudioDEAR, _: Choice) -> Any:
    return make(model)


def _note(chosen: Choice) -> str:
    text = KNOWN if chosen.source is None else f"The model is that of {html.escape(chosen.words)}."
    return f'<p class="dear-note">{text}</p>'


def _left(out: Output, spent: float, pace: Pace) -> float:
    """Seconds that a generation will still take, where its iterations so far took ``spent``."""
    return spent * (out.iterations / out.iteration - 1) + pace.sound * len(out)


def _progress(out: Output, left: float) -> str:
    when = f"about {max(left, 1):.0f} s left"
    text = f"Iteration {out.iteration} of {out.iterations} <span>{when}</span>"
    return parts.progress_bar(text, out.iteration / out.iterations)


def _facts(out: Output, count: int, link: str) -> str:
    """What it took: seconds per stage, the real-time factor, and the settings that give this sound again."""
    # Not the pipeline's total: the time that the page itself took for its pictures would be part of that.
    seconds = {name: out.timings[stage] for stage, name in STAGES.items()}
    total = sum(seconds.values())
    duration = count * out.sound.shape[-1] / out.sample_rate
    factor = total / duration
    pace = f"{1 / factor:.1f}× faster" if factor <= 1 else f"{factor:.1f}× slower"
    stages = "".join(
        f'<span class="dear-stage-{i}" style="flex-grow:{each / total:.4f}"></span>'
        for i, each in enumerate(seconds.values())
    )
    legend = "".join(
        f'<li><i class="dear-stage-{i}"></i>{name} {parts.seconds_text(each)}</li>'
        for i, (name, each) in enumerate(seconds.items())
    )
    settings = {
        "seed": out.seed,
        "CFG scale": f"{out.settings['cfg_scale']:g}",
        "iterations": out.settings["iterations"],
        "temperature": f"{out.settings['temperature']:g}",
        **({"steps": out.settings["steps"]} if out.settings["steps"] > 1 else {}),
        "model": f"{out.settings['model']} {out.settings['variant']}",
    }
    listed = "".join(
        f"<div><dt>{name}</dt><dd>{html.escape(str(value))}</dd></div>" for name, value in settings.items()
    )
    return (
        f'<div class="dear-facts" role="status"><p class="dear-headline"><strong>{duration:.1f} s of sound in '
        f"{total:.2f} s</strong>, {pace} than real time <span>(real-time factor {factor:.2f})</span></p>"
        f'<div class="dear-stages" aria-hidden="true">{stages}</div><ul class="dear-legend">{legend}</ul>'
        f'<dl>{listed}</dl><p class="dear-after"><a class="dear-link" href="{html.escape(link)}">'
        "Copy a link to this prompt and these settings</a></p></div>"
    )


def _pictures(config: Config, out: Output) -> str:
    """The pictures of one result, or of one in progress, under one another on one time axis."""
    seconds = config.mel.frames * config.mel.hop_length / config.mel.sample_rate
    shown = []
    if out.waveform is not None:
        wave = out.waveform[0].numpy()
        drawn = plots.waveform_figure(wave, out.sample_rate, seconds)
        shown.append(parts.figure("Waveform", "", drawn, f"Waveform, peak {abs(wave).max():.2f} of 1", seconds))
    drawn = plots.mel_figure(out.mel[0].numpy(), config.mel)
    alt = f"Mel spectrogram, {config.mel.f_min:g} to {config.mel.f_max:g} hertz over {seconds:.1f} seconds"
    known = int((out.order[0] >= 0).sum())
    whole = known == config.length
    films = {"more": parts.film(out, config.grid[1], drawn), "action": parts.WATCH} if whole else {}
    note = f"{config.mel.n_mels} bands"
    shown.append(parts.figure("Mel spectrogram", note, drawn, alt, seconds, smooth=True, **films))
    if whole:
        drawn = plots.latents_figure(out.latents[0].numpy(), seconds)
        alt = f"Latents of the {config.length} tokens over time, {config.vae.token_dim} values each"
        note = f"{config.length} tokens of {config.vae.token_dim} values"
        shown.append(parts.figure("Latents", note, drawn, alt, seconds))
    drawn = plots.order_figure(out.order[0].numpy(), out.iterations, config.grid, seconds)
    alt = f"Iteration, 1 to {out.iterations}, in which each token was drawn; {known} of {config.length} drawn"
    more = parts.film(out, config.grid[1], drawn) if whole else ""
    shown.append(parts.figure("Decoding order", "the iteration of each token", drawn, alt, seconds, more=more))
    return f'<div class="dear-pictures">{"".join(shown)}</div>'
