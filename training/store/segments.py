"""The ten-second protocol (Section 4.1): short sounds are padded with silence, long sounds are cut at random.

With a peak, the segment is then scaled as in AudioLDM's training data: ``normalize_wav`` in
``audioldm_train/utilities/data/dataset.py`` of haoheliu/AudioLDM-training-finetuning, for its VAE and its diffusion
model, subtracts the mean and scales to a peak of 0.5, after resampling and before padding.
"""

from __future__ import annotations

import math

import numpy as np

from dear.audio import read_sound
from training.data.manifest import Entry


def load_segment(
    entry: Entry, sample_rate: int, length: int, seed: int, index: int, variant: int = 0, peak: float = 0.0
) -> np.ndarray:
    """The sound of a manifest's entry as mono float32 [length] in [-1, 1] at ``sample_rate`` Hz.

    The segment of a longer sound depends on ``(seed, variant, index)`` alone; ``index`` is the entry's position in its
    manifest, ``variant`` an epoch or the number of a crop. Only this segment of the file is decoded.
    peak: scale to this peak without the mean; 0: unchanged. A constant sound becomes silence.
    Raises :class:`~dear.audio.AudioError` naming a file that can no longer be read.
    """

    def part(rate: int) -> tuple[int, int]:
        wanted = math.ceil(length * rate / sample_rate)
        first, whole = round(entry.start * rate), round(entry.duration * rate)
        if whole > wanted:
            first += int(np.random.default_rng([seed, variant, index]).integers(whole - wanted + 1))
        return first, min(whole, wanted)

    mono = read_sound(entry.path, sample_rate, part=part)[:length]
    if peak:
        mono = mono - mono.mean()
        mono *= peak / (np.abs(mono).max() + 1e-8)
    segment = np.zeros(length, dtype=np.float32)
    segment[: len(mono)] = mono.clip(-1, 1)
    return segment
