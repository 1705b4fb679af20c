"""The parts of the pipeline, of outputs and of uploaded files that the page relies on."""

import json
import os
import re
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import soundfile
import torch

from dear.audio import AudioError, duration, read_sound, resample, resample_blocks
from dear.loudness import fade_ends

RATE, CLIP = 16_000, 10_000


def tone(seconds: float, rate: int = RATE) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * 440 * np.arange(int(rate * seconds)) / rate)).astype(np.float32)


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_a_file_says_what_its_sound_follows_from(student, tmp_path, suffix):
    prompt = "a <b>dog</b> 🐶 نباح\n& rain"
    out = student.generate(prompt, seed=7, num_samples=2, cfg_scale=1.5)
    paths = out.save(tmp_path / f"dog.{suffix}")
    for i, path in enumerate(paths):
        with soundfile.SoundFile(path) as file:
            assert file.title == prompt
            assert json.loads(file.comment) == {"seed": 7 + i} | out.settings
        first = path.read_bytes()
        out[i].save(path)
        assert path.read_bytes() == first
    assert json.loads(soundfile.SoundFile(paths[0]).comment)["digest"] == student.digest
    longest = student.generate("🐶" * 1000, seed=0)
    (path,) = longest.save(tmp_path / f"long.{suffix}")
    assert longest.prompts[0].encode() in path.read_bytes()
    assert json.loads(soundfile.SoundFile(path).comment)["seed"] == 0


def test_items_of_an_output_stand_alone(student):
    out = student.generate(["a dog", "rain"], seed=3)
    assert [(item.seed, item.seeds, item.prompts) for item in out] == [(3, [3], ["a dog"]), (4, [4], ["rain"])]
    assert torch.equal(out[1].waveform[0], out.waveform[1])
    assert torch.equal(out[-1].order, out.order[1:])
    with pytest.raises(IndexError):
        out[2]


def test_a_draft_is_a_whole_sound_that_disturbs_nothing(student, tiny_folder):
    stream = student.stream("a dog", seed=3, iterations=8)
    partials = [next(stream) for _ in range(5)]
    draft = student.draft(partials[-1])
    assert draft.waveform.shape == (1, CLIP)
    assert draft.waveform.abs().max() > 0
    assert torch.equal(draft.waveform, fade_ends(student.vocoder.draft(draft.mel)[:, :CLIP], RATE))
    assert (draft.iteration, draft.iterations) == (5, 8)
    known = partials[-1].order[0] >= 0
    assert 0 < known.sum() < 8
    torch.testing.assert_close(draft.tokens[0, known], partials[-1].tokens[0, known])
    assert (draft.tokens[0, ~known].abs().sum(dim=1) > 0).all()
    last = [*stream][-1]
    assert torch.equal(last.waveform, student.generate("a dog", seed=3, iterations=8).waveform)
    assert not torch.equal(last.waveform, draft.waveform)
    teacher = type(student).from_pretrained(tiny_folder, variant="teacher", device="cpu")
    assert teacher.draft(next(teacher.stream("a dog", seed=3, steps=20))).waveform.shape == (1, CLIP)


def test_a_stream_may_skip_iterations(student):
    partials = list(student.stream("a dog", seed=3, iterations=8, every=3))
    assert [partial.iteration for partial in partials] == [3, 6, 8]
    assert torch.equal(partials[-1].waveform, student.generate("a dog", seed=3, iterations=8).waveform)
    with pytest.raises(ValueError, match="every must be a whole number from 1 to 8, got 0"):
        student.stream("a dog", every=0)


@pytest.mark.parametrize("begin", [0.001, 0.1, 2.0])
def test_a_sound_is_continued_without_a_seam(student, begin):
    audio, fade = tone(begin), 320
    calls = []
    out = student.extend(audio, RATE, 1.5, "rain", seed=5, progress=lambda *call: calls.append(call))
    sound = out.waveform[0].numpy()
    assert out.waveform.shape == (1, len(audio) + 24_000)
    kept = len(audio) - min(fade, len(audio) // 2)
    np.testing.assert_array_equal(sound[:kept], audio[:kept])
    # Every part of what follows is sound, also where one clip ends and the next begins.
    assert all(np.abs(part).max() > 1e-4 for part in np.array_split(sound[len(audio) :], 20))
    assert out.mel.shape == (1, -(-len(sound) // 160), 64)
    assert (out.seed, out.settings["seconds"]) == (5, 1.5)
    assert [n for n, _ in calls] == list(range(1, calls[0][1] + 1))
    assert len(calls) > out.iterations
    again = student.extend(torch.from_numpy(audio), RATE, 1.5, "rain", seed=5)
    assert torch.equal(again.waveform, out.waveform)
    assert not torch.equal(student.extend(audio, RATE, 1.5, "rain", seed=6).waveform, out.waveform)


def test_the_seam_of_a_continuation_is_a_cross_fade(student):
    audio = np.full(8_000, 0.5, dtype=np.float32)
    sound = student.extend(audio, RATE, 0.3, "rain", seed=5).waveform[0].numpy()
    clip, start = CLIP / RATE, 3680 / RATE
    new = student.inpaint(audio[-4000:], RATE, start, clip, "rain", context=clip, seed=5).waveform[0].numpy()
    np.testing.assert_allclose(sound[4000:-80], new[: len(sound) - 4080], atol=1e-6)
    seam = sound[7680:8000]
    assert abs(seam[0] - 0.5) < 0.01  # the old sound still, less and less of it
    assert max(abs(a - b) for a, b in pairwise(sound[7600:8000])) < 0.4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seconds": 0}, "seconds must be a number from 0.1 to 600, got 0"),
        ({"seconds": float("nan")}, "seconds must be a number from 0.1 to 600, got nan"),
        ({"prompt": " "}, "prompt must have 1 to 1000 characters"),
        ({"prompt": ["a", "b"]}, "prompt must be one prompt to continue a sound with, got 2"),
        ({"sample_rate": 0}, "sample_rate must be a whole number from 1000 to 384000, got 0"),
        ({"audio": np.zeros(0, dtype=np.float32)}, "audio must have the shape"),
        ({"cfg_scale": 1000}, "cfg_scale must be a number from 0 to 20, got 1000"),
    ],
)
def test_a_continuation_names_bad_input(student, change, message):
    with pytest.raises(ValueError, match=message):
        student.extend(**({"audio": tone(0.1), "sample_rate": RATE, "seconds": 1, "prompt": "rain"} | change))


def test_uploads_are_mixed_and_resampled_or_refused_in_a_sentence(tmp_path):
    eight = np.stack([share * tone(0.5, 96_000) for share in np.linspace(0.1, 1, 8)], axis=1)
    soundfile.write(tmp_path / "wide.wav", eight, 96_000, subtype="FLOAT")
    found = read_sound(tmp_path / "wide.wav", RATE, 60)
    np.testing.assert_array_equal(found, resample(eight.mean(axis=1), 96_000, RATE))
    assert found.dtype == np.float32
    (tmp_path / "empty.wav").touch()
    for name in ("paper.wav", "paper.mp3"):
        (tmp_path / name).write_bytes(b"%PDF-1.7\n" + bytes(range(256)) * 40)
    soundfile.write(tmp_path / "none.wav", np.zeros(0), RATE)
    soundfile.write(tmp_path / "nan.wav", np.full(10, np.nan), RATE, subtype="FLOAT")
    (tmp_path / "folder.wav").mkdir()
    os.mkfifo(tmp_path / "pipe.wav")
    soundfile.write(tmp_path / "dense.wav", np.zeros((10, 8)), 384_000)
    soundfile.write(tmp_path / "fast.flac", np.zeros(10), 655_350)
    soundfile.write(tmp_path / "slow.wav", np.zeros(10), 999)
    soundfile.write(tmp_path / "many.wav", np.zeros((10, 65)), 8000)
    with (
        open(tmp_path / "long.wav", "wb") as file,
        soundfile.SoundFile(file, "w", 1000, 1, "PCM_U8", format="WAV") as f,
    ):
        f.write(np.zeros(7_200_000, dtype=np.int16))
    (tmp_path / "naked.raw").write_bytes(bytes(1000))
    for name, message in {
        "empty.wav": "empty.wav must hold a sound, got an empty file of 0 bytes",
        "paper.wav": "paper.wav can't be read as a sound (WAV, FLAC, MP3, OGG or AIFF)",
        "paper.mp3": "paper.mp3 can't be read as a sound",
        "none.wav": "none.wav must hold a finite sound of at least one sample",
        "nan.wav": "nan.wav must hold a finite sound",
        "folder.wav": "folder.wav must be a regular file",
        "pipe.wav": "pipe.wav must be a regular file",
        "dense.wav": "at most 1536000 samples a second in all of them, got 8 channels of 384000 Hz",
        "fast.flac": "must have a rate of 1000 to 384000 Hz, at most 64 channels",
        "slow.wav": "got 1 channels of 999 Hz",
        "many.wav": "got 65 channels of 8000 Hz",
        "long.wav": "long.wav must be at most 1 minute long, got 2 hours: cut it first",
        "absent.wav": "absent.wav can't be read: there is no such file",
        "naked.raw": "naked.raw can't be read as a sound",
    }.items():
        with pytest.raises(AudioError, match=re.escape(message)):
            read_sound(tmp_path / name, RATE, 60, name)
    assert [duration(each) for each in (1, 59.96, 90, 5400)] == ["1 second", "60 seconds", "1.5 minutes", "1.5 hours"]


@pytest.mark.parametrize(("rate", "wanted"), [(44_100, 16_000), (11_025, 48_000), (16_000, 16_000), (100_003, 16_000)])
def test_a_sound_that_is_resampled_in_parts_is_that_of_the_whole(rate, wanted):
    whole = np.random.default_rng(0).normal(size=rate // 2 + 7).astype(np.float32)
    parts = (whole[at : at + 1000] for at in range(0, len(whole), 1000))
    np.testing.assert_array_equal(
        np.concatenate(list(resample_blocks(parts, rate, wanted))), resample(whole, rate, wanted)
    )


def test_the_memory_for_an_upload_does_not_depend_on_rate_and_channels(tmp_path):
    """Compressed silence: small files that are gigabytes once decoded as a whole."""
    for rate, channels, kind, subtype in ((384_000, 4, "FLAC", "PCM_16"), (192_000, 8, "OGG", "VORBIS")):
        with soundfile.SoundFile(tmp_path / kind, "w", rate, channels, subtype, format=kind) as file:
            for _ in range(20 * rate // 4000):  # libsndfile crashes where it writes more of Vorbis at once
                file.write(np.zeros((4000, channels), np.int16))
        assert os.path.getsize(tmp_path / kind) < 500_000
    script = (
        "import resource, sys; from dear.audio import read_sound; import scipy.signal, soundfile\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak(); [read_sound(path, 16_000, 60) for path in sys.argv[1:]]; print((peak() - before) / 1024)"
    )
    paths = sorted(tmp_path.iterdir())
    done = subprocess.run([sys.executable, "-c", script, *paths], capture_output=True, text=True, check=True)
    assert len(paths) == 2 and float(done.stdout) < 50  # MiB; decoded as a whole, each has 120 and more


@pytest.mark.parametrize("begin", [0.0, 0.9, 1.7])
def test_a_region_of_a_long_sound_is_redrawn_and_the_rest_kept(student, begin):
    audio = (0.3 * np.sin(0.2 * np.arange(32_000))).astype(np.float32)
    out = student.redraw(audio, 16_000, begin, begin + 0.3, "a dog", seed=4)
    sound = out.waveform[0].numpy()
    first, last = round(begin * 16_000), round((begin + 0.3) * 16_000)
    assert len(sound) == 32_000
    np.testing.assert_array_equal(sound[:first], audio[:first])
    np.testing.assert_array_equal(sound[last:], audio[last:])
    assert np.abs(sound - audio)[first + 320 : last - 320].max() > 0.05
    assert out.mel.shape == (1, 200, 64)
    assert out.settings["start"] == begin
    most = student.redraw(audio, 16_000, begin, begin + 0.2, "a dog", seed=4, iterations=student.model.length)
    assert most.settings["iterations"] == int((most.order >= 0).sum()) < student.model.length
    with pytest.raises(ValueError, match="iterations must be a whole number from 1 to 8, got 9"):
        student.redraw(audio, 16_000, begin, begin + 0.2, "a dog", iterations=9)
    short = student.redraw(audio[:3000], 16_000, 0, 0.1, "a dog", seed=4)
    assert short.waveform.shape == (1, 3000)
    with pytest.raises(ValueError, match=r"end must be up to 0.625 seconds later than start 0.1, got 1"):
        student.redraw(audio, 16_000, 0.1, 1, "a dog")


@pytest.mark.parametrize("shorter", [0, 1])
def test_a_region_as_long_as_a_clip_is_faded_in_and_out_all_the_same(student, shorter):
    """From a constant to what is drawn and back: any step at an edge would be a click."""
    audio, clip = np.full(32_000, 0.5, dtype=np.float32), student.config.mel.samples
    first, last = 4_000, 4_000 + clip - shorter
    away = (student.redraw(audio, 16_000, first / 16_000, last / 16_000, "a dog", seed=4).waveform[0] - 0.5).abs()
    assert away[first + 400 : last - 400].max() > 0.3
    assert away[first : first + 2].max() < 0.03 and away[last - 2 : last].max() < 0.03
    assert away[:first].max() == away[last:].max() == 0
