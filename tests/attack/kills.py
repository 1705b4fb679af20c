"""SIGKILL at random moments of a toy reproduction, over all stages that train: the weights are equal in the end."""

from __future__ import annotations

import random
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from processes import end, start
from reproduction import make_clips, make_recipe, same_weights, train_all

SECONDS = 3_600
SMALL, LARGE = 1, 5  # reproductions
KILLS = 10  # of each


def cases(large: bool) -> Iterator[tuple[str, Callable[[], object]]]:
    folder = Path(tempfile.mkdtemp())
    clips, recipe = make_clips(folder / "data"), make_recipe(folder / "toy.yaml")
    whole = folder / "whole"
    began = time.monotonic()
    assert end(start(train_all, clips, recipe, whole)) == [0]
    seconds = time.monotonic() - began
    for number in range(LARGE if large else SMALL):
        yield f"{KILLS} kills, seed {number}", partial(reproduce, clips, recipe, whole, seconds, number)


def reproduce(clips: list[str], recipe: Path, whole: Path, seconds: float, seed: int) -> None:
    """One reproduction, killed at moments that are spread over the time that an undisturbed one takes."""
    rng, out, killed = random.Random(seed), Path(tempfile.mkdtemp()), 0
    moments = sorted(rng.random() for _ in range(KILLS))
    for before, moment in zip([0.0, *moments], moments, strict=False):
        process = start(train_all, clips, recipe, out)
        process.join(max(0.05, (moment - before) * seconds))
        process.kill()
        (status,) = end(process)
        assert status in (0, -signal.SIGKILL), status
        killed += status == -signal.SIGKILL
    assert killed == KILLS
    assert end(start(train_all, clips, recipe, out)) == [0]
    same_weights(out, whole)
    assert not list(out.rglob("*.tmp"))
