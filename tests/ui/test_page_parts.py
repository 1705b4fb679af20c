"""What the tabs are made of, without a browser."""

import inspect
import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
import soundfile
import torch
from factory import tiny_checkpoint, tiny_config

from dear.checkpoint import CheckpointError
from dear.pipeline import AudioDEAR
from dear.ui import examples
from dear.ui.components import parts
from dear.ui.link import read_link, read_variant, write_link
from dear.ui.shelf import MOST, Choice, Shelf
from dear.ui.tabs import compare, generate, models
from dear.ui.tabs.compare import Cell, pairs, read_numbers
from dear.ui.tabs.duel import Tally, wilson
from dear.visual.plots import mel_strip


def test_a_link_restores_all_that_a_sound_follows_from(student):
    from urllib.parse import parse_qsl

    out = student.generate("a <b>dog</b> & 🐶 نباح?", seed=2**53 - 1, num_samples=3, cfg_scale=2.5, temperature=0.3)
    query = dict(parse_qsl(write_link(out)[1:]))
    settings, notices = read_link(query, student)
    assert notices == []
    again = student.generate(num_samples=settings.pop("variations"), **settings)
    assert (again.tokens == out.tokens).all()
    assert read_variant(query, Shelf(student), None) == (student, [])


def test_a_link_names_its_variant(student, tiny_folder):
    shelf = Shelf(student, str(tiny_folder))
    teacher = shelf.get(None, "teacher")
    assert read_variant({"variant": "teacher"}, shelf, None) == (teacher, [])
    assert "variant=teacher" in write_link(teacher.generate("rain", seed=1, steps=1))
    assert read_variant({}, shelf, None) == (student, [])
    own, notices = read_variant({"variant": "<x>"}, shelf, None)
    assert own is student
    assert notices == ["The link's variant must be one of student, teacher, got '<x>'; it is ignored."]


def test_a_bad_value_in_a_link_is_ignored_with_a_notice(student):
    query = {"prompt": "  ", "cfg_scale": "nan", "iterations": "2.5", "steps": "9", "seed": "-1", "variations": "x"}
    settings, notices = read_link(query | {"temperature": "0.5", "other": "1", "weights": "abc"}, student)
    assert settings == {"temperature": 0.5}
    assert len(notices) == 7
    for name, notice in zip(query, notices, strict=False):
        assert notice.startswith(f"The link's {name} must ")
        assert notice.endswith("; it is ignored.")
    assert "made with other weights" in notices[-1]


def test_a_seed_that_a_browser_rounds_is_refused():
    assert parts.seed_of(5.0, True) == 5
    assert parts.seed_of(2**53 - 1, True) == 2**53 - 1
    assert parts.seed_of(5, False) != parts.seed_of(5, False)
    assert 0 <= parts.seed_of(None, True) < 2**32
    with pytest.raises(
        ValueError, match="seed must be a whole number from 0 to 9007199254740991, got 9007199254740992"
    ):
        parts.seed_of(2**53, True)


def test_a_call_that_need_not_end_is_left_alone():
    go_on, ended = threading.Event(), threading.Event()

    def call(progress):
        progress(1, 2)
        go_on.wait(60)
        progress(2, 2)
        ended.set()

    watched = parts.watch(call, end=False)
    assert next(watched) == (1, 2)
    watched.close()  # at once
    assert not ended.is_set()
    go_on.set()
    assert ended.wait(60)


def test_a_watched_call_tells_its_progress_and_stops_when_closed(student):
    reports = list(parts.watch(lambda progress: student.generate("a dog", seed=1, progress=progress)))
    assert reports[-1].seed == 1
    assert all(report[1] == 4 for report in reports[:-1])
    calls, go_on = [], threading.Event()

    def call(progress):
        for i in range(1, 1000):
            calls.append(i)
            progress(i, 1000)
            go_on.wait(0.005)

    watched = parts.watch(call)
    next(watched)
    watched.close()
    reached = len(calls)
    assert reached < 1000
    time.sleep(0.05)
    assert len(calls) == reached
    with pytest.raises(ValueError, match="prompt must"):
        list(parts.watch(lambda progress: student.generate("", progress=progress)))


def test_visitors_choose_their_models_and_a_failed_load_changes_nothing(tiny_folder, tmp_path, student):
    shelf = Shelf(student, str(tiny_folder))
    with pytest.raises(CheckpointError):
        shelf.load(str(tmp_path / "nothing"), None, None)
    assert shelf.get(None) is shelf.get("") is shelf.get(shelf.own) is shelf.get(None, "student") is student
    teacher = shelf.get(None, "teacher")
    assert teacher.variant == "teacher"
    assert shelf.get(None, "teacher") is teacher
    other = tiny_checkpoint(tmp_path / "other", tiny_config(), seed=1)
    chosen = shelf.load(str(other), None, "teacher")
    assert chosen.words == str(other)
    text = chosen.write()
    assert shelf.choice(text) == chosen and shelf.get(text) is shelf.get(chosen)
    assert shelf.get(text).variant == "teacher" and shelf.get(text).digest != teacher.digest
    assert shelf.get(text, "student").digest != student.digest
    assert shelf.get(None) is student and shelf.get(None, "teacher") is teacher  # other visitors keep theirs
    for name in ("x", ["teacher"]):
        with pytest.raises(CheckpointError, match="variant must be one of student, teacher, got "):
            shelf.get(text, name)
    for wrong in ("no JSON", "5", "[]", '{"x": 1}', "[" * 100_000, text.replace('"teacher"', "7")):
        with pytest.raises(CheckpointError, match="the model must be one that was loaded on this page, got "):
            shelf.get(wrong)
    fixed = Shelf(student, str(tiny_folder), fixed=True)
    assert fixed.get(text) is student  # whatever a browser asks for


def test_models_that_nobody_used_for_long_are_dropped_and_come_back_if_they_are_the_same(
    tiny_folder, tmp_path, student
):
    shelf = Shelf(student, str(tiny_folder))
    folders = [tiny_checkpoint(tmp_path / f"other-{seed}", tiny_config(), seed=seed) for seed in (1, 2, 3)]
    first, second, _ = (shelf.load(str(folder), None, None) for folder in folders)
    assert len(shelf._others) == MOST and first not in shelf._others
    back = shelf.get(first)  # loaded anew
    assert shelf.get(first) is back and second not in shelf._others
    config = (folders[1] / "config.json").read_text()
    (folders[1] / "config.json").write_text(config.replace('"tiny"', '"changed"'))
    with pytest.raises(CheckpointError, match="other-2 has other files than when it was loaded: load it again"):
        shelf.get(second)
    again = shelf.load(str(folders[1]), None, None)
    assert again != second and shelf.get(again).config.name == "changed"
    assert shelf.get(None) is student  # the page's own stays


def test_the_pages_own_model_stays_when_its_folder_changes(own_folder):
    shelf = Shelf(AudioDEAR.from_pretrained(own_folder, device="cpu"), str(own_folder))
    own = shelf.get(None)
    assert shelf.load(str(own_folder), None, None) == shelf.own and shelf.get(None) is own
    config = (own_folder / "config.json").read_text()
    (own_folder / "config.json").write_text(config.replace('"tiny"', '"changed"'))
    changed = shelf.load(str(own_folder), None, None)
    assert shelf.get(changed).digest == own.digest and shelf.get(changed).config.name == "changed"
    assert shelf.get(None) is own
    with pytest.raises(CheckpointError, match="has other files than when it was loaded"):
        shelf.get(None, "teacher")  # no mixture of old and new


def test_who_has_a_model_waits_for_nobodys_download(tiny_folder, student, monkeypatch):
    shelf, begun, go_on = Shelf(student, str(tiny_folder)), threading.Event(), threading.Event()
    teacher = shelf.get(None, "teacher")

    def load(*_):
        begun.set()
        go_on.wait(60)
        return teacher

    monkeypatch.setattr(shelf, "_load", load)
    loading = threading.Thread(target=shelf.load, args=(str(tiny_folder), None, None))
    loading.start()
    assert begun.wait(60)
    assert [shelf.get(None, name) for name in ("student", "teacher")] == [student, teacher]
    go_on.set()
    loading.join()
    assert shelf.get(None) is student


def test_one_variant_is_loaded_once_for_all_who_ask_at_the_same_time(tiny_folder, student, monkeypatch):
    shelf, loads = Shelf(student, str(tiny_folder)), []
    load = shelf._load

    def slowly(*given):
        loads.append(given)
        time.sleep(0.2)
        return load(*given)

    monkeypatch.setattr(shelf, "_load", slowly)
    with ThreadPoolExecutor(4) as pool:
        models = list(pool.map(lambda _: shelf.get(None, "teacher"), range(4)))
    assert len(loads) == 1 and len(set(map(id, models))) == 1


def test_a_page_recalls_the_model_that_its_browser_chose(tiny_folder, tmp_path, student, monkeypatch):
    shelf, other = Shelf(student, str(tiny_folder)), tiny_checkpoint(tmp_path / "other", tiny_config(), seed=1)
    with gr.Blocks() as page:
        chosen = gr.Textbox("")
        models.models_tab(page, shelf, chosen, {})
    load, recall = (next(each.fn for each in page.fns.values() if each.name == name) for name in ("load", "recall"))

    def loaded(*asked):
        """What is written, and the facts."""
        *_, last = load(*asked)
        status, kept, facts = last.values()
        assert "Loaded." in status
        return kept, facts

    kept, facts = loaded(models.FOLDER, str(other), "", "")
    assert shelf.get(kept).digest in facts and str(other) in facts
    assert list(recall(kept).values()) == [kept, facts]
    assert recall("") == recall(None) == {chosen: ""}
    assert loaded(models.FOLDER, str(tiny_folder), "", "")[0] == ""  # the page's own needs no memory
    kept, facts = loaded(models.OWN, "anything", "", "")
    assert kept == "" and student.digest in facts
    for where in (models.FOLDER, models.HUB):
        with pytest.raises(gr.Error, match="model must be a checkpoint's folder or owner/name on the Hub, got '  '"):
            list(load(where, "  ", "", ""))
    told = []
    monkeypatch.setattr(gr, "Warning", told.append)
    for text in (Choice(str(tmp_path / "gone"), None, "student", "").write(), '{"x": 1}', "no JSON"):
        assert recall(text) == {chosen: ""}
    assert len(told) == 3 and all("The model that was loaded here before is not in use: " in each for each in told)


def test_the_model_is_fixed_in_a_space(monkeypatch):
    for space, fixed, told in [
        (None, None, False),
        ("me/space", None, True),
        ("me/space", "0", False),
        (None, "1", True),
    ]:
        for name, value in (("SPACE_ID", space), (models.FIXED, fixed)):
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, value)
        assert models.is_fixed() is told


def test_the_grid_of_a_comparison():
    assert read_numbers("CFG scales", " 1, 2.5;3  4,") == [1, 2.5, 3, 4]
    for text in ("", "one", "1, two"):
        with pytest.raises(ValueError, match="CFG scales must be numbers with commas between them, got"):
            read_numbers("CFG scales", text)
    assert pairs([1, 2, 1], [8, 4]) == [(1, 8), (2, 8), (1, 4), (2, 4)]
    with pytest.raises(ValueError, match="got 13 x 1"):
        pairs([float(i) for i in range(13)], [4])
    with pytest.raises(ValueError, match="got 200000 x 200000"):  # of which no pair is made
        pairs([float(i) for i in range(200_000)], [float(i) for i in range(200_000)])


def test_another_number_of_iterations_begins_another_row_unless_settings_are_hidden():
    found = [Cell(scale, count, "", "a.wav") for count in (8, 4) for scale in (1, 2)]
    first = [["dear-first" in compare._cell(found, i, hidden) for i in range(4)] for hidden in (False, True)]
    assert first == [[False, False, True, False], [False] * 4]


def test_wilson_interval_and_the_tally():
    # Newcombe 1998, table I, method 3.
    for (k, n), expected in {(81, 263): (0.2553, 0.3662), (15, 148): (0.0624, 0.1605), (0, 20): (0, 0.1611)}.items():
        assert wilson(k, n) == pytest.approx(expected, abs=1e-4)
    assert wilson(20, 20)[1] == 1
    with pytest.raises(ValueError, match="got 0 of 0"):
        wilson(0, 0)
    assert Tally().text() == "No blind choice yet."
    text = Tally(student=15, teacher=133, neither=2).text()
    assert "15 of 148: 10 %, 95 % confidence interval 6 to 16 %; 2 without a difference" in text


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


def test_old_files_are_forgotten_while_nobody_asks_for_anything(student, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "LOOK_EVERY", 0.05)
    folder = tmp_path / "results"
    folder.mkdir()
    out = student.generate("rain", seed=1)
    with ThreadPoolExecutor(8) as pool:
        kept, *old = (Path(path).parent for path in pool.map(lambda _: parts.store(out, folder), range(16)))
    for each in old:
        os.utime(each, (0, time.time() - parts.KEEP - 1))
    worker = threading.Thread(target=parts.forget_old, args=(folder,), daemon=True)
    worker.start()
    deadline = time.monotonic() + 20
    while len([*folder.iterdir()]) > 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [*folder.iterdir()] == [kept]
    shutil.rmtree(folder)
    worker.join(20)
    assert not worker.is_alive()


def test_a_run_can_be_stopped_and_its_progress_goes_where_it_fails_and_what_an_earlier_one_left_stays():
    def run(count):
        for number in range(count):
            yield {status: f"step {number}"}
        raise ValueError("no more")

    with gr.Blocks() as page:
        status, stop, go, count = gr.HTML(), gr.Button(), gr.Button(), gr.Number()
        parts.runs([([go.click], run, [count])], [status], stop, status)
    (served,) = (each.fn for each in page.fns.values() if inspect.isgeneratorfunction(each.fn))

    def told(steps):
        try:
            for changes in served(steps):
                yield changes[status]
        except ValueError as error:
            yield error.args

    assert [*told(2)] == ["step 0", "step 1", "", ("no more",)]
    assert [*told(0)] == [("no more",)]
    stopped = served(5)
    assert next(stopped)[stop].interactive  # also of a run that had to wait for another one's end
    assert next(stopped) == {status: "step 1"}
    stopped.close()  # nothing more is told: the button has


def test_steps_are_offered_as_far_as_a_head_takes_them(student, tiny_folder):
    assert student.model.head.max_steps == 1
    assert AudioDEAR.from_pretrained(tiny_folder, variant="teacher").model.head.max_steps == 50


def test_a_strip_is_the_mel_alone_on_the_common_scale(student):
    mel = np.full((64, 64), -3.0, dtype=np.float32)
    (axes,) = mel_strip(mel, student.config.mel).axes
    assert axes.images[0].get_clim() == (-80, 10)
    assert axes.get_position().bounds == (0, 0, 1, 1)
    assert not axes.axison


def test_files_of_results_have_plain_names(student, tmp_path):
    path = parts.store(student.generate("../../<img> 🐶\n", seed=5), tmp_path)
    assert path.endswith("/img-5.wav")
    assert soundfile.info(path).frames == 10_000


def test_the_cache_of_examples_forgets_the_oldest(monkeypatch):
    monkeypatch.setattr(examples, "MOST", 2)
    cache = examples.ExampleCache()
    for key in "abc":
        cache.put(key, (key, key))
        cache.get("a")
    assert [cache.get(key) for key in "abc"] == [("a", "a"), None, ("c", "c")]


def test_an_example_is_made_once_and_then_heard_at_once(student, tiny_folder, tmp_path, monkeypatch):
    shelf = Shelf(student, str(tiny_folder))
    with gr.Blocks() as page:
        generate.generate_tab(shelf, gr.Textbox(""), tmp_path)
    run = next(each.fn for each in page.fns.values() if each.fn and each.name == "run_example")
    made = []
    stream = student.stream
    monkeypatch.setattr(student, "stream", lambda *given, **options: made.append(given) or stream(*given, **options))

    def click(text, count=1, seed=5, keep=False, scale=2.0, variant="student"):
        """The output that the click leaves, and whether it was made anew."""
        before = len(made)
        kept = [
            value for step in run("", [text], variant, scale, 2, 1.0, 1, count, seed, keep) for value in step.values()
        ]
        (result,) = [value for value in kept if isinstance(value, tuple)]
        return result[1], len(made) > before

    one, fresh = click("rain")
    assert fresh and one.seed == examples.SEED and one.prompts == ["rain"]
    assert click("rain") == (one, False)
    assert click("rain", keep=True)[0].seed == 5  # one's own seed, once it is kept
    for other in (
        {"text": "a dog"},
        {"scale": 3.0},
        {"count": 2},
        {"keep": True, "seed": 6},
        {"keep": True, "seed": None},
    ):
        assert click(**{"text": "rain"} | other)[1]
    assert click("rain", count=2)[1]  # several are not kept
    teachers, _ = click("rain", variant="teacher")
    assert teachers.settings["variant"] == "teacher" and not torch.equal(teachers.tokens, one.tokens)
    assert click("rain") == (one, False)
