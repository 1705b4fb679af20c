"""Weights of a module in a file of their own."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from dear.files import sha256, write_atomically
from training.runtime.stamps import StampError

M = TypeVar("M", bound=nn.Module)


def save_module(module: nn.Module, path: Path) -> str:
    """Write the parameters and buffers of a module. Returns the sha256 of the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = save({name: value.contiguous() for name, value in module.state_dict().items()})
    write_atomically(path, lambda file: file.write(data))
    return hashlib.sha256(data).hexdigest()


def load_module(module: M, path: Path, digest: str | None) -> M:
    """The frozen module with the weights that :func:`save_module` wrote. digest: what it returned; None: not checked.

    Raises StampError where the file is lost or damaged.
    """
    try:
        if digest is not None and sha256(path) != digest:
            raise RuntimeError("its sha256 has changed")
        module.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        what = str(error).partition("\n")[0]
        raise StampError(
            f"{path} is lost or damaged ({what}); remove {path.with_suffix('.json')} to make it again"
        ) from None
    return module.eval().requires_grad_(False)
