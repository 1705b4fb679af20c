"""Who calls the page, and limits on what one caller may do."""

from __future__ import annotations

import ipaddress
import os
import threading
import time
from collections.abc import Callable
from functools import cache
from typing import Any

from gradio.context import LocalContext

PROXIES = "FORWARDED_ALLOW_IPS"  # uvicorn's own variable, by which it replaces a proxy's address with the forwarded one
LOOPBACK = "127.0.0.1,::1"
PRIVATE = f"{LOOPBACK},10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,fc00::/7"


def trust_proxies() -> None:
    """Set the proxies whose ``X-Forwarded-For`` is believed where the host has not: this machine's, or a Space's."""
    os.environ.setdefault(PROXIES, PRIVATE if os.environ.get("SPACE_ID") else LOOPBACK)


def caller_of(request: Any, session: str = "") -> str:
    """Who sent a ``gr.Request`` or ``fastapi.Request``: an address, or the session behind a silent trusted proxy.

    uvicorn has already replaced the address of a trusted proxy with the last one that the proxy forwards; headers of
    anyone else are ignored. An IPv6 address stands for its network of 64 bits, all of which one visitor may have.
    """
    host = getattr(getattr(request, "client", None), "host", None) or ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host or session
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    if any(address in network for network in _networks(os.environ.get(PROXIES, LOOPBACK))):
        return session or host
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))
    return str(address)


def current_caller() -> str | None:
    """The caller of the event of the page that this thread runs; None outside of one."""
    request = LocalContext.request.get(None)
    return None if request is None else caller_of(request, getattr(request, "session_hash", None) or "") or None


@cache
def _networks(text: str) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    """The networks in a list with commas; uvicorn also allows names and ``*``, which are left out."""
    found = []
    for part in text.split(","):
        try:
            found.append(ipaddress.ip_network(part.strip()))
        except ValueError:
            continue
    return tuple(found)


class LockOut:
    """Refuses a caller's guesses of a secret for ``seconds`` after ``most`` wrong ones in a row.

    Visitors with one address count as one, as do all behind a proxy that forwards no address. At most ``CALLERS`` are
    remembered; beyond, the oldest is forgotten.
    """

    CALLERS = 10_000

    def __init__(self, most: int = 5, seconds: float = 900, clock: Callable[[], float] = time.monotonic):
        self._most, self._seconds, self._clock = most, seconds, clock
        self._wrong: dict[str, tuple[int, float]] = {}  # caller: (wrong guesses, time of the last)
        self._lock = threading.Lock()

    def begin(self, caller: str) -> float:
        """Seconds until this caller may guess again, or 0 for now: then the guess counts as wrong until :meth:`right`.

        Counted before the guess is compared, many guesses at once are no more than one after another.
        """
        now = self._clock()
        with self._lock:
            count, last = self._wrong.pop(caller, (0, now))
            left = last + self._seconds - now
            if left <= 0:
                count = 0
            if count >= self._most:
                self._wrong[caller] = (count, last)
                return left
            self._wrong[caller] = (count + 1, now)
            if len(self._wrong) > self.CALLERS:
                del self._wrong[next(iter(self._wrong))]
            return 0.0

    def right(self, caller: str) -> None:
        """Forget this caller's wrong guesses."""
        with self._lock:
            self._wrong.pop(caller, None)
