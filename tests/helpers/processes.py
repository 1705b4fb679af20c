"""Processes that start quickly: forked from a server that has imported the slow modules."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess

import torch

# The server finds modules of the repository because tests run in its root. The first two import soundfile late, and
# every optimizer imports torch._dynamo.
IMPORTS = ["training.distill", "training.reproduce", "soundfile", "torch._dynamo"]


def start(function: Callable[..., object], *arguments: object) -> BaseProcess:
    """Run ``function(*arguments)`` of a test module on one thread in its own process; its status is ``exitcode``."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTS)
    process = context.Process(target=_run, args=(function, *arguments))
    process.start()
    return process


def _run(function: Callable[..., object], *arguments: object) -> None:
    torch.set_num_threads(1)
    function(*arguments)


def wait_until(condition: Callable[[], object], *processes: BaseProcess, seconds: float = 240) -> None:
    """Wait until ``condition()`` holds. If one of ``processes`` ends before, kill all of them and fail."""
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
    """Wait for processes, kill those that hang, and return the exit statuses."""
    for process in processes:
        process.join(seconds)
        process.kill()
        process.join()
    return [process.exitcode for process in processes]
