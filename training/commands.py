"""What every command of this room ends with."""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch


def guarded(run: Callable[[], None]) -> int:
    """The exit status of a command: 0, 2 for bad input (one sentence on stderr), 130 where interrupted."""
    try:
        run()
    except (ValueError, ArithmeticError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    return 0
