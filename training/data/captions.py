"""Captions: many natural wordings of each sound and of two sounds together, some held back from training.

Each class of ``wordings.yaml`` has noun phrases ("a dog barking"), clauses ("a dog barks"), free wordings that people
would type, and held-back wordings. Noun phrases and clauses also fill the templates of compositions ("a dog barks, then
rain falls"), of general frames ("the sound of a dog barking") and of distance ("a dog barking in the distance").

With ``held_back=True`` every caption is of a wording that training never shows: for a single sound one of the class's
held-back wordings, for a composition (and for a distant sound) a held-back template around phrases that are known. The
two sets never meet, whatever the capitals and full stops. Captions never count the events of a sound, since a scene
repeats it freely, and are never the bare label. Some of the training's end in an aside that says little or nothing of
the sound ("..., recorded on a phone").
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

KINDS = ("single", "then", "while")


@dataclass(frozen=True)
class _Wordings:
    nouns: tuple[str, ...]  # fit "the sound of ..." and "..., then ..."
    clauses: tuple[str, ...]  # fit "... while ..."
    free: tuple[str, ...]  # stand alone
    held_back: tuple[str, ...]  # stand alone, never trained on


_WORDINGS = {
    label: _Wordings(**{part: tuple(texts) for part, texts in parts.items()})
    for label, parts in yaml.safe_load(Path(__file__).with_name("wordings.yaml").read_text(encoding="utf-8")).items()
}

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
# What people add to any description, and what a model should not take for a sound.
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
_ASIDE = 0.25  # share of the training's captions that end in one
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


def _of(label: str) -> _Wordings:
    if label not in _WORDINGS:
        raise ValueError(f"label must be one of {', '.join(_WORDINGS)}, got {label!r}")
    return _WORDINGS[label]


def prompts(label: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Wordings of one sound: (those of training, those held back), without capitals or full stop added.

    Raises ValueError for a label that has no wordings.
    """
    words = _of(label)
    bare = label.replace("_", " ")
    framed = (frame.format(n=noun) for noun in words.nouns for frame in _FRAMES)
    training = (text for text in (*words.free, *words.clauses, *framed) if len(text.split()) > 1 and text != bare)
    return tuple(dict.fromkeys(training)), words.held_back


def compositions() -> list[tuple[str, str, str]]:
    """A held-back caption of "A, then B" for every ordered pair of labels: (text, first label, second label)."""
    rng = np.random.default_rng(0)
    return [
        (_composed((first, second), "then", rng, held_back=True), first, second)
        for first in _WORDINGS
        for second in _WORDINGS
        if first != second
    ]


def caption(
    labels: tuple[str, ...], kind: str, rng: np.random.Generator, held_back: bool = False, distant: bool = False
) -> str:
    """One caption of a scene, with capitals and full stop as people happen to type them.

    ``labels`` holds one label for kind "single", and for "then" and "while" the first (or underlying) sound and the
    second. ``held_back`` picks among wordings that training never shows, without an aside; ``distant`` says that a
    single sound is far away. Raises ValueError for an unknown label or kind, or a wrong number of labels.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if len(labels) != (1 if kind == "single" else 2):
        raise ValueError(f"labels must hold {1 if kind == 'single' else 2} for kind {kind!r}, got {labels!r}")
    if kind == "single" and not distant:
        text = _single(labels[0], rng, held_back)
    else:
        text = _composed(labels, kind, rng, held_back)
    if not held_back and rng.random() < _ASIDE:
        text += _pick(_ASIDES, rng)
    return _typed(text, rng)


def wordings_digest() -> str:
    """First 12 hex digits of a sha256 over all that captions are put together from."""
    templates = _FRAMES, _DISTANT, _DISTANT_HELD_BACK, _ASIDES, _ASIDE, _THEN, _THEN_HELD_BACK, _WHILE, _WHILE_HELD_BACK
    words = {label: dataclasses.asdict(each) for label, each in _WORDINGS.items()}
    return hashlib.sha256(json.dumps([words, templates]).encode()).hexdigest()[:12]


def _composed(labels: tuple[str, ...], kind: str, rng: np.random.Generator, held_back: bool) -> str:
    """A template around phrases of two sounds, or of a distant one."""
    templates = {
        "single": (_DISTANT, _DISTANT_HELD_BACK),
        "then": (_THEN, _THEN_HELD_BACK),
        "while": (_WHILE, _WHILE_HELD_BACK),
    }[kind][held_back]
    first, second = _of(labels[0]), _of(labels[-1])
    return _pick(templates, rng).format(
        n=_pick(first.nouns, rng),
        c=_pick(first.clauses, rng),
        m=_pick(second.nouns, rng),
        d=_pick(second.clauses, rng),
    )


def _single(label: str, rng: np.random.Generator, held_back: bool) -> str:
    words = _of(label)
    if held_back:
        return _pick(words.held_back, rng)
    training, _ = prompts(label)
    # Frames make long lists of alike wordings: half of the captions come from the others.
    return _pick((*words.free, *words.clauses) if rng.random() < 0.5 else training, rng)


def _pick(options: tuple[str, ...], rng: np.random.Generator) -> str:
    return options[rng.integers(len(options))]


def _typed(text: str, rng: np.random.Generator) -> str:
    capital, stop = ((False, False), (True, True), (True, False), (False, True))[
        rng.choice(4, p=(0.5, 0.25, 0.15, 0.1))
    ]
    return (text[0].upper() + text[1:] if capital else text) + ("." if stop else "")
