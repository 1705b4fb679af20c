"""Linear codec: the projection of mel patches on their leading principal components.

The scale that gives tokens about unit variance is part of the codec, so no caller can forget it. The linear codec is
the baseline: an autoencoder of the same token size that was trained for minutes loses every harmonic.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Self

import torch
from torch import Tensor

from dear.codec.base import Codec
from dear.codec.texture import broad, fine_fluctuation, noise_mel, noisiness, roughness, slow, steadiness
from dear.config import MelConfig, VAEConfig
from dear.settings import Range


@dataclass(frozen=True)
class PatchConfig(VAEConfig):
    kind: str = "patch"
    # Largest step between decoded patches, in the log-mel's unit: the rest of a larger one is spread; 0: none is. Of
    # noise it limits only what neighbouring bands do together.
    deblock: Annotated[float, Range(0, 100)] = 0.0
    # Share of the fluctuation of noise to restore, which tokens do not hold, where a spectrum is not tonal; 0: none.
    texture: Annotated[float, Range(0, 2)] = 0.0
    # Replace what fluctuates in single bands by the fluctuation of noise, where a sound is steady and not tonal.
    substitution: bool = False


class PatchVAE(Codec):
    """Linear patch codec, kind "patch": ``token = ((patch - mean) @ components) * scale``, and its inverse.

    Buffers, set by ``training.engine.codec.fit_patch_vae``: ``mean`` [P], ``components`` [P, D] with orthonormal
    columns, ``scale`` [D] > 0, where P = patch_frames * patch_mels, frames outermost. A new codec keeps the first D
    values of each patch. Tokens are ordered by time, then by frequency, as ``Config.grid`` says.

    Raises ValueError where the patch does not divide the mel or D exceeds P.
    """

    Config: ClassVar[type[VAEConfig]] = PatchConfig
    mean: Tensor  # [P]
    components: Tensor  # [P, D]
    scale: Tensor  # [D]

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
        self.deblock = getattr(vae, "deblock", 0.0)
        self.texture = getattr(vae, "texture", 0.0)
        self.substitution = getattr(vae, "substitution", False)
        self.mel = mel
        self.frame_rate = mel.sample_rate / mel.hop_length
        self.noises: dict[tuple[int, torch.device], tuple[Tensor, Tensor, Tensor]] = {}  # results of noise
        self.register_buffer("mean", torch.full((size,), self.floor / 2, dtype=torch.float32))
        # Not torch.eye, which on the meta device imports torch's compiler.
        components = torch.zeros(size, vae.token_dim, dtype=torch.float32).fill_diagonal_(1)
        self.register_buffer("components", components)
        self.register_buffer("scale", torch.ones(vae.token_dim, dtype=torch.float32))

    @classmethod
    def from_linear(cls, codec: PatchVAE, vae: VAEConfig, mel: MelConfig) -> Self:
        """An untrained codec of this kind around a fitted linear codec with the same channels."""
        built = cls(vae, mel)
        for name, value in codec.named_buffers():
            getattr(built, name).copy_(value)
        return built

    def check_weights(self) -> None:
        if not (self.scale > 0).all():
            raise ValueError(f"scale must be above 0, got {float(self.scale.min()):g}")

    def patches(self, mel: Tensor) -> Tensor:
        """mel [B, F, M] -> [B, L, P]. F may be any multiple of patch_frames; ValueError otherwise."""
        self.check(mel)
        frames, mels = self.patch
        grid = mel.unflatten(2, (self.bands, mels)).unflatten(1, (-1, frames))  # [B, F', pf, M', pm]
        return grid.transpose(2, 3).flatten(3).flatten(1, 2)

    def check(self, mel: Tensor) -> None:
        """Raises ValueError unless mel is [B, F, M] with F a multiple of patch_frames above 0."""
        frames, mels = self.patch
        if mel.ndim != 3 or not mel.shape[1] or mel.shape[1] % frames or mel.shape[2] != self.bands * mels:
            raise ValueError(
                f"mel must be [B, F, {self.bands * mels}] with F a multiple of {frames}, got {tuple(mel.shape)}"
            )

    def unpatch(self, patches: Tensor) -> Tensor:
        """patches [B, L, P] -> mel [B, F, M]."""
        grid = patches.unflatten(2, self.patch).unflatten(1, (-1, self.bands))  # [B, F', M', pf, pm]
        return grid.transpose(2, 3).flatten(3).flatten(1, 2)

    def encode(self, mel: Tensor) -> Tensor:
        """mel [B, F, M] log-mel -> tokens [B, L, D], about unit variance overall."""
        return ((self.patches(mel) - self.mean) @ self.components) * self.scale

    def project(self, tokens: Tensor) -> Tensor:
        """tokens [B, L, D] -> mel [B, F, M], the affine inverse without clamp, exact on the span of the components."""
        return self.unpatch((tokens / self.scale) @ self.components.T + self.mean)

    def decode(self, tokens: Tensor) -> Tensor:
        """tokens [B, L, D] -> log-mel [B, F, M], never below the mel's floor."""
        return self.finish(self.project(tokens))

    def finish(self, mel: Tensor) -> Tensor:
        """Decoded mel [B, F, M] -> the same with limited steps between patches (``deblock``), the fluctuation of noise
        that tokens do not hold (``texture``) or that models draw badly (``substitution``), and at least the floor.
        """
        if not (self.deblock or self.texture or self.substitution):
            return mel.clamp_min(self.floor)
        size = self.patch[0]
        lost, fine, expected = (each.to(mel) for each in self.noise(mel.shape[1], mel.device))
        if self.deblock:
            mel = without_steps(mel, size, self.deblock, noisiness(mel, size, expected))
        share = noisiness(mel, size, expected).repeat_interleave(size, dim=1)
        if self.texture:
            mel = mel + self.texture * share * lost
        if self.substitution:
            share = slow(share, self.frame_rate) * steadiness(mel, self.frame_rate)
            mel = mel + share * (fine - fine_fluctuation(mel, self.frame_rate))
        return mel.clamp_min(self.floor)

    def noise(self, frames: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Of the log-mel of one fixed white noise: what encoding and decoding removes from it [1, F, M], its fine
        fluctuation [1, F, M], and the roughness of what encoding and decoding leaves, a scalar.

        The log-mel of any stationary noise fluctuates alike. The encoder ignores what is removed, so decoded mels that
        contain it have the same tokens. All are computed once for clips, and once for each greater length.
        """
        clip, size = self.mel.frames, self.patch[0]
        total = max(frames, clip)
        if (total, device) not in self.noises:
            with torch.inference_mode(False), torch.no_grad():
                mel = noise_mel(self.mel, total, device)
                kept = self.project(self.encode(mel))
                lost = (mel - kept).unflatten(1, (-1, size))
                lost = (lost - lost[:, : clip // size].mean(dim=1, keepdim=True)).flatten(1, 2)
                fine = fine_fluctuation(mel, self.frame_rate)
                self.noises[total, device] = lost, fine, roughness(kept[:, :clip], size).mean()
        lost, fine, expected = self.noises[total, device]
        return lost[:, :frames], fine[:, :frames], expected

    def latents(self, tokens: Tensor) -> Tensor:
        """tokens [B, L, D] -> [B, Z, F', M'], for pictures: Z = D channels over the grid of patches."""
        return tokens.transpose(1, 2).unflatten(2, (-1, self.bands))


def without_steps(mel: Tensor, size: int, limit: float, noisy: Tensor) -> Tensor:
    """Limit the steps of mel [B, F, M] between stretches of ``size`` frames to ``limit``.

    noisy: [B, F', 1], from 0 for a tonal stretch to 1 for noise. A step of noise in a single band is part of its
    fluctuation and stays; one that neighbouring bands share beats at the rate of the stretches.

    A step is the difference across a border minus the mean of the differences just before and after it. The excess over
    the limit is spread over half a stretch on either side, as in the deblocking filters of video codecs. Steps of
    recordings also exist; they are kept unless an event falls on the border.
    """
    half = size // 2
    if half < 2 or mel.shape[1] < 2 * size:
        return mel
    borders = torch.arange(size, mel.shape[1], size, device=mel.device)
    before, after = mel[:, borders - 1], mel[:, borders]
    around = (before - mel[:, borders - 2] + mel[:, borders + 1] - after) / 2
    step = after - before - around
    noise, shared = torch.minimum(noisy[:, 1:], noisy[:, :-1]), broad(step)
    excess = (1 - noise) * (step - step.clamp(-limit, limit)) + noise * (shared - shared.clamp(-limit, limit))
    excess = excess[:, :, None]  # [B, borders, 1, M]
    ramp = (torch.arange(half, 0, -1, device=mel.device).to(mel)[:, None] - 0.5) / (2 * half)
    change = torch.cat((ramp.flip(0) * excess, -ramp * excess), dim=2).flatten(1, 2)
    smooth = mel.clone()
    smooth[:, size - half : borders[-1] + half] += change
    return smooth
