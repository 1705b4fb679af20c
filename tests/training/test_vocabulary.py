"""The vocabulary: every sound has wordings of its own, and what is wrong with an entry is named."""

import re
import textwrap

import numpy as np
import pytest

from training.data.synthesis import SYNTHESES
from training.data.vocabulary import FOLDER, SOUNDS, VocabularyError, find, habits_digest, load_vocabulary, select


def texts(sound):
    """(wordings of training, wordings held back)"""
    words = sound.wordings
    bound = [text for each in sound.attributes.values() for text in each.wordings]
    return [*words.nouns, *words.clauses, *words.free, *bound], list(words.held_back)


def test_sounds_are_in_families():
    assert len(SOUNDS) >= 70
    assert {sound.family for sound in SOUNDS.values()} == {path.stem for path in FOLDER.glob("*.yaml")}


@pytest.mark.parametrize("name", SOUNDS)
def test_a_sound_has_wordings_of_its_own(name):
    training, held_back = texts(SOUNDS[name])
    assert len(set(training)) >= 20
    assert len(set(held_back)) >= 4
    assert not set(training) & set(held_back)
    others = {text for other in SOUNDS if other != name for part in texts(SOUNDS[other]) for text in part}
    assert not others & {*training, *held_back}


@pytest.mark.parametrize("name", [name for name, sound in SOUNDS.items() if sound.synthesis])
def test_a_computed_sound_is_deterministic_and_within_range(name):
    kind, ranges = SOUNDS[name].synthesis.kind, SOUNDS[name].synthesis.ranges
    first, second = (SYNTHESES[kind](np.random.default_rng(3), 2.0, 16000, **ranges) for _ in range(2))
    assert first.dtype == np.float32 and len(first) == 32000
    assert np.array_equal(first, second)
    assert 0.01 < np.abs(first).max() <= 1


ENTRY = """\
    gong:
      labels: [gong]
      audioset: [Gong]
      habit: {kind: event, gain: [-10, -1], count: [1, 3], gap: [0.5, 2]}
      counted: {nouns: [gong, gongs], clause: a gong rings, files: [a.ogg]}
      synonyms: []
      nouns: [a gong]
      clauses: [a gong rings]
      free: [a gong being struck]
      held_back: [a tam-tam]
      attributes:
        big: {title: '(?i)big', wordings: [a big gong]}
"""
TONE = """\
    hum:
      synthesis: {kind: sine, frequency: [100, 200]}
      audioset: []
      habit: {kind: texture, gain: [-10, -1]}
      synonyms: []
      nouns: [a hum]
      clauses: [it hums]
      free: [humming]
      held_back: [a drone]
      attributes:
        low: {synthesis: {frequency: [50, 80]}, wordings: [a low hum]}
"""


def write(folder, text, name="metal.yaml"):
    (folder / name).write_text(textwrap.dedent(text))
    return folder


def test_an_entry_is_all_that_a_sound_needs(tmp_path):
    sounds = load_vocabulary(write(write(tmp_path, ENTRY), TONE, "tones.yaml"))
    assert list(sounds) == ["gong", "hum"]
    gong, hum = sounds.values()
    assert (gong.family, hum.family) == ("metal", "tones")
    assert gong.habit.count == (1, 3) and gong.habit.takes == "source" and not gong.habit.texture
    assert gong.attributes["big"].fits("b.ogg", "A BIG gong") and not gong.attributes["big"].fits("b.ogg", "gong")
    assert hum.habit.texture and hum.synthesis.ranges == {"frequency": (100.0, 200.0)}


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("synonyms: []", "", "synonyms is missing"),
        ("synonyms: []", "colour: blue\n      synonyms: []", "unknown field colour"),
        ("labels: [gong]", "", "labels or synthesis must be given, and not both"),
        ("kind: event", "kind: sudden", "habit.kind must be one of event, texture, music, speech, got 'sudden'"),
        (", gap: [0.5, 2]", "", "habit must have count, gain, gap, kind"),
        ("gap: [0.5, 2]", "gap: [2, 0.5]", "habit.gap must be a range (low, high), got (2.0, 0.5)"),
        ("count: [1, 3]", "count: [0, 3]", "habit.count must be a range"),
        ("free: [a gong being struck]", "free: []", "free must be texts"),
        ("held_back: [a tam-tam]", "held_back: [' a tam-tam']", "held_back must be texts without spaces"),
        ("files: [a.ogg]", "files: []", "counted must name files"),
        ("'(?i)big'", "'(big'", "attributes.big.title is no regular expression"),
        ("title: '(?i)big', ", "", "attributes.big must have title or files"),
        ("nouns: [gong, gongs]", "nouns: [gong]", "counted.nouns must hold 2 values"),
    ],
)
def test_what_is_wrong_with_a_recorded_sound_is_named(tmp_path, old, new, words):
    assert ENTRY.count(old) == 1
    with pytest.raises(VocabularyError, match=f"^metal.yaml: gong: .*{re.escape(words)}"):
        load_vocabulary(write(tmp_path, ENTRY.replace(old, new)))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("kind: sine", "kind: bagpipe", "synthesis.kind must be one of beep"),
        ("kind: sine, ", "kind: sine, tempo: [1, 2], ", "synthesis of sine must give frequency"),
        ("kind: texture", "kind: music", "habit.kind must be texture for a computed sound"),
        ("[50, 80]", "[80, 50]", "synthesis.frequency must be a range"),
        ("synthesis: {frequency: [50, 80]}", "title: low", "attributes.low must have synthesis"),
    ],
)
def test_what_is_wrong_with_a_computed_sound_is_named(tmp_path, old, new, words):
    assert TONE.count(old) == 1
    with pytest.raises(VocabularyError, match=f"^metal.yaml: hum: .*{re.escape(words)}"):
        load_vocabulary(write(tmp_path, TONE.replace(old, new)))


def test_a_label_and_a_name_belong_to_one_sound(tmp_path):
    write(tmp_path, ENTRY)
    write(tmp_path, ENTRY.replace("gong:", "tam_tam:", 1), "other.yaml")
    with pytest.raises(VocabularyError, match=r"other.yaml: tam_tam: labels: 'gong' belongs to gong"):
        load_vocabulary(tmp_path)
    write(tmp_path, ENTRY, "other.yaml")
    with pytest.raises(VocabularyError, match=r"other.yaml: gong: is already in metal.yaml"):
        load_vocabulary(tmp_path)


def test_a_folder_without_sounds_and_broken_files_are_refused(tmp_path):
    with pytest.raises(VocabularyError, match="must hold a family"):
        load_vocabulary(tmp_path)
    for text in ("gong: [", "- gong"):
        with pytest.raises(VocabularyError, match=r"^metal.yaml "):
            load_vocabulary(write(tmp_path, text))


def test_sounds_are_selected_by_name_or_family():
    assert select(["rain", "speech", "rain"]) == ("rain", "man_speaking", "woman_speaking")
    with pytest.raises(VocabularyError, match="or families .*got 'submarine'"):
        select(["submarine"])
    with pytest.raises(VocabularyError, match="got 'submarine'"):
        find("submarine")


def test_the_digest_of_habits_follows_what_is_composed():
    assert habits_digest(["dog"]) == habits_digest(["dog"]) != habits_digest(["cat"])
