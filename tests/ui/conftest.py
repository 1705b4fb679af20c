"""Fixtures of the page: one browser for all of its tests, and the page with tiny networks."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from factory import tiny_checkpoint, tiny_config
from webpage import served

from dear.conditioning.minilm import MiniLMEncoder
from dear.config import MelConfig
from dear.evaluation.click import BrowserError, chromium
from dear.pipeline import AudioDEAR
from dear.vocabulary import save_vocabulary
from training.data.vocabulary import embedded, known_sounds


@pytest.fixture(scope="session")
def folder(encoder: MiniLMEncoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny networks, but clips of the full ten seconds."""
    config = dataclasses.replace(tiny_config(), mel=MelConfig())
    folder = tiny_checkpoint(tmp_path_factory.mktemp("page") / "tiny", config)
    save_vocabulary(folder, embedded(known_sounds(["dog", "cat", "piano"]), encoder))
    return folder


@pytest.fixture(scope="session")
def model(folder: Path) -> AudioDEAR:
    return AudioDEAR.from_pretrained(folder, device="cpu")


@pytest.fixture(scope="module")
def page(model: AudioDEAR, folder: Path) -> Iterator[gr.Blocks]:
    with served(model, str(folder)) as page:
        yield page


@pytest.fixture(scope="session")
def started_browser() -> Iterator[Any]:
    """One Chromium, whose microphone hears beeps; skipped where it is not installed."""
    try:
        with chromium("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream") as browser:
            yield browser
    except BrowserError as error:
        pytest.skip(str(error))


@pytest.fixture
def browser(started_browser: Any) -> Any:
    """The browser, with the logs of this test only."""
    for log in ("performance", "browser"):
        started_browser.get_log(log)
    return started_browser
