"""Handling of SIGINT and SIGTERM at the end of a training step."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def deferred_signals() -> Iterator[Callable[[], int | None]]:
    """Defer SIGINT and SIGTERM, so that no step is torn. The yielded function returns the signal received, if any.

    A second signal of the same kind acts at once. Only a main thread may handle signals; in others this does nothing.
    """
    received: list[int] = []
    previous: dict[int, Any] = {}

    def restore() -> None:
        while previous:
            number, handler = previous.popitem()
            signal.signal(number, handler)

    def handle(number: int, frame: object) -> None:
        received.append(number)
        signal.signal(number, previous.pop(number))

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.getsignal(number)
            signal.signal(number, handle)

    def stopped() -> int | None:
        return received[0] if received else None

    try:
        yield stopped
    finally:
        restore()
