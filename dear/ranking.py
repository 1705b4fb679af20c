"""Best of several candidates: sounds of one prompt, ranked by how surely a judge hears what the prompt names.

The judge knows classes and no sentences, so a prompt is ranked by the known sounds that are nearest to its parts
(:mod:`dear.vocabulary`). A figure that is measured with the same judge says nothing about candidates that it chose.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from dear.judge import Judge, load_classifier
from dear.output import Output
from dear.vocabulary import Nearest

LEAST = 1e-6  # probability below which a judge is as sure as it can be


@cache
def default_judge() -> Judge:
    """The bundled classifier, which hears log-mels and names ten classes."""
    return load_classifier()


def labels(judge: Judge, prompt: str, nearest: Nearest, sample_rate: int) -> list[str]:
    """The judge's names of the sounds in ``prompt``, each once.

    nearest: of the prompt. sample_rate: of the sounds, in Hz. Raises ValueError where the judge cannot rank them.
    """
    if judge.sample_rate != sample_rate:
        raise ValueError(
            f"candidates must be 1 for sounds of {sample_rate} Hz: {judge.name} hears those of {judge.sample_rate} Hz"
        )
    found = dict.fromkeys(part.wordings[0].label for part in nearest.parts if part.known)
    if not nearest.known or not set(found) <= set(judge.names):
        known = ", ".join(name.replace("_", " ") for name in judge.names[:20])
        raise ValueError(f"candidates must be 1 for {prompt!r:.80}: {judge.name} can rank only {known}")
    return list(found)


def scores(judge: Judge, waveform: Tensor, names: Sequence[str]) -> Tensor:
    """waveform [B, S] -> [B]: the mean over ``names`` of the logarithm of the judge's probability."""
    samples = judge.samples
    repeated = waveform.repeat(1, -(-samples // waveform.shape[1]))[:, :samples]
    positions = [judge.names.index(name) for name in names]
    return judge.hear(repeated).probabilities[:, positions].clamp_min(LEAST).log().mean(dim=1)


def keep_best(out: Output, candidates: int, judge: Judge, names: Sequence[Sequence[str]]) -> Output:
    """The best of each ``candidates`` items in a row of a finished output. Their own seeds make the same sounds alone.

    names: what the judge listens for, for each row of candidates.
    """
    groups = out.sound.reshape(-1, candidates, out.sound.shape[1])
    ranked = [scores(judge, group, asked) for group, asked in zip(groups, names, strict=True)]
    kept = [row * candidates + int(found.argmax()) for row, found in enumerate(ranked)]
    chosen = torch.tensor(kept)
    seeds = [out.seeds[i] for i in kept]
    return dataclasses.replace(
        out,
        waveform=out.sound[chosen],
        mel=out.mel[chosen],
        tokens=out.tokens[chosen],
        latents=out.latents[chosen],
        order=out.order[chosen],
        seed=seeds[0],
        seeds=seeds,
        prompts=[out.prompts[i] for i in kept],
        nearest=[out.nearest[i] for i in kept],
        settings=out.settings | {"candidates": candidates, "judge": f"{judge.name} {judge.digest}"},
    )
