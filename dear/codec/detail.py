"""The lapped codec of the leading channels, with a trained decoder that draws the others."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn

from dear.codec.lapped import LappedVAE
from dear.config import ConfigError, MelConfig, VAEConfig
from dear.layers import ConvNeXtBlock, init_by_fan_in
from dear.settings import Range

TAPS = 7  # tokens that a convolution sees
FIRST_SPREAD = 0.3  # factor of the noise before training; a channel's standard deviation is about 1


@dataclass(frozen=True)
class DetailConfig(VAEConfig):
    kind: str = "detail"
    token_dim: Annotated[int, Range(1, 2048)] = 48
    detail_dim: Annotated[int, Range(1, 2048)] = 80  # E, channels of a patch that the decoder draws
    width: Annotated[int, Range(1, 1024)] = 256  # channels of the decoder
    depth: Annotated[int, Range(1, 32)] = 3  # blocks on the tokens alone
    noisy_depth: Annotated[int, Range(1, 32)] = 4  # blocks on the tokens and the noise


class DetailVAE(LappedVAE):
    """Lapped codec whose tokens hold the leading D channels of a patch, kind "detail".

    The decoder draws the next E channels from the tokens around and from noise, in one step, like the energy-scoring
    head (Section 3.2); :class:`training.engine.detail.TrainDetail` trains it by energy scores. The leading channels of
    a recording say what it is. The others are mostly texture: those of recordings, replaced by Gaussian noise of the
    same mean and variance, are recognised nearly as often. A model of tokens need not learn their fluctuation.

    The noise of a token depends only on its place, so that the same tokens give the same mel.

    Raises ConfigError where D + E exceeds the values of a patch or a moment has several tokens, and ValueError as
    :class:`LappedVAE`.
    """

    Config: ClassVar[type[VAEConfig]] = DetailConfig

    def __init__(self, vae: DetailConfig, mel: MelConfig):
        size, total = vae.patch_frames * vae.patch_mels, vae.token_dim + vae.detail_dim
        if total > size:
            raise ConfigError(f"vae.token_dim + detail_dim must be at most {size} (one patch), got {total}")
        if vae.patch_mels != mel.n_mels:
            raise ConfigError(f"vae.patch_mels must be n_mels {mel.n_mels} for kind detail, got {vae.patch_mels}")
        super().__init__(replace(vae, token_dim=total), mel)
        self.token_shape = (self.token_shape[0], vae.token_dim)
        self.detail_dim = vae.detail_dim
        self.input = nn.Linear(vae.token_dim, vae.width)
        self.noise_in = nn.Linear(vae.detail_dim, vae.width)
        self.blocks = nn.Sequential(*(ConvNeXtBlock(vae.width, TAPS, expansion=3) for _ in range(vae.depth)))
        self.noisy = nn.Sequential(*(ConvNeXtBlock(vae.width, TAPS, expansion=3) for _ in range(vae.noisy_depth)))
        self.expected = nn.Linear(vae.width, vae.detail_dim)
        self.linear = nn.Conv1d(vae.token_dim, vae.detail_dim, 5, padding=2)
        self.spread = nn.Linear(vae.width, vae.detail_dim)
        self.output = nn.Linear(vae.width, vae.detail_dim)
        init_by_fan_in(self)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.spread.weight)
        nn.init.constant_(self.spread.bias, FIRST_SPREAD)

    def encode_all(self, mel: Tensor) -> Tensor:
        """mel [B, F, M] log-mel -> channels [B, L, D + E]: the token, and the detail that it leaves out."""
        return super().encode(mel)

    def encode(self, mel: Tensor) -> Tensor:
        """mel [B, F, M] log-mel -> tokens [B, L, D], about unit variance overall."""
        return self.encode_all(mel)[..., : self.token_shape[1]]

    def detail(self, tokens: Tensor, noise: Tensor) -> Tensor:
        """tokens [B, L, D], noise [m, B, L, E], standard normal -> m draws of the detail [m, B, L, E]."""
        hidden = self.blocks(self.input(tokens))
        expected = self.expected(hidden) + self.linear(tokens.transpose(1, 2)).transpose(1, 2)
        drawn = self.noisy((hidden + self.noise_in(noise)).flatten(0, 1)).unflatten(0, noise.shape[:2])
        return expected + self.spread(hidden) * noise + self.output(drawn)

    def decode(self, tokens: Tensor) -> Tensor:
        """tokens [B, L, D] -> log-mel [B, F, M], never below the mel's floor."""
        noise = place_noise(tokens.shape[1], self.detail_dim, tokens.device).to(tokens)
        detail = self.detail(tokens, noise.expand(1, len(tokens), -1, -1))[0]
        return super().decode(torch.cat((tokens, detail), dim=-1))


@lru_cache(maxsize=8)
def place_noise(length: int, size: int, device: torch.device) -> Tensor:
    """Standard normal noise [length, size], float32, whose rows depend only on their place, not on the length.

    Cached on the device, since a copy from the host would wait for the device's queue.
    """
    with torch.inference_mode(False):
        generator = torch.Generator("cpu").manual_seed(0)
        rows = [torch.randn(size, generator=generator, dtype=torch.float32, device="cpu") for _ in range(length)]
        return torch.stack(rows).to(device)
