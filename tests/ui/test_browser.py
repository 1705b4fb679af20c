"""The page in a real browser."""

import dataclasses
import json
import shutil
import threading

from factory import tiny_checkpoint, tiny_config
from gradio_client import Client
from selenium.webdriver import ActionChains, Keys
from webpage import Hand, Visitor, served

from dear.config import MelConfig
from dear.pipeline import AudioDEAR


def test_the_page_in_a_browser(browser, page):
    hand = Hand(browser, page)
    find, until = hand.find, hand.until

    def box(selector):
        return hand.run("return document.querySelector(arguments[0]).getBoundingClientRect().toJSON()", selector)

    hand.open()
    assert browser.title == "AudioDEAR"

    # An empty prompt is refused, and nothing else happens.
    find("#generate").click()
    until(lambda: "Type a prompt first." in find(".toast-body").text)
    assert "Nothing generated yet" in find("#facts").text

    examples = hand.all("#examples [data-prompt]")
    assert len(examples) == 6
    examples[-1].click()
    until(lambda: "10.0 s of sound in" in find("#facts").text)
    until(lambda: hand.run("return document.querySelector('#sound audio').duration") == 10)
    assert find("#prompt textarea").get_attribute("value") == examples[-1].text
    until(lambda: f"seed\n{find('#seed input').get_attribute('value')}\n" in find("#facts").text)

    # The sliders move by hand, and the run uses their values.
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

    # A typed seed is locked.
    assert not find("#lock input").is_selected()
    find("#seed input").send_keys("7")
    until(lambda: find("#lock input").is_selected())

    until(lambda: len(hand.all("#pictures svg[role=img]")) == 4)
    titles = [each.text.split("\n")[0] for each in hand.all("#pictures figcaption")]
    assert [title.split(" ")[0] for title in titles] == ["Waveform", "Mel", "Latents", "Decoding"]
    for picture in hand.all("#pictures svg[role=img]"):
        assert len(picture.get_attribute("aria-label")) > 20
        assert picture.rect["width"] > 400

    # Even a fast run can be watched: the picture is covered, and uncovered token by token.
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

    # The result is beside the controls if there is room, otherwise below the buttons, never wider than the window.
    assert box(".dear-results")["left"] > box(".dear-controls")["right"]
    hand.resize(390)
    until(lambda: box(".dear-examples")["top"] > box(".dear-results")["top"] > box("#generate")["bottom"])
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
    # A link restores valid settings and reports invalid ones; its prompt is always text.
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
    assert "seed=78&variations=1" in link  # that of the sound that is shown
    press(".dear-link")
    until(lambda: browser.current_url == link)

    # Another head brings its steps, and its own defaults.
    assert not hand.all("#steps")
    hand.all("#variant input")[1].click()
    press("#more button")
    until(lambda: value("#steps input[type=number]") == "3" and value("#cfg-scale input") == "2")
    press("#generate")
    until(lambda: "tiny teacher" in find("#facts").text)
    assert "variant=teacher" in find(".dear-link").get_attribute("href")

    # Two guidance scales, blind until one of them is chosen, which goes to Generate.
    go("compare")
    write("#compare-prompt textarea", "rain")
    write("#compare-columns-values input, #compare-columns-values textarea", "1.5, 4")
    find("#compare-blind input").click()
    press("#compare")
    until(lambda: len(hand.all("#best input")) == 2)
    assert "CFG" not in find("#compare-grid").text + find("#best").text
    assert not hand.all("#compare-grid svg") and not hand.all("#compare-zip")
    heard = [each.get_attribute("src") for each in hand.all("#compare-grid audio")]
    assert len(heard) == 2 and not [each for each in heard if "rain" in each]
    ActionChains(browser).send_keys("b").perform()  # a key plays it
    until(lambda: hand.run("return !document.querySelectorAll('#compare-grid audio')[1].paused"))
    hand.all("#best input")[0].click()
    until(lambda: "CFG 1.5" in find("#compare-grid").text and "CFG 4" in find("#compare-grid").text)
    assert len(hand.all("#compare-grid svg")) == 2
    until(lambda: find("#compare-zip").is_displayed())
    chosen = find("#compare-grid h3").text.split()[2]
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
    until(lambda: "s redrawn in" in find("#edit-status").text)
    until(lambda: hand.run("return document.querySelector('#edit-result audio').duration") == 10)

    # Both draw the same, blind: a vote is counted once and then reveals the sides.
    go("duel")
    write("#duel-prompt textarea", "rain")
    hand.all("#duel-mode input")[1].click()
    press("#duel")
    until(lambda: find("#vote-0").is_displayed() and len(hand.all("#duel-student audio, #duel-teacher audio")) == 2)
    assert not hand.all("#duel-student svg, #duel-teacher svg")
    assert "rain" not in find("#duel-student audio").get_attribute("src")
    press("#vote-0")
    until(lambda: "of 1 vote: " in find("#tally").text and "95 % confidence interval" in find("#tally").text)
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


def test_a_visitor_loads_another_model_and_keeps_it_and_nobody_else_gets_it(browser, page, model, tmp_path):
    client = Client(page.local_url, download_files=tmp_path, verbose=False)
    config = dataclasses.replace(tiny_config(), name="other", mel=MelConfig())
    other = AudioDEAR.from_pretrained(tiny_checkpoint(tmp_path / "other", config, seed=1), device="cpu")
    hand = Hand(browser, page)
    hand.open("?prompt=rain&seed=5")

    def expect(model):
        hand.go("generate")
        hand.until(lambda: hand.value("#prompt textarea") == "rain")
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
    hand.open("?prompt=rain&seed=5")  # as a new visitor
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
    first.begin("a dog", "student", 2, 4, 1, 1, 1, "student", 1, True)
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


def test_the_settings_of_a_run_are_those_of_the_variant_chosen_however_soon_it_starts(
    browser, model, folder, monkeypatch
):
    go_on, load = threading.Event(), AudioDEAR.from_pretrained

    def slowly(*given, **options):
        go_on.wait(60)
        return load(*given, **options)

    monkeypatch.setattr(AudioDEAR, "from_pretrained", slowly)
    with served(model, str(folder)) as page:
        hand = Hand(browser, page)
        hand.open("?prompt=rain&cfg_scale=7")
        hand.until(lambda: hand.value("#cfg-scale input[type=number]") == "7")
        hand.all("#variant input")[1].click()  # the teacher, which is still loading
        hand.press("#generate")
        hand.until(lambda: "Loading the teacher" in hand.find("#facts").text)
        assert not hand.all("#steps")
        go_on.set()
        hand.until(lambda: "tiny teacher" in hand.find("#facts").text)
        assert "CFG scale\n2\n" in hand.find("#facts").text and "steps\n3\n" in hand.find("#facts").text
        hand.until(lambda: hand.value("#cfg-scale input[type=number]") == "2")
        hand.press("#more button")
        hand.until(lambda: hand.value("#steps input[type=number]") == "3")
