"""One caller against the page's limits over HTTP: many guesses of the results' key, and many runs, of many sessions.

Behind a proxy that forwards addresses, behind one that forwards none, and without a proxy, where every request claims
another address.
"""

from __future__ import annotations

import json
import os
import tempfile
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import patch

from factory import tiny_checkpoint
from study import make_study
from webpage import Visitor, served

from dear.pipeline import AudioDEAR
from dear.ui import listening_results
from dear.ui.callers import LOOPBACK, PROXIES, LockOut
from dear.ui.tabs.listening import KEY, RATINGS, STUDY
from dear.ui.turns import MAX_PER_CALLER
from tests.attack.users import settings_of

SECONDS, MEGABYTES = 600, 600
HARD = 40_000  # each thread maps more than 100 MB, and uses little of it
SECRET = "a key that is long"
GUESSES, COMPARED, LOCKED = 300, 5, 900
RUNS = 5 * MAX_PER_CALLER
ATTACKER, VISITOR = "93.184.216.34", "93.184.216.35"
WRONG, LATER, FULL = (
    "This is not the key of this test.",
    "Too many wrong keys. Try again in",
    "of your runs wait or run",
)
SITUATIONS = {"a proxy": LOOPBACK, "a silent proxy": LOOPBACK, "no proxy": ""}  # the peers that are trusted
SESSIONS = count()


def cases(large: bool) -> Iterator[tuple[str, Callable[[], object]]]:
    folder = Path(tempfile.mkdtemp())
    checkpoint = tiny_checkpoint(folder / "tiny")
    model = AudioDEAR.from_pretrained(checkpoint, device="cpu")
    study = make_study(folder / "study")
    for situation, trusted in SITUATIONS.items():
        clock = [0.0]
        test = {STUDY: str(study), RATINGS: str(folder / "ratings.db"), KEY: SECRET, PROXIES: trusted}
        with (
            patch.dict(os.environ, test),
            patch.object(listening_results, "LockOut", partial(LockOut, clock=lambda clock=clock: clock[0])),
            served(model, str(checkpoint)) as page,
        ):
            for together in (1, 32) if large else (8,):
                name = f"{GUESSES} guesses, {together} at once, {situation}"
                yield name, partial(guesses_are_locked, page, situation, together, clock)
            yield f"{RUNS} runs of as many sessions, {situation}", partial(runs_are_bounded, page, situation)


class Caller(Visitor):
    """A new session whose requests say that they come from ``address``."""

    def __init__(self, page: Any, situation: str, address: str):
        super().__init__(page, f"session-{next(SESSIONS)}")
        self.headers = {"Content-Type": "application/json"}
        if situation != "a silent proxy":
            self.headers["X-Forwarded-For"] = address

    def ask(self, index: int, data: list[Any]) -> str:
        """Send an event. Returns the sentence of its refusal, or an empty string."""
        body = {"fn_index": index, "data": data, "session_hash": self.session}
        request = urllib.request.Request(f"{self.url}/join", json.dumps(body).encode(), self.headers)
        urllib.request.urlopen(request, timeout=60).close()
        with urllib.request.urlopen(f"{self.url}/data?session_hash={self.session}", timeout=SECONDS) as stream:
            messages = (json.loads(line[5:]) for line in stream if line.startswith(b"data:"))
            last = next(each for each in messages if each["msg"] == "process_completed")
        return "" if last["success"] else last["output"]["error"]


def addresses(situation: str) -> Iterator[str]:
    """The addresses that an attacker's requests claim. Nobody can forge those that a proxy adds."""
    for number in range(GUESSES):
        yield ATTACKER if situation == "a proxy" else f"93.{184 + number // 250}.{number % 250}.1"


def guesses_are_locked(page: Any, situation: str, together: int, clock: list[float]) -> None:
    """A few of many guesses are compared; the lock holds for the attacker's address alone, and it ends."""
    index = next(i for i, f in page.fns.items() if f.fn and f.name == "show_results")

    def guess(key: str, address: str) -> str:
        return Caller(page, situation, address).ask(index, [key, "rating"])

    clock[0] += LOCKED  # after a case before
    with ThreadPoolExecutor(together) as pool:
        answers = list(pool.map(guess, (f"guess {i} of the key" for i in range(GUESSES)), addresses(situation)))
    counts = Counter(next((each for each in (WRONG, LATER) if each in answer), answer) for answer in answers)
    assert counts == {WRONG: COMPARED, LATER: GUESSES - COMPARED}, counts
    assert LATER in guess(SECRET, ATTACKER)  # the right key, during the lock
    other = guess(SECRET, VISITOR)
    # Without addresses, all of a proxy's visitors share its address, as all of this machine do.
    assert other == "" if situation == "a proxy" else LATER in other, other
    clock[0] += LOCKED - 1
    assert LATER in guess(SECRET, ATTACKER)
    clock[0] += 1
    assert guess(SECRET, ATTACKER) == ""


def runs_are_bounded(page: Any, situation: str) -> None:
    """One address gets a few runs at once, however many sessions it opens. Without addresses, sessions count."""
    settings = settings_of(page)
    index = Visitor(page, "").index

    def run(address: str) -> str:
        return Caller(page, situation, address).ask(index, ["", *settings])

    with ThreadPoolExecutor(RUNS) as pool:
        refused = [each for each in pool.map(run, list(addresses(situation))[:RUNS]) if each]
    if situation == "a silent proxy":
        assert not refused, refused
    else:
        assert len(refused) >= MAX_PER_CALLER and all(FULL in each for each in refused), refused
