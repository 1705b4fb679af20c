"""ZeroGPU: with a stand-in for the package ``spaces`` that runs decorated functions in a forked process, as it does."""

import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from webpage import by_id, function

from dear.loudness import PAGE
from dear.ui import build, gpu
from dear.ui.model_registry import ModelRegistry
from dear.ui.tabs.model import is_fixed

# Arguments and results go through pickle, and nothing that the process changes comes back.
STAND_IN = """
import multiprocessing, os, pickle
from functools import wraps
from inspect import isgeneratorfunction

decorated, processes = {}, set()

def GPU(task=None, *, duration=None):
    def decorate(function):
        decorated[f"{function.__module__}.{function.__name__}"] = duration

        def work(pipe, packed):
            import torch
            torch.set_num_threads(1)
            args, kwargs = pickle.loads(packed)
            try:
                results = function(*args, **kwargs)
                for result in results if isgeneratorfunction(function) else [results]:
                    pipe.send_bytes(pickle.dumps((os.getpid(), result)))
                pipe.send_bytes(pickle.dumps(None))
            except Exception as error:
                pipe.send_bytes(pickle.dumps((os.getpid(), error)))
            pipe.close()
            os._exit(0)

        def results(args, kwargs):
            ours, theirs = multiprocessing.Pipe(duplex=False)
            packed = pickle.dumps((args, kwargs))
            process = multiprocessing.get_context("fork").Process(target=work, args=(theirs, packed), daemon=True)
            process.start()
            theirs.close()
            try:
                while (message := pickle.loads(ours.recv_bytes())) is not None:
                    processes.add(message[0])
                    if isinstance(message[1], Exception):
                        raise message[1]
                    yield message[1]
            finally:
                ours.close()
                process.kill()
                process.join()

        @wraps(function)
        def generator(*args, **kwargs):
            yield from results(args, kwargs)

        @wraps(function)
        def call(*args, **kwargs):
            return next(results(args, kwargs))

        return generator if isgeneratorfunction(function) else call

    return decorate if task is None else decorate(task)
"""


@pytest.fixture
def spaces(tmp_path, monkeypatch):
    (tmp_path / "spaces.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    monkeypatch.delitem(sys.modules, "spaces", raising=False)
    import spaces

    yield spaces
    del sys.modules["spaces"]


def test_what_computes_runs_on_the_gpu_and_nothing_else(spaces, student, tiny_folder, tmp_path):
    models, folder = ModelRegistry(student, str(tiny_folder), fixed=True), tmp_path / "results"
    folder.mkdir()
    page = build(models, folder)
    expected = {f"dear.ui.tabs.{name}.draw" for name in ("generate", "compare", "duel", "edit")}
    expected |= {f"dear.ui.api.{name}" for name in ("generate", "compare", "inpaint", "extend")}
    assert expected <= spaces.decorated.keys()
    durations = spaces.decorated
    options = {"iterations": 32, "steps": 1}
    assert [
        durations["dear.ui.tabs.generate.draw"]("", "a dog", "student", 1, None, options, None, 1),
        durations["dear.ui.tabs.generate.draw"]("", "a dog", "teacher", 2, None, options | {"steps": 100}, None, 4),
        durations["dear.ui.tabs.generate.draw"]("", "a dog", "student", 1, None, options, 30, 1),
        durations["dear.ui.tabs.compare.draw"]("", [options, options | {"iterations": 128}]),
        durations["dear.ui.tabs.duel.draw"]("", "a dog", 1),
        durations["dear.ui.api.generate"]("a dog", iterations=8, steps=1),
        durations["dear.ui.api.generate"]("a dog", iterations="x" * 9, steps=None, candidates=8),
        durations["dear.ui.api.extend"](None, 10**9, "rain"),
    ] == [11, 41, 12, 13, 18, 11, 41, 120]
    assert is_fixed()
    assert models.get(None, "teacher") is models.get(None, "teacher")

    *_, result, _ = function(page, "run", "dear.ui.tabs.generate")(
        "", "a dog", "student", 2, 4, 1, 1, 2, "student", 5, True
    )
    shown = by_id(result)
    path = Path(shown["sound"].value["path"])
    expected = student.generate("a dog", cfg_scale=2, iterations=4, temperature=1, seed=5, num_samples=2, loudness=PAGE)
    np.testing.assert_allclose(soundfile.read(path)[0], expected[0].waveform[0].numpy(), atol=1e-3)

    given = "", "a dog", "CFG scale", "1, 2", "Nothing", "", False, True, 5, True
    assert len(list(function(page, "run", "dear.ui.tabs.compare")(*given))) >= 3
    *_, last = function(page, "run", "dear.ui.tabs.duel")("", "a dog", "With clocks", 5, True)
    assert "times as fast as the teacher" in next(iter(last.values()))
    *_, result, _ = function(page, "run", "dear.ui.tabs.edit")(
        "", str(path), "Redraw a region", "rain", 0.1, 0.3, 0, 1, 2, 4, 1, 1, 5, True
    )
    file, facts = function(page, "generate", "dear.ui.api")("rain", seed=1)
    assert facts["seed"] == 1 and soundfile.info(file.path).frames == 10_000
    assert len(spaces.processes) == 5

    with pytest.raises(Exception, match="^'?cfg_scale must be a number from 0 to 20, got 99"):
        list(function(page, "run", "dear.ui.tabs.generate")("", "a dog", "student", 99, 4, 1, 1, 1, "student", 5, True))


def test_elsewhere_nothing_is_decorated(spaces, monkeypatch):
    monkeypatch.delenv("SPACES_ZERO_GPU")
    assert gpu.on_gpu(5)(len) is len
    assert not is_fixed()
    assert not spaces.decorated
