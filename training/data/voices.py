"""One sound over some seconds: a recording continued, or a sound computed.

A texture (rain, a helicopter) is continued by cross-fading stretches of one recording; a clock's loop is a whole
number of its periods. A transient event (a bark, a sneeze) is repeated with natural pauses, music and speech go on with
further takes. Where a recording is silent or has ended, stationary noise with the spectrum of its own ambience fills
the gap, so that no event is surrounded by digital silence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import fft

from training.data.clips import Clip
from training.data.material import Material, Materials
from training.data.synthesis import SYNTHESES
from training.data.vocabulary import Habit, Sound

HEADROOM = 1.08  # clips are kept at this many times the sample rate, so that a slowed-down sound has no empty top band
SPEEDS = (0.93, 1.07)  # playback speed


@dataclass(frozen=True)
class Take:
    """The recording or synthesis of a sound."""

    sound: Sound
    takes: tuple[Clip, ...] = ()  # the first is played, then any of them; none for a computed sound
    attribute: str = ""  # one that all takes have
    count: int = 0  # number of events of the first take; 0: the habit decides


class Voices:
    """Sounds at a sample rate, from recordings that are prepared once.

    beat: in samples. If above 0, periodic sounds run at a speed at which ticks are a whole number of beats apart.
    """

    def __init__(self, sample_rate: int, beat: int = 0):
        self.sample_rate = sample_rate
        self.beat = beat
        self._rate = round(sample_rate * HEADROOM)
        self._materials = Materials(self._rate)

    def most(self, clip: Clip, length: int, habit: Habit) -> int:
        """How often a clip's event fits into ``length`` samples with the shortest pauses, at least once."""
        event = len(self._materials[clip].audio) / self._rate / SPEEDS[0]
        return max(1, int((length / self.sample_rate + habit.gap[0]) / (event + habit.gap[0])))

    def voice(self, take: Take, length: int, rng: np.random.Generator, distant: bool = False) -> np.ndarray:
        """One sound [length] float32: continued, at some speed, equalised, perhaps far away; its peak is 1."""
        if take.sound.synthesis is None:
            voice = self._recorded(take, length, rng, distant)
        else:
            voice = self._computed(take, length, rng, distant)
        return voice / max(np.abs(voice).max(), 1e-9)

    def _computed(self, take: Take, length: int, rng: np.random.Generator, distant: bool) -> np.ndarray:
        """A synthesis, near or far away."""
        synthesis = take.sound.synthesis
        assert synthesis is not None
        ranges = dict(synthesis.ranges)
        if take.attribute:
            ranges |= take.sound.attributes[take.attribute].synthesis
        voice = SYNTHESES[synthesis.kind](rng, length / self.sample_rate, self.sample_rate, **ranges)
        if not distant:
            return voice
        size = fft.next_fast_len(length, real=True)
        return fft.irfft(fft.rfft(voice, size) * self._colour(size, rng, distant) * self._room(size, rng), size)[
            :length
        ]

    def _recorded(self, take: Take, length: int, rng: np.random.Generator, distant: bool) -> np.ndarray:
        size = fft.next_fast_len(length, real=True)
        speed, first = rng.uniform(*SPEEDS), self._materials[take.takes[0]]
        # One transform serves three purposes: another speed (spectra of unlike lengths), equaliser, room.
        if self.beat and take.sound.habit.periodic:
            longer = round(size * HEADROOM * self._in_time(first, speed))
        else:
            longer = fft.next_fast_len(round(size * HEADROOM * speed), real=True)
        spectrum = fft.rfft(self._continued(take, first, longer, rng))[: size // 2 + 1]
        spectrum = np.pad(spectrum, (0, size // 2 + 1 - len(spectrum)))
        spectrum *= self._colour(size, rng, distant)
        if distant:
            spectrum *= self._room(size, rng)
        return fft.irfft(spectrum, size)[:length]

    def _in_time(self, clock: Material, speed: float) -> float:
        """The speed near ``speed`` at which one tick, or as few ticks as possible, last a whole number of beats."""
        tick = clock.period / clock.ticks / HEADROOM  # samples of a scene, as recorded
        ticks, fitting = 0, 0.0
        while not SPEEDS[0] <= fitting <= SPEEDS[1]:
            ticks += 1
            fitting = ticks * tick / (self.beat * max(1, round(ticks * tick / (self.beat * speed))))
        return fitting

    def _colour(self, size: int, rng: np.random.Generator, distant: bool) -> np.ndarray:
        """Real factors [size // 2 + 1] of a mild random equaliser without rumble; a distant sound loses its highs."""
        frequencies = np.geomspace(20, self.sample_rate / 2, 96)
        octaves = np.log2(frequencies / 800)
        level = rng.uniform(-3, 3) * octaves / octaves[-1]
        level += rng.uniform(-2, 2) * np.exp(-np.square((octaves - rng.uniform(-3, 3)) / 0.8))
        factors = amplitude(np.clip(level, -3, 3))
        if distant:
            factors /= np.sqrt(1 + (frequencies / rng.uniform(1200, 3000)) ** 4)
        bins = np.arange(size // 2 + 1, dtype=np.float32) * (self.sample_rate / size)
        return np.interp(bins, frequencies, factors, left=0).astype(np.float32)

    def _room(self, size: int, rng: np.random.Generator) -> np.ndarray:
        """Spectrum [size // 2 + 1] of the direct sound and an exponentially fading echo of noise."""
        count = min(self.sample_rate, size)
        time = np.arange(count, dtype=np.float32) / self.sample_rate
        echo = rng.standard_normal(count, np.float32) * np.exp(-6.9 * time / rng.uniform(0.5, 1.3))
        echo[: int(0.015 * self.sample_rate)] = 0
        echo *= amplitude(rng.uniform(-4, 3)) / np.sqrt(np.square(echo).sum())
        echo[0] = 1
        return fft.rfft(echo.astype(np.float32), size)

    def _continued(self, take: Take, first: Material, length: int, rng: np.random.Generator) -> np.ndarray:
        """One sound, beginning with ``first``, over ``length`` samples at the rate at which the clips are kept."""
        habit, track = take.sound.habit, _Track(length, self._rate)
        if habit.periodic:
            overlap = min(int(habit.overlap[0] * self._rate), len(first.audio) - first.period)
            for start in range(-int(rng.integers(first.period)), length, first.period):
                track.lay(first, start, 0, first.period + overlap, overlap, overlap)
        elif habit.texture:
            self._stretch(track, habit, first, take.takes, rng)
        elif take.count:
            self._count(track, habit, first, take.count, rng)
        else:
            self._repeat(track, take, first, rng)
        if track.power.min() < 0.999:
            track.audio += self._floor(first, length, rng) * np.sqrt(np.maximum(1 - track.power, 0))
        return track.audio

    def _stretch(
        self, track: _Track, habit: Habit, first: Material, takes: Sequence[Clip], rng: np.random.Generator
    ) -> None:
        """Fill the track with stretches of one recording, each at the level at which the last one ended."""
        material, position, fade_in, gain = first, 0, 0, 1.0
        offset = int(rng.uniform(0, 0.7) * len(first.audio))
        while True:
            end = len(material.audio)
            overlap = min(int(rng.uniform(*habit.overlap) * self._rate), (end - offset) // 2)
            track.lay(material, position, offset, end, fade_in, overlap, gain)
            position += end - offset - overlap
            if position >= len(track.audio):
                return
            level = gain * np.median(material.levels[-40:])
            material = self._materials[takes[rng.integers(len(takes))]]
            offset = int(rng.uniform(0, 0.2) * len(material.audio))
            frame = offset // track.frame
            gain = float(np.clip(level / (np.median(material.levels[frame : frame + 40]) + 1e-9), 0.5, 2.0))
            fade_in = min(overlap, (len(material.audio) - offset) // 2)

    def _repeat(self, track: _Track, take: Take, first: Material, rng: np.random.Generator) -> None:
        """Lay an event as often as its habit says, or phrases until the end, with pauses."""
        habit, material, offset = take.sound.habit, first, 0
        event = habit.kind == "event"
        once = bool(take.attribute) and take.sound.attributes[take.attribute].once
        left = 1 if once else int(rng.integers(habit.count[0], habit.count[1] + 1)) if event else len(track.audio)
        position = int(rng.uniform(0, 0.6) * self._rate)
        if event and not once and len(material.audio) > 2.5 * self._rate and rng.random() < 0.5:
            offset = self._pause(material, track.frame, rng)  # a long recording may begin at any pause
        while True:
            track.lay(material, position, offset, len(material.audio), *self._fades(), amplitude(rng.uniform(-3, 0)))
            position += len(material.audio) - offset + int(rng.uniform(*habit.gap) * self._rate)
            material, offset = self._materials[take.takes[rng.integers(len(take.takes))]], 0
            left -= 1
            # The end of the scene may cut the last one, but most of an event must be heard.
            needed = 0.6 * min(len(material.audio), 3 * self._rate) if event else 0.5 * self._rate
            if left < 1 or position + needed > len(track.audio):
                return

    def _count(self, track: _Track, habit: Habit, material: Material, count: int, rng: np.random.Generator) -> None:
        """Lay one event ``count`` times, all of it within the track where it fits."""
        event, total = len(material.audio), len(track.audio)
        shortest = habit.gap[0] * self._rate
        gaps = rng.uniform(*habit.gap, count - 1) * self._rate
        spare = max(total - count * event - shortest * (count - 1), 0)
        beyond = float((gaps - shortest).sum())
        if beyond > spare:
            gaps = shortest + (gaps - shortest) * spare / beyond
        position = rng.uniform(0, min(max(total - count * event - gaps.sum(), 0), 2 * self._rate))
        for gap in (*gaps, 0):
            track.lay(material, int(position), 0, event, *self._fades(), amplitude(rng.uniform(-3, 0)))
            position += event + gap

    def _fades(self) -> tuple[int, int]:
        return int(0.008 * self._rate), int(0.1 * self._rate)

    def _pause(self, material: Material, frame: int, rng: np.random.Generator) -> int:
        """A sample in the first part of a recording at which nothing is heard; 0 where there is none."""
        pause = material.levels < min(np.quantile(material.levels, 0.2) * 1.5, material.levels.max() * 0.1)
        cuts = np.flatnonzero(pause[: int(0.6 * len(pause))]) * frame
        return int(cuts[rng.integers(len(cuts))]) if len(cuts) else 0

    def _floor(self, material: Material, length: int, rng: np.random.Generator) -> np.ndarray:
        """Noise [length] with the spectrum of the recording's ambience, on a very quiet floor."""
        bins = length // 2 + 1
        quietest = amplitude(rng.uniform(-82, -64)) / np.sqrt(np.linspace(0.05, 3, 257))
        magnitude = np.interp(np.linspace(0, 256, bins), np.arange(257), np.hypot(material.ambience, quietest))
        noise = rng.standard_normal(2 * bins, np.float32).view(np.complex64)
        noise *= (magnitude * np.sqrt(length / 2)).astype(np.float32)
        return fft.irfft(noise, length)


class _Track:
    """Sound being laid down: ``audio`` [length] and ``power`` [length], the part of it that is a recording (0 to 1)."""

    def __init__(self, length: int, rate: int):
        self.audio = np.zeros(length, np.float32)
        self.power = np.zeros(length, np.float32)
        self.frame = rate // 100

    def lay(
        self, material: Material, start: int, offset: int, end: int, fade_in: int, fade_out: int, gain: float = 1.0
    ) -> None:
        """Add ``material.audio[offset:end]`` at sample ``start``, which may lie before 0, with equal-power fades."""
        weight = np.ones(end - offset, np.float32)
        if not material.presence.all():
            centres = (np.arange(len(material.presence)) + 0.5) * self.frame
            weight = np.interp(np.arange(offset, end), centres, material.presence).astype(np.float32)
        fade_in, fade_out = min(fade_in, len(weight) // 2), min(fade_out, len(weight) // 2)
        weight[:fade_in] *= np.sin(np.linspace(0, np.pi / 2, fade_in, dtype=np.float32))
        weight[len(weight) - fade_out :] *= np.cos(np.linspace(0, np.pi / 2, fade_out, dtype=np.float32))
        skip, stop = max(-start, 0), min(end - offset, len(self.audio) - start)
        if skip < stop:
            weight = weight[skip:stop]
            self.audio[start + skip : start + stop] += gain * weight * material.audio[offset + skip : offset + stop]
            self.power[start + skip : start + stop] += weight * weight


def amplitude(decibels):
    return 10 ** (decibels / 20)
