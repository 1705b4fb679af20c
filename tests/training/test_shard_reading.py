"""Reading sharded caches: orders, windows, remote files and damage."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from small_shards import content

from training.cache.tokens import CacheError
from training.store.shards import ShardedCache, shard_name

pytestmark = pytest.mark.usefixtures("no_pauses")


@pytest.mark.parametrize("lanes", [1, 2, 3, 6])
def test_every_epoch_visits_every_item_once(small_shards, lanes):
    cache = ShardedCache(small_shards, window=2, lanes=lanes)
    size = 6
    stream = np.concatenate([cache.indices(step, size, seed=3) for step in range(28)])  # four epochs of 42
    epochs = stream.reshape(4, 42)
    assert all(sorted(epoch) == list(range(42)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert np.array_equal(cache.indices(9, size, seed=3), stream[54:60])  # independent of earlier calls
    assert not np.array_equal(cache.indices(9, size, seed=4), stream[54:60])
    assert sorted(cache.indices(0, 84, seed=3)) == sorted([*range(42), *range(42)])
    if lanes > 1:
        with pytest.raises(ValueError, match=f"batch_size must be a multiple of the {lanes} lanes, got 7"):
            cache.indices(0, 7, seed=3)


def test_epochs_that_end_within_a_step_visit_every_item_once(small_shards):
    for lanes in (1, 2, 8):  # some of eight lanes have less than a shard
        cache = ShardedCache(small_shards, window=2, lanes=lanes)
        stream = np.concatenate([cache.indices(step, 8, seed=3) for step in range(21)])
        assert all(sorted(epoch) == list(range(42)) for epoch in stream.reshape(4, 42))


def test_a_window_has_few_shards_and_mixes_their_items(small_shards):
    cache = ShardedCache(small_shards, window=2)
    epoch = np.concatenate([cache.indices(step, 2, seed=0) for step in range(21)]) // 8  # shards
    changes = np.flatnonzero(np.diff(epoch)).size
    assert changes > 12  # in order it would be 5
    spans = [np.ptp(np.flatnonzero(epoch == shard)) for shard in range(5)]
    assert max(spans) < 16  # the items of a shard all come within two shards' worth


def counted(monkeypatch) -> list[str]:
    """Names of the files that are read from memory:// from now on, in order."""
    names: list[str] = []
    whole = MemoryFileSystem.cat_file
    monkeypatch.setattr(
        MemoryFileSystem, "cat_file", lambda files, path: names.append(Path(path).name) or whole(files, path)
    )
    return names


@pytest.fixture
def remote(small_shards):
    files = fsspec.filesystem("memory")
    for name, data in content(small_shards).items():
        files.pipe_file(f"/far/cache/{name}", data)
    yield "memory://far/cache"
    files.rm("/far", recursive=True)


def test_shards_are_read_from_elsewhere_and_ahead(small_shards, remote, monkeypatch):
    names = counted(monkeypatch)
    near, far = ShardedCache(small_shards, window=1), ShardedCache(remote, window=1)
    assert far.stamp == near.stamp
    for step in range(14):
        chosen = far.indices(step, 3, seed=1)
        batch, wanted = far.batch(chosen), near.batch(chosen)
        assert batch.keys() == wanted.keys() and all(torch.equal(batch[key], wanted[key]) for key in wanted)
        assert len(far._shards) <= 2
    assert sorted(names[2:]) == [shard_name(number) for number in range(6)]  # each once: the next was on its way


def test_each_process_reads_its_shards_only(remote, small_shards, monkeypatch):
    one = ShardedCache(small_shards, window=2, world=2)
    names = counted(monkeypatch)
    read = []
    for rank in range(2):
        own = ShardedCache(remote, window=2, rank=rank, world=2)
        del names[:]
        for step in range(7):
            chosen = own.indices(step, 6, seed=2)
            assert np.array_equal(chosen, one.indices(step, 6, seed=2))
            whole, share = ShardedCache(small_shards).batch(chosen), own.batch(chosen[rank::2])
            assert all(torch.equal(share[key], whole[key][rank::2]) for key in whole)
        read.append(set(names))
    assert len(read[0]) < 6 and len(read[1]) < 6 and len(read[0] & read[1]) <= 1
    with pytest.raises(CacheError, match="rank must be from 0 to 1 for world 2, got 2"):
        ShardedCache(small_shards, rank=2, world=2)
    with pytest.raises(CacheError, match="lanes must be a multiple of the 2 processes, got 3"):
        ShardedCache(small_shards, world=2, lanes=3)


@pytest.mark.parametrize("world", [2, 4])
def test_batches_are_the_same_on_any_number_of_processes(small_shards, world):
    alone = ShardedCache(small_shards, lanes=4)
    ranks = [ShardedCache(small_shards, rank=rank, world=world, lanes=4) for rank in range(world)]
    for step in range(8):  # into the second epoch, which begins within a step
        chosen = alone.indices(step, 8, seed=2)
        whole = alone.batch(chosen)
        for rank, own in enumerate(ranks):
            assert np.array_equal(own.indices(step, 8, seed=2), chosen)
            share = own.batch(chosen[rank::world])
            assert all(torch.equal(share[key], whole[key][rank::world]) for key in whole)
            assert len(own._shards) <= 4 // world * 2  # two windows of one shard


def test_a_cut_read_is_tried_again(remote, small_shards, monkeypatch):
    whole, troubles = MemoryFileSystem.cat_file, []

    def cut(files, path):
        data = whole(files, path)
        if path.endswith("2.tar") and len(troubles) < 3:
            troubles.append(path)
            if len(troubles) == 1:
                raise ConnectionResetError("the line went dead")
            return data[: len(data) // 2]
        return data

    monkeypatch.setattr(MemoryFileSystem, "cat_file", cut)
    batch = ShardedCache(remote).batch([17])
    assert len(troubles) == 3
    assert torch.equal(batch["tokens"], ShardedCache(small_shards).batch([17])["tokens"])

    def dead(files, path):
        if path.endswith("2.tar"):
            raise ConnectionResetError("the line went dead")
        return whole(files, path)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", dead)
    cache = ShardedCache(remote)
    with pytest.raises(CacheError, match=r"shard-000002\.tar can't be read: ConnectionResetError: the line went dead"):
        cache.batch([0, 17])
    monkeypatch.setattr(MemoryFileSystem, "cat_file", whole)
    assert torch.equal(cache.batch([17])["tokens"], batch["tokens"])  # a failure is not remembered


def test_damage_is_named(small_shards, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(small_shards, folder)
    data = bytearray((folder / shard_name(3)).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / shard_name(3)).write_bytes(data)
    cache = ShardedCache(folder)
    assert cache.batch([0])["mask"].any()
    with pytest.raises(CacheError, match=r"damaged/shard-000003\.tar is damaged"):
        cache.batch([0, 3 * 8])
    (folder / shard_name(3)).unlink()
    with pytest.raises(CacheError, match=r"shard-000003\.tar is missing"):
        ShardedCache(folder).batch([3 * 8])
    (folder / "index.json").write_text("{}")
    with pytest.raises(CacheError, match=r"index\.json is damaged"):
        ShardedCache(folder)
    stamp = (small_shards / "stamp.json").read_text()
    longer = stamp.replace('"longest": ', '"longest": 1')  # what a flipped bit may leave: other numbers
    assert longer != stamp
    for wrong in ("", "{", "[]", "null", "[" * 5_000, longer):
        (folder / "stamp.json").write_text(wrong)
        with pytest.raises(CacheError, match=r"stamp\.json is damaged"):
            ShardedCache(folder)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("s3://bucket/cache", r"Install s3fs to access S3; s3:// needs the extra s3: pip install '\.\[s3\]'"),
        ("foo://cache", "Protocol not known: foo"),
    ],
)
def test_a_storage_that_cannot_be_reached_is_one_sentence(source, words, monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(CacheError, match=f"^{source} can't be opened: {words}$"):
        ShardedCache(source)
