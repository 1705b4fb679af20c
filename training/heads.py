"""Table 4 in miniature: every head on the same backbone, cache, budget and seeds.

    python -m training.heads --clips DIR --out DIR

Cache, codec, judge and backbone are those of a reproduction, whose ``--out`` may be shared. Each head is trained from
new weights and scored on held-back wordings; guidance and temperature are chosen for each on wordings of the training.
A killed run resumes when it is started again.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from dear.conditioning import build_text_encoder
from dear.config import Config, ConfigError, HeadConfig, SamplingConfig, VariantConfig
from dear.evaluation.generation import generate_for_scoring
from dear.evaluation.judge import Judge, load_judge
from dear.evaluation.score import Reference, score_waveforms
from dear.layers import shapes_alone
from dear.model import MaskedModel
from dear.pipeline import AudioDEAR
from training.cache.tokens import weights_digest
from training.data.captions import prompts
from training.engine.recipe import RECIPES, MaskingConfig, MeasureConfig, Recipe, load_recipe
from training.engine.schedule import TrainConfig
from training.engine.trainer import train
from training.report.measure import choose_sampling, embed_held_out, embed_training, sampling_grid
from training.reproduce import Reproduction
from training.runtime.commands import guarded
from training.teacher import MaskedModelling

Wordings = Mapping[str, Sequence[str]]  # by label
TIMED = 5  # generations of one sound, of which the median counts


@dataclass(frozen=True)
class Row:
    """One head, trained once and measured at each of its numbers of sampling steps."""

    head: HeadConfig
    masking: MaskingConfig
    steps: tuple[int, ...] = (1,)


@dataclass(frozen=True)
class HeadsRecipe:
    """The rows of the comparison, beside the recipe of the reproduction."""

    train: TrainConfig  # of every row
    measure: MeasureConfig  # its temperatures for "student" apply to every row
    rows: Mapping[str, Row]

    def __post_init__(self) -> None:
        if not self.measure.temperatures.get("student"):
            raise ConfigError("measure.temperatures must name some for student, got none")


class Comparison:
    """The rows of a recipe, on the stages of a reproduction."""

    def __init__(self, recipe: HeadsRecipe, run: Reproduction, judge: Judge | None = None):
        """judge: scores the rows; None for the reproduction's classifier, which also chooses guidance and temperature.

        Raises ValueError where a row's head can't be built or does not take the number of steps."""
        self.recipe = recipe
        self.run = run
        self.outside = judge
        for name, row in recipe.rows.items():
            if not row.steps:
                raise ConfigError(f"rows.{name}.steps must hold at least one number, got none")
            with shapes_alone():
                head = MaskedModel(self.config(name, 1), name).head
            for steps in row.steps:
                head.check_steps(steps)

    @cached_property
    def judge(self) -> Judge:
        return self.run.classifier if self.outside is None else self.outside

    @cached_property
    def reference(self) -> Reference:
        """The held-out recordings in the features of the judge."""
        if self.outside is None:
            return self.run.reference
        corpus = self.run.corpus
        return embed_held_out(corpus.recordings(held_out=True), corpus.recordings(held_out=False), self.outside)

    def config(self, name: str, steps: int) -> Config:
        """The reproduction's model with the row's head as its one variant."""
        model = self.run.recipe.model
        sampling = SamplingConfig(iterations=model.variants[model.default_variant].sampling.iterations, steps=steps)
        return replace(model, variants={name: VariantConfig(self.recipe.rows[name].head, sampling)})

    def trained(self, name: str) -> MaskedModel:
        """The averaged weights of a row's model."""
        shape, config = self.config(name, 1), self.recipe.train
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)  # the backbone is drawn first, so all heads start from the same one
            model = MaskedModel(shape, name)
        masking = self.recipe.rows[name].masking
        task = MaskedModelling(model, *self.run.caches, masking, config.batch_size, config.seed)
        return train(task, config, self.run.out / "heads" / name, name)

    def pipeline(self, name: str, steps: int) -> AudioDEAR:
        """A pipeline of a row's trained head with this number of steps."""
        shape, averaged = self.config(name, steps), copy.deepcopy(self.trained(name)).cpu().eval()
        return AudioDEAR(shape, name, averaged, *self.run.sound, build_text_encoder(shape.conditioning))

    def report(self, name: str) -> list[dict[str, Any]]:
        """Train a row's head and measure it at each of its numbers of steps. Results are cached."""
        known, unseen = ({label: prompts(label)[part] for label in self.run.corpus.judged} for part in (0, 1))
        stamp = {
            "model": weights_digest(self.trained(name)),
            "sound": [weights_digest(part) for part in self.run.sound],
            "iterations": self.config(name, 1).variants[name].sampling.iterations,
            "steps": self.recipe.rows[name].steps,
            "measure": self.recipe.measure,
            "asked": [known, unseen],
            "judge": self.judge.digest,
        }
        return self.run.report(f"head-{name}", stamp, lambda: self.measure(name, known, unseen))

    def measure(self, name: str, known: Wordings, unseen: Wordings) -> list[dict[str, Any]]:
        """Choose guidance and temperature on ``known`` wordings and score on ``unseen`` ones, by number of steps."""
        run, settings = self.run, self.recipe.measure
        reference = embed_training(run.corpus.recordings(held_out=False), run.classifier)
        settings = replace(settings, temperatures={name: settings.temperatures["student"]})
        rows = []
        for steps in self.recipe.rows[name].steps:
            pipeline = self.pipeline(name, steps)
            chosen = choose_sampling(sampling_grid(pipeline, known, run.classifier, reference, settings))
            waveforms, labels = generate_for_scoring(pipeline, unseen, settings.scored_clips, **chosen)
            score = score_waveforms(waveforms, labels, self.judge, self.reference)
            parameters = sum(parameter.numel() for parameter in pipeline.model.parameters())
            rows.append(
                {"row": name, "steps": steps, "parameters": parameters, **chosen}
                | {figure: score[figure] for figure in ("accuracy", "top5", "fd", "kl", "is", "clips")}
                | {"judge": f"{self.judge.name} {self.judge.digest}"}
            )
        return rows

    def timed(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """``rows`` with the seconds of decoding one sound, measured in turn."""
        pipelines = [self.pipeline(row["row"], row["steps"]) for row in rows]
        seconds: list[list[float]] = [[] for _ in rows]
        for seed in range(TIMED):
            for pipeline, taken in zip(pipelines, seconds, strict=True):
                taken.append(pipeline.generate("a dog barking", seed=seed).timings["decode"])
        return [row | {"seconds": round(statistics.median(taken), 3)} for row, taken in zip(rows, seconds, strict=True)]


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown; ``seconds`` are those of decoding one sound."""
    names = ("row", "steps", "parameters", "cfg_scale", "temperature", "accuracy", "top5", "fd", "kl", "is", "seconds")
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    lines += [f"| {' | '.join('' if row[name] is None else str(row[name]) for name in names)} |" for row in rows]
    return "\n".join(lines) + f"\n\n{rows[0]['clips']} clips in each row, one candidate each; judge: {rows[0]['judge']}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.heads", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=Path, nargs="+", required=True, help="folders of recordings, as in reproduce")
    parser.add_argument("--out", type=Path, required=True, help="where the stages write")
    parser.add_argument("--recipe", type=Path, default=RECIPES / "mini.yaml", help="of the reproduction")
    parser.add_argument("--compare", type=Path, default=RECIPES / "heads.yaml", help="the rows, and their training")
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="some of them; all by default")
    parser.add_argument(
        "--judge", metavar="KIND:PATH", help="scores the rows; the reproduction's classifier where absent"
    )
    parser.add_argument("--workers", type=int, default=2, help="processes that encode the cache")
    options = parser.parse_args(arguments)

    def run() -> None:
        recipe = load_recipe(options.compare, HeadsRecipe)
        chosen = options.rows or list(recipe.rows)
        if unknown := [name for name in chosen if name not in recipe.rows]:
            raise ConfigError(f"--rows must be among {', '.join(recipe.rows)}, got {unknown[0]!r}")
        reproduction = Reproduction(load_recipe(options.recipe, Recipe), options.clips, options.out, options.workers)
        comparison = Comparison(recipe, reproduction, None if options.judge is None else load_judge(options.judge))
        rows = comparison.timed([row for name in chosen for row in comparison.report(name)])
        print(table(rows))
        print(json.dumps(rows), file=sys.stderr)

    return guarded(run)


if __name__ == "__main__":
    sys.exit(main())
