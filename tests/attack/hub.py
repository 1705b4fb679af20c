"""Faults of the Hub and of its cache: a download ends in a whole commit or in a sentence, and the next one is whole."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from factory import tiny_checkpoint
from hub_server import HubServer, hub_server, in_use
from huggingface_hub import constants

from dear.checkpoint import resolve

SECONDS = 120
SMALL, LARGE = 10, 300
NAME = "someone/sounds"
FILES = ("config.json", "README.md", "student.safetensors", "codec/vae.safetensors")
STATUS = (400, 401, 403, 404, 408, 416, 418, 429, 500, 502, 503, 504)


def cases(large: bool) -> Iterator[tuple[str, Callable[[], object]]]:
    os.environ["NO_PROXY"] = "*"
    folder = Path(tempfile.mkdtemp())
    commits = [tiny_checkpoint(folder / f"{seed}", seed=seed) for seed in (0, 1)]
    # Limits of a Hub far away, in small.
    limits = {"PATIENCE": 4.0, "SLOWEST": 10**6}
    with (
        hub_server() as server,
        patch.multiple("dear.transfer", **limits),
        patch.object(constants, "HF_HUB_ETAG_TIMEOUT", 2),
    ):
        rng = random.Random(0)
        for number in range(LARGE if large else SMALL):
            warm, faults = rng.random() < 0.5, [_fault(rng) for _ in range(rng.randint(1, 3))]
            damage = rng.choice(FILES) if warm and rng.random() < 0.3 else None
            name = f"{'warm' if warm else 'cold'} {faults} {damage or ''} ({number})"
            yield name, partial(download, server, commits, warm, faults, damage, folder / f"home-{number}")


def _fault(rng: random.Random) -> dict[str, Any]:
    what = rng.choice(
        [
            {"status": rng.choice(STATUS)},
            {"cut": rng.randrange(2_000)},
            {"cut": rng.randrange(2_000), "reset": True},
            {"wrong": True},
            {"delay": 5.0},
            {"drip": 0.05},
        ]
    )
    path = rng.choice(["", *FILES, "revision/main", "tree/main"])
    return {"method": rng.choice(["GET", "GET", "HEAD"]), "path": path, "times": rng.choice([1, 2, 1_000]), **what}


def download(
    server: HubServer, commits: list[Path], warm: bool, faults: list[dict[str, Any]], damage: str | None, home: Path
) -> None:
    """A download among faults, from a cache with an older commit or without; then one of a Hub in order."""
    server.repositories.clear()
    server.faults.clear()
    old = server.add(NAME, commits[0])
    with in_use(server, home):
        if warm:
            cached = resolve(NAME)
            if damage:
                path = (cached / damage).resolve()
                path.write_bytes(path.read_bytes()[:-1] + b"\0")
        new = server.add(NAME, commits[1])
        for fault in faults:
            server.fail(**fault)
        refusal = None
        try:
            _check(resolve(NAME), {old: commits[0], new: commits[1]})
        except ValueError as error:
            refusal = error
        server.faults.clear()
        # Once to find what is damaged in the cache, and once to fetch it. A download that was given up holds a lock of
        # the cache until its server answers, for some seconds more.
        for _ in range(1 + len(FILES)):
            try:
                _check(resolve(NAME), {new: commits[1]})
                break
            except ValueError as error:
                found = str(error)
            assert "removed from the cache" in found or "given up after" in found, found
        else:
            raise AssertionError("the cache does not become whole")
    shutil.rmtree(home, ignore_errors=True)
    if refusal is not None:
        raise refusal


def _check(folder: Path, commits: dict[str, Path]) -> None:
    """Assert that a folder of the cache holds one commit, bit for bit."""
    assert folder.name in commits, folder
    for name in FILES:
        assert (folder / name).read_bytes() == (commits[folder.name] / name).read_bytes(), name
