"""Files of a toy reproduction with a flipped bit, cut, or holding other JSON: refused with a sentence, or harmless."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from reproduction import TRAINING, make_clips, make_recipe, same_weights

from tests.attack.runner import run_command
from training.engine.state import read_state
from training.reproduce import main

SECONDS = 600
SMALL, LARGE = 6, 400
JSON = [b"", b"null", b"[]", b"{}", b"0", b'"x"', b"{", b'{"stamp": {}, "result": null}', b"[" * 5_000, b"\xff\xfe\x00"]


def cases(large: bool) -> Iterator[tuple[str, Callable[[], object]]]:
    folder, rng = Path(tempfile.mkdtemp()), random.Random(0)
    clips, recipe, whole = make_clips(folder / "data"), make_recipe(folder / "toy.yaml"), folder / "whole"
    again = ["--clips", *clips, "--recipe", str(recipe), "--workers", "1", "--stages", *TRAINING]
    run_command(main, [*again, "--out", str(whole)])
    files = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file() and path.stat().st_size)
    for number in range(LARGE if large else SMALL):
        path = rng.choice(files)
        data = (whole / path).read_bytes()
        kind = rng.choice(["flip", "flip", "cut", "JSON"]) if path.suffix == ".json" else rng.choice(["flip", "cut"])
        if kind == "flip":
            place, bit = rng.randrange(len(data)), 1 << rng.randrange(8)
            damaged = data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :]
        else:
            damaged = data[: rng.randrange(len(data))] if kind == "cut" else rng.choice(JSON)
        yield f"{kind} {path} ({number})", partial(go_on, again, whole, path, damaged)


def go_on(again: list[str], whole: Path, path: Path, damaged: bytes) -> None:
    """Start a finished reproduction again with one damaged file; a state that no stage needs any more is read here."""
    out = Path(tempfile.mkdtemp())
    try:
        shutil.copytree(whole, out, dirs_exist_ok=True)
        (out / path).write_bytes(damaged)
        run_command(main, [*again, "--out", str(out)], names=path.parts[0])
        if path.name == "state.pt" and (out / path).read_bytes() == damaged:
            read_state(out / path)
        same_weights(out, whole)
    finally:
        shutil.rmtree(out)
