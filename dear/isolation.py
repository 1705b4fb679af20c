"""Keep what a caller has set for its thread in torch away from the computations of the package."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


@contextmanager
def isolated(device: torch.device) -> Iterator[None]:
    """Within the block: no gradients, no autocast, no inference mode, and new tensors are on the CPU by default.

    device: what the block computes on. The default dtype holds for the whole process, so it can't be changed for one
    call: the package names the dtype of what it creates.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        for kind in sorted({"cpu", device.type}):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield
