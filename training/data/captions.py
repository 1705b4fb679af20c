"""Captions: many natural wordings of each sound and of two sounds together, some held back from training.

Each sound of the vocabulary has noun phrases ("a dog barking"), clauses ("a dog barks"), free wordings that people
would type, and held-back wordings. Noun phrases and clauses also fill the templates of compositions ("a dog barks, then
rain falls"), of general frames ("the sound of a dog barking") and of distance ("a dog barking in the distance").
Attributes have wordings that fit some clips only ("a slow piano melody"), and some events can be counted ("three dog
barks", "a bell rings twice").

With ``held_back=True`` every caption is of a wording that training never shows: for a single sound one of its held-back
wordings, for a composition, a number of events and a distant sound a held-back template around phrases that are known.
The two sets are disjoint, ignoring capitals and full stops. Captions are never the bare name of a sound. Some
training captions end in an aside that says little or nothing about the sound ("..., recorded on a phone").
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence

import numpy as np

from training.data.vocabulary import find

KINDS = ("single", "then", "while")

# {n} and {c} are a noun phrase and a clause of the sound; {m} and {d} those of the second one.
_FRAMES = ("the sound of {n}", "{n} nearby", "a recording of {n}", "you can hear {n}", "sound effect of {n}", "{n}")
_DISTANT = (
    "{n} in the distance",
    "{n} far away",
    "{c} in the distance",
    "{c} far away",
    "in the distance, {c}",
    "the distant sound of {n}",
    "{n} heard from afar",
)
_DISTANT_HELD_BACK = ("{n} a long way off", "faintly, from some way off, {n}", "{c} somewhere far off")
# Asides that people add to any description. A model should not take them for sounds.
_ASIDES = (
    " at night",
    " somewhere in the city",
    ", recorded on a phone",
    " just outside",
    " on a sunday afternoon",
    " around here again",
    ", loud and clear",
    " behind the house",
    " while nobody is around",
    " at the crack of dawn",
    " late in the evening",
    " after lunch",
    " around midnight",
    " in the middle of nowhere",
    " down the road",
    " round the corner",
    " on the other side of the wall",
    " right by my ear",
    ", close to the microphone",
    ", heard from upstairs",
    " from the next room",
    " through an open window",
    " in our neighbourhood",
    " in a small town",
    " out in the countryside",
    " near my flat",
    " behind the school",
    " at my grandmother's place",
    " across the valley",
    " on the edge of the village",
    " somewhere in italy",
    " in some quiet suburb",
    ", field recording",
    ", high quality",
    ", in stereo",
    ", no music",
    ", nothing else",
    " and that's all",
    ", please",
    ", thanks",
    " for my student film",
    " for a podcast intro",
    " for a video game level",
    " for about ten seconds",
    ", a long take",
    " as usual",
    " for the third time this week",
    " when i least expected it",
    " on an ordinary tuesday",
    " in early march",
    ", as realistic as possible",
)
_ASIDE = 0.25  # share of training captions that end in an aside
_THEN = (
    "{n}, then {m}",
    "{c}, then {d}",
    "{c} and then {d}",
    "{n} followed by {m}",
    "first {n}, then {m}",
    "first {c}, then {d}",
    "{n}, and afterwards {m}",
    "{c}, after that {d}",
    "{n} and then {m}",
    "{c}, followed by {m}",
    "{n}, next {m}",
    "{n}, later {m}",
)
_THEN_HELD_BACK = (
    "{c}, and a moment later {d}",
    "{n} before {m}",
    "{n} gives way to {m}",
    "to begin with {n}, in the end {m}",
)
_WHILE = (
    "{d} while {c}",
    "{c} while {d}",
    "{m} and {n} at the same time",
    "{n} and {m} together",
    "{n} with {m}",
    "{m} over {n}",
    "{m} with {n} in the background",
    "{n} and {m}",
    "{n} together with {m}",
    "{d}, and at the same time {c}",
    "{n} mixed with {m}",
    "{m} during {n}",
)
_WHILE_HELD_BACK = (
    "{d} as {c}",
    "{m} against a backdrop of {n}",
    "{n}, accompanied by {m}",
    "both {n} and {m} can be heard at once",
)
# {number} is "three" or "3", {n} "dog barks", {c} "a dog barks", {times} "three times".
_COUNTS = (
    "{number} {n}",
    "the sound of {number} {n}",
    "{c} {times}",
    "exactly {number} {n}",
    "{number} {n}, one by one",
)
_COUNTS_HELD_BACK = ("{number} {n} in all", "what happens {times}: {c}", "i count {number} {n}")
_ONCE = ("one {n}", "a single {n}", "the sound of a single {n}", "{c} once", "just one {n}")
_ONCE_HELD_BACK = ("one lone {n}", "{c} one time only", "no more than one {n}")
NUMBERS = ("one", "two", "three", "four", "five", "six")
_TIMES = ("once", "twice", "three times", "four times", "five times", "six times")


def prompts(name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The training wordings and the held-back wordings of one sound that fit all of its clips, as they are written.

    Raises ValueError for a sound that the vocabulary does not have.
    """
    words = find(name).wordings
    bare = name.replace("_", " ")
    framed = (frame.format(n=noun) for noun in words.nouns for frame in _FRAMES)
    training = (text for text in (*words.free, *words.clauses, *framed) if len(text.split()) > 1 and text != bare)
    return tuple(dict.fromkeys(training)), words.held_back


def compositions(names: Sequence[str], most: int | None = None) -> list[tuple[str, str, str]]:
    """A held-back caption of "A, then B" for ordered pairs of sounds: (text, first sound, second sound).

    most: the largest number of pairs, drawn evenly; all pairs by default.
    """
    rng = np.random.default_rng(0)
    pairs = [(first, second) for first in names for second in names if first != second]
    if most is not None and most < len(pairs):
        pairs = [pairs[index] for index in sorted(rng.permutation(len(pairs))[:most])]
    return [(_composed(pair, "then", rng, held_back=True), *pair) for pair in pairs]


def caption(
    names: tuple[str, ...],
    kind: str,
    rng: np.random.Generator,
    held_back: bool = False,
    *,
    distant: bool = False,
    attribute: str = "",
    count: int = 0,
) -> str:
    """One caption of a scene, with capitals and full stop as people happen to type them.

    ``names`` holds one sound for kind "single", and for "then" and "while" the first (or underlying) sound and the
    second. ``held_back`` picks among wordings that training never shows, without an aside. Of a single sound,
    ``distant`` says that it is far away, ``attribute`` is one that its clip has, ``count`` the number of its events,
    from 1 to 6. Raises ValueError for an unknown sound or kind, or a wrong number of sounds.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if len(names) != (1 if kind == "single" else 2):
        raise ValueError(f"names must hold {1 if kind == 'single' else 2} for kind {kind!r}, got {names!r}")
    if count:
        text = _counted(names[0], count, rng, held_back)
    elif attribute:
        text = _pick(find(names[0]).attributes[attribute].wordings, rng)
    elif kind == "single" and not distant:
        text = _single(names[0], rng, held_back)
    else:
        text = _composed(names, kind, rng, held_back)
    if not held_back and rng.random() < _ASIDE:
        musical = any(find(name).habit.kind == "music" for name in names)
        text += _pick(tuple(aside for aside in _ASIDES if not (musical and "music" in aside)), rng)
    return _typed(text, rng)


def described(names: tuple[str, ...], kind: str, rng: np.random.Generator, held_back: bool = False) -> str:
    """Another caption of a scene, from its sounds and the ``kind`` that :class:`~training.data.scenes.Scene` names."""
    form, _, detail = kind.partition(":")
    return caption(
        names,
        form if form in KINDS else "single",
        rng,
        held_back,
        distant=form == "distant",
        attribute=detail if form == "single" else "",
        count=int(detail) if form == "count" else 0,
    )


def wordings_digest(names: Sequence[str]) -> str:
    """First 12 hex digits of a sha256 over all texts from which captions of these sounds are composed."""
    singles = [_FRAMES, _DISTANT, _DISTANT_HELD_BACK, _COUNTS, _COUNTS_HELD_BACK, _ONCE, _ONCE_HELD_BACK, NUMBERS]
    templates = [*singles, _TIMES, _ASIDES, _ASIDE, _THEN, _THEN_HELD_BACK, _WHILE, _WHILE_HELD_BACK]
    words = {}
    for name in names:
        sound = find(name)
        counted = sound.counted and [sound.counted.nouns, sound.counted.clause]
        bound = {key: each.wordings for key, each in sound.attributes.items()}
        words[name] = [dataclasses.asdict(sound.wordings), counted, bound]
    return hashlib.sha256(json.dumps([words, templates]).encode()).hexdigest()[:12]


def _composed(names: tuple[str, ...], kind: str, rng: np.random.Generator, held_back: bool) -> str:
    """A template around phrases of two sounds, or of a distant one."""
    templates = {
        "single": (_DISTANT, _DISTANT_HELD_BACK),
        "then": (_THEN, _THEN_HELD_BACK),
        "while": (_WHILE, _WHILE_HELD_BACK),
    }[kind][held_back]
    first, second = find(names[0]).wordings, find(names[-1]).wordings
    return _pick(templates, rng).format(
        n=_pick(first.nouns, rng),
        c=_pick(first.clauses, rng),
        m=_pick(second.nouns, rng),
        d=_pick(second.clauses, rng),
    )


def _counted(name: str, count: int, rng: np.random.Generator, held_back: bool) -> str:
    counted = find(name).counted
    if counted is None:
        raise ValueError(f"count must be 0 for {name}, whose events are not counted, got {count!r}")
    one, several = (_ONCE, _ONCE_HELD_BACK), (_COUNTS, _COUNTS_HELD_BACK)
    return _pick((one if count == 1 else several)[held_back], rng).format(
        number=NUMBERS[count - 1] if rng.random() < 0.75 else count,
        n=counted.nouns[count > 1],
        c=counted.clause,
        times=_TIMES[count - 1],
    )


def _single(name: str, rng: np.random.Generator, held_back: bool) -> str:
    words = find(name).wordings
    if held_back:
        return _pick(words.held_back, rng)
    training, _ = prompts(name)
    # Frames yield many similar wordings, so half of the captions come from the other wordings.
    unframed = tuple(text for text in (*words.free, *words.clauses) if len(text.split()) > 1)
    return _pick(unframed if rng.random() < 0.5 else training, rng)


def _pick(options: tuple[str, ...], rng: np.random.Generator) -> str:
    return options[rng.integers(len(options))]


def _typed(text: str, rng: np.random.Generator) -> str:
    capital, stop = ((False, False), (True, True), (True, False), (False, True))[
        rng.choice(4, p=(0.5, 0.25, 0.15, 0.1))
    ]
    return (text[0].upper() + text[1:] if capital else text) + ("." if stop else "")
