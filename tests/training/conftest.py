"""Fixtures shared by the tests of sharded caches, and of whole reproductions at toy size."""

from __future__ import annotations

from pathlib import Path

import pytest
from reproduction import make_clips, make_recipe
from small_shards import make, make_entries

from training.data.manifest import Entry, read_manifest
from training.store import shards as module


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> list[str]:
    return make_clips(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    return make_recipe(tmp_path_factory.mktemp("recipe") / "toy.yaml")


@pytest.fixture(scope="module")
def small_sounds(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sounds")
    make_entries(folder)
    return folder


@pytest.fixture(scope="module")
def small_entries(small_sounds) -> list[Entry]:
    return read_manifest(small_sounds / "manifest.jsonl")


@pytest.fixture(scope="module")
def small_shards(small_entries, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cache") / "built"
    assert make(small_entries, folder)
    return folder


@pytest.fixture
def no_pauses(monkeypatch):
    """Failed reads are repeated at once."""
    monkeypatch.setattr(module, "PAUSE", 0.0)
