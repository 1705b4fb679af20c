"""What a block of the transformer attends to: keys, values and neighbours, of all tokens, of some, or cached."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dear.layers import LocalMixing


@dataclass(frozen=True)
class Prefix:
    """Keys and values of the conditioning, per block [B, H, T, C / H], and its mask [B, T].

    padded: whether any of the mask may be False.
    """

    blocks: tuple[tuple[Tensor, Tensor], ...]
    mask: Tensor
    padded: bool = True

    def first(self, count: int) -> Prefix:
        """A view of the first ``count`` items."""
        blocks = tuple((keys[:count], values[:count]) for keys, values in self.blocks)
        return Prefix(blocks, self.mask[:count], self.padded)


def take(x: Tensor, index: Tensor | slice) -> Tensor:
    """x [B, P, K], index [B, W] of tokens, or [W] or a slice of W of them for all items -> [B, W, K]."""
    if isinstance(index, slice) or index.dim() == 1:
        return x[:, index]
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[2]))


@dataclass(frozen=True)
class FullKV:
    """Keys, values and neighbours of a block where all L tokens are computed, in order of position."""

    prefix: tuple[Tensor, Tensor]
    shown: Tensor  # [B, L] bool: what neighbours may see

    def mix(self, mixing: LocalMixing, x: Tensor) -> Tensor:
        return mixing(x, self.shown)

    def join(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        return torch.cat((self.prefix[0], keys), dim=2), torch.cat((self.prefix[1], values), dim=2)


@dataclass(frozen=True)
class SparseKV(FullKV):
    """The same where P tokens are computed, all known ones among them; ``shown`` is [B, P]."""

    positions: Tensor  # [B, P] of the computed tokens
    length: int  # L

    def mix(self, mixing: LocalMixing, x: Tensor) -> Tensor:
        taps, (batch, _, width) = mixing.weight.shape[0], x.shape
        seen = torch.where(self.shown[..., None], x, 0)
        own = (self.positions + taps // 2)[..., None].expand_as(x)
        # A position that is computed twice is shown once at most, and zeros add nothing.
        rows = x.new_zeros(batch, self.length + taps - 1, width).scatter_add(1, own, seen)
        return mixing.combine(x, [take(rows, self.positions + tap) for tap in range(taps)])


@dataclass(frozen=True)
class KVCache:
    """Keys and values of one generation of B items, per block, and the inputs of local mixing; written in place.

    keys, values: [B, H, T + L, C / H], of the prefix and then of audio tokens in decoding order. inputs: those of local
    mixing by position, [B, L + taps - 1, C], zeros where hidden and beyond the ends. mask: [B, T], of the prefix.
    """

    mask: Tensor
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    inputs: tuple[Tensor, ...]

    def first(self, count: int) -> KVCache:
        """A view of the first ``count`` items."""
        parts = ((part[:count] for part in getattr(self, name)) for name in ("keys", "values", "inputs"))
        return KVCache(self.mask[:count], *map(tuple, parts))

    def begin(self, prefix: Prefix) -> None:
        """Start a new generation with ``prefix``, of which no audio token is known."""
        self.mask.copy_(prefix.mask)
        filled = prefix.mask.shape[1]
        for whole, parts in ((self.keys, 0), (self.values, 1)):
            for each, pair in zip(whole, prefix.blocks, strict=True):
                each[:, :, :filled] = pair[parts]
                each[:, :, filled:] = 0
        for rows in self.inputs:
            rows.zero_()


@dataclass(frozen=True)
class CachedKV:
    """Keys, values and neighbours of a block where the tokens at some places of the decoding order are computed."""

    keys: Tensor  # [B, H, K, C / H], as far as any of them sees
    values: Tensor
    inputs: Tensor | None
    places: Tensor | slice  # of the P computed tokens in ``keys`` and ``values``
    known: Tensor  # [P, 1] bool, of the computed tokens
    stored: Tensor  # [B * P] rows of ``inputs``, items one after the other, of the computed tokens
    seen: Tensor  # [B * P * taps] rows that the computed tokens see

    def mix(self, mixing: LocalMixing, x: Tensor) -> Tensor:
        assert self.inputs is not None  # a block that mixes has them
        rows = self.inputs.view(-1, x.shape[2])
        rows.index_copy_(0, self.stored, torch.where(self.known, x, 0).flatten(0, 1))
        seen = rows.index_select(0, self.seen).unflatten(0, (*x.shape[:2], -1))
        return mixing.combine(x, seen.unbind(2))

    def join(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        self.keys[:, :, self.places] = keys
        self.values[:, :, self.places] = values
        return self.keys, self.values
