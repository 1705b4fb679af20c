"""Variations, loops and other lengths of a sound."""

from __future__ import annotations

import numpy as np
import pytest
import torch

RATE, CLIP = 16_000, 10_000


@pytest.fixture(scope="module")
def sound(student):
    return student.generate("rain", seed=3)


def test_a_variation_keeps_what_it_does_not_draw(student, sound):
    out = student.vary(sound.waveform[0], RATE, 0.5, "rain", seed=5)
    assert int((out.order[0] >= 0).sum()) == 4 and out.settings["strength"] == 0.5
    given = student.vary(sound.waveform[0], RATE, 0.01, "rain", seed=5)
    assert int((given.order[0] >= 0).sum()) == 1 and given.iterations == 1
    both = (out.order[0] < 0) & (given.order[0] < 0)
    assert torch.allclose(out.tokens[0, both], given.tokens[0, both])  # the tokens of the given sound
    fresh = student.vary(sound.waveform[0], RATE, 1, "rain", seed=5)
    assert torch.equal(fresh.tokens, student.generate("rain", seed=5).tokens)  # nothing of the sound is left


def test_a_variation_is_that_of_its_seed_alone_and_in_a_batch(student, sound):
    several = student.vary(sound.waveform[0], RATE, 0.5, "rain", seed=5, num_samples=2)
    alone = student.vary(sound.waveform[0], RATE, 0.5, "rain", seed=6)
    assert torch.allclose(several[1].waveform, alone.waveform, atol=1e-4)
    assert not torch.equal(several.order[0], several.order[1])


def test_a_loop_goes_on_at_its_wrap_as_it_does_inside(student):
    time = np.arange(CLIP) / RATE
    ramp = (0.6 * time / time[-1] - 0.3 + 0.05 * np.sin(2 * np.pi * 90 * time)).astype(np.float32)
    assert abs(ramp[0] - ramp[-1]) > 0.5  # it would click where it repeats
    out = student.loop(ramp, RATE, "rain", seed=5)
    looped = out.waveform[0].numpy()
    steps = np.abs(np.diff(looped))
    assert abs(looped[0] - looped[-1]) <= steps.max()
    assert len(looped) == CLIP and out.mel.shape[1] == -(-CLIP // 160)
    reach = int(out.settings["loop"] * RATE)
    assert out.settings["loop"] == pytest.approx(CLIP / RATE / 4)
    np.testing.assert_array_equal(looped[reach + 1 : -reach - 1], ramp[reach + 1 : -reach - 1])
    assert not np.array_equal(looped[:reach], ramp[:reach])


@pytest.mark.parametrize("seconds", [1.0, 2.3])
def test_a_longer_sound_goes_on_under_its_own_settings(student, seconds):
    out = student.generate("rain", seed=3, cfg_scale=1.5, iterations=2)
    calls = []
    longer = student.fit(out, seconds, progress=lambda *call: calls.append(call))
    assert longer.waveform.shape == (1, round(seconds * RATE)) and calls[-1][0] == calls[-1][1]
    kept = CLIP - 320
    assert torch.equal(longer.waveform[0, :kept], out.waveform[0, :kept])
    assert (longer.seed, longer.settings["seconds"], longer.settings["cfg_scale"]) == (3, seconds, 1.5)
    assert torch.equal(student.fit(out, seconds).waveform, longer.waveform)
    assert longer.timings["total"] > out.timings["total"]


def test_a_shorter_sound_fades_out(student, monkeypatch):
    monkeypatch.setattr("dear.variations.SHORTEST", 0.1)
    out = student.generate("rain", seed=3)
    short = student.fit(out, 0.3)
    assert short.waveform.shape == (1, 4_800) and short.waveform[0, -1] == 0
    assert torch.equal(short.waveform[0, :4_480], out.waveform[0, :4_480])
    assert torch.equal(out.waveform, student.generate("rain", seed=3).waveform)  # the original is left alone


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda model, out: model.vary(out.waveform[0], RATE, 1.5, "rain"), "strength must be a number from 0 to 1"),
        (lambda model, out: model.vary(out.waveform[0], RATE, 0.5, " "), "prompt must have 1 to 1000 characters"),
        (lambda model, out: model.fit(out, 31), "seconds must be a number from 1 to 30, got 31"),
        (lambda model, out: model.fit(model.generate(["a dog", "rain"]), 2), "out must hold one sound, got 2"),
        (
            lambda model, out: model.loop(np.zeros(100, np.float32), RATE, "rain"),
            "audio must last at least 0.14 seconds",
        ),
    ],
)
def test_bad_input_is_named(student, sound, call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call(student, sound)


def test_a_negative_prompt_takes_the_place_of_the_null_condition(student, encoder):
    plain = student.generate("rain", seed=3)
    out = student.generate("rain", seed=3, negative_prompt=" a dog barking loudly in the yard ")
    assert out.settings["negative_prompt"] == "a dog barking loudly in the yard"
    assert "negative_prompt" not in plain.settings and not torch.equal(out.tokens, plain.tokens)
    # The same prompt on both sides of guidance is the conditional output, whatever the scale.
    both = student.generate("rain", seed=3, negative_prompt="rain", cfg_scale=7)
    assert torch.allclose(both.tokens, student.generate("rain", seed=3, cfg_scale=1).tokens, atol=1e-4)
    several = student.generate("rain", seed=2, num_samples=2, negative_prompt="a dog barking loudly in the yard")
    assert torch.allclose(several[1].tokens, out.tokens, atol=1e-4)
    with pytest.raises(ValueError, match="negative_prompt must have 1 to 1000 characters after stripping, got 0"):
        student.generate("rain", negative_prompt=" ")
    with pytest.raises(ValueError, match="negative_prompt needs guidance: cfg_scale must not be 1"):
        student.generate("rain", negative_prompt="a dog", cfg_scale=1)
