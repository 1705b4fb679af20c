"""Log-mel, codecs and vocoders: ``CODECS`` and ``VOCODERS`` list the kinds that a configuration may name.

A codec encodes a log-mel [B, F, M] as tokens [B, L, D] of about unit variance, and decodes them. A vocoder gives
F * hop samples for F frames, and the same samples for the same mel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from torch import nn

from dear.codec.base import Codec, Vocoder
from dear.config import ConfigError, MelConfig, VAEConfig, VocoderConfig
from dear.registry import load_kinds

T = TypeVar("T", bound=nn.Module)

CODECS: dict[str, type[Codec]] = load_kinds(
    {
        "patch": "dear.codec.patch:PatchVAE",
        "lapped": "dear.codec.lapped:LappedVAE",
        "conv": "dear.codec.conv:ConvVAE",
        "detail": "dear.codec.detail:DetailVAE",
        "audioldm": "dear.codec.audioldm:AudioLDMVAE",
    }
)
VOCODERS: dict[str, type[Vocoder]] = load_kinds(
    {
        "griffin-lim": "dear.codec.griffin_lim:GriffinLim",
        "mel-gain": "dear.codec.mel_gain:MelGain",
        "istft": "dear.codec.istft:ISTFTVocoder",
        "audioldm": "dear.codec.audioldm:AudioLDMVocoder",
    }
)


def build_vae(vae: VAEConfig, mel: MelConfig, folder: Path | None = None) -> Codec:
    """The codec that ``vae.kind`` names, untrained, or with the weights of ``folder`` where it has a source.

    Raises ConfigError for a kind that is not in ``CODECS``.
    """
    kind = _known("vae.kind", vae.kind, CODECS)
    return kind(vae, mel) if folder is None else kind(vae, mel, folder)


def build_vocoder(vocoder: VocoderConfig, mel: MelConfig, folder: Path | None = None) -> Vocoder:
    """The vocoder that ``vocoder.kind`` names, untrained, or with the weights of ``folder`` where it has a source.

    Raises ConfigError for a kind that is not in ``VOCODERS``.
    """
    kind = _known("vocoder.kind", vocoder.kind, VOCODERS)
    return kind(vocoder, mel) if folder is None else kind(vocoder, mel, folder)


def _known(name: str, kind: str, kinds: Mapping[str, type[T]]) -> Callable[..., T]:
    if kind not in kinds:
        raise ConfigError(f"{name} must be one of {', '.join(kinds)}, got {kind!r}")
    return kinds[kind]
