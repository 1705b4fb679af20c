"""Style sheets, scripts and texts of the page, as files beside this module."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent


def load(name: str, **values: str) -> str:
    """The text of an asset. Each name in ``values``, such as LEFT, is replaced by its value."""
    text = (FOLDER / name).read_text(encoding="utf-8")
    for key, value in values.items():
        text = text.replace(key, value)
    return text
