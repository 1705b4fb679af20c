"""Properties of a waveform that its log-mel does not show: envelope beats and clean harmonics. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from dear.codec.mel import MelSpectrogram
from dear.config import MelConfig
from dear.evaluation.flicker import FLICKER, means
from dear.evaluation.judge.features import fit

ENVELOPE_RATE = 250  # Hz: a value of the envelope every 4 ms
BEATS = (10.0, 30.0)  # Hz: Griffin-Lim amplifies these rates in noise, which then sounds like an engine
WINDOW = 0.256  # seconds: bins are 3.9 Hz apart, which resolves harmonics 16 Hz apart
NEIGHBOURS = 101  # bins around a peak, whose median is the floor: 390 Hz
HARMONICS = 5
LEAST = 1e-12  # power, of the squared mean
QUIET = 40.0  # dB below the loudest frame; quieter frames are left out


def envelope_db(waveform: Tensor, sample_rate: int = 16_000, rates: tuple[float, float] = BEATS) -> Tensor:
    """waveform [B,S] -> [B]: power of the envelope's spectrum at ``rates`` (Hz), in dB of its squared mean.

    The envelope is the root mean square of 4 ms. A tone whose amplitude is modulated by a share m at a rate in the band
    gives 10 log10(m^2 / 2). The least value, that of silence, is -120 dB.
    Raises ValueError for less than half a second.
    """
    step = sample_rate // ENVELOPE_RATE
    if waveform.ndim != 2 or waveform.shape[1] < sample_rate // 2:
        raise ValueError(
            f"waveform must be [B, S] with at least {sample_rate // 2} samples, got {list(waveform.shape)}"
        )
    count = waveform.shape[1] // step
    envelope = waveform[:, : count * step].double().unflatten(1, (count, step)).square().mean(dim=2).sqrt()
    mean = envelope.mean(dim=1, keepdim=True)
    window = torch.hann_window(count, dtype=torch.float64, device=waveform.device)
    spectrum = torch.fft.rfft((envelope - mean) * window).abs().square() * 2 / (count * window.square().sum())
    frequency = torch.fft.rfftfreq(count, step / sample_rate)
    inside = (frequency >= rates[0]) & (frequency <= rates[1])
    power = spectrum[:, inside].sum(dim=1)
    return 10 * (power / mean[:, 0].square()).nan_to_num(nan=0).clamp_min(LEAST).log10()


def harmonic_ratio_db(waveform: Tensor, sample_rate: int = 16_000, harmonics: int = HARMONICS) -> Tensor:
    """waveform [B,S] -> [B]: level of the strongest spectral peaks above the floor around them, in dB.

    In each frame of 0.256 s, the mean over the ``harmonics`` strongest local maxima of their level above the
    median of the 101 bins around; then the mean over frames that are at most 40 dB below the loudest. A steady tone of
    amplitude A in white noise of variance s^2 gives 10 log10(A^2 (sum w)^2 / (4 s^2 ln 2 sum w^2)) for the window w.
    A rough tone, as of a vocoder that loses phase, has a higher floor.
    Raises ValueError for fewer samples than a frame.
    """
    size = round(WINDOW * sample_rate)
    if waveform.ndim != 2 or waveform.shape[1] < size:
        raise ValueError(f"waveform must be [B, S] with at least {size} samples, got {list(waveform.shape)}")
    window = torch.hann_window(size, dtype=torch.float64, device=waveform.device)
    frames = waveform.double().unfold(1, size, size // 2) * window  # [B, frames, size]
    level = 10 * torch.fft.rfft(frames).abs().square().clamp_min(1e-12).log10()
    side = NEIGHBOURS // 2
    around = nn.functional.pad(level, (side, side), mode="reflect").unfold(2, NEIGHBOURS, 1)
    inner = level[..., 1:-1]
    is_peak = (inner > level[..., :-2]) & (inner >= level[..., 2:])
    # The median is taken only around the strongest peaks, because over all bins it would be most of the work.
    strongest = torch.where(is_peak, inner, -math.inf).topk(harmonics, dim=2).indices + 1
    floor = around.gather(2, strongest[..., None].expand(-1, -1, -1, NEIGHBOURS)).median(dim=3).values
    above = (level.gather(2, strongest) - floor).mean(dim=2)
    energy = 10 * frames.square().sum(dim=2).clamp_min(1e-12).log10()
    loud = energy >= energy.amax(dim=1, keepdim=True) - QUIET
    return torch.where(loud, above, 0).sum(dim=1) / loud.sum(dim=1)


class Measured:
    """Passes waveforms on and measures each: flicker of its log-mel, beats of its envelope, purity of its harmonics."""

    def __init__(self, waveforms: Iterable[np.ndarray | Tensor], mel: MelConfig):
        """waveforms: each [S] at the mel's sample rate; they are looped or cropped to one clip to be measured."""
        self.waveforms = waveforms
        self.spectrogram = MelSpectrogram(mel)
        self.rows: list[dict[str, Tensor]] = []

    def __iter__(self) -> Iterator[np.ndarray | Tensor]:
        config = self.spectrogram.config
        for waveform in self.waveforms:
            clip = fit(waveform, config.frames * config.hop_length)[None]
            mel, rate = self.spectrogram(clip), config.sample_rate
            row = {name: measure(mel) for name, measure in FLICKER.items()}
            row |= {"envelope_db": envelope_db(clip, rate), "harmonic_db": harmonic_ratio_db(clip, rate)}
            self.rows.append(row)
            yield waveform

    def by_label(self, labels: Sequence[str]) -> dict[str, dict[str, float]]:
        """``{label: {measure: mean over its clips}}`` of the waveforms that were passed on, N labels."""
        return means({name: torch.cat([row[name] for row in self.rows]) for name in self.rows[0]}, labels)
