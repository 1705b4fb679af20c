"""SIGKILL at a random moment of each stage of a toy reproduction that trains: the weights are equal in the end."""

from __future__ import annotations

import contextlib
import random
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

from processes import end, start, wait_until
from reproduction import TRAINING, make_clips, make_recipe, same_weights, train_all

SECONDS = 3_600
SMALL, LARGE = 1, 7  # reproductions, of one kill in each of eight stages


def cases(large: bool) -> Iterator[tuple[str, Callable[[], object]]]:
    folder = Path(tempfile.mkdtemp())
    clips, recipe, log = make_clips(folder / "data"), make_recipe(folder / "toy.yaml"), folder / "log"
    whole, times = folder / "whole", []
    process = start(logged, clips, recipe, whole, log)
    for stage in TRAINING:
        wait_until(partial(begun, log, stage), process)
        times.append(time.monotonic())
    assert end(process) == [0]
    times.append(time.monotonic())
    seconds = [after - before for before, after in pairwise(times)]
    for number in range(LARGE if large else SMALL):
        yield (
            f"a kill in each of {len(TRAINING)} stages, seed {number}",
            partial(reproduce, clips, recipe, whole, seconds, number),
        )


def logged(clips: Sequence[str], recipe: Path, out: Path, log: Path) -> None:
    """Train, in a process of its own, with a log of what is printed."""
    with open(log, "w", buffering=1) as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        train_all(clips, recipe, out)


def begun(log: Path, stage: str) -> bool:
    return log.exists() and f"stage {stage}\n" in log.read_text()


def reproduce(clips: list[str], recipe: Path, whole: Path, seconds: list[float], seed: int) -> None:
    """One reproduction, killed in each stage after a random part of the time that an undisturbed one takes for it."""
    rng, out, killed = random.Random(seed), Path(tempfile.mkdtemp()), 0
    for stage, duration in zip(TRAINING, seconds, strict=True):
        log = Path(tempfile.mkdtemp()) / "log"
        process = start(logged, clips, recipe, out, log)
        wait_until(partial(begun, log, stage), process)
        process.join(rng.random() * duration)
        process.kill()
        (status,) = end(process)
        assert status in (0, -signal.SIGKILL), status
        killed += status == -signal.SIGKILL
    assert killed >= len(TRAINING) - 1  # the last stage may have ended before
    assert end(start(train_all, clips, recipe, out)) == [0]
    same_weights(out, whole)
    assert not list(out.rglob("*.tmp"))
