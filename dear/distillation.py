"""Representation distillation: the student's contexts are pulled towards a frozen teacher's (Section 3.3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dear.conditioning import Conditioning
from dear.model import MaskedModel

REDUCTIONS = ("mean", "sum")


def representation_loss(student: Tensor, teacher: Tensor, channels: str = "mean") -> Tensor:
    """Equation (4) on contexts [B, P, C] -> scalar: mean over items and positions (all L in the paper).

    channels: "mean" reads the paper's prose (MSE), "sum" its formula (squared norm). Raises ValueError otherwise.
    """
    if channels not in REDUCTIONS:
        raise ValueError(f"channels must be one of {', '.join(REDUCTIONS)}, got {channels!r}")
    squared = (student.float() - teacher.float()).square()
    return squared.mean() if channels == "mean" else squared.sum(dim=-1).mean()


@dataclass(frozen=True, eq=False)
class Distillation:
    """Equation (5): the student's own loss plus ``weight`` (lambda) times the representation loss.

    Teacher and student see the same tokens and the same mask. The conditions of the same items are dropped, and each
    model uses its own null vector. The loss compares the tensors that the heads receive. The student may have any head.
    The teacher is frozen.
    """

    student: MaskedModel
    teacher: MaskedModel
    weight: float
    channels: str = "mean"  # or sum; see :func:`representation_loss`

    def __post_init__(self) -> None:
        if not self.weight >= 0:
            raise ValueError(f"weight must be a number from 0 on, got {self.weight!r}")
        self.teacher.eval().requires_grad_(False)

    def __call__(
        self,
        tokens: Tensor,
        conditioning: Conditioning,
        drop: Tensor,
        mask: Tensor,
        generator: torch.Generator,
        wanted: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """tokens [B, L, D], drop [B], mask [B, L] (True: hidden) -> scalars ``loss``, ``head``, ``representation``.

        wanted: [B, W] hidden positions, to which the score and the comparison are restricted.
        """
        context = self.student.context(tokens, ~mask, self.student.null(conditioning, drop), wanted)
        null_context = self.student.null_context(tokens, ~mask, conditioning, wanted)
        head = self.student.head_loss(tokens, context, mask, generator, null_context, wanted).mean()
        if self.weight == 0:
            return {"loss": head, "head": head.detach()}
        with torch.no_grad():
            goal = self.teacher.context(tokens, ~mask, self.teacher.null(conditioning, drop), wanted)
        representation = representation_loss(context, goal, self.channels)
        return {
            "loss": head + self.weight * representation,
            "head": head.detach(),
            "representation": representation.detach(),
        }


def student_from_teacher(teacher: MaskedModel, student: MaskedModel) -> None:
    """Copy backbone and null condition of the teacher into the student. The student's head is not changed (Section
    3.3).
    """
    student.backbone.load_state_dict(teacher.backbone.state_dict())
    student.null.load_state_dict(teacher.null.state_dict())
