"""Processes that share work and leave nobody behind."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import wait
from typing import Any

import torch


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """The number of threads changes the last bits of a product of matrices; what is to be the same bytes has one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def process_pool(
    count: int, begin: Callable[..., None] | None = None, arguments: tuple[Any, ...] = ()
) -> Iterator[ProcessPoolExecutor]:
    """``count`` processes, spawned, since a fork of a process that has used threads may hang. They end with the parent,
    however that ends; Ctrl-C reaches the parent alone, which winds them up. begin: what each calls first."""
    pool = ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), _begin, (begin, arguments))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(begin: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    """Make this process a worker that its parent alone winds up, on Ctrl-C too, and that ends with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if begin is not None:
        begin(*arguments)


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # this runs in workers alone
    wait([parent.sentinel])
    os._exit(1)
