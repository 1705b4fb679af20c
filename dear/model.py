"""Backbone and head over token sequences: contexts, and the masked-modelling loss (Section 3.1). Knows no audio."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dear.backbone import Backbone, take
from dear.conditioning import Conditioning, NullCondition
from dear.config import Config, ConfigError
from dear.decoding import Decoding, default_decoding
from dear.heads import HEADS
from dear.static import CUDAGraphs, StaticDecoding

SEEDS = 2**63 - 1  # of a generator


class MaskedModel(nn.Module):
    """A variant of a configuration: the transformer, the head, and the null condition."""

    def __init__(self, config: Config, variant: str | None = None):
        """Raises ValueError for a variant that the configuration does not name, ConfigError for a head that does not
        exist or cannot honour its settings."""
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
        self.backbone = Backbone(config.backbone, self.length, self.token_dim, config.conditioning.dim)
        self.head = HEADS[kind](config.variants[variant].head, self.token_dim, config.backbone.width)
        self.null = NullCondition(config.conditioning.dim)
        self.decoding: Decoding = default_decoding(self.backbone)  # how ``dear.sampling`` runs the backbone

    def compile_sampling(self) -> None:
        """Let ``dear.sampling`` run in a few fixed shapes, compiled, and on CUDA as recorded graphs.

        Once is enough. Raises ValueError unless attention is "visible".
        """
        if isinstance(self.decoding, StaticDecoding):
            return
        cuda = self.backbone.mask_token.device.type == "cuda"
        self.decoding = StaticDecoding(self.backbone, CUDAGraphs if cuda else None)
        for block in self.backbone.blocks:
            block.compile(dynamic=False)

    def context(
        self, tokens: Tensor, known: Tensor, conditioning: Conditioning, wanted: Tensor | None = None
    ) -> Tensor:
        """tokens [B, L, D], known [B, L] bool, conditioning of B items -> contexts [B, L, C] of all positions.

        wanted: [B, W] positions, to compute theirs alone [B, W, C]. It needs ``masked_attention="visible"``.
        """
        prefix = self.backbone.prefix(conditioning.tokens, conditioning.mask)
        if wanted is not None:
            return self.backbone.sparse(tokens, known, prefix, wanted)
        return self.backbone(tokens, known, prefix)

    def head_loss(self, target: Tensor, context: Tensor, generator: torch.Generator) -> Tensor:
        """The head's loss [N] for tokens [N, D] and their contexts [N, C].

        generator: on the CPU. Elsewhere the noise, several draws of each token, is that of one on the device, seeded
        from it: drawn on the CPU, millions of values would be what a GPU waits for in every step.
        """
        return self.head.loss(target, context, _beside(generator, target.device))

    def loss(
        self,
        tokens: Tensor,
        conditioning: Conditioning,
        mask: Tensor,
        generator: torch.Generator,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """Masked-modelling loss, one value [N] for each masked position, or for each of ``wanted``.

        tokens: [B, L, D]; mask: [B, L] bool, True where the token is hidden and to be predicted; wanted: [B, W] hidden
        positions, as in :meth:`context`. Items whose condition is to be dropped come with
        ``self.null(conditioning, drop)``.
        """
        context = self.context(tokens, ~mask, conditioning, wanted)
        return self.head_loss(*targets(tokens, context, mask, wanted), generator)


def targets(tokens: Tensor, context: Tensor, mask: Tensor, wanted: Tensor | None) -> tuple[Tensor, Tensor]:
    """Tokens [N, D] and contexts [N, C] of the masked positions, or of ``wanted`` ones, which ``context`` is of."""
    if wanted is None:
        return tokens[mask], context[mask]
    return take(tokens, wanted).flatten(0, 1), context.flatten(0, 1)


def _beside(generator: torch.Generator, device: torch.device) -> torch.Generator:
    """``generator`` itself on the CPU; elsewhere one on the device, seeded by its next value."""
    if device.type == "cpu":
        return generator
    return torch.Generator(device).manual_seed(int(torch.randint(SEEDS, (), generator=generator)))
