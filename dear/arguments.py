"""The arguments of a command, and the file that it leaves."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """Reports bad input as the rest of the package does: an error of one sentence, without the usage before it."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def check_json(path: Path | None) -> None:
    """Raise ValueError where --json names a file that cannot be written in the end."""
    if path is not None and not path.parent.is_dir():
        raise ValueError(f"--json must lie in an existing directory, got {str(path)!r}")


def write_json(path: Path | None, result: Any) -> None:
    """Write plain data to the file of --json, if any, whole or not at all."""
    if path is not None:
        partial = path.with_name(path.name + ".partial")
        partial.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        os.replace(partial, path)
