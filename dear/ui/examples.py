"""The examples of a page, and what they sounded like when somebody last asked for them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

from dear.config import Config
from dear.output import Output

EXAMPLES = {
    "One sound": [
        "a dog barking",
        "a rooster crowing at dawn",
        "heavy rain falling",
        "waves breaking on a beach",
        "a clock ticking steadily",
        "a chainsaw cutting wood",
    ],
    "One after the other": [
        "a dog barks, then rain falls",
        "a sneeze, then a baby cries",
        "a clock ticks, then a rooster crows",
    ],
    "At the same time": [
        "a dog barks while a fire crackles",
        "rain falls while a clock ticks",
        "a helicopter flies while a baby cries",
    ],
}
SEED = 0  # of an example, unless the visitor keeps another
MOST = 64  # results that are kept, of about a megabyte each


class ExampleCache:
    """Results of examples under certain settings, made when they are first asked for, and the same to all visitors."""

    def __init__(self) -> None:
        self._made: OrderedDict[Any, tuple[Config, Output]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Any) -> tuple[Config, Output] | None:
        """key: all that a result follows from, its weights among them."""
        with self._lock:
            if key not in self._made:
                return None
            self._made.move_to_end(key)
            return self._made[key]

    def put(self, key: Any, result: tuple[Config, Output]) -> None:
        with self._lock:
            self._made[key] = result
            if len(self._made) > MOST:
                self._made.popitem(last=False)
