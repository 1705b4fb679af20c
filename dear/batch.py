"""Sounds for a list of prompts of any length, in shards that several processes share: ``audiodear batch``.

A prompt file holds one JSON object per line: ``prompt``, an optional ``id`` (the file's name), and any other fields,
which are copied to the sound's metadata. Shard k is a folder ``00000k`` of ``<id>.flac`` and ``<id>.json``, or with
``tar`` a WebDataset file ``00000k.tar`` of the same. Line i (from 0) has seed ``seed + i``.

Work that was stopped goes on at the first unfinished batch. Batches begin at fixed lines, so neither interruptions nor
the number of workers change a byte.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import secrets
import shutil
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Unpack

from tqdm import tqdm

from dear.conditioning import check_prompt
from dear.files import read_json, write_atomically, write_json
from dear.options import SamplingOptions
from dear.output import FORMATS, Output
from dear.pipeline import AudioDEAR
from dear.request import MAX_SAMPLES, MAX_SEED, check_whole

STAMP = "batch.json"
AUDIO = tuple(suffix.removeprefix(".") for suffix in FORMATS)


@dataclass(frozen=True)
class Item:
    """A line of the prompt file."""

    name: str
    prompt: str
    fields: Mapping[str, Any]  # all others


@dataclass(frozen=True)
class BatchConfig:
    """The settings that determine the files, besides the model and the options of a generation."""

    seed: int = 0  # of the first line
    batch: int = 8  # sounds that are generated together
    shard: int = 256  # sounds of a shard
    audio: str = "flac"
    tar: bool = False  # one WebDataset file per shard in place of a folder

    def __post_init__(self) -> None:
        check_whole("seed", self.seed, 0, MAX_SEED)
        check_whole("batch", self.batch, 1, MAX_SAMPLES)
        check_whole("shard", self.shard, 1, 1_000_000)
        if self.audio not in AUDIO:
            raise ValueError(f"audio must be {' or '.join(AUDIO)}, got {self.audio!r}")


@dataclass(frozen=True)
class Result:
    """The work of one call. seconds: wall-clock time without loading the model."""

    sounds: int
    seconds: float
    finished: bool  # whether all shards of all workers are there


def read_items(path: str | Path) -> list[Item]:
    """The lines of a prompt file. Raises ValueError naming the file, the line and what is allowed."""
    path, items = Path(path), []
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} must be a file of JSON objects, one per line, and cannot be read ({error})") from None
    # Not splitlines(): prompts may hold further characters that it takes for ends of lines.
    for number, line in enumerate(text.removesuffix("\n").split("\n") if text else [], start=1):
        try:
            fields = json.loads(line)
            if not isinstance(fields, dict) or "prompt" not in fields:
                raise ValueError("a line must be a JSON object with the field prompt")
            prompt = check_prompt(fields.pop("prompt"))
            name = fields.pop("id", f"{number - 1:09d}")
            if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_-]{1,100}", name):
                raise ValueError(f"id must be 1 to 100 letters, digits, _ and -, got {name!r:.80}")
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
        items.append(Item(name, prompt, fields))
    if not items:
        raise ValueError(f"{path} must hold at least one line, got none")
    first: dict[str, int] = {}
    for number, item in enumerate(items, start=1):
        if first.setdefault(item.name.lower(), number) != number:  # file systems may ignore case
            raise ValueError(
                f"{path}, line {number}: id {item.name!r} must be unique, see line {first[item.name.lower()]}"
            )
    return items


def generate_batch(
    pipeline: AudioDEAR,
    items: Sequence[Item],
    folder: str | Path,
    config: BatchConfig,
    worker: tuple[int, int] = (0, 1),
    **options: Unpack[SamplingOptions],
) -> Result:
    """Write this worker's shards of ``items`` into ``folder``.

    worker: (i, n) writes every n-th shard, from shard i on.
    Raises ValueError for bad options, and where ``folder`` was begun with another configuration, naming the difference.
    """
    if not 0 <= worker[0] < worker[1]:
        raise ValueError(f"worker must be i/n with i from 0 to n - 1, got {worker[0]}/{worker[1]}")
    check_whole("seed", config.seed, 0, MAX_SEED - len(items))
    settings = pipeline.synthesizer.request(items[0].prompt, options, seed=config.seed).settings
    job = _Job(pipeline, items, Path(folder), config, options)
    job.stamp(settings)
    begin = time.perf_counter()
    shards = range(worker[0], job.shards, worker[1])
    sounds = 0
    with tqdm(total=sum(len(job.lines(k)) for k in shards), unit="sound", disable=None) as bar:
        for index in shards:
            for done, new in job.run(index):
                bar.update(done)
                sounds += new
    finished = all(job.finished(index) for index in range(job.shards))
    return Result(sounds, time.perf_counter() - begin, finished)


@dataclass(frozen=True)
class _Job:
    pipeline: AudioDEAR
    items: Sequence[Item]
    folder: Path
    config: BatchConfig
    options: SamplingOptions

    @property
    def shards(self) -> int:
        return -(-len(self.items) // self.config.shard)

    def lines(self, index: int) -> range:
        """The lines of shard ``index``."""
        first = index * self.config.shard
        return range(first, min(first + self.config.shard, len(self.items)))

    def stamp(self, settings: Mapping[str, Any]) -> None:
        """Begin the folder, or check that it was begun alike."""
        lines = json.dumps([dataclasses.astuple(item) for item in self.items], sort_keys=True)
        wanted = {
            "format": 1,
            "prompts": hashlib.sha256(lines.encode()).hexdigest(),
            **dataclasses.asdict(self.config),
            **settings,
        }
        path = self.folder / STAMP
        self.folder.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            found = read_json(path)
            for name, value in wanted.items():
                if found.get(name) != value:
                    raise ValueError(
                        f"{self.folder} was begun with {name} {found.get(name)!r}, got {value!r}: use another folder"
                    )
        else:
            work = path.with_name(f".{STAMP}.{secrets.token_hex(4)}")  # other workers may begin at the same moment
            write_json(work, wanted)
            os.replace(work, path)

    def place(self, index: int) -> Path:
        return self.folder / f"{index:06d}"

    def finished(self, index: int) -> bool:
        if self.config.tar:
            return self.place(index).with_suffix(".tar").is_file()
        return all(self.written(index, line) for line in self.lines(index))

    def written(self, index: int, line: int) -> bool:
        return (self.place(index) / f"{self.items[line].name}.json").is_file()

    def run(self, index: int) -> Iterator[tuple[int, int]]:
        """Write shard ``index`` and yield (lines done, sounds made) as it goes on."""
        lines, batch = self.lines(index), self.config.batch
        if self.finished(index):
            yield len(lines), 0
            return
        self.place(index).mkdir(exist_ok=True)
        at = lines.start
        while at < lines.stop and all(self.written(index, line) for line in range(at, min(at + batch, lines.stop))):
            at = min(at + batch, lines.stop)
        yield at - lines.start, 0
        if at < lines.stop:
            prompts = [self.items[line].prompt for line in range(at, lines.stop)]
            for out in self.pipeline.generate_many(prompts, batch=batch, seed=self.config.seed + at, **self.options):
                self.write(index, at, out)
                at += 1
                yield 1, 1
        if self.config.tar:
            self.pack(index)

    def write(self, index: int, line: int, out: Output) -> None:
        """Write the sound first: a line counts as written once its metadata exist."""
        item = self.items[line]
        out.save(self.place(index) / f"{item.name}.{self.config.audio}")
        settings = {"id": item.name, "prompt": item.prompt, "seed": out.seed, "sample_rate": out.sample_rate}
        write_json(self.place(index) / f"{item.name}.json", dict(item.fields) | settings | {"settings": out.settings})

    def pack(self, index: int) -> None:
        """Move the files of a shard into a tar, whose bytes depend only on those of the files."""
        place = self.place(index)

        def write(file: BinaryIO) -> None:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
                for line in self.lines(index):
                    for suffix in (self.config.audio, "json"):
                        path = place / f"{self.items[line].name}.{suffix}"
                        entry = tarfile.TarInfo(path.name)
                        entry.size = path.stat().st_size
                        with open(path, "rb") as part:
                            tar.addfile(entry, part)

        write_atomically(place.with_suffix(".tar"), write)
        shutil.rmtree(place)
