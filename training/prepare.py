"""Prepare a dataset: from its folder and tables to a manifest of the usable sounds.

    python -m training.prepare audiocaps --audio wavs --metadata train.csv --out audiocaps.jsonl --exclude test.jsonl

Every sound is decoded once. Sounds that are missing, empty, broken, shorter than 10 ms, silent, without a usable
caption, or in an excluded manifest are listed with the reason in ``<name>.report.jsonl`` beside ``<name>.jsonl``. A
killed run resumes from ``<name>.probes.jsonl``, which holds the measurements until the manifest is written.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dear.files import errors_naming, write_atomically
from training.data.manifest import Entry, read_manifest, write_manifest
from training.data.probe import probe
from training.data.readers import READERS
from training.data.tables import DatasetError, Skipped
from training.runtime.commands import guarded
from training.runtime.progress import Progress
from training.runtime.workers import process_pool


@dataclass(frozen=True)
class Prepared:
    """The result for a dataset. ``left``: usable sounds beyond the requested hours."""

    entries: list[Entry]
    skipped: list[Skipped]
    left: int

    def __str__(self) -> str:
        hours = sum(entry.duration for entry in self.entries) / 3600
        counts = collections.Counter(skip.reason for skip in self.skipped)
        reasons = [f"{reason} {count}" for reason, count in sorted(counts.items())]
        text = f"{len(self.entries)} sounds, {hours:.2f} h; skipped {len(self.skipped)}"
        return text + (f" ({', '.join(reasons)})" if reasons else "") + (f"; left out {self.left}" if self.left else "")


def prepare(
    found: Iterable[Entry | Skipped],
    out: str | Path,
    *,
    exclude: Sequence[str | Path] = (),
    splits: Sequence[str] = (),
    hours: float | None = None,
    seed: int = 0,
    workers: int = 1,
) -> Prepared:
    """Probe what a reader found, and write the manifest ``out`` and its report.

    exclude: manifests whose sounds must not be in this one, known by their source or by their samples. splits: those
    to keep, all by default. hours: keep a random part of at most this length, drawn by ``seed``. workers: processes.
    The result does not depend on ``workers``, nor on earlier runs that were stopped.
    Raises ManifestError for an unreadable excluded manifest, DatasetError where nothing is left.
    """
    if workers < 1:
        raise DatasetError(f"workers must be at least 1, got {workers!r}")
    if hours is not None and not hours > 0:
        raise DatasetError(f"hours must be above 0, got {hours!r}")
    out = Path(out)
    banned = [entry for path in exclude for entry in read_manifest(path)]
    sources = {entry.source: entry.id for entry in banned if entry.source}
    skipped: list[Skipped] = []
    candidates: list[Entry] = []
    for item in found:
        if isinstance(item, Skipped):
            skipped.append(item)
        elif not splits or item.split in splits:
            if item.source in sources:
                skipped.append(_skip(item, "excluded", f"source {item.source} is that of {sources[item.source]}"))
            else:
                candidates.append(item)
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    journal = out.with_name(f"{out.stem}.probes.jsonl")
    entries: list[Entry] = []
    digests = {entry.digest: entry.id for entry in banned}
    excluded = set(digests)
    names: set[str] = set()
    for entry, result in zip(candidates, _probed([entry.path for entry in candidates], journal, workers), strict=True):
        if "reason" in result:
            skipped.append(_skip(entry, result["reason"], result["detail"]))
        elif (digest := result["digest"]) in digests:
            reason = "excluded" if digest in excluded else "duplicate"
            skipped.append(_skip(entry, reason, f"the same samples as {digests[digest]}"))
        elif entry.id in names:
            skipped.append(_skip(entry, "duplicate", "another sound has this id"))
        else:
            digests[digest] = entry.id
            names.add(entry.id)
            duration = result["frames"] / result["sample_rate"]
            measured = {name: result[name] for name in ("sample_rate", "channels", "digest")}
            entries.append(dataclasses.replace(entry, duration=duration, **measured))
    kept = _draw(entries, hours, seed)
    lines = "".join(json.dumps(dataclasses.asdict(skip), ensure_ascii=False) + "\n" for skip in skipped)
    write_atomically(out.with_name(f"{out.stem}.report.jsonl"), lambda file: file.write(lines.encode()))
    if not kept:
        raise DatasetError(f"no sound is left for {out}; see {out.stem}.report.jsonl beside it")
    write_manifest(out, kept)
    journal.unlink(missing_ok=True)
    return Prepared(kept, skipped, len(entries) - len(kept))


def _skip(entry: Entry, reason: str, detail: str) -> Skipped:
    return Skipped(entry.id, str(entry.path), reason, detail)


def _draw(entries: list[Entry], hours: float | None, seed: int) -> list[Entry]:
    """A random part of at most ``hours``, in the order of the whole."""
    if hours is None:
        return entries
    order = np.random.default_rng(seed).permutation(len(entries))
    lengths = np.cumsum([entries[index].duration for index in order])
    return [entries[index] for index in sorted(order[: np.searchsorted(lengths, hours * 3600, side="right")])]


def _probed(paths: list[Path], journal: Path, workers: int) -> Iterator[dict[str, Any]]:
    """The result of :func:`training.data.probe.probe` for each path, in order. The journal receives new results."""
    known = _read_journal(journal)
    keys = [_key(path) for path in paths]
    missing = [key for key in dict.fromkeys(keys) if key not in known]
    with (
        errors_naming(journal),  # also those of closing it
        open(journal, "a", encoding="utf-8") as file,
        contextlib.closing(Progress("sounds", len(missing), unit="file")) as progress,
    ):
        for key, result in zip(missing, _answers([key[0] for key in missing], workers), strict=True):
            known[key] = result
            file.write(json.dumps([*key, result]) + "\n")
            file.flush()
            progress.update()
    yield from (known[key] for key in keys)


def _answers(paths: list[str], workers: int) -> Iterator[dict[str, Any]]:
    if workers == 1 or len(paths) < 2:
        yield from map(probe, paths)
        return
    with process_pool(min(workers, len(paths))) as pool:
        yield from pool.map(probe, paths, chunksize=max(1, min(16, len(paths) // workers)))


def _key(path: Path) -> tuple[str, int, int]:
    """Path, size and time of change, so that a changed file is probed again."""
    try:
        status = os.stat(path)
    except OSError:
        return str(path), -1, -1
    return str(path), status.st_size, status.st_mtime_ns


def _read_journal(journal: Path) -> dict[tuple[str, int, int], dict[str, Any]]:
    """The results of an earlier run, up to a line that was cut off or damaged, which is removed with all after it."""
    known: dict[tuple[str, int, int], dict[str, Any]] = {}
    if not journal.exists():
        return known
    whole = 0
    with open(journal, "rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            try:
                path, size, changed, result = json.loads(line)
                known[path, size, changed] = result
            except (ValueError, TypeError):  # damaged: it and what follows is looked at again
                break
            whole += len(line)
    os.truncate(journal, whole)
    return known


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.prepare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", choices=READERS)
    parser.add_argument("--audio", type=Path, required=True, help="folder of the sounds, searched with its subfolders")
    parser.add_argument("--metadata", type=Path, nargs="+", required=True, help="the dataset's own tables")
    parser.add_argument("--out", type=Path, required=True, help="manifest to write")
    parser.add_argument("--exclude", type=Path, nargs="+", default=[], help="manifests of the evaluation sets")
    parser.add_argument("--blacklist", type=Path, nargs="+", default=[], help="WavCaps' lists of ids to leave out")
    parser.add_argument("--splits", nargs="+", default=[], help="keep these only (train, fold1, ...)")
    parser.add_argument("--hours", type=float, help="keep a random part of at most this length")
    parser.add_argument("--seed", type=int, default=0, help="of captions and of that part")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that decode")
    options = parser.parse_args(arguments)

    def run() -> None:
        if options.seed < 0:
            raise DatasetError(f"seed must be at least 0, got {options.seed!r}")
        if options.blacklist and options.dataset != "wavcaps":
            raise DatasetError(f"blacklist belongs to wavcaps, got one for {options.dataset}")
        extra = {"blacklists": options.blacklist} if options.blacklist else {}
        found = READERS[options.dataset](options.audio, options.metadata, options.seed, **extra)
        prepared = prepare(
            found,
            options.out,
            exclude=options.exclude,
            splits=options.splits,
            hours=options.hours,
            seed=options.seed,
            workers=options.workers,
        )
        print(f"{options.out}: {prepared}")

    return guarded(run)


if __name__ == "__main__":
    sys.exit(main())
