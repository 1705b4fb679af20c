"""Runs of a tab: start and stop buttons, progress, the queue, and errors that visitors read."""

from __future__ import annotations

import functools
import html
import queue
import re
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any, NamedTuple

import gradio as gr

from dear.request import Progress
from dear.ui.assets import load
from dear.ui.metrics import RUNS

# At most one generation runs at a time, because it uses all cores. dear.ui.turns says who waits and for how long.
QUEUE: dict[str, Any] = {"concurrency_id": "generation", "concurrency_limit": 1}
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
SHOW_RESULTS_JS = load("show_results.js").rstrip()
START_JS, FAIL_JS = load("start_run.js").rstrip(), load("fail_run.js").rstrip()
STOPPED = '<p class="dear-headline" role="status">Stopped.</p>'


class Start(NamedTuple):
    """One way to start a run: its triggers, the generator that runs, and its inputs.

    js: turns the inputs into others in the browser.
    """

    triggers: list[Any]
    run: Callable[..., Any]
    inputs: list[Any]
    js: str | None = None


def run_buttons(label: str, name: str) -> tuple[gr.Button, gr.Button]:
    """The buttons that start and stop a run; see :func:`runs`."""
    with gr.Row(elem_classes="dear-go"):
        start = gr.Button(label, variant="primary", elem_id=name)
        stop = gr.Button("Stop", interactive=False, elem_id=f"{name}-stop", elem_classes="dear-stop")
    return start, stop


def runs(
    starts: Sequence[Start], outputs: list[Any], stop: gr.Button, status: gr.HTML, queue: dict[str, Any] = QUEUE
) -> list[Any]:
    """Start a run on each of the triggers. Returns the events of the runs.

    ``stop`` cancels the visitor's own run, also while it waits in the queue. At the click the browser enables the stop
    button and shows that the run waits. The first report of a run enables the button again, since another run may have
    ended meanwhile; its last report disables it. If a run fails before its first report, the status shows again what it
    showed before.
    queue: the keyword arguments that name the queue.
    """
    events = []
    for triggers, each, inputs, js in starts:
        run = _stoppable(each, stop, status)
        gr.on(triggers, None, status, [stop, status], js=START_JS, api_visibility="private")
        # "multiple": with "once", the browser may take a cancelled run for a pending one and ignore the next click.
        event = gr.on(
            triggers, run, inputs, outputs, show_progress="minimal", show_progress_on=[status],
            trigger_mode="multiple", js=js, api_visibility="private", **queue,
        )  # fmt: skip
        event.failure(None, status, [stop, status], js=FAIL_JS, api_visibility="private")
        gr.on(triggers, None, js=SHOW_RESULTS_JS, api_visibility="private")
        events.append(event)
    stopped = stop.click(
        lambda: (gr.Button(interactive=False), STOPPED), None, [stop, status], cancels=events, queue=False, **QUIET
    )
    # Again: a report of the run may have been on its way when the run was cancelled.
    stopped.then(lambda: (gr.Button(interactive=False), STOPPED), None, [stop, status], queue=False, **QUIET)
    return events


def _stoppable(
    run: Callable[..., Generator[dict[Any, Any], None, None]], stop: gr.Button, status: gr.HTML
) -> Callable[..., Iterator[dict[Any, Any]]]:
    """``run`` whose first report enables the stop button, and whose progress is cleared if it fails."""

    @functools.wraps(run)
    def stoppable(*inputs: Any) -> Iterator[dict[Any, Any]]:
        started = False
        with RUNS.run(), closing(run(*inputs)) as reports:
            try:
                for changes in reports:
                    yield changes if started else {stop: gr.Button(interactive=True)} | changes
                    started = True
            except Exception:
                if started:
                    yield {status: ""}
                raise

    return stoppable


@contextmanager
def page_errors() -> Iterator[None]:
    """Show errors of the pipeline as messages of the page, as plain text."""
    try:
        yield
    except (ValueError, FloatingPointError) as error:
        raise gr.Error(html.escape(str(error), quote=False), print_exception=False) from None


def refusal(sentence: str) -> gr.Error:
    """An error that tells a visitor what to do. ``sentence`` is plain text."""
    return gr.Error(html.escape(sentence, quote=False), print_exception=False)


def expired(button: str) -> gr.Error:
    """For results that the page has deleted. ``button``: what makes them again."""
    return refusal(f"Results are deleted after an hour. Press {button} to make them again.")


class _Stopped(Exception):
    pass


def watch(call: Callable[[Progress], Any], wait_on_close: bool = True) -> Generator[Any, None, None]:
    """Yield (done, total) while ``call(progress)`` runs in a thread, then its result, which must not be a tuple.

    Closing this iterator ends the call at its next report. wait_on_close: and waits for that.
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
        except Exception as error:  # raised again by the iterator
            reports.put(error)

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    try:
        while True:
            report = reports.get()
            while isinstance(report, tuple) and not reports.empty():
                newer = reports.get()  # only the latest counts
                report = report if newer == (0, 0) else newer  # which says no more than that the call goes on
            if isinstance(report, Exception):
                raise report
            yield report
            if not isinstance(report, tuple):
                return
    finally:
        stopped.set()
        if wait_on_close:
            worker.join()


def progress_bar(text: str, share: float) -> str:
    """``text`` (HTML) over a bar that is filled to ``share``, from 0 to 1.

    Screen readers can ask for it. It is no live region, because it changes several times a second.
    """
    label = re.sub(r"<[^>]*>", "", text)
    return (
        f'<div class="dear-facts"><p class="dear-headline">{text}</p><div class="dear-bar" role="progressbar" '
        f'aria-label="{label}" aria-valuenow="{100 * share:.0f}"><span style="width:{100 * share:.1f}%"></span></div>'
        "</div>"
    )
