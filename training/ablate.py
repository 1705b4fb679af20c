"""Tables 2 to 8 of the paper, in miniature, with the paper's figures beside them.

    python -m training.ablate --table 2 3 4 5 6 7 8 --clips DIR --out DIR
    python -m training.ablate --table 2 3 4 5 6 7 8 --estimate

Rows are data (``training/configs/tables.yaml``). Runs that rows share are trained once, on the cache and codec of a
reproduction. One judge scores all rows, on the same held-back wordings and seeds. A killed run resumes when it is
started again. ``--estimate`` measures a few steps and sounds, and prints how many minutes of one core the tables take.
``table-N.md``, ``table-N.json`` and ``table-N.png`` are written to ``--out``.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from dear.codec.patch import PatchConfig
from dear.conditioning import Conditioning
from dear.config import Config, ConfigError, SamplingConfig, VariantConfig, as_kind
from dear.evaluation.bench.curves import save_figure
from dear.evaluation.generation import check_fits, generate_for_scoring
from dear.evaluation.judge import DEFAULT, JUDGE_HELP, Judge, load_judge
from dear.evaluation.score import Reference, score_waveforms
from dear.files import write_atomically, write_json
from dear.model import MaskedModel
from dear.pipeline import AudioDEAR
from dear.sampling import generate
from training.cache.embeddings import PartialCache, PartialEncoder
from training.cache.tokens import weights_digest
from training.data.captions import prompts
from training.distill import DistilledModelling
from training.engine.ablation import TEACHER, AblationRecipe, Budget, Row
from training.engine.recipe import RECIPES, Recipe, load_recipe
from training.engine.stage import TokenCache
from training.engine.trainer import train
from training.report.measure import embed_held_out
from training.report.tables import markdown, picture
from training.reproduce import Reproduction
from training.runtime.commands import guarded
from training.runtime.stamps import once
from training.teacher import MaskedModelling


class Ablation:
    """The runs and rows of a recipe, within one budget."""

    def __init__(self, recipe: AblationRecipe, budget: Budget, reproduction: Reproduction, judge: Judge):
        """Raises ValueError where a row's head cannot be built or cannot honour its options."""
        self.recipe, self.budget, self.base, self.judge = recipe, budget, reproduction, judge
        for number, table in recipe.tables.items():
            for name, row in table.rows.items():
                with torch.device("meta"):
                    head = MaskedModel(self.config(row)).head
                try:
                    head.check_steps(row.steps)
                except ValueError as error:
                    raise ConfigError(f"tables.{number}.rows.{name}: {error}") from None

    def config(self, row: Row) -> Config:
        """The reproduction's model with a row's head and sampling as its one variant."""
        model, run = self.base.recipe.model, self.recipe.runs[row.run]
        usual = model.variants["student" if run.student is not None else "teacher"].sampling
        sampling = SamplingConfig(
            iterations=usual.iterations,
            cfg_scale=usual.cfg_scale if row.cfg_scale is None else row.cfg_scale,
            temperature=usual.temperature if row.temperature is None else row.temperature,
            steps=row.steps,
        )
        head = replace(run.head, guidance_level=row.guidance_level)
        vae = as_kind(model.vae, PatchConfig) if self.base.refined else model.vae
        return replace(model, vae=vae, variants={row.run: VariantConfig(head, sampling)})

    def task(self, name: str) -> MaskedModelling:
        """The training task of a run, before its first step."""
        run, cache = self.recipe.runs[name], self.base.caches[0]
        source: TokenCache = cache if run.embeddings == "all" else PartialCache(cache, run.embeddings)
        model = self.new_model(name)
        if run.student is None:
            config = self.budget.teacher
            return MaskedModelling(model, source, None, self.recipe.masking, config.batch_size, config.seed)
        teacher, config = self.trained(TEACHER), self.budget.student
        digest, settings = weights_digest(teacher), (self.recipe.masking, run.student, config.batch_size, config.seed)
        return DistilledModelling(model, teacher, digest, source, None, *settings)

    def new_model(self, name: str) -> MaskedModel:
        """The initial weights depend only on the run's head, so all backbones start alike."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return MaskedModel(self.config(Row(name)))

    def trained(self, name: str) -> MaskedModel:
        """The averaged weights of a run, trained now or before."""
        config = self.budget.teacher if self.recipe.runs[name].student is None else self.budget.student
        return train(self.task(name), config, self.base.out / "runs" / name, name)

    def pipeline(self, row: Row) -> AudioDEAR:
        """The pipeline of a row, with weights rounded as on disk."""
        config, run = self.config(row), self.recipe.runs[row.run]
        model = MaskedModel(config)
        model.load_state_dict(self.trained(row.run).state_dict())
        encoder = self.base.text_encoder
        encoder = encoder if run.embeddings == "all" else PartialEncoder(encoder, run.embeddings)
        vocoder = self.base.unlearned
        return AudioDEAR(config, row.run, model.half().float().eval(), self.base.usual_vae, vocoder, encoder)

    @cached_property
    def reference(self) -> Reference:
        """The held-out recordings in the features of the judge."""
        corpus = self.base.corpus
        return embed_held_out(corpus.recordings(held_out=True), corpus.recordings(held_out=False), self.judge)

    def measured(self, number: str) -> dict[str, dict[str, Any]]:
        """The judge's scores of each row of a table. Rows that differ only in their names are measured once."""
        asked = {label: prompts(label)[1] for label in self.base.corpus.judged}
        found = {}
        for name, row in self.recipe.tables[number].rows.items():
            pipeline = self.pipeline(row)
            stamp = {
                "model": weights_digest(pipeline.model),
                "sound": [weights_digest(part) for part in (self.base.usual_vae, self.base.unlearned)],
                "config": self.config(row),
                "embeddings": self.recipe.runs[row.run].embeddings,
                "clips": self.budget.clips,
                "asked": asked,
                "judge": self.judge.digest,
            }
            parts = [row.run, row.steps, row.cfg_scale, row.temperature, row.guidance_level]
            path = self.base.out / "rows" / f"{'-'.join(map(str, parts))}.json"
            found[name] = once(path, stamp, partial(self.score, pipeline, asked))
        return found

    def score(self, pipeline: AudioDEAR, asked: Mapping[str, Any]) -> dict[str, Any]:
        check_fits(self.judge, pipeline)
        waveforms, labels = generate_for_scoring(pipeline, asked, self.budget.clips)
        score = score_waveforms(waveforms, labels, self.judge, self.reference)
        return {key: score[key] for key in ("clips", "fd", "kl", "is", "accuracy", "top5")} | {
            "judge": f"{self.judge.name} {self.judge.digest}"
        }

    def table(self, number: str) -> str:
        """Train and measure what a table needs, write it, and return it."""
        table, found, out = self.recipe.tables[number], self.measured(number), self.base.out
        text = markdown(number, table, found)
        write_json(out / f"table-{number}.json", found)
        write_atomically(out / f"table-{number}.md", lambda file: file.write(text.encode()))
        save_figure(picture(number, table, found), out / f"table-{number}.png")
        return text


class Estimate:
    """Minutes of one core, from a few measured steps and sounds on noise of the right shapes."""

    STEPS, SOUNDS = 2, 1

    def __init__(self, ablation: Ablation, labels: int):
        """labels: the classes for which sounds are generated."""
        self.ablation, self.labels = ablation, labels
        self.seconds: dict[Any, float] = {}

    def training(self, name: str) -> float:
        """Seconds of a run. A student also runs its teacher's backbone if lambda is above 0."""
        ablation, run = self.ablation, self.ablation.recipe.runs[name]
        config = ablation.budget.teacher if run.student is None else ablation.budget.student
        frozen = run.student is not None and run.student.freeze
        taught = run.student is not None and run.student.weight > 0
        key = "step", run.head, frozen, taught, config.batch_size, config.precision
        if key not in self.seconds:
            self.seconds[key] = self._step(name)
        return self.seconds[key] * config.steps

    def _step(self, name: str) -> float:
        ablation, run = self.ablation, self.ablation.recipe.runs[name]
        config = ablation.budget.teacher if run.student is None else ablation.budget.student
        noise, model = Noise(ablation.config(Row(name))), ablation.new_model(name)
        settings = noise, None, ablation.recipe.masking
        if run.student is None:
            task = MaskedModelling(model, *settings, config.batch_size, config.seed)
        else:
            teacher = ablation.new_model(TEACHER)
            task = DistilledModelling(model, teacher, "", *settings, run.student, config.batch_size, config.seed)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)

        def step(number: int) -> None:
            with torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bf16"):
                task.loss(task.batch(number), torch.Generator().manual_seed(number))["loss"].backward()
            optimizer.step()
            optimizer.zero_grad()

        step(0)
        began = time.process_time()
        for number in range(self.STEPS):
            step(number + 1)
        return (time.process_time() - began) / self.STEPS

    def sounds(self, row: Row) -> float:
        """Seconds of generating and rendering a row's sounds, without the judge."""
        config = self.ablation.config(row)
        head = self.ablation.recipe.runs[row.run].head
        guided = config.variants[row.run].sampling.cfg_scale != 1
        key = "sound", head, row.steps, guided, row.guidance_level
        if key not in self.seconds:
            model, vocoder = MaskedModel(config).eval(), self.ablation.base.unlearned
            tokens = Noise(config).batch(range(self.SOUNDS))
            conditioning = Conditioning(tokens["conditioning"], tokens["mask"])
            sampling = config.variants[row.run].sampling
            began = time.process_time()
            with torch.no_grad():
                list(generate(model, conditioning, range(self.SOUNDS), sampling))
                vocoder(torch.zeros(self.SOUNDS, config.mel.frames, config.mel.n_mels))
            self.seconds[key] = (time.process_time() - began) / self.SOUNDS
        return self.seconds[key] * self.ablation.budget.clips * self.labels

    def table(self, numbers: list[str]) -> str:
        """Minutes of each table by itself, and of all tables in turn, which share runs and rows."""
        recipe = self.ablation.recipe
        lines = ["| table | runs | training, min | sounds, min | alone, min | after the tables above, min |"]
        lines.append("|---|---|---|---|---|---|")
        trained: set[str] = set()
        measured: set[Row] = set()
        total = 0.0
        for number in numbers:
            runs, rows = recipe.needed(number), [replace(row, paper=()) for row in recipe.tables[number].rows.values()]
            training, sounds = sum(map(self.training, runs)), sum(map(self.sounds, dict.fromkeys(rows)))
            more = sum(self.training(name) for name in runs if name not in trained)
            more += sum(self.sounds(row) for row in dict.fromkeys(rows) if row not in measured)
            trained |= set(runs)
            measured |= set(rows)
            total += more
            minutes = [f"{seconds / 60:.1f}" for seconds in (training, sounds, training + sounds, more)]
            lines.append(f"| {number} | {len(runs)} | {' | '.join(minutes)} |")
        lines.append(f"| all | {len(trained)} | | | | {total / 60:.1f} |")
        return "\n".join(lines)


class Noise:
    """A cache of noise in a model's shapes."""

    stamp: dict[str, Any] = {"made": "of noise"}  # noqa: RUF012 - plain data that nobody changes
    CONDITIONING = 16  # tokens of a typical caption

    def __init__(self, config: Config):
        self.config = config

    def __len__(self) -> int:
        return 1_000_000

    def indices(self, step: int, batch_size: int, seed: int) -> Any:
        return range(step * batch_size, (step + 1) * batch_size)

    def batch(self, indices: Any) -> dict[str, torch.Tensor]:
        generator, count = torch.Generator().manual_seed(0), len(indices)
        shapes = (self.config.length, self.config.vae.token_dim), (self.CONDITIONING, self.config.conditioning.dim)
        tokens, conditioning = (torch.randn(count, *shape, generator=generator) for shape in shapes)
        mask = torch.ones(conditioning.shape[:2], dtype=torch.bool)
        return {"tokens": tokens, "conditioning": conditioning, "mask": mask}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.ablate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", nargs="+", required=True, metavar="N", help="2 to 8")
    parser.add_argument("--clips", type=Path, nargs="+", help="folders of recordings, as in reproduce")
    parser.add_argument("--out", type=Path, help="runs, rows and tables")
    parser.add_argument("--budget", default="miniature", help="one of the recipe's")
    parser.add_argument("--estimate", action="store_true", help="tell how long it would take, and stop")
    parser.add_argument("--tables", type=Path, default=RECIPES / "tables.yaml", help="runs, rows and budgets")
    parser.add_argument("--recipe", type=Path, default=RECIPES / "mini.yaml", help="of the reproduction")
    parser.add_argument("--judge", default=DEFAULT, help=JUDGE_HELP)
    parser.add_argument("--workers", type=int, default=2, help="processes that encode the cache")
    options = parser.parse_args(arguments)
    if not options.estimate and (options.clips is None or options.out is None):
        parser.error("the following arguments are required: --clips, --out")

    def run() -> None:
        recipe, base = load_recipe(options.tables, AblationRecipe), load_recipe(options.recipe, Recipe)
        numbers = list(dict.fromkeys(options.table))
        if unknown := [number for number in numbers if number not in recipe.tables]:
            raise ConfigError(f"--table must be among {', '.join(recipe.tables)}, got {unknown[0]!r}")
        if options.budget not in recipe.budgets:
            raise ConfigError(f"--budget must be one of {', '.join(recipe.budgets)}, got {options.budget!r}")
        budget = recipe.budgets[options.budget]
        base = replace(base, scenes=replace(base.scenes, count=budget.scenes))
        out = (options.out or Path()) / options.budget
        reproduction = Reproduction(base, options.clips or [], out, options.workers)
        ablation = Ablation(recipe, budget, reproduction, load_judge(options.judge))
        if options.estimate:
            torch.set_num_threads(1)
            print(Estimate(ablation, len(base.scenes.sounds)).table(numbers))
            return
        for number in numbers:
            print(ablation.table(number))

    return guarded(run)


if __name__ == "__main__":
    sys.exit(main())
