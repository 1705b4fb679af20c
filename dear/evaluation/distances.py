"""Distances between generated sounds and recordings in the features of one embedder: the metrics of Table 1."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import softmax
from tqdm import tqdm

from dear.evaluation.captions import Recording
from dear.evaluation.judge import Embedder
from dear.evaluation.judge.embedder import TextEmbedder
from dear.evaluation.judge.metrics import (
    EPSILON,
    frechet_distance,
    inception_scores,
    kernel_distance,
    kl_of_logits,
    mean_similarity,
)
from dear.evaluation.judge.reading import PLAIN, Reading, read_waveform
from dear.files import sha256, write_atomically

SHUFFLE = 2020  # seed of the order in which audioldm_eval splits sounds for the inception score
READINGS = ("audioldm_eval", "plain")


@dataclass(frozen=True)
class Features:
    """The output of an embedder for N sounds."""

    rows: np.ndarray  # [R, K] float32; R is N, or more where a sound gives several rows
    logits: np.ndarray | None  # [N, C] float32


def embed_recordings(
    recordings: Sequence[Recording], embedder: Embedder, reading: Reading, cache: Path | None = None
) -> Features:
    """Features of sound files, one at a time.

    cache: a folder in which they are kept by the contents of the files, the embedder's weights and the reading.
    Raises AudioError and :class:`SoundsError` naming the file.
    """
    path = None
    if cache is not None:
        files = [[sha256(each.path), each.start, each.duration] for each in recordings]
        key = json.dumps([embedder.name, embedder.digest, asdict(reading), files])
        path = cache / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.npz"
        if path.is_file():
            with np.load(path) as kept:
                return Features(kept["rows"], kept.get("logits"))
    rows, logits = [], []
    for each in tqdm(recordings, desc=embedder.name, unit="sound", disable=None):
        found = embedder.embed(read_waveform(each.path, embedder.sample_rate, reading, each.start, each.duration))
        rows.append(found.features.numpy())
        if found.logits is not None:
            logits.append(found.logits.numpy())
    features = Features(np.concatenate(rows), np.stack(logits) if logits else None)
    if path is not None:
        arrays = {"rows": features.rows} | ({} if features.logits is None else {"logits": features.logits})
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda file: np.savez(file, **arrays))
    return features


def measure(
    sounds: Sequence[Recording],
    references: Sequence[Recording],
    captions: Sequence[str],
    embedder: Embedder,
    reading: str = "audioldm_eval",
    splits: int = 10,
    cache: Path | None = None,
) -> dict[str, Any]:
    """Every metric that the embedder supports, as plain data.

    Sound i was generated for caption i, which was written for reference i. ``frechet`` and ``kad`` compare the rows of
    both sets; with VGGish the former is FAD, with a row for each 0.96 s. ``kl_softmax``, ``kl_sigmoid`` and ``is``
    exist if the embedder classifies, and ``similarity`` to the captions if it embeds texts. ``real`` holds the last two
    for the references.

    reading: one of READINGS. The first reads files for the embedder as audioldm_eval does.
    splits: of the inception score. If there are several, sounds are shuffled as in audioldm_eval.
    """
    how = embedder.reading if reading == "audioldm_eval" else PLAIN
    generated, real = (embed_recordings(each, embedder, how, cache) for each in (sounds, references))
    result: dict[str, Any] = {
        "name": embedder.name,
        "digest": embedder.digest,
        "reading": asdict(how),
        "rows": [len(generated.rows), len(real.rows)],
        "frechet": frechet_distance(generated.rows, real.rows),
        "kad": kernel_distance(real.rows, generated.rows),
        "real": {},
    }
    if generated.logits is not None and real.logits is not None:
        result["kl_softmax"] = kl_of_logits(real.logits, generated.logits)
        result["kl_sigmoid"] = kl_of_logits(real.logits, generated.logits, "sigmoid")
        result["epsilon"] = EPSILON
        result["is"] = _inception(generated.logits, splits)
        result["real"]["is"] = _inception(real.logits, splits)
    if isinstance(embedder, TextEmbedder):
        texts = np.concatenate([embedder.embed_text([caption]).numpy() for caption in captions])
        result["similarity"] = mean_similarity(texts, generated.rows)
        result["real"]["similarity"] = mean_similarity(texts, real.rows)
    return result


def _inception(logits: np.ndarray, splits: int) -> dict[str, float]:
    if splits > 1:
        logits = logits[np.random.RandomState(SHUFFLE).permutation(len(logits))]
    scores = inception_scores(softmax(logits.astype(np.float64), axis=1), splits)
    return {"splits": splits, "mean": float(scores.mean()), "deviation": float(scores.std())}
