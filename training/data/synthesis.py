"""Sounds that are computed, not recorded: tones, noises, signals and sirens.

Each function of :data:`SYNTHESES` maps ``(rng, seconds, sample_rate)`` and ranges ``(low, high)`` of its parameters to
a waveform [S] float32 with a peak of 0.9. It draws one value of each range from ``rng``, so the same generator state
gives the same bytes. Frequencies are in Hz, durations in seconds, tempos in beats per minute. Oscillators sum only
harmonics below half the sample rate, so nothing folds back.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Range = tuple[float, float]

_RAMP = 0.004  # seconds that a tone takes to start and to stop, against clicks
_LEVEL = 0.9  # peak of sounds without a level of their own


def beep(
    rng: np.random.Generator, seconds: float, sample_rate: int, *, frequency: Range, length: Range, pause: Range
) -> np.ndarray:
    """One tone, switched on and off at regular intervals, with or without weak harmonics."""
    phase = _phase(np.full(_count(seconds, sample_rate), _draw(rng, frequency)), sample_rate)
    gate = _gate(rng, seconds, sample_rate, (_draw(rng, length), _draw(rng, pause)))
    overtones = (1.0, 0.0, 0.3 * rng.integers(2), 0.0, 0.1 * rng.integers(2))
    return _finish(_harmonics(phase, overtones, sample_rate) * gate)


def sine(rng: np.random.Generator, seconds: float, sample_rate: int, *, frequency: Range) -> np.ndarray:
    """A sine of constant frequency, drawn on a logarithmic scale."""
    low, high = np.log(frequency)
    pitch = np.exp(_draw(rng, (low, high)))
    return _finish(np.sin(_phase(np.full(_count(seconds, sample_rate), pitch), sample_rate)))


def sweep(
    rng: np.random.Generator,
    seconds: float,
    sample_rate: int,
    *,
    low: Range,
    high: Range,
    duration: Range,
    direction: Range,
) -> np.ndarray:
    """A sine that glides exponentially between two frequencies, again and again.

    If ``direction`` is below 0, the pitch falls, otherwise it rises.
    """
    bottom, top, length = _draw(rng, low), _draw(rng, high), _draw(rng, duration)
    time = np.arange(_count(seconds, sample_rate)) / sample_rate
    place = np.mod(time, length) / length
    if _draw(rng, direction) < 0:
        place = 1 - place
    gate = _ramped(np.mod(time, length), length)
    return _finish(np.sin(_phase(bottom * (top / bottom) ** place, sample_rate)) * gate)


def dial_tone(rng: np.random.Generator, seconds: float, sample_rate: int) -> np.ndarray:
    """The tone of a free line: 350 and 440 Hz (North America) or 425 Hz (much of Europe)."""
    return _finish(_chord(rng, seconds, sample_rate, ((350, 440), (425,))[rng.integers(2)]))


def busy_tone(rng: np.random.Generator, seconds: float, sample_rate: int) -> np.ndarray:
    """The tone of a busy line: 480 and 620 Hz, or 425 Hz, for half a second of every second."""
    tone = _chord(rng, seconds, sample_rate, ((480, 620), (425,))[rng.integers(2)])
    return _finish(tone * _gate(rng, seconds, sample_rate, (0.5, 0.5)))


def touch_tones(
    rng: np.random.Generator, seconds: float, sample_rate: int, *, length: Range, pause: Range
) -> np.ndarray:
    """Random keys of a telephone: one tone of 697 to 941 Hz and one of 1209 to 1477 Hz each (ITU-T Q.23)."""
    waveform = np.zeros(_count(seconds, sample_rate))
    tone_seconds, silence, start = _draw(rng, length), _draw(rng, pause), rng.uniform(0, 0.3)
    time = np.arange(_count(tone_seconds, sample_rate)) / sample_rate
    while start + tone_seconds < seconds:
        row, column = (697, 770, 852, 941)[rng.integers(4)], (1209, 1336, 1477)[rng.integers(3)]
        tone = (np.sin(2 * np.pi * row * time) + np.sin(2 * np.pi * column * time)) * _ramped(time, tone_seconds)
        _add(waveform, tone, start, sample_rate)
        start += tone_seconds + silence
    return _finish(waveform)


def white_noise(rng: np.random.Generator, seconds: float, sample_rate: int) -> np.ndarray:
    """Independent Gaussian samples: the same power at every frequency."""
    return _finish(rng.standard_normal(_count(seconds, sample_rate)))


def pink_noise(rng: np.random.Generator, seconds: float, sample_rate: int) -> np.ndarray:
    """Gaussian noise whose power falls with 1/f, 3 dB an octave, above 20 Hz."""
    count = _count(seconds, sample_rate)
    spectrum = np.fft.rfft(rng.standard_normal(count))
    frequencies = np.fft.rfftfreq(count, 1 / sample_rate)
    spectrum *= np.where(frequencies < 20, 0, 1 / np.sqrt(np.maximum(frequencies, 20)))
    return _finish(np.fft.irfft(spectrum, count))


def metronome(rng: np.random.Generator, seconds: float, sample_rate: int, *, tempo: Range) -> np.ndarray:
    """Short decaying clicks in equal time; the first of every bar of 2, 3 or 4 may be higher."""
    beat, pitch, bar = 60 / _draw(rng, tempo), rng.uniform(900, 2200), rng.integers(1, 5)
    waveform = np.zeros(_count(seconds, sample_rate))
    time = np.arange(_count(0.06, sample_rate)) / sample_rate
    decay = np.exp(-time / rng.uniform(0.006, 0.015)) * np.minimum(time / 0.0005, 1)
    start, number = rng.uniform(0, beat), 0
    while start < seconds:
        accent = 1.5 if bar > 1 and number % bar == 0 else 1.0
        _add(waveform, np.sin(2 * np.pi * pitch * accent * time) * decay, start, sample_rate)
        start, number = start + beat, number + 1
    return _finish(waveform)


def siren_wail(
    rng: np.random.Generator, seconds: float, sample_rate: int, *, low: Range, high: Range, period: Range
) -> np.ndarray:
    """An oscillator with falling harmonics whose pitch rises and falls slowly and evenly."""
    return _siren(rng, seconds, sample_rate, _draw(rng, low), _draw(rng, high), _draw(rng, period), 0.5)


def siren_yelp(
    rng: np.random.Generator, seconds: float, sample_rate: int, *, low: Range, high: Range, period: Range
) -> np.ndarray:
    """Like :func:`siren_wail`, but fast: it rises for four fifths of a period and drops."""
    return _siren(rng, seconds, sample_rate, _draw(rng, low), _draw(rng, high), _draw(rng, period), 0.8)


def siren_two_tone(
    rng: np.random.Generator, seconds: float, sample_rate: int, *, low: Range, high: Range, length: Range
) -> np.ndarray:
    """Two tones with harmonics that take turns, the upper at least a tone above the lower."""
    bottom, turn = _draw(rng, low), _draw(rng, length)
    top = max(_draw(rng, high), bottom * 2 ** (2 / 12))
    time = np.arange(_count(seconds, sample_rate)) / sample_rate + rng.uniform(0, 2 * turn)
    frequency = np.where(np.mod(time, 2 * turn) < turn, bottom, top)
    return _finish(_harmonics(_phase(frequency, sample_rate), (1, 0.7, 0.5, 0.35, 0.25, 0.15), sample_rate))


def smoke_alarm(rng: np.random.Generator, seconds: float, sample_rate: int, *, frequency: Range) -> np.ndarray:
    """The temporal-three pattern of ISO 8201: three tones of half a second with pauses of half, then 1.5 s."""
    phase = _phase(np.full(_count(seconds, sample_rate), _draw(rng, frequency)), sample_rate)
    gate = _gate(rng, seconds, sample_rate, (0.5, 0.5, 0.5, 0.5, 0.5, 1.5))
    return _finish(_harmonics(phase, (1.0, 0.3), sample_rate) * gate)


def reversing_beeps(
    rng: np.random.Generator, seconds: float, sample_rate: int, *, frequency: Range, period: Range
) -> np.ndarray:
    """The alarm of a lorry in reverse: a tone with harmonics, on for half of every period."""
    phase = _phase(np.full(_count(seconds, sample_rate), _draw(rng, frequency)), sample_rate)
    half = _draw(rng, period) / 2
    return _finish(_harmonics(phase, (1, 0.4, 0.3, 0.1), sample_rate) * _gate(rng, seconds, sample_rate, (half, half)))


def mains_hum(rng: np.random.Generator, seconds: float, sample_rate: int, *, frequency: Range) -> np.ndarray:
    """Harmonics of the mains, strongest at twice its frequency; a range of 50 to 60 Hz stands for either end."""
    count = _count(seconds, sample_rate)
    phase = _phase(np.full(count, frequency[rng.integers(2)]), sample_rate) + rng.uniform(0, 2 * np.pi)
    levels = np.array([0.4, 1.0, 0.25, 0.6, 0.15, 0.35, 0.1, 0.2, 0.06, 0.12]) * 10 ** rng.uniform(-0.3, 0.3, 10)
    return _finish(_harmonics(phase, levels, sample_rate) + 0.003 * rng.standard_normal(count))


def morse_code(
    rng: np.random.Generator, seconds: float, sample_rate: int, *, frequency: Range, unit: Range
) -> np.ndarray:
    """Random letters and digits in international Morse code (ITU-R M.1677): a dash lasts three dots."""
    pitch, dot, start = _draw(rng, frequency), _draw(rng, unit), rng.uniform(0, 0.3)
    waveform = np.zeros(_count(seconds, sample_rate))
    letters = _MORSE.split()
    while True:
        letter = letters[rng.integers(len(letters))]
        for mark in letter:
            length = dot if mark == "." else 3 * dot
            if start + length > seconds:
                return _finish(waveform)
            time = np.arange(_count(length, sample_rate)) / sample_rate
            _add(waveform, np.sin(2 * np.pi * pitch * time) * _ramped(time, length), start, sample_rate)
            start += length + dot
        start += (2 if rng.random() < 0.8 else 6) * dot  # the end of a letter, or of a word


_MORSE = (  # the letters, then the digits
    ".- -... -.-. -.. . ..-. --. .... .. .--- -.- .-.. -- -. --- .--. --.- .-. ... - ..- ...- .-- -..- -.-- --.. "
    "----- .---- ..--- ...-- ....- ..... -.... --... ---.. ----."
)

SYNTHESES: dict[str, Callable[..., np.ndarray]] = {
    function.__name__: function
    for function in (
        beep,
        sine,
        sweep,
        dial_tone,
        busy_tone,
        touch_tones,
        white_noise,
        pink_noise,
        metronome,
        siren_wail,
        siren_yelp,
        siren_two_tone,
        smoke_alarm,
        reversing_beeps,
        mains_hum,
        morse_code,
    )
}


def _siren(
    rng: np.random.Generator, seconds: float, sample_rate: int, low: float, high: float, period: float, rise: float
) -> np.ndarray:
    """Harmonics of a pitch that rises exponentially for the share ``rise`` of a period, then falls."""
    place = np.mod(np.arange(_count(seconds, sample_rate)) / sample_rate / period + rng.uniform(), 1)
    height = np.where(place < rise, place / rise, (1 - place) / (1 - rise))
    phase = _phase(low * (high / low) ** height, sample_rate)
    return _finish(_harmonics(phase, (1, 0.5, 0.33, 0.25, 0.2), sample_rate))


def _count(seconds: float, sample_rate: int) -> int:
    return round(seconds * sample_rate)


def _draw(rng: np.random.Generator, bounds: Range) -> float:
    return float(rng.uniform(*bounds))


def _phase(frequency: np.ndarray, sample_rate: int) -> np.ndarray:
    """Frequencies [S] -> phases [S] in radians, starting at 0."""
    return 2 * np.pi * (np.cumsum(frequency) - frequency[0]) / sample_rate


def _harmonics(phase: np.ndarray, levels: np.ndarray | tuple[float, ...], sample_rate: int) -> np.ndarray:
    """The sum of sines at 1, 2, 3, ... times a phase [S], each silent where it would pass half the sample rate."""
    frequency = np.gradient(phase) * sample_rate / (2 * np.pi)
    waveform = np.zeros(len(phase))
    for number, level in enumerate(levels, start=1):
        waveform += level * np.sin(number * phase) * (np.abs(number * frequency) < sample_rate / 2)
    return waveform


def _chord(rng: np.random.Generator, seconds: float, sample_rate: int, frequencies: tuple[float, ...]) -> np.ndarray:
    time = np.arange(_count(seconds, sample_rate)) / sample_rate
    return sum(np.sin(2 * np.pi * frequency * time + rng.uniform(0, 2 * np.pi)) for frequency in frequencies)


def _ramped(time: np.ndarray, length: float) -> np.ndarray:
    """Factors [S] that start and stop a tone of ``length`` seconds, given the seconds since its start."""
    return np.clip(np.minimum(time, length - time) / _RAMP, 0, 1)


def _gate(rng: np.random.Generator, seconds: float, sample_rate: int, pattern: tuple[float, ...]) -> np.ndarray:
    """Factors [S] of a tone that is on and off in turn for the seconds of ``pattern``, from a random place in it."""
    edges = np.concatenate([[0.0], np.cumsum(pattern)])
    time = np.mod(np.arange(_count(seconds, sample_rate)) / sample_rate + rng.uniform(0, edges[-1]), edges[-1])
    place = np.clip(np.searchsorted(edges, time, side="right") - 1, 0, len(pattern) - 1)
    return np.where(place % 2 == 0, _ramped(time - edges[place], np.asarray(pattern)[place]), 0.0)


def _add(waveform: np.ndarray, sound: np.ndarray, start: float, sample_rate: int) -> None:
    first = round(start * sample_rate)
    sound = sound[: max(0, len(waveform) - first)]
    waveform[first : first + len(sound)] += sound


def _finish(waveform: np.ndarray) -> np.ndarray:
    peak = np.abs(waveform).max()
    return (waveform * (_LEVEL / peak if peak else 0.0)).astype(np.float32)
