"""What every command of this room ends with."""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch


def guarded(run: Callable[[], int | None]) -> int:
    """The exit status of a command: what ``run`` returns, or 0; 2 for bad input (one sentence on stderr).

    130 where it is interrupted.
    """
    try:
        return run() or 0
    except (ValueError, ArithmeticError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
