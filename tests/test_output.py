"""Saved sounds: formats, names and failures."""

from __future__ import annotations

import os
import stat

import numpy as np
import pytest
import soundfile

from dear import Output
from dear.output import check_path


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
    for path, told in [
        (tmp_path / "dog.aac", r"path must end in \.wav, \.flac, \.mp3, \.ogg, got '.*dog\.aac'"),
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
