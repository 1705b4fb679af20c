"""A full disk under everything that writes: one sentence, nothing half-written, and the old files as they were.

Each case mounts a small file system, writes to it, fills it up to some bytes, and writes again. Then the disk gets
room, and the same must succeed.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from factory import tiny_checkpoint, tiny_config
from reproduction import TRAINING, make_clips, make_recipe, same_weights
from small_disk import MountError, filled, own_mounts, small_disk
from study import make_study

from dear import AudioDEAR, cli
from dear.config import MelConfig
from dear.listening.ratings import Ratings, RatingsError
from dear.listening.study import anonymous_copy, read_study
from dear.ui.components.files import remove_broken_uploads
from dear.ui.requests import FULL
from tests.attack.calls import SECRET, Server
from tests.attack.runner import Refused, Skipped, run_command
from training import prepare, reproduce
from training.engine.state import save_state

SECONDS = 900
SIZE = 2**26  # of the disk
SHARES = (0.0, 0.02, 0.3, 0.6, 0.9, 0.99)  # of the bytes that are needed, which are left
FEW = (0.0, 0.6)

Write = Callable[[Path, int], object]  # into a folder; the number tells a first content from a second


def cases(large: bool) -> Iterator[tuple[str, Callable[[], object]]]:
    folder = Path(tempfile.mkdtemp())
    try:
        own_mounts()
        with small_disk(folder / "disk", SIZE):
            pass
    except MountError as error:
        raise Skipped(str(error)) from None
    disk = folder / "disk"
    shares = SHARES if large else FEW
    for name, write in _files(folder).items():
        with small_disk(disk, SIZE):
            write(disk, 1)
            whole = _content(disk)
            whole |= _packed(disk)
        need = _size(whole)
        for share in shares:
            title = f"{name}, {share:.0%} of {need / 1000:.0f} kB left"
            yield title, partial(_again, write, disk, whole, int(share * need))
    for share in shares:
        yield f"ratings, {share:.0%} left", partial(_ratings, folder, disk, share)
    yield from _page(folder, disk, shares)
    yield from _training(folder, disk, large)


def _files(folder: Path) -> dict[str, Write]:
    """What writes files, by name. It has written all of them or none once it ends, except for what it resumes from."""
    config = dataclasses.replace(tiny_config(), mel=MelConfig())
    model = AudioDEAR.from_pretrained(tiny_checkpoint(folder / "tiny", config), device="cpu")
    clips = make_clips(folder / "clips")[0]
    (folder / "prompts.jsonl").write_text('{"prompt": "rain"}\n{"prompt": "a dog"}\n{"prompt": "wind"}\n')
    study = read_study(make_study(folder / "study", seconds=5))

    def generate(suffix: str, out: Path, number: int) -> None:
        options = ["generate", "rain", "-o", str(out / f"a.{suffix}"), "--num-samples", "2", "--seed", str(number)]
        run_command(cli.main, [*options, "--model", str(folder / "tiny"), "--device", "cpu"], names=str(out))

    def batch(tar: list[str], out: Path, number: int) -> None:
        options = ["batch", str(folder / "prompts.jsonl"), "--out", str(out / f"batch-{number}"), "--batch", "1", *tar]
        run_command(cli.main, [*options, "--model", str(folder / "tiny"), "--device", "cpu"], names=str(out))

    def prepared(out: Path, number: int) -> None:
        options = ["clips", "--audio", f"{clips}/audio", "--metadata", f"{clips}/clips.csv", "--workers", "1"]
        hours = ["--hours", str(0.001 * (1 + number))]
        run_command(prepare.main, [*options, *hours, "--out", str(out / "m.jsonl")], names=str(out))

    def state(out: Path, number: int) -> None:
        save_state(out / "state.pt", {"number": number}, {"model": {"weight": torch.full((500_000,), float(number))}})

    def checkpoint(out: Path, _: int) -> None:
        model.save_pretrained(out / "checkpoint")

    def copies(out: Path, number: int) -> None:
        for clip in study if number else study[:1]:
            anonymous_copy(clip, out)

    return {
        **{f"generate -o a.{suffix}": partial(generate, suffix) for suffix in ("wav", "flac", "mp3", "ogg")},
        "batch": partial(batch, []),
        "batch --tar": partial(batch, ["--tar"]),
        "prepare": prepared,
        "a training state": state,
        "a checkpoint": checkpoint,
        "copies of a study's sounds": copies,
    }


def _content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _packed(folder: Path) -> dict[str, bytes]:
    """The members of tars, as the files from which they are packed."""
    found = {}
    for path in folder.rglob("*.tar"):
        with tarfile.open(path) as tar:
            place = path.with_suffix("").relative_to(folder)
            found |= {str(place / each.name): tar.extractfile(each).read() for each in tar}  # type: ignore[union-attr]
    return found


def _size(content: dict[str, bytes]) -> int:
    return sum(map(len, content.values()))


def _again(write: Write, disk: Path, whole: dict[str, bytes], left: int) -> None:
    """Write the first content, then the second on a full disk, then again with room: then the disk holds ``whole``."""
    with small_disk(disk, SIZE):
        write(disk, 0)
        before, packed, refusal = _content(disk), _packed(disk), None
        with filled(disk, left):
            try:
                write(disk, 1)
            except Refused as error:
                refusal = error
            except OSError as error:
                if error.errno != errno.ENOSPC or str(disk) not in str(error.filename):
                    raise
                refusal = Refused(str(error))
        for name, data in _content(disk).items():
            journal = name.endswith(".probes.jsonl")  # whose last line may be cut off
            assert data in (before.get(name), _same(whole, name, data)) or journal, f"{name} is half-written"
        assert refusal is None or before.items() <= _content(disk).items(), "an old file is gone"
        write(disk, 1)
        after = _content(disk) | _packed(disk)
        assert not [name for name in after if name.endswith(".tmp")]
        assert after.keys() == whole.keys() | before.keys() | packed.keys()
        assert all(_same(whole, name, after[name]) == after[name] for name in whole)
    if refusal is not None:
        raise refusal


def _same(whole: dict[str, bytes], name: str, data: bytes) -> bytes | None:
    """What a file should hold. Ogg files have a random serial number, so their length alone is compared."""
    wanted = whole.get(name)
    return data if wanted is not None and name.endswith(".ogg") and len(wanted) == len(data) else wanted


def _ratings(folder: Path, disk: Path, share: float) -> None:
    """Ratings until the disk is full: those that were saved are kept."""
    clips = read_study(folder / "study")
    with small_disk(disk, SIZE):
        ratings, saved = Ratings(disk / "ratings.db", clips), 0
        ratings.save("first", clips[0].system, clips[0].name, 1, 5)

        def rate() -> None:
            nonlocal saved
            for number in range(2_000):
                ratings.save(f"rater {number}", clips[0].system, clips[0].name, 1, 5)
                saved = max(saved, number + 1)

        refusal = None
        with filled(disk, int(share * 100_000)):
            try:
                rate()
                Ratings(disk / "other.db", clips)
            except RatingsError as error:
                refusal = error
            assert len(ratings.all()) == 1 + saved
        Ratings(disk / "ratings.db", clips).save("last", clips[0].system, clips[0].name, 2, 4)
        assert len(ratings.all()) == 2 + saved
        Ratings(disk / "other.db", clips).save("last", clips[0].system, clips[0].name, 2, 4)
    if refusal is not None:
        assert "full" in str(refusal), refusal
        raise Refused(str(refusal))


def _page(folder: Path, disk: Path, shares: tuple[float, ...]) -> Iterator[tuple[str, Callable[[], object]]]:
    """A page whose results, uploads and temporary files lie on the disk."""
    before = tempfile.tempdir
    with small_disk(disk, SIZE), patch.dict(os.environ, {"GRADIO_TEMP_DIR": str(disk / "gradio")}):
        (folder / "page").mkdir()
        tempfile.tempdir = str(disk)
        try:
            server = Server(folder / "page")
            with closing(server.stack):
                index = {each.name: i for i, each in server.page.fns.items() if each.fn}
                options: dict[str, list[Any]] = {
                    "generate": ["a dog", 2, 2, 1, 3, None, None],
                    "compare": ["a dog", [1, 2], [2], 1, 3, None, None],
                    "extend": [server.tone, 0.3, "a dog", 2, 2, 1, 3, None, None],
                }
                calls: dict[str, Callable[[], object]] = {
                    **{f"/{name}": partial(server.call, name, data) for name, data in options.items()},
                    "results as CSV": lambda: server.join(index["show_results"], [SECRET, "rating"], "results"),
                    "an upload": partial(server.upload, bytes(200_000)),
                }
                for name, call in calls.items():
                    for share in shares:
                        yield f"page: {name}, {share:.0%} left", partial(_call, call, disk, int(share * 16_000))
        finally:
            tempfile.tempdir = before


def _call(call: Callable[[], object], disk: Path, left: int) -> None:
    before, refusal = set(_content(disk)), None
    with filled(disk, left):
        try:
            call()
        except Refused as error:
            refusal = error
    if refusal is not None:
        assert str(refusal) == FULL, refusal
        remove_broken_uploads(disk / "gradio", age=0)
        assert set(_content(disk)) == before, f"half-written: {set(_content(disk)) - before}"
    call()
    if refusal is not None:
        raise refusal


def _training(folder: Path, disk: Path, large: bool) -> Iterator[tuple[str, Callable[[], object]]]:
    """A toy reproduction on a disk that is full at several sizes."""
    (folder / "training").mkdir()
    clips, recipe = make_clips(folder / "training"), make_recipe(folder / "toy.yaml")
    whole, again = folder / "whole", ["--clips", *clips, "--recipe", str(recipe), "--workers", "1"]
    again += ["--stages", *TRAINING]
    run_command(reproduce.main, [*again, "--out", str(whole)])
    need = _size(_content(whole))
    for share in [number / 20 for number in range(20)] if large else [0.5]:
        name = f"a reproduction, {share:.0%} of {need / 1000:.0f} kB left"
        yield name, partial(_reproduce, again, whole, disk, int(share * need))


def _reproduce(again: list[str], whole: Path, disk: Path, left: int) -> None:
    with small_disk(disk, SIZE):
        refusal, out = None, disk / "out"
        with filled(disk, left):
            try:
                run_command(reproduce.main, [*again, "--out", str(out)], names=str(out))
            except Refused as error:
                refusal = error
        assert not list(disk.rglob("*.tmp"))
        run_command(reproduce.main, [*again, "--out", str(out)])
        same_weights(out, whole)
    if refusal is not None:
        raise refusal
