"""Recordings and computed sounds -> ten-second scenes with captions.

:class:`SceneSource` composes scene number ``index`` only from ``(seed, index)``, so that any number of workers may
share the range of indices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dear.config import MelConfig
from training.data import captions
from training.data.clips import Clip, DataError, clips_digest
from training.data.material import frame_levels
from training.data.vocabulary import SOUNDS, Sound, find, habits_digest
from training.data.voices import Take, Voices, amplitude

PEAK = 0.99  # no scene is louder
DISTANT = 0.15  # share of single sounds that are far away
COUNTED = 0.3  # of single sounds with countable events, the share with a given number of events
ATTRIBUTED = 0.5  # of single sounds with an attribute, the share whose caption names it


@dataclass(frozen=True)
class Scene:
    """One training example.

    ``kind`` says how it is composed, and after a colon what else its caption says: single, distant (a single sound far
    away), single:slow (an attribute), count:3 (so many events), then, while. Scenes of the same kind and labels may
    exchange their captions.
    """

    waveform: np.ndarray  # [F * hop] float32 in [-0.99, 0.99]
    caption: str
    labels: tuple[str, ...]  # sounds: one, or for "then" the first and the second, for "while" the lower and the upper
    kind: str


class SceneSource:
    """Scenes by number, from clips that are prepared when they are first needed, and from computed sounds.

    clips: those of the folds to use; mel: gives sample rate and length; kinds: weights of single, then and while.
    sounds: those to use, each with clips or computed; by default all that have clips, and all computed ones. They take
    turns, so all are equally frequent, except that ``often`` lists some several times in each turn. beat: in samples.
    If above 0, clocks run at a speed at which ticks are a whole number of beats apart; if a beat is the span of a
    token, a model can tell one tick from another exactly.

    Raises :class:`DataError` for a sound without clips, an unknown label or weights that can't be met.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        mel: MelConfig,
        seed: int,
        held_back_captions: bool = False,
        kinds: tuple[float, float, float] = (0.7, 0.15, 0.15),
        often: Mapping[str, int] | None = None,
        beat: int = 0,
        sounds: Sequence[str] | None = None,
    ):
        heard = {clip.sound for clip in clips}
        if sounds is None:
            sounds = [name for name, sound in SOUNDS.items() if sound.synthesis or name in heard]
        if missing := [name for name in sounds if not find(name).synthesis and name not in heard]:
            raise DataError(f"clips must hold at least one of every sound, got none of {', '.join(missing)}")
        weights = np.asarray(kinds, dtype=float)
        if weights.shape != (3,) or not np.isfinite(weights).all() or (weights < 0).any() or not weights.sum():
            raise DataError(f"kinds must be three weights of at least 0, not all 0, got {kinds!r}")
        if seed < 0:
            raise DataError(f"seed must be at least 0, got {seed!r}")
        often = dict(often or {})
        for name, times in often.items():
            if name not in SOUNDS or times < 1:
                raise DataError(f"often must give sounds of the vocabulary from 1 on, got {name!r}: {times!r}")
        self.labels = tuple(dict.fromkeys(sounds))
        if len(self.labels) < (2 if weights[1:].any() else 1):
            raise DataError(f"sounds must be two at least for the kinds then and while, got {', '.join(self.labels)}")
        self.length = mel.frames * mel.hop_length  # samples of a scene
        self.seed = seed
        self.held_back_captions = held_back_captions
        self.kinds = weights / weights.sum()
        self._turn = [name for name in self.labels for _ in range(often.get(name, 1))]
        self._clips = {name: [clip for clip in clips if clip.sound == name] for name in self.labels}
        self._voices = Voices(mel.sample_rate, beat)
        # Plain data that identifies this source, for stamps.
        self.settings = {
            "clips": clips_digest([clip for name in self.labels for clip in self._clips[name]]),
            "seed": seed,
            "kinds": list(kinds),
            "held_back_captions": held_back_captions,
            "often": often,
            "beat": beat,
            "sounds": list(self.labels),
            "habits": habits_digest(self.labels),
        }

    def scene(self, index: int) -> Scene:
        """Scene number ``index`` (at least 0), which depends on the index and the settings only.

        Raises :class:`DataError` naming a recording that is broken or silent.
        """
        if index < 0:
            raise DataError(f"index must be at least 0, got {index!r}")
        turn, place = divmod(index, len(self._turn))
        name = self._turn[np.random.default_rng([self.seed, turn, 0]).permutation(len(self._turn))[place]]
        rng = np.random.default_rng([self.seed, index])
        kind = captions.KINDS[rng.choice(3, p=self.kinds)]
        if kind == "single":
            return self._single(find(name), rng)
        pair = self._pair(name, kind, rng)
        waveform = self._then(pair, rng) if kind == "then" else self._while(pair, rng)
        waveform = _limited(waveform * rng.choice((-1, 1)))
        return Scene(waveform, captions.caption(pair, kind, rng, self.held_back_captions), pair, kind)

    def captions(self, labels: tuple[str, ...], kind: str, count: int) -> list[str]:
        """Up to ``count`` different captions of the scenes of a kind with these sounds."""
        rng = np.random.default_rng([self.seed, *f"{kind} {labels}".encode()])
        return list(dict.fromkeys(captions.described(labels, kind, rng, self.held_back_captions) for _ in range(count)))

    def then(self, labels: tuple[str, str], index: int) -> np.ndarray:
        """Scene number ``index`` of those in which two given sounds follow each other: waveform [F * hop] float32."""
        return _limited(self._then(labels, np.random.default_rng([self.seed, index])))

    def _single(self, sound: Sound, rng: np.random.Generator) -> Scene:
        take, kind, distant = self._counted(sound, rng), "single", False
        if take is not None:
            kind = f"count:{take.count}"
        else:
            take = self._take(sound, rng, attributed=not self.held_back_captions)
            distant = not take.attribute and rng.random() < DISTANT
            kind = f"single:{take.attribute}" if take.attribute else "distant" if distant else "single"
        gain = rng.uniform(*sound.habit.gain) - (rng.uniform(3, 9) if distant else 0)
        waveform = self._voices.voice(take, self.length, rng, distant) * amplitude(gain) * rng.choice((-1, 1))
        text = captions.caption(
            (sound.name,),
            "single",
            rng,
            self.held_back_captions,
            distant=distant,
            attribute=take.attribute,
            count=take.count,
        )
        return Scene(_limited(waveform), text, (sound.name,), kind)

    def _counted(self, sound: Sound, rng: np.random.Generator) -> Take | None:
        """Sometimes a number of events, if the sound has clips with one event each."""
        if sound.counted is None:
            return None
        options = [clip for clip in self._clips[sound.name] if clip.path.name in sound.counted.files]
        if not options or rng.random() >= COUNTED:
            return None
        clip = options[rng.integers(len(options))]
        most = min(self._voices.most(clip, self.length, sound.habit), len(captions.NUMBERS))
        return Take(sound, (clip,), count=int(rng.integers(1, most + 1)))

    def _take(self, sound: Sound, rng: np.random.Generator, attributed: bool = False) -> Take:
        """A clip and those that may follow it; with ``attributed``, sometimes one whose caption names an attribute."""
        attribute = ""
        if sound.synthesis is not None:
            if attributed and sound.attributes and rng.random() < ATTRIBUTED:
                attribute = list(sound.attributes)[rng.integers(len(sound.attributes))]
            return Take(sound, attribute=attribute)
        clips = self._clips[sound.name]
        first = clips[rng.integers(len(clips))]
        takes = [clip for clip in clips if _origin(clip, sound) == _origin(first, sound)]
        fitting = [key for key, each in sound.attributes.items() if each.fits(first.path.name, first.title)]
        if attributed and fitting and rng.random() < ATTRIBUTED:
            attribute = fitting[rng.integers(len(fitting))]
            takes = [clip for clip in takes if sound.attributes[attribute].fits(clip.path.name, clip.title)]
        return Take(sound, (first, *(clip for clip in takes if clip != first)), attribute)

    def _pair(self, name: str, kind: str, rng: np.random.Generator) -> tuple[str, str]:
        """A second sound beside ``name``: any in any order for "then"; for "while" mostly a texture under another."""
        others = [other for other in self.labels if other != name]
        if kind == "while":
            wanted = not SOUNDS[name].habit.texture
            preferred = [other for other in others if SOUNDS[other].habit.texture == wanted]
            if preferred and rng.random() < 0.8:
                others = preferred
        pair = (name, others[rng.integers(len(others))])
        if kind == "while":
            first, second = sorted(pair, key=lambda each: not SOUNDS[each].habit.texture)
            return first, second
        return pair if rng.random() < 0.5 else pair[::-1]

    def _voice(self, name: str, length: int, rng: np.random.Generator) -> np.ndarray:
        return self._voices.voice(self._take(find(name), rng), length, rng)

    def _then(self, labels: tuple[str, str], rng: np.random.Generator) -> np.ndarray:
        boundary = int(rng.uniform(0.39, 0.59) * self.length)  # 4 to 6 of 10.24 seconds
        overlap = min(int(rng.uniform(0.08, 0.3) * self._voices.sample_rate), boundary)
        first = self._voice(labels[0], boundary, rng) * amplitude(rng.uniform(*SOUNDS[labels[0]].habit.gain))
        second = self._voice(labels[1], self.length - boundary + overlap, rng)
        second *= amplitude(rng.uniform(*SOUNDS[labels[1]].habit.gain))
        mixed = np.zeros(self.length, np.float32)
        fade = np.sin(np.linspace(0, np.pi / 2, overlap, dtype=np.float32))
        first[boundary - overlap :] *= fade[::-1]
        second[:overlap] *= fade
        mixed[:boundary] += first
        mixed[boundary - overlap :] += second
        return mixed

    def _while(self, labels: tuple[str, str], rng: np.random.Generator) -> np.ndarray:
        lower, upper = (self._voice(label, self.length, rng) for label in labels)
        relative = rng.uniform(-2, 6) if not SOUNDS[labels[1]].habit.texture else rng.uniform(-4, 4)
        rate = self._voices.sample_rate
        mixed = lower + upper * (amplitude(relative) * _loudness(lower, rate) / _loudness(upper, rate))
        return mixed * (amplitude(rng.uniform(-10, -1)) / np.abs(mixed).max())


def _origin(clip: Clip, sound: Sound) -> str:
    """The property that clips must share to follow each other."""
    shared = {"source": clip.source, "author": clip.author, "clip": ""}[sound.habit.takes]
    return shared or str(clip.path)


def _limited(waveform: np.ndarray) -> np.ndarray:
    return (waveform * min(1.0, PEAK / max(np.abs(waveform).max(), 1e-9))).astype(np.float32)


def _loudness(audio: np.ndarray, sample_rate: int) -> float:
    """RMS of the loudest fifth of 50 ms frames, which measures the level of a sound without its pauses."""
    levels = np.sort(frame_levels(audio, sample_rate // 20))[::-1]
    return float(np.sqrt(np.square(levels[: max(1, len(levels) // 5)]).mean())) + 1e-9
