"""Table 4 in miniature: every head on the same backbone, cache, budget and seeds.

    python -m training.heads --clips DIR --out DIR

Each head is trained from new weights for the recipe's teacher steps and scored on held-back wordings; guidance and
temperature are chosen for each on wordings of the training. Killed and started again, it goes on.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dear.conditioning import build_text_encoder
from dear.config import Config, SamplingConfig, VariantConfig
from dear.evaluation.score import generate_for_scoring, score_waveforms
from dear.model import MaskedModel
from dear.pipeline import AudioDEAR
from training.cache import weights_digest
from training.captions import prompts
from training.commands import guarded
from training.data import CLASSES
from training.measure import choose_sampling, embed_training, sampling_grid
from training.recipe import load_recipe
from training.reproduce import RECIPES, Reproduction
from training.teacher import MaskedModelling
from training.trainer import train

# Sampling steps for one token: few and many where a head needs many, one where it was made for one.
STEPS = {"energy": (1,), "diffusion": (4, 100), "flow": (4, 100), "meanflow": (1,), "shortcut": (1,)}
TUNING_CLIPS = 3  # a class, for each pair of guidance and temperature
Wordings = Mapping[str, Sequence[str]]  # by label
TIMED = 5  # generations of one sound, of which the median counts


def head_config(model: Config, kind: str, steps: int) -> Config:
    """The recipe's model with one variant: its student's head of another kind."""
    student = model.variants[model.default_variant]
    sampling = SamplingConfig(iterations=student.sampling.iterations, steps=steps)
    return replace(model, variants={kind: VariantConfig(replace(student.head, kind=kind), sampling)})


def train_head(run: Reproduction, kind: str) -> MaskedModel:
    """The averaged weights of a model with this head; the teacher itself where that is its head."""
    settings, config, shape = run.recipe, run.recipe.teacher, head_config(run.recipe.model, kind, 1)
    if shape.variants[kind].head == settings.model.variants["teacher"].head:
        return run.teacher
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.scenes.seed)  # the backbone is drawn first, so all heads start from the same one
        model = MaskedModel(shape, kind)
    task = MaskedModelling(model, *run.caches, settings.masking, config.batch_size, config.seed)
    return train(task, config, run.out / "heads" / kind, kind)


def head_pipeline(run: Reproduction, kind: str, steps: int) -> AudioDEAR:
    """A head, trained now or before, as it makes sound in so many steps."""
    shape, averaged = head_config(run.recipe.model, kind, steps), copy.deepcopy(train_head(run, kind)).cpu().eval()
    return AudioDEAR(shape, kind, averaged, *run.sound, build_text_encoder(shape.conditioning))


def report_head(run: Reproduction, kind: str) -> list[dict[str, Any]]:
    """Train one head, or go on with it, and measure it at each of its numbers of steps, once."""
    known, unseen = ({label: prompts(label)[part] for label in CLASSES} for part in (0, 1))
    stamp = {
        "model": weights_digest(train_head(run, kind)),
        "sound": [weights_digest(part) for part in run.sound],
        "iterations": head_config(run.recipe.model, kind, 1).variants[kind].sampling.iterations,
        "steps": STEPS[kind],
        "measure": run.recipe.measure,
        "tuning_clips": TUNING_CLIPS,
        "asked": [known, unseen],
    }
    return run.report(f"head-{kind}", stamp, lambda: measure_head(run, kind, known, unseen))


def measure_head(run: Reproduction, kind: str, known: Wordings, unseen: Wordings) -> list[dict[str, Any]]:
    """Choose guidance and temperature on ``known`` wordings and score on ``unseen`` ones, by number of steps."""
    settings = run.recipe
    reference = embed_training(run.split(held_out=False), run.classifier)
    rows = []
    for steps in STEPS[kind]:
        pipeline = head_pipeline(run, kind, steps)
        measured = replace(
            settings.measure,
            temperatures={kind: settings.measure.temperatures["student"]},
            tuning_clips=TUNING_CLIPS,
        )
        chosen = choose_sampling(sampling_grid(pipeline, known, run.classifier, reference, measured))
        waveforms, labels = generate_for_scoring(pipeline, unseen, settings.measure.scored_clips, **chosen)
        score = score_waveforms(waveforms, labels, run.classifier, run.reference)
        parameters = sum(parameter.numel() for parameter in pipeline.model.parameters())
        rows.append(
            {"head": kind, "steps": steps, "parameters": parameters, **chosen}
            | {name: score[name] for name in ("accuracy", "fd", "kl", "is")}
        )
    return rows


def time_heads(run: Reproduction, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """``rows`` with the seconds of decoding one sound, all in turn."""
    pipelines = [head_pipeline(run, row["head"], row["steps"]) for row in rows]
    seconds: list[list[float]] = [[] for _ in rows]
    for seed in range(TIMED):
        for pipeline, taken in zip(pipelines, seconds, strict=True):
            taken.append(pipeline.generate("a dog barking", seed=seed).timings["decode"])
    return [row | {"seconds": round(statistics.median(taken), 3)} for row, taken in zip(rows, seconds, strict=True)]


def table(rows: list[Mapping[str, Any]]) -> str:
    """Markdown; ``seconds`` are those of decoding one sound."""
    names = ("head", "steps", "parameters", "cfg_scale", "temperature", "accuracy", "fd", "kl", "is", "seconds")
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    return "\n".join(lines + [f"| {' | '.join(str(row[name]) for name in names)} |" for row in rows])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.heads", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=Path, required=True, help="recordings with clips.csv or meta/esc50.csv")
    parser.add_argument("--out", type=Path, required=True, help="where the stages write")
    parser.add_argument("--recipe", type=Path, default=RECIPES / "heads.yaml")
    parser.add_argument("--heads", nargs="+", choices=STEPS, default=list(STEPS), help="all by default")
    parser.add_argument("--workers", type=int, default=2, help="processes that encode the cache")
    options = parser.parse_args(arguments)

    def run() -> None:
        reproduction = Reproduction(load_recipe(options.recipe), options.clips, options.out, options.workers)
        rows = time_heads(reproduction, [row for kind in options.heads for row in report_head(reproduction, kind)])
        print(table(rows))
        print(json.dumps(rows), file=sys.stderr)

    return guarded(run)


if __name__ == "__main__":
    sys.exit(main())
