"""Log-mel to tokens and back: linear, linear with a trained decoder, or AudioLDM's autoencoder.

What gives the tokens about unit variance lies inside each codec, so no caller can forget it. A token of the linear
ones is one patch of the log-mel, projected on the leading principal components of such patches. They are the bar: an
autoencoder of the same token size that was trained for minutes loses every harmonic.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from dear import audioldm
from dear.config import MelConfig, VAEConfig
from dear.convolution import accelerate, in_groups
from dear.layers import ConvNeXtBlock


class PatchVAE(nn.Module):
    """Linear patch codec, kind "patch": ``token = ((patch - mean) @ components) * scale``, and its inverse.

    Buffers, set by ``training.codec.fit_patch_vae``: ``mean`` [P], ``components`` [P, D] with orthonormal columns,
    ``scale`` [D] > 0, where P = patch_frames * patch_mels, frames outermost. A new codec keeps the first D values
    of each patch. Tokens are ordered by time, then by frequency, as ``Config.grid`` says.

    Raises ValueError where the patch does not divide the mel or D exceeds P.
    """

    def __init__(self, vae: VAEConfig, mel: MelConfig):
        super().__init__()
        size = vae.patch_frames * vae.patch_mels
        if mel.frames % vae.patch_frames or mel.n_mels % vae.patch_mels:
            raise ValueError(
                f"vae.patch_frames and vae.patch_mels must divide {mel.frames} x {mel.n_mels}, "
                f"got {vae.patch_frames} x {vae.patch_mels}"
            )
        if vae.token_dim > size:
            raise ValueError(f"vae.token_dim must be at most {size} (one patch), got {vae.token_dim}")
        self.patch = (vae.patch_frames, vae.patch_mels)
        self.bands = mel.n_mels // vae.patch_mels
        self.token_shape = (mel.frames // vae.patch_frames * self.bands, vae.token_dim)
        self.floor = math.log(mel.floor)
        self.register_buffer("mean", torch.full((size,), self.floor / 2))
        self.register_buffer("components", torch.eye(size, vae.token_dim))
        self.register_buffer("scale", torch.ones(vae.token_dim))

    def patches(self, mel: Tensor) -> Tensor:
        """mel [B, F, M] -> [B, L, P]. F may be any multiple of patch_frames; ValueError otherwise."""
        frames, mels = self.patch
        if mel.ndim != 3 or mel.shape[1] % frames or mel.shape[2] != self.bands * mels:
            raise ValueError(
                f"mel must be [B, F, {self.bands * mels}] with F a multiple of {frames}, got {tuple(mel.shape)}"
            )
        grid = mel.unflatten(2, (self.bands, mels)).unflatten(1, (-1, frames))  # [B, F', pf, M', pm]
        return grid.transpose(2, 3).flatten(3).flatten(1, 2)

    def unpatch(self, patches: Tensor) -> Tensor:
        """patches [B, L, P] -> mel [B, F, M]."""
        grid = patches.unflatten(2, self.patch).unflatten(1, (-1, self.bands))  # [B, F', M', pf, pm]
        return grid.transpose(2, 3).flatten(3).flatten(1, 2)

    def encode(self, mel: Tensor) -> Tensor:
        """mel [B, F, M] log-mel -> tokens [B, L, D], about unit variance overall."""
        return ((self.patches(mel) - self.mean) @ self.components) * self.scale

    def project(self, tokens: Tensor) -> Tensor:
        """tokens [B, L, D] -> mel [B, F, M], the affine inverse alone: exact on the span of the components."""
        return self.unpatch((tokens / self.scale) @ self.components.T + self.mean)

    def decode(self, tokens: Tensor) -> Tensor:
        """tokens [B, L, D] -> log-mel [B, F, M], never below the mel's floor."""
        return self.project(tokens).clamp_min(self.floor)

    def latents(self, tokens: Tensor) -> Tensor:
        """tokens [B, L, D] -> [B, Z, F', M'], for pictures: Z = D channels over the grid of patches."""
        return tokens.transpose(1, 2).unflatten(2, (-1, self.bands))


class ConvVAE(PatchVAE):
    """The linear codec with a trained decoder, kind "conv": ``decode = linear decode + refinement(tokens)``.

    The encoder stays linear, so the tokens are those of the linear codec that it was built from, and what was
    trained on them needs no retraining. The refinement works at the rate of the tokens, where a block is an eighth of
    the work that it would be at the rate of the frames, and writes whole patches. Its last layer starts at zero: an
    untrained one decodes exactly as the linear codec does.
    """

    def __init__(self, vae: VAEConfig, mel: MelConfig):
        super().__init__(vae, mel)
        column = self.bands * vae.token_dim  # all tokens of one stretch of time
        self.input = nn.Linear(column, vae.width)
        self.blocks = nn.Sequential(*(ConvNeXtBlock(vae.width, taps=5, expansion=2) for _ in range(vae.depth)))
        self.norm = nn.LayerNorm(vae.width)
        self.output = nn.Linear(vae.width, self.bands * self.mean.numel())
        generator = torch.Generator().manual_seed(0)  # initial weights depend on nothing but the configuration
        for layer in self.modules():
            if isinstance(layer, nn.Linear | nn.Conv1d):
                nn.init.normal_(layer.weight, std=layer.weight[0].numel() ** -0.5, generator=generator)
                nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.output.weight)

    @classmethod
    def from_patch(cls, codec: PatchVAE, vae: VAEConfig, mel: MelConfig) -> ConvVAE:
        """An untrained one around a fitted linear codec of the same patch and token size."""
        built = cls(vae, mel)
        for name, value in codec.named_buffers():
            getattr(built, name).copy_(value)
        return built

    def refined(self, tokens: Tensor) -> Tensor:
        """tokens [B, L, D] -> mel [B, F, M] without the clamp, whose gradient is zero: what training needs."""
        columns = self.input(tokens.unflatten(1, (-1, self.bands)).flatten(2))
        residual = self.output(self.norm(self.blocks(columns)))
        return self.project(tokens) + self.unpatch(residual.unflatten(2, (self.bands, -1)).flatten(1, 2))

    def decode(self, tokens: Tensor) -> Tensor:
        """tokens [B, L, D] -> log-mel [B, F, M], never below the mel's floor."""
        return self.refined(tokens).clamp_min(self.floor)


class AudioLDMVAE(nn.Module):
    """AudioLDM's frozen autoencoder, kind "audioldm": the paper's (Section 4.1).

    Latents [B, Z, F / 4, M / 4] are the mean of the posterior times the scaling factor of the autoencoder's own
    configuration, which gives them about unit variance. The mean and not a sample: it decodes best, one sound has one
    token sequence wherever it is encoded, and noise that is drawn once would be learnt by heart from a cache.
    (AudioLDM's own trainer draws a sample at every step; the paper does not say.)

    A token is a patch of patch_frames x patch_mels mel values, hence of 4 x 4 latents: D = Z * 4 * 4 values, channels
    outermost, then time, then frequency. Tokens are ordered by time, then by frequency, as ``Config.grid`` says.

    folder: where the files lie (see ``dear.audioldm``); None: untrained, at the published size.
    Raises ValueError where the files are not such an autoencoder, or the patch or D does not fit it.
    """

    def __init__(self, vae: VAEConfig, mel: MelConfig, folder: Path | None = None):
        super().__init__()
        audioldm.check_mel(mel)
        self.network = accelerate(audioldm.autoencoder(folder).requires_grad_(False))
        config = self.network.config
        if (config.in_channels, config.out_channels) != (1, 1):
            raise ValueError(f"vae.source must hold an autoencoder of 1 channel, got {config.in_channels} channels")
        factor = 2 ** (len(config.block_out_channels) - 1)
        if vae.patch_frames % factor or vae.patch_mels % factor:
            raise ValueError(
                f"vae.patch_frames and vae.patch_mels must be multiples of {factor}, "
                f"got {vae.patch_frames} x {vae.patch_mels}"
            )
        self.patch = (config.latent_channels, vae.patch_frames // factor, vae.patch_mels // factor)
        if vae.token_dim != math.prod(self.patch):
            told = "{} latent channels x {} x {}".format(*self.patch)
            raise ValueError(f"vae.token_dim must be {math.prod(self.patch)} ({told}), got {vae.token_dim}")
        self.mel_shape = (vae.patch_frames, mel.n_mels)
        self.bands = mel.n_mels // vae.patch_mels
        self.token_shape = (mel.frames // vae.patch_frames * self.bands, vae.token_dim)
        self.scaling = config.scaling_factor
        self.floor = math.log(mel.floor)

    def patchify(self, latents: Tensor) -> Tensor:
        """latents [B, Z, F', M'] -> tokens [B, L, D]: the exact inverse of :meth:`latents`."""
        _, frames, mels = self.patch
        grid = latents.unflatten(3, (-1, mels)).unflatten(2, (-1, frames))  # [B, Z, T, pf, bands, pm]
        return grid.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)

    def latents(self, tokens: Tensor) -> Tensor:
        """tokens [B, L, D] -> scaled latents [B, Z, F', M']."""
        grid = tokens.unflatten(2, self.patch).unflatten(1, (-1, self.bands))  # [B, T, bands, Z, pf, pm]
        return grid.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)

    def encode(self, mel: Tensor) -> Tensor:
        """mel [B, F, M] log-mel -> tokens [B, L, D]. F may be any multiple of patch_frames; ValueError otherwise."""
        frames, mels = self.mel_shape
        if mel.ndim != 3 or mel.shape[1] % frames or mel.shape[2] != mels:
            raise ValueError(f"mel must be [B, F, {mels}] with F a multiple of {frames}, got {tuple(mel.shape)}")
        return self.patchify(self.network.encode(mel[:, None]).latent_dist.mode() * self.scaling)

    def decode(self, tokens: Tensor) -> Tensor:
        """tokens [B, L, D] -> log-mel [B, F, M], never below the mel's floor, as no mel of a recording is."""
        mel = in_groups(lambda latents: self.network.decode(latents).sample[:, 0], self.latents(tokens) / self.scaling)
        return mel.clamp_min(self.floor)


def build_vae(vae: VAEConfig, mel: MelConfig, folder: Path | None = None) -> nn.Module:
    """The codec that ``vae.kind`` names, untrained; audioldm: with the weights of ``folder`` where given."""
    if vae.kind == "audioldm":
        return AudioLDMVAE(vae, mel, folder)
    return {"patch": PatchVAE, "conv": ConvVAE}[vae.kind](vae, mel)
