"""Preparation of recordings for scenes: they are cut to their audible part and measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training.data.clips import Clip, DataError, load_waveform
from training.data.vocabulary import SOUNDS

SHORTEST_TICK = 0.15  # seconds between two ticks of a clock, at least


@dataclass(frozen=True)
class Material:
    """The audible part of one clip, with a peak of 1."""

    audio: np.ndarray  # [S] float32, silent head and tail removed
    presence: np.ndarray  # [frames of 10 ms] float32: 1 where something was recorded, 0 in digital silence
    levels: np.ndarray  # [frames of 10 ms] RMS
    ambience: np.ndarray  # [257] magnitude per bin of white noise with unit variance
    period: int  # samples after which the sound resembles itself most, at least half of it
    ticks: int  # equal parts of a period that resemble each other


class Materials:
    """Clip -> material, prepared on first use and cached: 0.35 MB for 5 seconds at 16 kHz.

    Copies for other processes start empty.
    """

    def __init__(self, rate: int):
        self.rate = rate  # samples a second of what is kept
        self._kept: dict[Path, Material] = {}

    def __getitem__(self, clip: Clip) -> Material:
        """Raises DataError naming a recording that is broken or silent."""
        if clip.path not in self._kept:
            self._kept[clip.path] = prepare(load_waveform(clip, self.rate), self.rate, clip)
        return self._kept[clip.path]

    def __getstate__(self) -> dict[str, Any]:
        return {"rate": self.rate, "_kept": {}}


def frame_levels(audio: np.ndarray, frame: int) -> np.ndarray:
    """audio [S] -> RMS of each whole or partial frame."""
    padded = np.pad(audio, (0, -len(audio) % frame))
    return np.sqrt(np.square(padded.reshape(-1, frame)).mean(axis=1))


def prepare(audio: np.ndarray, rate: int, clip: Clip) -> Material:
    """Cut a recording [S] to its event, or a texture to its recorded part, and take the measurements for scenes.

    Raises DataError naming a silent one.
    """
    peak = np.abs(audio).max()
    if peak < 1e-4:
        raise DataError(f"{clip.path} is silent")
    audio = audio / peak
    frame = rate // 100
    habit = SOUNDS[clip.sound].habit
    texture = habit.texture
    levels = frame_levels(audio, frame)
    recorded = levels > max(levels.max() * 1e-4, 3e-5)
    ambience = _ambience(audio, levels, recorded, frame)
    # An event ends where it is 40 dB below its loudest, or near the ambience; a texture at digital silence only.
    room = np.quantile(levels[recorded], 0.05)
    threshold = levels.max() * 3e-4 if texture else max(levels.max() * 0.01, min(2 * room, levels.max() * 0.03))
    loud = np.flatnonzero(levels > threshold)
    before, after = (0, 0) if texture else (8, 20)
    first, last = max(loud[0] - before, 0), min(loud[-1] + 1 + after, len(levels))
    audio, levels, recorded = audio[first * frame : last * frame], levels[first:last], recorded[first:last]
    spread = np.convolve(recorded, np.ones(3), mode="same") > 0  # fades lie in the silence, never on an attack
    period, ticks = _period(audio, rate) if habit.periodic else (len(audio), 1)
    return Material(
        audio=np.ascontiguousarray(audio, dtype=np.float32),
        presence=spread.astype(np.float32),
        levels=levels,
        ambience=ambience,
        period=period,
        ticks=ticks,
    )


def _ambience(audio: np.ndarray, levels: np.ndarray, recorded: np.ndarray, frame: int) -> np.ndarray:
    """Magnitudes [257] of the noise between events, from the quietest stretches overall or at each frequency."""
    window = np.hanning(512).astype(np.float32)
    stretch = -(-512 // frame)  # frames under one window
    starts = np.flatnonzero(np.convolve(recorded, np.ones(stretch), mode="valid") == stretch)
    starts = starts[starts * frame + 512 <= len(audio)]
    if len(starts) < 3:
        return np.zeros(257, np.float32)
    pieces = np.stack([audio[start * frame : start * frame + 512] for start in starts]) * window
    power = np.square(np.abs(np.fft.rfft(pieces, axis=1))) / np.square(window).sum()
    # The quietest tenth is skipped, since it may be an editor's fade.
    order = np.argsort(power.mean(axis=1))[len(starts) // 10 : max(len(starts) // 4, len(starts) // 10 + 2)]
    # Of exponentially distributed powers the 15th percentile is 0.163 of the mean; it sees noise between harmonics.
    power = np.minimum(power[order].mean(axis=0), np.quantile(power, 0.15, axis=0) / 0.163)
    smoothing = np.hanning(19) / np.hanning(19).sum()
    power = np.exp(np.convolve(np.pad(np.log(power + 1e-20), 9, mode="edge"), smoothing, mode="valid"))
    # A clip cut tightly around its event has no ambience: its quietest part still belongs to the event.
    relative = power.mean() / np.square(levels).max()
    trusted = 1e-2 if np.count_nonzero(recorded) > 250 else 1e-3
    return np.sqrt(power * (1.0 if relative < trusted else 3e-5 / relative)).astype(np.float32)


def _period(audio: np.ndarray, rate: int) -> tuple[int, int]:
    """Lag in samples, 45 to 85 % of the length, at which the envelope [S] correlates best with itself, and into how
    many parts it divides that follow each other nearly as well (a clock's ticks, or pairs of tick and tock)."""
    hop = rate // 500
    envelope = np.sqrt(frame_levels(np.diff(audio), hop))
    envelope = np.convolve(envelope, np.hanning(7), mode="same")
    lags = range(int(0.45 * len(envelope)), int(0.85 * len(envelope)))

    def likeness(lag: int) -> float:
        return np.corrcoef(envelope[lag:], envelope[:-lag])[0, 1]

    period = max(lags, key=likeness)
    most = max(1, int(period * hop / (SHORTEST_TICK * rate)))
    alike = [parts for parts in range(1, most + 1) if likeness(round(period / parts)) > 0.8 * likeness(period)]
    return hop * period, max(alike)
