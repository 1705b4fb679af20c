"""Inpainting: what is kept, what is drawn, and what is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from factory import tiny_checkpoint, tiny_config

from dear import AudioDEAR
from dear.codec.mel import MelSpectrogram

NAN = float("nan")


def same(a: torch.Tensor, b: torch.Tensor, atol: float = 1e-3) -> None:
    torch.testing.assert_close(a, b, atol=atol, rtol=1e-3)


def tone(rate: int, seconds: float) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * 440 * np.arange(int(rate * seconds)) / rate)).astype(np.float32)


def test_inpaint_keeps_what_lies_outside_sample_for_sample(student):
    audio = tone(16_000, 1.0)
    out = student.inpaint(audio, 16_000, 0.2, 0.4, "a dog", seed=1)
    first, last, fade = 3200, 6400, 320
    waveform = out.waveform[0].numpy()
    assert waveform.shape == (10_000,)
    np.testing.assert_array_equal(waveform[:first], audio[:first])
    np.testing.assert_array_equal(waveform[last:], audio[last:10_000])
    assert np.abs(waveform[first + fade : last - fade] - audio[first + fade : last - fade]).max() > 0.05
    # A token spans 1280 samples: 2, 3 and 4 touch [3200, 6400).
    assert [i for i, iteration in enumerate(out.order[0].tolist()) if iteration >= 0] == [2, 3, 4]
    assert out.iterations == 3
    assert out.settings["start"] == 0.2
    assert out.settings["end"] == 0.4
    given = student.vae.encode(MelSpectrogram(student.config.mel).clip(torch.from_numpy(audio)[None]))
    for i in (0, 1, 5, 6, 7):
        same(out.tokens[0, i], given[0, i], atol=1e-5)
    again = student.inpaint(torch.from_numpy(audio), 16_000, 0.2, 0.4, "a dog", seed=1)
    assert torch.equal(again.waveform, out.waveform)
    assert not torch.equal(student.inpaint(audio, 16_000, 0.2, 0.4, "a dog", seed=2).waveform, out.waveform)


def test_inpaint_hears_as_much_of_the_surroundings_as_is_asked(student):
    audio = tone(16_000, 1.0)
    other = np.where(np.arange(len(audio)) < 1000, 0.1, audio)  # far from the region, which begins at 6400
    drawn = slice(6400 + 320, 8000 - 320)
    for context, heard in ((0, False), (0.1, False), (0.4, True)):
        one, two = (
            student.inpaint(sound, 16_000, 0.4, 0.5, "a dog", context=context, seed=1).waveform[0, drawn]
            for sound in (audio, other)
        )
        assert torch.allclose(one, two, atol=1e-5) is not heard
    with pytest.raises(ValueError, match=r"context must be a number from 0 to 0.625, got -1"):
        student.inpaint(audio, 16_000, 0.4, 0.5, "a dog", context=-1)


def test_inpaint_cross_fades_inside_the_region_only(student):
    audio = np.zeros(10_240, dtype=np.float32)
    out = student.inpaint(audio, 16_000, 0.2, 0.4, "a dog", seed=1)
    inside = out.waveform[0, 3200:6400]
    assert not out.waveform[0, :3200].any()
    assert not out.waveform[0, 6400:].any()
    assert inside[0].abs() < 0.01 * inside.abs().max()
    assert inside.abs().max() > 0
    whole = student.inpaint(audio, 16_000, 0, 10_000 / 16_000, "a dog", seed=1)
    assert (whole.order >= 0).all()
    plain = student.generate("a dog", seed=1)
    assert torch.equal(whole.waveform, plain.waveform)


def test_inpaint_is_as_loud_as_its_surroundings_where_training_had_one_loudness(tmp_path):
    config = tiny_config()
    config = dataclasses.replace(config, vae=dataclasses.replace(config.vae, peak=0.5))
    model = AudioDEAR.from_pretrained(tiny_checkpoint(tmp_path / "peak", config), device="cpu")
    audio = tone(16_000, 1.0)
    loud, soft = (model.inpaint(gain * audio, 16_000, 0.2, 0.4, "a dog", seed=1) for gain in (0.5, 0.05))
    torch.testing.assert_close(soft.tokens, loud.tokens, rtol=0, atol=1e-3)
    torch.testing.assert_close(10 * soft.waveform, loud.waveform, rtol=0, atol=1e-3)
    torch.testing.assert_close(soft.mel + np.log(10), loud.mel, rtol=0, atol=1e-3)
    silence = model.inpaint(0 * audio, 16_000, 0.2, 0.4, "a dog", seed=1).waveform
    assert silence[0, 4000:6000].abs().max() > 1e-3


def test_inpaint_takes_stereo_other_rates_and_integers(student):
    mono = tone(16_000, 0.64)
    stereo = np.stack([mono * 2, mono * 0])
    a = student.inpaint(stereo, 16_000, 0.3, 0.4, "a dog", seed=1)
    np.testing.assert_allclose(a.waveform[0, :4800].numpy(), mono[:4800], atol=1e-6)
    b = student.inpaint(tone(44_100, 3.0), 44_100, 0.3, 0.4, "a dog", seed=1, num_samples=2)
    assert b.waveform.shape == (2, 10_000)
    np.testing.assert_allclose(b.waveform[1, 100:4700].numpy(), mono[100:4700], atol=2e-3)
    integers = (mono * 32768).astype(np.int16)
    c = student.inpaint(integers, 16_000, 0.3, 0.4, "a dog", seed=1)
    np.testing.assert_array_equal(c.waveform[0, :4800].numpy(), integers[:4800] / np.float32(32768))
    swapped = student.inpaint(integers.astype(">i2"), 16_000, 0.3, 0.4, "a dog", seed=1)
    assert torch.equal(swapped.waveform, c.waveform)
    short = student.inpaint(mono[:1000], 16_000, 0.3, 0.4, "a dog", seed=1)
    assert not short.waveform[0, 1000:4800].any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"audio": [0.0, 0.1]}, "audio must be an array or tensor of floating or int16 samples, got list"),
        ({"audio": np.zeros(100, dtype=np.int64)}, "audio must be .* got int64 array"),
        ({"audio": np.zeros(0, dtype=np.float32)}, r"audio must have the shape \[S\] or \[C, S\]"),
        ({"audio": np.zeros((10_000, 2))}, r"samples last, got \[10000, 2\]"),
        ({"audio": np.zeros((1, 1, 100))}, r"audio must have the shape"),
        ({"audio": np.full(100, NAN)}, "audio must hold finite samples in .* got a peak of nan"),
        ({"audio": np.full(100, 900.0)}, "audio must hold finite samples in .* got a peak of 900"),
        ({"sample_rate": 0}, "sample_rate must be a whole number from 1000 to 384000, got 0"),
        ({"sample_rate": 16_000.5}, "sample_rate must be"),
        ({"start": -1}, "start must be a number from 0 to 0.625, got -1"),
        ({"start": NAN}, "start must be"),
        ({"end": 0.7}, "end must be a number from 0 to 0.625, got 0.7"),
        ({"end": "0.5"}, "end must be"),
        ({"start": 0.4, "end": 0.3}, "end must be at least one sample later than start 0.4, got 0.3"),
        ({"start": 0.3, "end": 0.3}, "end must be at least one sample later"),
        ({"iterations": 3}, "iterations must be a whole number from 1 to 2, got 3"),
        ({"prompt": " "}, "prompt must have 1 to 1000 characters"),
    ],
)
def test_inpaint_names_bad_input(student, change, message):
    arguments = {"audio": tone(16_000, 0.6), "sample_rate": 16_000, "start": 0.2, "end": 0.3, "prompt": "a dog"}
    with pytest.raises(ValueError, match=message):
        student.inpaint(**(arguments | change))
