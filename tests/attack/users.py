"""Many users at once, each with one run, and some with many: no run is lost, and waiting users learn their place."""

from __future__ import annotations

import json
import tempfile
import threading
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from factory import tiny_checkpoint
from webpage import Visitor, served

from dear.pipeline import AudioDEAR
from tests.attack.runner import Refused

SECONDS, MEGABYTES = 1_800, 600
HARD = 40_000  # each thread of a user or of the page maps more than 100 MB, and uses little of it
SMALL, LARGE = 8, 200
GREEDY = 40  # runs of one session at once


def cases(large: bool) -> Iterator[tuple[str, Callable[[], object]]]:
    folder = tiny_checkpoint(Path(tempfile.mkdtemp()) / "tiny")
    with served(AudioDEAR.from_pretrained(folder, device="cpu"), str(folder)) as page:
        count = LARGE if large else SMALL
        yield f"{count} users at once, with retries", partial(everybody_is_served, page, count)
        yield f"one session with {GREEDY} runs", partial(one_session_is_bounded, page)


class User(Visitor):
    """A visitor who begins again where a run is refused, as the refusal says."""

    def run(self, settings: list[Any]) -> list[str]:
        """Generate a sound. Returns the kinds of messages that were received."""
        for _ in range(20):
            self.begin(*settings)
            kinds, refusal = [], ""
            for message in self.hear():
                kinds.append(message["msg"])
                if message["msg"] == "process_completed":
                    if message["success"]:
                        return kinds
                    refusal = str(message["output"].get("error") or "")
                    break
            assert "Try again" in refusal or "Wait for" in refusal, refusal
        raise Refused(refusal)


def settings_of(page: Any) -> list[Any]:
    """What the page sends for a prompt: the values that its controls show."""
    visitor = Visitor(page, "settings")
    inputs = page.fns[visitor.index].inputs[1:]
    return ["a dog", *(each.value for each in inputs[1:])]


def everybody_is_served(page: Any, count: int) -> None:
    settings = settings_of(page)
    together = threading.Barrier(count)

    def one(number: int) -> list[str]:
        user = User(page, f"user-{number}")
        together.wait(120)
        return user.run(settings)

    with ThreadPoolExecutor(count) as pool:
        received = list(pool.map(one, range(count)))
    assert len(received) == count
    assert all("estimation" in kinds for kinds in received)  # the place


def one_session_is_bounded(page: Any) -> None:
    """Of many runs of one session some are refused with a sentence, and no run is lost."""
    visitor, settings = Visitor(page, "greedy"), settings_of(page)
    events = []
    for _ in range(GREEDY):
        events.append(visitor.post(f"{visitor.url}/join", data=["", *settings])["event_id"])
    url = f"{visitor.url}/data?session_hash={visitor.session}"
    ended: dict[str, Any] = {}
    with urllib.request.urlopen(url, timeout=600) as stream:
        for line in stream:
            message = json.loads(line[5:]) if line.startswith(b"data:") else {}
            if message.get("msg") == "process_completed":
                ended[message["event_id"]] = message
            if len(ended) == len(events):
                break
    refused = [each for each in ended.values() if not each["success"]]
    assert set(ended) == set(events)
    assert refused and all("of your runs wait or run" in each["output"]["error"] for each in refused)
