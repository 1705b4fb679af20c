"""The contract that every head keeps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from dear.config import ConfigError, HeadConfig

Draw = Callable[[], Tensor]


class Head(nn.Module, ABC):
    """A distribution over one token [D] given its context [C], for N tokens at once.

    Rows are independent of each other: the model gathers the rows that matter and reduces the losses.
    """

    # What guidance may mix, the head's default first: its predictions, at each step, or the representations (contexts)
    # that it is given, once.
    guidance_levels: ClassVar[tuple[str, ...]] = ("prediction", "representation")

    def __init__(self, config: HeadConfig, token_dim: int, context_dim: int):
        """config: the head's own hyper-parameters; token_dim: D; context_dim: C.

        Raises ConfigError for a guidance level that this head cannot honour.
        """
        super().__init__()
        if config.guidance_level not in ("default", *self.guidance_levels):
            raise ConfigError(
                f"head.guidance_level must be one of default, {', '.join(self.guidance_levels)} "
                f"for the {config.kind} head, got {config.guidance_level!r}"
            )
        self.config = config
        self.guidance_level = self.guidance_levels[0] if config.guidance_level == "default" else config.guidance_level
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

    def guide(
        self,
        context: Tensor,
        null_context: Tensor | None,
        cfg_scale: float,
        forward: Callable[..., Tensor] | None = None,
    ) -> Callable[..., Tensor]:
        """``forward`` without its last argument, the context: inputs [N, ...] -> prediction [N, D], under guidance.

        Both levels mix ``s conditional + (1 - s) unconditional`` (equation 9, Appendix F).
        forward: in place of the head's own, for contexts that went through an affine layer beforehand, which mixing
            leaves as it is.
        """
        forward = self if forward is None else forward
        if null_context is None or cfg_scale == 1:
            return lambda *inputs: forward(*inputs, context)
        if self.guidance_level == "representation":
            mixed = cfg_scale * context + (1 - cfg_scale) * null_context
            return lambda *inputs: forward(*inputs, mixed)
        contexts = torch.cat((context, null_context))

        def predict(*inputs: Tensor) -> Tensor:
            conditional, unconditional = forward(*(torch.cat((x, x)) for x in inputs), contexts).chunk(2)
            return cfg_scale * conditional + (1 - cfg_scale) * unconditional

        return predict
