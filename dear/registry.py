"""Registries: dictionaries from the name of a kind to its implementation, with one line of text for each kind."""

from __future__ import annotations

from collections.abc import Mapping
from pkgutil import resolve_name
from typing import Any


def load_kinds(places: Mapping[str, str]) -> dict[str, Any]:
    """Import what a registry lists: {kind: "module:name"} -> {kind: the object of that name}, in the same order."""
    return {kind: resolve_name(place) for kind, place in places.items()}
