"""Fixtures shared by all tests. Those of session scope are read by many tests and must not be changed by any."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from factory import tiny_checkpoint

from dear.conditioning import MiniLMEncoder
from dear.pipeline import AudioDEAR


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint with both variants, to be read only."""
    return tiny_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny")


@pytest.fixture
def own_folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint that a test may damage."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "own"))


@pytest.fixture(scope="session")
def student(tiny_folder: Path) -> AudioDEAR:
    return AudioDEAR.from_pretrained(tiny_folder, device="cpu")


@pytest.fixture(scope="session")
def encoder() -> MiniLMEncoder:
    return MiniLMEncoder()
