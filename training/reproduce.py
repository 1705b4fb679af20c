"""Reproduce a checkpoint from folders of recordings, stage by stage.

    python -m training.reproduce --clips DIR [DIR ...] --out DIR

Each stage writes into its own folder of ``--out`` and is skipped once it is done. A killed stage resumes from its last
saved state. ``--stages`` runs some stages only, so that independent ones can share a machine.

The file is long because it lists every stage of the run in order; the work is done in the modules that it imports.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from dear.checkpoint import save_checkpoint
from dear.codec import CODECS, VOCODERS, build_vocoder
from dear.codec.base import Vocoder
from dear.codec.conv import ConvConfig, ConvVAE
from dear.codec.detail import DetailConfig, DetailVAE
from dear.codec.istft import ISTFTConfig, ISTFTVocoder
from dear.codec.lapped import LappedConfig, LappedVAE
from dear.codec.mel import MelSpectrogram
from dear.codec.patch import PatchVAE
from dear.conditioning import TextEncoder, build_text_encoder
from dear.config import Config, as_kind
from dear.evaluation.compositions import BEGINNING, END, score_compositions
from dear.evaluation.generation import generate_each, generate_for_scoring
from dear.evaluation.score import Reference, score_waveforms
from dear.judge.classifier import SoundClassifier, load_classifier
from dear.model import MaskedModel
from dear.pipeline import AudioDEAR
from training.cache.tokens import Cache, weights_digest
from training.classifier import train_classifier
from training.data.captions import compositions, prompts
from training.data.clips import clips_digest
from training.data.corpus import Corpus, load_corpus
from training.data.scenes import SceneSource
from training.data.vocabulary import embedded, known_sounds
from training.distill import DistilledModelling
from training.engine.codec import RefineCodec, TrainVocoder, fit_patch_vae, leading, linear_codec, linear_part
from training.engine.detail import TrainDetail
from training.engine.directions import fit_directions
from training.engine.modules import load_module, save_module
from training.engine.recipe import RECIPES, DistillConfig, Recipe, ScenesConfig, load_recipe
from training.engine.scenes import scene_caches, scene_source
from training.engine.schedule import TrainConfig
from training.engine.trainer import train
from training.report.card import model_card
from training.report.measure import (
    choose_codec,
    choose_sampling,
    compare_codecs,
    embed_held_out,
    embed_training,
    recordings,
    sampling_grid,
)
from training.runtime.commands import guarded
from training.runtime.progress import Progress
from training.runtime.stamps import once
from training.teacher import MaskedModelling

VALIDATION = 20  # held-out recordings on which the training of the codec is validated


def required(config: TrainConfig | None) -> TrainConfig:
    assert config is not None  # the recipe is checked for the stages that it has
    return config


class Reproduction:
    """The stages of one run. Each returns its result, which is computed once and kept on disk."""

    def __init__(self, recipe: Recipe, clips: Sequence[Path], out: Path, workers: int):
        self.recipe = recipe
        self.folders = clips
        self.out = out
        self.workers = workers
        self.mel = MelSpectrogram(recipe.model.mel)

    @cached_property
    def corpus(self) -> Corpus:
        """The recordings of the recipe's sounds."""
        corpus = load_corpus(self.folders, self.recipe.scenes.held_out, self.recipe.scenes.sounds)
        if self.recipe.classifier is None:
            corpus = replace(corpus, nameable=frozenset(load_classifier(mel=self.recipe.model.mel).labels))
        return corpus

    def scenes(self, held_out: bool) -> SceneSource:
        """Scenes of the training folds, or of the held-out folds with held-back wordings."""
        return scene_source(self.recipe.scenes, self.corpus, self.recipe.model, held_out)

    @cached_property
    def codec_scenes(self) -> SceneSource:
        """Training scenes of the codecs, always in the default mixture of kinds."""
        settings = replace(self.recipe.scenes, kinds=ScenesConfig().kinds)
        return scene_source(settings, self.corpus, self.recipe.model, held_out=False)

    @torch.no_grad()
    def mels(self, scenes: SceneSource, count: int) -> torch.Tensor:
        """Log-mels [count, F, M] of the first scenes."""
        found = []
        with closing(Progress("mels", count, unit="scene")) as progress:
            for i in range(count):
                found.append(self.mel(torch.from_numpy(scenes.scene(i).waveform)[None]))
                progress.update()
        return torch.cat(found)

    @cached_property
    def codec(self) -> PatchVAE:
        """The linear codec, fitted in closed form to the training folds."""
        path, scenes = self.out / "codec" / "patch.safetensors", self.codec_scenes
        model, count = self.recipe.model, self.recipe.scenes.fit
        vae = linear_part(model.vae)
        stamp = {"scenes": scenes.settings, "count": count, "vae": vae, "mel": model.mel}
        saved = once(
            path.with_suffix(".json"),
            stamp,
            lambda: save_module(fit_patch_vae(self.mels(scenes, count), vae, model.mel), path),
        )
        return load_module(linear_codec(vae, model.mel), path, saved)

    @property
    def refined(self) -> bool:
        """Whether a trained refinement of the linear codec is compared with it."""
        return isinstance(self.recipe.model.vae, ConvConfig)

    @property
    def detailed(self) -> bool:
        """Whether a trained decoder draws the last channels of the linear codec."""
        return isinstance(self.recipe.model.vae, DetailConfig)

    @cached_property
    def encoder(self) -> PatchVAE:
        """The codec that encodes scenes for the models. It does not depend on trained weights."""
        model = self.recipe.model
        if not self.detailed:
            return self.codec
        assert isinstance(self.codec, LappedVAE)
        return leading(self.codec, as_kind(model.vae, LappedConfig), model.mel)

    @cached_property
    def text_encoder(self) -> TextEncoder:
        return build_text_encoder(self.recipe.model.conditioning)

    @cached_property
    def caches(self) -> tuple[Cache, Cache]:
        """Tokens and conditioning of the training scenes, and of the held-out ones."""
        recipe = self.recipe
        return scene_caches(
            self.out, recipe.scenes, self.corpus, recipe.model, self.encoder, self.text_encoder, self.workers
        )

    @cached_property
    def teacher(self) -> MaskedModel:
        """The diffusion teacher with its averaged weights."""
        model, config = self.model("teacher"), self.recipe.teacher
        task = MaskedModelling(model, *self.caches, self.recipe.masking, config.batch_size, config.seed)
        return train(task, config, self.out / "teacher", "teacher")

    @cached_property
    def student(self) -> MaskedModel:
        """The one-step student with its averaged weights."""
        recipe = self.recipe
        return self.distilled("student", recipe.distill, recipe.finish_distill or recipe.distill)

    @cached_property
    def plain(self) -> MaskedModel:
        """A student that starts from the teacher and trains without distillation, for comparison."""
        return self.distilled("student-plain", DistillConfig(weight=0.0), DistillConfig(weight=0.0))

    def distilled(self, name: str, distill: DistillConfig, finish: DistillConfig) -> MaskedModel:
        """A student after all phases of its training, which differ in how tokens are hidden and in lambda."""
        recipe, student, teacher = self.recipe, self.model("student"), self.teacher
        fit_directions(student, self.encoder)
        phases = {name: (recipe.student, recipe.masking, distill)}
        if recipe.finish is not None:
            phases[f"{name}-finish"] = recipe.finish, recipe.finish_masking, finish
        for phase, (config, masking, pull) in phases.items():
            task = DistilledModelling(
                student,
                teacher,
                weights_digest(teacher),
                *self.caches,
                masking,
                pull,
                config.batch_size,
                config.seed,
                begun=phase != name,
            )
            student = train(task, config, self.out / phase, phase)
        return student

    def model(self, variant: str) -> MaskedModel:
        """A new model of a variant, whose initial weights depend only on the recipe."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.recipe.scenes.seed)
            return MaskedModel(self.recipe.model, variant)

    @cached_property
    def held_out(self) -> tuple[torch.Tensor, list[str]]:
        """Mels and labels of the held-out recordings."""
        return recordings(self.corpus.recordings(held_out=True), self.mel)

    @cached_property
    def conv(self) -> ConvVAE:
        """The linear codec with a trained refinement behind it."""
        config, settings = required(self.recipe.conv), as_kind(self.recipe.model.vae, ConvConfig)
        codec = ConvVAE.from_linear(self.codec, settings, self.recipe.model.mel)
        task = RefineCodec(
            codec, self.codec_scenes, self.recipe.model.mel, config.batch_size, self.held_out[0][:VALIDATION]
        )
        return train(task, config, self.out / "conv", "conv").cpu()

    @cached_property
    def detail(self) -> DetailVAE:
        """The codec whose decoder draws the channels that tokens leave out."""
        config, settings = required(self.recipe.detail), as_kind(self.recipe.model.vae, DetailConfig)
        assert isinstance(self.codec, LappedVAE)
        codec = DetailVAE.from_linear(self.codec, settings, self.recipe.model.mel)
        task = TrainDetail(
            codec, self.scenes(held_out=False), self.recipe.model.mel, config.batch_size, self.held_out[0][:VALIDATION]
        )
        return train(task, config, self.out / "detail", "detail").cpu()

    @cached_property
    def istft(self) -> ISTFTVocoder:
        """The one-pass vocoder."""
        config, settings = required(self.recipe.vocoder), as_kind(self.recipe.model.vocoder, ISTFTConfig)
        vocoder = ISTFTVocoder(settings, self.recipe.model.mel)
        task = TrainVocoder(
            vocoder,
            self.codec_scenes,
            self.recipe.model.mel,
            config.batch_size,
            self.held_out[0][:VALIDATION],
        )
        return train(task, config, self.out / "vocoder", "vocoder").cpu()

    @cached_property
    def classifier(self) -> SoundClassifier:
        """The evaluation classifier, trained on the same folds as the generator, or the bundled one."""
        folder, recipe, config = self.out / "classifier", self.recipe, self.recipe.classifier
        if config is None:
            return load_classifier(mel=recipe.model.mel)
        settings = {
            "clips": clips_digest(self.corpus.clips),
            "sounds": list(self.corpus.judged),
            "held_out": dict(recipe.scenes.held_out),
            "scenes": recipe.scenes.classifier,
            "train": config,
            "mel": recipe.model.mel,
        }
        once(
            self.out / "classifier-state" / "measured.json",
            settings,
            lambda: train_classifier(
                self.corpus.clips,
                self.corpus.judged,
                folder,
                self.out / "classifier-state",
                config,
                mel=recipe.model.mel,
                scenes=recipe.scenes.classifier,
            ),
        )
        return load_classifier(folder, recipe.model.mel)

    @cached_property
    def reference(self) -> Reference:
        """The held-out recordings in the features of the classifier."""
        return embed_held_out(
            self.corpus.recordings(held_out=True), self.corpus.recordings(held_out=False), self.classifier
        )

    @cached_property
    def unlearned(self) -> Vocoder:
        """The recipe's vocoder, which needs no training."""
        return build_vocoder(self.recipe.model.vocoder, self.recipe.model.mel)

    @property
    def usual_vae(self) -> PatchVAE:
        """The codec that is published unless the table of codecs prefers its refinement."""
        return self.detail if self.detailed else self.codec

    @property
    def vaes(self) -> dict[str, PatchVAE]:
        """{kind: codec} of those that the table of codecs compares."""
        if self.refined:
            return {"patch": self.usual_vae, "conv": self.conv}
        return {self.recipe.model.vae.kind: self.usual_vae}

    @cached_property
    def codecs(self) -> dict[str, Any]:
        """Table of codecs and vocoders, measured on the held-out recordings."""
        kind = self.recipe.model.vocoder.kind
        learned = {"istft": self.istft} if self.recipe.vocoder else {}
        stamp = {name: weights_digest(part) for name, part in {**self.vaes, **learned}.items()}
        return self.report(
            "codecs",
            stamp | {kind: self.recipe.model.vocoder},
            lambda: compare_codecs(
                self.vaes,
                {kind: self.unlearned, **learned},
                *self.held_out,
                self.classifier,
                self.reference,
            ),
        )

    @cached_property
    def sound(self) -> tuple[PatchVAE, Vocoder]:
        """The codec and the vocoder chosen by the table."""
        vae, vocoder = choose_codec(self.codecs, self.recipe.model.vocoder.kind)
        return self.vaes[vae], self.istft if vocoder == "istft" else self.unlearned

    def sampling(self, variant: str) -> dict[str, Any]:
        """The variant's best guidance scale and temperature on wordings, recordings and seeds of the training."""
        pipeline = self.pipeline(variant, self.recipe.model)
        wordings = {label: prompts(label)[0] for label in self.corpus.judged}

        def measure() -> list[dict[str, Any]]:
            reference = embed_training(self.corpus.recordings(held_out=False), self.classifier)
            return sampling_grid(pipeline, wordings, self.classifier, reference, self.recipe.measure)

        stamp = self.heard(pipeline) | {"measure": self.recipe.measure, "asked": wordings}
        return choose_sampling(self.report(f"sampling-{variant}", stamp, measure))

    @cached_property
    def config(self) -> Config:
        """The published configuration, with the chosen codec, vocoder and sampling."""
        model, (vae, vocoder) = self.recipe.model, choose_codec(self.codecs, self.recipe.model.vocoder.kind)
        return replace(
            model,
            vae=as_kind(model.vae, CODECS[vae].Config),
            vocoder=as_kind(model.vocoder, VOCODERS[vocoder].Config),
            variants={
                name: replace(variant, sampling=replace(variant.sampling, **self.sampling(name)))
                for name, variant in model.variants.items()
            },
        )

    def pipeline(self, name: str, config: Config) -> AudioDEAR:
        """The teacher, the student, or the plain student, with weights rounded as on disk."""
        model = copy.deepcopy(getattr(self, name)).cpu().half().float().eval()
        variant = "teacher" if name == "teacher" else "student"
        return AudioDEAR(config, variant, model, *self.sound, self.text_encoder)

    def scores(self) -> dict[str, Any]:
        """Student, teacher and, where there is one, plain student on held-back wordings and the same seeds."""
        held_back = {label: prompts(label)[1] for label in self.corpus.judged}

        def measure(pipeline: AudioDEAR) -> dict[str, Any]:
            waveforms, labels = generate_for_scoring(pipeline, held_back, self.recipe.measure.scored_clips)
            return score_waveforms(waveforms, labels, self.classifier, self.reference)

        return self.side_by_side("scores", {"measure": self.recipe.measure, "asked": held_back}, measure)

    def composed(self) -> dict[str, Any]:
        """How often "A, then B" is recognised in composed held-out recordings and in sounds of the models."""
        asked, source = compositions(self.corpus.judged, self.recipe.measure.pairs), self.scenes(held_out=True)
        wordings, pairs = [text for text, *_ in asked], [(first, second) for _, first, second in asked]
        stamp = {"asked": asked, "beginning": BEGINNING, "end": END}

        def recorded() -> dict[str, Any]:
            samples = self.mel.config.samples
            scenes = (source.then(pair, index)[:samples] for index, pair in enumerate(pairs))
            return score_compositions(scenes, pairs, self.classifier)

        def measure(pipeline: AudioDEAR) -> dict[str, Any]:
            return score_compositions(generate_each(pipeline, wordings), pairs, self.classifier)

        recordings = self.report("compositions-recordings", stamp | {"scenes": source.settings}, recorded)
        return {"recordings": recordings} | self.side_by_side("compositions", stamp, measure)

    def side_by_side(
        self, report: str, stamp: Mapping[str, Any], measure: Callable[[AudioDEAR], dict[str, Any]]
    ) -> dict[str, Any]:
        """{model: result of ``measure``}. Results are cached for unchanged weights."""
        table = {}
        for name in ("student", "teacher", "plain") if self.recipe.measure.plain else ("student", "teacher"):
            pipeline = self.pipeline(name, self.config)
            table[name] = self.report(
                f"{report}-{name}", self.heard(pipeline) | dict(stamp), partial(measure, pipeline)
            )
        return table

    @cached_property
    def checkpoint(self) -> Path:
        """The published checkpoint with its card."""
        reports = self.codecs, self.scores(), self.composed()
        card = model_card(
            self.config,
            self.recipe,
            *reports,
            self.classifier,
            self.corpus.split(held_out=False),
            self.corpus.sounds(held_out=False),
        )
        models = {"teacher": self.teacher.cpu(), "student": self.student.cpu()}
        vocabulary = embedded(known_sounds(self.corpus.sounds(held_out=False)), self.text_encoder)
        return save_checkpoint(self.out / self.config.name, self.config, models, *self.sound, card, vocabulary)

    def heard(self, pipeline: AudioDEAR) -> dict[str, Any]:
        """The stamp of a report about a pipeline's sounds: its weights and options."""
        return {
            "model": weights_digest(pipeline.model),
            "vae": weights_digest(pipeline.vae),
            "vocoder": weights_digest(pipeline.vocoder),
            "sampling": pipeline.sampling,
        }

    def report(self, name: str, stamp: Mapping[str, Any], measure: Callable[[], Any]) -> Any:
        """The result of ``measure``, cached for the same weights, judge and settings."""
        judge = {"classifier": self.classifier.config.digest, "clips": clips_digest(self.corpus.clips)}
        return once(self.out / "reports" / f"{name}.json", {**stamp, **judge}, measure)


STAGES = {
    "codec": lambda run: run.codec,
    "cache": lambda run: run.caches,
    "teacher": lambda run: run.teacher,
    "student": lambda run: run.student,
    "plain": lambda run: run.plain if run.recipe.measure.plain else None,  # without distillation, for comparison
    "conv": lambda run: run.conv if run.refined else None,
    "detail": lambda run: run.detail if run.detailed else None,
    "vocoder": lambda run: run.istft if run.recipe.vocoder else None,
    "classifier": lambda run: run.classifier,
    "codecs": lambda run: run.codecs,
    "sampling": lambda run: [run.sampling(variant) for variant in run.recipe.model.variants],
    "scores": lambda run: run.scores(),
    "compositions": lambda run: run.composed(),
    "checkpoint": lambda run: run.checkpoint,
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.reproduce", description=__doc__)
    parser.add_argument(
        "--clips", type=Path, nargs="+", required=True, help="folders of recordings with clips.csv or meta/esc50.csv"
    )
    parser.add_argument("--out", type=Path, required=True, help="where the stages write")
    parser.add_argument("--recipe", type=Path, default=RECIPES / "mini.yaml")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES), help="all by default")
    parser.add_argument("--workers", type=int, default=2, help="processes that encode scenes")
    options = parser.parse_args(arguments)

    def run() -> None:
        reproduction = Reproduction(load_recipe(options.recipe, Recipe), options.clips, options.out, options.workers)
        for stage in options.stages:
            print(f"stage {stage}", file=sys.stderr, flush=True)
            STAGES[stage](reproduction)

    return guarded(run)


if __name__ == "__main__":
    sys.exit(main())
