"""Read sounds from files, check them, mix them to mono, resample them, and fit them to a clip."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    import soundfile

MIN_RATE, MAX_RATE = 1000, 384_000  # Hz
MAX_CHANNELS = 64
MAX_DENSITY = 1_536_000  # samples a second in all channels of a file: 8 channels of 192 kHz
LONGEST = 3600.0  # seconds of a file that are read as a whole
BLOCK = 1 << 18  # samples in all channels that are decoded at a time
MAX_RATIO = 1 << 15  # denominator of a ratio of rates; the resampling filter has 20 times as many taps
MAX_PEAK = 2.0  # decoders overshoot 1 a little; beyond this the samples are not in [-1, 1] at all


class AudioError(ValueError):
    """A file that can't be read as a sound."""


@contextmanager
def open_sound(path: str | Path, shown: str | None = None) -> Iterator[soundfile.SoundFile]:
    """Open a sound whose rate and channels are within bounds, without decoding it.

    shown: the file's name in errors. None: its path. Raises :class:`AudioError`, also for errors within the block.
    """
    import soundfile

    path = Path(path)
    shown = str(path) if shown is None else shown
    if path.exists() and not path.is_file():  # a pipe would be waited for, a device has no end
        raise AudioError(f"{shown} must be a regular file")
    if path.is_file() and not path.stat().st_size:
        raise AudioError(f"{shown} must hold a sound, got an empty file of 0 bytes")
    broken = AudioError(f"{shown} can't be read as a sound (WAV, FLAC, MP3, OGG or AIFF)")
    try:
        file = soundfile.SoundFile(path)
    except (OSError, RuntimeError, TypeError):  # TypeError: of a name that ends in .raw
        raise broken if path.exists() else AudioError(f"{shown} can't be read: there is no such file") from None
    with file:
        rate, channels = file.samplerate, file.channels
        if not (MIN_RATE <= rate <= MAX_RATE and channels <= MAX_CHANNELS and rate * channels <= MAX_DENSITY):
            raise AudioError(
                f"{shown} must have a rate of {MIN_RATE} to {MAX_RATE} Hz, at most {MAX_CHANNELS} channels and at most "
                f"{MAX_DENSITY} samples a second in all of them, got {channels} channels of {rate} Hz"
            )
        try:
            yield file
        except soundfile.SoundFileError:
            raise broken from None


def blocks(file: soundfile.SoundFile, frames: int, dtype: str = "float32") -> Iterator[np.ndarray]:
    """The next ``frames`` of an open sound, or fewer at its end, as [n, C] of at most ``BLOCK`` values."""
    while frames > 0:
        block = file.read(min(BLOCK // file.channels, frames), dtype=dtype, always_2d=True)
        if not len(block):  # a header may promise more
            return
        frames -= len(block)
        yield block


def read_sound(
    path: str | Path,
    sample_rate: int,
    longest: float = LONGEST,
    shown: str | None = None,
    part: Callable[[int], tuple[int, int]] | None = None,
) -> np.ndarray:
    """A file's sound as mono float32 [S] at ``sample_rate`` Hz. It is decoded in blocks, so only the result is held in
    full.

    longest: seconds. A sound whose header states a longer duration is refused before it is decoded.
    shown: the file's name in errors.
    part: the first frame and the number of frames to read, at the file's rate. None: all.
    Raises :class:`AudioError`.
    """
    shown = str(path) if shown is None else shown
    with open_sound(path, shown) as file:
        start, count = (0, file.frames) if part is None else part(file.samplerate)
        seconds = count / file.samplerate
        if seconds > longest:
            raise AudioError(f"{shown} must be at most {duration(longest)} long, got {duration(seconds)}: cut it first")
        if start:
            file.seek(start)
        mono = (block.mean(axis=1) for block in blocks(file, count))
        sound = np.concatenate([np.empty(0, np.float32), *resample_blocks(mono, file.samplerate, sample_rate)])
    if not (len(sound) and np.isfinite(sound).all()):
        raise AudioError(f"{shown} must hold a finite sound of at least one sample")
    return sound


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

    return resample_poly(waveform, *_ratio(rate, wanted))


def resample_blocks(parts: Iterable[np.ndarray], rate: int, wanted: int) -> Iterator[np.ndarray]:
    """Apply :func:`resample` to a sound in float32 parts, in constant memory. The joined result is the same."""
    if rate == wanted:
        yield from parts
        return
    from scipy.signal import firwin, resample_poly

    up, down = _ratio(rate, wanted)
    half = 10 * max(up, down)  # of the filter that resample_poly would design for each part
    filter = firwin(2 * half + 1, 1 / max(up, down), window=("kaiser", 5.0)).astype(np.float32)
    reach = -(-half // up)  # samples on either side that a result depends on
    context = -(-reach // down) * down  # parts begin where a result falls on a sample
    held, done = np.empty(0, np.float32), 0  # of the held samples, the first ``done`` have their results
    for part in parts:
        held = np.concatenate((held, part))
        end = (len(held) - reach) // down * down
        if end > done:
            yield resample_poly(held, up, down, window=filter)[done // down * up : end // down * up]
            first = max(end - context, 0)
            held, done = held[first:], end - first
    if len(held):
        yield resample_poly(held, up, down, window=filter)[done // down * up :]


def _ratio(rate: int, wanted: int) -> tuple[int, int]:
    """``wanted / rate`` as a fraction. For odd rates it is rounded, by less than 1 in 30,000."""
    ratio = Fraction(wanted, rate).limit_denominator(MAX_RATIO)
    return ratio.numerator, ratio.denominator


def check_audio(audio: object) -> np.ndarray:
    """[S] or [C, S], floating or int16 -> [C, S] float64 in about [-1, 1]."""
    if isinstance(audio, Tensor):
        audio = audio.detach().cpu()
        audio = (audio.float() if audio.is_floating_point() else audio).numpy()
    if not isinstance(audio, np.ndarray) or not (audio.dtype.kind == "f" or audio.dtype.str[1:] == "i2"):
        kind = f"{audio.dtype} array" if isinstance(audio, np.ndarray) else type(audio).__name__
        raise ValueError(f"audio must be an array or tensor of floating or int16 samples, got {kind}")
    samples = audio[None] if audio.ndim == 1 else audio
    if samples.ndim != 2 or not 1 <= samples.shape[0] <= min(64, samples.shape[1]):
        raise ValueError(f"audio must have the shape [S] or [C, S] with samples last, got {list(audio.shape)}")
    samples = samples / 32768 if samples.dtype.kind == "i" else samples.astype(np.float64)
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
    weight = torch.zeros(length, dtype=torch.float32, device="cpu")
    weight[first:last] = 1
    fade = min(fade, (last - first) // 2)
    ramp = torch.sin((torch.arange(fade, dtype=torch.float32, device="cpu") + 0.5) / max(fade, 1) * (math.pi / 2))
    if first > 0:
        weight[first : first + fade] = ramp
    if last < length:
        weight[last - fade : last] = ramp.flip(0)
    return weight


def at_loudness(samples: np.ndarray, sample_rate: int, decibels: float = -26.0) -> np.ndarray:
    """Scale [S] so that its loudest 400 ms have a root mean square of ``decibels`` below full scale, for comparisons.

    The result is quieter if its peaks would exceed full scale, and unchanged if it is silent.
    """
    block = min(round(0.4 * sample_rate), len(samples))
    energy = np.concatenate(([0.0], np.cumsum(np.square(samples, dtype=np.float64))))
    loudest = math.sqrt(max(0.0, float((energy[block:] - energy[:-block]).max()) / block)) if block else 0.0
    peak = float(np.abs(samples).max(initial=0.0))
    if loudest < 1e-6:
        return samples
    return (samples * min(10 ** (decibels / 20) / loudest, 1 / peak)).astype(np.float32)
