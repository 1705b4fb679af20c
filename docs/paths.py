"""Warn where a page names a file of the repository that does not exist: a hook of MkDocs, used by mkdocs.yml.

Under ``make docs`` a warning is an error, so that a renamed module is renamed in the documentation as well.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CODE = re.compile(r"`((?:assets|dear|docs|tests|training)/[\w./*-]*)`")
log = logging.getLogger("mkdocs.hooks.paths")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> None:
    """Look up each path in backticks that begins with one of the repository's folders."""
    for path in dict.fromkeys(CODE.findall(markdown)):
        if not any(ROOT.glob(path.rstrip("/"))):
            log.warning("%s names %s, which is not in the repository", page.file.src_path, path)
