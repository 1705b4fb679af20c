"""AudioLDM's autoencoder and vocoder in the classes of diffusers and transformers, which ``dear.vae`` and
``dear.vocoder`` wrap: untrained at the published size, or from a folder laid out as ``cvssp/audioldm-s-full-v2``.

The published weights are for non-commercial use (CC BY-NC-SA 4.0). Therefore a checkpoint names where they come from
and never holds them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dear.config import MelConfig

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
HIFIGAN = {
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


def autoencoder(folder: Path | None = None) -> nn.Module:
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


def hifigan(folder: Path | None = None) -> nn.Module:
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


def _load(kind: type[nn.Module], folder: Path, part: str, **options: Any) -> nn.Module:
    path = folder / FILES[part][1]
    try:
        network, told = kind.from_pretrained(
            folder,
            subfolder=part,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # told below, with the others
            **options,
        )
    except Exception as error:  # both libraries raise whatever their file readers raise
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} cannot be loaded ({type(error).__name__}: {reason}): download it again") from error
    wrong = [f"{name} is missing" for name in sorted(told["missing_keys"])]
    wrong += [f"{name} is unknown" for name in sorted(told["unexpected_keys"])]
    wrong += [f"{name} has shape {list(a)}, not {list(b)}" for name, a, b in sorted(told["mismatched_keys"])]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ValueError(f"{path} does not fit its config.json: {'; '.join(wrong[:3])}{more}")
    return network
