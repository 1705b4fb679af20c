"""Files and pictures of results."""

import json
import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from dear.ui.components.files import LIFETIME, remove_broken_uploads, remove_old_files, store, store_card
from dear.visual.plots import mel_strip


def test_old_files_are_removed(student, tmp_path):
    folder = tmp_path / "results"
    folder.mkdir()
    out = student.generate("rain", seed=1)
    with ThreadPoolExecutor(8) as pool:
        kept, *old = (Path(path).parent for path in pool.map(lambda _: store(out, folder), range(16)))
    for each in old:
        os.utime(each, (0, time.time() - LIFETIME - 1))
    worker = threading.Thread(target=remove_old_files, args=(folder, 0.05), daemon=True)
    worker.start()
    deadline = time.monotonic() + 20
    while len([*folder.iterdir()]) > 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [*folder.iterdir()] == [kept]
    shutil.rmtree(folder)
    worker.join(20)
    assert not worker.is_alive()


def test_a_strip_is_the_mel_alone_on_the_common_scale(student):
    mel = np.full((64, 64), -3.0, dtype=np.float32)
    (axes,) = mel_strip(mel, student.config.mel).axes
    assert axes.images[0].get_clim() == (-80, 10)
    assert axes.get_position().bounds == (0, 0, 1, 1)
    assert not axes.axison


def test_files_of_results_have_plain_names(student, tmp_path):
    path = store(student.generate("../../<img> 🐶\n", seed=5), tmp_path)
    assert path.endswith("/img-5.wav")
    assert soundfile.info(path).frames == 10_000


@pytest.mark.parametrize("suffix", [".mp3", ".ogg"])
def test_lossy_files_hold_the_sound_and_its_settings(student, tmp_path, suffix):
    out = student.generate("rain", seed=5)
    path = store(out, tmp_path, suffix)
    with soundfile.SoundFile(path) as file:
        assert (file.title, json.loads(file.comment)["seed"], file.samplerate) == ("rain", 5, 16_000)
        heard = file.read(dtype="float32")
    assert abs(len(heard) - out.waveform.shape[1]) <= 2_400


def test_floating_samples_are_exact_and_the_same_at_any_time(student, tmp_path):
    out = student.generate("rain", seed=5)
    out.save(tmp_path / "one.wav", float_samples=True)
    time.sleep(1.1)  # a time stamp would differ
    out.save(tmp_path / "two.wav", float_samples=True)
    assert (tmp_path / "one.wav").read_bytes() == (tmp_path / "two.wav").read_bytes()
    samples, _ = soundfile.read(tmp_path / "one.wav", dtype="float32")
    np.testing.assert_array_equal(samples, out.waveform[0].numpy())
    with pytest.raises(ValueError, match=r"path must end in \.wav for floating samples"):
        out.save(tmp_path / "one.flac", float_samples=True)


def test_a_card_shows_the_sound_and_its_prompt(student, tmp_path):
    out = student.generate("rain & $x$ <b>", seed=5)
    path = store_card(out, student.config.mel, tmp_path)
    assert Path(path).name == "rain-x-b-5.png"
    with Image.open(path) as picture:
        assert picture.size == (1200, 630)
        assert len(set(picture.convert("RGB").crop((40, 40, 600, 140)).getdata())) > 10  # the prompt is written there


def test_uploads_that_ended_early_are_removed(tmp_path):
    (tmp_path / "tmpwhole").mkdir()
    for name in ("tmpold", "tmpnew", "other", "tmpwhole/a.wav"):
        (tmp_path / name).write_bytes(b"half")
    for name in ("tmpold", "other", "tmpwhole/a.wav"):
        os.utime(tmp_path / name, (0, 0))
    remove_broken_uploads(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.wav", "other", "tmpnew", "tmpwhole"]
