"""Fitting and training of codecs: the linear patch codec, its refinement, and the ISTFT vocoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from dear.codec.conv import ConvConfig, ConvVAE
from dear.codec.detail import DetailConfig
from dear.codec.istft import ISTFTVocoder
from dear.codec.lapped import LappedConfig, LappedVAE
from dear.codec.mel import MelSpectrogram
from dear.codec.patch import PatchConfig, PatchVAE
from dear.config import MelConfig, VAEConfig, as_kind
from training.cache.tokens import weights_digest
from training.data.scenes import SceneSource

TOKEN_NOISE = 0.05  # standard deviation of the noise on tokens in training; that of tokens is about 1
EDGE_WEIGHT = 0.3  # of the differences in the refinement's loss
MEL_WEIGHT = 1.0  # of the mel in the vocoder's loss
MAGNITUDE_WEIGHT = 20.0  # of linear magnitudes beside logarithms in the vocoder's loss
WINDOWS = (2048, 1024, 512, 256, 128)  # samples, of the spectral energy distance
NOISES = 64  # sounds of white noise that a lapped codec is fitted to
CROPS = 4  # crops of each composed scene for the vocoder


def linear_codec(vae: VAEConfig, mel: MelConfig) -> PatchVAE:
    """A linear codec with the sizes of ``vae``, not yet fitted: lapped if that is its kind, otherwise plain patches."""
    return LappedVAE(vae, mel) if isinstance(vae, LappedConfig) else PatchVAE(vae, mel)


def linear_part(vae: VAEConfig) -> VAEConfig:
    """The configuration of the linear codec that the codec of ``vae`` is built around."""
    if isinstance(vae, ConvConfig):
        return as_kind(vae, PatchConfig)
    if isinstance(vae, DetailConfig):
        return replace(as_kind(vae, LappedConfig), token_dim=vae.token_dim + vae.detail_dim)
    return vae


def leading(codec: LappedVAE, vae: LappedConfig, mel: MelConfig) -> LappedVAE:
    """The lapped codec of the first ``vae.token_dim`` channels of a fitted one."""
    built, size = LappedVAE(vae, mel), vae.token_dim
    built.mean.copy_(codec.mean)
    built.components.copy_(codec.components[:, :size])
    built.scale.copy_(codec.scale[:size])
    built.synthesis.copy_(codec.synthesis[:size])
    return built


@torch.no_grad()
def fit_patch_vae(mels: Tensor, vae: VAEConfig, mel: MelConfig, exponent: float = 0.5, batch: int = 64) -> PatchVAE:
    """Fit a linear codec, patch or lapped, to mels [N, F, M] by principal components, in float64; no randomness.

    Component i with standard deviation s_i is scaled by ``s_i ** -exponent`` (0: the raw coefficients, 1: whitened),
    then all by one factor that gives the tokens of these mels unit mean square. Each component's sign makes its
    largest entry positive. ``batch`` mels are held in float64 at a time.

    The components of a lapped codec span the same patches; within this span, they are those of the data after noise
    is whitened, so that both data and noise are uncorrelated in them, and s_i is in units of the noise.

    Raises ValueError where there are fewer patches than token dimensions.
    """
    codec = linear_codec(vae, mel)
    size = codec.mean.numel()
    total, square, count = torch.zeros(size, dtype=torch.float64), torch.zeros(size, size, dtype=torch.float64), 0
    # A first estimate of the mean keeps the one-pass covariance free of cancellation.
    origin = codec.patches(mels[:1]).double().mean(dim=(0, 1))
    for chunk in mels.split(batch):
        patches = codec.patches(chunk).flatten(0, 1).double() - origin
        total += patches.sum(0)
        square += patches.T @ patches
        count += len(patches)
    if count < vae.token_dim:
        raise ValueError(f"mels must hold at least {vae.token_dim} patches, got {count}")
    offset = total / count
    variance, vectors = torch.linalg.eigh(square / count - torch.outer(offset, offset))
    variance, vectors = variance.flip(0)[: vae.token_dim], vectors.flip(1)[:, : vae.token_dim]
    synthesis = vectors.T
    if isinstance(codec, LappedVAE):
        lower = torch.linalg.cholesky(synthesis @ noise_covariance(codec, mel) @ vectors)
        whitened = torch.linalg.solve_triangular(lower, variance.sqrt().diag(), upper=False)
        variance, turn = torch.linalg.eigh(whitened @ whitened.T)
        variance, turn = variance.flip(0), turn.flip(1)
        vectors = vectors @ torch.linalg.solve_triangular(lower, torch.eye(len(lower)).to(lower), upper=False).T @ turn
        synthesis = turn.T @ lower.T @ synthesis
    sign = vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()
    # Directions without variance would get an unbounded scale under a positive exponent.
    deviation = variance.clamp_min(1e-8 * variance[0].item()).sqrt()
    scale = deviation**-exponent
    scale = scale / (deviation * scale).square().mean().sqrt()
    codec.mean.copy_(origin + offset)
    codec.components.copy_(vectors * sign)
    codec.scale.copy_(scale)
    if isinstance(codec, LappedVAE):
        codec.synthesis.copy_(synthesis * sign.T)
    return codec


@torch.no_grad()
def noise_covariance(codec: PatchVAE, mel: MelConfig) -> Tensor:
    """Covariance [P, P] of the codec's patches of white noise about their mean, float64.

    In log-mels, the fluctuation of noise depends neither on its level nor, within a band, on its colour.
    """
    noise = torch.randn(NOISES, mel.frames * mel.hop_length, generator=torch.Generator().manual_seed(0))
    # The first and last frames see the padding.
    patches = codec.patches(MelSpectrogram(mel)(0.1 * noise))[:, 1:-1].double()
    patches = (patches - patches.mean(dim=(0, 1))).flatten(0, 1)
    return patches.T @ patches / len(patches)


@torch.no_grad()
def measure_codec(codec: PatchVAE, mels: Tensor, batch: int = 16) -> dict[str, float]:
    """Reconstruction of mels [N, F, M]: ``l1`` (natural log), ``bias`` (mean error), and ``detail``.

    ``detail`` is the mean absolute difference of neighbouring bins in time and frequency over that of the originals:
    1 keeps all texture, less is over-smoothed.
    """
    chunks = [mel.to(codec.mean.device) for mel in mels.split(batch)]
    pairs = [(mel, codec.decode(codec.encode(mel))) for mel in chunks]
    error = torch.cat([(decoded - mel).flatten() for mel, decoded in pairs])
    texture = [sum(sum(d.abs().sum() for d in _differences(x, 1)) for x in side) for side in zip(*pairs, strict=True)]
    return {
        "l1": error.abs().mean().item(),
        "bias": error.mean().item(),
        "detail": float(texture[1] / texture[0]),
    }


@torch.no_grad()
def measure_vocoder(vocoder: nn.Module, spectrogram: MelSpectrogram, mels: Tensor, batch: int = 8) -> dict[str, float]:
    """mels [N, F, M] -> sound -> mel: ``l1`` (natural log) and ``bias`` (mean error) against the input.

    ``spectrogram`` lies on the device of ``vocoder``.
    """
    chunks = [mel.to(spectrogram.window.device) for mel in mels.split(batch)]
    error = torch.cat([(spectrogram(vocoder(mel)) - mel).flatten() for mel in chunks])
    return {"l1": error.abs().mean().item(), "bias": error.mean().item()}


C = TypeVar("C", bound=PatchVAE)


class CodecTask(Generic[C]):
    """The batches of a :class:`training.engine.task.Task` that trains a codec on the mels of scenes."""

    def __init__(self, codec: C, scenes: SceneSource, mel: MelConfig, batch_size: int, held_out: Tensor):
        """scenes: the training data, each scene used once. held_out: mels [N, F, M] to validate on."""
        self.module = codec
        self.scenes = scenes
        self.spectrogram = MelSpectrogram(mel)
        self.batch_size = batch_size
        self.held_out = held_out
        self.settings = {"initial": weights_digest(codec), "scenes": scenes.settings}

    def batch(self, step: int, items: slice = slice(None)) -> dict[str, Tensor]:
        scenes = range(step * self.batch_size, (step + 1) * self.batch_size)[items]
        waves = [torch.from_numpy(self.scenes.scene(scene).waveform) for scene in scenes]
        return {"mel": self.spectrogram(torch.stack(waves))}


class RefineCodec(CodecTask[ConvVAE]):
    """A :class:`training.engine.task.Task`: train the refinement of a linear codec to restore what the components lose.

    Loss: L1 on the log-mel, plus L1 on its differences over 1, 2 and 4 frames and bands, so that edges and harmonics
    count more than levels. The tokens have a little noise in training, as generated tokens do.
    """

    def loss(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        mel = batch["mel"]
        tokens = self.module.encode(mel)
        noise = torch.randn(tokens.shape, generator=generator).to(tokens)
        error = self.module.refined(tokens + TOKEN_NOISE * noise) - mel
        # Values below the floor decode to the floor, so only values above it are errors.
        error = torch.where(mel <= self.module.floor, error.clamp_min(0), error)
        level = error.abs().mean()
        edges = sum(d.abs().mean() for reach in (1, 2, 4) for d in _differences(error, reach)) / 6
        return {"loss": level + EDGE_WEIGHT * edges, "l1": level.detach()}

    def validate(self) -> dict[str, float]:
        return measure_codec(self.module, self.held_out)


class TrainVocoder:
    """A :class:`training.engine.task.Task`: train the ISTFT vocoder on short crops of scenes.

    Loss: the spectral energy distance (Gritsenko et al. 2020) over several window lengths, which scores the
    distribution of the sounds, not their mean, plus the L1 between the mel of the sound and the input mel.
    """

    def __init__(self, vocoder: ISTFTVocoder, scenes: SceneSource, mel: MelConfig, batch_size: int, held_out: Tensor):
        """batch_size: crops per step, a multiple of 4. held_out: mels [N, F, M] for :meth:`validate`."""
        if batch_size % CROPS:
            raise ValueError(f"batch_size must be a multiple of {CROPS}, got {batch_size}")
        self.module = vocoder
        self.scenes = scenes
        self.spectrogram = MelSpectrogram(mel)  # of the scenes, on the CPU
        self.hearing = MelSpectrogram(mel)  # of generated waveforms, on the device of the vocoder
        self.frames = min(mel.sample_rate // mel.hop_length, mel.frames)  # of one crop: a second
        self.batch_size = batch_size
        self.held_out = held_out
        self.settings = {"initial": weights_digest(vocoder), "scenes": scenes.settings}

    def batch(self, step: int, items: slice = slice(None)) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(step)
        waves, mels = [], []
        count = self.batch_size // CROPS
        for index in range(step * count, (step + 1) * count):
            wave = torch.from_numpy(self.scenes.scene(index).waveform)
            mel, hop = self.spectrogram(wave[None])[0], self.spectrogram.config.hop_length
            for start in torch.randint(len(mel) - self.frames + 1, (CROPS,), generator=generator).tolist():
                mels.append(mel[start : start + self.frames])
                waves.append(wave[start * hop : (start + self.frames) * hop])
        return {"mel": torch.stack(mels[items]), "waveform": torch.stack(waves[items])}

    def loss(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        mel, real = batch["mel"], batch["waveform"]
        frames = self.module.frames
        made = [self.module.synthesise(mel, frames.noise(mel.shape[1], generator, len(mel))) for _ in range(2)]
        distance = spectral_energy_distance(real, *made)
        self.hearing.to(mel.device)
        # The windows of frames at the edge of the crop reached into samples outside it when the mel was made.
        inner = slice(4, -4)
        level = sum((self.hearing(wave)[:, inner] - mel[:, inner]).abs().mean() for wave in made) / 2
        return {"loss": distance + MEL_WEIGHT * level, "distance": distance.detach(), "mel": level.detach()}

    def validate(self) -> dict[str, float]:
        return measure_vocoder(self.module, self.hearing, self.held_out)


def spectral_energy_distance(real: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """real, first, second [B, S], the latter two made from independent noise -> scalar.

    ``d(real, first) + d(real, second) - d(first, second)``: minimal in expectation if generated and real waveforms have
    the same distribution.
    """
    total = real.new_zeros(())
    for window in WINDOWS:
        if window <= real.shape[1]:
            x, y, z = (_spectrum(wave, window) for wave in (real, first, second))
            total = total + _distance(x, y) + _distance(x, z) - _distance(y, z)
    return total / len(WINDOWS)


def _spectrum(waveform: Tensor, window: int) -> Tensor:
    taper = torch.hann_window(window, device=waveform.device)
    spectrum = torch.stft(waveform, window, window // 4, window=taper, center=False, return_complex=True)
    # abs() has no gradient problem at zero, but its logarithm needs a floor: -80 dB of a full-scale sine.
    return (spectrum.abs() * (2 / window)).clamp_min(1e-4)


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """a, b [B, bins, frames] magnitudes -> scalar: L1 of magnitudes and, per frame, L2 of logarithms."""
    logs = torch.linalg.vector_norm(a.log() - b.log(), dim=1) / a.shape[1] ** 0.5
    return MAGNITUDE_WEIGHT * (a - b).abs().mean() + logs.mean()


def _differences(x: Tensor, reach: int) -> tuple[Tensor, Tensor]:
    """x [B, F, M] -> its differences over ``reach`` frames and over ``reach`` bands."""
    return x[:, reach:] - x[:, :-reach], x[:, :, reach:] - x[:, :, :-reach]
