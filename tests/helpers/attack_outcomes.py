"""An attack with one case for each way in which a case can end."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

import numpy as np

from dear.request import check_number

SECONDS, MEGABYTES = 2, 50


def cases(large: bool) -> Iterator[tuple[str, Callable[[], object]]]:
    yield "taken", lambda: None
    yield "refused", lambda: check_number("steps", 0, 1, 10)
    yield "raised by a library", lambda: np.zeros(3).reshape(2)
    yield "hang", lambda: time.sleep(600)
    yield "memory", lambda: np.ones(100 * 2**17).sum()
    yield "too much at once", lambda: np.ones(10**12)
    yield "died", lambda: os._exit(3)
    if large:
        yield "last", lambda: None
