"""The common end of every command of this package."""

from __future__ import annotations

from collections.abc import Callable

import torch

from dear import cli


def guarded(run: Callable[[], int | None]) -> int:
    """Like :func:`dear.cli.guarded`, and leave the process group of a distributed run."""
    try:
        return cli.guarded(run)
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
