"""Files and pictures of results."""

import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import soundfile

from dear.ui.components.files import LIFETIME, remove_old_files, store
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
