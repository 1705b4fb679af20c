"""Captions: their wordings, the held-back ones, and pairs of sounds."""

from __future__ import annotations

import numpy as np
import pytest
from recordings import TEN

from training.data import captions
from training.data.vocabulary import SOUNDS


def plain(text: str) -> str:
    return text.lower().rstrip(".")


@pytest.mark.parametrize("label", SOUNDS)
def test_wordings_are_many_and_the_held_back_ones_apart(label: str) -> None:
    training, held_back = (tuple(map(plain, part)) for part in captions.prompts(label))
    assert len(set(training)) == len(training) >= 15 and len(set(held_back)) == len(held_back) >= 4
    assert not set(training) & set(held_back)
    for text in training + held_back:
        assert len(text.split()) > 1
        assert text not in (label, label.replace("_", " "))


def test_captions_of_training_and_held_back_never_meet() -> None:
    rng = np.random.default_rng(0)
    seen: dict[bool, set[str]] = {False: set(), True: set()}
    for held_back in seen:
        for first, second in zip(SOUNDS, [*list(SOUNDS)[1:], "dog"], strict=True):
            for number in range(1, 13):
                if SOUNDS[first].counted and number <= 6:
                    seen[held_back].add(plain(captions.caption((first,), "single", rng, held_back, count=number)))
                seen[held_back] |= {
                    plain(captions.caption((first,), "single", rng, held_back)),
                    plain(captions.caption((first,), "single", rng, held_back, distant=True)),
                    plain(captions.caption((first, second), "then", rng, held_back)),
                    plain(captions.caption((first, second), "while", rng, held_back)),
                }
    assert not seen[False] & seen[True]
    assert len(seen[False]) > 1000


def test_captions_of_training_sometimes_end_in_an_aside_and_never_become_held_back_ones_by_it() -> None:
    rng = np.random.default_rng(0)
    texts = [plain(captions.caption(("rain",), "single", rng)) for _ in range(400)]
    assert 0.15 < np.mean([text.endswith(captions._ASIDES) for text in texts]) < 0.4
    held_back = [plain(captions.caption(("rain", "dog"), "then", rng, held_back=True)) for _ in range(100)]
    assert not any(text.endswith(captions._ASIDES) for text in held_back)
    for label in SOUNDS:
        training, held_back = captions.prompts(label)
        assert not {plain(text + aside) for text in training for aside in captions._ASIDES} & set(map(plain, held_back))


def test_no_caption_of_music_says_that_there_is_none() -> None:
    rng = np.random.default_rng(0)
    texts = [captions.caption(("piano", "rain"), "while", rng) for _ in range(1500)]
    assert not any(", no music" in text for text in texts)
    assert any(", no music" in captions.caption(("rain",), "single", rng) for _ in range(1500))


def test_captions_name_both_sounds_in_order() -> None:
    rng = np.random.default_rng(1)
    for held_back in (False, True):
        for _ in range(40):
            text = captions.caption(("helicopter", "rooster"), "then", rng, held_back).lower()
            crow = min(text.find(word) for word in ("rooster", "cock") if word in text)
            flight = min(text.find(word) for word in ("copter", "chopper", "whirlybird", "rotor") if word in text)
            assert flight < crow, text


def test_bad_captions_are_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="submarine"):
        captions.caption(("submarine",), "single", rng)
    with pytest.raises(ValueError, match="kind"):
        captions.caption(("dog",), "before", rng)
    with pytest.raises(ValueError, match="names must hold 2"):
        captions.caption(("dog",), "then", rng)
    with pytest.raises(ValueError, match="count must be 0 for rain"):
        captions.caption(("rain",), "single", rng, count=2)


def test_captions_say_how_many_events_there_are() -> None:
    rng = np.random.default_rng(2)
    words = {1: ("one", "single", "once", "1"), 2: ("two", "twice", "2"), 3: ("three", "3")}
    for held_back in (False, True):
        for count, wanted in words.items():
            for _ in range(20):
                text = plain(captions.caption(("dog",), "single", rng, held_back, count=count))
                assert "dog" in text and any(word in text.split() or f"{word}:" in text for word in wanted), text
                assert ("barks" in text) or count == 1


@pytest.mark.parametrize(
    ("names", "kind", "options"),
    [
        (("dog",), "single", {}),
        (("dog",), "distant", {"distant": True}),
        (("piano",), "single:slow", {"attribute": "slow"}),
        (("dog",), "count:3", {"count": 3}),
        (("dog", "rain"), "then", {}),
        (("rain", "dog"), "while", {}),
    ],
)
def test_the_kind_of_a_scene_describes_it(names: tuple[str, ...], kind: str, options: dict) -> None:
    form = kind if kind in captions.KINDS else "single"
    for held_back in (False, True):
        wanted = captions.caption(names, form, np.random.default_rng(5), held_back, **options)
        assert captions.described(names, kind, np.random.default_rng(5), held_back) == wanted


def test_compositions_are_of_all_pairs_or_of_some() -> None:
    everything, some = captions.compositions(TEN), captions.compositions(TEN, most=12)
    assert len({row[1:] for row in everything}) == len(everything) == 90
    assert len({row[1:] for row in some}) == len(some) == 12
    assert {row[1:] for row in some} < {row[1:] for row in everything}
    assert captions.compositions(TEN, most=12) == some


def test_the_digest_of_wordings_follows_the_sounds() -> None:
    assert captions.wordings_digest(["dog"]) == captions.wordings_digest(["dog"]) != captions.wordings_digest(["cat"])
