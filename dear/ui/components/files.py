"""Files of results: written, played and removed."""

from __future__ import annotations

import html
import re
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from dear.output import Output

LIFETIME = 3600  # seconds for which the page and the endpoints can fetch the file of a result
SWEEP_INTERVAL = 60  # seconds between removals of older files


def store(out: Output, folder: Path, suffix: str = ".wav") -> str:
    """Write a result of one sound into a new folder inside ``folder``. Returns its path."""
    words = re.sub(r"[^a-z0-9]+", "-", out.prompts[0].lower()).strip("-")[:48].strip("-") or "sound"
    path = Path(tempfile.mkdtemp(dir=folder)) / f"{words}-{out.seed}{suffix}"
    out.save(path)
    return str(path)


def remove_old_files(folder: Path, interval: float = SWEEP_INTERVAL) -> None:
    """Remove results older than ``LIFETIME`` from ``folder`` every ``interval`` seconds, until ``folder`` is gone."""
    while folder.is_dir():
        with suppress(FileNotFoundError):  # the folder itself is removed when the server ends
            for result in folder.iterdir():
                if time.time() - result.stat().st_mtime > LIFETIME:
                    shutil.rmtree(result, ignore_errors=True)
        time.sleep(interval)


def player(path: str, label: str) -> str:
    """An audio element for a stored result."""
    source = html.escape(f"gradio_api/file={quote(path)}")
    return f'<audio controls preload="metadata" src="{source}" aria-label="{html.escape(label)}"></audio>'
