"""Captions: many natural wordings of each sound and of two sounds together, some held back from training.

Each class has noun phrases ("a dog barking"), clauses ("a dog barks"), free wordings that people would type, and
held-back wordings. Noun phrases and clauses also fill the templates of compositions ("a dog barks, then rain falls"),
of general frames ("the sound of a dog barking") and of distance ("a dog barking in the distance").

With ``held_back=True`` every caption is of a wording that training never shows: for a single sound one of the class's
held-back wordings, for a composition (and for a distant sound) a held-back template around phrases that are known. The
two sets never meet, whatever the capitals and full stops. Captions never name a count, since a scene repeats its
sound freely, and are never the bare label.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

KINDS = ("single", "then", "while")


@dataclass(frozen=True)
class _Wordings:
    nouns: tuple[str, ...]  # fit "the sound of ..." and "..., then ..."
    clauses: tuple[str, ...]  # fit "... while ..."
    free: tuple[str, ...]  # stand alone
    held_back: tuple[str, ...]  # stand alone, never trained on


_CLASSES = {
    "dog": _Wordings(
        nouns=("a dog barking", "dog barking", "a barking dog", "barking", "dogs barking", "a dog woofing"),
        clauses=("a dog barks", "the dog is barking", "a dog keeps barking", "a dog woofs"),
        free=(
            "a dog barks again and again",
            "a dog is barking loudly",
            "a dog barking repeatedly",
            "loud dog barks",
            "dog bark",
            "a big dog barking at someone",
            "a small dog yapping",
            "a puppy barks",
            "a guard dog barking at a stranger",
            "an angry dog barking",
            "an excited dog barking in the yard",
            "barking of a dog",
            "a canine barking",
            "woof woof goes the dog",
            "somebody's dog keeps barking",
            "a dog barking outside the house",
            "a pet dog yelps and barks",
        ),
        held_back=(
            "my neighbour's hound will not stop yapping",
            "a terrier barking at the postman",
            "the loud bark of a German shepherd",
            "an agitated dog making noise in the garden",
            "a watchdog woofing at the gate",
            "a pooch barks for attention",
        ),
    ),
    "rooster": _Wordings(
        nouns=("a rooster crowing", "rooster crowing", "a crowing rooster", "a cockerel crowing", "a rooster's crow"),
        clauses=("a rooster crows", "the rooster is crowing", "a cock crows", "a rooster keeps crowing"),
        free=(
            "a rooster crows at dawn",
            "a rooster crows loudly",
            "cock-a-doodle-doo goes the rooster",
            "a rooster calling in the morning",
            "rooster crow",
            "a cockerel crows on a farm",
            "a rooster on a farm",
            "the crow of a rooster",
            "a male chicken crowing",
            "a rooster announcing the morning",
            "a loud rooster wakes everyone",
            "farmyard rooster call",
            "a rooster crowing at sunrise",
            "a rooster cries out",
            "a cock crowing in the village",
            "a rooster crowing again and again",
        ),
        held_back=(
            "a cockerel greets the break of day",
            "the farm's rooster sounds off at daybreak",
            "a proud rooster doing his morning call",
            "a bantam cock crowing in the barnyard",
            "an early morning cock-crow in the countryside",
            "the noisy rooster from the henhouse",
        ),
    ),
    "rain": _Wordings(
        nouns=("rain falling", "rain", "heavy rain", "steady rain", "rainfall", "pouring rain"),
        clauses=("rain falls", "it is raining", "rain is pouring down", "it rains heavily", "rain keeps falling"),
        free=(
            "the sound of rain",
            "rain falling on the ground",
            "raindrops hitting a roof",
            "rain on a window",
            "a rainy day",
            "a downpour of rain",
            "rain pattering on leaves",
            "rain shower",
            "light rain falling steadily",
            "heavy rainfall in the street",
            "rain pouring down outside",
            "raindrops falling on a tent",
            "a rainstorm without thunder",
            "water drops of rain splashing on pavement",
            "soft rain in the garden",
            "rain sounds for sleeping",
        ),
        held_back=(
            "it's bucketing down out there",
            "drizzle tapping on the window pane",
            "a cloudburst drenching the city",
            "raindrops drumming on a tin shed",
            "wet weather, with water pelting the pavement",
            "an autumn shower soaking the garden",
        ),
    ),
    "sea_waves": _Wordings(
        nouns=(
            "waves crashing on a beach",
            "ocean waves",
            "waves rolling in",
            "waves breaking on the shore",
            "the sea",
        ),
        clauses=("waves crash on the shore", "the ocean waves roll in", "waves break on a beach", "the sea is rolling"),
        free=(
            "waves crashing",
            "the sound of the ocean",
            "ocean waves crashing against rocks",
            "sea waves washing over sand",
            "the sound of waves at the seaside",
            "gentle waves lapping at the shore",
            "surf on a sandy beach",
            "ocean surf",
            "waves washing up on the beach",
            "the sea crashing against the coast",
            "big waves rolling onto the beach",
            "a beach with waves",
            "the roar of the sea",
            "waves of the sea breaking and pulling back",
            "water washing onto the shore",
            "calm sea waves",
        ),
        held_back=(
            "the tide coming in along the coast",
            "breakers pounding the coastline",
            "seawater swashing over pebbles",
            "a day at the seashore with rolling swell",
            "the Atlantic rushing up the sand",
            "sitting by the ocean and listening to the surf",
        ),
    ),
    "crackling_fire": _Wordings(
        nouns=("a fire crackling", "a crackling fire", "a campfire crackling", "a wood fire burning", "fire crackling"),
        clauses=(
            "a fire crackles",
            "a fire is burning and crackling",
            "a campfire crackles",
            "wood burns and crackles",
        ),
        free=(
            "the crackle of a fire",
            "a fireplace crackling",
            "a crackling campfire at night",
            "wood crackling and popping in a fire",
            "flames crackling",
            "a burning fire that pops and snaps",
            "burning wood",
            "logs burning in a fireplace",
            "a fire burning in the hearth",
            "a bonfire crackles",
            "the sound of fire",
            "twigs snapping in the flames",
            "a cosy fireplace",
            "a small fire popping",
            "fire burning with pops and crackles",
            "a camp fire",
        ),
        held_back=(
            "embers popping in the hearth",
            "dry logs spitting and snapping as they burn",
            "sitting around a blazing bonfire",
            "a warm log fire in the living room",
            "kindling catching light and crackling",
            "the stove's flames snap softly",
        ),
    ),
    "crying_baby": _Wordings(
        nouns=("a baby crying", "baby crying", "a crying infant", "an infant wailing", "a newborn crying"),
        clauses=("a baby cries", "the baby is crying", "an infant wails", "a baby screams and cries"),
        free=(
            "a baby cries loudly",
            "a crying baby who wants milk",
            "a hungry baby crying",
            "baby cry",
            "the cry of a baby",
            "a little child crying",
            "a newborn baby wailing",
            "a baby sobbing and wailing",
            "an upset baby",
            "a baby screaming",
            "an infant crying in its crib",
            "a toddler crying",
            "a baby crying for its mother",
            "the wailing of an infant",
            "a tired baby crying in the bedroom",
            "a baby starts to cry",
        ),
        held_back=(
            "a fussy little one bawling in the cot",
            "the newborn won't settle and keeps wailing",
            "a small infant howling for attention",
            "a tearful baby in the nursery",
            "a weeping baby at three in the morning",
            "an unhappy infant sobbing in a pram",
        ),
    ),
    "sneezing": _Wordings(
        nouns=("a person sneezing", "someone sneezing", "a man sneezing", "a sneeze", "sneezing"),
        clauses=("a person sneezes", "someone sneezes", "a woman sneezes", "somebody is sneezing"),
        free=(
            "achoo, someone sneezes",
            "a loud sneeze",
            "somebody sneezes loudly",
            "the sound of a sneeze",
            "a person with a cold sneezing",
            "someone is sneezing",
            "a man sneezes loudly",
            "a woman sneezing",
            "a person has to sneeze",
            "human sneeze",
            "somebody sneezing because of dust",
            "a big sneeze",
            "a child sneezes",
            "a sudden sneeze",
            "sneezing into a tissue",
            "a person with allergies sneezes",
            "a sick person sneezing",
        ),
        held_back=(
            "my uncle goes achoo",
            "hay fever makes him sneeze",
            "an explosive sneeze in a quiet room",
            "a girl with pollen allergy going atishoo",
            "bless you, that was quite a sneeze",
            "pepper up the nose brings on a sneeze",
        ),
    ),
    "clock_tick": _Wordings(
        nouns=("a clock ticking", "clock ticking", "a ticking clock", "the ticking of a clock", "a wall clock ticking"),
        clauses=("a clock ticks", "the clock is ticking", "a clock ticks steadily", "an old clock ticks"),
        free=(
            "a clock going tick tock",
            "tick tock of a clock",
            "the tick of a clock",
            "a clock ticks in a quiet room",
            "a mechanical clock ticking regularly",
            "a watch ticking",
            "an alarm clock ticking",
            "a grandfather clock ticking slowly",
            "steady ticking",
            "the second hand of a clock ticking",
            "a kitchen clock ticks away",
            "an old wall clock",
            "rhythmic clock ticks",
            "a clock on the wall keeps ticking",
            "a timepiece ticking",
            "seconds ticking by on a clock",
        ),
        held_back=(
            "a pocket watch marking the seconds",
            "the pendulum clock in the hallway goes tick tock",
            "time passing, second by second, on an antique timepiece",
            "the regular click of a clock's mechanism",
            "a noisy bedside clock ticking through the night",
            "a stopwatch ticking away",
        ),
    ),
    "helicopter": _Wordings(
        nouns=("a helicopter flying", "a helicopter", "a flying helicopter", "helicopter blades spinning"),
        clauses=("a helicopter flies by", "a helicopter hovers", "a helicopter is flying", "a helicopter passes"),
        free=(
            "the sound of a helicopter",
            "helicopter flying",
            "a helicopter flying overhead",
            "a helicopter flies overhead",
            "a helicopter hovering above",
            "helicopter rotor noise",
            "a chopper flying overhead",
            "the rotor of a helicopter",
            "a helicopter in the sky",
            "a helicopter taking off",
            "helicopter engine and rotor blades",
            "a chopper passing by",
            "a military helicopter flying low",
            "the thumping blades of a helicopter",
            "a helicopter landing",
            "a rescue helicopter in flight",
            "a helicopter circling over the city",
            "the whirring of a helicopter",
        ),
        held_back=(
            "a chopper circling over the neighbourhood",
            "rotor blades beating the air above us",
            "an air ambulance coming in to land",
            "a police helicopter searching from above",
            "whirlybird thudding through the sky",
            "a rotorcraft throbs as it approaches",
        ),
    ),
    "chainsaw": _Wordings(
        nouns=(
            "a chainsaw",
            "a chainsaw running",
            "a chainsaw cutting wood",
            "a chainsaw revving",
            "a chain saw buzzing",
        ),
        clauses=("a chainsaw runs", "a chainsaw cuts wood", "a chainsaw revs up", "someone is using a chainsaw"),
        free=(
            "chainsaw cutting",
            "the sound of a chainsaw",
            "a chainsaw cutting down a tree",
            "a loud chainsaw engine",
            "a man sawing logs with a chainsaw",
            "chainsaw noise in the forest",
            "a chainsaw buzzing and revving",
            "a petrol chainsaw at work",
            "a lumberjack using a chainsaw",
            "a power saw cutting timber",
            "a chain saw sawing through a trunk",
            "the roar of a chainsaw",
            "a chainsaw idling and then cutting",
            "cutting a tree with a chainsaw",
            "a chainsaw motor running loudly",
            "a chainsaw sawing wood",
        ),
        held_back=(
            "a forester felling an oak with a motor saw",
            "tree surgeons slicing branches with a power saw",
            "a gas-powered saw ripping through timber",
            "a logger revving his saw in the woods",
            "the snarl of a motor saw biting into a trunk",
            "loud tree cutting with a petrol saw",
        ),
    ),
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
    if label not in _CLASSES:
        raise ValueError(f"label must be one of {', '.join(_CLASSES)}, got {label!r}")
    return _CLASSES[label]


def prompts(label: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Wordings of one sound: (those of training, those held back), without capitals or full stop added.

    Raises ValueError for a label that has no wordings.
    """
    words = _of(label)
    bare = label.replace("_", " ")
    framed = (frame.format(n=noun) for noun in words.nouns for frame in _FRAMES)
    training = (text for text in (*words.free, *words.clauses, *framed) if len(text.split()) > 1 and text != bare)
    return tuple(dict.fromkeys(training)), words.held_back


def caption(
    labels: tuple[str, ...], kind: str, rng: np.random.Generator, held_back: bool = False, distant: bool = False
) -> str:
    """One caption of a scene, with capitals and full stop as people happen to type them.

    ``labels`` holds one label for kind "single", and for "then" and "while" the first (or underlying) sound and the
    second. ``held_back`` picks among wordings that training never shows; ``distant`` says that a single sound is
    far away. Raises ValueError for an unknown label or kind, or a wrong number of labels.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if len(labels) != (1 if kind == "single" else 2):
        raise ValueError(f"labels must hold {1 if kind == 'single' else 2} for kind {kind!r}, got {labels!r}")
    if kind == "single" and not distant:
        return _typed(_single(labels[0], rng, held_back), rng)
    templates = {
        "single": (_DISTANT, _DISTANT_HELD_BACK),
        "then": (_THEN, _THEN_HELD_BACK),
        "while": (_WHILE, _WHILE_HELD_BACK),
    }[kind][held_back]
    first, second = _of(labels[0]), _of(labels[-1])
    text = _pick(templates, rng).format(
        n=_pick(first.nouns, rng),
        c=_pick(first.clauses, rng),
        m=_pick(second.nouns, rng),
        d=_pick(second.clauses, rng),
    )
    return _typed(text, rng)


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
