"""Training states on disk, with a digest of what they hold."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dear.files import write_atomically
from training.runtime.stamps import StampError


class StateError(StampError):
    """A training state that cannot be read, or that belongs to another run."""


def save_state(path: Path, description: Any, state: Mapping[str, Any]) -> None:
    """Write tensors and numbers, and plain data that describes them, atomically."""
    content = {"description": json.dumps(description), **state}
    content["digest"] = _digest(content)
    write_atomically(path, lambda file: torch.save(content, file))


def read_state(path: Path) -> tuple[Any, dict[str, Any]]:
    """Read the description and the state that :func:`save_state` wrote, on the CPU.

    Raises StateError if the file holds something else. torch.load does not notice a flipped bit; the digest does.
    States of earlier versions, which have no digest, are accepted.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        digest = state.pop("digest", None)
        intact = digest is None or digest == _digest(state)
        description = json.loads(state.pop("description"))
    except Exception as error:  # torch.load answers a broken file with errors of many kinds
        raise StateError(f"{path} is not a training state ({error}); remove it to start again") from error
    if not intact:
        raise StateError(f"{path} is damaged (its digest is not the one that it holds); remove it to start again")
    return description, state


def _digest(content: Any) -> str:
    digest = hashlib.sha256()

    def feed(value: Any) -> None:
        if isinstance(value, Tensor):
            digest.update(f"{value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        elif isinstance(value, Mapping):
            digest.update(f"mapping {len(value)}\n".encode())
            for key, item in value.items():
                digest.update(f"{key!r}\n".encode())
                feed(item)
        elif isinstance(value, list | tuple):
            digest.update(f"sequence {len(value)}\n".encode())
            for item in value:
                feed(item)
        else:
            digest.update(f"{value!r}\n".encode())

    feed(content)
    return digest.hexdigest()
