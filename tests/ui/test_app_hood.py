"""The tab that shows how it works, as it is served, in a real browser."""

import pytest
from webpage import Hand, by_id, function, served

from dear.heads import HEADS
from dear.ui.tabs import hood


@pytest.fixture(scope="module")
def page(student):
    with served(student) as page:
        yield page


def run_of(page, *arguments):
    """What the playground yields, by the elements' ids."""
    for step in function(page, "run", hood.__name__)(*arguments):
        yield by_id(step)


def test_all_five_learn_side_by_side_and_alike_for_a_seed(page, monkeypatch):
    for head in HEADS.values():
        monkeypatch.setattr(head, "toy_iterations", 10)
    usual = list(run_of(page, hood.ALL, 3, "swiss-roll", 7, True))
    monkeypatch.setattr(hood, "PICTURE_INTERVAL", 0)
    monkeypatch.setattr(hood, "PICTURE_SHARE", 1)
    *shown, last = run_of(page, hood.ALL, 3, "swiss-roll", 7, True)
    assert len(shown) == 6  # the beginning, then one picture for each head that had its turn
    assert [step["toy-panels"].count("<figure>") for step in shown] == [6] * len(shown)
    assert shown[-1]["toy-panels"] == usual[-2]["toy-panels"] != shown[0]["toy-panels"]
    assert [shown[-1]["toy-panels"].count(f"</strong> {steps}") for steps in ("1 step", "3 steps")] == [1, 4]
    assert "Training: about 0 s left" in shown[-1]["toy-status"]
    assert "Trained in" in last["toy-status"] and not last["toy-train-stop"].interactive


def test_the_tab_in_a_browser(browser, page, monkeypatch):
    monkeypatch.setattr(HEADS["energy"], "toy_iterations", 40)
    monkeypatch.setattr(HEADS["flow"], "toy_iterations", 100_000)
    hand = Hand(browser, page)
    hand.open()
    hand.go("hood")

    # Pictures of the page's own model illustrate the method.
    hand.until(lambda: len(hand.all(".dear-stills figure")) == 4)
    assert "Iteration 4\n8 of 8 tokens" in hand.find(".dear-stills").text
    pictures = hand.all("#method svg[role=img]")
    assert len(pictures) == 13
    for picture in pictures:
        assert len(picture.get_attribute("aria-label")) > 20
        assert picture.rect["width"] > 80
    assert len(hand.all("#method h3")) == 7

    # A long training shows its progress, follows the steps and can be stopped. The steps still redraw its samples.
    def choose(name):
        next(each for each in hand.all("#toy-head label") if each.text == name).click()

    def panel():
        return hand.all("#toy-panels figure")[1].text

    choose("Flow")
    hand.press("#toy-train")
    hand.until(lambda: "left" in hand.find("#toy-status").text and "Flow 1 step" in panel().replace("\n", " "))
    first = panel()
    hand.until(lambda: panel() != first)
    hand.write("#toy-steps input[type=number]", "8")
    hand.until(lambda: "8 steps" in panel())
    hand.press("#toy-train-stop")
    hand.until(lambda: hand.find("#toy-status").text == "Stopped.")
    hand.write("#toy-steps input[type=number]", "16")
    hand.until(lambda: "16 steps" in panel())

    # A short training ends by itself, and its picture is like the others.
    choose("Energy scoring")
    hand.press("#toy-train")
    hand.until(lambda: "Trained in" in hand.find("#toy-status").text)
    assert "Energy" in panel() and "1 step" in panel() and "WSD" in panel()
    assert not hand.find("#toy-train-stop").is_enabled()
    hand.resize(390)
    hand.until(lambda: hand.find(".dear-stills").rect["width"] < 390)
    assert hand.run("return document.documentElement.scrollWidth - window.innerWidth") <= 0
    # Gradio's client reports a request that it ends itself, as after Stop.
    severe = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert not [entry for entry in severe if "AbortError: signal is aborted" not in entry["message"]]
