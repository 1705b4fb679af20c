"""Labelled recordings -> ten-second scenes with captions.

:func:`read_clips` lists a folder of clips; :class:`SceneSource` keeps the sound of some of them in memory and makes
scene number ``index`` from ``(seed, index)`` alone, so that any number of workers may share the range of indices.

A texture (rain, a helicopter) is continued by cross-fading stretches of one recording; a clock's loop is a whole
number of its periods. A transient event (a bark, a sneeze) is repeated with natural pauses. Where a recording is
silent or has ended, stationary noise with the spectrum of its own ambience stands in, so that no event is cut out of
the void.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import fft

from dear.audio import AudioError, read_sound
from dear.config import MelConfig
from training.data import captions

CLASSES = (
    "dog",
    "rooster",
    "rain",
    "sea_waves",
    "crackling_fire",
    "crying_baby",
    "sneezing",
    "clock_tick",
    "helicopter",
    "chainsaw",
)
HEADROOM = 1.08  # clips are kept at this many times the sample rate, so that a slowed-down sound has no empty top band
SPEEDS = (0.93, 1.07)  # playback speed
SHORTEST_TICK = 0.15  # seconds between two ticks of a clock, at least
PEAK = 0.99  # no scene is louder


class DataError(ValueError):
    """A folder of clips, a table or a recording that can't be used."""


@dataclass(frozen=True)
class Clip:
    """One labelled recording and whom to thank for it."""

    path: Path
    fold: int
    label: str
    title: str
    source: str  # where it came from; clips of one source are takes of one recording
    author: str
    license: str


@dataclass(frozen=True)
class Scene:
    """One training example."""

    waveform: np.ndarray  # [F * hop] float32 in [-0.99, 0.99]
    caption: str
    labels: tuple[str, ...]  # one, or for "then" the first and the second, for "while" the lower and the upper sound
    kind: str  # single, distant (a single sound far away), then, while


@dataclass(frozen=True)
class _Habit:
    """How a class sounds over ten seconds."""

    gain: tuple[float, float]  # dB, peak of a scene
    texture: bool = False
    overlap: tuple[float, float] = (0.08, 0.2)  # seconds, textures: length of a cross-fade
    gap: tuple[float, float] = (0.0, 0.0)  # seconds, events: pause between two
    stop: float = 0.0  # events: chance that no further one follows


_HABITS = {
    "dog": _Habit(gain=(-10, -1), gap=(0.25, 1.4), stop=0.08),
    "rooster": _Habit(gain=(-10, -1), gap=(0.6, 2.5), stop=0.2),
    "crying_baby": _Habit(gain=(-10, -1), gap=(0.1, 0.7), stop=0.05),
    "sneezing": _Habit(gain=(-10, -1), gap=(0.5, 2.2), stop=0.15),
    "rain": _Habit(gain=(-14, -3), texture=True, overlap=(0.15, 0.4)),
    "sea_waves": _Habit(gain=(-12, -2), texture=True, overlap=(0.5, 1.2)),
    "crackling_fire": _Habit(gain=(-14, -2), texture=True),
    "clock_tick": _Habit(gain=(-15, -3), texture=True, overlap=(0.04, 0.04)),
    "helicopter": _Habit(gain=(-10, -1), texture=True, overlap=(0.15, 0.4)),
    "chainsaw": _Habit(gain=(-10, -1), texture=True, overlap=(0.1, 0.25)),
}


def read_clips(folder: str | Path) -> list[Clip]:
    """The clips of a folder with ``clips.csv`` or with ESC-50's own ``meta/esc50.csv``, sound files under ``audio``.

    Of ESC-50 only the rows of the ten classes are read. Raises :class:`DataError` naming a missing folder, table,
    column or sound file, or a fold that is not a number.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"clips must be a folder, got {str(folder)!r}, which does not exist")
    own, esc50 = folder / "clips.csv", folder / "meta" / "esc50.csv"
    if own.is_file():
        clips = [
            Clip(folder / "audio" / row["file"], _fold(row, own), *(row[name] for name in _COLUMNS[2:]))
            for row in _rows(own, _COLUMNS)
        ]
    elif esc50.is_file():
        clips = [
            Clip(
                path=folder / "audio" / row["filename"],
                fold=_fold(row, esc50),
                label=row["category"],
                title=row["filename"],
                source=f"https://freesound.org/s/{row['src_file']}/",
                author="",
                license="CC-BY" if row["esc10"] == "True" else "CC-BY-NC",
            )
            for row in _rows(esc50, ("filename", "fold", "category", "esc10", "src_file"))
            if row["category"] in CLASSES
        ]
    else:
        raise DataError(f"{folder} must hold clips.csv or meta/esc50.csv, found neither")
    if not clips:
        raise DataError(f"{own if own.is_file() else esc50} lists no clip of a known class")
    for clip in clips:
        if not clip.path.is_file():
            raise DataError(f"{clip.path} is listed in the table of {folder} but does not exist")
    return clips


_COLUMNS = ("file", "fold", "label", "title", "source", "author", "license")


def _rows(table: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    with table.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        absent = [name for name in columns if name not in (reader.fieldnames or ())]
        if absent:
            raise DataError(f"{table} must have the columns {', '.join(columns)}; {', '.join(absent)} missing")
        rows = list(reader)
    for line, row in enumerate(rows, start=2):
        if any(row[name] is None for name in columns):
            raise DataError(f"{table}: row {line} has too few columns")
    return rows


def _fold(row: dict[str, str], table: Path) -> int:
    try:
        return int(row["fold"])
    except ValueError:
        raise DataError(f"{table}: fold must be a whole number, got {row['fold']!r}") from None


def load_waveform(clip: Clip, sample_rate: int) -> np.ndarray:
    """The recording as mono float32 [S] at ``sample_rate`` Hz. Raises :class:`DataError` naming a broken file."""
    try:
        return read_sound(clip.path, sample_rate)
    except AudioError as error:
        raise DataError(str(error)) from None


def clips_digest(clips: Sequence[Clip]) -> str:
    """First 12 hex digits of a sha256 over the labels, folds and bytes of recordings."""
    digest = hashlib.sha256()
    for clip in clips:
        digest.update(f"{clip.path.name} {clip.fold} {clip.label}\n".encode())
        digest.update(clip.path.read_bytes())
    return digest.hexdigest()[:12]


@dataclass(frozen=True)
class _Material:
    """What is worth playing of one clip, at HEADROOM times the sample rate, with a peak of 1."""

    audio: np.ndarray  # [S] float32, silent head and tail removed
    presence: np.ndarray  # [frames of 10 ms] float32: 1 where something was recorded, 0 in digital silence
    levels: np.ndarray  # [frames of 10 ms] RMS
    ambience: np.ndarray  # [257] magnitude per bin of white noise with unit variance
    period: int  # samples after which the sound resembles itself most, at least half of it
    ticks: int  # equal parts of a period that resemble each other
    source: str


def _frame_levels(audio: np.ndarray, frame: int) -> np.ndarray:
    """audio [S] -> RMS of each whole or partial frame."""
    padded = np.pad(audio, (0, -len(audio) % frame))
    return np.sqrt(np.square(padded.reshape(-1, frame)).mean(axis=1))


def _prepare(audio: np.ndarray, rate: int, clip: Clip) -> _Material:
    """Cut a recording to its event and measure what the scenes need."""
    peak = np.abs(audio).max()
    if peak < 1e-4:
        raise DataError(f"{clip.path} is silent")
    audio = audio / peak
    frame = rate // 100
    texture = _HABITS[clip.label].texture
    levels = _frame_levels(audio, frame)
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
    period, ticks = _period(audio, rate) if clip.label == "clock_tick" else (len(audio), 1)
    return _Material(
        audio=np.ascontiguousarray(audio, dtype=np.float32),
        presence=spread.astype(np.float32),
        levels=levels,
        ambience=ambience,
        period=period,
        ticks=ticks,
        source=clip.source or str(clip.path),
    )


def _ambience(audio: np.ndarray, levels: np.ndarray, recorded: np.ndarray, frame: int) -> np.ndarray:
    """Magnitudes [257] of the noise between events: what is there in the quietest stretches, or at each frequency's."""
    window = np.hanning(512).astype(np.float32)
    stretch = -(-512 // frame)  # frames under one window
    starts = np.flatnonzero(np.convolve(recorded, np.ones(stretch), mode="valid") == stretch)
    starts = starts[starts * frame + 512 <= len(audio)]
    if len(starts) < 3:
        return np.zeros(257, np.float32)
    pieces = np.stack([audio[start * frame : start * frame + 512] for start in starts]) * window
    power = np.square(np.abs(np.fft.rfft(pieces, axis=1))) / np.square(window).sum()
    # The very quietest may be an editor's fade, so the lowest tenth is passed over.
    order = np.argsort(power.mean(axis=1))[len(starts) // 10 : max(len(starts) // 4, len(starts) // 10 + 2)]
    # Of exponentially distributed powers the 15th percentile is 0.163 of the mean; it sees noise between harmonics.
    power = np.minimum(power[order].mean(axis=0), np.quantile(power, 0.15, axis=0) / 0.163)
    smoothing = np.hanning(19) / np.hanning(19).sum()
    power = np.exp(np.convolve(np.pad(np.log(power + 1e-20), 9, mode="edge"), smoothing, mode="valid"))
    # A clip cut tightly around its event holds no ambience: what is quietest there is still the event.
    relative = power.mean() / np.square(levels).max()
    trusted = 1e-2 if np.count_nonzero(recorded) > 250 else 1e-3
    return np.sqrt(power * (1.0 if relative < trusted else 3e-5 / relative)).astype(np.float32)


def _period(audio: np.ndarray, rate: int) -> tuple[int, int]:
    """Lag in samples, 45 to 85 % of the length, at which the envelope [S] correlates best with itself, and into how
    many parts it divides that follow each other nearly as well (a clock's ticks, or pairs of tick and tock)."""
    hop = rate // 500
    envelope = np.sqrt(_frame_levels(np.diff(audio), hop))
    envelope = np.convolve(envelope, np.hanning(7), mode="same")
    lags = range(int(0.45 * len(envelope)), int(0.85 * len(envelope)))

    def likeness(lag: int) -> float:
        return np.corrcoef(envelope[lag:], envelope[:-lag])[0, 1]

    period = max(lags, key=likeness)
    most = max(1, int(period * hop / (SHORTEST_TICK * rate)))
    alike = [parts for parts in range(1, most + 1) if likeness(round(period / parts)) > 0.8 * likeness(period)]
    return hop * period, max(alike)


class SceneSource:
    """Scenes by number, from clips that are kept in memory (0.35 MB for 5 seconds at 16 kHz).

    clips: those of the folds to use, of labels that have captions (:data:`CLASSES`); mel: gives sample rate and
    length; kinds: weights of single, then and while. Labels come in turn, so that every class is equally frequent, but
    for those that come several times in each turn by ``often``. beat: samples; where above 0, clocks run so fast that
    ticks are a whole number of beats apart. With the span of a token a model can tell one tick from another exactly.
    Raises :class:`DataError` for no clips, an unknown label or weights that can't be met.
    """

    def __init__(
        self,
        clips: list[Clip],
        mel: MelConfig,
        seed: int,
        held_back_captions: bool = False,
        kinds: tuple[float, float, float] = (0.7, 0.15, 0.15),
        often: Mapping[str, int] | None = None,
        beat: int = 0,
    ):
        if not clips:
            raise DataError("clips must hold at least one clip, got none")
        unknown = sorted({clip.label for clip in clips} - set(CLASSES))
        if unknown:
            raise DataError(f"labels must be among {', '.join(CLASSES)}, got {', '.join(unknown)}")
        weights = np.asarray(kinds, dtype=float)
        if weights.shape != (3,) or not np.isfinite(weights).all() or (weights < 0).any() or not weights.sum():
            raise DataError(f"kinds must be three weights of at least 0, not all 0, got {kinds!r}")
        if seed < 0:
            raise DataError(f"seed must be at least 0, got {seed!r}")
        often = dict(often or {})
        for label, times in often.items():
            if label not in CLASSES or times < 1:
                raise DataError(
                    f"often must give labels among {', '.join(CLASSES)} from 1 on, got {label!r}: {times!r}"
                )
        self.labels = tuple(label for label in CLASSES if any(clip.label == label for clip in clips))
        if len(self.labels) < 2 and weights[1:].any():
            raise DataError(f"kinds then and while need clips of two classes, got only {self.labels[0]!r}")
        self.sample_rate = mel.sample_rate
        self.length = mel.frames * mel.hop_length  # samples of a scene
        self.seed = seed
        self.held_back_captions = held_back_captions
        self.kinds = weights / weights.sum()
        self.beat = beat
        self._turn = [label for label in self.labels for _ in range(often.get(label, 1))]
        # Plain data that tells one source from another, for the stamps of what is made from it.
        self.settings = {
            "clips": clips_digest(clips),
            "seed": seed,
            "kinds": list(kinds),
            "held_back_captions": held_back_captions,
            "often": often,
            "beat": beat,
        }
        self._rate = round(mel.sample_rate * HEADROOM)
        self._material: dict[str, list[_Material]] = {label: [] for label in self.labels}
        for clip in clips:
            self._material[clip.label].append(_prepare(load_waveform(clip, self._rate), self._rate, clip))

    def scene(self, index: int) -> Scene:
        """Scene number ``index`` (at least 0), the same whenever and wherever it is asked for."""
        if index < 0:
            raise DataError(f"index must be at least 0, got {index!r}")
        turn, place = divmod(index, len(self._turn))
        label = self._turn[np.random.default_rng([self.seed, turn, 0]).permutation(len(self._turn))[place]]
        rng = np.random.default_rng([self.seed, index])
        kind = captions.KINDS[rng.choice(3, p=self.kinds)]
        distant = kind == "single" and rng.random() < 0.15
        labels: tuple[str, ...] = (label,)
        if kind == "single":
            waveform = self._single(label, rng, distant)
        else:
            labels = pair = self._pair(label, kind, rng)
            waveform = self._then(pair, rng) if kind == "then" else self._while(pair, rng)
        waveform *= rng.choice((-1, 1)) * min(1.0, PEAK / max(np.abs(waveform).max(), 1e-9))
        text = captions.caption(labels, kind, rng, self.held_back_captions, distant)
        return Scene(waveform.astype(np.float32), text, labels, "distant" if distant else kind)

    def then(self, labels: tuple[str, str], index: int) -> np.ndarray:
        """Scene number ``index`` of those in which two given sounds follow each other: waveform [F * hop] float32."""
        waveform = self._then(labels, np.random.default_rng([self.seed, index]))
        return waveform * min(1.0, PEAK / max(np.abs(waveform).max(), 1e-9))

    def _pair(self, label: str, kind: str, rng: np.random.Generator) -> tuple[str, str]:
        """A second sound beside ``label``: any in any order for "then"; for "while" mostly an event over a texture."""
        others = [other for other in self.labels if other != label]
        if kind == "while":
            wanted = not _HABITS[label].texture
            preferred = [other for other in others if _HABITS[other].texture == wanted]
            if preferred and rng.random() < 0.8:
                others = preferred
        pair = (label, others[rng.integers(len(others))])
        if kind == "while":
            first, second = sorted(pair, key=lambda name: not _HABITS[name].texture)
            return first, second
        return pair if rng.random() < 0.5 else pair[::-1]

    def _single(self, label: str, rng: np.random.Generator, distant: bool) -> np.ndarray:
        gain = rng.uniform(*_HABITS[label].gain) - (rng.uniform(3, 9) if distant else 0)
        return self._voice(label, self.length, rng, distant) * _amplitude(gain)

    def _then(self, labels: tuple[str, str], rng: np.random.Generator) -> np.ndarray:
        boundary = int(rng.uniform(0.39, 0.59) * self.length)  # 4 to 6 of 10.24 seconds
        overlap = min(int(rng.uniform(0.08, 0.3) * self.sample_rate), boundary)
        first = self._voice(labels[0], boundary, rng) * _amplitude(rng.uniform(*_HABITS[labels[0]].gain))
        second = self._voice(labels[1], self.length - boundary + overlap, rng)
        second *= _amplitude(rng.uniform(*_HABITS[labels[1]].gain))
        mixed = np.zeros(self.length, np.float32)
        fade = np.sin(np.linspace(0, np.pi / 2, overlap, dtype=np.float32))
        first[boundary - overlap :] *= fade[::-1]
        second[:overlap] *= fade
        mixed[:boundary] += first
        mixed[boundary - overlap :] += second
        return mixed

    def _while(self, labels: tuple[str, str], rng: np.random.Generator) -> np.ndarray:
        lower, upper = (self._voice(label, self.length, rng) for label in labels)
        relative = rng.uniform(-2, 6) if not _HABITS[labels[1]].texture else rng.uniform(-4, 4)
        upper = upper * (_amplitude(relative) * _loudness(lower, self.sample_rate) / _loudness(upper, self.sample_rate))
        mixed = lower + upper
        return mixed * (_amplitude(rng.uniform(-10, -1)) / np.abs(mixed).max())

    def _voice(self, label: str, length: int, rng: np.random.Generator, distant: bool = False) -> np.ndarray:
        """One sound over ``length`` samples: continued, at some speed, equalised, perhaps far away; its peak is 1."""
        size = fft.next_fast_len(length, real=True)
        speed, options = rng.uniform(*SPEEDS), self._material[label]
        first = options[rng.integers(len(options))]
        # One transform serves three ends: another speed (spectra of unlike lengths), equaliser, room.
        if self.beat and label == "clock_tick":
            longer = round(size * HEADROOM * self._in_time(first, speed))
        else:
            longer = fft.next_fast_len(round(size * HEADROOM * speed), real=True)
        spectrum = fft.rfft(self._continued(label, first, longer, rng))[: size // 2 + 1]
        spectrum = np.pad(spectrum, (0, size // 2 + 1 - len(spectrum)))
        spectrum *= self._colour(size, rng, distant)
        if distant:
            spectrum *= self._room(size, rng)
        voice = fft.irfft(spectrum, size)[:length]
        return voice / max(np.abs(voice).max(), 1e-9)

    def _in_time(self, clock: _Material, speed: float) -> float:
        """The speed near ``speed`` at which a tick, or else the fewest ticks that can, last a whole number of beats."""
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
        factors = _amplitude(np.clip(level, -3, 3))
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
        echo *= _amplitude(rng.uniform(-4, 3)) / np.sqrt(np.square(echo).sum())
        echo[0] = 1
        return fft.rfft(echo.astype(np.float32), size)

    def _continued(self, label: str, first: _Material, length: int, rng: np.random.Generator) -> np.ndarray:
        """One sound, beginning with ``first``, over ``length`` samples at the rate at which the clips are kept."""
        takes = [one for one in self._material[label] if one.source == first.source]
        track = _Track(length, self._rate)
        if label == "clock_tick":
            overlap = min(int(_HABITS[label].overlap[0] * self._rate), len(first.audio) - first.period)
            for start in range(-int(rng.integers(first.period)), length, first.period):
                track.lay(first, start, 0, first.period + overlap, overlap, overlap)
        elif _HABITS[label].texture:
            self._stretch(track, _HABITS[label], first, takes, rng)
        else:
            self._repeat(track, _HABITS[label], first, takes, rng)
        if track.power.min() < 0.999:
            track.audio += self._floor(first, length, rng) * np.sqrt(np.maximum(1 - track.power, 0))
        return track.audio

    def _stretch(
        self, track: _Track, habit: _Habit, first: _Material, takes: list[_Material], rng: np.random.Generator
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
            material = takes[rng.integers(len(takes))]
            offset = int(rng.uniform(0, 0.2) * len(material.audio))
            frame = offset // track.frame
            gain = float(np.clip(level / (np.median(material.levels[frame : frame + 40]) + 1e-9), 0.5, 2.0))
            fade_in = min(overlap, (len(material.audio) - offset) // 2)

    def _repeat(
        self, track: _Track, habit: _Habit, first: _Material, takes: list[_Material], rng: np.random.Generator
    ) -> None:
        """Lay an event, then perhaps others of the same recording, with pauses."""
        material, offset = first, 0
        position = int(rng.uniform(0, 0.6) * self._rate)
        if len(material.audio) > 2.5 * self._rate and rng.random() < 0.5:  # a long recording may begin at any pause
            pause = material.levels < min(np.quantile(material.levels, 0.2) * 1.5, material.levels.max() * 0.1)
            cuts = np.flatnonzero(pause[: int(0.6 * len(pause))]) * track.frame
            offset = int(cuts[rng.integers(len(cuts))]) if len(cuts) else 0
        fades = int(0.008 * self._rate), int(0.1 * self._rate)
        while True:
            track.lay(material, position, offset, len(material.audio), *fades, _amplitude(rng.uniform(-3, 0)))
            position += len(material.audio) - offset + int(rng.uniform(*habit.gap) * self._rate)
            material, offset = takes[rng.integers(len(takes))], 0
            # The last one may be cut by the end of the scene, but not before most of it was heard.
            late = position + 0.6 * min(len(material.audio), 3 * self._rate) > len(track.audio)
            if late or rng.random() < habit.stop:
                return

    def _floor(self, material: _Material, length: int, rng: np.random.Generator) -> np.ndarray:
        """Noise [length] with the spectrum of the recording's ambience, on a very quiet floor."""
        bins = length // 2 + 1
        quietest = _amplitude(rng.uniform(-82, -64)) / np.sqrt(np.linspace(0.05, 3, 257))
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
        self, material: _Material, start: int, offset: int, end: int, fade_in: int, fade_out: int, gain: float = 1.0
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


def _amplitude(decibels):
    return 10 ** (decibels / 20)


def _loudness(audio: np.ndarray, sample_rate: int) -> float:
    """RMS of the loudest fifth of 50 ms frames: how loud the sound is while it is there."""
    levels = np.sort(_frame_levels(audio, sample_rate // 20))[::-1]
    return float(np.sqrt(np.square(levels[: max(1, len(levels) // 5)]).mean())) + 1e-9
