"""How the contexts of a generation are computed: over all tokens in each iteration, or with known tokens from a cache.

:mod:`dear.static` adds a third way, in fixed shapes for compilation and CUDA graphs. The generation loop knows only the
protocols.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from dear.attended import KVCache, Prefix
from dear.backbone import Backbone
from dear.conditioning import Conditioning
from dear.joint import JointBackbone, JointPrefix


class DecodingSession(Protocol):
    """Computes the contexts of one generation of B items, or of 2 B under guidance, with conditional items first."""

    def __call__(self, tokens: Tensor, known: Tensor, order: Tensor, first: int, start: int, end: int) -> Tensor:
        """Contexts [B', end - start, C] of the tokens ``start`` to ``end`` in decoding order; those before are known.

        tokens [B', L, D], known [B', L], order [B', L]: of the first B' items.
        first: known tokens before it need not be computed again.
        """

    def close(self) -> None:
        """Release the memory of the generation."""


class Decoding(Protocol):
    """A way to compute the contexts of generations with one backbone."""

    def fit(self, conditioning: Conditioning, longest: int) -> Conditioning:
        """``conditioning`` at the length T at which it is used, at most ``longest`` if it was no longer before."""

    def begin(self, prefix: Any) -> DecodingSession:
        """Begin a generation. prefix: what the backbone's own ``prefix`` returned."""


class FullDecoding:
    """Computes all L tokens in each forward pass, as ``masked_attention`` "full" needs."""

    def __init__(self, backbone: Backbone):
        self.backbone = backbone

    def fit(self, conditioning: Conditioning, longest: int) -> Conditioning:
        return conditioning.trim()

    def begin(self, prefix: Prefix) -> DecodingSession:
        return FullSession(self.backbone, prefix)


class FullSession:
    def __init__(self, backbone: Backbone, prefix: Prefix):
        self.backbone = backbone
        self.prefix = prefix

    def __call__(self, tokens: Tensor, known: Tensor, order: Tensor, first: int, start: int, end: int) -> Tensor:
        return self.backbone(tokens, known, self.prefix.first(len(tokens)), order[:, start:end])

    def close(self) -> None:
        pass


class JointDecoding:
    """Computes all tokens in each forward pass, hidden ones only in the decoder, as ``attention`` "joint" needs."""

    def __init__(self, backbone: JointBackbone):
        self.backbone = backbone

    def fit(self, conditioning: Conditioning, longest: int) -> Conditioning:
        return conditioning.trim()

    def begin(self, prefix: JointPrefix) -> DecodingSession:
        return JointSession(self.backbone, prefix)


class JointSession:
    def __init__(self, backbone: JointBackbone, prefix: JointPrefix):
        self.backbone = backbone
        self.prefix = prefix

    def __call__(self, tokens: Tensor, known: Tensor, order: Tensor, first: int, start: int, end: int) -> Tensor:
        prefix = self.prefix.first(len(tokens))
        return self.backbone(tokens, known, prefix, order[:, start:end], order[:, :start])

    def close(self) -> None:
        pass


class CachedDecoding:
    """Computes only the requested tokens and caches keys and values, as ``masked_attention`` "visible" allows."""

    def __init__(self, backbone: Backbone):
        self.backbone = backbone

    def fit(self, conditioning: Conditioning, longest: int) -> Conditioning:
        return conditioning.trim()

    def begin(self, prefix: Prefix) -> DecodingSession:
        return CachedSession(self.backbone, self.backbone.cache(prefix))


class CachedSession:
    def __init__(self, backbone: Backbone, cache: KVCache):
        self.backbone = backbone
        self.cache = cache

    def __call__(self, tokens: Tensor, known: Tensor, order: Tensor, first: int, start: int, end: int) -> Tensor:
        cache = self.cache.first(len(tokens))
        with torch.inference_mode():  # a pass is hundreds of small operations, which this makes cheaper
            return self.backbone.decode(tokens, order, cache, slice(first, end), start, slice(start - first, None), end)

    def close(self) -> None:
        pass


def default_decoding(backbone: Backbone | JointBackbone) -> Decoding:
    """The exact way that the form of attention allows."""
    if isinstance(backbone, JointBackbone):
        return JointDecoding(backbone)
    return CachedDecoding(backbone) if backbone.config.masked_attention == "visible" else FullDecoding(backbone)
