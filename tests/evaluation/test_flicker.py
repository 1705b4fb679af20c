"""Flicker of tokens and texture of waveforms, against closed forms."""

import math

import pytest
import torch

from dear.evaluation.flicker import band_step, flicker, level_deviation, level_step, within_token
from dear.evaluation.texture import envelope_db, harmonic_ratio_db

WINDOW = 4096  # samples of a frame at 16 kHz
MEASURES = (level_step, level_deviation, band_step, within_token)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_constant_mel_does_not_flicker_and_its_level_does_not_matter():
    for measure in MEASURES:
        assert measure(torch.full((2, 32, 4), -3.0)).tolist() == [0, 0]
        mel = noise(2, 40, 6)
        torch.testing.assert_close(measure(mel + 2), measure(mel), rtol=1e-4, atol=1e-5)


def test_a_level_that_alternates_from_token_to_token():
    mel = torch.tensor([0.0, 0.5] * 4).repeat_interleave(8)[None, :, None].expand(1, 64, 3)
    assert level_step(mel).item() == pytest.approx(0.5)
    assert level_deviation(mel).item() == pytest.approx(0.25)
    assert band_step(mel).item() == pytest.approx(0.5)
    assert within_token(mel).item() == 0


def test_bands_that_move_against_each_other_leave_the_level_alone():
    mel = torch.tensor([0.0, 0.5] * 4).repeat_interleave(8)[None, :, None] * torch.tensor([1.0, -1.0])
    assert level_step(mel).item() == level_deviation(mel).item() == 0
    assert band_step(mel).item() == pytest.approx(0.5)


def test_movement_inside_a_token_is_no_step():
    mel = torch.tensor([0.3, -0.3] * 32)[None, :, None].expand(1, 64, 5)
    assert within_token(mel).item() == pytest.approx(0.3)
    assert level_step(mel).item() == pytest.approx(0, abs=1e-6)
    assert level_step(mel, frames=1).item() == pytest.approx(0.6)


def test_a_slow_swell_has_deviation_and_small_steps():
    time = torch.arange(1024) / 1024
    mel = torch.sin(2 * math.pi * time)[None, :, None].expand(1, 1024, 4)
    assert level_deviation(mel).item() == pytest.approx(1 / math.sqrt(2), rel=0.01)
    assert level_step(mel).item() == pytest.approx(4 / 127, rel=0.02)  # it travels a length of 4 in 127 steps


def test_means_by_label():
    mel = torch.stack([torch.zeros(16, 2), torch.arange(16.0)[:, None].expand(16, 2), torch.zeros(16, 2)])
    found = flicker(mel, ["a", "b", "a"])
    assert found["a"] == dict.fromkeys(("level_step", "level_deviation", "band_step", "within_token"), 0)
    assert found["b"]["level_step"] == found["b"]["band_step"] == 8 and found["b"]["level_deviation"] == 4
    with pytest.raises(ValueError, match="at least two tokens of 8 frames, got"):
        flicker(mel[:, :15], ["a", "b", "a"])


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_a_modulated_tone_has_the_power_of_its_modulation(share):
    time = torch.arange(160_000) / 16_000
    carrier = torch.sin(2 * math.pi * 1000 * time)
    wave = torch.stack([(1 + share * torch.sin(2 * math.pi * rate * time)) * carrier for rate in (20, 5)])
    inside, outside = envelope_db(wave).tolist()
    assert inside == pytest.approx(10 * math.log10(share**2 / 2), abs=0.15)
    assert outside < inside - 40
    assert envelope_db(3 * wave)[0].item() == pytest.approx(inside, abs=1e-3)


def test_silence_has_no_envelope_and_short_sounds_are_refused():
    assert envelope_db(torch.zeros(1, 16_000)).item() == -120
    with pytest.raises(ValueError, match="at least 8000 samples"):
        envelope_db(torch.zeros(1, 7999))
    with pytest.raises(ValueError, match=f"at least {WINDOW} samples"):
        harmonic_ratio_db(torch.zeros(1, WINDOW - 1))
    assert harmonic_ratio_db(torch.zeros(1, WINDOW)).isfinite().all()


def test_harmonics_stand_above_the_noise_by_their_ratio():
    bins = torch.tensor([100, 300, 500, 700, 900])  # in the middle of bins of the frame's spectrum
    time = torch.arange(40 * WINDOW)
    amplitude, deviation = 0.2, 0.05
    tone = amplitude * torch.sin(2 * math.pi * bins[:, None] * time / WINDOW).sum(0)
    window = torch.hann_window(WINDOW, dtype=torch.float64)
    expected = amplitude**2 * window.sum() ** 2 / (4 * deviation**2 * math.log(2) * window.square().sum())
    wave = (tone + deviation * noise(len(time)))[None]
    assert harmonic_ratio_db(wave).item() == pytest.approx(10 * math.log10(expected), abs=0.3)
    rough = harmonic_ratio_db((tone + 4 * deviation * noise(len(time)))[None])
    assert rough.item() == pytest.approx(10 * math.log10(expected / 16), abs=0.5)


def test_quiet_frames_do_not_count():
    tone = torch.sin(2 * math.pi * 0.05 * torch.arange(20 * WINDOW)) + 1e-2 * noise(20 * WINDOW)
    half = tone.clone()
    half[10 * WINDOW :] = 1e-4 * noise(10 * WINDOW)
    assert harmonic_ratio_db(half[None]).item() == pytest.approx(harmonic_ratio_db(tone[None]).item(), abs=1.5)
