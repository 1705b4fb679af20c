"""Worker processes that end with their parent."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing.connection import wait
from typing import Any

import torch


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Use one thread: the number of threads changes the last bits of matrix products."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def one_worker(name: str) -> Iterator[ThreadPoolExecutor]:
    """One thread, whose queued work is cancelled at the end."""
    pool = ThreadPoolExecutor(1, name)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def process_pool(
    count: int, begin: Callable[..., None] | None = None, arguments: tuple[Any, ...] = ()
) -> Iterator[ProcessPoolExecutor]:
    """``count`` spawned processes, since a fork of a process that has used threads may hang.

    They end with the parent, however it ends. Only the parent handles Ctrl-C, and then ends them.
    begin: each process calls it first, with ``arguments``.
    """
    pool = ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), _begin, (begin, arguments))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(begin: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    """Make this process a worker that ignores Ctrl-C and ends with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if begin is not None:
        begin(*arguments)


def _end_with_parent() -> None:
    """End this process when its parent ends, since it would otherwise wait for work forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # this runs in workers only
    wait([parent.sentinel])
    os._exit(1)
