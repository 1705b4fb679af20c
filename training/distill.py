"""Training of the one-step student under its teacher (Section 3.3)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dear.conditioning import Conditioning
from dear.distillation import Distillation, student_from_teacher
from dear.model import MaskedModel
from training.cache import Cache
from training.recipe import DistillConfig, MaskingConfig
from training.teacher import MaskedModelling


class DistilledModelling(MaskedModelling):
    """Masked modelling of a student that starts from the teacher's backbone and stays near its contexts."""

    def __init__(
        self,
        student: MaskedModel,
        teacher: MaskedModel,
        teacher_digest: str,
        cache: Cache,
        held_out: Cache,
        masking: MaskingConfig,
        distill: DistillConfig,
        batch_size: int,
        seed: int,
    ):
        """teacher_digest: names the teacher's weights, so that a run is never resumed under another one."""
        super().__init__(student, cache, held_out, masking, batch_size, seed)
        student_from_teacher(teacher, student)
        self.distillation = Distillation(student, teacher, distill.weight, distill.channels)
        self.teacher_digest = teacher_digest

    @property
    def settings(self) -> dict[str, Any]:
        return super().settings | {
            "lambda": self.distillation.weight,
            "channels": self.distillation.channels,
            "teacher": self.teacher_digest,
        }

    def objective(
        self, tokens: Tensor, conditioning: Conditioning, drop: Tensor, mask: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        self.distillation.teacher.to(tokens.device)
        return self.distillation(tokens, conditioning, drop, mask, generator)
