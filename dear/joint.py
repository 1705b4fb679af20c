"""MAR's masked transformer, the paper's (Sections 3.1 and 4.2): an encoder and a decoder over one sequence.

The encoder sees the conditioning and the known audio tokens. The decoder sees both, as the encoder left them, and a
mask token in the place of each hidden token. Conditioning and audio attend to each other in both halves, so nothing
can be kept from one decoding iteration to the next, other than the projection of the conditioning.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from dear.attended import take
from dear.backbone import Block
from dear.config import BackboneConfig
from dear.layers import init_weights, to_device


@dataclass(frozen=True)
class JointPrefix:
    """The projected conditioning [B, T, C] and its mask [B, T]; padded: whether any of it may be False."""

    states: Tensor
    mask: Tensor
    padded: bool = True

    def first(self, count: int) -> JointPrefix:
        """A view of the first ``count`` items."""
        return JointPrefix(self.states[:count], self.mask[:count], self.padded)


class JointBackbone(nn.Module):
    """Half of the blocks as encoder, half as decoder, over T conditioning tokens of E values and L audio tokens of D.

    Both halves have a learned vector for each of the T + L positions, and the contexts get another one for each of the
    L, in front of the head (MAR's ``diffusion_pos_embed``).
    """

    def __init__(self, config: BackboneConfig, length: int, token_dim: int, conditioning_dim: int, longest: int):
        """longest: the largest T."""
        super().__init__()
        self.config = config
        self.length, self.longest = length, longest
        width, half = config.width, config.depth // 2
        self.conditioning_in = nn.Linear(conditioning_dim, width)
        self.token_in = nn.Linear(token_dim, width)
        self.encoder_positions = nn.Parameter(torch.empty(longest + length, width))
        self.input_norm = nn.LayerNorm(width, eps=1e-6)
        self.encoder = nn.ModuleList(Block(config) for _ in range(half))
        self.encoder_norm = nn.LayerNorm(width, eps=1e-6)
        self.decoder_in = nn.Linear(width, width)
        self.mask_token = nn.Parameter(torch.empty(width))
        self.decoder_positions = nn.Parameter(torch.empty(longest + length, width))
        self.decoder = nn.ModuleList(Block(config) for _ in range(half))
        self.decoder_norm = nn.LayerNorm(width, eps=1e-6)
        self.context_positions = nn.Parameter(torch.empty(length, width))
        init_weights(self)
        for parameter in (self.mask_token, self.encoder_positions, self.decoder_positions, self.context_positions):
            nn.init.normal_(parameter, std=0.02)

    @property
    def blocks(self) -> list[Block]:
        """All blocks in order."""
        return [cast(Block, block) for half in (self.encoder, self.decoder) for block in half]

    def prefix(self, tokens: Tensor, mask: Tensor, padded: bool = True) -> JointPrefix:
        """Conditioning tokens [B, T, E] with mask [B, T] (True: real) -> what all iterations share.

        padded: whether any of the mask may be False.

        Raises ValueError where T exceeds the positions.
        """
        if tokens.shape[1] > self.longest:
            raise ValueError(f"conditioning must have at most {self.longest} tokens, got {tokens.shape[1]}")
        return JointPrefix(self.conditioning_in(tokens), mask, padded)

    def forward(
        self,
        tokens: Tensor,
        known: Tensor,
        prefix: JointPrefix,
        wanted: Tensor | None = None,
        shown: Tensor | None = None,
    ) -> Tensor:
        """Contexts [B, L, C] of all audio tokens, or [B, W, C] of those at ``wanted`` [B, W].

        tokens: [B, L, D] values; those at hidden positions are ignored. known: [B, L] bool, False where hidden; where
            it lies on the CPU, the device is not waited for.
        shown: [B, K] positions of the known tokens, where all items have K of them; found in ``known`` where absent.
        """
        among: Tensor | None = None
        if shown is None:
            shown, among = _known_positions(known, tokens.device)
        count, width = prefix.states.shape[1:]
        first = torch.arange(count, device=shown.device).expand(len(shown), -1)
        places = torch.cat((first, self.longest + shown), dim=1)
        x = torch.cat((prefix.states, self.token_in(take(tokens, shown))), dim=1)
        x = self.input_norm(x + self.encoder_positions[places])
        visible = _visible(prefix, shown.shape[1], among)
        for block in self.encoder:
            x = block(x, None, visible, None)
        x = self.decoder_in(self.encoder_norm(x))
        hidden = self.mask_token.to(x.dtype)
        seen = x[:, count:] if among is None else torch.where(among[..., None], x[:, count:], hidden)
        audio = hidden.expand(len(x), self.length, -1).scatter(1, shown[..., None].expand(-1, -1, width), seen)
        positions = torch.cat((self.decoder_positions[:count], self.decoder_positions[self.longest :]))
        x = torch.cat((x[:, :count], audio), dim=1) + positions
        visible = _visible(prefix, self.length)
        for block in self.decoder[:-1]:
            x = block(x, None, visible, None)
        last = slice(count, None) if wanted is None else count + wanted
        x = self.decoder_norm(self.decoder[-1](x, None, visible, None, last))
        return x + (self.context_positions if wanted is None else self.context_positions[wanted])


def _known_positions(known: Tensor, device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Positions [B, K] of known tokens on ``device``, where K is the largest number that an item of known [B, L] knows,
    and a mask [B, K] of the positions that are known rather than padding. The mask is None if there is no padding.
    """
    counts = known.sum(dim=1)
    most, least = (int(each) for each in (counts.max(), counts.min()))
    shown = to_device(known.byte().argsort(dim=1, descending=True, stable=True)[:, :most], device)
    if most == least:
        return shown, None
    return shown, to_device(torch.arange(most, device=known.device) < counts[:, None], device)


def _visible(prefix: JointPrefix, count: int, among: Tensor | None = None) -> Tensor | None:
    """Mask [B, 1, 1, T + count] of the keys that all tokens of a sequence attend to, or None for all keys, which is
    faster.

    among: [B, count] of the audio tokens. None: all.
    """
    if among is None and not prefix.padded:
        return None
    if among is None:
        among = prefix.mask.new_ones(len(prefix.mask), count)
    return torch.cat((prefix.mask, among), dim=1)[:, None, None]
