"""The vocabulary: the sounds of ``training/data/vocabulary/*.yaml``, checked, as a registry :data:`SOUNDS`.

One file is one family, one entry one sound; README.md there describes every key. No code lists sounds.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from dear.conditioning import TextEncoder
from dear.config import ConfigError, from_dict
from dear.vocabulary import Embeddings, KnownSound, Vocabulary
from training.data.synthesis import SYNTHESES, Range

FOLDER = Path(__file__).with_name("vocabulary")
HABITS = {  # the keys that each kind of habit has beside kind and gain
    "event": {"count", "gap"},
    "texture": {"overlap"},
    "music": {"gap", "takes"},
    "speech": {"gap", "takes"},
}
TAKES = ("source", "clip", "author")


class VocabularyError(ValueError):
    """A file of the vocabulary that can't be used, or a name that it doesn't have."""


@dataclass(frozen=True)
class Habit:
    """The way in which a sound fills a scene. Durations are in seconds."""

    kind: str  # event, texture, music, speech
    gain: Range  # dB, peak of a scene
    count: tuple[int, int] = (1, 1)  # events: how often one comes in ten seconds
    gap: Range = (0.0, 0.0)  # events, music and speech: pause between two
    overlap: Range = (0.0, 0.0)  # textures: length of a cross-fade
    periodic: bool = False  # textures: continued by whole periods
    takes: str = "source"  # what two clips must share to follow each other: the recording, the file, the author

    @property
    def texture(self) -> bool:
        return self.kind == "texture"


@dataclass(frozen=True)
class Wordings:
    """Texts in lower case, names excepted."""

    nouns: tuple[str, ...]  # fit "the sound of ..." and "..., then ..."
    clauses: tuple[str, ...]  # fit "... while ..."
    free: tuple[str, ...]  # stand alone
    held_back: tuple[str, ...]  # stand alone, never trained on


@dataclass(frozen=True)
class Counted:
    """The words and clips for numbers of events."""

    nouns: tuple[str, str]  # singular and plural: "dog bark", "dog barks"
    clause: str  # one event: "a dog barks"
    files: tuple[str, ...]  # clips that hold one event each


@dataclass(frozen=True)
class Synthesis:
    """The computation of a sound: a function of :data:`~training.data.synthesis.SYNTHESES` and its ranges."""

    kind: str
    ranges: Mapping[str, Range] = field(default_factory=dict)


@dataclass(frozen=True)
class Attribute:
    """Wordings that fit some clips only: those of a title or of some files, or narrower ranges of a synthesis."""

    wordings: tuple[str, ...]
    title: str = ""  # regular expression, searched in a clip's title
    files: tuple[str, ...] = ()
    synthesis: Mapping[str, Range] = field(default_factory=dict)
    once: bool = False  # of events: the wordings count the events of one clip, so the clip is not repeated

    def fits(self, file: str, title: str) -> bool:
        """Whether the wordings fit a clip."""
        return file in self.files or bool(self.title and re.search(self.title, title))


@dataclass(frozen=True)
class Sound:
    """One entry of the vocabulary."""

    name: str
    family: str
    audioset: tuple[str, ...]  # names of AudioSet that count as right
    habit: Habit
    synonyms: tuple[str, ...]
    wordings: Wordings
    labels: tuple[str, ...] = ()  # of clips.csv; empty for computed sounds
    synthesis: Synthesis | None = None  # of computed sounds
    counted: Counted | None = None
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    drop: tuple[str, ...] = ()  # files to leave out


def load_vocabulary(folder: Path = FOLDER) -> dict[str, Sound]:
    """All sounds by name, in the order of files and entries.

    Raises :class:`VocabularyError` that names file, sound and field.
    """
    sounds: dict[str, Sound] = {}
    labels: dict[str, str] = {}
    for path in sorted(folder.glob("*.yaml")):
        for name, entry in _read(path).items():
            where = f"{path.name}: {name}"
            if name in sounds:
                raise VocabularyError(f"{where}: is already in {sounds[name].family}.yaml")
            try:
                sound = _sound(name, path.stem, entry)
            except (ConfigError, TypeError) as error:
                raise VocabularyError(f"{where}: {error}") from None
            for label in sound.labels:
                if label in labels:
                    raise VocabularyError(f"{where}: labels: {label!r} belongs to {labels[label]}")
                labels[label] = name
            sounds[name] = sound
    if not sounds:
        raise VocabularyError(f"{folder} must hold a family of sounds (*.yaml), found none")
    return sounds


def _read(path: Path) -> dict[str, Any]:
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise VocabularyError(f"{path.name} is not valid YAML: {error}") from None
    if not isinstance(data, dict):
        raise VocabularyError(f"{path.name} must hold sounds by name, got {data!r}")
    return data


def _sound(name: str, family: str, entry: Any) -> Sound:
    """Check one entry. Raises ConfigError that names the field."""
    if not isinstance(entry, Mapping):
        raise ConfigError(f"must be an object with fields, got {entry!r}")
    data: dict[str, Any] = dict(entry)
    wordings = {part.name: data.pop(part.name, ()) for part in dataclasses.fields(Wordings)}
    if isinstance(settings := data.get("synthesis"), Mapping):
        ranges = {key: value for key, value in settings.items() if key != "kind"}
        data["synthesis"] = {"kind": settings.get("kind", ""), "ranges": ranges}
    for required in ("audioset", "habit", "synonyms"):
        if required not in data:
            raise ConfigError(f"{required} is missing")
    sound = from_dict(Sound, data | {"name": name, "family": family, "wordings": wordings})
    for part, texts in dataclasses.asdict(sound.wordings).items():
        if not texts or any(not text or text != text.strip() for text in texts):
            raise ConfigError(f"{part} must be texts without spaces around them, got {texts!r}")
    if bool(sound.labels) == bool(sound.synthesis):
        raise ConfigError("labels or synthesis must be given, and not both")
    _check_habit(sound.habit, entry["habit"], computed=sound.synthesis is not None)
    if sound.synthesis is not None:
        _check_synthesis(sound.synthesis.kind, sound.synthesis.ranges)
    if sound.counted is not None and (sound.habit.kind != "event" or not sound.counted.files):
        raise ConfigError("counted must name files, of an event")
    for key, attribute in sound.attributes.items():
        _check_attribute(f"attributes.{key}", attribute, sound.synthesis)
    return sound


def _check_habit(habit: Habit, given: Mapping[str, Any], computed: bool) -> None:
    if habit.kind not in HABITS:
        raise ConfigError(f"habit.kind must be one of {', '.join(HABITS)}, got {habit.kind!r}")
    if computed and not habit.texture:
        raise ConfigError(f"habit.kind must be texture for a computed sound, got {habit.kind!r}")
    wanted = {"kind", "gain"} | (set() if computed else HABITS[habit.kind])
    if set(given) - {"periodic"} != wanted or (habit.periodic and not habit.texture):
        raise ConfigError(f"habit must have {', '.join(sorted(wanted))}, got {', '.join(given)}")
    for name in ("gain", "count", "gap", "overlap"):
        low, high = getattr(habit, name)
        if low > high or (name != "gain" and low < 0) or (name == "count" and low < 1):
            raise ConfigError(f"habit.{name} must be a range (low, high), got {getattr(habit, name)!r}")
    if habit.takes not in TAKES:
        raise ConfigError(f"habit.takes must be one of {', '.join(TAKES)}, got {habit.takes!r}")


def _check_synthesis(kind: str, ranges: Mapping[str, Range]) -> None:
    if kind not in SYNTHESES:
        raise ConfigError(f"synthesis.kind must be one of {', '.join(SYNTHESES)}, got {kind!r}")
    wanted = set(inspect.signature(SYNTHESES[kind]).parameters) - {"rng", "seconds", "sample_rate"}
    if set(ranges) != wanted:
        raise ConfigError(f"synthesis of {kind} must give {', '.join(sorted(wanted)) or 'no range'}, got {ranges!r}")
    for name, (low, high) in ranges.items():
        if low > high:
            raise ConfigError(f"synthesis.{name} must be a range (low, high), got {(low, high)!r}")


def _check_attribute(where: str, attribute: Attribute, synthesis: Synthesis | None) -> None:
    if not attribute.wordings:
        raise ConfigError(f"{where}.wordings must hold at least one, got none")
    given = [bool(attribute.title), bool(attribute.files), bool(attribute.synthesis)]
    if sum(given) != 1 or given[2] != (synthesis is not None):
        allowed = "title or files" if synthesis is None else "synthesis"
        raise ConfigError(f"{where} must have {allowed} beside wordings, and nothing else")
    try:
        re.compile(attribute.title)
    except re.error as error:
        raise ConfigError(f"{where}.title is no regular expression: {error}") from None
    if synthesis is not None:
        _check_synthesis(synthesis.kind, {**synthesis.ranges, **attribute.synthesis})


SOUNDS: Mapping[str, Sound] = load_vocabulary()
LABELS: Mapping[str, Sound] = {label: sound for sound in SOUNDS.values() for label in sound.labels}


def find(name: str) -> Sound:
    """The sound of that name. Raises :class:`VocabularyError` for an unknown one."""
    if name not in SOUNDS:
        raise VocabularyError(f"sound must be one of {', '.join(SOUNDS)}, got {name!r}")
    return SOUNDS[name]


def select(names: Sequence[str]) -> tuple[str, ...]:
    """Names of sounds and of families -> names of sounds, each once, in the order given.

    Raises :class:`VocabularyError` for a name that is neither.
    """
    families = {sound.family for sound in SOUNDS.values()}
    chosen: list[str] = []
    for name in names:
        if name not in SOUNDS and name not in families:
            raise VocabularyError(
                f"sounds must name sounds of the vocabulary or families ({', '.join(sorted(families))}), got {name!r}"
            )
        chosen += [name] if name in SOUNDS else [one.name for one in SOUNDS.values() if one.family == name]
    return tuple(dict.fromkeys(chosen))


# Least cosine similarity of a known prompt to a wording of training, for all-MiniLM-L6-v2: see docs/evaluation.md.
THRESHOLD = 0.6


def known_sounds(names: Sequence[str], threshold: float = THRESHOLD) -> Vocabulary:
    """The wordings that a model trained on the sounds ``names`` has seen, for its checkpoint, without embeddings."""
    families: dict[str, dict[str, KnownSound]] = {}
    for sound in map(find, names):
        wordings = sound.wordings
        attributes = tuple(text for attribute in sound.attributes.values() for text in attribute.wordings)
        known = KnownSound(wordings.nouns, wordings.clauses, tuple(dict.fromkeys((*wordings.free, *attributes))))
        families.setdefault(sound.family, {})[sound.name] = known
    return Vocabulary(threshold, families)


def embedded(vocabulary: Vocabulary, encoder: TextEncoder) -> Vocabulary:
    """``vocabulary`` with the embeddings of its wordings."""
    vectors = encoder.embed([text for text, _ in vocabulary.entries])
    return dataclasses.replace(vocabulary, embeddings=Embeddings(vectors, encoder.digest))


def habits_digest(names: Iterable[str]) -> str:
    """First 12 hex digits of a sha256 over what decides how sounds are composed: all but their wordings."""
    habits = []
    for name in names:
        data = dataclasses.asdict(find(name))
        for key in ("wordings", "synonyms", "audioset"):
            del data[key]
        for attribute in data["attributes"].values():
            del attribute["wordings"]
        habits.append(data)
    return hashlib.sha256(json.dumps(habits).encode()).hexdigest()[:12]
