"""Scenes of recordings and their caches, as a recipe describes them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dear.codec.base import Codec
from dear.codec.mel import MelSpectrogram
from dear.conditioning import TextEncoder
from dear.config import Config
from training.cache import tokens
from training.cache.tokens import Cache, Recaptioned
from training.data.captions import wordings_digest
from training.data.corpus import Corpus
from training.data.scenes import SceneSource
from training.engine.recipe import ScenesConfig


def scene_source(settings: ScenesConfig, corpus: Corpus, model: Config, held_out: bool) -> SceneSource:
    """Scenes of the training folds, or of the held-out folds with held-back wordings."""
    return SceneSource(
        corpus.split(held_out),
        model.mel,
        seed=settings.seed + held_out,
        held_back_captions=held_out,
        kinds=settings.kinds,
        often=settings.often,
        beat=model.vae.patch_frames * model.mel.hop_length if settings.in_time else 0,
        sounds=corpus.sounds(held_out),
    )


def scene_caches(
    folder: Path,
    settings: ScenesConfig,
    corpus: Corpus,
    model: Config,
    vae: Codec,
    text_encoder: TextEncoder,
    workers: int,
) -> tuple[Cache, Cache]:
    """Tokens and conditioning of the training scenes in ``folder / "cache"``, and of the held-out ones beside it.

    Both are built on first use, see :func:`training.cache.tokens.build`. ``vae`` is on the CPU.
    """
    mel = MelSpectrogram(model.mel)
    # A wording that is shown once, as the held-out ones are, needs no further ones.
    counts = {"cache": settings, "cache-held-out": replace(settings, count=settings.validation, wordings=0)}
    caches = []
    for name, wanted in counts.items():
        scenes = scene_source(settings, corpus, model, held_out=name != "cache")
        stamps = scenes.settings | {"wordings": wordings_digest(scenes.labels)}
        caches.append(
            tokens.build(
                folder / name, scenes, wanted.count, vae, mel, text_encoder, stamps, workers, wordings=wanted.wordings
            )
        )
    training, held_out = caches
    return Recaptioned(training.folder) if settings.recaption else training, held_out
