"""The readers of datasets that ``python -m training.prepare`` offers. A new one is a file and a line of ``READERS``."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from dear.registry import load_kinds
from training.data.manifest import Entry
from training.data.tables import Skipped

READERS: dict[str, Callable[..., Iterator[Entry | Skipped]]] = load_kinds(
    {
        "audiocaps": "training.data.datasets:audiocaps",
        "wavcaps": "training.data.datasets:wavcaps",
        "audioset": "training.data.datasets:audioset",
        "esc50": "training.data.datasets:esc50",
        "esc10": "training.data.datasets:esc10",
        "clips": "training.data.datasets:clips",
    }
)
