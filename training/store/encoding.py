"""Encoding with the codec and the text encoder that a configuration names."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch

from dear.checkpoint import load_codec, load_config
from dear.codec import CODECS
from dear.codec.base import Codec
from dear.codec.griffin_lim import GriffinLimConfig
from dear.codec.mel import MelSpectrogram
from dear.conditioning import build_text_encoder
from dear.config import Config, ConfigError
from training.data.manifest import Entry
from training.store.sharding import EncodeConfig, encode


def load_vae(config: Config, codec: Path | None, device: torch.device) -> Codec:
    """The codec of the checkpoint ``codec``, or the codec whose source the configuration names.

    Raises ConfigError where a codec that is trained here has no checkpoint, or one with other token shapes;
    CheckpointError where its weights can't be read.
    """
    if codec is None:
        if not CODECS[config.vae.kind].files:
            raise ConfigError(f"codec must name a checkpoint with weights for vae.kind {config.vae.kind!r}, got none")
        found = config
    else:
        found = load_config(codec)
        wanted = (config.mel, config.vae.patch_frames, config.vae.patch_mels, config.vae.token_dim)
        if (found.mel, found.vae.patch_frames, found.vae.patch_mels, found.vae.token_dim) != wanted:
            raise ConfigError(f"codec {codec} must have the mel, patch and token_dim of the configuration; it differs")
    # Encoding needs no vocoder, and Griffin-Lim needs no weights.
    vae, _ = load_codec(codec or Path(), dataclasses.replace(found, vocoder=GriffinLimConfig()), device)
    return vae


def encode_for(
    model: Config,
    entries: Sequence[Entry],
    folder: Path,
    codec: Path | None,
    device: torch.device,
    config: EncodeConfig,
    worker: tuple[int, int],
    precision: torch.dtype = torch.float32,
) -> bool:
    """:func:`training.store.sharding.encode` with the encoders that a model names.

    codec: as in :func:`load_vae`. precision: of the text encoders.
    """
    vae, mel = load_vae(model, codec, device), MelSpectrogram(model.mel).to(device)
    wordless = any(entry.captions is None for entry in entries)
    text_encoder = build_text_encoder(model.conditioning, device, precision, audio=wordless)
    return encode(entries, folder, vae, mel, text_encoder, config, worker, model.vae.peak)
