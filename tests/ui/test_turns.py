"""The queue of the page: turns, limits, places, and runs that nobody waits for."""

from __future__ import annotations

import asyncio
import threading
import types

import gradio as gr
import pytest
from gradio.data_classes import PredictBodyInternal
from webpage import answers, served

from dear.pipeline import AudioDEAR
from dear.ui import turns
from dear.ui.components.runs import QUEUE
from dear.ui.turns import MAX_PER_CALLER, FairQueue, estimate


def asked(host: str) -> types.SimpleNamespace:
    return types.SimpleNamespace(client=types.SimpleNamespace(host=host))


@pytest.fixture
def queue():
    with gr.Blocks() as page:
        number = gr.Number()
        gr.Button().click(lambda iterations: iterations, number, number, **QUEUE)
    return FairQueue(page)


def push(queue: FairQueue, host: str, session: str, iterations: object = 8) -> str:
    body = PredictBodyInternal(fn_index=0, data=[iterations], session_hash=session, request=None)
    success, event_id, _ = asyncio.run(queue.push(body, asked(host), None))
    assert success
    return event_id


def messages(queue: FairQueue, session: str) -> list[dict]:
    waiting = queue.pending_messages_per_session[session]
    return [waiting.get_nowait().model_dump() for _ in range(waiting.qsize())]


def test_callers_take_turns_by_the_cost_of_their_runs(queue):
    # Documentation addresses (RFC 5737) are private to Python; these are public ones.
    a, b, c = "93.184.216.34", "93.184.216.35", "93.184.216.36"
    ids = {}
    for name, host, iterations in (("a1", a, 64), ("a2", a, 64), ("b1", b, 8), ("b2", b, 8), ("c1", c, 64)):
        ids[push(queue, host, name, iterations)] = name
    order = []
    while found := queue.get_events():
        order.append(ids[found[0][0]._id])
    assert order == ["a1", "b1", "c1", "b2", "a2"]


def test_whoever_waits_learns_the_place(queue):
    for i in range(3):
        push(queue, f"93.184.216.{i}", f"s{i}")
    assert [[(each["rank"], each["queue_size"]) for each in messages(queue, f"s{i}")][-1] for i in range(3)] == [
        (0, 1), (1, 2), (2, 3),
    ]  # fmt: skip
    queue.get_events()
    queue.broadcast_estimations("generation")
    assert messages(queue, "s2")[-1]["rank"] == 1


def test_one_caller_does_not_fill_the_queue(queue, monkeypatch):
    for i in range(MAX_PER_CALLER + 1):
        push(queue, "93.184.216.34", f"s{i}")
    assert len(queue) == MAX_PER_CALLER
    (answer,) = messages(queue, f"s{MAX_PER_CALLER}")
    assert answer["msg"] == "process_completed" and not answer["success"]
    assert answer["output"]["error"].startswith("8 of your runs wait or run, the most for one caller.")
    push(queue, "93.184.216.35", "other")
    assert len(queue) == MAX_PER_CALLER + 1
    monkeypatch.setattr(turns, "MAX_WAITING", len(queue))
    push(queue, "93.184.216.36", "late")
    assert messages(queue, "late")[-1]["output"]["error"] == "9 runs wait already. Try again in a minute."


def test_a_run_whose_messages_nobody_reads_is_not_started(queue, monkeypatch):
    push(queue, "93.184.216.34", "gone")
    push(queue, "93.184.216.35", "there")
    monkeypatch.setattr(turns, "GRACE", 0.0)
    messages(queue, "there")
    assert queue.get_events() is None
    assert messages(queue, "gone")[-1]["output"]["error"] == turns.LEFT
    assert queue.get_events()[0][0].session_hash == "there"
    assert len(queue) == 0


def test_an_event_that_the_page_does_not_have_is_refused(queue):
    body = PredictBodyInternal(fn_index=7, data=[], session_hash="s", request=None)
    assert asyncio.run(queue.push(body, asked("93.184.216.34"), None)) == (
        False, "fn_index must be one of this page's events, got 7", "error",
    )  # fmt: skip


def test_costs_are_iterations_times_steps_times_sounds():
    def generate(prompt, iterations=None, steps=None, count=1): ...
    def compare(prompt, cfg_scales, iterations): ...
    def extend(audio, seconds, iterations): ...

    assert estimate(generate, ["a dog", 16, 2, 4]) == 16 * 2 * 4
    assert estimate(generate, ["a dog"]) == 32
    assert estimate(compare, ["a dog", [1, 2, 3], [8, 16]]) == 3 * 24
    assert estimate(compare, ["a dog", "1, 2", "8; 16"]) == 2 * 24
    assert estimate(extend, [None, 60, 8]) == 6 * 8
    for wrong in (float("nan"), 10**400, [], {}, "x", [[]], True):
        assert estimate(generate, ["a dog", wrong]) >= 1
    assert estimate(None, None) == 32


def test_a_run_ends_when_its_caller_leaves(student, tiny_folder, monkeypatch):
    begun, ended, original = threading.Event(), threading.Event(), AudioDEAR.generate

    def endless(self, prompt, *, progress, **options):
        begun.set()
        try:
            for _ in range(60_000):
                progress(1, 2)
                ended.wait(0.002)
        finally:
            ended.set()
        return original(self, prompt, **options)

    monkeypatch.setattr(AudioDEAR, "generate", endless)
    with served(student, str(tiny_folder)) as page:
        stream = answers(page.local_url, ["a dog", *[None] * 6])
        assert begun.wait(60)
        assert not ended.is_set()
        stream.close()
        assert ended.wait(60)
