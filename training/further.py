"""Train one variant of a checkpoint further, on scenes of recordings.

    python -m training.further --clips DIR [DIR ...] --out DIR [--start CHECKPOINT] [--recipe FILE]

CHECKPOINT is a folder, or owner/name on the Hub; the bundled model by default. Its codec and its text encoder stay as
they are. ``--out`` receives the caches, the training state and, in ``checkpoint``, all variants: the one that was
trained, and the others with the same sound as before. A later call resumes from the last saved state.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dear.checkpoint import fingerprint, load_card, load_codec, load_config, load_model, resolve, save_checkpoint
from dear.conditioning import build_text_encoder
from dear.config import Config, ConfigError
from dear.model import MaskedModel
from dear.vocabulary import KnownSound, Vocabulary, load_vocabulary
from training.cache.tokens import weights_digest
from training.data.corpus import load_corpus
from training.data.vocabulary import embedded, known_sounds
from training.engine.directions import fit_directions
from training.engine.provenance import command_line
from training.engine.recipe import RECIPES, FurtherRecipe, load_recipe
from training.engine.scenes import scene_caches
from training.engine.trainer import train
from training.report.card import further_section
from training.runtime.commands import guarded
from training.teacher import MaskedModelling


class FurtherModelling(MaskedModelling):
    """Masked modelling of a model that starts from trained weights, which a resumed run must share."""

    @property
    def settings(self) -> dict[str, Any]:
        return super().settings | {"start": self.start}

    def __init__(self, model: MaskedModel, *arguments: Any):
        super().__init__(model, *arguments)
        self.start = weights_digest(model)


def grown(config: Config, variant: str, weights: Mapping[str, Tensor]) -> MaskedModel:
    """A model of ``variant`` with the weights of one that has fewer parameters.

    Columns that a matrix gains are zero, since a head's further inputs follow the context. Parameters that ``weights``
    lacks keep their initial values, which depend on the configuration alone.
    Raises ConfigError naming a weight that the model has no place for.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MaskedModel(config, variant)
    own = model.state_dict()
    for name, value in weights.items():
        place = own.get(name)
        wider = place is not None and place.ndim == 2 and len(place) == len(value) and place.shape[1] > value.shape[1]
        if place is None or not (place.shape == value.shape or wider):
            wanted = "nothing" if place is None else list(place.shape)
            raise ConfigError(
                f"the recipe's settings must keep the weights of the checkpoint, but {name} of its {variant} is "
                f"{list(value.shape)}, and {wanted} with them"
            )
        if wider:
            place.zero_()
            place = place[:, : value.shape[1]]
        place.copy_(value)
    return model


@torch.no_grad()
def blended(model: MaskedModel, start: Mapping[str, Tensor], share: float) -> None:
    """Set the parameters of ``model`` to ``share`` of their values and 1 - ``share`` of those in ``start``."""
    for name, value in model.named_parameters():
        value.lerp_(start[name], 1 - share)


def joined(known: Vocabulary | None, new: Vocabulary) -> Vocabulary:
    """The sounds of both; ``new`` decides where a sound is in both."""
    families: dict[str, dict[str, KnownSound]] = {}
    for vocabulary in (known, new) if known else (new,):
        for family, sounds in vocabulary.families.items():
            kept = {name: sound for name, sound in sounds.items() if vocabulary is new or name not in new.sounds}
            families.setdefault(family, {}).update(kept)
    return Vocabulary((known or new).threshold, {family: sounds for family, sounds in families.items() if sounds})


def further(options: argparse.Namespace, command: str) -> Path:
    """Train as the options say. Returns the folder of the new checkpoint."""
    recipe = load_recipe(options.recipe, FurtherRecipe)
    start = load_config(resolve(options.start, variants=()))
    config = recipe.changed(start)
    folder = resolve(options.start, variants=tuple(start.variants))
    corpus = load_corpus(options.clips, recipe.scenes.held_out, recipe.scenes.sounds)
    models = {name: grown(config, name, load_model(folder, start, name).state_dict()) for name in start.variants}
    vae, vocoder = load_codec(folder, start)
    text_encoder = build_text_encoder(config.conditioning)
    caches = scene_caches(options.out, recipe.scenes, corpus, config, vae, text_encoder, options.workers)
    fit_directions(models[recipe.variant], vae)
    settings, variant = recipe.train, recipe.variant
    task = FurtherModelling(models[variant], *caches, recipe.masking, settings.batch_size, settings.seed)
    before = {name: value.clone() for name, value in models[variant].state_dict().items()}
    models[variant] = train(task, settings, options.out / variant, variant).cpu()
    blended(models[variant], before, recipe.blend)

    heard, sounds = corpus.split(held_out=False), corpus.sounds(held_out=False)
    section = further_section(recipe, fingerprint(folder), command, heard, sounds)
    card = "\n".join(filter(None, (load_card(folder), section)))
    vocabulary = embedded(joined(load_vocabulary(folder), known_sounds(sounds)), text_encoder)
    return save_checkpoint(options.out / "checkpoint", config, models, vae, vocoder, card, vocabulary)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.further", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--clips", type=Path, nargs="+", required=True, help="folders of recordings with clips.csv or meta/esc50.csv"
    )
    parser.add_argument("--out", type=Path, required=True, help="caches, states, and the new checkpoint")
    parser.add_argument("--start", help="the checkpoint to start from; the bundled one by default")
    parser.add_argument("--recipe", type=Path, default=RECIPES / "further.yaml")
    parser.add_argument("--workers", type=int, default=2, help="processes that encode scenes")
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parser.parse_args(arguments)

    def run() -> None:
        print(further(options, command_line(parser.prog, arguments, 1)))

    return guarded(run)


if __name__ == "__main__":
    sys.exit(main())
