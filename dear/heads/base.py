"""The contract that every head keeps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from dear.config import HeadConfig

Draw = Callable[[], Tensor]


class Head(nn.Module, ABC):
    """A distribution over one token [D] given its context [C], for N tokens at once.

    Rows are independent of each other: the model gathers the rows that matter and reduces the losses.
    """

    def __init__(self, config: HeadConfig, token_dim: int, context_dim: int):
        """config: the head's own hyper-parameters; token_dim: D; context_dim: C."""
        super().__init__()
        self.config = config
        self.token_dim = token_dim
        self.context_dim = context_dim

    @abstractmethod
    def loss(self, target: Tensor, context: Tensor, generator: torch.Generator) -> Tensor:
        """target [N, D], context [N, C] -> training loss [N]; all noise comes from ``generator``."""

    @abstractmethod
    def sample(
        self,
        context: Tensor,
        null_context: Tensor | None,
        *,
        cfg_scale: float,
        steps: int,
        temperature: float,
        draw: Draw,
    ) -> Tensor:
        """Draw one token per row: context [N, C] -> [N, D].

        null_context: [N, C], the context without the condition; None for no guidance.
        cfg_scale: guidance scale; 1 is none, whatever ``null_context`` holds.
        draw: each call gives the next standard-normal [N, D].
        Raises ValueError for ``steps`` that the head cannot honour.
        """

    def check_steps(self, steps: int) -> None:
        """Raises ValueError saying which ``steps`` this head samples with: any from 1, unless a head says otherwise."""
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps!r}")
