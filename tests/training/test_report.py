"""The parts of a card that describe recordings and sounds."""

import dataclasses
from pathlib import Path

from training.data.clips import Clip
from training.engine.recipe import MaskingConfig
from training.report.attribution import attribution, vocabulary_table
from training.report.card import hidden


def test_attribution_names_collections_origins_licences_and_authors():
    clip = Clip(Path("esc10/audio/a.wav"), 1, "dog", "bark", "https://www.freesound.org/s/1/", "Ann", "CC-BY")
    assert attribution([clip]) == (
        "They were trained on 1 recordings:\n\n"
        '`esc10` (K. J. Piczak, "ESC: Dataset for Environmental Sound Classification", 2015): freesound.org (1); '
        "licences: CC-BY (1).\n\n"
        '- "bark" by Ann, CC-BY, https://www.freesound.org/s/1/'
    )
    again = dataclasses.replace(clip, title="growl")
    rendered = Clip(Path("sounds/audio/b.ogg"), 1, "piano", "scale", "a.sf2 (rendered)", "", "MIT")
    text = attribution([clip, again, rendered, rendered])
    assert "freesound.org (2); licences: CC-BY (2)." in text and "`sounds`: a.sf2 (2); licences: MIT (2)." in text
    assert '- "bark", "growl" by Ann, CC-BY, https://www.freesound.org/s/1/\n' in text
    assert text.endswith('- "scale", MIT, a.sf2 (rendered)')


def test_a_card_lists_the_sounds_by_family():
    assert vocabulary_table(["dog", "cat", "rain", "man_speaking"]).splitlines()[2:] == [
        "| animals | dog, cat |",
        "| weather and water | rain |",
        "| speech | man speaking |",
    ]


def test_a_card_describes_masking():
    assert hidden(MaskingConfig()) == "70% to 100% of a scene's tokens are hidden, uniformly"
    nested = MaskingConfig((0.2, 1.0), "cosine", order="nested", targets=2)
    assert hidden(nested) == (
        "20% to 100% of a scene's tokens are hidden, each share as often as in decoding, in nested decoding orders"
    )
