"""Files of results: written, played and removed."""

from __future__ import annotations

import html
import io
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import soundfile
from gradio.utils import get_upload_folder

from dear.audio import at_loudness
from dear.config import MelConfig
from dear.output import Output
from dear.visual import plots

LIFETIME = 3600  # seconds for which the page and the endpoints can fetch the file of a result
SWEEP_INTERVAL = 60  # seconds between removals of older files


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A new folder inside ``folder`` for the files of a result, removed if they cannot be written."""
    place = Path(tempfile.mkdtemp(dir=folder))
    try:
        yield place
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise


def store(out: Output, folder: Path, suffix: str = ".wav", name: str | None = None) -> str:
    """Write a result of one sound into a new folder inside ``folder``. Returns its path.

    name: what the file's name is made of, before the seed; the prompt by default.
    """
    words = file_name(out.prompts[0] if name is None else name)
    with new_folder(folder) as place:
        return str(out.save(place / f"{words}-{out.seed}{suffix}")[0])


def store_anonymous(out: Output, folder: Path, level: bool) -> str:
    """Write a result as a WAV whose path and metadata say nothing of it. level: at the loudness of all such files."""
    samples = out.sound[0].numpy()
    file = io.BytesIO()  # of a full disk libsndfile says nothing that helps
    heard = at_loudness(samples, out.sample_rate) if level else samples
    soundfile.write(file, heard, out.sample_rate, "PCM_16", format="WAV")
    with new_folder(folder) as place:
        (path := place / "sound.wav").write_bytes(file.getvalue())
    return str(path)


def store_card(out: Output, config: MelConfig, folder: Path) -> str:
    """Write a picture of a sound with its prompt, as a PNG. Returns its path."""
    drawn = plots.card_figure(out.mel[0].numpy(), config, out.prompts[0])
    with new_folder(folder) as place:
        (path := place / f"{file_name(out.prompts[0])}-{out.seed}.png").write_bytes(plots.to_png(drawn))
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
        remove_broken_uploads(Path(get_upload_folder()))
        time.sleep(interval)


def remove_broken_uploads(folder: Path, age: float = LIFETIME) -> None:
    """Remove uploads that ended early, and to which nothing was written for ``age`` seconds.

    Gradio leaves them as files beside the folders of whole uploads, where the connection ends or the disk is full.
    """
    for path in folder.glob("tmp*"):
        with suppress(FileNotFoundError):  # a whole one has been moved
            if path.is_file() and time.time() - path.stat().st_mtime >= age:
                path.unlink()


def player(path: str, label: str) -> str:
    """An audio element for a stored result."""
    source = html.escape(f"gradio_api/file={quote(path)}")
    return f'<audio controls preload="metadata" src="{source}" aria-label="{html.escape(label)}"></audio>'
