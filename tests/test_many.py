"""AudioDEAR.generate_many: batches, their order, and their overlap."""

from __future__ import annotations

import pytest
import torch

from dear import AudioDEAR

PROMPTS = ["a dog", "rain", "a rooster"]


def check(model, sounds):
    """Assert that ``sounds`` equal those of each of ``PROMPTS`` alone, with seeds from 3 on."""
    assert [(each.seed, each.prompts) for each in sounds] == [(3, ["a dog"]), (4, ["rain"]), (5, ["a rooster"])]
    for seed, prompt, each in zip((3, 4, 5), PROMPTS, sounds, strict=True):
        alone = model.generate(prompt, seed=seed)
        torch.testing.assert_close(each.waveform, alone.waveform, atol=1e-3, rtol=1e-3)
        assert torch.equal(each.order, alone.order) and each.settings == alone.settings
        assert set(each.timings) == set(alone.timings)


@pytest.mark.parametrize(
    ("ahead", "expected"),
    [(0, ["render 2", "give", "give", "render 1", "give"]), (1, ["render 2", "render 1", "give", "give", "give"])],
)
def test_so_many_batches_are_rendered_before_the_first_is_given(student, ahead, expected):
    synthesizer, events, sounds = student.synthesizer, [], []
    requests = [synthesizer.request(PROMPTS[:2], {}, seed=3), synthesizer.request(PROMPTS[2:], {}, seed=5)]
    hook = student.vocoder.register_forward_hook(lambda _, mel, waveform: events.append(f"render {len(waveform)}"))
    for each in synthesizer.overlapped(requests, ahead):
        events.append("give")
        sounds.append(each)
    hook.remove()
    assert events == expected
    check(student, sounds)


def test_batches_come_in_order(student):
    check(student, list(student.generate_many(PROMPTS, batch=2, seed=3)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_batches_that_overlap_on_a_gpu_are_the_same_sounds(tiny_folder):
    model = AudioDEAR.from_pretrained(tiny_folder, device="cuda", dtype=torch.float32)
    check(model, list(model.generate_many(PROMPTS, batch=2, seed=3)))


def test_many_sounds_are_checked_at_the_call(student):
    for wrong, message in [
        ({"prompts": "a dog"}, r"prompts must be a list of at least one prompt, got 'a dog'"),
        ({"prompts": []}, r"prompts must be a list of at least one prompt, got \[\]"),
        ({"prompts": ["a dog", " "]}, "prompt must"),
        ({"batch": 65}, "batch must be a whole number from 1 to 64, got 65"),
        ({"cfg_scale": 21}, "cfg_scale must be a number from 0 to 20, got 21"),
        ({"seed": -1}, "seed must be a whole number from 0 to"),
    ]:
        with pytest.raises(ValueError, match=message):
            student.generate_many(**{"prompts": ["a dog"]} | wrong)
    seeds = [each.seed for each in student.generate_many(["a dog"] * 2, batch=1)]
    assert seeds[1] == seeds[0] + 1
