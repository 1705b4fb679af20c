"""The tab that hears one prompt and one seed under several settings, openly or blind."""

from __future__ import annotations

import html
import random
import re
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import gradio as gr

from dear.ui.components import parts
from dear.ui.components.controls import cfg_slider, steps_slider, temperature_slider
from dear.ui.components.parts import KEEP, QUIET, Update
from dear.ui.gpu import on_gpu
from dear.ui.shelf import Shelf
from dear.ui.tabs.generate import GenerateTab

MOST_SOUNDS = 12
GPU_SECONDS = 60  # that one comparison is allowed under ZeroGPU
EMPTY = (
    '<div class="dear-empty"><p>Nothing compared yet.</p><p>The same prompt and the same seed are heard under each '
    "pair of CFG scale and iterations, side by side.</p></div>"
)


@dataclass(frozen=True)
class Cell:
    """One sound of a comparison: its settings, its picture and its file."""

    cfg_scale: float
    iterations: int
    picture: str
    path: str

    @property
    def name(self) -> str:
        return f"CFG {self.cfg_scale:g}, {self.iterations} iteration" + ("s" if self.iterations > 1 else "")


@dataclass(frozen=True)
class Comparison:
    """What one visitor compares."""

    prompt: str
    seed: int
    cells: tuple[Cell, ...]
    blind: bool
    which: str  # the model, as the visitor's browser names it


def read_numbers(name: str, text: str) -> list[float]:
    """Numbers set apart by commas, semicolons or spaces. Raises ValueError naming what is none."""
    numbers = []
    for word in re.split(r"[,;\s]+", text.strip(" ,;\t\n")):
        try:
            numbers.append(float(word))
        except ValueError:
            raise ValueError(f"{name} must be numbers with commas between them, got {text[:60]!r}") from None
    return numbers


def pairs(cfg_scales: Sequence[float], iterations: Sequence[Any]) -> list[tuple[float, Any]]:
    """All pairs of the two, without repetition. Raises ValueError where they are more than the page compares."""
    scales, passes = dict.fromkeys(cfg_scales), dict.fromkeys(iterations)
    if not 1 <= len(scales) * len(passes) <= MOST_SOUNDS:
        raise ValueError(
            f"cfg_scales and iterations must make 1 to {MOST_SOUNDS} sounds together, got "
            f"{len(cfg_scales)} x {len(iterations)}"
        )
    return [(scale, count) for count in passes for scale in scales]


def compare_tab(
    shelf: Shelf, chosen: gr.Textbox, folder: Path, generate: GenerateTab, tabs: gr.Tabs
) -> dict[Any, Update]:
    """Lay out the tab inside the current Blocks. The best settings go to ``generate``, a tab of ``tabs``."""
    with gr.Row(equal_height=False, elem_classes="dear-tab"):
        with gr.Column(scale=4, min_width=320, elem_classes="dear-controls"):
            prompt = parts.prompt_box("compare-prompt")
            button, stop = parts.go_row("Compare", "compare")
            with gr.Group(elem_classes="dear-settings"):
                scales = gr.Textbox(
                    "1, 2, 3, 4, 5, 6", label="CFG scales", info="Numbers from 0 to 20, with commas.",
                    elem_id="compare-scales",
                )  # fmt: skip
                passes = gr.Textbox(
                    str(shelf.get(None).sampling.iterations), label="Iterations",
                    info=f"Whole numbers, with commas; at most {MOST_SOUNDS} sounds in all.",
                    elem_id="compare-iterations",
                )  # fmt: skip
                blind = gr.Checkbox(
                    False, label="Blind", info="Shuffled and without their settings, until one is chosen.",
                    elem_id="compare-blind",
                )  # fmt: skip
                seed, lock = parts.seed_row("compare-")
        with gr.Column(scale=8, min_width=320, elem_classes="dear-results"):
            status = gr.HTML(EMPTY, elem_id="compare-status", elem_classes="dear-status")
            with gr.Row(elem_classes="dear-grid", elem_id="compare-grid"):
                cells = [gr.HTML(visible=False) for _ in range(MOST_SOUNDS)]
            scale_bar = gr.HTML(parts.SCALE_BAR, visible=False)
            best = gr.Radio([], label="The best of them", visible=False, elem_id="best", elem_classes="dear-pick")
            with gr.Row(elem_classes="dear-tools"):
                send = gr.Button("Use in Generate", size="sm", visible=False, elem_id="send")
    state = gr.State(None, time_to_live=KEEP)

    @on_gpu(GPU_SECONDS)
    def draw(which: str, text: str, settings: list[tuple[float, Any]], number: int) -> Generator[Any, None, None]:
        """The mel's configuration, once all settings are checked; then reports of progress and results, in order."""
        with parts.told():
            model = shelf.get(which)
            for scale, count in settings:
                model.stream(text, cfg_scale=scale, iterations=count, seed=number)
            yield model.config.mel
            for scale, count in settings:

                def call(progress: Any, scale: float = scale, count: Any = count) -> Any:
                    return model.generate(text, cfg_scale=scale, iterations=count, seed=number, progress=progress)

                yield from parts.watch(call)

    def run(
        which: str, text: str, scale_text: str, pass_text: str, hide: bool, number: float | None, keep: bool
    ) -> Iterator[Any]:
        with parts.told():
            settings = pairs(read_numbers("CFG scales", scale_text), read_numbers("iterations", pass_text))
            first = parts.seed_of(number, keep)
        if hide:
            random.shuffle(settings)
        done: list[Cell] = []
        with closing(draw(which, text, settings, first)) as reports:
            config = next(reports)
            yield {
                best: gr.Radio(visible=False),
                send: gr.Button(visible=False),
                scale_bar: gr.HTML(visible=True),
                seed: first,
                status: parts.progress_bar(f"Sound 1 of {len(settings)}", 0),
                **dict.fromkeys(cells, gr.HTML("", visible=False)),
            }
            for report in reports:
                if isinstance(report, tuple):
                    share = (len(done) + report[0] / report[1]) / len(settings)
                    yield {status: parts.progress_bar(f"Sound {len(done) + 1} of {len(settings)}", share)}
                    continue
                place = cells[len(done)]
                picture = parts.strip(report, config, f"Mel spectrogram of sound {ascii_uppercase[len(done)]}")
                settings_of = report.settings["cfg_scale"], report.settings["iterations"]
                done.append(Cell(*settings_of, picture, parts.store(report, folder)))
                yield {place: gr.HTML(_cell(done, len(done) - 1, hide), visible=True)}
        found = Comparison(report.prompts[0], report.seed, tuple(done), hide, which)
        yield {
            stop: gr.Button(interactive=False),
            state: found,
            status: _headline(found, revealed=not hide),
            best: gr.Radio(_choices(found, revealed=not hide), value=None, visible=True),
        }

    def choose(found: Comparison | None, index: int) -> dict[Any, Any]:
        if found is None:
            raise parts.forgotten("Compare")
        shown = {place: _cell(found.cells, i, False) for i, place in enumerate(cells[: len(found.cells)])}
        return {
            send: gr.Button(visible=True),
            status: _headline(found, revealed=True),
            best: gr.Radio(_choices(found, revealed=True), value=index),
            **(shown if found.blind else {}),
        }

    def take(which: str, found: Comparison | None, index: int | None) -> dict[Any, Any]:
        if found is None or index is None:
            raise parts.forgotten("Compare")
        with parts.told():
            if found.which != which:
                raise ValueError("the model must be the one that was compared: press Compare again")
            cell, model = found.cells[index], shelf.get(which)
        return {
            generate.prompt: found.prompt,
            generate.variant: model.variant,
            generate.temperature: temperature_slider(model),  # those of the comparison
            generate.steps: steps_slider(model),
            generate.cfg_scale: cfg_slider(model, cell.cfg_scale),
            generate.iterations: cell.iterations,
            generate.seed: found.seed,
            generate.lock: True,
            tabs: gr.Tabs(selected="generate"),
        }

    triggers = [button.click, prompt.submit]
    shown = [*cells, stop, state, status, best, send, scale_bar, seed]
    parts.runs([(triggers, run, [chosen, prompt, scales, passes, blind, seed, lock])], shown, stop, status)
    best.input(choose, [state, best], [*cells, send, status, best], **QUIET)
    taken: list[Any] = [
        generate.prompt,
        generate.variant,
        generate.cfg_scale,
        generate.iterations,
        generate.temperature,
    ]
    taken += [generate.steps, generate.seed, generate.lock, tabs]
    send.click(take, [chosen, state, best], taken, **QUIET)
    return {passes: lambda model, _: str(model.sampling.iterations)}


def _cell(found: Sequence[Cell], index: int, hidden: bool) -> str:
    """One of the sounds so far; unless hidden, another number of iterations begins another row."""
    cell = found[index]
    first = not hidden and index > 0 and cell.iterations != found[index - 1].iterations
    count = f"{cell.iterations} iteration" + ("s" if cell.iterations > 1 else "")
    title = f"Sound {ascii_uppercase[index]}" if hidden else f"CFG {cell.cfg_scale:g} <span>{count}</span>"
    player = parts.player(cell.path, f"Sound {ascii_uppercase[index]}" if hidden else cell.name)
    return (
        f'<article class="dear-cell{" dear-first" if first else ""}"><h3>{title}</h3>{cell.picture}{player}</article>'
    )


def _choices(found: Comparison, revealed: bool) -> list[tuple[str, int]]:
    letters = [f"Sound {letter}" for letter in ascii_uppercase]
    return [(cell.name if revealed else letters[i], i) for i, cell in enumerate(found.cells)]


def _headline(found: Comparison, revealed: bool) -> str:
    how = f"seed {found.seed}" if revealed else "settings hidden until one is chosen"
    return (
        f'<p class="dear-headline" role="status"><strong><bdi>{html.escape(found.prompt)}</bdi></strong> '
        f"<span>{how}</span></p>"
    )
