"""The tab that compares sounds in a grid, along any two settings, openly or blind."""

from __future__ import annotations

import html
import random
import zipfile
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import gradio as gr

from dear.csv_tables import to_csv
from dear.loudness import PAGE
from dear.output import Output
from dear.pipeline import AudioDEAR
from dear.ui.assets import load
from dear.ui.components import checks, controls, pictures
from dear.ui.components.axes import AXES, BY_TITLE, grid, names
from dear.ui.components.files import LIFETIME, new_folder, player, store, store_anonymous
from dear.ui.components.runs import QUIET, Start, expired, page_errors, progress_bar, refusal, run_buttons, runs, watch
from dear.ui.context import Context, Tab
from dear.ui.gpu import on_gpu
from dear.ui.tabs.generate import GenerateInterface

MAX_SOUNDS = 12
NO_ROWS = "Nothing"
EMPTY = (
    '<div class="dear-empty"><p>Nothing compared yet.</p><p>Hear a prompt under several settings, side by side. Choose '
    "what changes along the columns and, if you like, along the rows.</p></div>"
)
TAKE_JS = load("compare_take.js").rstrip()


@dataclass(frozen=True)
class Cell:
    """One sound of a comparison."""

    settings: dict[str, Any]  # what varies
    used: dict[str, Any]  # all settings, with the prompt and the seed
    picture: str
    path: str  # the sound as it was made
    heard: str  # what the page plays

    @property
    def name(self) -> str:
        return ", ".join(names(self.settings))


@dataclass(frozen=True)
class Comparison:
    """A finished comparison of one visitor."""

    cells: tuple[Cell, ...]
    columns: int
    headline: str  # HTML: what all cells share
    blind: bool
    chosen: str  # the visitor's model as text


def build(context: Context) -> None:
    models, folder = context.models, context.folder
    own = models.get(None)
    with gr.Row(equal_height=False, elem_classes="dear-tab"):
        with gr.Column(scale=4, min_width=320, elem_classes="dear-controls"):
            prompt = controls.prompt_box("compare-prompt")
            start, stop = run_buttons("Compare", "compare")
            with gr.Group(elem_classes="dear-settings"):
                titles = list(BY_TITLE)
                with gr.Row(elem_classes="dear-axis"):
                    columns, across = _axis("Columns", titles, "CFG scale", own)
                with gr.Row(elem_classes="dear-axis"):
                    rows, down = _axis("Rows", [NO_ROWS, *titles], NO_ROWS, own)
                blind = gr.Checkbox(
                    False, label="Blind", elem_id="compare-blind",
                    info="Shuffles the sounds and hides settings and pictures until you choose one.",
                )  # fmt: skip
                equal = gr.Checkbox(
                    True, label="Equal loudness", elem_id="compare-equal",
                    info="All players have the same loudness. Downloads are not changed.",
                )  # fmt: skip
                seed, lock = controls.seed_row("compare-")
            gr.HTML(f'<p class="dear-note">At most {MAX_SOUNDS} sounds. Keys A to {ascii_uppercase[MAX_SOUNDS - 1]} '
                    "play them.</p>")  # fmt: skip
        with gr.Column(scale=8, min_width=320, elem_classes="dear-results"):
            status = gr.HTML(EMPTY, elem_id="compare-status", elem_classes="dear-status")
            with gr.Row(elem_classes="dear-grid", elem_id="compare-grid"):
                cells = [gr.HTML(visible=False) for _ in range(MAX_SOUNDS)]
            scale_bar = gr.HTML(pictures.LOUDNESS_SCALE, visible=False)
            best = gr.Radio([], label="Which is best?", visible=False, elem_id="best", elem_classes="dear-pick")
            with gr.Row(elem_classes="dear-tools"):
                send = gr.Button("Use in Generate", size="sm", visible=False, elem_id="send")
                archive = gr.DownloadButton("Download all", size="sm", visible=False, elem_id="compare-zip")
    latest = gr.State(None, time_to_live=LIFETIME)

    @on_gpu()
    def draw(chosen: str, settings: list[dict[str, Any]]) -> Generator[Any, None, None]:
        """The mel configuration, once all settings are checked; then progress and results, in order."""
        with page_errors():
            calls = [(models.get(chosen, each.get("variant")), _options(each)) for each in settings]
            for model, options in calls:
                model.stream(**options)
            yield calls[0][0].config.mel
            for model, options in calls:

                def call(progress: Any, model: AudioDEAR = model, options: dict[str, Any] = options) -> Any:
                    return model.generate(**options, progress=progress, loudness=PAGE)

                yield from watch(call)

    def run(
        chosen: str, text: str, columns_title: str, columns_text: str, rows_title: str, rows_text: str, hide: bool,
        level: bool, number: float | None, keep: bool,
    ) -> Iterator[Any]:  # fmt: skip
        one, two = BY_TITLE[columns_title], BY_TITLE.get(rows_title)
        if one == two:
            raise refusal(f"Columns and rows can't both vary the {columns_title}.")
        if "prompt" not in (one, two):
            checks.check_prompt(text)
        first = checks.resolve_seed(number, keep)
        with page_errors():
            model = models.get(chosen)
        across_values = AXES[one].read(columns_text, model)
        varied = grid((one, across_values), None if two is None else (two, AXES[two].read(rows_text, model)))
        checks.check_count(varied, MAX_SOUNDS)
        if hide:
            random.shuffle(varied)
        shared = {"prompt": text.strip(), "seed": first}
        done: list[Cell] = []
        with closing(draw(chosen, [shared | each for each in varied])) as reports:
            config = next(reports)
            yield {
                best: gr.Radio(visible=False),
                send: gr.Button(visible=False),
                archive: gr.DownloadButton(visible=False),
                scale_bar: gr.HTML(visible=not hide),
                seed: first,
                status: progress_bar(f"Sound 1 of {len(varied)}", 0),
                **dict.fromkeys(cells, gr.HTML("", visible=False)),
            }
            for report in reports:
                if isinstance(report, tuple):
                    share = (len(done) + report[0] / report[1]) / len(varied)
                    yield {status: progress_bar(f"Sound {len(done) + 1} of {len(varied)}", share)}
                    continue
                place, each = cells[len(done)], varied[len(done)]
                done.append(_cell(each, report, config, folder, hide, level))
                yield {place: gr.HTML(cell_html(done, len(done) - 1, hide, len(set(across_values))), visible=True)}
        headline = _headline({name: value for name, value in shared.items() if name not in (one, two)})
        found = Comparison(tuple(done), len(set(across_values)), headline, hide, chosen)
        yield {
            stop: gr.Button(interactive=False),
            latest: found,
            status: _status(found, revealed=not hide),
            best: gr.Radio(_choices(found, revealed=not hide), value=None, visible=True),
            archive: gr.DownloadButton(value=None if hide else _archive(found, folder), visible=not hide),
        }

    def reveal(found: Comparison | None, index: int) -> dict[Any, Any]:
        if found is None:
            raise expired("Compare")
        shown = {place: cell_html(found.cells, i, False, 0) for i, place in enumerate(cells[: len(found.cells)])}
        return {
            send: gr.Button(visible=True),
            scale_bar: gr.HTML(visible=True),
            archive: gr.DownloadButton(value=_archive(found, folder), visible=True),
            status: _status(found, revealed=True),
            best: gr.Radio(_choices(found, revealed=True), value=index),
            **(shown if found.blind else {}),
        }

    outputs = [*cells, stop, latest, status, best, send, archive, scale_bar, seed]
    inputs = [context.chosen, prompt, columns, across, rows, down, blind, equal, seed, lock]
    runs([Start([start.click, prompt.submit], run, inputs)], outputs, stop, status)
    best.input(reveal, [latest, best], [*cells, send, archive, scale_bar, status, best], **QUIET)

    def describe(chosen: str, title: str) -> Any:
        """The values of another axis."""
        axis = AXES.get(BY_TITLE.get(title, ""))
        if axis is None:
            return gr.Textbox(visible=False)
        lines = 4 if axis.title == "Prompt" else 1
        with page_errors():
            return gr.Textbox(axis.example(models.get(chosen)), info=axis.info, lines=lines, visible=True)

    for menu, values in ((columns, across), (rows, down)):
        menu.input(describe, [context.chosen, menu], values, **QUIET)

    def connect() -> None:
        """Send the best settings to the tab Generate, and take a take from there."""
        generate = context.find(GenerateInterface)
        if generate is None:
            return

        def use(chosen: str, found: Comparison | None, index: int | None) -> dict[Any, Any]:
            if found is None or index is None:
                raise expired("Compare")
            if found.chosen != chosen:
                raise refusal("You have changed the model since this comparison. Press Compare again.")
            used = found.cells[index].used
            with page_errors():
                model = models.get(chosen, used["variant"])
            return {
                generate.prompt: used["prompt"],
                generate.controls["variant"]: model.variant,
                generate.controls["cfg_scale"]: controls.cfg_scale_slider(model, used["cfg_scale"]),
                generate.controls["iterations"]: controls.iterations_slider(model, used["iterations"]),
                generate.controls["temperature"]: controls.temperature_slider(model, used["temperature"]),
                generate.controls["steps"]: controls.steps_slider(model, used["steps"]),
                generate.controls["shown_variant"]: model.variant,
                generate.seed: used["seed"],
                generate.lock: True,
                context.tabs: gr.Tabs(selected="generate"),
            }

        generate.takes.submit(None, None, [prompt, seed, lock, context.tabs], js=TAKE_JS, api_visibility="private")
        changed = [
            generate.controls[name]
            for name in ("variant", "cfg_scale", "iterations", "temperature", "steps", "shown_variant")
        ]
        targets = [generate.prompt, *changed, generate.seed, generate.lock, context.tabs]
        send.click(use, [context.chosen, latest, best], targets, **QUIET)

    context.connect(connect)


def _axis(label: str, titles: list[str], value: str, model: AudioDEAR) -> tuple[gr.Dropdown, gr.Textbox]:
    """The setting that varies along one side of the grid, and its values."""
    axis = AXES.get(BY_TITLE.get(value, ""))
    name = label.lower()
    menu = gr.Dropdown(titles, value=value, label=label, min_width=130, scale=2, elem_id=f"compare-{name}")
    values = gr.Textbox(
        axis.example(model) if axis else "", label=f"Values of the {name}", info=axis.info if axis else "",
        visible=axis is not None, min_width=160, scale=3, elem_id=f"compare-{name}-values",
    )  # fmt: skip
    return menu, values


def _options(settings: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a generation."""
    return {name: value for name, value in settings.items() if name != "variant"}


def _cell(settings: dict[str, Any], out: Output, config: Any, folder: Path, hide: bool, level: bool) -> Cell:
    picture = pictures.strip(out, config, f"Mel spectrogram, {', '.join(names(settings))}")
    kept = ("variant", "cfg_scale", "iterations", "temperature", "steps")
    used = {"prompt": out.prompts[0], "seed": out.seed, **{name: out.settings[name] for name in kept}}
    path = store(out, folder, name="-".join([out.prompts[0], *names(settings)]))
    heard = store_anonymous(out, folder, level) if hide or level else path
    return Cell(settings, used, picture, path, heard)


def cell_html(found: Sequence[Cell], index: int, hidden: bool, columns: int) -> str:
    """One sound. Unless settings are hidden, each row begins on a line of its own. columns: 0 for any number."""
    cell, letter = found[index], ascii_uppercase[index]
    label = f"Sound {letter}"
    first = not hidden and columns > 0 and index > 0 and index % columns == 0
    column, *row = map(html.escape, names(cell.settings))
    title = label if hidden else f"<kbd>{letter}</kbd> {column}{f' <span>{row[0]}</span>' if row else ''}"
    picture = "" if hidden else cell.picture
    return (
        f'<article class="dear-cell{" dear-first" if first else ""}" data-key="{letter}"><h3>{title}</h3>{picture}'
        f"{player(cell.heard, label if hidden else cell.name)}</article>"
    )


def _archive(found: Comparison, folder: Path) -> str:
    """A ZIP of all sounds, whose names tell their settings, and a table."""
    rows = [(Path(cell.path).name, *cell.used.values()) for cell in found.cells]
    with new_folder(folder) as place, zipfile.ZipFile(path := place / "comparison.zip", "w") as archive:
        for cell in found.cells:
            archive.write(cell.path, Path(cell.path).name)
        archive.writestr("comparison.csv", to_csv(["file", *found.cells[0].used], rows))
    return str(path)


def _choices(found: Comparison, revealed: bool) -> list[tuple[str, int]]:
    return [
        (f"{ascii_uppercase[i]}: {cell.name}" if revealed else f"Sound {ascii_uppercase[i]}", i)
        for i, cell in enumerate(found.cells)
    ]


def _headline(shared: dict[str, Any]) -> str:
    """The settings that all sounds share: the prompt and the seed, unless they vary."""
    prompt = f"<strong><bdi>{html.escape(shared['prompt'])}</bdi></strong>" if "prompt" in shared else ""
    seed = f"<span>seed {shared['seed']}</span>" if "seed" in shared else ""
    return f"{prompt} {seed}".strip()


def _status(found: Comparison, revealed: bool) -> str:
    text = found.headline if revealed else "<strong>Listen, then choose the best.</strong>"
    return f'<p class="dear-headline" role="status">{text}</p>'


TAB = Tab("compare", "Compare", build, styles=("cells.css",))
