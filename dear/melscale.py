"""Slaney's mel scale (Auditory Toolbox, 1998): linear up to 1 kHz and logarithmic above, and its filters."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

STEP = np.log(6.4) / 27  # natural log of frequency per mel, above 1 kHz


def hertz_to_mel(hertz: ArrayLike) -> NDArray[np.float64]:
    hertz = np.asarray(hertz, dtype=np.float64)
    return np.where(hertz < 1000, 3 * hertz / 200, 15 + np.log(np.maximum(hertz, 1000) / 1000) / STEP)


def mel_to_hertz(mels: ArrayLike) -> NDArray[np.float64]:
    mels = np.asarray(mels, dtype=np.float64)
    return np.where(mels < 15, 200 * mels / 3, 1000 * np.exp(STEP * (mels - 15)))


def mel_filters(bins: int, bands: int, lowest: float, highest: float, sample_rate: int) -> NDArray[np.float64]:
    """Triangular filters [bins, M] from ``lowest`` to ``highest`` Hz, each of unit area over Hz.

    bins: those of a spectrum from 0 to half of ``sample_rate``, in Hz. bands: M.
    """
    edges = mel_to_hertz(np.linspace(hertz_to_mel(lowest), hertz_to_mel(highest), bands + 2))
    slopes = edges - np.linspace(0, sample_rate // 2, bins)[:, None]  # [bins, M + 2]
    widths = np.diff(edges)
    rising, falling = -slopes[:, :-2] / widths[:-1], slopes[:, 2:] / widths[1:]
    return np.maximum(0, np.minimum(rising, falling)) * (2 / (edges[2:] - edges[:-2]))
