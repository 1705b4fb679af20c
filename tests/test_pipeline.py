from __future__ import annotations

import dataclasses
import math
import os
import stat
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import soundfile
import torch
from factory import tiny_checkpoint, tiny_config

from dear import AudioDEAR, Output
from dear.codec.mel import MelSpectrogram
from dear.output import check_path
from dear.pipeline import best_dtype
from dear.presets import preset
from dear.rendering import Clock

NAN = float("nan")


def same(a: torch.Tensor, b: torch.Tensor, atol: float = 1e-3) -> None:
    torch.testing.assert_close(a, b, atol=atol, rtol=1e-3)


@pytest.fixture(scope="module")
def out(student) -> Output:
    return student.generate("a dog barks", seed=3)


def test_output_has_the_promised_shapes_and_ranges(student, out):
    mel = student.config.mel
    assert out.waveform.shape == (1, mel.samples)
    assert out.waveform.dtype == torch.float32
    assert out.waveform.abs().max() <= 1
    assert out.waveform.abs().max() > 0
    assert out.sample_rate == student.sample_rate == 16_000
    assert out.mel.shape == (1, 64, 64)
    assert out.tokens.shape == (1, 8, 16)
    assert out.latents.shape == (1, 16, 8, 1)
    assert torch.equal(out.latents[0, :, :, 0].T, out.tokens[0])
    assert sorted(set(out.order[0].tolist())) == [0, 1, 2, 3] == list(range(out.iterations))
    assert (out.seed, out.seeds, out.prompts) == (3, [3], ["a dog barks"])
    assert out.settings == {
        "model": "tiny",
        "variant": "student",
        "digest": student.digest,
        "cfg_scale": 2.0,
        "iterations": 4,
        "temperature": 1.0,
        "steps": 1,
        "guidance": "constant",
        "savings": {"refresh_every": 1, "guided_share": 1.0, "null_every": 1, "order": "random", "schedule": "cosine"},
    }
    assert set(out.timings) == {"text", "decode", "codec", "vocoder", "total"}
    assert 0 < sum(v for k, v in out.timings.items() if k != "total") <= out.timings["total"]
    assert not any(getattr(out, name).is_inference() for name in ("waveform", "mel", "tokens", "latents", "order"))


def test_a_seed_repeats_exactly_and_another_differs(student, out):
    again = student.generate(" a dog barks\n", seed=3)
    assert torch.equal(again.waveform, out.waveform)
    assert torch.equal(again.order, out.order)
    other = student.generate("a dog barks", seed=4)
    assert (other.tokens - out.tokens).abs().max() > 0.1
    assert (other.waveform - out.waveform).abs().max() > 1e-3
    words = student.generate("rain", seed=3)
    assert (words.tokens - out.tokens).abs().max() > 1e-3


def test_seed_is_drawn_and_told_without_touching_the_global_generator(student):
    state = torch.get_rng_state()
    first, second = student.generate("a dog"), student.generate("a dog")
    assert torch.equal(torch.get_rng_state(), state)
    assert first.seed != second.seed
    assert torch.equal(student.generate("a dog", seed=first.seed).waveform, first.waveform)


def test_items_of_a_batch_are_what_their_seeds_give_alone(student):
    prompts = ["a dog barks", "rain falls on a tin roof for a long while"]
    batch = student.generate(prompts, num_samples=2, seed=10)
    assert batch.prompts == [prompts[0]] * 2 + [prompts[1]] * 2
    assert batch.seeds == [10, 11, 12, 13]
    assert len(batch) == 4
    assert batch.waveform.shape[0] == 4
    for i in range(4):
        alone = student.generate(batch.prompts[i], seed=10 + i)
        assert torch.equal(alone.order[0], batch.order[i])
        same(alone.tokens[0], batch.tokens[i])
        same(alone.waveform[0], batch.waveform[i])


def test_options_change_the_sound_and_are_told(student, out):
    for option in ({"cfg_scale": 5.0}, {"iterations": 8}, {"temperature": 0.2}):
        other = student.generate("a dog barks", seed=3, **option)
        assert (other.tokens - out.tokens).abs().max() > 1e-3, option
        assert other.settings.items() >= option.items()
    assert student.generate("a dog", iterations=1, seed=0).iterations == 1
    assert student.sampling.cfg_scale == 2.0


def test_teacher_takes_steps(tiny_folder):
    teacher = AudioDEAR.from_pretrained(str(tiny_folder), variant="teacher", device="cpu", dtype=torch.bfloat16)
    assert teacher.variant == "teacher"
    assert next(teacher.model.parameters()).dtype == torch.bfloat16
    three, five = teacher.generate("a dog", seed=0), teacher.generate("a dog", seed=0, steps=5)
    assert three.settings["steps"] == 3
    assert (three.tokens - five.tokens).abs().max() > 1e-3
    assert three.tokens.dtype == torch.float32


@pytest.mark.parametrize("able", [False, True])
@pytest.mark.parametrize("wide", [False, True])
def test_half_precision_where_it_pays(wide, able, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: able)
    width = preset("base" if wide else "mini").backbone.width
    found = {device: best_dtype(torch.device(device), width) for device in ("cpu", "cuda", "mps")}
    cpu = torch.bfloat16 if wide and able else torch.float32
    assert found == {"cpu": cpu, "cuda": torch.float16, "mps": torch.float32}


def test_a_wide_model_is_loaded_so(tiny_folder, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr("dear.pipeline.WIDE", tiny_config().backbone.width)
    for dtype, loaded in [(None, torch.bfloat16), (torch.float32, torch.float32)]:
        model = AudioDEAR.from_pretrained(tiny_folder, device="cpu", dtype=dtype)
        assert {each.dtype for each in model.model.parameters()} == {loaded}
        assert model.vae.mean.dtype == torch.float32


def test_every_way_to_generate_works_in_bfloat16(tiny_folder, student):
    half = AudioDEAR.from_pretrained(tiny_folder, device="cpu", dtype=torch.bfloat16)
    out, exact = (model.generate("a dog", seed=3) for model in (half, student))
    assert torch.equal(out.order, exact.order)
    assert 0 < (out.tokens - exact.tokens).abs().mean() < 0.1 * exact.tokens.abs().mean()
    assert half.draft(next(half.stream("a dog", seed=3))).waveform.isfinite().all()
    sound = exact.waveform[0]
    for made in (half.inpaint(sound, 16000, 0.2, 0.5, "rain", seed=1), half.extend(sound, 16000, 0.5, "rain", seed=1)):
        assert made.waveform.isfinite().all() and made.tokens.dtype == torch.float32
    assert torch.equal(half.generate("a dog", seed=3).waveform, out.waveform)


def test_untrained_extremes_stay_in_range(tiny_folder, student):
    teacher = AudioDEAR.from_pretrained(tiny_folder, variant="teacher", device="cpu")
    wild = teacher.generate("a dog", seed=5, cfg_scale=20, temperature=2, steps=2)
    assert wild.tokens.abs().max() > 100
    assert wild.mel.max() <= teacher.synthesizer.loudest
    assert wild.waveform.isfinite().all()
    assert wild.waveform.abs().max() <= 1
    # The bound is that of the loudest sounds there are: a full-scale tone in the narrowest band stays below it.
    mel = MelSpectrogram(student.config.mel)
    time = torch.arange(10_240) / 16_000
    tones = torch.stack([torch.sin(2 * math.pi * f * time) for f in range(100, 8000, 100)])
    assert student.synthesizer.loudest - 3 < mel(tones).max() <= student.synthesizer.loudest


def test_values_that_are_not_finite_are_told(tiny_folder):
    broken = AudioDEAR.from_pretrained(tiny_folder, device="cpu")
    with torch.no_grad():
        broken.model.backbone.mask_token[0] = NAN
    with pytest.raises(FloatingPointError, match="tiny/student drew values that are not finite"):
        broken.generate("a dog")


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
        same(each.waveform, alone.waveform)
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


def test_stream_ends_in_what_generate_gives(student, out):
    calls = []
    partials = list(student.stream("a dog barks", seed=3, progress=lambda *call: calls.append(call)))
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [p.iteration for p in partials] == [1, 2, 3, 4]
    assert all(p.iterations == 4 for p in partials)
    assert all(p.waveform is None for p in partials[:-1])
    assert torch.equal(partials[-1].waveform, out.waveform)
    assert torch.equal(partials[-1].mel, out.mel)
    floor = math.log(student.config.mel.floor)
    for partial in partials[:-1]:
        known = (partial.order[0] >= 0).repeat_interleave(8)
        assert 0 < known.sum() < 64
        same(partial.mel[0, known], out.mel[0, known])
        assert (partial.mel[0, ~known] == floor).all()
        with pytest.raises(ValueError, match=f"got one after {partial.iteration} of 4 iterations"):
            partial.save("never.wav")


def test_stream_checks_at_the_call(student):
    with pytest.raises(ValueError, match="cfg_scale"):
        student.stream("a dog", cfg_scale=1000)


def test_progress_can_stop_a_call(student):
    class Stop(Exception):
        pass

    def progress(iteration, iterations):
        if iteration == 2:
            raise Stop

    with pytest.raises(Stop):
        student.generate("a dog", progress=progress)


def test_calls_at_once_do_not_mix(student):
    def one(i):
        return student.generate("a dog" if i % 2 else "rain", seed=i, cfg_scale=1.0 + i, iterations=1 + i)

    before = [one(i) for i in range(6)]
    with ThreadPoolExecutor(3) as pool:
        after = list(pool.map(one, range(6)))
    for a, b in zip(before, after, strict=True):
        assert torch.equal(a.order, b.order)
        assert a.settings == b.settings
        same(a.tokens, b.tokens)


BAD = [
    ({"prompt": ""}, "prompt must have 1 to 1000 characters after stripping, got 0"),
    ({"prompt": "   \n"}, "prompt must have 1 to 1000 characters after stripping, got 0"),
    ({"prompt": "x" * 10_000}, "prompt must have 1 to 1000 characters after stripping, got 10000"),
    ({"prompt": None}, "prompt must be text, got NoneType"),
    ({"prompt": []}, "prompt must be 1 to 64 prompts, got 0"),
    ({"prompt": ["a dog", ""]}, "prompt must have 1 to 1000 characters"),
    ({"prompt": ["a dog"] * 65}, "prompt must be 1 to 64 prompts, got 65"),
    ({"cfg_scale": NAN}, "cfg_scale must be a number from 0 to 20, got nan"),
    ({"cfg_scale": 1000}, "cfg_scale must be a number from 0 to 20, got 1000"),
    ({"cfg_scale": "4"}, "cfg_scale must be a number from 0 to 20, got '4'"),
    ({"cfg_scale": True}, "cfg_scale must be a number from 0 to 20, got True"),
    ({"cfg_scale": -0.1}, "cfg_scale must be"),
    ({"iterations": 0}, "iterations must be a whole number from 1 to 8, got 0"),
    ({"iterations": 10**9}, "iterations must be a whole number from 1 to 8, got 1000000000"),
    ({"iterations": 9}, "iterations must be"),
    ({"iterations": 2.5}, "iterations must be a whole number from 1 to 8, got 2.5"),
    ({"iterations": True}, "iterations must be"),
    ({"temperature": 2.1}, "temperature must be a number from 0 to 2, got 2.1"),
    ({"temperature": float("inf")}, "temperature must be"),
    ({"steps": 0}, "steps must be a whole number from 1 to 1000, got 0"),
    ({"steps": 2}, "steps must be 1"),
    ({"seed": -1}, "seed must be a whole number from 0 to"),
    ({"seed": 2**63}, "seed must be a whole number from 0 to"),
    ({"seed": "7"}, "seed must be a whole number from 0 to .* got '7'"),
    ({"num_samples": 0}, "num_samples must be a whole number from 1 to 64, got 0"),
    ({"num_samples": 65}, "num_samples must be"),
    ({"prompt": ["a", "b"], "num_samples": 33}, "num_samples must be at most 32 for 2 prompts"),
    ({"progress": 3}, "progress must be a function"),
]


@pytest.mark.parametrize(("arguments", "told"), BAD)
def test_bad_input_is_named_before_any_work(student, arguments, told, monkeypatch):
    monkeypatch.setattr(student.text_encoder, "encode", lambda prompts: pytest.fail("work was begun"))
    arguments = {"prompt": "a dog"} | arguments
    for method in (student.generate, student.stream):
        with pytest.raises(ValueError, match=told):
            method(**arguments)


def test_loading_checks_its_arguments(tiny_folder, own_folder):
    for arguments, told in [
        ({"variant": "painter"}, "variant must be one of student, teacher, got 'painter'"),
        ({"device": "toaster"}, "device must be one of this machine such as cpu, cuda or mps, got 'toaster'"),
        ({"dtype": torch.int32}, "dtype must be a floating torch.dtype such as torch.bfloat16, got torch.int32"),
        ({"dtype": "bfloat16"}, "dtype must be"),
    ]:
        with pytest.raises(ValueError, match=told):
            AudioDEAR.from_pretrained(tiny_folder, **arguments)
    (own_folder / "codec" / "vae.safetensors").unlink()
    with pytest.raises(ValueError, match=r"vae\.safetensors is missing"):
        AudioDEAR.from_pretrained(own_folder)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".WAV"])
def test_saved_sound_is_16_bit_and_repeats_byte_for_byte(out, tmp_path, suffix):
    path = tmp_path / f"dog{suffix}"
    assert out.save(str(path)) == [path]
    data, rate = soundfile.read(path, dtype="int16")
    assert rate == 16_000
    assert soundfile.info(path).subtype == "PCM_16"
    assert np.abs(data / 32768 - out.waveform[0].numpy()).max() < 1 / 32768
    first = path.read_bytes()
    out.save(path)
    assert path.read_bytes() == first
    assert os.listdir(tmp_path) == [path.name]
    (tmp_path / "plain").touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_several_sounds_get_numbers(student, tmp_path):
    two = student.generate("a dog", seed=0, num_samples=2)
    paths = two.save(tmp_path / "dog.wav")
    assert paths == [tmp_path / "dog-1.wav", tmp_path / "dog-2.wav"]
    assert sorted(os.listdir(tmp_path)) == ["dog-1.wav", "dog-2.wav"]
    assert paths[0].read_bytes() != paths[1].read_bytes()
    (tmp_path / "cat-2.wav").mkdir()
    with pytest.raises(ValueError, match="got the directory"):
        two.save(tmp_path / "cat.wav")
    assert not (tmp_path / "cat-1.wav").exists()


def test_bad_paths_are_named_and_nothing_is_left(out, tmp_path):
    for path, told in [
        (tmp_path / "dog.mp3", r"path must end in \.wav or \.flac, got '.*dog\.mp3'"),
        (tmp_path / "dog", r"path must end in"),
        (tmp_path / "none" / "dog.wav", r"path must lie in an existing directory, got .*there is no .*none"),
        (7, "path must be a file name, got 7"),
    ]:
        with pytest.raises(ValueError, match=told):
            out.save(path)
        with pytest.raises(ValueError, match=told):
            check_path(path)
    assert os.listdir(tmp_path) == []


def test_failed_write_leaves_nothing(out, tmp_path, monkeypatch):
    def fail(sound, data):
        raise OSError("disk full")

    monkeypatch.setattr(soundfile.SoundFile, "write", fail)
    with pytest.raises(OSError, match="disk full"):
        out.save(tmp_path / "dog.wav")
    assert os.listdir(tmp_path) == []


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
    short = student.inpaint(mono[:1000], 16_000, 0.3, 0.4, "a dog", seed=1)
    assert not short.waveform[0, 1000:4800].any()


@pytest.mark.parametrize(
    ("change", "told"),
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
def test_inpaint_names_bad_input(student, change, told):
    arguments = {"audio": tone(16_000, 0.6), "sample_rate": 16_000, "start": 0.2, "end": 0.3, "prompt": "a dog"}
    with pytest.raises(ValueError, match=told):
        student.inpaint(**(arguments | change))


def test_an_unknown_option_is_refused_by_name_before_any_work(student):
    for call, options in (
        (student.generate, {"cfg": 3.0}),
        (student.stream, {"guidance": "linear"}),
        (student.generate_many, {"num_samples": 2}),
    ):
        (name,) = options
        with pytest.raises(TypeError, match=f"options must be among cfg_scale, .*, savings, got {name}"):
            call(["a dog"], **options)
