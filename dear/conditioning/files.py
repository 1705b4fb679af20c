"""Files of published encoders: found in a folder or on the Hub, identified by their bytes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dear import hub
from dear.budget import current
from dear.conditioning.base import EncoderError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # in order of preference


def fetch(source: str, names: Sequence[str], field: str) -> Path:
    """The folder that holds ``names``: ``source`` itself, else downloaded from the Hub (or taken from its cache).

    source: a folder, or a repository "owner/name". field: of the configuration, for the sentence of an error.
    Raises :class:`EncoderError` naming the files, where they were looked for, and what to do.
    """
    folder = _folder(source, names, field)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise EncoderError(f"{field}: {source} must hold {', '.join(names)}; missing: {', '.join(missing)}")
    return folder


def fetch_weights(source: str, field: str) -> Path:
    """The weight file of a transformers model in ``source``, a folder or "owner/name". Raises :class:`EncoderError`."""
    for name in WEIGHTS:
        path = _folder(source, ["config.json", name], field) / name
        if path.is_file():
            current().charge(path, path.stat().st_size)
            return path
    raise EncoderError(f"{field}: {source} must hold {' or '.join(WEIGHTS)}, but has neither")


def _folder(source: str, names: Sequence[str], field: str) -> Path:
    if Path(source).is_dir():
        return Path(source)
    if not re.fullmatch(hub.REPOSITORY, source):
        raise EncoderError(f"{field} must be a folder or owner/name on the Hub, got {source!r}")
    return download(source, names, field, "name a folder that holds them")


def download(repository: str, names: Sequence[str], field: str, instead: str) -> Path:
    """The folder with ``names``, by :func:`dear.hub.fetch`. Raises :class:`EncoderError`."""
    try:
        return hub.fetch(repository, names, instead=instead)
    except hub.CheckpointError as error:
        raise EncoderError(f"{field}: {error}") from error


def load_tokenizer(folder: Path, max_pieces: int, field: str) -> Tokenizer:
    """The published ``tokenizer.json``, which cuts texts to ``max_pieces`` including the marks of begin and end.

    transformers' wrapper is not used, since it sets padding and truncation in every call and so fails when two threads
    encode at once.
    """
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # tokenizers raises no narrower class
        raise EncoderError(f"{field}: {folder / 'tokenizer.json'} is damaged ({error}); fetch it again") from None
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_pieces)
    return tokenizer
