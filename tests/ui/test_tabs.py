"""The registry of tabs, the contract that each tab keeps, and the tabs without a browser."""

import importlib
import re
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
import torch
from factory import tiny_checkpoint, tiny_config
from webpage import build_tabs, function

from dear.audio import at_loudness
from dear.ui import assets, build, examples
from dear.ui.components import axes, files
from dear.ui.context import Tab
from dear.ui.model_registry import ModelChoice, ModelRegistry
from dear.ui.registry import TABS
from dear.ui.tabs import compare, generate, model
from dear.ui.tabs.compare import Cell
from dear.ui.tabs.duel import Tally, wilson
from dear.ui.visitor import recall_model


@pytest.fixture
def models(student, tiny_folder):
    return ModelRegistry(student, str(tiny_folder))


def events(models, folder, tabs):
    """The events of a page of these tabs, in an order of their own."""
    page = build_tabs(models, folder, *tabs).page
    return sorted((str(each.name), len(each.inputs), len(each.outputs)) for each in page.fns.values())


@pytest.fixture(scope="module")
def usual_events(student, tiny_folder, tmp_path_factory):
    return events(ModelRegistry(student, str(tiny_folder)), tmp_path_factory.mktemp("usual"), TABS.values())


@pytest.mark.parametrize("tab", TABS.values(), ids=lambda tab: tab.name)
class TestContract:
    """What holds for each tab of the registry."""

    def test_its_facts(self, tab):
        assert TABS[tab.name] is tab and tab.title
        assert importlib.import_module(f"dear.ui.tabs.{tab.name}").TAB is tab  # one file
        for name in tab.styles:
            assert assets.load(name).strip() and name.endswith(".css")

    def test_it_stands_alone(self, tab, models, tmp_path):
        page = build_tabs(models, tmp_path, tab).page
        assert len(page.blocks) > 3
        assert all(each.api_visibility == "private" for each in page.fns.values())

    def test_any_other_order_of_tabs_connects_the_same(self, tab, models, tmp_path, usual_events):
        others = [each for each in reversed(TABS.values()) if each is not tab]
        assert events(models, tmp_path, [tab, *others]) == usual_events


def test_a_new_tab_is_one_entry_of_the_registry(models, tmp_path, monkeypatch):
    def build_hello(context):
        button, answer = gr.Button("Say hello"), gr.Textbox()

        def greet(chosen):
            return f"hello from {context.models.get(chosen).variant}"

        button.click(greet, context.chosen, answer)

    monkeypatch.setitem(TABS, "hello", Tab("hello", "Hello", build_hello))
    page = build(models, tmp_path)
    assert [block.id for block in page.blocks.values() if isinstance(block, gr.Tab)] == [*TABS]
    assert function(page, "greet")("") == "hello from student"


def test_no_two_elements_of_the_page_share_an_id_and_every_asset_is_used(models, tmp_path):
    ids = [block.elem_id for block in build(models, tmp_path).blocks.values() if block.elem_id]
    assert len(ids) == len(set(ids)) > 40
    styles = {"page.css", "outside.css", *(name for tab in TABS.values() for name in tab.styles)}
    assert styles == {path.name for path in assets.FOLDER.glob("*.css")}


def test_a_page_recalls_the_model_that_its_browser_chose(tiny_folder, tmp_path, student, monkeypatch):
    models = ModelRegistry(student, str(tiny_folder), folders=True)
    other = tiny_checkpoint(tmp_path / "other", tiny_config(), seed=1)
    context = build_tabs(models, tmp_path, model.TAB)
    with context.page:
        recall_model(context)
    load, recall = (function(context.page, name) for name in ("load", "recall"))

    def loaded(*arguments):
        """What is stored in the browser, and the facts."""
        *_, last = load(*arguments)
        status, stored, facts, _ = last.values()
        assert "Loaded." in status
        return stored, facts

    stored, facts = loaded(model.FOLDER, str(other), "", "")
    assert models.get(stored).digest in facts and str(other) in facts
    assert list(recall(stored).values()) == [stored, facts]
    assert recall("") == recall(None) == {context.chosen: ""}
    assert loaded(model.FOLDER, str(tiny_folder), "", "")[0] == ""  # the page's own
    stored, facts = loaded(model.OWN, "anything", "", "")
    assert stored == "" and student.digest in facts
    for source, sentence in ((model.FOLDER, "Enter the path"), (model.HUB, "Enter a repository")):
        with pytest.raises(gr.Error, match=sentence):
            list(load(source, "  ", "", ""))
    warnings = []
    monkeypatch.setattr(gr, "Warning", warnings.append)
    for text in (ModelChoice(str(tmp_path / "gone"), None, "student", "").to_json(), '{"x": 1}', "no JSON"):
        assert recall(text) == {context.chosen: ""}
    assert len(warnings) == 3 and all(
        "The model that you used last time is not available: " in each for each in warnings
    )


def test_the_model_is_fixed_in_a_space(monkeypatch):
    for space, fixed, expected in [
        (None, None, False),
        ("me/space", None, True),
        ("me/space", "0", False),
        (None, "1", True),
    ]:
        for name, value in (("SPACE_ID", space), (model.FIXED, fixed)):
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, value)
        assert model.is_fixed() is expected


def test_the_grid_of_a_comparison():
    settings = axes.grid(("cfg_scale", [1, 2, 1]), ("iterations", [8, 4]))
    assert [tuple(each.values()) for each in settings] == [(1, 8), (2, 8), (1, 4), (2, 4)]
    assert axes.grid(("seed", [3, 4]), None) == [{"seed": 3}, {"seed": 4}]
    assert axes.names(settings[0]) == ["CFG 1", "8 iterations"]


def test_the_values_of_an_axis_are_read_within_the_limits_of_the_model(student):
    for name, axis in axes.AXES.items():
        if name != "prompt":
            assert axis.read(axis.example(student), student), name
    assert axes.AXES["prompt"].read(" a dog \n\nrain", student) == ["a dog", "rain"]
    assert axes.AXES["variant"].read("teacher, student", student) == ["teacher", "student"]
    for name, text, sentence in (
        ("variant", "plain", "The variants of this model are student, teacher."),
        ("prompt", " ", "Type a prompt first."),
        ("iterations", "9", "The iterations must be whole numbers from 1 to 8."),
        ("temperature", "3", "The temperatures must be numbers from 0 to 2."),
        ("seed", "1.5", "The seeds must be whole numbers from 0 to 9,007,199,254,740,991."),
    ):
        with pytest.raises(gr.Error, match=re.escape(sentence)):
            axes.AXES[name].read(text, student)


def test_each_row_begins_on_a_line_of_its_own_unless_settings_are_hidden():
    varied = axes.grid(("cfg_scale", [1, 2]), ("iterations", [8, 4]))
    found = [Cell(each, {}, "picture", "a.wav", "b.wav") for each in varied]
    first = [["dear-first" in compare.cell_html(found, i, hidden, 2) for i in range(4)] for hidden in (False, True)]
    assert first == [[False, False, True, False], [False] * 4]
    hidden = compare.cell_html(found, 0, True, 2)
    assert "CFG" not in hidden and "picture" not in hidden and "a.wav" not in hidden


def test_what_is_heard_blind_says_nothing_of_itself_and_is_as_loud_as_the_rest(student, tmp_path):
    out = student.generate("a dog", seed=5)
    path = files.store_anonymous(out, tmp_path, level=True)
    data = Path(path).read_bytes()
    assert Path(path).name == "sound.wav" and b"dog" not in data and b"seed" not in data
    for gain in (0.2, 1.0):
        samples = gain * np.sin(np.arange(16_000) * 0.3).astype(np.float32)
        assert 20 * np.log10(np.sqrt(np.mean(at_loudness(samples, 16_000) ** 2))) == pytest.approx(-26, abs=0.1)
    click = np.zeros(16_000, np.float32)
    click[100] = 0.5
    assert np.abs(at_loudness(click, 16_000)).max() == pytest.approx(1)  # never clipped
    assert not at_loudness(np.zeros(100, np.float32), 16_000).any()


def test_wilson_interval_and_the_tally():
    # Newcombe 1998, table I, method 3.
    for (k, n), expected in {(81, 263): (0.2553, 0.3662), (15, 148): (0.0624, 0.1605), (0, 20): (0, 0.1611)}.items():
        assert wilson(k, n) == pytest.approx(expected, abs=1e-4)
    assert wilson(20, 20)[1] == 1
    with pytest.raises(ValueError, match="got 0 of 0"):
        wilson(0, 0)
    assert Tally().text() == "No blind vote yet."
    text = Tally(student=15, teacher=133, neither=2).text()
    assert "15 of 148 votes: 10 %, 95 % confidence interval 6 to 16 %; 2 without a difference" in text


def test_the_cache_of_examples_drops_the_least_recently_used():
    cache = examples.ExampleCache(size=2)
    for key in "abc":
        cache.put(key, (key, key))
        cache.get("a")
    assert [cache.get(key) for key in "abc"] == [("a", "a"), None, ("c", "c")]


def test_an_example_is_made_once_and_then_heard_at_once(student, tiny_folder, tmp_path, monkeypatch):
    models = ModelRegistry(student, str(tiny_folder))
    run = function(build_tabs(models, tmp_path, generate.TAB).page, "run_example")
    made = []
    stream = student.stream
    monkeypatch.setattr(student, "stream", lambda *given, **options: made.append(given) or stream(*given, **options))

    def click(text, count=1, seed=5, keep=False, scale=2.0, variant="student"):
        """The output that the click leaves, and whether it is new."""
        before = len(made)
        kept = [
            value
            for step in run("", text, variant, scale, 2, 1.0, 1, count, variant, seed, keep)
            for value in step.values()
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
