"""The endpoints beside /generate, what they refuse, over HTTP."""

import dataclasses
import json
import urllib.error
import urllib.request

import numpy as np
import pytest
import soundfile
from factory import tiny_checkpoint, tiny_config
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from webpage import answers, by_id, function, served

from dear.config import MelConfig
from dear.pipeline import AudioDEAR


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Tiny networks, and clips of half a second."""
    config = dataclasses.replace(tiny_config(), mel=MelConfig(frames=64, samples=8_000))
    folder = tiny_checkpoint(tmp_path_factory.mktemp("api") / "tiny", config)
    with served(AudioDEAR.from_pretrained(folder, device="cpu"), str(folder)) as page:
        yield page


@pytest.fixture(scope="module")
def client(page, tmp_path_factory):
    return Client(page.local_url, download_files=tmp_path_factory.mktemp("files"), verbose=False)


@pytest.fixture(scope="module")
def tone(tmp_path_factory):
    path = tmp_path_factory.mktemp("sounds") / "tone.wav"
    soundfile.write(path, (0.3 * np.sin(0.2 * np.arange(24_000))).astype(np.float32), 16_000)
    return path


def test_compare_gives_a_sound_for_each_pair(client):
    paths, facts = client.predict("a dog", [1, 2.5], [2, 4], seed=3, api_name="/compare")
    settings = [(each["settings"]["cfg_scale"], each["settings"]["iterations"], each["seed"]) for each in facts]
    assert settings == [(1.0, 2, 3), (2.5, 2, 3), (1.0, 4, 3), (2.5, 4, 3)]
    sounds = [soundfile.read(path)[0] for path in paths]
    assert all(len(sound) == 8_000 for sound in sounds)
    assert len({sound.tobytes() for sound in sounds}) == 4
    assert len(client.predict("a dog", api_name="/compare")[0]) == 6


def test_inpaint_and_extend_keep_the_rest(client, tone):
    original = soundfile.read(tone, dtype="int16")[0]
    path, facts = client.predict(handle_file(tone), 0.9, 1.1, "a dog", seed=1, api_name="/inpaint")
    sound = soundfile.read(path, dtype="int16")[0]
    assert len(sound) == 24_000
    np.testing.assert_array_equal(np.delete(sound, np.s_[14_400:17_600]), np.delete(original, np.s_[14_400:17_600]))
    assert np.abs(sound - original)[14_800:17_200].max() > 300
    assert (facts["settings"]["start"], facts["settings"]["end"]) == (0.9, 1.1)
    path, _ = client.predict(handle_file(tone), 1.2, "a dog", seed=1, api_name="/extend")
    sound = soundfile.read(path, dtype="int16")[0]
    assert len(sound) == 24_000 + 19_200
    np.testing.assert_array_equal(sound[:23_680], original[:23_680])


def test_every_endpoint_takes_a_variant_and_its_steps(client, tone):
    chosen = {"iterations": 2, "steps": 3, "variant": "teacher", "seed": 1}
    sound = handle_file(tone)
    for endpoint, arguments in {
        "/generate": {"prompt": "a dog"},
        "/compare": {"prompt": "a dog", "cfg_scales": [2], "iterations": [2]},
        "/inpaint": {"audio": sound, "start": 0.9, "end": 1.1, "prompt": "a dog"},
        "/extend": {"audio": sound, "seconds": 0.3, "prompt": "a dog"},
    }.items():
        facts = client.predict(**(chosen | arguments), api_name=endpoint)[1]
        settings = (facts[0] if endpoint == "/compare" else facts)["settings"]
        assert (settings["variant"], settings["steps"]) == ("teacher", 3), endpoint
        with pytest.raises(AppError, match="steps must be 1 for the energy head"):
            client.predict(**(chosen | arguments | {"variant": "student"}), api_name=endpoint)


def test_many_channels_and_a_high_rate_are_taken(client, tmp_path):
    wide = np.tile((0.3 * np.sin(0.05 * np.arange(48_000)))[:, None], (1, 8))
    soundfile.write(tmp_path / "wide.wav", wide, 96_000, subtype="FLOAT")
    path, _ = client.predict(handle_file(tmp_path / "wide.wav"), 0.1, 0.3, "a dog", seed=1, api_name="/inpaint")
    info = soundfile.info(path)
    assert (info.samplerate, info.channels, info.frames) == (16_000, 1, 8_000)


def test_the_page_says_why_a_sound_can_not_be_edited(page, tmp_path):
    show = function(page, "show_source")
    (tmp_path / "empty.wav").touch()
    (tmp_path / "<b>paper.wav").write_bytes(b"%PDF-1.7\n" + bytes(9_000))
    for name, message in {
        "empty.wav": "empty.wav must hold a sound, got an empty file of 0 bytes.",
        "<b>paper.wav": "&lt;b&gt;paper.wav can't be read as a sound (WAV, FLAC, MP3, OGG or AIFF)",
    }.items():
        answer = show(None, str(tmp_path / name), "Redraw a region", 3, 6)
        shown = by_id(answer)["edit-map"]
        assert "dear-refused" in shown and message in shown


def test_refusals_are_sentences(client, tone, tmp_path):
    (tmp_path / "empty.wav").touch()
    (tmp_path / "paper.wav").write_bytes(b"%PDF-1.7\n" + bytes(9_000))
    soundfile.write(tmp_path / "long.wav", np.zeros(7_200_000, dtype=np.int16), 1000, subtype="PCM_U8")
    good = handle_file(tone)
    for message, endpoint, arguments in [
        ("cfg_scale must be a number from 0 to 20, got 21", "/compare", ("a dog", [1, 21])),
        ("cfg_scales must be a list of numbers, got 3", "/compare", ("a dog", 3)),
        ("cfg_scales and iterations must make 1 to 12 sounds together, got 7 x 2", "/compare",
         ("a dog", [1, 2, 3, 4, 5, 6, 7], [1, 2])),
        ("prompt must have 1 to 1000 characters after stripping, got 0: ''", "/compare", ("",)),
        ("end must be up to 0.5 seconds later than start 0.2, got 1", "/inpaint", (good, 0.2, 1, "a dog")),
        ("start must be a number from 0 to 1.5, got -1", "/inpaint", (good, -1, 1, "a dog")),
        ("audio must be an uploaded file, got {'path': '/etc/passwd'}", "/inpaint",
         ({"path": "/etc/passwd"}, 0, 1, "a dog")),
        ("empty.wav must hold a sound, got an empty file of 0 bytes", "/inpaint",
         (handle_file(tmp_path / "empty.wav"), 0, 1, "a dog")),
        ("paper.wav can't be read as a sound (WAV, FLAC, MP3, OGG or AIFF)", "/inpaint",
         (handle_file(tmp_path / "paper.wav"), 0, 1, "a dog")),
        ("long.wav must be at most 1 minute long, got 2 hours: cut it first", "/extend",
         (handle_file(tmp_path / "long.wav"), 1, "a dog")),
        ("seconds must be a number from 0.1 to 60, got 1000", "/extend", (good, 1000, "a dog")),
        ("iterations must be a whole number from 1 to 8, got 0", "/compare", ("a dog", [1], [0])),
        ("iterations must be a list of numbers, got 0", "/compare", ("a dog", [1], 0)),
        ("variant must be one of student, teacher, got ['x']", "/generate", ("a dog", *[None] * 5, ["x"])),
        *(
            ("prompt must be text, got list: ['a', 'b']", endpoint, arguments)
            for endpoint, arguments in [
                ("/generate", (["a", "b"],)), ("/compare", (["a", "b"],)), ("/inpaint", (good, 0, 0.2, ["a", "b"])),
                ("/extend", (good, 1, ["a", "b"])),
            ]
        ),
    ]:  # fmt: skip
        with pytest.raises(AppError) as heard:
            client.predict(*arguments, api_name=endpoint)
        assert str(heard.value) == message


def test_arguments_that_a_program_leaves_out_have_their_defaults(page):
    for data, expected in ((["a dog", None, 2], "event: complete"), ([], "generate needs 8 arguments, got 0.")):
        with answers(page.local_url, data) as stream:
            assert expected in stream.read().decode()


def test_a_value_that_is_not_a_number_is_no_sound(page):
    """Python's JSON knows NaN, and so do some callers."""
    with answers(page.local_url, ["a dog", float("nan"), None, None, 1, None, None]) as stream:
        body = stream.read().decode()
    assert "event: error" in body
    assert "cfg_scale must be a number from 0 to 20, got nan" in body


def test_a_prompt_may_hold_anything_that_is_text(client):
    for prompt in ("<img src=x onerror=alert(1)>**a**", "a\n\tb", "نباح كلب", "🐶" * 20, "../../etc/passwd"):
        path, _ = client.predict(prompt, seed=1, api_name="/generate")
        assert soundfile.info(path).frames == 8_000


def test_a_refusal_without_a_body_gets_a_sentence_and_a_refused_stream_ends(page, capfd):
    address = f"{page.local_url}gradio_api"
    body = json.dumps({"data": [], "fn_index": 3, "session_hash": "nobody"}).encode()
    request = urllib.request.Request(f"{address}/stream/nobody", body, {"Content-Type": "application/json"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=60)
    assert refused.value.code == 404
    assert json.load(refused.value) == {"detail": "There is nothing at this address, or not any more."}
    alone = next(index for index, each in page.fns.items() if not each.fn)
    body = json.dumps({"data": [], "fn_index": alone, "session_hash": "nobody"}).encode()
    request = urllib.request.Request(f"{address}/api/predict", body, {"Content-Type": "application/json"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=60)
    assert "the browser handles alone" in json.load(refused.value)["error"]
    for path, sent in (("/call/nothing", {"data": []}), ("/call/v2/generate", {"nothing": 1})):
        body = json.dumps(sent).encode()
        request = urllib.request.Request(address + path, body, {"Content-Type": "application/json"})
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=60)
        assert refused.value.code == 400 and "can not be read" in json.load(refused.value)["detail"]
    with urllib.request.urlopen(f"{address}/queue/data?session_hash=nobody", timeout=60) as stream:
        last = json.loads(stream.read().removeprefix(b"data:"))  # whole, to its end
    assert last["session_not_found"] and not last["success"]
    assert "Traceback" not in capfd.readouterr().err


def test_a_take_without_a_link_restores_the_defaults(page):
    restore = function(page, "restore_take")
    without, empty = ([getattr(each, "value", each) for each in restore("", link)] for link in (None, ""))
    assert without == empty
