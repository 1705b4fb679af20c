"""Files that are whole or absent, and results that know what they were made from."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from training.stamps import completed, plain


class StampError(ValueError):
    """Something on disk was made from other things than those at hand."""


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Call ``write(file)`` on a temporary file beside ``path``, make it durable, then move it to ``path``."""
    temporary = path.with_name(f"{path.name}.tmp")
    with open(temporary, "wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_json(path: Path, data: Any) -> None:
    """Write plain data atomically."""
    write_atomically(path, lambda file: file.write((json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode()))


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def once(path: Path, stamp: Mapping[str, Any], make: Callable[[], Any]) -> Any:
    """What ``make`` returns (plain data), made once and kept in ``path`` with the ``stamp`` of what it was made from.

    stamp: plain data, or dataclasses of it; a kept one may lack fields that these have gained since.
    Raises :class:`StampError` where ``path`` was made from something else.
    """
    if path.exists():
        kept = read_json(path)
        if clause := difference(completed(kept["stamp"], stamp), plain(stamp)):
            raise StampError(f"{path} was made from something else: {clause}; remove it to make it anew")
        return kept["result"]
    path.parent.mkdir(parents=True, exist_ok=True)
    result = plain(make())
    write_json(path, {"stamp": plain(stamp), "result": result})
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
