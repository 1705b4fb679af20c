"""Training of the one-step student under its teacher (Section 3.3).

    python -m training.distill --config training/configs/base-student.yaml --teacher TEACHER --data CACHE --out DIR
    accelerate launch --num_processes 8 -m training.distill ...

TEACHER is a checkpoint (a folder, or owner/name on the Hub), or the ``--out`` or ``state.pt`` of its training run.
A later call with the same ``--out`` resumes from the last saved state.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dear.checkpoint import load_config, load_model, resolve
from dear.conditioning import Conditioning
from dear.config import BackboneConfig, Config, ConfigError, HeadConfig, from_dict
from dear.distillation import Distillation, student_from_teacher
from dear.kinds import KINDS
from dear.layers import shapes_alone
from dear.model import MaskedModel
from training.cache.tokens import weights_digest
from training.engine.recipe import DistillConfig, MaskingConfig, ModelRecipe, load_recipe
from training.engine.stage import Stage, TokenCache, command, dry_run, parse
from training.engine.state import StateError, read_state
from training.runtime.commands import guarded
from training.runtime.stamps import difference, plain
from training.teacher import MaskedModelling


class DistilledModelling(MaskedModelling):
    """Masked modelling of a student that starts from the teacher's backbone and is pulled towards its contexts.

    With ``freeze`` only the head is trained ("freeze" of Table 2).
    """

    def __init__(
        self,
        student: MaskedModel,
        teacher: MaskedModel,
        teacher_digest: str,
        cache: TokenCache,
        held_out: TokenCache | None,
        masking: MaskingConfig,
        distill: DistillConfig,
        batch_size: int,
        seed: int,
        begun: bool = False,
    ):
        """teacher_digest: identifies the teacher's weights, so that a run never resumes under another one.
        begun: the student was trained under this teacher before, and starts from its own weights."""
        super().__init__(student, cache, held_out, masking, batch_size, seed)
        self.start = {"student": weights_digest(student)} if begun else {}
        if not begun:
            student_from_teacher(teacher, student)
        self.distillation = Distillation(student, teacher, distill.weight, distill.channels)
        self.teacher_digest = teacher_digest
        self.freeze = distill.freeze
        if self.freeze:
            student.backbone.requires_grad_(False)
            student.null.requires_grad_(False)

    @property
    def settings(self) -> dict[str, Any]:
        settings = super().settings | {
            "lambda": self.distillation.weight,
            "channels": self.distillation.channels,
            "teacher": self.teacher_digest,
            **self.start,
        }
        return settings | {"freeze": True} if self.freeze else settings

    def compile(self) -> None:
        super().compile()
        self.distillation.teacher.compile_blocks()

    def objective(
        self,
        tokens: Tensor,
        conditioning: Conditioning,
        drop: Tensor,
        mask: Tensor,
        generator: torch.Generator,
        wanted: Tensor | None,
    ) -> dict[str, Tensor]:
        self.distillation.teacher.to(tokens.device)
        return self.distillation(tokens, conditioning, drop, mask, generator, wanted)


def load_teacher(source: str, student: Config) -> MaskedModel:
    """The teacher for a student of this configuration: from a checkpoint, or the averaged weights of a training state.

    Raises ConfigError naming the difference where its backbone is not the student's; CheckpointError or StateError
    where ``source`` holds no teacher.
    """
    path = Path(source)
    if path.is_dir() and not (path / "config.json").exists():
        path = path / "state.pt"
    teacher = _from_state(path, student) if path.suffix == ".pt" else _from_checkpoint(source)
    shapes = [
        plain({"backbone": c.backbone, "length": c.length, "token_dim": c.vae.token_dim, "E": c.conditioning.dim})
        for c in (teacher.config, student)
    ]
    if clause := difference(*shapes):
        raise ConfigError(f"--teacher {source} must have the student's backbone and shapes: {clause}")
    return teacher


def _from_checkpoint(source: str) -> MaskedModel:
    config = load_config(resolve(source, variants=()))
    variant = "teacher" if "teacher" in config.variants else config.default_variant
    return load_model(resolve(source, variants=(variant,)), config, variant)


def _from_state(path: Path, student: Config) -> MaskedModel:
    try:
        description, state = read_state(path)
        settings = description["settings"]
        backbone, head = (
            from_dict(BackboneConfig, settings["backbone"]),
            from_dict(HeadConfig, settings["head"], kinds=KINDS),
        )
        variant = replace(next(iter(student.variants.values())), head=head)
        config = replace(student, backbone=backbone, variants={"teacher": variant})
        with shapes_alone():
            model = MaskedModel(config, "teacher")
        model.load_state_dict(state["model"] | state["ema"], assign=True)
    except Exception as error:  # torch.load answers a broken file with errors of many kinds
        raise StateError(f"{path} is not the training state of a teacher ({error})") from error
    return model.eval()


def main(arguments: list[str] | None = None) -> int:
    parser = command("distill", __doc__)
    parser.add_argument("--teacher", help="a checkpoint, or the folder or state of a training run")
    options = parse(parser, arguments, ("teacher", "data", "out"))

    def run() -> None:
        recipe = load_recipe(options.config, ModelRecipe)
        distill = recipe.distill or DistillConfig()
        recipe = replace(recipe, distill=distill)
        if options.dry_run:
            dry_run(recipe, options)
            return
        stage, config = Stage(recipe, options), recipe.train
        teacher = load_teacher(options.teacher, recipe.model)
        cache, held_out = stage.caches()
        task = DistilledModelling(
            stage.new_model(),
            teacher,
            weights_digest(teacher),
            cache,
            held_out,
            recipe.masking,
            distill,
            config.batch_size,
            config.seed,
        )
        stage.train(task, "student")

    return guarded(run)


if __name__ == "__main__":
    sys.exit(main())
