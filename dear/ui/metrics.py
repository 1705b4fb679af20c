"""Counts of the page's runs for Prometheus, at ``/metrics`` where ``AUDIODEAR_METRICS`` is 1."""

from __future__ import annotations

import functools
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

METRICS = "AUDIODEAR_METRICS"
TYPE = "text/plain; version=0.0.4"  # of Prometheus' text format
RESULTS = ("done", "failed", "stopped")  # how a run ends


def is_on() -> bool:
    return os.environ.get(METRICS) == "1"


class RunCounts:
    """Runs of one process, by their result. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ended = Counter(dict.fromkeys(RESULTS, 0))
        self._running = 0
        self._seconds = 0.0

    @contextmanager
    def run(self) -> Iterator[None]:
        """One run. A visitor who stops it, or leaves, closes its generator."""
        began, result = time.perf_counter(), "failed"
        with self._lock:
            self._running += 1
        try:
            yield
            result = "done"
        except GeneratorExit:
            result = "stopped"
            raise
        finally:
            with self._lock:
                self._running -= 1
                self._ended[result] += 1
                self._seconds += time.perf_counter() - began

    def text(self, waiting: int) -> str:
        """Prometheus' text format. waiting: runs in the queue."""
        with self._lock:
            ended = [f'audiodear_runs_total{{result="{name}"}} {self._ended[name]}' for name in RESULTS]
            lines = [
                "# HELP audiodear_runs_total Runs that have ended.",
                "# TYPE audiodear_runs_total counter",
                *ended,
                "# HELP audiodear_run_seconds_total Seconds that runs took, without their time in the queue.",
                "# TYPE audiodear_run_seconds_total counter",
                f"audiodear_run_seconds_total {self._seconds:.3f}",
                "# HELP audiodear_runs_running Runs that are going on.",
                "# TYPE audiodear_runs_running gauge",
                f"audiodear_runs_running {self._running}",
                "# HELP audiodear_runs_waiting Runs that wait in the queue.",
                "# TYPE audiodear_runs_waiting gauge",
                f"audiodear_runs_waiting {waiting}",
            ]
        return "\n".join(lines) + "\n"


RUNS = RunCounts()


def counted(function: Callable[P, T]) -> Callable[P, T]:
    """``function``, each call of which is a run."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        with RUNS.run():
            return function(*args, **kwargs)

    return call
