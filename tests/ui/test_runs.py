"""Runs of a tab: progress, stopping, seeds."""

import inspect
import threading
import time

import gradio as gr
import pytest

from dear.ui.components import runs


def test_a_call_that_need_not_be_waited_for_ends_at_its_next_report():
    go_on, ended = threading.Event(), threading.Event()

    def call(progress):
        progress(1, 2)
        go_on.wait(60)
        try:
            progress(2, 2)
        finally:
            ended.set()
        go_on.clear()

    watched = runs.watch(call, wait_on_close=False)
    assert next(watched) == (1, 2)
    watched.close()  # at once
    assert not ended.is_set()
    go_on.set()
    assert ended.wait(60)
    assert go_on.is_set()


def test_a_watched_call_tells_its_progress_and_stops_when_closed(student):
    reports = list(runs.watch(lambda progress: student.generate("a dog", seed=1, progress=progress)))
    assert reports[-1].seed == 1
    assert all(report[1] == 4 for report in reports[:-1])
    calls, go_on = [], threading.Event()

    def call(progress):
        for i in range(1, 1000):
            calls.append(i)
            progress(i, 1000)
            go_on.wait(0.005)

    watched = runs.watch(call)
    next(watched)
    watched.close()
    reached = len(calls)
    assert reached < 1000
    time.sleep(0.05)
    assert len(calls) == reached
    with pytest.raises(ValueError, match="prompt must"):
        list(runs.watch(lambda progress: student.generate("", progress=progress)))


def test_a_run_can_be_stopped_and_its_progress_goes_where_it_fails_and_what_an_earlier_one_left_stays():
    def run(count):
        for number in range(count):
            yield {status: f"step {number}"}
        raise ValueError("no more")

    with gr.Blocks() as page:
        status, stop, go, count = gr.HTML(), gr.Button(), gr.Button(), gr.Number()
        runs.runs([runs.Start([go.click], run, [count])], [status], stop, status)
    (served,) = (each.fn for each in page.fns.values() if inspect.isgeneratorfunction(each.fn))

    def reports(steps):
        try:
            for changes in served(steps):
                yield changes[status]
        except ValueError as error:
            yield error.args

    assert [*reports(2)] == ["step 0", "step 1", "", ("no more",)]
    assert [*reports(0)] == [("no more",)]
    stopped = served(5)
    assert next(stopped)[stop].interactive  # also of a run that had to wait for another one's end
    assert next(stopped) == {status: "step 1"}
    stopped.close()  # nothing more is reported: the button has
