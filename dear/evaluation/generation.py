"""Generation of clips for a judge: held-back wordings, one candidate each, in a reproducible order."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm import tqdm

from dear.bundled import bundled
from dear.evaluation.judge import Judge, JudgeError
from dear.evaluation.judge.answers import load_answers, nameable
from dear.evaluation.judge.features import SoundsError
from dear.judge.classifier import SoundClassifier, check_mel

if TYPE_CHECKING:
    from dear.pipeline import AudioDEAR

PROMPTS = bundled("eval_prompts.json")  # {label: [wordings that are never used in training]}


def generate_for_scoring(
    pipeline: AudioDEAR,
    prompts: Mapping[str, Sequence[str]],
    clips_per_class: int = 20,
    batch: int = 10,
    seed: int = 0,
    **options: Any,
) -> tuple[Tensor, list[str]]:
    """Generate clips to score -> waveforms [N,S] and the label of each, N = labels x ``clips_per_class``.

    Each label uses its wordings in turn. Clip i has seed ``seed + i`` for any batch size, so models and settings are
    compared on the same noise. ``options`` are those of ``AudioDEAR.generate``.
    """
    if not prompts or not all(prompts.values()):
        raise SoundsError("prompts must hold at least one label with at least one prompt each")
    for name, value in (("clips_per_class", clips_per_class), ("batch", batch)):
        if value < 1:
            raise SoundsError(f"{name} must be at least 1, got {value!r}")
    items = [(label, texts[i % len(texts)]) for label, texts in prompts.items() for i in range(clips_per_class)]
    waveforms = generate_each(pipeline, [text for _, text in items], batch, seed, **options)
    return waveforms, [label for label, _ in items]


def generate_each(
    pipeline: AudioDEAR, prompts: Sequence[str], batch: int = 10, seed: int = 0, **options: Any
) -> Tensor:
    """One clip for each prompt -> waveforms [N,S]; clip i has seed ``seed + i`` for any batch size."""
    sounds = pipeline.generate_many(prompts, batch=batch, seed=seed, **options)
    bar = tqdm(sounds, desc="generating", total=len(prompts), unit="sound", disable=None)
    return torch.cat([out.sound for out in bar])


def check_fits(judge: Judge, pipeline: AudioDEAR) -> None:
    """Raises ValueError where the judge does not take the pipeline's sounds."""
    if isinstance(judge, SoundClassifier):
        check_mel(judge.config.mel, pipeline.config.mel)
    elif judge.sample_rate != pipeline.sample_rate:
        raise JudgeError(f"judge must hear sounds at {pipeline.sample_rate} Hz, got one of {judge.sample_rate} Hz")


def load_prompts(path: str | Path = PROMPTS) -> dict[str, list[str]]:
    """Held-back wordings, ``{label: [prompt, ...]}``. Raises :class:`SoundsError` naming the file."""
    try:
        prompts = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SoundsError(f"{path} can't be read as prompts: {error}") from None
    if not isinstance(prompts, dict) or not all(
        isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts) for texts in prompts.values()
    ):
        raise SoundsError(f"{path} must map each label to a list of at least one prompt")
    return prompts


def named_prompts(*judges: Judge, path: str | Path = PROMPTS) -> dict[str, list[str]]:
    """Those of :func:`load_prompts` whose label all judges can name."""
    prompts = load_prompts(path)
    for judge in judges:
        named = nameable(judge, list(prompts), {} if judge.exclusive else load_answers())
        prompts = {label: prompts[label] for label in named}
    return prompts
