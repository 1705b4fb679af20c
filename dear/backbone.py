"""The masked transformer: partially known audio tokens behind a conditioning prefix -> contexts (Section 3.1).

The prefix attends to itself only, so its keys and values are the same in every decoding iteration and are computed once
(:meth:`Backbone.prefix`). Under ``masked_attention="visible"`` no token attends to a hidden one except itself, so
:meth:`Backbone.decode` can leave out every hidden token whose context is not needed, and stays exact. It can also reuse
the keys and values of known tokens, which is approximate: they change as more tokens become known.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from dear.attended import CachedKV, FullKV, KVCache, Prefix, SparseKV, take
from dear.config import BackboneConfig
from dear.layers import Attention, FeedForward, LocalMixing, init_weights, rotary_angles, rotate, to_device


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

    def prefix(
        self, x: Tensor, visible: Tensor | None, angles: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Conditioning states x [B, T, C] -> next states, and the keys and values that audio tokens attend to."""
        projected = self.attention.project(self.attention_norm(x))
        _, keys, values = projected
        queries, turned = rotate(projected[:2], angles)
        x = x + self.attention.attend(queries, turned, values, visible)
        return x + self.mlp(self.mlp_norm(x)), (keys, values)

    def forward(
        self,
        x: Tensor,
        others: FullKV | CachedKV | None,
        visible: Tensor | None,
        angles: tuple[Tensor, Tensor] | None,
        wanted: Tensor | slice | None = None,
    ) -> Tensor:
        """States x [B, P, C] -> next states [B, P, C], or [B, W, C] of the tokens at ``wanted``.

        others: keys and values that x attends to besides its own. None stands for a single sequence without local
            mixing.
        visible: [B, 1, P or 1, K] bool, or None if everything is visible.
        """
        if self.mixing is not None and self.mixing_norm is not None and others is not None:
            x = x + others.mix(self.mixing, self.mixing_norm(x))
        normed = self.attention_norm(x)
        if wanted is None:
            projected = self.attention.project(normed)
            queries, keys = rotate(projected[:2], angles)  # at once: small passes wait for Python
            values = projected[2]
        else:  # the others serve as keys and values only
            x = take(x, wanted)
            if visible is not None and visible.shape[2] > 1:
                visible = take(visible[:, 0], wanted)[:, None]
            queries, keys, values = self.attention.project_apart(take(normed, wanted), normed)
            keys = rotate(keys, angles)
            if angles is not None:
                cos, sin = (take(part[:, 0].expand(len(x), -1, -1), wanted)[:, None] for part in angles)
                queries = rotate(queries, (cos, sin))
        if others is not None:
            keys, values = others.join(keys, values)
        x = x + self.attention.attend(queries, keys, values, visible)
        return x + self.mlp(self.mlp_norm(x))


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
        # With only rotary angles, a hidden token learns its position only through attention.
        learned = config.positions != "rotary"
        self.positions = nn.Parameter(torch.empty(length, config.width)) if learned else None
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, eps=1e-6)
        init_weights(self)
        nn.init.normal_(self.mask_token, std=0.02)
        if self.positions is not None:
            nn.init.normal_(self.positions, std=0.02)

    def prefix(self, tokens: Tensor, mask: Tensor, padded: bool = True) -> Prefix:
        """Conditioning tokens [B, T, E] with mask [B, T] (True: real) -> keys and values that all iterations share.

        padded: whether any of the mask may be False.
        """
        x = self.conditioning_norm(self.conditioning_in(tokens))
        visible = mask[:, None, None, :] if padded else None
        # Without angles, attention among words would not know their order.
        ordered = self.config.positions == "both"
        angles = self._angles(torch.arange(x.shape[1], device=x.device)[None]) if ordered else None
        kept = []
        for block in self.blocks:
            x, pair = cast(Block, block).prefix(x, visible, angles)
            kept.append(pair)
        return Prefix(tuple(kept), mask, padded)

    def forward(self, tokens: Tensor, known: Tensor, prefix: Prefix, wanted: Tensor | None = None) -> Tensor:
        """Contexts [B, L, C] of all audio tokens, or [B, W, C] of those at ``wanted`` [B, W].

        tokens: [B, L, D] values; those at hidden positions are ignored. known: [B, L] bool, False where hidden, on any
            device.
        """
        known = to_device(known, tokens.device)
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
        visible = None  # for all
        if prefix.padded or self.config.masked_attention == "visible":
            visible = torch.cat((prefix.mask[:, None, :].expand(-1, count, -1), among), dim=2)[:, None]
        angles = self._angles(torch.arange(count, device=x.device)[None])
        last = self.blocks[-1]
        for block, pair in zip(self.blocks, prefix.blocks, strict=True):
            x = block(x, FullKV(pair, shown), visible, angles, wanted if block is last else None)
        return self.norm(x)

    def sparse(self, tokens: Tensor, known: Tensor, prefix: Prefix, wanted: Tensor) -> Tensor:
        """:meth:`forward` at ``wanted`` without the other hidden tokens, which change nothing under "visible".

        known, wanted: on the CPU these cause no synchronisation with another device.

        Raises ValueError if attention is "full".
        """
        if self.config.masked_attention == "full":
            raise ValueError('sparse needs masked_attention="visible": under "full" every token is attended to')
        filled = int(known.sum(1).max())
        # Where an item knows fewer tokens than another, some of its hidden ones fill the gap.
        first = known.byte().argsort(dim=1, descending=True)[:, :filled]
        positions = torch.cat((first, wanted), dim=1)
        given = to_device(known.gather(1, positions), tokens.device)
        positions = to_device(positions, tokens.device)
        x = torch.where(given[..., None], self.token_in(take(tokens, positions)), self.mask_token)
        if self.positions is not None:
            x = x + self.positions[positions]
        batch, count = positions.shape
        shown = torch.cat((given[:, :filled], given.new_zeros(batch, count - filled)), dim=1)
        # A known token that is wanted is computed twice, and attends only to its first place.
        own = torch.eye(count, dtype=torch.bool, device=given.device) & ~given[:, :, None]
        among = shown[:, None, :] | own
        visible = torch.cat((prefix.mask[:, None, :].expand(-1, count, -1), among), dim=2)[:, None]
        angles, last = self._angles(positions), self.blocks[-1]
        for block, pair in zip(self.blocks, prefix.blocks, strict=True):
            others = SparseKV(pair, shown, positions, self.length)
            x = block(x, others, visible, angles, slice(filled, count) if block is last else None)
        return self.norm(x)

    def cache(self, prefix: Prefix) -> KVCache:
        """A cache for :meth:`decode` with the items of ``prefix``. Raises ValueError unless attention is "visible"."""
        if self.config.masked_attention == "full":
            raise ValueError('decode needs masked_attention="visible": under "full" every token is attended to')
        batch, heads, filled, dim = prefix.blocks[0][0].shape
        taps, like = self.config.conv_width, prefix.blocks[0][0]
        keys, values = (
            tuple(like.new_empty(batch, heads, filled + self.length, dim) for _ in self.blocks) for _ in range(2)
        )
        rows = self.length + taps - 1
        inputs = tuple(like.new_empty(batch, rows, self.config.width) for _ in self.blocks) if taps else ()
        cache = KVCache(torch.empty_like(prefix.mask), keys, values, inputs)
        cache.begin(prefix)
        return cache

    def decode(
        self,
        tokens: Tensor,
        order: Tensor,
        cache: KVCache,
        places: Tensor | slice,
        start: Tensor | int,
        wanted: Tensor | slice,
        reach: int,
    ) -> Tensor:
        """Contexts [B, W, C] of the ``wanted`` tokens, which are [W] or a slice of the P computed tokens.

        tokens: [B, L, D]. Values at hidden positions are ignored.
        order: [B, L] positions in decoding order.
        start: number of known tokens, which come first in that order. As a tensor [] it may differ when a forward pass
            is replayed.
        places: [P] or a slice of the decoding order: the tokens to compute. The states of other known tokens are read
            from ``cache``, and those of computed known tokens are written to it. If all known tokens are computed, the
            result equals that of :meth:`forward`. Hidden tokens that are not wanted change nothing.
        reach: end of the decoding order up to which tokens are computed or known.
        """
        positions = order[:, places]
        batch, count = positions.shape
        slots = torch.arange(order.shape[1], device=order.device)
        own = slots[places][:, None]
        known = own < start
        x = torch.where(known, self.token_in(take(tokens, positions)), self.mask_token)
        if self.positions is not None:
            x = x + self.positions[positions]
        among = (slots[:reach] < start) | (slots[:reach] == own)
        conditioning = cache.mask[:, None, None, :].expand(-1, 1, count, -1)
        visible = torch.cat((conditioning, among.expand(batch, 1, -1, -1)), dim=3)
        # As what attention adds, once for all blocks.
        visible = torch.zeros(visible.shape, dtype=x.dtype, device=x.device).masked_fill(~visible, -torch.inf)
        stored, seen = self._rows(positions)
        filled = cache.mask.shape[1]
        within = slice(filled + places.start, filled + places.stop) if isinstance(places, slice) else filled + places
        angles, last = self._angles(positions), self.blocks[-1]
        for i, block in enumerate(self.blocks):
            keys, values = (whole[i][:, :, : filled + reach] for whole in (cache.keys, cache.values))
            inputs = cache.inputs[i] if cache.inputs else None
            others = CachedKV(keys, values, inputs, within, known, stored, seen)
            x = block(x, others, visible, angles, wanted if block is last else None)
        return self.norm(x)

    def _angles(self, positions: Tensor) -> tuple[Tensor, Tensor] | None:
        if self.config.positions == "learned":
            return None
        return rotary_angles(positions, self.config.width // self.config.heads)

    def _rows(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """The rows [B * P] of tokens at ``positions`` [B, P] for local mixing, and the rows that these tokens see."""
        taps, device = max(self.config.conv_width, 1), positions.device
        begins = torch.arange(len(positions), device=device)[:, None] * (self.length + taps - 1)
        rows = begins + positions
        return (rows + taps // 2).flatten(), (rows[..., None] + torch.arange(taps, device=device)).flatten()
