"""The page as it is served: over HTTP with Gradio's client, and in a real browser."""

import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from factory import tiny_checkpoint, tiny_config
from gradio_client import Client
from gradio_client.exceptions import AppError

from dear.config import MelConfig
from dear.pipeline import AudioDEAR
from dear.ui import generate as tab
from dear.ui import serve

ROOT = Path(__file__).parents[1]
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Tiny networks, but clips of the full ten seconds."""
    config = dataclasses.replace(tiny_config(), mel=MelConfig())
    return AudioDEAR.from_pretrained(tiny_checkpoint(tmp_path_factory.mktemp("app") / "tiny", config), device="cpu")


@pytest.fixture(scope="module")
def page(model):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    page = serve(model, "127.0.0.1", port)
    yield page
    page.close(verbose=False)


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


def test_programs_see_one_endpoint(client):
    api = client.view_api(return_format="dict", print_info=False)
    assert list(api["named_endpoints"]) == ["/generate"]
    assert not api["unnamed_endpoints"]
    names = [parameter["parameter_name"] for parameter in api["named_endpoints"]["/generate"]["parameters"]]
    assert names == ["prompt", "cfg_scale", "iterations", "temperature", "seed"]


def test_pictures_are_streamed_while_tokens_are_drawn(page, monkeypatch):
    run = next(function.fn for function in page.fns.values() if function.name == "run")
    monkeypatch.setattr(tab, "PICTURE_EVERY", 0)
    monkeypatch.setattr(tab, "PICTURE_SHARE", 100)
    *partial, (sound, facts, _, seed), (_, _, pictures, _) = run("a <b>dog</b> & a cat", 2, 4, 1, 11, False)
    assert [f"Iteration {i} of 4" in step[1] for i, step in enumerate(partial, 1)] == [True] * 3
    assert all(step[0].value is None and step[2].count("<svg") == 2 for step in partial)
    assert pictures.count("<svg") == 4
    assert "10.0 s of sound in" in facts
    assert "real-time factor" in facts
    assert seed == 11
    assert Path(sound.value["path"]).name == "a-b-dog-b-a-cat-11.wav"
    monkeypatch.setattr(tab, "PICTURE_EVERY", 60)
    assert len(list(run("a dog", 2, 4, 1, 11, False))) == 2  # no picture costs a quick generation anything


def test_files_of_old_results_are_forgotten(model, tmp_path):
    out = model.generate("a dog", seed=0)
    old, kept = Path(tab.store(out, tmp_path)), Path(tab.store(out, tmp_path))
    os.utime(old.parent, (0, time.time() - tab.KEEP - 1))
    new = Path(tab.store(out, tmp_path))
    assert not old.exists()
    assert kept.read_bytes() == new.read_bytes()
    assert len(list(tmp_path.iterdir())) == 2


def test_a_bad_port_is_told_in_one_sentence():
    done = subprocess.run(
        [sys.executable, "app.py"], cwd=ROOT, env=os.environ | {"PORT": "70000"}, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "app.py: PORT must be a whole number from 1 to 65535, got '70000'\n"


def test_a_taken_port_is_told(page, model):
    with pytest.raises(OSError, match=f"port {page.server_port} of 127.0.0.1 can't be served"):
        serve(model, "127.0.0.1", page.server_port)


@pytest.fixture
def browser(tmp_path):
    if not (CHROMIUM and DRIVER):
        pytest.skip("this machine has no chromium and chromedriver: apt-get install chromium chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in [*FLAGS, f"--user-data-dir={tmp_path / 'profile'}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def resize(browser, width):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def test_the_page_in_a_browser(browser, page):
    from selenium.webdriver.support.ui import WebDriverWait

    def find(selector):
        return browser.find_element("css selector", selector)

    def until(condition):
        return WebDriverWait(browser, 30, ignored_exceptions=(Exception,)).until(lambda _: condition())

    def box(selector):
        return browser.execute_script(f"return document.querySelector({selector!r}).getBoundingClientRect().toJSON()")

    resize(browser, 1400)
    browser.get_log("performance")
    browser.get(page.local_url)
    until(lambda: find(".dear-examples button").is_displayed())
    assert browser.title == "AudioDEAR"

    # An empty prompt is refused with the pipeline's sentence, and nothing else happens.
    find("#generate").click()
    until(lambda: "prompt must have 1 to 1000 characters" in find(".toast-body").text)
    assert "Nothing generated yet" in find("#pictures").text

    examples = browser.find_elements("css selector", ".dear-examples button")
    assert len(examples) >= 8
    examples[-1].click()
    find("#generate").click()
    until(lambda: "10.0 s of sound in" in find("#facts").text)
    until(lambda: browser.execute_script("return document.querySelector('#sound audio').duration") == 10)
    assert find("#prompt textarea").get_attribute("value") == examples[-1].text
    until(lambda: f"seed\n{find('#seed input').get_attribute('value')}\n" in find("#facts").text)

    # Typing a seed means wanting that seed.
    assert find("#dice input").is_selected()
    find("#seed input").send_keys("7")
    until(lambda: not find("#dice input").is_selected())

    until(lambda: len(browser.find_elements("css selector", "#pictures svg[role=img]")) == 4)
    titles = [each.text.split("\n")[0] for each in browser.find_elements("css selector", "#pictures figcaption")]
    assert [title.split(" ")[0] for title in titles] == ["Waveform", "Mel", "Latents", "Decoding"]
    for picture in browser.find_elements("css selector", "#pictures svg[role=img]"):
        assert len(picture.get_attribute("aria-label")) > 20
        assert picture.rect["width"] > 400

    # A click on a picture plays from there, and a line shows where.
    browser.execute_script("document.querySelector('#sound audio').muted = true")
    find(".dear-smooth").click()
    until(lambda: browser.execute_script("return document.querySelector('#sound audio').currentTime") > 4)
    line = "return document.querySelector('.dear-plot').style.getPropertyValue('--played')"
    until(lambda: 0.4 < float(browser.execute_script(line)) < 1)

    # Beside the controls where there is room, else below them, and never wider than the window.
    assert box(".dear-results")["left"] > box(".dear-controls")["right"]
    resize(browser, 390)
    until(lambda: box(".dear-results")["top"] > box(".dear-controls")["bottom"])
    assert browser.execute_script("return document.documentElement.scrollWidth - window.innerWidth") <= 0

    sent = (json.loads(entry["message"])["message"] for entry in browser.get_log("performance"))
    urls = [each["params"]["request"]["url"] for each in sent if each["method"] == "Network.requestWillBeSent"]
    ours = (page.local_url, "data:", "blob:", "chrome:")
    assert len(urls) > 10
    assert not [url for url in urls if not url.startswith(ours)]
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
