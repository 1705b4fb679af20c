"""AudioLDM's autoencoder and vocoder, around the classes of diffusers and transformers.

They are untrained at the published size, or come from a folder laid out as ``cvssp/audioldm-s-full-v2``.
The published weights are for non-commercial use (CC BY-NC-SA 4.0), so a checkpoint names their source and never holds
them.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from dear.codec.base import Codec, Vocoder
from dear.codec.convolution import accelerate, in_groups
from dear.codec.frames import limit
from dear.config import ConfigError, MelConfig, VAEConfig, VocoderConfig
from dear.settings import Range

SOURCE = "cvssp/audioldm-s-full-v2"

# First the configuration, then the weights, in the subfolder of the part's name.
FILES = {
    "vae": ("vae/config.json", "vae/diffusion_pytorch_model.safetensors"),
    "vocoder": ("vocoder/config.json", "vocoder/model.safetensors"),
}

# `first_stage_config` in diffusers' scripts/convert_original_audioldm_to_diffusers.py, which wrote the published files;
# the scaling factor, learnt with each AudioLDM model, is that of vae/config.json in cvssp/audioldm-s-full-v2 (feeb3d1).
AUTOENCODER = {
    "in_channels": 1,
    "out_channels": 1,
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "block_out_channels": (128, 256, 512),
    "layers_per_block": 2,
    "latent_channels": 8,
    "norm_num_groups": 32,
    "sample_size": 512,
    "scaling_factor": 0.9392935633659363,
}

# `vocoder_config` and `create_transformers_vocoder_config` in the same script; the slope is LRELU_SLOPE of AudioLDM's
# audioldm/hifigan/models.py.
HIFIGAN: dict[str, Any] = {
    "model_in_dim": 64,
    "sampling_rate": 16000,
    "upsample_initial_channel": 1024,
    "upsample_rates": (5, 4, 2, 2, 2),
    "upsample_kernel_sizes": (16, 16, 8, 4, 4),
    "resblock_kernel_sizes": (3, 7, 11),
    "resblock_dilation_sizes": ((1, 3, 5), (1, 3, 5), (1, 3, 5)),
    "leaky_relu_slope": 0.1,
    "normalize_before": False,
}


@dataclass(frozen=True)
class AudioLDMVAEConfig(VAEConfig):
    kind: str = "audioldm"
    patch_frames: Annotated[int, Range(1, 256)] = 16  # 4 latents of 4 frames
    patch_mels: Annotated[int, Range(1, 512)] = 16  # 4 latents of 4 bins
    source: str = SOURCE  # owner/name on the Hub, or a folder that holds vae/

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_source("vae", self.source)


@dataclass(frozen=True)
class AudioLDMVocoderConfig(VocoderConfig):
    kind: str = "audioldm"
    source: str = SOURCE  # owner/name on the Hub, or a folder that holds vocoder/

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_source("vocoder", self.source)


def _check_source(section: str, source: str) -> None:
    if not source:
        raise ConfigError(f"{section}.source must be owner/name on the Hub or a folder, got ''")


class AudioLDMVAE(Codec):
    """AudioLDM's frozen autoencoder, kind "audioldm": the paper's (Section 4.1).

    Latents [B, Z, F / 4, M / 4] are the mean of the posterior times the scaling factor of the autoencoder's own
    configuration, which gives them about unit variance. The mean is used instead of a sample, because it decodes best,
    gives each sound one token sequence, and avoids a cached noise sample that a model would memorise. (AudioLDM's own
    trainer draws a sample at every step; the paper does not say.)

    A token is a patch of patch_frames x patch_mels mel values, hence of 4 x 4 latents: D = Z * 4 * 4 values, channels
    outermost, then time, then frequency. Tokens are ordered by time, then by frequency, as ``Config.grid`` says.

    folder: where the files lie; None: untrained, at the published size.
    Raises ValueError where the files are not such an autoencoder, or the patch or D does not fit it.
    """

    Config = AudioLDMVAEConfig
    files = FILES["vae"]

    def __init__(self, vae: AudioLDMVAEConfig, mel: MelConfig, folder: Path | None = None):
        super().__init__()
        check_mel(mel)
        self.network = accelerate(autoencoder(folder).requires_grad_(False))
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
            parts = "{} latent channels x {} x {}".format(*self.patch)
            raise ValueError(f"vae.token_dim must be {math.prod(self.patch)} ({parts}), got {vae.token_dim}")
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


class AudioLDMVocoder(Vocoder):
    """AudioLDM's frozen HiFi-GAN, kind "audioldm": the paper's.

    folder: where the files lie; None: untrained, at the published size.
    Raises ValueError where the files are not such a vocoder, or it is not one for this mel.
    """

    Config = AudioLDMVocoderConfig
    files = FILES["vocoder"]

    def __init__(self, vocoder: AudioLDMVocoderConfig, mel: MelConfig, folder: Path | None = None):
        super().__init__()
        check_mel(mel)
        self.network = accelerate(hifigan(folder).requires_grad_(False))
        self.hop = mel.hop_length
        config = self.network.config
        found = (config.model_in_dim, math.prod(config.upsample_rates), config.sampling_rate)
        if found != (mel.n_mels, mel.hop_length, mel.sample_rate):
            form = "{} mel bins, {} samples a frame and {} Hz"
            wanted = form.format(mel.n_mels, mel.hop_length, mel.sample_rate)
            raise ValueError(f"vocoder.source must hold a vocoder of {wanted}, got {form.format(*found)}")

    def forward(self, mel: Tensor) -> Tensor:
        """mel [B, F, M] log-mel -> waveform [B, F * hop] float32 in [-1, 1]."""
        # A kernel of 16 over a stride of 5 makes the network write 32 samples more than F * hop. As in AudioLDM's own
        # pipeline, the first ones count.
        return limit(in_groups(self.network, mel.float())[:, : mel.shape[1] * self.hop])


def autoencoder(folder: Path | None = None) -> Any:
    """diffusers' AutoencoderKL from ``folder``; None: untrained, as published, the same each time.

    Raises ValueError naming the file and what is wrong.
    """
    if folder is not None:
        _check(folder, "vae", "AutoencoderKL")
    from diffusers import AutoencoderKL  # here, as diffusers takes seconds

    if folder is None:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            return AutoencoderKL(**AUTOENCODER)
    # The published file has the names that attention had in 2023; from_pretrained knows them.
    return _load(AutoencoderKL, folder, "vae", torch_dtype=torch.float32)


def hifigan(folder: Path | None = None) -> Any:
    """transformers' SpeechT5HifiGan from ``folder``; None: untrained, as published, the same each time.

    The published weights are already folded (AudioLDM removes the weight norm where it builds its vocoder), and the
    class builds plain convolutions: there is no weight norm to remove, and ``remove_weight_norm`` would raise.
    Raises ValueError naming the file and what is wrong.
    """
    if folder is not None:
        described = _check(folder, "vocoder", "SpeechT5HifiGan")
    from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

    if folder is None:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            return SpeechT5HifiGan(SpeechT5HifiGanConfig(**HIFIGAN))
    # The published file says `hifigan`, the type's name of 2023, of which from_pretrained would warn.
    described["model_type"] = SpeechT5HifiGanConfig.model_type
    config = SpeechT5HifiGanConfig.from_dict(described)
    return _load(SpeechT5HifiGan, folder, "vocoder", config=config, dtype=torch.float32)


def check_mel(mel: MelConfig) -> None:
    """Raises ValueError where ``mel`` is not what AudioLDM's networks were trained on: the default MelConfig."""
    usual = MelConfig()
    for name in ("sample_rate", "n_fft", "hop_length", "n_mels", "f_min", "f_max", "floor"):
        if getattr(mel, name) != getattr(usual, name):
            raise ValueError(f"mel.{name} must be {getattr(usual, name)} for AudioLDM, got {getattr(mel, name)!r}")


def _check(folder: Path, part: str, wanted: str) -> dict[str, Any]:
    """The configuration of ``part``, which names the wanted class: the libraries would load any other, too."""
    path = folder / FILES[part][0]
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        found = described.get("_class_name") or (described.get("architectures") or [None])[0]
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} cannot be read ({error}): download it again") from None
    if found != wanted:
        raise ValueError(f"{path} must describe {wanted}, got {found!r}")
    return described


def _load(kind: Any, folder: Path, part: str, **options: Any) -> nn.Module:
    path = folder / FILES[part][1]
    try:
        network, report = kind.from_pretrained(
            folder,
            subfolder=part,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below, with the others
            **options,
        )
    except Exception as error:  # both libraries raise whatever their file readers raise
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} cannot be loaded ({type(error).__name__}: {reason}): download it again") from error
    wrong = [f"{name} is missing" for name in sorted(report["missing_keys"])]
    wrong += [f"{name} is unknown" for name in sorted(report["unexpected_keys"])]
    wrong += [f"{name} has shape {list(a)}, not {list(b)}" for name, a, b in sorted(report["mismatched_keys"])]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ValueError(f"{path} does not fit its config.json: {'; '.join(wrong[:3])}{more}")
    return network
