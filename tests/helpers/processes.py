"""Processes that start at once: forked from a server that has imported what takes seconds."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess

import torch

# Modules of the repository and of its requirements, as the server finds them from the root, where tests are run. Some
# are imported late by those before them.
IMPORTS = ["training.distill", "training.reproduce", "soundfile"]


def start(function: Callable[..., object], *arguments: object) -> BaseProcess:
    """``function(*arguments)``, of a test's file, on one thread in a process of its own; its status is ``exitcode``."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTS)
    process = context.Process(target=_run, args=(function, *arguments))
    process.start()
    return process


def _run(function: Callable[..., object], *arguments: object) -> None:
    torch.set_num_threads(1)
    function(*arguments)


def wait_until(condition: Callable[[], object], *processes: BaseProcess, seconds: float = 240) -> None:
    """Until ``condition()`` holds, while all of ``processes`` are alive; else they are killed."""
    deadline = time.monotonic() + seconds
    try:
        while not condition():
            assert all(process.is_alive() for process in processes), [process.exitcode for process in processes]
            assert time.monotonic() < deadline
            time.sleep(0.002)
    except BaseException:
        end(*processes, seconds=0)
        raise


def end(*processes: BaseProcess, seconds: float = 600) -> list[int | None]:
    """Their exit statuses. Whoever hangs is killed."""
    for process in processes:
        process.join(seconds)
        process.kill()
        process.join()
    return [process.exitcode for process in processes]
