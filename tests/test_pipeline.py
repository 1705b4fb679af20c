from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from factory import tiny_config

from dear import AudioDEAR, Output
from dear.codec.mel import MelSpectrogram
from dear.pipeline import best_dtype
from dear.presets import preset

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


def test_seed_is_drawn_and_returned_without_touching_the_global_generator(student):
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


def test_options_change_the_sound_and_are_returned(student, out):
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
    monkeypatch.setattr("dear.pipeline.has_bfloat16_instructions", lambda: able)
    width = preset("base" if wide else "mini").backbone.width
    found = {device: best_dtype(torch.device(device), width) for device in ("cpu", "cuda", "mps")}
    cpu = torch.bfloat16 if wide and able else torch.float32
    assert found == {"cpu": cpu, "cuda": torch.float16, "mps": torch.float32}


def test_a_wide_model_is_loaded_so(tiny_folder, monkeypatch):
    monkeypatch.setattr("dear.pipeline.has_bfloat16_instructions", lambda: True)
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


def test_values_that_are_not_finite_are_reported(tiny_folder):
    broken = AudioDEAR.from_pretrained(tiny_folder, device="cpu")
    with torch.no_grad():
        broken.model.backbone.mask_token[0] = NAN
    with pytest.raises(FloatingPointError, match="tiny/student drew values that are not finite"):
        broken.generate("a dog")


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


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_input_is_named_before_any_work(student, arguments, message, monkeypatch):
    monkeypatch.setattr(student.text_encoder, "encode", lambda prompts: pytest.fail("work was begun"))
    arguments = {"prompt": "a dog"} | arguments
    for method in (student.generate, student.stream):
        with pytest.raises(ValueError, match=message):
            method(**arguments)


def test_loading_checks_its_arguments(tiny_folder, own_folder):
    for arguments, message in [
        ({"variant": "painter"}, "variant must be one of student, teacher, got 'painter'"),
        ({"device": "toaster"}, "device must be one of this machine such as cpu, cuda or mps, got 'toaster'"),
        ({"dtype": torch.int32}, "dtype must be a floating torch.dtype such as torch.bfloat16, got torch.int32"),
        ({"dtype": "bfloat16"}, "dtype must be"),
    ]:
        with pytest.raises(ValueError, match=message):
            AudioDEAR.from_pretrained(tiny_folder, **arguments)
    (own_folder / "codec" / "vae.safetensors").unlink()
    with pytest.raises(ValueError, match=r"vae\.safetensors is missing"):
        AudioDEAR.from_pretrained(own_folder)


def test_an_unknown_option_is_refused_by_name_before_any_work(student):
    for call, options in (
        (student.generate, {"cfg": 3.0}),
        (student.stream, {"guidance": "linear"}),
        (student.generate_many, {"num_samples": 2}),
    ):
        (name,) = options
        with pytest.raises(TypeError, match=f"options must be among cfg_scale, .*, savings, got {name}"):
            call(["a dog"], **options)
