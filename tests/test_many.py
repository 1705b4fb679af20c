"""AudioDEAR.generate_many: batches, their order, and their overlap on CUDA."""

from __future__ import annotations

import pytest
import torch

from dear.rendering import Clock


@pytest.mark.parametrize("ahead", [0, 1])
def test_many_sounds_come_in_order_and_a_batch_is_handed_on_before_the_one_before_is_waited_for(
    student, monkeypatch, ahead
):
    """As on CUDA, with stand-ins for its streams: what is rendered and what is waited for happens on a second one."""
    events = []

    class Lane:
        def wait_stream(self, other):
            events.append(f"wait for {other}")

        def __enter__(self):
            events.append("(")

        def __exit__(self, *_):
            events.append(")")

    begin, render = student.synthesizer.begin, student.vocoder.forward
    monkeypatch.setattr(student.synthesizer, "begin", lambda *call: (events.append("begin"), begin(*call))[1])
    monkeypatch.setattr(student.vocoder, "forward", lambda mel: (events.append(f"render {len(mel)}"), render(mel))[1])
    monkeypatch.setattr("dear.rendering._lane", lambda device: Lane())
    monkeypatch.setattr(torch.cuda, "stream", lambda lane: lane)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "decoding")
    prompts = ["a dog", "rain", "a rooster"]
    overlapped = student.synthesizer.overlapped
    monkeypatch.setattr(student.synthesizer, "overlapped", lambda requests, **_: overlapped(requests, ahead))
    sounds = []
    for each in student.generate_many(prompts, batch=2, seed=3):
        events.append("given")
        sounds.append(each)
    first = ["begin", "wait for decoding", "(", "render 2", ")"]
    second = ["begin", "wait for decoding", "(", "render 1", ")"]
    given = ["(", ")", "given"]
    if ahead:
        assert events == [*first, *second, *given, "given", *given]
    else:
        assert events == [*first, *given, "given", *second, *given]
    assert [(each.seed, each.prompts) for each in sounds] == [(3, ["a dog"]), (4, ["rain"]), (5, ["a rooster"])]
    for seed, prompt, each in zip((3, 4, 5), prompts, sounds, strict=True):
        alone = student.generate(prompt, seed=seed)
        torch.testing.assert_close(each.waveform, alone.waveform, atol=1e-3, rtol=1e-3)
        assert torch.equal(each.order, alone.order) and each.settings == alone.settings
        assert set(each.timings) == set(alone.timings)


def test_on_cuda_the_device_takes_the_time(monkeypatch):
    now = iter(range(100))

    class Event:
        """Milliseconds pass between marks only."""

        def __init__(self, enable_timing):
            assert enable_timing

        def record(self, stream):
            self.at = (next(now), stream)

        def elapsed_time(self, later):
            return later.at[0] - self.at[0]

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: device)
    clock = Clock(torch.device("cuda", 1))
    for name in ("text", "decode", "decode", "codec"):
        with clock.stage(name):
            pass
    assert clock.begin.at == (0, torch.device("cuda", 1))
    assert clock.timings() == {"text": 0.001, "decode": 0.002, "codec": 0.001, "vocoder": 0.0, "total": 0.008}


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
