"""The listening test for raters and organisers: in a real browser, and function by function."""

import csv
import json
import os
import signal
import socket
import threading
import time
import types
import urllib.request
from pathlib import Path

import gradio as gr
import pytest
import soundfile
from study import PROMPTS, make_study
from webpage import build_tabs, free_port

from dear.listening.ratings import RatingsError
from dear.listening.study import StudyError, order_for
from dear.ui.callers import LockOut
from dear.ui.listening_page import run, serve_test
from dear.ui.model_registry import ModelRegistry
from dear.ui.tabs import listening
from dear.ui.tabs.listening import CLOSED, Session, lay_out, open_test

SYSTEMS = ("veiled-student", "veiled-teacher")
COUNT = len(SYSTEMS) * len(PROMPTS)
SECRET = "a key that is long"


@pytest.fixture
def test(tmp_path):
    return open_test(make_study(tmp_path / "study", SYSTEMS), tmp_path / "ratings.db", SECRET)


@pytest.fixture
def functions(test, tmp_path):
    """The tab's functions by name, with what they answer by ids and types of components."""
    (tmp_path / "served").mkdir()
    with gr.Blocks() as page:
        lay_out(page, test, tmp_path / "served")

    def plain(function):
        def call(*values):
            answer = {
                component.elem_id or type(component).__name__: value for component, value in function(*values).items()
            }
            return {name: getattr(value, "value", value) for name, value in answer.items()}

        return call

    return {each.name: plain(each.fn) for each in page.fns.values()}


def heard(answer):
    return Session(answer["State"].rater, answer["State"].at, True)


def test_a_rater_hears_everything_once_and_can_return(test, functions):
    answer = functions["enter"]("Anna")
    order = order_for("anna", test.clips)
    for at, clip in enumerate(order):
        assert answer["State"] == Session("anna", at, False)
        assert f"Sound {at + 1} of {COUNT}" in answer["described"] and clip.prompt in answer["described"]
        assert answer["rel"] is answer["ovl"] is None
        assert not any(system in str(value) for system in SYSTEMS for value in answer.values())
        served = soundfile.read(answer["clip"]["path"], dtype="int16")[0]
        assert (served == soundfile.read(clip.path, dtype="int16")[0]).all()
        if at == 3:  # away, and back again
            assert functions["resume"]({"rater": "anna"})["State"] == Session("anna", at, False)
            assert functions["resume"]({"rater": ""})["State"] == Session()
        answer = functions["save_rating"](heard(answer), at % 5 + 1, 3)
    assert answer["State"].at == COUNT and "clip" not in answer
    assert functions["enter"]("ANNA ")["State"].at == COUNT

    # Back twice, and change the last but one: that rating alone differs, and nothing is left to rate.
    answer = functions["go_back"](functions["go_back"](answer["State"])["State"])
    assert (answer["State"].at, answer["rel"], answer["ovl"]) == (COUNT - 2, (COUNT - 2) % 5 + 1, 3)
    answer = functions["save_rating"](answer["State"], 1, 1)  # it was heard when it was rated first
    assert answer["State"].at == COUNT
    given = test.ratings.of("anna")
    assert [given[clip.system, clip.name] for clip in order] == [
        (1, 1) if at == COUNT - 2 else (at % 5 + 1, 3) for at in range(COUNT)
    ]
    assert functions["go_back"](Session("anna", 0))["State"].at == 0


def test_no_rating_is_taken_unheard_or_by_half(test, functions):
    now = functions["enter"]("anna")["State"]
    assert "Play the sound first." in functions["save_rating"](now, 3, 3)["note"]
    for answers in ((None, 3), (3, None), (None, None)):
        answer = functions["save_rating"](Session("anna", 0, True), *answers)
        assert list(answer) == ["note"] and "Answer both questions." in answer["note"]
    assert "REL must be a whole number from 1 to 5" in functions["save_rating"](Session("anna", 0, True), 6, 3)["note"]
    assert "Enter your code again" in functions["save_rating"](Session(), 3, 3)["note"]
    assert "the code must be 1 to 40 letters" in functions["enter"]("<b>")["note"]
    assert test.ratings.all() == []


def test_two_raters_at_once_do_not_meet(test, functions):
    def rate(rater):
        answer = functions["enter"](rater)
        while answer["State"].at < COUNT:
            answer = functions["save_rating"](heard(answer), len(rater), len(rater))

    threads = [threading.Thread(target=rate, args=(rater,)) for rater in ("a", "bbbb")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = test.ratings.all()
    assert len(rows) == 2 * COUNT
    assert all(row.rel == row.ovl == len(row.rater) for row in rows)


def test_results_open_with_the_key_alone(test, functions):
    for clip in test.clips:
        for rater, score in (("a", 2), ("b", 4)):
            test.ratings.save(rater, clip.system, clip.name, score, 5 - score)
    for wrong in ("", "a key that is lon", "ключ"):
        with pytest.raises(gr.Error, match="not the key"):
            functions["show_results"](wrong, "rating")
    answer = functions["show_results"](SECRET, "rater")
    assert "<td>veiled-student</td><td>2</td><td>2</td><td>3.00</td><td>1.41</td><td>1.00</td>" in answer["tables"]
    assert "[−9.71, 15.71]" in answer["tables"]
    assert "veiled-student − veiled-teacher" in answer["tables"]
    files = (Path(answer[name]["path"]).read_text().splitlines() for name in ("ratings-csv", "results-csv"))
    raw, table = (list(csv.DictReader(lines)) for lines in files)
    assert len(raw) == 2 * COUNT and raw[0]["prompt"] == PROMPTS[raw[0]["clip"]]
    assert [(row["unit"], row["n"]) for row in table if row["measure"] == "OVL" and row["system"] == SYSTEMS[1]] == [
        ("rating", str(COUNT)),
        ("rater", "2"),
    ]


def test_wrong_keys_lock_their_caller_out(tmp_path):
    test = open_test(make_study(tmp_path / "study"), tmp_path / "ratings.db", SECRET)
    with gr.Blocks() as page:
        lay_out(page, test, tmp_path)
    show_results = next(each.fn for each in page.fns.values() if each.name == "show_results")
    caller, other = (
        types.SimpleNamespace(client=types.SimpleNamespace(host=host)) for host in ("93.184.216.34", "93.184.216.35")
    )
    for _ in range(4):
        with pytest.raises(gr.Error, match="not the key"):
            show_results("\ud800", "rating", caller)
    assert show_results(SECRET, "rating", caller)  # and wrong guesses are counted from 0
    for _ in range(5):
        with pytest.raises(gr.Error, match="not the key"):
            show_results("guess", "rating", caller)
    for key in ("guess", SECRET):
        with pytest.raises(gr.Error, match="Too many wrong keys. Try again in 15 minutes."):
            show_results(key, "rating", caller)
    assert show_results(SECRET, "rating", other)


def test_a_lock_out_ends():
    now = [0.0]
    guesses = LockOut(most=2, seconds=10, clock=lambda: now[0])
    for now[0] in (0.0, 11.0, 12.0):  # the first is forgotten
        assert guesses.begin("a") == 0
    assert guesses.begin("a") == 10 and guesses.begin("b") == 0
    now[0] = 21.0
    assert guesses.begin("a") == 1  # refused guesses do not make the lock longer
    now[0] = 22.0
    assert guesses.begin("a") == guesses.begin("a") == 0
    assert guesses.begin("a") == 10


def test_names_in_the_results_are_text(tmp_path):
    test = open_test(make_study(tmp_path / "study", ("<img src=x>",)), tmp_path / "ratings.db", SECRET)
    test.ratings.save("anna", "<img src=x>", "0001.wav", 1, 2)
    with gr.Blocks() as page:
        lay_out(page, test, tmp_path)
    show_results = next(each.fn for each in page.fns.values() if each.name == "show_results")
    tables = next(value for value in show_results(SECRET, "rating").values() if isinstance(value, str))
    assert "<img" not in tables and "&lt;img src=x&gt;" in tables


def test_without_a_test_the_tab_says_what_one_is(student, tmp_path, monkeypatch):
    monkeypatch.delenv("AUDIODEAR_STUDY", raising=False)
    page = build_tabs(ModelRegistry(student), tmp_path, listening.TAB).page
    (shown,) = [block.value for block in page.blocks.values() if isinstance(block, gr.HTML)]
    assert shown == CLOSED and "No listening test is open." in shown
    assert not any(word in shown for word in ("python", "AUDIODEAR", "<code>")) and not page.fns


def test_the_environment_names_a_test(tmp_path):
    study, ratings = str(make_study(tmp_path / "study")), str(tmp_path / "ratings.db")
    named = {"AUDIODEAR_STUDY": study, "AUDIODEAR_RATINGS": ratings}
    assert listening.test_from(named).key == ""
    assert len(listening.test_from(named | {"AUDIODEAR_RESULTS_KEY": SECRET}).clips) == COUNT
    with pytest.raises(ValueError, match="AUDIODEAR_RATINGS must name the file"):
        listening.test_from({"AUDIODEAR_STUDY": study})
    with pytest.raises(ValueError, match="AUDIODEAR_RESULTS_KEY must have at least 12 characters, got 5"):
        listening.test_from(named | {"AUDIODEAR_RESULTS_KEY": "short"})
    with pytest.raises(StudyError, match="study must be a folder"):
        listening.test_from(named | {"AUDIODEAR_STUDY": str(tmp_path / "nowhere")})
    with pytest.raises(RatingsError, match="existing folder"):
        listening.test_from(named | {"AUDIODEAR_RATINGS": str(tmp_path / "nowhere" / "r.db")})


def test_without_a_key_there_are_no_results_to_open(tmp_path):
    test = open_test(make_study(tmp_path / "study"), tmp_path / "ratings.db")
    with gr.Blocks() as page:
        lay_out(page, test, tmp_path)
    assert "show_results" not in [each.name for each in page.fns.values()]


def test_rating_in_a_browser(browser, test):
    from selenium.webdriver.support.ui import WebDriverWait

    def find(selector):
        return browser.find_element("css selector", selector)

    def until(condition):
        wait = WebDriverWait(browser, 30, poll_frequency=0.05, ignored_exceptions=(Exception,))
        return wait.until(lambda _: condition())

    def choose(name, score):
        find(f"#{name} label:nth-of-type({score})").click()
        until(lambda: find(f"#{name} label.selected").text.startswith(str(score)))

    def play():
        until(lambda: browser.execute_script("return document.querySelector('#clip audio').duration") > 0.05)
        browser.execute_script("document.querySelector('#clip audio').play()")

    page = serve_test(test, "127.0.0.1", free_port())
    try:
        browser.get(page.local_url)
        until(lambda: find("#begin").is_displayed())
        assert browser.title == "Listening test"
        find("#code textarea, #code input").send_keys("Anna")
        find("#begin").click()
        until(lambda: f"Sound 1 of {COUNT}" in find("#described").text)
        first = order_for("anna", test.clips)[0]
        assert first.prompt in find("#described").text

        url = until(lambda: find("#clip audio").get_attribute("src"))
        assert url.endswith("/clip.wav")
        with urllib.request.urlopen(url) as answer:
            assert "clip.wav" in answer.headers.get("content-disposition", "clip.wav")
            assert answer.read()[44:] == soundfile.read(first.path, dtype="int16")[0].tobytes()

        # Neither unheard nor by half.
        choose("rel", 4)
        find("#save").click()
        until(lambda: "Play the sound first" in find("#note").text)
        play()
        until(lambda: find("#save").click() or "Answer both questions" in find("#note").text)
        choose("ovl", 2)
        find("#save").click()
        until(lambda: f"Sound 2 of {COUNT}" in find("#described").text)
        assert test.ratings.of("anna") == {(first.system, first.name): (4, 2)}
        until(lambda: not browser.find_elements("css selector", ".dear-scale label.selected"))

        # The browser remembers the rater, and the file the position.
        browser.refresh()
        until(lambda: f"Sound 2 of {COUNT}" in find("#described").text)
        find("#back").click()
        until(
            lambda: [label.text[0] for label in browser.find_elements("css selector", "label.selected")] == ["4", "2"]
        )
        choose("rel", 5)
        find("#save").click()
        until(lambda: f"Sound 2 of {COUNT}" in find("#described").text)
        assert test.ratings.of("anna") == {(first.system, first.name): (5, 2)}

        # Nothing that reached the browser names a system before the key is given.
        sent = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
        bodies = [browser.page_source]
        for event in sent:
            if event["method"] == "Network.loadingFinished":
                try:
                    body = browser.execute_cdp_cmd(
                        "Network.getResponseBody", {"requestId": event["params"]["requestId"]}
                    )
                    bodies.append(body["body"])
                except Exception:  # a stream's body isn't kept
                    continue
        assert any(first.prompt in body for body in bodies[1:])
        assert not [body for body in bodies if "veiled-" in body]

        find(".dear-study button").click()
        until(lambda: find("#key input").is_displayed())
        find("#key input").send_keys(SECRET + "\n")
        until(lambda: first.system in find("#tables").text)

        # The browser forgets raters who leave, also on the next visit.
        find("#leave").click()
        until(lambda: find("#begin").is_displayed())
        browser.refresh()
        until(lambda: find("#begin").is_displayed())
        for width in (1400, 390):
            size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": False}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            assert browser.execute_script("return document.documentElement.scrollWidth - window.innerWidth") <= 0
        assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    finally:
        page.close(verbose=False)


def test_the_command_serves_until_it_is_ended(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("AUDIODEAR_RESULTS_KEY", raising=False)
    study, port = make_study(tmp_path / "study"), free_port()
    seen = {"printed": ""}

    def visit():
        try:
            for _ in range(600):
                seen["printed"] += capsys.readouterr().out
                if seen["printed"].count("\n") == 2:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=30) as answer:
                        seen["page"] = answer.read().decode()
                    break
                time.sleep(0.1)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    try:
        threading.Thread(target=visit).start()
        with pytest.raises(SystemExit) as ended:
            run(str(study), str(tmp_path / "ratings.db"), "127.0.0.1", port)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended.value.code == 0
    assert "Listening test" in seen["page"]
    served, opened = seen["printed"].splitlines()
    assert served == f"{COUNT} sounds of 2 systems are served at http://127.0.0.1:{port}/"
    assert len(opened.split()[-1]) >= 12


def test_the_command_tells_what_will_not_do(tmp_path, monkeypatch):
    study, ratings = str(make_study(tmp_path / "study")), str(tmp_path / "ratings.db")
    with pytest.raises(ValueError, match="port must be a whole number from 1 to 65535, got 70000"):
        run(study, ratings, "127.0.0.1", 70_000)
    assert not Path(ratings).exists()
    with pytest.raises(StudyError, match="study must be a folder"):
        run(str(tmp_path / "nowhere"), ratings, "127.0.0.1", 7860)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"port {port} of 127.0.0.1 can't be served"):
            run(study, ratings, "127.0.0.1", port)
