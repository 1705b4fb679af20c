"""A cache of the results of examples."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

from dear.config import Config
from dear.output import Output

SEED = 0  # of an example, unless the visitor keeps another seed
MAX_RESULTS = 64  # of about one megabyte each


class ExampleCache:
    """The latest results of examples, shared by all visitors."""

    def __init__(self, size: int = MAX_RESULTS) -> None:
        self._size = size
        self._results: OrderedDict[Any, tuple[Config, Output]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Any) -> tuple[Config, Output] | None:
        """key: everything that determines a result, including the weights."""
        with self._lock:
            if key not in self._results:
                return None
            self._results.move_to_end(key)
            return self._results[key]

    def put(self, key: Any, result: tuple[Config, Output]) -> None:
        """Store a result. The least recently used one is dropped if there are too many."""
        with self._lock:
            self._results[key] = result
            if len(self._results) > self._size:
                self._results.popitem(last=False)
