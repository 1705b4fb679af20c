"""Who calls the page, and limits on what one caller may do."""

from __future__ import annotations

import ipaddress
import threading
import time
from collections.abc import Callable
from typing import Any

from gradio.context import LocalContext


def caller_of(request: Any, session: str = "") -> str:
    """Who sent a ``gr.Request`` or ``fastapi.Request``: an address, or the session where an address says nothing.

    A private address is that of a proxy, which speaks for many: there the last entry of ``X-Forwarded-For`` counts,
    which the proxy itself has written.
    """
    host = getattr(getattr(request, "client", None), "host", None) or ""
    if _is_public(host):
        return host
    headers = getattr(request, "headers", None) or {}
    forwarded = (headers.get("x-forwarded-for") or "").rpartition(",")[2].strip()
    return forwarded if _is_public(forwarded) else session or host


def current_caller() -> str | None:
    """The caller of the event of the page that this thread runs; None outside of one."""
    request = LocalContext.request.get(None)
    return None if request is None else caller_of(request, getattr(request, "session_hash", None) or "") or None


def _is_public(host: str) -> bool:
    try:
        return not ipaddress.ip_address(host).is_private
    except ValueError:
        return False


class LockOut:
    """Refuses a caller's guesses of a secret for ``seconds`` after ``most`` wrong ones in a row.

    Callers behind a proxy that does not tell them apart count as one. At most ``CALLERS`` are remembered; beyond, the
    oldest is forgotten.
    """

    CALLERS = 10_000

    def __init__(self, most: int = 5, seconds: float = 900, clock: Callable[[], float] = time.monotonic):
        self._most, self._seconds, self._clock = most, seconds, clock
        self._wrong: dict[str, tuple[int, float]] = {}  # caller: (wrong guesses, time of the last)
        self._lock = threading.Lock()

    def remaining(self, caller: str) -> float:
        """Seconds until this caller may guess again; 0 for at once."""
        with self._lock:
            count, last = self._wrong.get(caller, (0, 0.0))
        return max(0.0, last + self._seconds - self._clock()) if count >= self._most else 0.0

    def wrong(self, caller: str) -> None:
        """Count a wrong guess."""
        now = self._clock()
        with self._lock:
            count, last = self._wrong.pop(caller, (0, now))
            self._wrong[caller] = (1 if now - last > self._seconds else count + 1, now)
            if len(self._wrong) > self.CALLERS:
                del self._wrong[next(iter(self._wrong))]

    def right(self, caller: str) -> None:
        """Forget this caller's wrong guesses."""
        with self._lock:
            self._wrong.pop(caller, None)
