"""The exponential moving average of the weights of a run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class EMA:
    """Exponential moving average of the trainable parameters, in float32."""

    def __init__(self, module: nn.Module):
        self.parameters = {n: p for n, p in module.named_parameters() if p.requires_grad}
        self.values = {n: p.detach().float().clone() for n, p in self.parameters.items()}

    def update(self, decay: float) -> None:
        current = [p.detach().float() for p in self.parameters.values()]
        get_ema_multi_avg_fn(decay)(list(self.values.values()), current, None)

    @torch.no_grad()
    def load(self, values: Mapping[str, Tensor]) -> None:
        for name, value in self.values.items():
            value.copy_(values[name])

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Context in which the parameters hold the average; afterwards they hold exactly their former values."""
        before = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        try:
            self._assign(self.values)
            yield
        finally:
            self._assign(before)

    @torch.no_grad()
    def _assign(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(values[name])
