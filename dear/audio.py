"""Read sounds from files, check them, mix them to mono, resample them, and fit them to a clip."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

MAX_PEAK = 2.0  # decoders overshoot 1 a little; beyond this the samples are not in [-1, 1] at all


class AudioError(ValueError):
    """A file that can't be read as a sound."""


def read_sound(path: str | Path, sample_rate: int) -> np.ndarray:
    """A file's sound as mono float32 [S] at ``sample_rate`` Hz. Raises :class:`AudioError` naming a broken file."""
    import soundfile

    try:
        waveform, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (OSError, RuntimeError) as error:
        raise AudioError(f"{path} can't be read as a sound: {error}") from None
    if not (len(waveform) and np.isfinite(waveform).all()):
        raise AudioError(f"{path} must hold a finite sound of at least one sample")
    return np.ascontiguousarray(resample(waveform.mean(axis=1), rate, sample_rate), dtype=np.float32)


def read_channels(path: str | Path, longest: float) -> tuple[np.ndarray, int]:
    """A file's sound as it is: float32 [C, S], and its rate in Hz.

    longest: seconds; a file that says it holds more is refused before it is decoded. Raises :class:`AudioError`.
    """
    import soundfile

    path = Path(path)
    if path.is_file() and not path.stat().st_size:
        raise AudioError(f"{path.name} must hold a sound, got an empty file of 0 bytes")
    try:
        with soundfile.SoundFile(path) as file:
            seconds = file.frames / file.samplerate
            if seconds > longest:
                raise AudioError(
                    f"{path.name} must be at most {duration(longest)} long, got {duration(seconds)}: cut it first"
                )
            samples, rate = file.read(dtype="float32", always_2d=True), file.samplerate
    except (OSError, RuntimeError, TypeError):  # TypeError: of a name that ends in .raw
        raise AudioError(f"{path.name} must be a sound as WAV, FLAC, MP3, OGG or AIFF, and can't be read") from None
    if not len(samples):
        raise AudioError(f"{path.name} must hold a sound, got one of 0 samples")
    return np.ascontiguousarray(samples.T), rate


def duration(seconds: float) -> str:
    """``seconds`` in words: 12.3 seconds, 2 minutes, 1.5 hours."""
    size, unit = next((pair for pair in ((3600, "hour"), (60, "minute")) if seconds >= pair[0]), (1, "second"))
    number = f"{seconds / size:.3g}"
    return f"{number} {unit}" + ("" if number == "1" else "s")


def resample(waveform: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """waveform [S] at ``rate`` Hz -> [S'] at ``wanted`` Hz."""
    if rate == wanted:
        return waveform
    from scipy.signal import resample_poly

    divisor = math.gcd(rate, wanted)
    return resample_poly(waveform, wanted // divisor, rate // divisor)


def check_audio(audio: object) -> np.ndarray:
    """[S] or [C, S], floating or int16 -> [C, S] float64 in about [-1, 1]."""
    if isinstance(audio, Tensor):
        audio = audio.detach().cpu()
        audio = (audio.float() if audio.is_floating_point() else audio).numpy()
    if not isinstance(audio, np.ndarray) or not (audio.dtype.kind == "f" or audio.dtype == np.int16):
        kind = f"{audio.dtype} array" if isinstance(audio, np.ndarray) else type(audio).__name__
        raise ValueError(f"audio must be an array or tensor of floating or int16 samples, got {kind}")
    samples = audio[None] if audio.ndim == 1 else audio
    if samples.ndim != 2 or not 1 <= samples.shape[0] <= min(64, samples.shape[1]):
        raise ValueError(f"audio must have the shape [S] or [C, S] with samples last, got {list(audio.shape)}")
    samples = samples / 32768 if samples.dtype == np.int16 else samples.astype(np.float64)
    peak = np.abs(samples).max()
    if not peak <= MAX_PEAK:
        raise ValueError(f"audio must hold finite samples in [-1, 1], got a peak of {peak:g}")
    return samples


def fit_clip(samples: np.ndarray, rate: int, wanted_rate: int, length: int) -> Tensor:
    """[C, S] at ``rate`` -> mono [length] float32 in [-1, 1] at ``wanted_rate``, cropped or padded with silence."""
    # One second more than the clip: enough for the filter, and hours of sound are not resampled for ten seconds.
    mono = samples[:, : int((length / wanted_rate + 1) * rate)].mean(axis=0)
    mono = resample(mono, rate, wanted_rate)
    clip = np.zeros(length, dtype=np.float32)
    clip[: len(mono)] = mono[:length].clip(-1, 1)
    return torch.from_numpy(clip)


def region(length: int, first: int, last: int, fade: int) -> Tensor:
    """Weight [length] of new sound: 0 outside [first, last), 1 inside, equal-power ramps where old sound adjoins."""
    weight = torch.zeros(length)
    weight[first:last] = 1
    fade = min(fade, (last - first) // 2)
    ramp = torch.sin((torch.arange(fade) + 0.5) / max(fade, 1) * (math.pi / 2))
    if first > 0:
        weight[first : first + fade] = ramp
    if last < length:
        weight[last - fade : last] = ramp.flip(0)
    return weight


def at_loudness(samples: np.ndarray, sample_rate: int, decibels: float = -26.0) -> np.ndarray:
    """[S] -> [S] whose loudest 400 ms have a root mean square of ``decibels`` below full scale, for comparisons.

    It is quieter where its peaks would not fit, and unchanged where it is silent.
    """
    block = min(round(0.4 * sample_rate), len(samples))
    energy = np.concatenate(([0.0], np.cumsum(np.square(samples, dtype=np.float64))))
    loudest = math.sqrt(max(0.0, float((energy[block:] - energy[:-block]).max()) / block)) if block else 0.0
    peak = float(np.abs(samples).max(initial=0.0))
    if loudest < 1e-6:
        return samples
    return (samples * min(10 ** (decibels / 20) / loudest, 1 / peak)).astype(np.float32)
