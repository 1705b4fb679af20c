"""The vocabulary: every sound has wordings, no wording fits two sounds, and every synthesis named exists."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from training.data.synthesis import SYNTHESES

FAMILIES = sorted((Path(__file__).parents[2] / "training" / "data" / "vocabulary").glob("*.yaml"))
SOUNDS = {
    name: sound for family in FAMILIES for name, sound in yaml.safe_load(family.read_text(encoding="utf-8")).items()
}


def test_families_share_no_sound():
    counts = [len(yaml.safe_load(family.read_text(encoding="utf-8"))) for family in FAMILIES]
    assert len(SOUNDS) == sum(counts) >= 70


@pytest.mark.parametrize("name", SOUNDS)
def test_a_sound_has_wordings_of_its_own(name):
    sound = SOUNDS[name]
    training = [text for part in ("nouns", "clauses", "free") for text in sound[part]]
    assert len(set(training)) >= 20
    assert len(set(sound["held_back"])) >= 4
    assert not set(training) & set(sound["held_back"])
    others = {
        text
        for other, each in SOUNDS.items()
        if other != name
        for part in ("nouns", "clauses", "free", "held_back")
        for text in each[part]
    }
    assert not others & {*training, *sound["held_back"]}


def test_labels_belong_to_one_sound():
    labels = [label for sound in SOUNDS.values() for label in sound.get("labels", [])]
    assert len(labels) == len(set(labels))


@pytest.mark.parametrize("name", [name for name, sound in SOUNDS.items() if "synthesis" in sound])
def test_a_computed_sound_is_deterministic_and_within_range(name):
    ranges = dict(SOUNDS[name]["synthesis"])
    kind = ranges.pop("kind")
    first, second = (SYNTHESES[kind](np.random.default_rng(3), 2.0, 16000, **ranges) for _ in range(2))
    assert first.dtype == np.float32 and len(first) == 32000
    assert np.array_equal(first, second)
    assert 0.01 < np.abs(first).max() <= 1
