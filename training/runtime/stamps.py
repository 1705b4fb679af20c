"""Stamps: the settings that a file was made from, as plain data, and how they are compared with other settings."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dear.files import read_sealed, sealed, write_json
from dear.settings import KindSettings


class StampError(ValueError):
    """A file on disk was made from other settings."""


def plain(data: Any) -> Any:
    """Data after a round trip through JSON: dataclasses become objects, tuples become lists."""
    return json.loads(json.dumps(data, default=dataclasses.asdict))


def completed(saved: Any, wanted: Any) -> Any:
    """``saved`` (plain data) with the defaults of fields that were added to the dataclasses in ``wanted`` since.

    Settings that were saved before a field existed therefore equal settings that leave the field at its default.
    Settings of a kind were once saved with the fields of all kinds; only its own are compared.
    """
    if dataclasses.is_dataclass(wanted) and isinstance(saved, dict):
        if isinstance(wanted, KindSettings):
            saved = {key: value for key, value in saved.items() if hasattr(wanted, key)}
        defaults: dict[str, Any] = {}
        for field in dataclasses.fields(wanted):
            if field.default is not dataclasses.MISSING:
                defaults[field.name] = field.default
            elif field.default_factory is not dataclasses.MISSING:
                defaults[field.name] = field.default_factory()
        return plain(defaults) | {key: completed(value, getattr(wanted, key, None)) for key, value in saved.items()}
    if isinstance(wanted, Mapping) and isinstance(saved, dict):
        return {key: completed(value, wanted.get(key)) for key, value in saved.items()}
    return saved


def once(path: Path, stamp: Mapping[str, Any], make: Callable[[], Any]) -> Any:
    """The result of ``make`` (plain data), cached in ``path`` together with its ``stamp``.

    stamp: plain data, or dataclasses of it. A saved stamp may lack fields that the dataclasses gained later.
    Raises :class:`StampError` where ``path`` was made from other settings, DamagedError where it has changed since.
    """
    if path.exists():
        kept = read_sealed(path, "stamp", "result")
        if clause := difference(completed(kept["stamp"], stamp), plain(stamp)):
            raise StampError(f"{path} was made from other settings: {clause}; remove it to make it again")
        return kept["result"]
    path.parent.mkdir(parents=True, exist_ok=True)
    result = plain(make())
    write_json(path, sealed({"stamp": plain(stamp), "result": result}))
    return result


def difference(saved: Any, wanted: Any, path: str = "") -> str:
    """The first field in which two trees of plain data differ, as a clause; empty where they are equal."""
    if isinstance(saved, dict) and isinstance(wanted, dict):
        for key in [*wanted, *(key for key in saved if key not in wanted)]:
            inner = f"{path}.{key}" if path else str(key)
            clause = difference(saved.get(key), wanted.get(key), inner)
            if clause:
                return clause
        return ""
    return "" if saved == wanted else f"its {path} is {saved!r}, wanted is {wanted!r}"
