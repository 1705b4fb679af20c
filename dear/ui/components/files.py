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

import soundfile

from dear.audio import at_loudness
from dear.config import MelConfig
from dear.output import Output
from dear.visual import plots

LIFETIME = 3600  # seconds for which the page and the endpoints can fetch the file of a result
SWEEP_INTERVAL = 60  # seconds between removals of older files


def store(out: Output, folder: Path, suffix: str = ".wav", name: str | None = None) -> str:
    """Write a result of one sound into a new folder inside ``folder``. Returns its path.

    name: what the file's name is made of, before the seed; the prompt by default.
    """
    words = file_name(out.prompts[0] if name is None else name)
    path = Path(tempfile.mkdtemp(dir=folder)) / f"{words}-{out.seed}{suffix}"
    out.save(path)
    return str(path)


def store_anonymous(out: Output, folder: Path, level: bool) -> str:
    """Write a result as a WAV whose path and metadata say nothing of it. level: at the loudness of all such files."""
    samples = out.sound[0].numpy()
    path = Path(tempfile.mkdtemp(dir=folder)) / "sound.wav"
    soundfile.write(path, at_loudness(samples, out.sample_rate) if level else samples, out.sample_rate, "PCM_16")
    return str(path)


def store_card(out: Output, config: MelConfig, folder: Path) -> str:
    """Write a picture of a sound with its prompt, as a PNG. Returns its path."""
    drawn = plots.card_figure(out.mel[0].numpy(), config, out.prompts[0])
    path = Path(tempfile.mkdtemp(dir=folder)) / f"{file_name(out.prompts[0])}-{out.seed}.png"
    path.write_bytes(plots.to_png(drawn))
    return str(path)


def file_name(text: str) -> str:
    """``text`` as a part of a file's name."""
    words = re.sub(r"[^a-z0-9.]+", "-", text.lower())
    return words.strip("-.")[:96].strip("-.") or "sound"


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
