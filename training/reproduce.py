"""From a folder of recordings to a checkpoint, every stage in order.

    python -m training.reproduce --clips DIR --out DIR

Each stage writes into its own folder of ``--out`` and is skipped once it is done; a stage that was killed goes on
from its last saved state. ``--stages`` runs some of them, so that independent ones can share a machine.
"""

from __future__ import annotations

import argparse
import sys
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import nn

from dear.conditioning import build_text_encoder
from dear.mel import MelSpectrogram
from dear.model import MaskedModel
from dear.vae import PatchVAE
from training import cache
from training.cache import Cache, weights_digest
from training.codec import fit_patch_vae
from training.data import Clip, SceneSource, read_clips
from training.distill import DistilledModelling
from training.recipe import DistillConfig, Recipe, load_recipe
from training.teacher import MaskedModelling
from training.trainer import train, write_atomically

RECIPES = Path(__file__).parent / "configs"
FIT_SCENES = 512  # training scenes whose mels the linear codec is fitted to


class Reproduction:
    """The stages of one run, each a method that returns what it made and does nothing twice."""

    def __init__(self, recipe: Recipe, clips: Path, out: Path, workers: int):
        self.recipe = recipe
        self.clips_folder = clips
        self.out = out
        self.workers = workers
        self.mel = MelSpectrogram(recipe.model.mel)

    @cached_property
    def clips(self) -> list[Clip]:
        return read_clips(self.clips_folder)

    def scenes(self, held_out: bool, kinds: tuple[float, float, float] | None = None) -> SceneSource:
        """Scenes of the training folds, or of the held-out one with held-back wordings."""
        settings = self.recipe.scenes
        clips = [clip for clip in self.clips if (clip.fold == settings.held_out_fold) == held_out]
        return SceneSource(
            clips,
            self.recipe.model.mel,
            seed=settings.seed + held_out,
            held_back_captions=held_out,
            kinds=kinds or settings.kinds,
        )

    @torch.no_grad()
    def mels(self, scenes: SceneSource, count: int) -> torch.Tensor:
        """Log-mels [count, F, M] of the first scenes."""
        return torch.cat([self.mel(torch.from_numpy(scenes.scene(i).waveform)[None]) for i in range(count)])

    @cached_property
    def codec(self) -> PatchVAE:
        """The linear patch codec, fitted in closed form to the training folds."""
        path = self.out / "codec" / "patch.safetensors"
        if not path.exists():
            fitted = fit_patch_vae(
                self.mels(self.scenes(held_out=False), FIT_SCENES), self.recipe.model.vae, self.recipe.model.mel
            )
            save_module(fitted, path)
        return load_module(PatchVAE(self.recipe.model.vae, self.recipe.model.mel), path)

    def cache(self, held_out: bool) -> Cache:
        """Tokens and conditioning of the training scenes, or of the held-out ones."""
        settings = self.recipe.scenes
        return cache.build(
            self.out / ("cache-held-out" if held_out else "cache"),
            self.scenes(held_out),
            settings.validation if held_out else settings.count,
            self.codec,
            self.mel,
            build_text_encoder(self.recipe.model.conditioning),
            {"fold": settings.held_out_fold, "seed": settings.seed},
            workers=self.workers,
        )

    @cached_property
    def teacher(self) -> nn.Module:
        """The diffusion teacher with its averaged weights."""
        model, config = self.model("teacher"), self.recipe.teacher
        task = MaskedModelling(
            model, self.cache(False), self.cache(True), self.recipe.masking, config.batch_size, config.seed
        )
        return train(task, config, self.out / "teacher", "teacher")

    def student(self, weight: float | None = None) -> nn.Module:
        """The one-step student with its averaged weights; ``weight`` replaces the recipe's lambda."""
        distill = self.recipe.distill
        if weight is not None:
            distill = DistillConfig(weight, distill.channels)
        name = "student" if weight is None else f"student-lambda-{weight:g}"
        config, teacher = self.recipe.student, self.teacher
        task = DistilledModelling(
            self.model("student"),
            teacher,
            weights_digest(teacher),
            self.cache(False),
            self.cache(True),
            self.recipe.masking,
            distill,
            config.batch_size,
            config.seed,
        )
        return train(task, config, self.out / name, name)

    def model(self, variant: str) -> MaskedModel:
        """A new model of a variant; its initial weights depend on the recipe alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.recipe.scenes.seed)
            return MaskedModel(self.recipe.model, variant)


def save_module(module: nn.Module, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = save({name: value.contiguous() for name, value in module.state_dict().items()})
    write_atomically(path, lambda file: file.write(data))


def load_module(module: nn.Module, path: Path) -> nn.Module:
    module.load_state_dict(load_file(path))
    return module.eval().requires_grad_(False)


STAGES = {
    "codec": lambda run: run.codec,
    "cache": lambda run: (run.cache(False), run.cache(True)),
    "teacher": lambda run: run.teacher,
    "student": lambda run: run.student(),
    "plain": lambda run: run.student(weight=0.0),
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.reproduce", description=__doc__)
    parser.add_argument("--clips", type=Path, required=True, help="recordings with clips.csv or meta/esc50.csv")
    parser.add_argument("--out", type=Path, required=True, help="where the stages write")
    parser.add_argument("--recipe", type=Path, default=RECIPES / "mini.yaml")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES), help="all by default")
    parser.add_argument("--workers", type=int, default=2, help="processes that encode scenes")
    options = parser.parse_args(arguments)
    try:
        run = Reproduction(load_recipe(options.recipe), options.clips, options.out, options.workers)
        for stage in options.stages:
            print(f"stage {stage}", file=sys.stderr, flush=True)
            STAGES[stage](run)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
