"""The queue of the page: fair turns, a limit for each caller, and an end for abandoned runs.

Turns follow start-time fair queueing (Goyal, Vin and Cheng, 1996): runs start in the order of their tags. The tag of a
run is the virtual time of its arrival, or the virtual time at which the caller's earlier runs are paid for, if that is
later. So a caller with one short run never waits for another caller's second one.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import time
import uuid
from collections import deque
from collections.abc import Callable
from typing import Any

import gradio as gr
from gradio.context import LocalContext
from gradio.queueing import Event, EventQueue, Queue
from gradio.route_utils import get_fn
from gradio.server_messages import EventMessage, ProcessCompletedMessage, ProcessGeneratingMessage

from dear.ui.callers import caller_of
from dear.ui.components.runs import QUEUE
from dear.ui.cost import cost

GENERATION = QUEUE["concurrency_id"]
MAX_WAITING = 512  # runs of all callers together
MAX_PER_CALLER = 8  # runs of one caller, waiting or running
GRACE = 60.0  # seconds after which a run whose messages nobody reads is given up
MAX_SESSIONS = 20_000  # whose messages are kept
LEFT = "Nobody read the messages of this run for a minute, so it was ended. Start it again, and read them at once."


class FairQueue(Queue):
    """Gradio's queue with the turns of this module in the queue of generations. All of it runs in the event loop."""

    def __init__(self, blocks: gr.Blocks):
        super().__init__(
            live_updates=True,
            concurrency_count=blocks.max_threads,
            update_intervals=1,
            max_size=None,
            blocks=blocks,
            default_concurrency_limit=4,
        )
        self.pending_messages_per_session.max_size = MAX_SESSIONS
        self._virtual = 0.0
        self._paid: dict[str, float] = {}  # caller: virtual time at which its runs so far are paid for
        self._callers: dict[str, str] = {}  # of the events that wait or run, by their ids
        self._tags: dict[str, float] = {}

    async def push(self, body: Any, request: Any, username: str | None) -> Any:
        """Queue an event. A refusal is the event's only message, which every kind of client shows."""
        try:
            fn = get_fn(self.blocks, None, body)
        except Exception:  # of an event that the page doesn't have
            return False, f"fn_index must be one of this page's events, got {body.fn_index!r:.40}", "error"
        body.session_hash = body.session_hash or uuid.uuid4().hex
        if body.session_hash not in self.pending_messages_per_session:
            self.pending_messages_per_session[body.session_hash] = Messages()
        self._forget()
        if fn.concurrency_id != GENERATION:
            if len(self) >= MAX_WAITING:
                return self._refuse(body, fn, request, f"{MAX_WAITING} calls wait already. Try again in a minute.")
            return await super().push(body, request, username)
        caller = caller_of(request, body.session_hash)
        self.create_event_queue_for_fn(fn)
        waiting = self.event_queue_per_concurrency_id[GENERATION]
        if sum(each == caller for each in self._callers.values()) >= MAX_PER_CALLER:
            sentence = (
                f"{MAX_PER_CALLER} of your runs wait or run, the most for one caller. Wait for one of them to end."
            )
            return self._refuse(body, fn, request, sentence)
        if len(waiting.queue) >= MAX_WAITING:
            sentence = f"{len(waiting.queue)} runs wait already. Try again in {self._wait(waiting)}."
            return self._refuse(body, fn, request, sentence)
        success, event_id, state = await super().push(body, request, username)
        if success and event_id in self.event_ids_to_events:
            self._take_turn(event_id, caller, estimate(fn.fn, body.data), waiting)
        return success, event_id, state

    def _take_turn(self, event_id: str, caller: str, cost: float, waiting: EventQueue) -> None:
        if len(waiting.queue) == 1 and not waiting.current_concurrency:  # after a pause nobody is behind
            self._virtual = max([self._virtual, *self._paid.values()])
            self._paid.clear()
        tag = max(self._virtual, self._paid.get(caller, 0.0))
        self._paid[caller] = tag + cost
        self._callers[event_id], self._tags[event_id] = caller, tag
        waiting.queue.sort(key=lambda event: self._tags.get(event._id, 0.0))
        place = next((i for i, event in enumerate(waiting.queue) if event._id == event_id), None)
        if place is not None:
            self.broadcast_estimations(GENERATION, place)

    def get_events(self) -> Any:
        """The next event to start. Abandoned events are ended instead."""
        found = super().get_events()
        if found is None:
            return None
        events, _, _ = found
        self._virtual = max(self._virtual, self._tags.get(events[0]._id, 0.0))
        if any(not self.is_abandoned(event) for event in events):
            return found
        for event in events:
            self.send_message(event, _failed(LEFT))
            self.event_ids_to_events.pop(event._id, None)
        return None

    def send_message(self, event: Event, event_message: EventMessage) -> None:
        """Send a message. An event whose reports nobody reads is ended instead."""
        if event.session_hash not in self.pending_messages_per_session:  # dropped since
            event.alive = False
        if isinstance(event_message, ProcessGeneratingMessage) and event.alive and self.is_abandoned(event):
            super().send_message(event, _failed(LEFT))
            event.alive = False
        super().send_message(event, event_message)

    def is_abandoned(self, event: Event) -> bool:
        """Whether the caller of an event has left, or has not read its messages for a minute."""
        messages = self.pending_messages_per_session.get(event.session_hash)
        unread = messages.unread_seconds() if isinstance(messages, Messages) else math.inf
        return not event.alive or unread > GRACE

    def waiting(self) -> int:
        """Runs that wait for their turn."""
        queue = self.event_queue_per_concurrency_id.get(GENERATION)
        return len(queue.queue) if queue else 0

    def _refuse(self, body: Any, fn: Any, request: Any, sentence: str) -> Any:
        event = Event(body.session_hash, fn, request, None)
        self.pending_event_ids_session.setdefault(body.session_hash, set()).add(event._id)
        self.send_message(event, _failed(sentence))
        return True, event._id, "success"

    def _wait(self, waiting: EventQueue) -> str:
        """The time that the waiting runs will take, estimated from the mean times of their kinds."""
        kinds = [each.fn for each in waiting.queue if each.fn in self.process_time_per_fn]
        minutes = math.ceil(sum(self.process_time_per_fn[kind].avg_time for kind in kinds) / 60)
        return f"about {minutes} minutes" if minutes > 1 else "a minute"

    def _forget(self) -> None:
        """Drop what belongs to events that have ended and to sessions whose messages are dropped."""
        for ended in self._callers.keys() - self.event_ids_to_events.keys():
            del self._callers[ended], self._tags[ended]
        if len(self._paid) > MAX_SESSIONS:
            self._paid = {caller: paid for caller, paid in self._paid.items() if paid > self._virtual}
        if len(self.pending_event_ids_session) > MAX_SESSIONS:
            for session in self.pending_event_ids_session.keys() - self.pending_messages_per_session.keys():
                del self.pending_event_ids_session[session]


class Messages(asyncio.Queue):
    """The messages to one session, which knows for how long the oldest one has waited to be read."""

    def _init(self, maxsize: int) -> None:
        super()._init(maxsize)
        self._times: deque[float] = deque()  # at which the unread messages came

    def _put(self, item: Any) -> None:
        super()._put(item)
        self._times.append(time.monotonic())

    def _get(self) -> Any:
        self._times.popleft()
        return super()._get()

    def unread_seconds(self) -> float:
        return time.monotonic() - self._times[0] if self._times else 0.0


def _failed(sentence: str) -> ProcessCompletedMessage:
    output = {"error": sentence, "duration": 10, "visible": True, "title": "Error"}
    return ProcessCompletedMessage(output=output, success=False)


def estimate(function: Callable[..., Any] | None, data: Any) -> float:
    """The cost of a run relative to others: iterations x steps x sounds, from the values of its parameters."""
    try:
        names = list(inspect.signature(function).parameters) if function else []
    except (TypeError, ValueError):
        names = []
    found = cost(dict(zip(names, data if isinstance(data, list) else [], strict=False)))
    return found.passes * found.steps


def stop_if_left(*_: object) -> None:
    """A progress function for the runs of the page and its endpoints: ends the run once its caller has left."""
    queue = getattr(LocalContext.blocks.get(None), "_queue", None)
    event = (
        queue.event_ids_to_events.get(LocalContext.event_id.get(None) or "") if isinstance(queue, FairQueue) else None
    )
    if event is not None and isinstance(queue, FairQueue) and queue.is_abandoned(event):
        raise gr.Error(LEFT, print_exception=False)
