"""The masked transformer: partially known audio tokens behind a conditioning prefix -> contexts (Section 3.1).

The prefix attends to itself only, so its keys and values are the same in every decoding iteration and are
computed once (:meth:`Backbone.prefix`). Under ``masked_attention="visible"`` a hidden token is seen by nobody
but itself, so :meth:`Backbone.forward` may leave out, exactly, every hidden token whose context is not asked for.
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
        prefix: tuple[Tensor, Tensor],
        visible: Tensor,
        angles: tuple[Tensor, Tensor] | None,
        layout: Layout,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """Audio states x [B, P, C] -> next states [B, P, C]; with ``wanted`` [B, W], those of these tokens alone."""
        if self.mixing is not None:
            x = x + layout.mix(self.mixing, self.mixing_norm(x))
        normed = self.attention_norm(x)
        if wanted is None:
            queries, keys, values = self.attention.project(normed)
        else:  # the others serve as keys and values only
            x, visible = take(x, wanted), take(visible[:, 0], wanted)[:, None]
            queries, keys, values = self.attention.project_apart(take(normed, wanted), normed)
        if angles is not None:
            keys = rotate(keys, angles)
            if wanted is not None:
                cos, sin = (take(part[:, 0].expand(len(wanted), -1, -1), wanted)[:, None] for part in angles)
                angles = cos, sin
            queries = rotate(queries, angles)
        keys = torch.cat((prefix[0], keys), dim=2)
        values = torch.cat((prefix[1], values), dim=2)
        x = x + self.attention.attend(queries, keys, values, visible)
        return x + self.mlp(self.mlp_norm(x))


def take(x: Tensor, index: Tensor) -> Tensor:
    """x [B, P, K], index [B, W] of tokens -> [B, W, K]."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[2]))


@dataclass(frozen=True)
class Layout:
    """Where the P computed tokens lie among the L positions, for local mixing by original position."""

    positions: Tensor | None  # [B, P]; None: all L, in order
    shown: Tensor  # [B, P] bool: what neighbours may see
    length: int

    def mix(self, mixing: LocalMixing, x: Tensor) -> Tensor:
        if self.positions is None:
            return mixing(x, self.shown)
        index = self.positions[..., None].expand_as(x)
        spread = x.new_zeros(x.shape[0], self.length, x.shape[2]).scatter(1, index, x)
        shown = self.shown.new_zeros(x.shape[0], self.length).scatter(1, self.positions, self.shown)
        return mixing(spread, shown).gather(1, index)


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

    def forward(
        self,
        tokens: Tensor,
        known: Tensor,
        prefix: Prefix,
        positions: Tensor | None = None,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """Contexts of the audio tokens.

        tokens: [B, L, D] values; those at hidden positions are ignored.
        known: [B, L] bool, False where the token is hidden.
        positions: [B, P] distinct positions to compute, in any order; None for all L. Under "visible" they must hold
            every known position, and the result is exactly that of the full computation.
        wanted: [B, W] indices into the computed tokens; the last block computes these alone, and they are returned.
        Returns [B, L, C], or [B, P, C] in the order of ``positions``, or [B, W, C] in the order of ``wanted``.
        """
        if positions is not None:
            if self.config.masked_attention == "full":
                raise ValueError('positions needs masked_attention="visible": under "full" every token is attended to')
            tokens = take(tokens, positions)
            known = known.gather(1, positions)
        x = torch.where(known[..., None], self.token_in(tokens), self.mask_token)
        if self.positions is not None:
            x = x + (self.positions if positions is None else self.positions[positions])
        batch, count = known.shape
        if self.config.masked_attention == "visible":
            among = known[:, None, :] | torch.eye(count, dtype=torch.bool, device=known.device)
            shown = known
        else:
            among = known.new_ones(batch, count, count)
            shown = torch.ones_like(known)
        visible = torch.cat((prefix.mask[:, None, :].expand(-1, count, -1), among), dim=2)[:, None]
        angles = None
        if self.config.positions == "rotary":
            where = torch.arange(self.length, device=x.device)[None] if positions is None else positions
            angles = rotary_angles(where, self.config.width // self.config.heads)
        layout = Layout(positions, shown, self.length)
        last = self.blocks[-1]
        for block, pair in zip(self.blocks, prefix.blocks, strict=True):
            x = block(x, pair, visible, angles, layout, wanted if block is last else None)
        return self.norm(x)
