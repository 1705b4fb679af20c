"""The page as it is served, over HTTP."""

import json
import os
import re
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import soundfile
from gradio_client import Client
from gradio_client.exceptions import AppError
from webpage import Visitor, by_id, function

import app
from dear.evaluation import click
from dear.pipeline import AudioDEAR
from dear.ui import serve
from dear.ui.tabs import generate as tab

ROOT = Path(__file__).parents[2]


@pytest.fixture
def client(page, tmp_path):
    return Client(page.local_url, download_files=tmp_path, verbose=False)


def test_the_prompt_alone_gives_ten_seconds_of_sound(client):
    path, facts = client.predict("a dog barking", api_name="/generate")
    info = soundfile.info(path)
    assert (info.samplerate, info.channels, info.frames, info.subtype) == (16_000, 1, 160_000, "PCM_16")
    assert np.abs(soundfile.read(path)[0]).max() > 0
    assert facts["settings"]["iterations"] == 4
    assert facts["seed"] >= 0
    assert facts["timings"]["total"] > 0
    (part,) = facts["nearest"]
    assert part["known"] and part["wordings"][0]["text"] == "a dog barking"


def test_the_endpoint_gives_what_the_pipeline_gives_also_to_two_at_once(client, model):
    def ask(seed):
        path, facts = client.predict("rain", 3.0, 5, 0.5, seed, api_name="/generate")
        assert facts["seed"] == seed
        assert facts["settings"]["cfg_scale"] == 3.0
        heard[seed] = soundfile.read(path, dtype="float32")[0]

    heard = {}
    threads = [threading.Thread(target=ask, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in (1, 2):
        out = model.generate("rain", cfg_scale=3.0, iterations=5, temperature=0.5, seed=seed)
        np.testing.assert_allclose(heard[seed], out.waveform[0].numpy(), atol=1.01 / 32768)
    assert np.abs(heard[1] - heard[2]).max() > 0.001


@pytest.mark.parametrize(
    "options",
    [
        {"prompt": ""},
        {"prompt": "   "},
        {"prompt": "x" * 10_000},
        {"prompt": "a dog", "cfg_scale": 1000},
        {"prompt": "a dog", "iterations": 0},
        {"prompt": "a dog", "iterations": 10**9},
        {"prompt": "a dog", "temperature": "hot"},
        {"prompt": "a dog", "seed": -1},
    ],
    ids=lambda options: "-".join(f"{name}={str(value)[:8]}" for name, value in options.items()),
)
def test_bad_values_are_answered_with_the_sentence_of_the_pipeline(client, model, options):
    with pytest.raises(ValueError, match=" must ") as said:
        model.generate(**options)
    with pytest.raises(AppError) as heard:
        client.predict(**options, api_name="/generate")
    assert str(heard.value) == str(said.value)


def test_an_endpoint_takes_any_variant_of_the_checkpoint(client):
    _, facts = client.predict("rain", steps=2, variant="teacher", api_name="/generate")
    assert (facts["settings"]["variant"], facts["settings"]["steps"]) == ("teacher", 2)
    with pytest.raises(AppError, match="^variant must be one of student, teacher, got 'aunt'$"):
        client.predict("rain", variant="aunt", api_name="/generate")


def test_programs_see_endpoints_of_their_own(client):
    api = client.view_api(return_format="dict", print_info=False)
    assert sorted(api["named_endpoints"]) == ["/compare", "/extend", "/generate", "/inpaint"]
    assert not api["unnamed_endpoints"]
    parameters = api["named_endpoints"]["/generate"]["parameters"]
    assert [each["parameter_name"] for each in parameters] == [
        "prompt", "cfg_scale", "iterations", "temperature", "seed", "steps", "variant", "candidates",
    ]  # fmt: skip
    assert [each["parameter_has_default"] for each in parameters] == [False] + [True] * 7
    assert [each["parameter_default"] for each in parameters[1:]] == [None] * 6 + [1]


def run_of(page, *arguments):
    """What the page's own Generate yields, by the elements' ids."""
    for step in function(page, "run", tab.__name__)("", *arguments):
        yield by_id(step)


def test_pictures_are_streamed_while_tokens_are_drawn(page, monkeypatch):
    monkeypatch.setattr(tab, "PICTURE_INTERVAL", 0)
    monkeypatch.setattr(tab, "PICTURE_SHARE", 100)
    monkeypatch.setattr(tab, "REPORT_INTERVAL", 0)
    monkeypatch.setattr(tab, "DRAFT_WORTH", float("inf"))  # on a slow machine even this run would be worth a draft
    *partial, result, last = run_of(page, "a <b>dog</b> & a cat", "student", 2, 4, 1, 1, 1, "student", 11, True)
    assert not result["generate-stop"].interactive
    assert [f"Iteration {i} of 4" in step["facts"] for i, step in enumerate(partial, 1)] == [True] * 3
    assert all(
        step["sound"].value is None and step["pictures"].count("<svg") == step["pictures"].count("dear-pending") == 2
        for step in partial
    )
    assert last["pictures"].count("<svg") == 4
    assert [len(order.split(",")) for order in re.findall('data-order="([^"]*)"', last["pictures"])] == [128, 128]
    assert not any("data-order" in step["pictures"] for step in partial)
    assert "10.0 s of sound in" in result["facts"]
    assert "real-time factor" in result["facts"]
    assert result["seed"] == 11
    assert Path(result["sound"].value["path"]).name == "a-b-dog-b-a-cat-11.wav"
    monkeypatch.setattr(tab, "PICTURE_INTERVAL", 60)
    monkeypatch.setattr(tab, "REPORT_INTERVAL", 60)
    assert (
        len(list(run_of(page, "a dog", "student", 2, 4, 1, 1, 1, "student", 11, True))) == 2
    )  # no picture costs a quick one anything


def test_a_draft_is_heard_before_the_end_of_a_long_run(page, monkeypatch):
    monkeypatch.setattr(tab, "DRAFT_WORTH", 0)
    monkeypatch.setattr(tab, "REPORT_INTERVAL", 0)
    steps = list(run_of(page, "a dog", "student", 2, 8, 1, 1, 2, "student", 11, True))
    at, draft = next((i, step) for i, step in enumerate(steps) if "sound" in step)
    assert draft["sound"].label.startswith("Draft")
    assert soundfile.info(draft["sound"].value["path"]).frames == 160_000
    assert "Iteration 1 of 8" in steps[at - 1]["facts"] and "s left" in steps[at - 1]["facts"]
    assert "Iteration 1 of 8" in draft["facts"]
    assert draft["wav"].value["path"] == draft["sound"].value["path"] and draft["wav"].interactive  # kept at a stop
    assert "Iteration 2 of 8" in steps[at + 1]["facts"]
    assert [step["sound"].label for step in steps[at + 1 :] if "sound" in step] == ["Sound"]
    result = steps[-2]
    assert result["sound"].label == "Sound"
    assert [value for _, value in result["variation"].choices] == [0, 1]
    with soundfile.SoundFile(result["wav"].value["path"]) as file:
        assert (file.title, json.loads(file.comment)["seed"]) == ("a dog", 11)


def test_a_monitor_hears_that_the_page_is_there(page, model):
    with urllib.request.urlopen(f"{page.local_url}health", timeout=30) as answer:
        assert json.load(answer) == {
            "status": "ok", "model": "tiny", "variant": "student", "weights": model.digest,
        }  # fmt: skip


def test_a_bad_port_is_reported_in_one_sentence():
    done = subprocess.run(
        [sys.executable, "app.py"], cwd=ROOT, env=os.environ | {"PORT": "70000"}, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "app.py: PORT must be a whole number from 1 to 65535, got '70000'\n"


def test_another_model_for_the_whole_page_that_is_not_there_is_reported(tmp_path, monkeypatch, capsys):
    for names, message in [
        (
            {"AUDIODEAR_MODEL": str(tmp_path / "no")},
            "model must be a checkpoint's folder or owner/name on the Hub, got ",
        ),
        ({"AUDIODEAR_COMPILE": "yes"}, "AUDIODEAR_COMPILE must be 0 or 1, got 'yes'"),
        ({"AUDIODEAR_REVISION": "v1"}, "revision applies to a Hub repository only, got 'v1' for the folder "),
    ]:
        with monkeypatch.context() as environment:
            for name, value in names.items():
                environment.setenv(name, value)
            assert app.main() == 2
        out, error = capsys.readouterr()
        assert out == ""
        assert error.startswith(f"app.py: {message}") and error.count("\n") == 1


def test_a_taken_port_is_reported(page, model):
    with pytest.raises(OSError, match=f"port {page.server_port} of 127.0.0.1 can't be served"):
        serve(model, "127.0.0.1", page.server_port)


def test_a_stop_ends_one_run_and_leaves_the_other(page, monkeypatch):
    monkeypatch.setattr(tab, "REPORT_INTERVAL", 0)
    original, reached = AudioDEAR.stream, {}

    def stream(self, prompt, **options):
        for out in original(self, prompt, **options):
            reached[prompt] = out.iteration
            yield out

    monkeypatch.setattr(AudioDEAR, "stream", stream)
    first, second = Visitor(page, "first"), Visitor(page, "second")
    first.begin("a dog", "student", 2, 128, 1, 1, 2, "student", 1, True)
    messages = first.hear()
    next(message for message in messages if "Iteration" in json.dumps(message))
    second.begin("rain", "student", 2, 4, 1, 1, 1, "student", 2, True)
    first.stop()
    heard = [json.dumps(message) for message in second.hear()]
    assert 1 <= reached["a dog"] < 128
    assert reached["rain"] == 4
    assert any("rain-2.wav" in message for message in heard)
    assert not any("of sound in" in json.dumps(message) for message in messages)
    for visitor in (first, second):
        visitor.messages.close()


def test_what_the_measurement_lacks_is_reported(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    for arguments, message in [
        ([], "chromium and chromedriver must be installed: apt-get install chromium chromium-driver"),
        (["--repeats", "0"], "--repeats must be a whole number from 1 to 1000, got 0"),
        (["--json", f"{tmp_path}/no/a.json"], "--json must lie in an existing directory"),
    ]:
        assert click.main(arguments) == 2
        assert capsys.readouterr().err.startswith(f"error: {message}")
