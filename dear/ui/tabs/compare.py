"""The tab that compares one prompt and one seed under several settings, openly or blind."""

from __future__ import annotations

import html
import random
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

import gradio as gr

from dear.options import OPTIONS
from dear.ui.components import checks, controls, pictures
from dear.ui.components.files import LIFETIME, player, store
from dear.ui.components.runs import QUIET, Start, expired, page_errors, progress_bar, refusal, run_buttons, runs, watch
from dear.ui.context import Context, Tab
from dear.ui.gpu import on_gpu
from dear.ui.tabs.generate import GenerateInterface

MAX_SOUNDS = 12
GPU_SECONDS = 60  # limit of one comparison under ZeroGPU
EMPTY = (
    '<div class="dear-empty"><p>Nothing compared yet.</p><p>Hear the same prompt and the same seed under each pair '
    "of CFG scale and iterations, side by side.</p></div>"
)


@dataclass(frozen=True)
class Cell:
    """One sound of a comparison."""

    cfg_scale: float
    iterations: int
    picture: str
    path: str

    @property
    def name(self) -> str:
        return f"CFG {self.cfg_scale:g}, {_count(self.iterations)}"


@dataclass(frozen=True)
class Comparison:
    """A finished comparison of one visitor."""

    prompt: str
    seed: int
    cells: tuple[Cell, ...]
    blind: bool
    chosen: str  # the visitor's model as text


def pairs(cfg_scales: Sequence[float], iterations: Sequence[Any]) -> list[tuple[float, Any]]:
    """All pairs of the two, without duplicates."""
    return [(scale, count) for count in dict.fromkeys(iterations) for scale in dict.fromkeys(cfg_scales)]


def build(context: Context) -> None:
    models, folder = context.models, context.folder
    with gr.Row(equal_height=False, elem_classes="dear-tab"):
        with gr.Column(scale=4, min_width=320, elem_classes="dear-controls"):
            prompt = controls.prompt_box("compare-prompt")
            start, stop = run_buttons("Compare", "compare")
            with gr.Group(elem_classes="dear-settings"):
                cfg_scales = gr.Textbox(
                    "1, 2, 3, 4, 5, 6", label="CFG scales", info="Numbers from 0 to 20, separated by commas.",
                    elem_id="compare-scales",
                )  # fmt: skip
                iterations = gr.Textbox(
                    str(models.get(None).sampling.iterations), label="Iterations",
                    info=f"Whole numbers, separated by commas. {MAX_SOUNDS} sounds at most.",
                    elem_id="compare-iterations",
                )  # fmt: skip
                blind = gr.Checkbox(
                    False, label="Blind", info="Shuffles the sounds and hides their settings until you choose one.",
                    elem_id="compare-blind",
                )  # fmt: skip
                seed, lock = controls.seed_row("compare-")
        with gr.Column(scale=8, min_width=320, elem_classes="dear-results"):
            status = gr.HTML(EMPTY, elem_id="compare-status", elem_classes="dear-status")
            with gr.Row(elem_classes="dear-grid", elem_id="compare-grid"):
                cells = [gr.HTML(visible=False) for _ in range(MAX_SOUNDS)]
            scale_bar = gr.HTML(pictures.LOUDNESS_SCALE, visible=False)
            best = gr.Radio([], label="Which is best?", visible=False, elem_id="best", elem_classes="dear-pick")
            with gr.Row(elem_classes="dear-tools"):
                send = gr.Button("Use in Generate", size="sm", visible=False, elem_id="send")
    latest = gr.State(None, time_to_live=LIFETIME)

    @on_gpu(GPU_SECONDS)
    def draw(chosen: str, text: str, settings: list[tuple[float, Any]], number: int) -> Generator[Any, None, None]:
        """The mel configuration, once all settings are checked; then progress and results, in order."""
        with page_errors():
            model = models.get(chosen)
            for cfg_scale, count in settings:
                model.stream(text, cfg_scale=cfg_scale, iterations=count, seed=number)
            yield model.config.mel
            for cfg_scale, count in settings:

                def call(progress: Any, cfg_scale: float = cfg_scale, count: Any = count) -> Any:
                    return model.generate(text, cfg_scale=cfg_scale, iterations=count, seed=number, progress=progress)

                yield from watch(call)

    def run(
        chosen: str, text: str, scales_text: str, iterations_text: str, hide: bool, number: float | None, keep: bool
    ) -> Iterator[Any]:
        checks.check_prompt(text)
        first = checks.resolve_seed(number, keep)
        with page_errors():
            length = models.get(chosen).model.length
        option = OPTIONS["cfg_scale"]
        scales = checks.read_numbers("CFG scales", scales_text, option.low, option.high)
        counts = checks.read_numbers("iterations", iterations_text, 1, length, whole=True)
        settings = pairs(scales, counts)
        checks.check_count(settings, MAX_SOUNDS)
        if hide:
            random.shuffle(settings)
        done: list[Cell] = []
        with closing(draw(chosen, text, settings, first)) as reports:
            config = next(reports)
            yield {
                best: gr.Radio(visible=False),
                send: gr.Button(visible=False),
                scale_bar: gr.HTML(visible=True),
                seed: first,
                status: progress_bar(f"Sound 1 of {len(settings)}", 0),
                **dict.fromkeys(cells, gr.HTML("", visible=False)),
            }
            for report in reports:
                if isinstance(report, tuple):
                    share = (len(done) + report[0] / report[1]) / len(settings)
                    yield {status: progress_bar(f"Sound {len(done) + 1} of {len(settings)}", share)}
                    continue
                place = cells[len(done)]
                picture = pictures.strip(report, config, f"Mel spectrogram of sound {ascii_uppercase[len(done)]}")
                used = report.settings["cfg_scale"], report.settings["iterations"]
                done.append(Cell(*used, picture, store(report, folder)))
                yield {place: gr.HTML(cell_html(done, len(done) - 1, hide), visible=True)}
        found = Comparison(report.prompts[0], report.seed, tuple(done), hide, chosen)
        yield {
            stop: gr.Button(interactive=False),
            latest: found,
            status: _headline(found, revealed=not hide),
            best: gr.Radio(_choices(found, revealed=not hide), value=None, visible=True),
        }

    def reveal(found: Comparison | None, index: int) -> dict[Any, Any]:
        if found is None:
            raise expired("Compare")
        shown = {place: cell_html(found.cells, i, False) for i, place in enumerate(cells[: len(found.cells)])}
        return {
            send: gr.Button(visible=True),
            status: _headline(found, revealed=True),
            best: gr.Radio(_choices(found, revealed=True), value=index),
            **(shown if found.blind else {}),
        }

    outputs = [*cells, stop, latest, status, best, send, scale_bar, seed]
    inputs = [context.chosen, prompt, cfg_scales, iterations, blind, seed, lock]
    runs([Start([start.click, prompt.submit], run, inputs)], outputs, stop, status)
    best.input(reveal, [latest, best], [*cells, send, status, best], **QUIET)
    context.model_updates[iterations] = lambda model, _: str(model.sampling.iterations)

    def connect() -> None:
        """Send the best settings to the tab Generate."""
        generate = context.find(GenerateInterface)
        if generate is None:
            return

        def use(chosen: str, found: Comparison | None, index: int | None) -> dict[Any, Any]:
            if found is None or index is None:
                raise expired("Compare")
            if found.chosen != chosen:
                raise refusal("You have changed the model since this comparison. Press Compare again.")
            with page_errors():
                cell, model = found.cells[index], models.get(chosen)
            return {
                generate.prompt: found.prompt,
                generate.controls["variant"]: model.variant,
                generate.controls["cfg_scale"]: controls.cfg_scale_slider(model, cell.cfg_scale),
                generate.controls["iterations"]: cell.iterations,
                generate.controls["temperature"]: controls.temperature_slider(model),  # the comparison's own
                generate.controls["steps"]: controls.steps_slider(model),
                generate.controls["shown_variant"]: model.variant,
                generate.seed: found.seed,
                generate.lock: True,
                context.tabs: gr.Tabs(selected="generate"),
            }

        names = ("variant", "cfg_scale", "iterations", "temperature", "steps", "shown_variant")
        changed = [generate.controls[name] for name in names]
        targets = [generate.prompt, *changed, generate.seed, generate.lock, context.tabs]
        send.click(use, [context.chosen, latest, best], targets, **QUIET)

    context.connect(connect)


def cell_html(found: Sequence[Cell], index: int, hidden: bool) -> str:
    """One sound. Unless settings are hidden, another number of iterations starts a new row."""
    cell = found[index]
    first = not hidden and index > 0 and cell.iterations != found[index - 1].iterations
    label = f"Sound {ascii_uppercase[index]}"
    title = label if hidden else f"CFG {cell.cfg_scale:g} <span>{_count(cell.iterations)}</span>"
    return (
        f'<article class="dear-cell{" dear-first" if first else ""}"><h3>{title}</h3>{cell.picture}'
        f"{player(cell.path, label if hidden else cell.name)}</article>"
    )


def _count(iterations: int) -> str:
    return f"{iterations} iteration" + ("s" if iterations > 1 else "")


def _choices(found: Comparison, revealed: bool) -> list[tuple[str, int]]:
    letters = [f"Sound {letter}" for letter in ascii_uppercase]
    return [(cell.name if revealed else letters[i], i) for i, cell in enumerate(found.cells)]


def _headline(found: Comparison, revealed: bool) -> str:
    note = f"seed {found.seed}" if revealed else "settings hidden until you choose"
    return (
        f'<p class="dear-headline" role="status"><strong><bdi>{html.escape(found.prompt)}</bdi></strong> '
        f"<span>{note}</span></p>"
    )


TAB = Tab("compare", "Compare", build, styles=("cells.css",))
