"""Sharded caches, encoded once on any number of machines and read locally or remotely while a model trains.

``python -m training.encode`` writes such a folder, :class:`ShardedCache` reads it, locally or through fsspec:

- ``shard-000000.tar`` and so on, in WebDataset's format: per item ``<key>.conditioning.npy`` float16 [T, E] without
  padding, ``<key>.json`` (caption, dataset, id, source, labels, variant) and ``<key>.tokens.npy`` float16 [L, D]
- ``index.json``: items, bytes and sha256 of each shard
- ``stamp.json``, written last: settings, counts, shapes, the longest T and the sha256 of the index
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import numpy as np
import torch
from torch import Tensor

from dear.files import DamagedError, unsealed
from training.cache.tokens import CacheError

ATTEMPTS = 4  # at reading a file, at most
PAUSE = 0.5  # seconds before the second attempt; doubled before each further one
READERS = 4  # threads that read shards


def shard_name(number: int) -> str:
    return f"shard-{number:06d}.tar"


@dataclass(frozen=True)
class Item:
    """One stored example: tokens [L, D] and conditioning [T, E], both float16, and plain data about it."""

    key: str
    tokens: np.ndarray
    conditioning: np.ndarray
    about: Mapping[str, Any]


def write_shard(file: BinaryIO, items: Iterable[Item]) -> None:
    """Write items as a tar without times and users, so that its bytes depend only on the items."""
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for item in items:
            members = {
                "conditioning.npy": _npy(item.conditioning),
                "json": json.dumps(item.about, ensure_ascii=False).encode(),
                "tokens.npy": _npy(item.tokens),
            }
            for suffix, data in members.items():
                member = tarfile.TarInfo(f"{item.key}.{suffix}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


@dataclass(frozen=True)
class _Shard:
    """The arrays of a shard in memory: tokens [n] of [L, D], conditioning [n] of [T, E]."""

    tokens: list[np.ndarray]
    conditioning: list[np.ndarray]


def _parse(data: bytes) -> _Shard:
    shard = _Shard([], [])
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        for member in archive:
            for suffix, arrays in (("tokens", shard.tokens), ("conditioning", shard.conditioning)):
                if member.name.endswith(f".{suffix}.npy"):
                    content = io.BytesIO(cast(IO[bytes], archive.extractfile(member)).read())
                    arrays.append(np.lib.format.read_array(content, allow_pickle=False))
    return shard


class ShardedCache:
    """A finished sharded cache, with the contract of :class:`training.cache.tokens.Cache`. Safe between threads.

    source: a folder, or an address that fsspec supports (s3://, gs://, hf://, https://, memory://).

    The order of items suits remote shards. In every epoch the shards are shuffled, concatenated and cut into ``lanes``
    stretches of equal length. Item j of a batch comes from lane j % lanes, at random from a window of a few shards, one
    window after another. The encoder distributed the items to the shards at random, so a window is a fair sample of the
    whole. At most two windows of a lane are in memory: the current one, and the next one, which threads read ahead.
    (512 items of the paper's shapes take 115 MB: 32 lanes in one process take up to 7.4 GB.)

    window: shards of the current windows of all lanes together; each lane has at least one.
    rank, world: of this process among those that share each batch. Item j of a batch belongs to process j % world, as
    in ``training.engine.trainer``. A process reads the shards of its own lanes only, if it asks :meth:`batch` for
    its own items only.
    lanes: a multiple of ``world``; 0: ``world``. The order of items depends on ``lanes``, but not on ``rank`` and
    ``world``. ``training.engine.stage`` sets ``lanes`` to the micro-batches of a step, so that a run is the same on any
    number of processes.

    Raises :class:`CacheError` where ``source`` holds no finished cache, or a damaged one.
    """

    def __init__(self, source: str | Path, *, window: int = 4, rank: int = 0, world: int = 1, lanes: int = 0):
        from fsspec.core import url_to_fs

        if window < 1:
            raise CacheError(f"window must be at least 1, got {window!r}")
        if not 0 <= rank < world:
            raise CacheError(f"rank must be from 0 to {world - 1} for world {world}, got {rank!r}")
        if lanes < 0 or lanes % world:
            raise CacheError(f"lanes must be a multiple of the {world} processes, got {lanes!r}")
        self.source = str(source).rstrip("/")
        self.rank, self.world, self.lanes = rank, world, lanes or world
        self.window = -(-window // self.lanes)  # of each lane
        self._room = self.lanes // world * 2 * self.window  # shards in memory: two windows of each own lane
        try:
            self._files, self._root = url_to_fs(self.source)
        except (ImportError, ValueError) as error:  # a package that is absent, or a protocol that fsspec doesn't know
            cause = str(error).rstrip(".")
            hint = "; s3:// needs the extra s3: pip install '.[s3]'" if self.source.startswith("s3") else ""
            raise CacheError(f"{self.source} can't be opened: {cause}{hint}") from None
        try:
            self.stamp = unsealed(json.loads(self._read("stamp.json")), f"{self.source}/stamp.json")
            index = json.loads(self._read("index.json", self.stamp["index"]))
        except FileNotFoundError:
            raise CacheError(
                f"{self.source} is not a finished cache of shards; make it with python -m training.encode"
            ) from None
        except DamagedError as error:
            raise CacheError(str(error)) from None
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            if isinstance(error, CacheError):
                raise
            raise CacheError(f"{self.source}/stamp.json is damaged ({error})") from None
        self._digests = [shard["sha256"] for shard in index["shards"]]
        self._sizes = np.array([shard["items"] for shard in index["shards"]])
        self._starts = np.concatenate([[0], np.cumsum(self._sizes)])
        self._shards: OrderedDict[int, Future[_Shard]] = OrderedDict()  # least recently used first
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(READERS, "shards")
        self._soon: list[int] = []  # shards to read ahead; no result depends on it

    def __len__(self) -> int:
        return int(self._starts[-1])

    def indices(self, step: int, batch_size: int, seed: int) -> np.ndarray:
        """Items of step ``step``, from 0: [batch_size] int64, a pure function of the arguments and of ``lanes``.

        Consecutive steps visit every item once per epoch. ``batch_size`` is a multiple of ``lanes``.
        """
        if batch_size % self.lanes:
            raise ValueError(f"batch_size must be a multiple of the {self.lanes} lanes, got {batch_size!r}")
        positions = np.arange(step * batch_size, (step + 1) * batch_size)
        result = np.empty(batch_size, dtype=np.int64)
        for epoch in np.unique(positions // len(self)).tolist():
            soon: list[int] = []
            # A lane has every lanes-th position of the whole run, and so of each epoch.
            firsts = [(lane - epoch * len(self)) % self.lanes for lane in range(self.lanes)]
            counts = [len(range(first, len(self), self.lanes)) for first in firsts]
            begins = np.concatenate([[0], np.cumsum(counts)])
            order = np.random.default_rng([seed, epoch]).permutation(len(self._sizes))
            for lane, first in enumerate(firsts):
                chosen = (positions // len(self) == epoch) & (positions % self.lanes == lane)
                places = (positions[chosen] % len(self) - first) // self.lanes
                stretch = (int(begins[lane]), int(begins[lane + 1]))
                result[chosen], numbers = self._draw(places, order, stretch, [seed, epoch, lane])
                if lane % self.world == self.rank:
                    soon += numbers
        self._soon = soon
        return result

    def _draw(
        self, places: np.ndarray, order: np.ndarray, stretch: tuple[int, int], seed: list[int]
    ) -> tuple[np.ndarray, list[int]]:
        """Items at ``places`` [n] of a lane's epoch, a stretch of the shards in ``order``, and the shards of the last
        item's window and of the next window."""
        begin, end = stretch
        ends = np.cumsum(self._sizes[order])
        inner = ends[(ends > begin) & (ends < end)]
        cuts = np.concatenate([[begin], inner[self.window - 1 :: self.window], [end]])  # between windows
        windows = np.searchsorted(cuts, begin + places, side="right") - 1
        items = np.empty(len(places), dtype=np.int64)
        for window in np.unique(windows).tolist():
            low, high = cuts[window : window + 2]
            shuffled = low + np.random.default_rng([*seed, window]).permutation(high - low)
            chosen = windows == window
            line = shuffled[begin + places[chosen] - low]
            place = np.searchsorted(ends, line, side="right")
            items[chosen] = self._starts[order[place]] + line - (ends[place] - self._sizes[order[place]])
        if not len(places):
            return items, []
        low, high = cuts[windows[-1]], cuts[min(windows[-1] + 2, len(cuts) - 1)]
        first, last = np.searchsorted(ends, [low, high - 1], side="right")
        return items, order[first : last + 1].tolist()

    def batch(self, indices: Sequence[int] | np.ndarray) -> dict[str, Tensor]:
        """B items -> ``tokens`` [B, L, D] float32, ``conditioning`` [B, T, E] float32, ``mask`` [B, T] bool.

        T is the same in every batch, the longest of the cache.
        Raises :class:`CacheError` naming a shard that cannot be read or is damaged, IndexError for a number that is
        not below ``len``.
        """
        indices = np.asarray(indices, dtype=np.int64)
        if len(indices) and not (indices.min() >= 0 and indices.max() < len(self)):
            raise IndexError(f"indices must be from 0 to {len(self) - 1}, got {indices.min()} to {indices.max()}")
        tokens = torch.zeros(len(indices), *self.stamp["token_shape"])
        conditioning = torch.zeros(len(indices), self.stamp["longest"], self.stamp["conditioning_dim"])
        mask = torch.zeros(conditioning.shape[:2], dtype=torch.bool)
        numbers = np.searchsorted(self._starts, indices, side="right") - 1
        needed = np.unique(numbers).tolist()
        for number in needed[: self._room]:
            self._shard(number)
        for number in needed:
            shard = self._shard(number).result()
            for row in np.flatnonzero(numbers == number):
                place = indices[row] - self._starts[number]
                condition = torch.from_numpy(shard.conditioning[place])
                tokens[row] = torch.from_numpy(shard.tokens[place])
                conditioning[row, : len(condition)] = condition
                mask[row, : len(condition)] = True
        for number in self._soon:
            self._shard(number)
        return {"tokens": tokens, "conditioning": conditioning, "mask": mask}

    def _shard(self, number: int) -> Future[_Shard]:
        """A shard in memory, or a future of it. The least recently used shards that are not needed soon are dropped."""
        with self._lock:
            future = self._shards.get(number)
            if future is None or (future.done() and future.exception()):
                future = self._threads.submit(self._load, number)
                self._shards[number] = future
            self._shards.move_to_end(number)
            soon = {number, *self._soon}
            unused = [other for other in self._shards if other not in soon]
            for other in unused[: max(0, len(self._shards) - self._room)]:
                del self._shards[other]
            return future

    def _load(self, number: int) -> _Shard:
        try:
            return _parse(self._read(shard_name(number), self._digests[number]))
        except FileNotFoundError:
            raise CacheError(f"{self.source}/{shard_name(number)} is missing; encode the cache again") from None

    def _read(self, name: str, digest: str | None = None) -> bytes:
        """The bytes of a file. The read is repeated if the connection fails or the bytes do not match ``digest``."""
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(PAUSE * 2 ** (attempt - 1))
            try:
                data = self._files.cat_file(f"{self._root}/{name}")
            except FileNotFoundError:
                raise
            except Exception as error:  # every kind of storage has errors of its own
                fault = f"can't be read: {type(error).__name__}: {error}"
                continue
            if digest is None or hashlib.sha256(data).hexdigest() == digest:
                return data
            fault = f"is damaged: {len(data)} bytes came, whose sha256 is not {digest[:12]}..."
        raise CacheError(f"{self.source}/{name} {fault} ({ATTEMPTS} attempts)")
