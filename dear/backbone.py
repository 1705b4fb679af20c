"""The masked transformer: partially known audio tokens behind a conditioning prefix -> contexts (Section 3.1).

The prefix attends to itself only, so its keys and values are the same in every decoding iteration and are computed once
(:meth:`Backbone.prefix`). Under ``masked_attention="visible"`` a hidden token is seen by nobody but itself, so
:meth:`Backbone.decode` leaves out, exactly, every hidden token whose context is not asked for. It can also keep the
keys and values of known tokens, which is not exact: they change as more becomes known.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dear.config import BackboneConfig
from dear.layers import Attention, FeedForward, LocalMixing, init_weights, rotary_angles, rotate


@dataclass(frozen=True)
class Prefix:
    """What audio tokens need of the conditioning: per block keys and values [B, H, T, C / H], and its mask [B, T]."""

    blocks: tuple[tuple[Tensor, Tensor], ...]
    mask: Tensor

    def first(self, count: int) -> Prefix:
        """That of the first ``count`` items."""
        return Prefix(tuple((keys[:count], values[:count]) for keys, values in self.blocks), self.mask[:count])


def take(x: Tensor, index: Tensor | slice) -> Tensor:
    """x [B, P, K], index [B, W] of tokens, or one slice of W tokens for all items -> [B, W, K]."""
    if isinstance(index, slice):
        return x[:, index]
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[2]))


class Block(nn.Module):
    """Pre-norm transformer block; with ``conv_width``, local mixing among audio tokens comes first."""

    def __init__(self, config: BackboneConfig):
        super().__init__()
        width = config.width
        self.mixing_norm = nn.LayerNorm(width, eps=1e-6) if config.conv_width else None
        self.mixing = LocalMixing(width, config.conv_width) if config.conv_width else None
        self.attention_norm = nn.LayerNorm(width, eps=1e-6)
        self.attention = Attention(width, config.heads)
        self.mlp_norm = nn.LayerNorm(width, eps=1e-6)
        self.mlp = FeedForward(width, int(width * config.mlp_ratio))

    def prefix(self, x: Tensor, visible: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Conditioning states x [B, T, C] -> next states, and the keys and values that audio tokens attend to."""
        queries, keys, values = self.attention.project(self.attention_norm(x))
        x = x + self.attention.attend(queries, keys, values, visible)
        return x + self.mlp(self.mlp_norm(x)), (keys, values)

    def forward(
        self,
        x: Tensor,
        others: All | Kept,
        visible: Tensor,
        angles: tuple[Tensor, Tensor] | None,
        wanted: Tensor | slice | None = None,
    ) -> Tensor:
        """Audio states x [B, P, C] -> next states [B, P, C]; with ``wanted``, of W of them, theirs alone [B, W, C]."""
        if self.mixing is not None:
            x = x + others.mix(self.mixing, self.mixing_norm(x))
        normed = self.attention_norm(x)
        if wanted is None:
            queries, keys, values = self.attention.project(normed)
        else:  # the others serve as keys and values only
            x, visible = take(x, wanted), take(visible[:, 0], wanted)[:, None]
            queries, keys, values = self.attention.project_apart(take(normed, wanted), normed)
        if angles is not None:
            keys = rotate(keys, angles)
            if wanted is not None:
                cos, sin = (take(part[:, 0].expand(len(x), -1, -1), wanted)[:, None] for part in angles)
                angles = cos, sin
            queries = rotate(queries, angles)
        keys, values = others.join(keys, values)
        x = x + self.attention.attend(queries, keys, values, visible)
        return x + self.mlp(self.mlp_norm(x))


@dataclass(frozen=True)
class All:
    """What a block's tokens see beside themselves where all L are computed, in order: a prefix, and what is shown."""

    prefix: tuple[Tensor, Tensor]
    shown: Tensor  # [B, L] bool: what neighbours may see

    def mix(self, mixing: LocalMixing, x: Tensor) -> Tensor:
        return mixing(x, self.shown)

    def join(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        return torch.cat((self.prefix[0], keys), dim=2), torch.cat((self.prefix[1], values), dim=2)


@dataclass(frozen=True)
class Memory:
    """What one generation keeps of its B items, per block; written in place.

    keys, values: [B, H, T + L, C / H], of the prefix and then of audio tokens in decoding order. inputs: those of local
    mixing by position, [B, L + taps - 1, C], zeros where hidden and beyond the ends. mask: [B, T], of the prefix.
    """

    mask: Tensor
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    inputs: tuple[Tensor, ...]

    def first(self, count: int) -> Memory:
        """That of the first ``count`` items, shared."""
        parts = ((part[:count] for part in getattr(self, name)) for name in ("keys", "values", "inputs"))
        return Memory(self.mask[:count], *map(tuple, parts))


@dataclass(frozen=True)
class Kept:
    """What a block's tokens see beside themselves where those of a stretch of the decoding order are computed."""

    keys: Tensor
    values: Tensor
    inputs: Tensor | None
    stretch: slice  # of the computed tokens in ``keys`` and ``values``
    stored: Tensor  # [B * N] rows of ``inputs``, items one after the other, of the N computed tokens that are known
    seen: Tensor  # [B * P * taps] rows that the computed tokens see

    def mix(self, mixing: LocalMixing, x: Tensor) -> Tensor:
        rows = self.inputs.view(-1, x.shape[2])
        rows.index_copy_(0, self.stored, x[:, : len(self.stored) // len(x)].flatten(0, 1))
        seen = rows.index_select(0, self.seen).unflatten(0, (*x.shape[:2], -1))
        return mixing.combine(x, seen.unbind(2))

    def join(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        self.keys[:, :, self.stretch] = keys
        self.values[:, :, self.stretch] = values
        return self.keys[:, :, : self.stretch.stop], self.values[:, :, : self.stretch.stop]


class Backbone(nn.Module):
    """Transformer over L audio tokens of D values behind T conditioning tokens of E values; contexts are C wide."""

    def __init__(self, config: BackboneConfig, length: int, token_dim: int, conditioning_dim: int):
        super().__init__()
        self.config = config
        self.length = length
        self.conditioning_in = nn.Linear(conditioning_dim, config.width)
        self.conditioning_norm = nn.LayerNorm(config.width, eps=1e-6)
        self.token_in = nn.Linear(token_dim, config.width)
        self.mask_token = nn.Parameter(torch.empty(config.width))
        learned = config.positions == "learned"
        self.positions = nn.Parameter(torch.empty(length, config.width)) if learned else None
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, eps=1e-6)
        init_weights(self)
        nn.init.normal_(self.mask_token, std=0.02)
        if learned:
            nn.init.normal_(self.positions, std=0.02)

    def prefix(self, tokens: Tensor, mask: Tensor) -> Prefix:
        """Conditioning tokens [B, T, E] with mask [B, T] (True: real) -> what every iteration shares."""
        x = self.conditioning_norm(self.conditioning_in(tokens))
        visible = mask[:, None, None, :]
        kept = []
        for block in self.blocks:
            x, pair = block.prefix(x, visible)
            kept.append(pair)
        return Prefix(tuple(kept), mask)

    def forward(self, tokens: Tensor, known: Tensor, prefix: Prefix, wanted: Tensor | None = None) -> Tensor:
        """Contexts [B, L, C] of all audio tokens, or [B, W, C] of those at ``wanted`` [B, W].

        tokens: [B, L, D] values; those at hidden positions are ignored. known: [B, L] bool, False where hidden.
        """
        x = torch.where(known[..., None], self.token_in(tokens), self.mask_token)
        if self.positions is not None:
            x = x + self.positions
        batch, count = known.shape
        if self.config.masked_attention == "visible":
            among = known[:, None, :] | torch.eye(count, dtype=torch.bool, device=known.device)
            shown = known
        else:
            among = known.new_ones(batch, count, count)
            shown = torch.ones_like(known)
        visible = torch.cat((prefix.mask[:, None, :].expand(-1, count, -1), among), dim=2)[:, None]
        angles = self._angles(torch.arange(count, device=x.device)[None])
        last = self.blocks[-1]
        for block, pair in zip(self.blocks, prefix.blocks, strict=True):
            x = block(x, All(pair, shown), visible, angles, wanted if block is last else None)
        return self.norm(x)

    def memory(self, prefix: Prefix) -> Memory:
        """For :meth:`decode`, of the items of ``prefix``. Raises ValueError unless attention is "visible"."""
        if self.config.masked_attention == "full":
            raise ValueError('decode needs masked_attention="visible": under "full" every token is attended to')
        batch, heads, filled, dim = prefix.blocks[0][0].shape
        shape = batch, heads, filled + self.length, dim
        pairs = []
        for pair in zip(*prefix.blocks, strict=True):  # the keys of all blocks, then the values
            pairs.append(tuple(part.new_zeros(shape) for part in pair))
            for whole, part in zip(pairs[-1], pair, strict=True):
                whole[:, :, :filled] = part
        taps, like = self.config.conv_width, prefix.blocks[0][0]
        inputs = [like.new_zeros(batch, self.length + taps - 1, self.config.width) for _ in self.blocks] if taps else ()
        return Memory(prefix.mask, *pairs, tuple(inputs))

    def decode(self, tokens: Tensor, order: Tensor, memory: Memory, first: int, start: int, end: int) -> Tensor:
        """Contexts [B, end - start, C] of the tokens ``order[:, start:end]``; those before ``start`` are known.

        tokens: [B, L, D] values; those at hidden positions are ignored. order: [B, L] positions in decoding order.
        first: tokens before it are not computed again: what ``memory`` keeps of them stands. With 0 the result is
            exactly that of :meth:`forward`. What is computed of the known tokens is kept in turn.
        """
        positions = order[:, first:end]
        batch, count = positions.shape
        known = self.token_in(take(tokens, positions[:, : start - first]))
        x = torch.cat((known, self.mask_token.to(known.dtype).expand(batch, end - start, -1)), dim=1)
        if self.positions is not None:
            x = x + self.positions[positions]
        slots = torch.arange(end, device=x.device)
        among = (slots < start) | (slots == slots[first:, None])
        conditioning = memory.mask[:, None, None, :].expand(-1, 1, count, -1)
        visible = torch.cat((conditioning, among.expand(batch, 1, -1, -1)), dim=3)
        # As what attention adds, once for all blocks.
        visible = torch.zeros(visible.shape, dtype=x.dtype, device=x.device).masked_fill(~visible, -torch.inf)
        stored, seen = self._rows(positions, start - first)
        filled = memory.mask.shape[1]
        stretch, angles = slice(filled + first, filled + end), self._angles(positions)
        for i, block in enumerate(self.blocks):
            inputs = memory.inputs[i] if memory.inputs else None
            kept = Kept(memory.keys[i], memory.values[i], inputs, stretch, stored, seen)
            last = i == len(self.blocks) - 1
            x = block(x, kept, visible, angles, slice(start - first, None) if last else None)
        return self.norm(x)

    def _angles(self, positions: Tensor) -> tuple[Tensor, Tensor] | None:
        if self.config.positions != "rotary":
            return None
        return rotary_angles(positions, self.config.width // self.config.heads)

    def _rows(self, positions: Tensor, known: int) -> tuple[Tensor, Tensor]:
        """For local mixing: the rows of the first ``known`` of ``positions`` [B, P], and those that all of them see."""
        taps, device = max(self.config.conv_width, 1), positions.device
        begins = torch.arange(len(positions), device=device)[:, None] * (self.length + taps - 1)
        stored = begins + positions[:, :known] + taps // 2
        return stored.flatten(), ((begins + positions)[..., None] + torch.arange(taps, device=device)).flatten()
