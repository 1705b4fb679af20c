"""The tabs of the page, in their order. A new tab is one file in :mod:`dear.ui.tabs` and one line of ``TABS``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr

from dear.ui.components.parts import Update
from dear.ui.shelf import Shelf
from dear.ui.tabs.compare import compare_tab
from dear.ui.tabs.duel import duel_tab
from dear.ui.tabs.edit import edit_tab
from dear.ui.tabs.generate import GenerateTab, generate_tab
from dear.ui.tabs.hood import hood_tab
from dear.ui.tabs.listening import ListeningTest, listening_tab
from dear.ui.tabs.models import models_tab


@dataclass
class Frame:
    """What the tabs are laid out in, and what they leave for those after them.

    updates: what components of the tabs so far become when the visitor has chosen a model; then: adds an event after
    the one that recalls the visitor's model.
    """

    page: gr.Blocks
    tabs: gr.Tabs
    shelf: Shelf
    chosen: gr.Textbox
    folder: Path
    test: ListeningTest | None
    generate: GenerateTab = field(init=False)  # of the first tab
    updates: dict[Any, Update] = field(default_factory=dict)
    then: Callable[..., Any] = field(init=False)  # of the last tab


@dataclass(frozen=True)
class Tab:
    """lay: lays the tab out, inside its own ``gr.Tab``, which it is given."""

    title: str
    lay: Callable[[Frame, gr.Tab], None]


def _generate(frame: Frame, tab: gr.Tab) -> None:
    frame.generate = generate_tab(frame.shelf, frame.chosen, frame.folder)
    frame.updates |= frame.generate.updates


def _compare(frame: Frame, tab: gr.Tab) -> None:
    frame.updates |= compare_tab(frame.shelf, frame.chosen, frame.folder, frame.generate, frame.tabs)


def _duel(frame: Frame, tab: gr.Tab) -> None:
    duel_tab(frame.shelf, frame.chosen, frame.folder)


def _edit(frame: Frame, tab: gr.Tab) -> None:
    frame.updates |= edit_tab(frame.shelf, frame.chosen, frame.folder, frame.generate, frame.tabs)


def _listening(frame: Frame, tab: gr.Tab) -> None:
    listening_tab(frame.page, frame.test, frame.folder)


def _hood(frame: Frame, tab: gr.Tab) -> None:
    hood_tab(tab, frame.shelf, frame.chosen)


def _model(frame: Frame, tab: gr.Tab) -> None:
    frame.then = models_tab(frame.page, frame.shelf, frame.chosen, frame.updates)


TABS = {
    "generate": Tab("Generate", _generate),
    "compare": Tab("Compare", _compare),
    "duel": Tab("Teacher and student", _duel),
    "edit": Tab("Edit", _edit),
    "listening": Tab("Listening test", _listening),
    "hood": Tab("Under the hood", _hood),
    "model": Tab("Model", _model),
}
