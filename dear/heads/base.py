"""The contract that every head keeps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dear.config import MAX_STEPS, ConfigError, HeadConfig

Draw = Callable[[], Tensor]


class Head(nn.Module, ABC):
    """A distribution over one token [D] given its context [C], for N tokens at once.

    Rows are independent of each other: the model gathers the rows that matter and reduces the losses.
    Facts that other rooms need are attributes of the class, so that a new head is one file.
    """

    max_steps: int = MAX_STEPS  # the most sampling steps that this head takes
    # Cost of a training step, in forward passes of the loss: one for the forward and two for the backward pass.
    train_passes: float = 3.0
    Config: ClassVar[type[HeadConfig]]  # its hyper-parameters, under the name that HEADS gives it
    title: ClassVar[str]  # shown on the page and in model cards
    toy_iterations: ClassVar[int] = 4000  # training steps on a toy of ``dear.toy``; fewer where each takes longer
    toy_options: ClassVar[Mapping[str, Any]] = {}  # hyper-parameters for so short a training
    # What guidance may mix, the head's default first: its predictions, at each step, or the representations (contexts)
    # that it is given, once.
    guidance_levels: ClassVar[tuple[str, ...]] = ("prediction", "representation")

    def __init__(self, config: HeadConfig, token_dim: int, context_dim: int):
        """config: the head's own hyper-parameters; token_dim: D; context_dim: C.

        Raises ConfigError for a guidance level that this head does not support.
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

    # Whether ``loss`` also takes ``null_context`` [N, C]: the same contexts without the condition, without gradient.
    wants_null_context: bool = False
    # Averages of the head's own parameters, by name, which a training updates in place; None outside of one, and for
    # heads without ``wants_average``.
    wants_average: bool = False
    average: Mapping[str, Tensor] | None = None

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

        null_context: [N, C], the context without the condition. None: no guidance.
        cfg_scale: guidance scale. 1: no guidance, and ``null_context`` is ignored.
        draw: each call gives the next standard-normal [N, D].
        Raises ValueError for ``steps`` that the head does not support.
        """

    def check_steps(self, steps: int) -> None:
        """Raises ValueError if this head cannot sample in ``steps`` steps."""
        if not 1 <= steps <= self.max_steps:
            allowed = "1" if self.max_steps == 1 else f"from 1 to {self.max_steps}"
            raise ValueError(f"steps must be {allowed} for the {self.config.kind} head, got {steps!r}")

    def loss_flops(self) -> float:
        """Operations of one forward pass of the loss for one token, including all of its draws.

        Only matrix products are counted, with two operations per multiply-add. By default each matrix is applied once.
        """
        return matrix_flops(self)

    def guide(
        self,
        context: Tensor,
        null_context: Tensor | None,
        cfg_scale: float,
        forward: Callable[..., Tensor] | None = None,
        mixed: int | None = None,
    ) -> Callable[..., Tensor]:
        """Guide ``forward`` with its last argument, the context, filled in: inputs [N, ...] -> prediction [N, D].

        Both levels mix ``s conditional + (1 - s) unconditional`` (equation 9, Appendix F).
        forward: replaces the head's own function, for contexts that have already passed an affine layer, which commutes
            with mixing.
        mixed: number of values of a prediction that guidance changes. The others stay conditional, as MAR's variances
            do. None: all.
        """
        forward = self if forward is None else forward
        if null_context is None or cfg_scale == 1:
            return lambda *inputs: forward(*inputs, context)
        if self.guidance_level == "representation":
            blend = cfg_scale * context + (1 - cfg_scale) * null_context
            return lambda *inputs: forward(*inputs, blend)
        contexts = torch.cat((context, null_context))

        def predict(*inputs: Tensor) -> Tensor:
            conditional, unconditional = forward(*(torch.cat((x, x)) for x in inputs), contexts).chunk(2)
            guided = cfg_scale * conditional + (1 - cfg_scale) * unconditional
            if mixed is None:
                return guided
            kept = min(cfg_scale, 1.0)
            between = kept * conditional + (1 - kept) * unconditional
            return torch.cat((guided[:, :mixed], between[:, mixed:]), dim=1)

        return predict


def matrix_flops(module: nn.Module, suffix: str = "") -> float:
    """Operations that apply each matrix of ``module`` to one vector; with ``suffix``, only matrices with such names."""
    return 2.0 * sum(p.numel() for name, p in module.named_parameters() if p.ndim > 1 and name.endswith(suffix))
