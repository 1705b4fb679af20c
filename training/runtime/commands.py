"""The end of every command of this package."""

from __future__ import annotations

from collections.abc import Callable

import torch

from dear import cli


def guarded(run: Callable[[], int | None]) -> int:
    """As :func:`dear.cli.guarded`; leaves the group of processes that a distributed run has joined."""
    try:
        return cli.guarded(run)
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
