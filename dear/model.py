"""Backbone and head over token sequences: contexts, and the masked-modelling loss (Section 3.1). Knows no audio."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from dear.attended import Prefix, take
from dear.backbone import Backbone
from dear.conditioning import Conditioning, NullCondition
from dear.config import Config, ConfigError
from dear.decoding import Decoding, default_decoding
from dear.heads import HEADS
from dear.joint import JointBackbone
from dear.layers import to_device
from dear.randomness import generator_on
from dear.static import CUDAGraphs, StaticDecoding


class MaskedModel(nn.Module):
    """A variant of a configuration: the transformer, the head, and the null condition."""

    def __init__(self, config: Config, variant: str | None = None):
        """Raises ValueError for a variant that the configuration does not name, and ConfigError for a head that does
        not exist or does not support its settings.
        """
        super().__init__()
        variant = variant or config.default_variant
        if variant not in config.variants:
            raise ValueError(f"variant must be one of {', '.join(config.variants)}, got {variant!r}")
        kind = config.variants[variant].head.kind
        if kind not in HEADS:
            raise ConfigError(f"head.kind must be one of {', '.join(HEADS)}, got {kind!r}")
        self.config = config
        self.variant = variant
        self.length = config.length
        self.token_dim = config.vae.token_dim
        self.backbone = _backbone(config)
        self.head = HEADS[kind](config.variants[variant].head, self.token_dim, config.context_dim)
        self.null = NullCondition(config.conditioning.dim)
        self.decoding: Decoding = default_decoding(self.backbone)  # how ``dear.sampling`` runs the backbone

    def compile_sampling(self) -> None:
        """Let ``dear.sampling`` run in a few fixed shapes, compiled, and on CUDA as recorded graphs.

        One call is enough. Raises ValueError unless attention is "visible".
        """
        if isinstance(self.decoding, StaticDecoding):
            return
        if isinstance(self.backbone, JointBackbone):
            raise ValueError('compiled sampling needs backbone.attention "prefix", got "joint"')
        cuda = self.backbone.mask_token.device.type == "cuda"
        self.decoding = StaticDecoding(self.backbone, CUDAGraphs if cuda else None)
        for block in self.backbone.blocks:
            block.compile(dynamic=False)

    def compile_blocks(self) -> None:
        """Run the blocks of the transformer, which are nearly all of the work, through torch.compile, for training."""
        for block in self.backbone.blocks:
            block.compile()

    def context(
        self, tokens: Tensor, known: Tensor, conditioning: Conditioning, wanted: Tensor | None = None
    ) -> Tensor:
        """tokens [B, L, D], known [B, L] bool, conditioning of B items -> contexts [B, L, C] of all positions.

        known: on the CPU it causes no synchronisation with another device.
        wanted: [B, W] positions, for contexts [B, W, C]. Under ``masked_attention="visible"`` the other hidden tokens
            are left out of the forward pass.
        """
        backbone = self.backbone
        prefix = backbone.prefix(conditioning.tokens, conditioning.mask, conditioning.padded)
        if wanted is not None and isinstance(backbone, Backbone) and backbone.config.masked_attention == "visible":
            return backbone.sparse(tokens, known, cast(Prefix, prefix), wanted)
        return backbone(tokens, known, prefix, wanted)

    def head_inputs(
        self, contexts: Sequence[Tensor], tokens: Tensor, known: Tensor, positions: Tensor
    ) -> Sequence[Tensor]:
        """Contexts [B, N, C] of the tokens at ``positions`` [B, N], such as conditional and null ones -> the head's
        inputs [B, N, C'].

        With ``backbone.neighbours``, the values of the tokens before and after each position, and whether these are
        known, follow the context, which has too few channels to carry them precisely. Guidance does not change them.

        tokens: [B, L, D]; those at hidden positions are ignored. known: [B, L] bool. All on one device.
        """
        reach = self.config.backbone.neighbours
        if not reach:
            return contexts
        step = self.config.grid[1]  # tokens of one moment
        shown = torch.cat((tokens, torch.ones_like(tokens[..., :1])), dim=-1) * known[..., None]
        padded = nn.functional.pad(shown, (0, 0, reach * step, reach * step)).to(contexts[0].dtype)
        beside = [take(padded, positions + place * step) for place in range(2 * reach + 1) if place != reach]
        return [torch.cat((context, *beside), dim=-1) for context in contexts]

    @torch.no_grad()
    def null_context(
        self, tokens: Tensor, known: Tensor, conditioning: Conditioning, wanted: Tensor | None = None
    ) -> Tensor | None:
        """The contexts of :meth:`context` under the null condition if the head's loss needs them, otherwise None."""
        if not self.head.wants_null_context:
            return None
        dropped = torch.ones(len(tokens), dtype=torch.bool, device=tokens.device)
        return self.context(tokens, known, self.null(conditioning, dropped), wanted)

    def head_loss(
        self,
        tokens: Tensor,
        context: Tensor,
        mask: Tensor,
        generator: torch.Generator,
        null_context: Tensor | None = None,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """The head's loss [N] at the N masked positions of tokens [B, L, D] with contexts [B, L, C] and mask [B, L].

        wanted: [B, W] positions of contexts [B, W, C]. N is then B * W.
        mask: on the CPU it causes no synchronisation with another device.
        null_context: [B, L, C], see :meth:`null_context`.
        generator: on the CPU. On another device it seeds a generator of that device, because a GPU would wait in every
            step for millions of values drawn on the CPU.
        """
        parts = [tokens, context] if null_context is None else [tokens, context, null_context]
        if self.config.backbone.neighbours:
            known = to_device(~mask, tokens.device)
            places = torch.arange(self.length).expand(len(tokens), -1) if wanted is None else wanted
            places = to_device(places, tokens.device)
            parts[1:] = self.head_inputs(parts[1:], tokens, known, places)
        if wanted is None:
            rows = to_device(mask.flatten().nonzero()[:, 0], tokens.device)
            parts = [each.flatten(0, 1).index_select(0, rows) for each in parts]
        else:
            parts[0] = take(tokens, to_device(wanted, tokens.device))
            parts = [each.flatten(0, 1) for each in parts]
        more = {} if null_context is None else {"null_context": parts[2]}
        return self.head.loss(parts[0], parts[1], generator_on(tokens.device, generator), **more)

    def loss(
        self,
        tokens: Tensor,
        conditioning: Conditioning,
        mask: Tensor,
        generator: torch.Generator,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """Masked-modelling loss, one value [N] for each masked position, or for each of ``wanted``.

        tokens: [B, L, D].
        mask: [B, L] bool, True where the token is hidden and predicted.
        wanted: [B, W] hidden positions, as in :meth:`context`.
        The condition of an item is dropped by the caller, with ``self.null(conditioning, drop)``.
        """
        null_context = self.null_context(tokens, ~mask, conditioning, wanted)
        context = self.context(tokens, ~mask, conditioning, wanted)
        return self.head_loss(tokens, context, mask, generator, null_context, wanted)


def _backbone(config: Config) -> Backbone | JointBackbone:
    shapes = config.length, config.vae.token_dim, config.conditioning.dim
    if config.backbone.attention == "joint":
        return JointBackbone(config.backbone, *shapes, config.conditioning.max_tokens)
    return Backbone(config.backbone, *shapes)
