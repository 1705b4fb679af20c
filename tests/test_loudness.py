from __future__ import annotations

import json
import math

import numpy as np
import pytest
import soundfile
import torch

from dear.cli import main
from dear.loudness import CEILING, PAGE, fade_ends, measure, normalise, true_peak

RATE = 16_000


def tone(amplitude: float, seconds: float = 2.0, frequency: float = 997.0, rate: int = RATE) -> torch.Tensor:
    time = torch.arange(round(seconds * rate), dtype=torch.float64) / rate
    return (amplitude * torch.sin(2 * math.pi * frequency * time + 0.3)).float()


@pytest.mark.parametrize("rate", [16_000, 48_000])
def test_a_sine_of_997_hertz_has_the_loudness_of_the_standard(rate):
    """BS.1770-4: at full scale it reads -3.01 LKFS."""
    assert measure(tone(1.0, rate=rate), rate) == pytest.approx(-3.01, abs=0.1)
    assert measure(tone(0.1, rate=rate), rate) == pytest.approx(-23.01, abs=0.1)


def test_each_item_comes_to_the_target_by_one_gain():
    items = torch.stack((tone(0.01), tone(0.3), 0.2 * torch.sin(torch.arange(32_000) ** 1.3)))
    louder = normalise(items, RATE, -20)
    for item, before in zip(louder, items, strict=True):
        assert measure(item, RATE) == pytest.approx(-20, abs=0.05)
        gain = (item @ before) / (before @ before)
        torch.testing.assert_close(item, gain * before)


def test_peaks_stay_below_minus_1_decibel_also_between_samples():
    click = torch.zeros(2, 32_000)
    click[0, 1000] = click[0, 9000] = 0.05
    click[1, :] = tone(0.9, frequency=4000.0)  # its samples miss its peaks
    made = normalise(click, RATE, -5)
    assert true_peak(made[0]) == pytest.approx(CEILING, rel=1e-5)
    assert all(true_peak(item) <= CEILING * 1.0001 for item in made)
    assert measure(made[0], RATE) < -5


def test_silence_and_the_shortest_sounds_are_taken():
    assert not normalise(torch.zeros(1, 32_000), RATE, -20).any()
    assert normalise(tone(0.5, 0.01)[None], RATE, -20).isfinite().all()
    assert measure(torch.zeros(32_000), RATE) == -math.inf


def test_fades_touch_the_ends_alone():
    ones = torch.ones(2, 1000)
    both = fade_ends(ones, RATE)
    assert torch.equal(both, both.flip(1)) and not both[:, 0].any()
    assert (both[:, :80].diff() > 0).all() and torch.equal(both[:, 80:-80], ones[:, 80:-80])
    assert both.diff().abs().max() < 0.02
    assert torch.equal(fade_ends(ones, RATE, end=False)[:, 80:], ones[:, 80:])
    assert torch.equal(fade_ends(ones, RATE, begin=False)[:, :-80], ones[:, :-80])
    assert torch.equal(ones, torch.ones(2, 1000))  # the input is left as it was
    assert fade_ends(torch.ones(1, 1), RATE).tolist() == [[1.0]]


def test_sounds_begin_and_end_at_zero_unless_they_are_joined(student):
    out = student.generate("rain", seed=3)
    bare = student.vocoder(out.mel)[:, : out.sound.shape[1]]
    assert torch.equal(out.sound, fade_ends(bare, RATE)) and not out.sound[:, [0, -1]].any()
    audio = np.full(20_000, 0.5, dtype=np.float32)
    inside = student.redraw(audio, RATE, 0.5, 0.7, "rain", seed=3).sound[0]
    assert inside[0] == inside[-1] == 0.5
    to_the_end = student.redraw(audio, RATE, 1.0, 1.25, "rain", seed=3).sound[0]
    assert to_the_end[0] == 0.5 and to_the_end[-1] == 0
    longer = student.extend(audio, RATE, 1.5, "rain", seed=3).sound[0]
    assert longer[0] == 0.5 and longer[-1] == 0
    assert all(part.abs().max() > 1e-4 for part in longer[20_000:-200].split(100))  # no fade where clips are joined


def test_a_loudness_is_kept_in_the_settings_and_by_drafts(student):
    plain, out = (student.generate("rain", seed=3, loudness=loudness) for loudness in (None, PAGE))
    assert torch.equal(out.sound, normalise(plain.sound, RATE, PAGE))
    assert "loudness" not in plain.settings and out.settings["loudness"] == PAGE
    assert measure(out.sound[0], RATE) == pytest.approx(PAGE, abs=0.05) or true_peak(out.sound[0]) == pytest.approx(
        CEILING
    )
    partial = next(student.stream("rain", seed=3, loudness=-40))
    assert measure(student.draft(partial).sound[0], RATE) == pytest.approx(-40, abs=0.05)
    (many,) = student.generate_many(["rain"], seed=3, loudness=PAGE)
    assert torch.equal(many.sound, out.sound)


@pytest.mark.parametrize("loudness", [-61, 0, math.nan, "loud", True])
def test_a_loudness_out_of_range_is_refused(student, loudness):
    with pytest.raises(ValueError, match="loudness must be a number from -60 to -5, got"):
        student.generate("rain", loudness=loudness)


def test_the_command_line_takes_a_loudness(tiny_folder, tmp_path):
    path = tmp_path / "rain.wav"
    arguments = ["generate", "rain", "-o", str(path), "--seed", "3", "--device", "cpu", "--model", str(tiny_folder)]
    assert main([*arguments, "--loudness", "-30"]) == 0
    samples, rate = soundfile.read(path, dtype="float32")
    assert measure(torch.from_numpy(samples), rate) == pytest.approx(-30, abs=0.1)
    with soundfile.SoundFile(path) as file:
        assert json.loads(file.comment)["loudness"] == -30
