"""What the load of one model may take: bytes of weights, bytes of a download, and time.

A page limits the loads of its visitors. Elsewhere there is no limit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class BudgetError(ValueError):
    """A load that would take more memory or more time than it may."""


class Budget:
    """The budget of one load. Sizes are charged before anything of that size is downloaded or read."""

    def __init__(
        self,
        size: float,
        seconds: float,
        published: bool = False,
        still_wanted: Callable[[], object] | None = None,
    ):
        """size: bytes of all weights in memory, and of each download. seconds: from now on. published: whether encoders
        and codecs must come from the repositories that are the defaults of a configuration. still_wanted: is called
        often; what it raises ends the load."""
        self.size, self.seconds, self.published = size, seconds, published
        self._still_wanted = still_wanted
        self._free = size
        self._end = time.monotonic() + seconds

    def charge(self, name: object, size: int) -> None:
        """Reserve ``size`` bytes of memory. Raises BudgetError where they are not left; ``name``: what needs them."""
        self.check()
        if size > self._free:
            raise BudgetError(
                f"{name} needs {_gigabytes(size)} of memory; one model may take {_gigabytes(self.size)}, of which "
                f"{_gigabytes(self._free)} are left"
            )
        self._free -= size

    def check_download(self, size: int) -> None:
        """Raises BudgetError for a download of more bytes than the memory of the whole model, or after the time."""
        self.check()
        if size > self.size:
            raise BudgetError(
                f"the download has {_gigabytes(size)}; one model may have {_gigabytes(self.size)}, so it was ended"
            )

    def check(self) -> None:
        """Raises BudgetError once the time is over, and what ``still_wanted`` raises."""
        if self._still_wanted is not None:
            self._still_wanted()
        if time.monotonic() > self._end:
            raise BudgetError(f"the model could not be loaded within {self.seconds:g} seconds, so its load was ended")


_UNLIMITED = Budget(math.inf, math.inf)
_current: ContextVar[Budget] = ContextVar("budget", default=_UNLIMITED)


@contextmanager
def limited(budget: Budget) -> Iterator[None]:
    """Charge what is loaded within the block, by this thread, to ``budget``."""
    token = _current.set(budget)
    try:
        yield
    finally:
        _current.reset(token)


def current() -> Budget:
    """The budget of the load that this thread is in."""
    return _current.get()


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.2f} GB"
