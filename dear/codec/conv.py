"""The linear codec with a trained decoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor, nn

from dear.codec.patch import PatchVAE
from dear.config import MelConfig, VAEConfig
from dear.layers import ConvNeXtBlock, init_by_fan_in
from dear.settings import Range


@dataclass(frozen=True)
class ConvConfig(VAEConfig):
    kind: str = "conv"
    deblock: Annotated[float, Range(0, 100)] = 0.0  # as for the linear codec
    texture: Annotated[float, Range(0, 2)] = 0.0  # likewise
    substitution: bool = False  # likewise
    width: Annotated[int, Range(1, 1024)] = 64  # channels of the refinement
    depth: Annotated[int, Range(1, 32)] = 4  # residual convolution blocks of the refinement


class ConvVAE(PatchVAE):
    """The linear codec with a trained decoder, kind "conv": ``decode = linear decode + refinement(tokens)``.

    The encoder stays linear, so the tokens are those of the original linear codec, and models trained on them need no
    retraining. The refinement works at the token rate, where a block costs an eighth of its cost at the frame rate, and
    outputs whole patches. Its last layer starts at zero: an untrained refinement decodes exactly as the linear codec.
    """

    Config: ClassVar[type[VAEConfig]] = ConvConfig

    def __init__(self, vae: ConvConfig, mel: MelConfig):
        super().__init__(vae, mel)
        column = self.bands * vae.token_dim  # all tokens of one stretch of time
        self.input = nn.Linear(column, vae.width)
        self.blocks = nn.Sequential(*(ConvNeXtBlock(vae.width, taps=5, expansion=2) for _ in range(vae.depth)))
        self.norm = nn.LayerNorm(vae.width)
        self.output = nn.Linear(vae.width, self.bands * self.mean.numel())
        init_by_fan_in(self)
        nn.init.zeros_(self.output.weight)

    def refined(self, tokens: Tensor) -> Tensor:
        """tokens [B, L, D] -> mel [B, F, M] without the clamp, whose gradient is zero; for training."""
        columns = self.input(tokens.unflatten(1, (-1, self.bands)).flatten(2))
        residual = self.output(self.norm(self.blocks(columns)))
        return self.project(tokens) + self.unpatch(residual.unflatten(2, (self.bands, -1)).flatten(1, 2))

    def decode(self, tokens: Tensor) -> Tensor:
        """tokens [B, L, D] -> log-mel [B, F, M], never below the mel's floor."""
        return self.finish(self.refined(tokens))
