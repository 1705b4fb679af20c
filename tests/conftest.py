"""Fixtures shared by all tests. Those of session scope are read by many tests and must not be changed by any."""

from __future__ import annotations

import contextlib
import functools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from factory import tiny_checkpoint

from dear.conditioning import build_text_encoder
from dear.conditioning.minilm import MiniLMEncoder
from dear.evaluation.click import BrowserError, chromium
from dear.pipeline import AudioDEAR
from dear.vocabulary import Vocabulary
from training.data.vocabulary import embedded, known_sounds


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


@pytest.fixture(scope="session", autouse=True)
def shared_text_encoders() -> Iterator[None]:
    """Models with the same settings share their frozen text encoder, which takes longest to load."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dear.pipeline.build_text_encoder", functools.cache(build_text_encoder))
        yield


@pytest.fixture(scope="session")
def encoder() -> MiniLMEncoder:
    return MiniLMEncoder()


@pytest.fixture(scope="session")
def known(encoder: MiniLMEncoder) -> Vocabulary:
    """The wordings of three sounds, with their embeddings."""
    return embedded(known_sounds(["dog", "rain", "piano"]), encoder)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No Hub: every request of huggingface_hub fails."""

    def unreachable(*args: object, **options: object) -> None:
        raise ConnectionError("unreachable")

    for name in ("get_hf_file_metadata", "snapshot_download"):
        monkeypatch.setattr(f"huggingface_hub.{name}", unreachable)


@pytest.fixture
def browser() -> Iterator[Any]:
    """Chromium without a screen or a network; skipped where it is not installed."""
    with contextlib.ExitStack() as stack:
        try:
            driver = stack.enter_context(chromium())
        except BrowserError as error:
            pytest.skip(str(error))
        yield driver
