"""What several tabs are made of: controls, players, pictures, progress, and files of results."""

from __future__ import annotations

import functools
import html
import queue
import re
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr

from dear.config import MelConfig
from dear.output import Output
from dear.pipeline import AudioDEAR
from dear.request import Progress, check_whole
from dear.ui.assets import load
from dear.ui.shelf import Choice
from dear.visual import plots

KEEP = 3600  # seconds for which a result's file is kept for the page and the endpoints to fetch
LOOK_EVERY = 60  # seconds between looks for files that are older
# No caller waits for more than this many others; one generation runs at a time, for it uses all cores.
QUEUE: dict[str, Any] = {"concurrency_id": "generation", "concurrency_limit": 1}
LARGEST_SEED = 2**53 - 1  # beyond it a browser rounds whole numbers
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
SHOW_RESULTS = load("show_results.js").rstrip()

STOPPED = '<p class="dear-headline" role="status">Stopped.</p>'
CAN_STOP = "() => ({ __type__: 'update', interactive: true })"

Update = Callable[[AudioDEAR, Choice], Any]  # what a component becomes when its visitor has chosen a model


def prompt_box(name: str, placeholder: str = "What should be heard?", **options: Any) -> gr.Textbox:
    return gr.Textbox(
        label="Prompt", placeholder=placeholder, lines=1, max_lines=5, elem_id=name, elem_classes="dear-prompt",
        **options,
    )  # fmt: skip


def go_row(label: str, name: str) -> tuple[gr.Button, gr.Button]:
    """The button that begins, and the one that stops; see :func:`runs`."""
    with gr.Row(elem_classes="dear-go"):
        go = gr.Button(label, variant="primary", elem_id=name)
        stop = gr.Button("Stop", interactive=False, elem_id=f"{name}-stop", elem_classes="dear-stop")
    return go, stop


def runs(starts: list[tuple[list[Any], Callable[..., Any], list[Any]]], outputs: list[Any], stop: gr.Button,
         status: gr.HTML, queue: dict[str, Any] = QUEUE) -> None:  # fmt: skip
    """Let triggers begin a run, and ``stop`` end it for that one visitor, in the queue already.

    starts: (triggers, run, inputs) each. A run says when there is nothing to stop any more. From when on there is, the
        browser says by itself, and the run with its first report: it may have waited for the end of another one.
    queue: whose turn it waits for.
    """
    events = []
    for triggers, each, inputs in starts:
        run = _tidied(each, stop, status)
        gr.on(triggers, None, None, stop, js=CAN_STOP, api_visibility="private")
        # "multiple": the browser may take a run that was stopped for a pending one, and would ignore the next press.
        event = gr.on(
            triggers, run, inputs, outputs, show_progress="minimal", show_progress_on=[status],
            trigger_mode="multiple", api_visibility="private", **queue,
        )  # fmt: skip
        event.failure(lambda: gr.Button(interactive=False), None, stop, queue=False, **QUIET)
        gr.on(triggers, None, js=SHOW_RESULTS, api_visibility="private")
        events.append(event)
    stopped = stop.click(
        lambda: (gr.Button(interactive=False), STOPPED), None, [stop, status], cancels=events, queue=False, **QUIET
    )
    # Once more: a report of the run may have been on its way when it was cancelled.
    stopped.then(lambda: (gr.Button(interactive=False), STOPPED), None, [stop, status], queue=False, **QUIET)


def _tidied(
    run: Callable[..., Generator[dict[Any, Any], None, None]], stop: gr.Button, status: gr.HTML
) -> Callable[..., Iterator[dict[Any, Any]]]:
    """``run``, which can be stopped from its first report on, and whose progress doesn't outlive its failure."""

    @functools.wraps(run)
    def tidied(*inputs: Any) -> Iterator[dict[Any, Any]]:
        began = False
        with closing(run(*inputs)) as steps:
            try:
                for changes in steps:
                    yield changes if began else {stop: gr.Button(interactive=True)} | changes
                    began = True
            except Exception:
                if began:
                    yield {status: ""}
                raise

    return tidied


def seed_row(prefix: str = "") -> tuple[gr.Number, gr.Checkbox]:
    """A seed, and whether it is kept. A roll of the dice keeps what it gives, and so does typing."""
    with gr.Row(elem_classes="dear-seed"):
        seed = gr.Number(0, label="Seed", precision=0, minimum=0, min_width=120, elem_id=f"{prefix}seed")
        dice = gr.Button("🎲", min_width=40, scale=0, elem_id=f"{prefix}dice", elem_classes="dear-dice")
        lock = gr.Checkbox(False, label="🔒 Keep", min_width=96, elem_id=f"{prefix}lock", elem_classes="dear-lock")
    roll = "() => [Math.floor(Math.random() * 2 ** 32), true]"
    dice.click(None, None, [seed, lock], js=roll, api_visibility="private")
    seed.input(None, None, lock, js="() => true", api_visibility="private")
    return seed, lock


def seed_of(number: float | None, keep: bool) -> int:
    """The seed that a visitor keeps, else a new one. Raises ValueError where a browser would have rounded it."""
    if number is None or not keep:
        return secrets.randbelow(2**32)
    return check_whole("seed", number, 0, LARGEST_SEED)


@contextmanager
def told() -> Iterator[None]:
    """Turn the pipeline's errors into messages of the page, which shows their sentences as text."""
    try:
        yield
    except (ValueError, FloatingPointError) as error:
        raise gr.Error(html.escape(str(error), quote=False), print_exception=False) from None


def forgotten(button: str) -> gr.Error:
    """For what a visitor asks of a result that is not kept any more."""
    return gr.Error(f"These sounds are kept for an hour only: press {button} again.", print_exception=False)


class _Stopped(Exception):
    pass


def watch(call: Callable[[Progress], Any], end: bool = True) -> Generator[Any, None, None]:
    """Yield (done, of how many) while ``call(progress)`` runs, then its result, which is no tuple.

    end: whoever closes this iterator ends the call at its next report, and waits for that; else the call goes on alone.
    """
    reports: queue.SimpleQueue[Any] = queue.SimpleQueue()
    stopped = threading.Event()

    def progress(done: int, total: int) -> None:
        if stopped.is_set():
            raise _Stopped
        reports.put((done, total))

    def work() -> None:
        try:
            reports.put(call(progress))
        except Exception as error:  # raised again where the result is awaited
            reports.put(error)

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    try:
        while True:
            report = reports.get()
            while isinstance(report, tuple) and not reports.empty():
                report = reports.get()  # only the latest counts
            if isinstance(report, Exception):
                raise report
            yield report
            if not isinstance(report, tuple):
                return
    finally:
        if end:
            stopped.set()
            worker.join()


def store(out: Output, folder: Path, suffix: str = ".wav") -> str:
    """Write a result of one sound into a folder of its own inside ``folder``. Returns its path."""
    words = re.sub(r"[^a-z0-9]+", "-", out.prompts[0].lower()).strip("-")[:48].strip("-") or "sound"
    path = Path(tempfile.mkdtemp(dir=folder)) / f"{words}-{out.seed}{suffix}"
    out.save(path)
    return str(path)


def forget_old(folder: Path) -> None:
    """Remove results from ``folder`` once they are old, for as long as there is such a folder."""
    while folder.is_dir():
        with suppress(FileNotFoundError):  # the folder itself is removed at the end
            for old in folder.iterdir():
                if time.time() - old.stat().st_mtime > KEEP:
                    shutil.rmtree(old, ignore_errors=True)
        time.sleep(LOOK_EVERY)


def player(path: str, label: str) -> str:
    """A plain player for a stored result."""
    source = html.escape(f"gradio_api/file={quote(path)}")
    return f'<audio controls preload="metadata" src="{source}" aria-label="{html.escape(label)}"></audio>'


def progress_bar(text: str, share: float) -> str:
    """``text`` over a bar that is filled to ``share``, from 0 to 1."""
    return (
        f'<div class="dear-facts" role="status"><p class="dear-headline">{text}</p>'
        f'<div class="dear-bar"><span style="width:{100 * share:.1f}%"></span></div></div>'
    )


def seconds_text(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 0.995 else f"{1000 * seconds:.0f} ms"


def figure(
    title: str,
    note: str,
    drawn: plots.Figure,
    alt: str,
    seconds: float,
    smooth: bool = False,
    more: str = "",
    action: str = "",
) -> str:
    """One picture with its title, over the time axis that the line of its player runs on.

    more: attributes of the picture, such as those of :func:`film`; action: HTML at the end of the title.
    """
    return (
        f'<figure><figcaption>{title} <span>{note}</span>{action}</figcaption><div class="dear-plot'
        f'{" dear-smooth" if smooth else ""}" data-seconds="{seconds}"{more}>{plots.to_svg(drawn, alt)}</div></figure>'
    )


WATCH = '<button type="button" class="dear-film">Watch it being drawn</button>'  # plays all films beside it


def film(out: Output, rows: int, drawn: plots.Figure) -> str:
    """Attributes of a picture that the browser covers and then uncovers, token by token in their order.

    rows: tokens along frequency; drawn: the picture, all of whose axes are covered."""
    order, axes = ",".join(map(str, out.order[0].tolist())), drawn.axes[0].get_position()
    style = f"--top:{1 - axes.y1:.2%};--bottom:{axes.y0:.2%}"
    return f' data-order="{order}" data-rows="{rows}" data-iterations="{out.iterations}" style="{style}"'


def strip(out: Output, config: MelConfig, alt: str) -> str:
    """The mel of a result, small and without axes; the colours mean the same in all of them."""
    drawn = plots.mel_strip(out.mel[0].numpy(), config)
    return f'<div class="dear-strip">{plots.to_svg(drawn, alt)}</div>'


SCALE_BAR = '<div class="dear-scale-bar"><span>−80 dB</span><i></i><span>10 dB</span></div>'
