"""How every command of this package ends."""

from __future__ import annotations

from collections.abc import Callable

import torch

from dear import cli


def guarded(run: Callable[[], int | None]) -> int:
    """As :func:`dear.cli.guarded`, and leave the process group of a distributed run."""
    try:
        return cli.guarded(run)
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
