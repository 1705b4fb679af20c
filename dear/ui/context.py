"""The contract of a tab, and what the page hands to every tab."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr

from dear.pipeline import AudioDEAR
from dear.ui.model_registry import ModelChoice, ModelRegistry

T = TypeVar("T")
Update = Callable[[AudioDEAR, ModelChoice], Any]  # the new value of a component once its visitor has chosen a model


@dataclass(frozen=True)
class Tab:
    """One tab of the page.

    name: its id in the page and its key in the registry. styles: its files in :mod:`dear.ui.assets`. build: lays the
    tab out inside its own ``gr.Tab``; what depends on other tabs goes into :meth:`Context.connect`.
    """

    name: str
    title: str
    build: Callable[[Context], None]
    styles: tuple[str, ...] = ()


@dataclass(frozen=True)
class OpenEvent:
    """Something that happens when a visitor opens the page, once the visitor's model is known."""

    function: Callable[..., Any]
    inputs: list[Any]
    outputs: list[Any]
    finished_js: str | None = None  # runs in the browser afterwards, also if the function failed


@dataclass(eq=False)
class Context:
    """The page, its models, and the interfaces that tabs offer each other."""

    page: gr.Blocks
    tabs: gr.Tabs
    models: ModelRegistry
    chosen: gr.Textbox  # the visitor's model as text; empty for the page's own
    folder: Path  # for the files that the page serves; it exists
    tab: gr.Tab = field(init=False)  # the one that is being built
    model_updates: dict[Any, Update] = field(default_factory=dict)  # of components that depend on the model
    open_events: list[OpenEvent] = field(default_factory=list)
    _interfaces: dict[type, Any] = field(default_factory=dict)
    _connections: list[Callable[[], None]] = field(default_factory=list)

    def offer(self, interface: object) -> None:
        """Offer an interface to the other tabs, under its class."""
        self._interfaces[type(interface)] = interface

    def find(self, kind: type[T]) -> T | None:
        """The interface of class ``kind``, or None where no tab offers it. Complete only in connections."""
        return self._interfaces.get(kind)

    def connect(self, connection: Callable[[], None]) -> None:
        """Call ``connection`` after all tabs are laid out, so that their order does not matter."""
        self._connections.append(connection)

    def close(self) -> None:
        """Make all connections. Called by the page after the last tab."""
        for connection in self._connections:
            connection()
