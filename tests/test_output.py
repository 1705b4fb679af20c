"""Saved sounds: formats, names and failures."""

from __future__ import annotations

import dataclasses
import json
import os
import stat

import numpy as np
import pytest
import soundfile

from dear import Output
from dear.output import check_paths, read_title


@pytest.fixture(scope="module")
def out(student) -> Output:
    return student.generate("a dog barks", seed=3)


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
    for path, message in [
        (tmp_path / "dog.aac", r"path must end in \.wav, \.flac, \.mp3, \.ogg, got '.*dog\.aac'"),
        (tmp_path / "dog", r"path must end in"),
        (tmp_path / "none" / "dog.wav", r"path must lie in an existing directory, got .*there is no .*none"),
        (7, "path must be a file name, got 7"),
        (b"dog.wav", "path must be a file name, got b'dog.wav'"),
        ("dog\0.wav", "path must be a file name"),
        (tmp_path / f"{'é' * 126}.wav", "path must have a name of at most 255 bytes, got 256"),
    ]:
        with pytest.raises(ValueError, match=message):
            out.save(path)
        with pytest.raises(ValueError, match=message):
            check_paths(path)
    with pytest.raises(ValueError, match="path must have a name of at most 255 bytes, got 257"):
        check_paths(tmp_path / f"{'x' * 251}.wav", 2)
    assert os.listdir(tmp_path) == []
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "link.wav").symlink_to(tmp_path / "none" / "dog.wav")
    for name, message in [("pipe", "which is a device or a pipe"), ("link", "a link to .*none/dog.wav")]:
        with pytest.raises(ValueError, match=message):
            out.save(tmp_path / f"{name}.wav")
    assert sorted(os.listdir(tmp_path)) == ["link.wav", "pipe.wav"]


def test_the_longest_names_links_and_permissions_are_kept(out, tmp_path):
    class Place:
        def __fspath__(self) -> str:
            return str(tmp_path / f"{'x' * 251}.wav")

    (path,) = out.save(Place())
    assert len(path.name) == 255 and soundfile.info(path).frames == out.waveform.shape[1]
    path.chmod(0o600)
    out.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    link, target = tmp_path / "link.wav", tmp_path / "elsewhere" / "a.sound"
    target.parent.mkdir()
    link.symlink_to(target)
    for _ in range(2):  # first without an existing target, then with one
        assert out.save(link) == [link]
        assert link.is_symlink() and target.read_bytes() == path.read_bytes()
    assert os.listdir(target.parent) == ["a.sound"]


@pytest.mark.parametrize("suffix", ["wav", "flac"])
@pytest.mark.parametrize("length", [1, 510, 511, 512, 1000])
def test_the_longest_prompts_are_read_back_whole(out, tmp_path, suffix, length):
    """libsndfile's own reader of WAV texts ends at 2,045 bytes: at 511 characters of four bytes each."""
    prompt = "🐶" * length
    (path,) = dataclasses.replace(out, prompts=[prompt]).save(tmp_path / f"dog.{suffix}")
    assert read_title(path) == prompt
    with soundfile.SoundFile(path) as file:
        assert json.loads(file.comment)["seed"] == out.seed


def test_sounds_without_a_title_have_none(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(10), 16000)
    (tmp_path / "b.wav").write_bytes((tmp_path / "a.wav").read_bytes()[:-3])
    assert read_title(tmp_path / "a.wav") == read_title(tmp_path / "b.wav") == ""


def test_failed_write_leaves_nothing(out, tmp_path, monkeypatch):
    def fail(sound, data):
        raise OSError("disk full")

    monkeypatch.setattr(soundfile.SoundFile, "write", fail)
    with pytest.raises(OSError, match="disk full"):
        out.save(tmp_path / "dog.wav")
    assert os.listdir(tmp_path) == []
