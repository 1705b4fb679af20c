"""Changes of a log-mel from token to token, as pure functions: generated sounds flicker where recordings are steady.

Broadband level is the mean of a log-mel over its bands, in natural-log units. A model that draws each token with a
level of its own makes textures beat at the rate of the tokens (12.5 Hz for 8 frames of 10 ms). A codec that smooths
the frames under a token loses texture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

TOKEN_FRAMES = 8


def tokens(mel: Tensor, frames: int = TOKEN_FRAMES) -> Tensor:
    """mel [B,F,M] -> [B,L,frames,M]; frames beyond the last whole token are left out.

    Raises ValueError for fewer than two tokens.
    """
    count = mel.shape[1] // frames if mel.ndim == 3 else 0
    if count < 2:
        raise ValueError(f"mel must be [B, F, M] with at least two tokens of {frames} frames, got {list(mel.shape)}")
    return mel[:, : count * frames].unflatten(1, (count, frames))


def level_step(mel: Tensor, frames: int = TOKEN_FRAMES) -> Tensor:
    """mel [B,F,M] -> [B]: mean absolute change of the broadband level from one token to the next."""
    return tokens(mel, frames).mean(dim=(2, 3)).diff(dim=1).abs().mean(dim=1)


def level_deviation(mel: Tensor, frames: int = TOKEN_FRAMES) -> Tensor:
    """mel [B,F,M] -> [B]: standard deviation over the clip of the tokens' broadband levels, such as the sea's swell."""
    return tokens(mel, frames).mean(dim=(2, 3)).std(dim=1, correction=0)


def band_step(mel: Tensor, frames: int = TOKEN_FRAMES) -> Tensor:
    """mel [B,F,M] -> [B]: mean absolute change of each band's level from one token to the next, over all bands."""
    return tokens(mel, frames).mean(dim=2).diff(dim=1).abs().mean(dim=(1, 2))


def within_token(mel: Tensor, frames: int = TOKEN_FRAMES) -> Tensor:
    """mel [B,F,M] -> [B]: standard deviation over the frames of a token, mean over tokens and bands."""
    return tokens(mel, frames).std(dim=2, correction=0).mean(dim=(1, 2))


FLICKER = {
    "level_step": level_step,
    "level_deviation": level_deviation,
    "band_step": band_step,
    "within_token": within_token,
}


def flicker(mel: Tensor, labels: Sequence[str], frames: int = TOKEN_FRAMES) -> dict[str, dict[str, float]]:
    """mel [B,F,M], B labels -> ``{label: {measure: mean over its clips}}``, in natural-log units, ready for JSON."""
    found = {name: measure(mel, frames) for name, measure in FLICKER.items()}
    return means(found, labels)


def means(found: Mapping[str, Tensor], labels: Sequence[str]) -> dict[str, dict[str, float]]:
    """``{measure: values [B]}``, B labels -> ``{label: {measure: mean over its clips}}``, rounded to four digits."""
    rows = {label: torch.tensor([each == label for each in labels]) for label in dict.fromkeys(labels)}
    return {
        label: {name: round(float(values[rows[label]].mean()), 4) for name, values in found.items()} for label in rows
    }
