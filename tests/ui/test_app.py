"""The page as it is served: over HTTP with Gradio's client, and in a real browser."""

import dataclasses
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import soundfile
from factory import tiny_checkpoint, tiny_config
from gradio_client import Client
from gradio_client.exceptions import AppError
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.support.ui import WebDriverWait

from dear.config import MelConfig
from dear.evaluation import click
from dear.evaluation.click import BrowserError, chromium, measure, table
from dear.pipeline import AudioDEAR
from dear.ui import serve
from dear.ui.tabs import generate as tab

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Tiny networks, but clips of the full ten seconds."""
    config = dataclasses.replace(tiny_config(), mel=MelConfig())
    return tiny_checkpoint(tmp_path_factory.mktemp("app") / "tiny", config)


@pytest.fixture(scope="module")
def model(folder):
    return AudioDEAR.from_pretrained(folder, device="cpu")


@pytest.fixture(scope="module")
def page(model, folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    page = serve(model, "127.0.0.1", port, str(folder))
    yield page
    page.close(verbose=False)


@pytest.fixture(scope="module")
def browser():
    """One Chromium for all tests of this file, whose microphone hears beeps."""
    try:
        with chromium("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream") as browser:
            yield browser
    except BrowserError as error:
        pytest.skip(str(error))


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
        "prompt", "cfg_scale", "iterations", "temperature", "seed", "steps", "variant",
    ]  # fmt: skip
    assert [each["parameter_has_default"] for each in parameters] == [False] + [True] * 6
    assert {each["parameter_default"] for each in parameters[1:]} == {None}


def run_of(page, *arguments):
    """What the page's own Generate yields, by the elements' ids."""
    run = next(function.fn for function in page.fns.values() if function.fn and function.fn.__module__ == tab.__name__)
    assert run.__name__ == "run"
    for step in run("", *arguments):
        yield {component.elem_id or type(component).__name__: value for component, value in step.items()}


def test_pictures_are_streamed_while_tokens_are_drawn(page, monkeypatch):
    monkeypatch.setattr(tab, "PICTURE_EVERY", 0)
    monkeypatch.setattr(tab, "PICTURE_SHARE", 100)
    monkeypatch.setattr(tab, "TOLD_EVERY", 0)
    monkeypatch.setattr(tab, "DRAFT_WORTH", float("inf"))  # on a slow machine even this run would be worth a draft
    *partial, result, last = run_of(page, "a <b>dog</b> & a cat", "student", 2, 4, 1, 1, 1, 11, True)
    assert not result["generate-stop"].interactive
    assert [f"Iteration {i} of 4" in step["facts"] for i, step in enumerate(partial, 1)] == [True] * 3
    assert all(step["sound"].value is None and step["pictures"].count("<svg") == 2 for step in partial)
    assert last["pictures"].count("<svg") == 4
    assert [len(order.split(",")) for order in re.findall('data-order="([^"]*)"', last["pictures"])] == [128, 128]
    assert not any("data-order" in step["pictures"] for step in partial)
    assert "10.0 s of sound in" in result["facts"]
    assert "real-time factor" in result["facts"]
    assert result["seed"] == 11
    assert Path(result["sound"].value["path"]).name == "a-b-dog-b-a-cat-11.wav"
    monkeypatch.setattr(tab, "PICTURE_EVERY", 60)
    monkeypatch.setattr(tab, "TOLD_EVERY", 60)
    assert (
        len(list(run_of(page, "a dog", "student", 2, 4, 1, 1, 1, 11, True))) == 2
    )  # no picture costs a quick one anything


def test_a_draft_is_heard_before_the_end_of_a_long_run(page, monkeypatch):
    monkeypatch.setattr(tab, "DRAFT_WORTH", 0)
    monkeypatch.setattr(tab, "TOLD_EVERY", 0)
    steps = list(run_of(page, "a dog", "student", 2, 8, 1, 1, 2, 11, True))
    at, draft = next((i, step) for i, step in enumerate(steps) if "sound" in step)
    assert draft["sound"].label.startswith("First listen")
    assert soundfile.info(draft["sound"].value["path"]).frames == 160_000
    assert "Iteration 1 of 8" in steps[at - 1]["facts"] and "s left" in steps[at - 1]["facts"]
    assert "Iteration 1 of 8" in draft["facts"]
    assert "Iteration 2 of 8" in steps[at + 1]["facts"]
    assert [step["sound"].label for step in steps[at + 1 :] if "sound" in step] == ["Sound"]
    result = steps[-2]
    assert result["sound"].label == "Sound"
    assert [value for _, value in result["variation"].choices] == [0, 1]
    for each in ("wav", "flac"):
        with soundfile.SoundFile(result[each].value["path"]) as file:
            assert (file.title, json.loads(file.comment)["seed"]) == ("a dog", 11)


def test_a_bad_port_is_told_in_one_sentence():
    done = subprocess.run(
        [sys.executable, "app.py"], cwd=ROOT, env=os.environ | {"PORT": "70000"}, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "app.py: PORT must be a whole number from 1 to 65535, got '70000'\n"


def test_another_model_for_the_whole_page_that_is_not_there_is_told(tmp_path):
    for names, told in [
        (
            {"AUDIODEAR_MODEL": str(tmp_path / "no")},
            "model must be a checkpoint's folder or owner/name on the Hub, got ",
        ),
        ({"AUDIODEAR_REVISION": "v1"}, "revision applies to a Hub repository only, got 'v1' for the folder "),
    ]:
        done = subprocess.run(
            [sys.executable, "app.py"], cwd=ROOT, env=os.environ | names, capture_output=True, text=True
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"app.py: {told}") and done.stderr.count("\n") == 1


def test_a_taken_port_is_told(page, model):
    with pytest.raises(OSError, match=f"port {page.server_port} of 127.0.0.1 can't be served"):
        serve(model, "127.0.0.1", page.server_port)


class Visitor:
    """A browser's session with the page's own Generate, as Gradio's frontend speaks with the server."""

    def __init__(self, page, name):
        self.url, self.session = f"{page.local_url}gradio_api/queue", name
        functions = page.fns.items()
        self.index = next(i for i, f in functions if f.fn and (f.fn.__module__, f.name) == (tab.__name__, "run"))
        self.api = page.local_url + "gradio_api"

    def post(self, url, **body):
        body |= {"session_hash": self.session, "fn_index": self.index}
        request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def begin(self, *arguments):
        self.event = self.post(f"{self.url}/join", data=["", *arguments])["event_id"]  # "": the page's own model
        self.messages = urllib.request.urlopen(f"{self.url}/data?session_hash={self.session}", timeout=120)

    def hear(self):
        for line in self.messages:
            if line.startswith(b"data:"):
                yield json.loads(line[5:])

    def stop(self):
        self.post(f"{self.api}/cancel", event_id=self.event)


def test_a_stop_ends_one_run_and_leaves_the_other(page, monkeypatch):
    monkeypatch.setattr(tab, "TOLD_EVERY", 0)
    original, reached = AudioDEAR.stream, {}

    def stream(self, prompt, **options):
        for out in original(self, prompt, **options):
            reached[prompt] = out.iteration
            yield out

    monkeypatch.setattr(AudioDEAR, "stream", stream)
    first, second = Visitor(page, "first"), Visitor(page, "second")
    first.begin("a dog", "student", 2, 128, 1, 1, 2, 1, True)
    messages = first.hear()
    next(message for message in messages if "Iteration" in json.dumps(message))
    second.begin("rain", "student", 2, 4, 1, 1, 1, 2, True)
    first.stop()
    heard = [json.dumps(message) for message in second.hear()]
    assert 1 <= reached["a dog"] < 128
    assert reached["rain"] == 4
    assert any("rain-2.wav" in message for message in heard)
    assert not any("of sound in" in json.dumps(message) for message in messages)
    for visitor in (first, second):
        visitor.messages.close()


class Hand:
    """What a visitor does with the browser."""

    def __init__(self, browser, page, width=1400):
        self.browser, self.url = browser, page.local_url
        self.resize(width)

    def resize(self, width):
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def open(self, query=""):
        self.browser.get(self.url + query)
        self.until(lambda: self.find(".dear-examples button").is_displayed())

    def find(self, selector):
        return self.browser.find_element("css selector", selector)

    def all(self, selector):
        return self.browser.find_elements("css selector", selector)

    def until(self, condition):
        wait = WebDriverWait(self.browser, 60, poll_frequency=0.05, ignored_exceptions=(Exception,))
        return wait.until(lambda _: condition())

    def run(self, script, *values):
        return self.browser.execute_script(script, *values)

    def value(self, selector):
        return self.find(selector).get_attribute("value")

    def write(self, selector, text):
        self.until(lambda: self.find(selector).is_displayed())
        self.find(selector).send_keys(Keys.CONTROL, "a")
        self.find(selector).send_keys(text, Keys.TAB)

    def press(self, selector):
        self.until(lambda: self.find(selector).is_enabled() and self.find(selector).is_displayed())
        self.find(selector).click()

    def go(self, name):
        self.press(f"button[role=tab][data-tab-id={name}]")

    def seconds(self, selector):
        return self.run(f"return document.querySelector('{selector} audio').duration")


def test_the_page_in_a_browser(browser, page):
    hand = Hand(browser, page)
    find, until = hand.find, hand.until

    def box(selector):
        return hand.run("return document.querySelector(arguments[0]).getBoundingClientRect().toJSON()", selector)

    for log in ("performance", "browser"):
        browser.get_log(log)
    hand.open()
    assert browser.title == "AudioDEAR"

    # An empty prompt is refused with the pipeline's sentence, and nothing else happens.
    find("#generate").click()
    until(lambda: "prompt must have 1 to 1000 characters" in find(".toast-body").text)
    assert "Nothing generated yet" in find("#pictures").text

    examples = hand.all(".dear-examples button")
    assert len(examples) >= 8
    examples[-1].click()
    until(lambda: "10.0 s of sound in" in find("#facts").text)
    until(lambda: hand.run("return document.querySelector('#sound audio').duration") == 10)
    assert find("#prompt textarea").get_attribute("value") == examples[-1].text
    until(lambda: f"seed\n{find('#seed input').get_attribute('value')}\n" in find("#facts").text)

    # The sliders move by hand, and what they say is what is drawn with.
    assert find("#dice").get_attribute("aria-label") == "Roll a new seed"
    shown = []
    for name, words in (("cfg-scale", "CFG scale"), ("iterations", "iterations")):
        number, before = f"#{name} input[type=number]", hand.value(f"#{name} input[type=number]")

        def nudged(name=name, number=number, before=before):
            hand.run("document.querySelector(arguments[0]).focus()", f"#{name} input[type=range]")
            ActionChains(browser).send_keys(Keys.ARROW_RIGHT).perform()
            return float(hand.value(number)) > float(before)

        until(nudged)
        shown.append((words, number))
    find("#generate").click()
    until(lambda: all(f"{words}\n{hand.value(number)}\n" in find("#facts").text for words, number in shown))

    # Typing a seed means wanting that seed.
    assert not find("#lock input").is_selected()
    find("#seed input").send_keys("7")
    until(lambda: find("#lock input").is_selected())

    until(lambda: len(hand.all("#pictures svg[role=img]")) == 4)
    titles = [each.text.split("\n")[0] for each in hand.all("#pictures figcaption")]
    assert [title.split(" ")[0] for title in titles] == ["Waveform", "Mel", "Latents", "Decoding"]
    for picture in hand.all("#pictures svg[role=img]"):
        assert len(picture.get_attribute("aria-label")) > 20
        assert picture.rect["width"] > 400

    # However fast it was, it can be watched: the picture is covered, and uncovered token by token.
    hidden = "return [...document.querySelectorAll('.dear-cover i')].filter((each) => each.style.opacity != '0').length"
    assert hand.run(hidden) == 0
    find("button.dear-film").click()
    until(lambda: 0 < hand.run(hidden) < 2 * 128)
    assert len(hand.all(".dear-cover")) == 2  # over the mel and over the order
    until(lambda: not hand.all(".dear-cover"))

    # A click on a picture plays from there, and a line shows where.
    hand.run("document.querySelector('#sound audio').muted = true")
    find(".dear-smooth").click()
    until(lambda: hand.run("return document.querySelector('#sound audio').currentTime") > 4)
    line = "return document.querySelector('.dear-plot').style.getPropertyValue('--played')"
    until(lambda: 0.4 < float(hand.run(line)) < 1)

    # Beside the controls where there is room, else below them, and never wider than the window.
    assert box(".dear-results")["left"] > box(".dear-controls")["right"]
    hand.resize(390)
    until(lambda: box(".dear-results")["top"] > box(".dear-controls")["bottom"])
    assert hand.run("return document.documentElement.scrollWidth - window.innerWidth") <= 0

    sent = (json.loads(entry["message"])["message"] for entry in browser.get_log("performance"))
    urls = [each["params"]["request"]["url"] for each in sent if each["method"] == "Network.requestWillBeSent"]
    ours = (page.local_url, "data:", "blob:", "chrome:")
    assert len(urls) > 10
    assert not [url for url in urls if not url.startswith(ours)]
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def test_the_tabs_in_a_browser(browser, page, tmp_path):
    hand = Hand(browser, page)
    find, until, value, write, press, go = hand.find, hand.until, hand.value, hand.write, hand.press, hand.go
    # A link restores what it can, and says what it can't; its prompt is text, whatever it holds.
    browser.get(f"{page.local_url}?prompt=a+%3Cb%3Edog%3C%2Fb%3E&cfg_scale=2.5&iterations=128&seed=77&temperature=hot")
    until(lambda: value("#prompt textarea") == "a <b>dog</b>")
    assert (value("#cfg-scale input"), value("#iterations input"), value("#seed input")) == ("2.5", "128", "77")
    assert find("#lock input").is_selected()
    until(lambda: "temperature must be a number from 0 to 2, got 'hot'; it is ignored" in find(".toast-body").text)

    # A long run is stopped, and the next one is not disturbed by it.
    write("#variations input", "8")
    press("#generate")
    press("#generate-stop")
    until(lambda: find("#facts").text == "Stopped.")
    write("#variations input", "2")
    write("#iterations input", "4")
    press("#generate")
    until(lambda: "20.0 s of sound in" in find("#facts").text)
    hand.all("#variation input")[1].click()
    until(lambda: "seed\n78\n" in find("#facts").text)
    assert not find("#generate-stop").is_enabled()
    link = find(".dear-link").get_attribute("href")
    assert "seed=77&variations=2" in link
    press(".dear-link")
    until(lambda: browser.current_url == link)

    # Another head brings its steps, and its own defaults.
    assert not hand.all("#steps")
    hand.all("#head input")[1].click()
    until(lambda: value("#steps input[type=number]") == "3" and value("#cfg-scale input") == "2")
    press("#generate")
    until(lambda: "tiny teacher" in find("#facts").text)
    assert "variant=teacher" in find(".dear-link").get_attribute("href")

    # Two guidance scales, blind until one of them is chosen, which goes to Generate.
    go("compare")
    write("#compare-prompt textarea", "rain")
    write("#compare-scales input, #compare-scales textarea", "1.5, 4")
    find("#compare-blind input").click()
    press("#compare")
    until(lambda: len(hand.all("#best input")) == 2)
    assert "CFG" not in find("#compare-grid").text + find("#best").text
    assert len(hand.all("#compare-grid audio")) == 2
    hand.all("#best input")[0].click()
    until(lambda: "CFG 1.5" in find("#compare-grid").text and "CFG 4" in find("#compare-grid").text)
    chosen = find("#compare-grid h3").text.split()[1]
    press("#send")
    until(lambda: value("#prompt textarea") == "rain" and value("#cfg-scale input") == chosen)

    # The sound becomes the start of an edit; its region is drawn with the pointer.
    press("#use")
    until(lambda: find("#edit-map svg[role=img]").is_displayed())
    until(lambda: value("#edit-start input[type=number]") == "3")
    plot = find("#edit-map .dear-plot")
    drag = ActionChains(browser).move_to_element_with_offset(plot, int(-0.1 * plot.rect["width"]), 0).click_and_hold()
    drag.move_by_offset(int(0.3 * plot.rect["width"]), 0).release().perform()
    until(lambda: 3.2 < float(value("#edit-start input[type=number]")) < 4.2)
    until(lambda: 6.6 < float(value("#edit-end input[type=number]")) < 7.6)
    # A finger that scrolls the page over the picture changes nothing, and neither does its next tap elsewhere.
    chosen = value("#edit-start input[type=number]"), value("#edit-end input[type=number]")
    region = plot.get_attribute("style")
    hand.run(
        """
        const plot = document.querySelector('#edit-map .dear-plot'), box = plot.getBoundingClientRect();
        const tell = (name, share, target = plot) => target.dispatchEvent(new PointerEvent(name,
          { bubbles: true, clientX: box.left + share * box.width, clientY: box.top + 0.5 * box.height }));
        tell('pointerdown', 0.2);
        tell('pointermove', 0.25);
        tell('pointercancel', 0.25);
        tell('pointerup', 0.9, document.body);
        """
    )
    assert plot.get_attribute("style") == region
    assert (value("#edit-start input[type=number]"), value("#edit-end input[type=number]")) == chosen
    write("#edit-prompt textarea", "a dog")
    press("#edit")
    until(lambda: "s anew in" in find("#edit-status").text)
    until(lambda: hand.run("return document.querySelector('#edit-result audio').duration") == 10)

    # Both draw the same, blind: a vote is counted once, and then it is told who was who.
    go("duel")
    write("#duel-prompt textarea", "rain")
    hand.all("#duel-mode input")[1].click()
    press("#duel")
    press("#vote-0")
    until(lambda: "of 1: " in find("#tally").text and "95 % confidence interval" in find("#tally").text)
    assert "1 step" in find("#duel-student").text + find("#duel-teacher").text

    # What can't be loaded leaves the old model in place.
    go("model")
    until(lambda: find("#model-facts").is_displayed())
    hand.all("#model-kind input")[2].click()  # a folder
    write("#model-place input, #model-place textarea", str(tmp_path / "nothing"))
    before = find("#model-facts").text
    press("#model-load")
    until(lambda: "model must be a checkpoint's folder" in find(".toast-wrap, .toast-body").text)
    assert find("#model-facts").text == before


def test_a_visitor_loads_another_model_and_keeps_it_and_nobody_else_gets_it(browser, page, model, client, tmp_path):
    config = dataclasses.replace(tiny_config(), name="other", mel=MelConfig())
    other = AudioDEAR.from_pretrained(tiny_checkpoint(tmp_path / "other", config, seed=1), device="cpu")
    hand = Hand(browser, page)
    hand.open("?prompt=rain&seed=5")

    def expect(model):
        hand.go("generate")
        hand.press("#generate")
        hand.until(lambda: f"weights={model.digest}" in hand.find(".dear-link").get_attribute("href"))

    hand.go("model")
    hand.all("#model-kind input")[2].click()  # a folder
    hand.write("#model-place input, #model-place textarea", str(tmp_path / "other"))
    hand.press("#model-load")
    hand.until(lambda: other.digest in hand.find("#model-facts").text)
    expect(other)
    _, facts = client.predict("rain", seed=5, api_name="/generate")
    assert facts["settings"]["digest"] == model.digest
    hand.open("?prompt=rain&seed=5")  # the browser remembers
    hand.go("model")
    hand.until(lambda: other.digest in hand.find("#model-facts").text)
    expect(other)
    shutil.rmtree(tmp_path / "other")
    hand.run("localStorage.clear()")
    hand.open("?prompt=rain&seed=5")  # as a newcomer
    expect(model)


def test_one_who_waits_can_stop_too(browser, page, monkeypatch):
    hand = Hand(browser, page)
    hand.open("?prompt=rain")
    hand.until(lambda: hand.value("#prompt textarea") == "rain")
    go_on = threading.Event()
    original, begun = AudioDEAR.stream, []

    def stream(self, prompt, **options):
        results = original(self, prompt, **options)
        if "every" not in options:  # the check of the input
            return results
        begun.append(prompt)
        return (go_on.wait(60) and out for out in results)

    monkeypatch.setattr(AudioDEAR, "stream", stream)
    first = Visitor(page, "before")
    first.begin("a dog", "student", 2, 4, 1, 1, 1, 1, True)
    hand.until(lambda: begun == ["a dog"])
    hand.press("#generate")
    hand.press("#generate-stop")
    hand.until(lambda: hand.find("#facts").text == "Stopped.")
    assert not hand.find("#generate-stop").is_enabled()
    go_on.set()
    assert any("of sound in" in json.dumps(message) for message in first.hear())
    first.messages.close()
    assert begun == ["a dog"]
    hand.press("#generate")  # and may begin again
    hand.until(lambda: "10.0 s of sound in" in hand.find("#facts").text)
    assert begun == ["a dog", "rain"]


def test_the_keyboard_alone_is_enough(browser, page):
    hand = Hand(browser, page)
    hand.open()
    focused = "const e = document.activeElement; return e.id || e.closest('[id]:not([id^=component])')?.id || e.tagName"
    # The prompt has the focus from the start.
    ActionChains(browser).send_keys("rain", Keys.TAB).perform()
    assert hand.run(focused) == "generate"
    ActionChains(browser).send_keys(Keys.SPACE).perform()
    hand.until(lambda: "10.0 s of sound in" in hand.find("#facts").text)
    hand.until(lambda: hand.find("#use").is_displayed())
    met, start = [], hand.run("document.querySelector('#prompt textarea').focus()")
    for _ in range(80):
        ActionChains(browser).send_keys(Keys.TAB).perform()
        met.append(hand.run(focused))
        if met[-1] == "use":
            break
    wanted = ["generate", "cfg-scale", "iterations", "temperature", "variations", "seed", "dice", "lock", "wav", "flac"]
    assert start is None and [name for name in dict.fromkeys(met) if name in wanted] == wanted
    ActionChains(browser).send_keys(Keys.ENTER).perform()
    hand.until(lambda: hand.find("#edit-map svg[role=img]").is_displayed())
    # Arrows move the region, in the picture as well.
    before = hand.find("#edit-map .dear-plot").get_attribute("style")

    def nudged():  # more than once, if need be: the sliders may still be on their way to fit the sound
        hand.run("document.querySelector('#edit-start input[type=range]').focus()")
        ActionChains(browser).send_keys(Keys.ARROW_RIGHT).perform()
        return float(hand.value("#edit-start input[type=number]")) > 3

    hand.until(nudged)
    hand.until(lambda: hand.find("#edit-map .dear-plot").get_attribute("style") != before)

    # In every tab, whatever can be pressed or filled in can be reached, and shows that it is.
    for name in ("generate", "compare", "duel", "edit", "listening", "hood", "model"):
        hand.go(name)
        hand.until(lambda name=name: hand.find(f"[data-tab-id={name}][aria-selected=true]").is_displayed())
        count, bad = hand.run(
            """
            const all = [...document.querySelectorAll('button, input, textarea, select, a[href], [role=button]')]
              .filter((e) => e.closest('.tabitem, .tab-container') && e.checkVisibility({ visibilityProperty: true })
                && !e.disabled && e.type !== 'file' && e.offsetParent && !e.closest('[aria-hidden=true]'));
            return [all.length, all.filter((e) => {
              if (e.tabIndex < 0) return e.getAttribute('role') !== 'tab';  // those follow the arrows
              document.activeElement.blur();  // what was clicked shows no focus
              e.focus({ focusVisible: true, preventScroll: true });
              const seen = [e, e.closest('label'), e.parentElement].some((each) => {
                const style = each && getComputedStyle(each);
                return style && (style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 1
                  || style.boxShadow !== 'none' && each === e);
              });
              return document.activeElement !== e || !seen;
            }).map((e) => e.outerHTML.slice(0, 160))];
            """
        )
        assert count > 5
        assert bad == []


def test_a_recording_can_be_edited(browser, page):
    hand = Hand(browser, page)
    hand.open()
    hand.go("edit")
    hand.press("#edit-sound button[aria-label='Record audio']")
    hand.press("#edit-sound .record-button")
    hand.until(lambda: hand.find("#edit-sound .stop-button").is_displayed())
    time.sleep(1.2)
    hand.press("#edit-sound .stop-button")
    hand.until(lambda: hand.find("#edit-map svg[role=img]").is_displayed())
    hand.write("#edit-prompt textarea", "rain")
    hand.write("#edit-iterations input[type=number]", "2")
    hand.press("#edit")
    hand.until(lambda: "s anew in" in hand.find("#edit-status").text)
    hand.until(lambda: 0.5 < hand.seconds("#edit-result") < 10)
    hand.until(lambda: len(hand.all("#edit-after svg[role=img]")) == 2)


def test_uploads_that_can_not_be_edited_are_told_and_others_are_taken(browser, page, tmp_path):
    size = 2 * 60 * 60 * 44_100 * 4  # two hours in stereo, of which the disk holds the header alone
    header = b"RIFF" + struct.pack("<I", size + 36) + b"WAVEfmt "
    header += struct.pack("<IHHIIHH", 16, 1, 2, 44_100, 176_400, 4, 16) + b"data" + struct.pack("<I", size)
    (tmp_path / "two hours.wav").write_bytes(header)
    os.truncate(tmp_path / "two hours.wav", size + 44)
    (tmp_path / "empty.wav").touch()
    (tmp_path / "paper.wav").write_bytes(b"%PDF-1.7\n" + bytes(9_000))
    soundfile.write(tmp_path / "minutes.wav", np.zeros(3_600_000, dtype=np.int16), 1000, subtype="PCM_U8")
    soundfile.write(tmp_path / "wide.wav", np.full((96_000, 8), 0.1), 96_000)
    hand = Hand(browser, page)
    for name, place, told in [
        ("two hours.wav", ".toast-body", "exceed the maximum allowed size of 250"),
        ("empty.wav", "#edit-map .dear-refused", "empty.wav must hold a sound, got an empty file of 0 bytes."),
        ("paper.wav", "#edit-map .dear-refused", "paper.wav must be a sound as WAV, FLAC, MP3, OGG or AIFF"),
        (
            "minutes.wav",
            "#edit-map .dear-refused",
            "minutes.wav must be at most 1 minute long, got 1 hour: cut it first",
        ),
        ("wide.wav", "#edit-map", "drag over it to choose the region"),
    ]:
        hand.open()
        hand.go("edit")
        hand.until(lambda: hand.all("#edit-sound input[type=file]"))
        hand.find("#edit-sound input[type=file]").send_keys(str(tmp_path / name))
        hand.until(lambda place=place, told=told: told in hand.find(place).text)


def test_the_time_from_a_click_to_sound(browser, page, monkeypatch):
    monkeypatch.setattr(tab, "DRAFT_WORTH", 0)
    monkeypatch.setattr(tab, "TOLD_EVERY", 0)
    row = measure(browser, page.local_url, 1, iterations=8)
    (run,) = row["runs"]
    assert (row["iterations"], row["drafts"], len(run)) == (8, 1, 2)
    assert 0 < row["first_sound_seconds"] < row["end_seconds"]
    assert f"| 8 | {run[0]:.2f} | {run[1]:.2f} | 1 of 1 |" in table([row])


def test_what_the_measurement_lacks_is_told(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    for arguments, told in [
        ([], "chromium and chromedriver must be installed: apt-get install chromium chromium-driver"),
        (["--repeats", "0"], "--repeats must be a whole number from 1 to 1000, got 0"),
        (["--json", f"{tmp_path}/no/a.json"], "--json must lie in an existing directory"),
    ]:
        assert click.main(arguments) == 2
        assert capsys.readouterr().err.startswith(f"error: {told}")
