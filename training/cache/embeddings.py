"""Parts of a prompt's conditioning, for the comparison of text embeddings (Table 6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from dear.conditioning import Conditioning, TextEncoder
from dear.config import ConditioningConfig
from training.cache.tokens import Cache

EMBEDDINGS = ("all", "words", "pooled")


def part_of(conditioning: Conditioning, embeddings: str) -> Conditioning:
    """Part of a conditioning: ``all`` of it, its ``words`` without the pooled vector, or only the last real token, the
    ``pooled`` vector.

    Raises ValueError for another part.
    """
    if embeddings not in EMBEDDINGS:
        raise ValueError(f"embeddings must be one of {', '.join(EMBEDDINGS)}, got {embeddings!r}")
    if embeddings == "all":
        return conditioning
    tokens, mask = conditioning.tokens, conditioning.mask
    last = torch.arange(mask.shape[1], device=mask.device) == mask.sum(1, keepdim=True) - 1
    if embeddings == "words":
        return Conditioning(tokens * ~last[..., None], mask & ~last)
    return Conditioning(tokens[last][:, None], mask.new_ones(len(mask), 1), padded=False)


class PartialCache:
    """A cache that gives a part of its conditioning."""

    def __init__(self, cache: Cache, embeddings: str):
        self.cache = cache
        self.embeddings = embeddings
        self.stamp: dict[str, Any] = cache.stamp | {"embeddings": embeddings}

    def __len__(self) -> int:
        return len(self.cache)

    def indices(self, step: int, batch_size: int, seed: int) -> np.ndarray:
        return self.cache.indices(step, batch_size, seed)

    def batch(self, indices: Sequence[int] | np.ndarray) -> dict[str, Tensor]:
        batch = self.cache.batch(indices)
        chosen = part_of(Conditioning(batch["conditioning"], batch["mask"]), self.embeddings)
        return batch | {"conditioning": chosen.tokens, "mask": chosen.mask}


class PartialEncoder(TextEncoder):
    """A text encoder that gives a part of its conditioning."""

    title = "a part of another encoder"

    def __init__(self, encoder: TextEncoder, embeddings: str):
        self.encoder = encoder
        self.embeddings = embeddings
        self.dim, self.digest = encoder.dim, f"{encoder.digest}-{embeddings}"

    @classmethod
    def build(cls, config: ConditioningConfig, device: torch.device | str, dtype: torch.dtype, audio: bool) -> Self:
        raise NotImplementedError("a part of another encoder has no configuration")

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        return part_of(self.encoder.encode(prompts), self.embeddings)
