"""Takes: finished sounds stay in the browser, and can be heard, compared, restored, sent on and saved."""

from __future__ import annotations

import base64
import csv
import io
import zipfile

import pytest
import soundfile
from webpage import Hand

KEEP_BLOB = """
window.saved = new Promise((resolve) => {
  const make = URL.createObjectURL;
  URL.createObjectURL = (blob) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.split(",")[1]);
    reader.readAsDataURL(blob);
    URL.createObjectURL = make;
    return make.call(URL, blob);
  };
});
"""


@pytest.fixture
def hand(browser, page):
    hand = Hand(browser, page)
    hand.open()
    hand.run("indexedDB.deleteDatabase('audiodear')")
    hand.open("?prompt=rain&seed=7&cfg_scale=3")
    hand.until(lambda: hand.value("#seed input") == "7")
    return hand


def make(hand, count):
    hand.press("#generate")
    hand.until(lambda: len(hand.all(".dear-take")) == count)


def menu(hand, index, action):
    # The strip may just be drawn again, which replaces its buttons.
    hand.until(lambda: hand.all(".dear-take [data-action=menu]")[index].click() or True)
    hand.until(lambda: hand.find(f".dear-menu [data-action={action}]").is_displayed())
    hand.find(f".dear-menu [data-action={action}]").click()


def test_takes_stay_and_their_settings_come_back(browser, page, hand):
    assert hand.find(".dear-takes-empty").is_displayed()
    make(hand, 1)
    hand.write("#prompt textarea", "a dog barking")
    hand.write("#seed input", "8")
    hand.write("#variations input[type=number]", "2")
    make(hand, 3)  # one for each variation
    hand.open()  # also when the page is opened again
    hand.until(lambda: len(hand.all(".dear-take")) == 3)
    assert [each.text for each in hand.all(".dear-take strong")] == ["a dog barking", "a dog barking", "rain"]
    facts = [each.text.split(" · ") for each in hand.all(".dear-take small")]
    assert [each[0] for each in facts] == ["seed 8", "seed 9", "seed 7"]
    assert facts[2][1:4] == ["student", "CFG 3", "4 iterations"]
    # The second variation comes back by a seed of its own.
    menu(hand, 1, "select")
    hand.until(lambda: hand.value("#seed input") == "9" and hand.value("#prompt textarea") == "a dog barking")
    hand.until(lambda: hand.value("#variations input[type=number]") == "1")
    menu(hand, 2, "select")
    hand.until(lambda: hand.value("#cfg-scale input[type=number]") == "3" and hand.value("#seed input") == "7")
    assert hand.find("#lock input").is_selected()
    # Starred ones outlive a clean-up; names are text.
    hand.all(".dear-take [data-action=star]")[2].click()
    menu(hand, 2, "rename")
    hand.until(lambda: browser.switch_to.alert).send_keys("<i>best")
    browser.switch_to.alert.accept()
    hand.until(lambda: hand.all(".dear-take strong")[2].text == "<i>best")
    hand.press(".dear-takes-tools [data-action=clear]")
    hand.until(lambda: browser.switch_to.alert).accept()
    hand.until(lambda: len(hand.all(".dear-take")) == 1)
    menu(hand, 0, "delete")
    hand.until(lambda: hand.find(".dear-takes-empty").is_displayed())
    hand.open()
    assert hand.find(".dear-takes-empty").is_displayed() and not hand.all(".dear-take")


def test_two_takes_play_together_and_go_to_other_tabs_and_into_an_archive(browser, page, hand):
    make(hand, 1)
    hand.write("#seed input", "8")
    make(hand, 2)
    play = ".dear-take [data-action=play]"
    hand.all(play)[0].click()
    hand.until(lambda: hand.all(play)[0].text == "Stop")
    hand.all(play)[1].click()  # one at a time
    hand.until(lambda: [each.text for each in hand.all(play)] == ["Play", "Stop"])
    assert not hand.find("[data-action=ab]").is_enabled()
    hand.all(".dear-take [data-action=A]")[0].click()
    hand.all(".dear-take [data-action=B]")[1].click()
    hand.press("[data-action=ab]")
    hand.until(lambda: hand.find("[data-action=switch]").text == "A is heard: hear B")
    assert [each.text for each in hand.all(play)] == ["Play", "Play"]
    hand.press("[data-action=switch]")
    hand.until(lambda: hand.find("[data-action=switch]").text == "B is heard: hear A")
    hand.press("[data-action=ab]")
    hand.until(lambda: not hand.find("[data-action=switch]").is_displayed())

    hand.run(KEEP_BLOB)
    hand.press("[data-action=zip]")
    archive = zipfile.ZipFile(io.BytesIO(base64.b64decode(hand.run("return window.saved"))))
    assert archive.testzip() is None
    assert archive.namelist() == ["rain-7.wav", "rain-8.wav", "takes.csv"]
    rows = list(csv.DictReader(io.StringIO(archive.read("takes.csv").decode())))
    assert [(row["file"], row["seed"], row["cfg_scale"]) for row in rows] == [
        ("rain-7.wav", "7", "3"), ("rain-8.wav", "8", "3"),
    ]  # fmt: skip
    samples, rate = soundfile.read(io.BytesIO(archive.read("rain-7.wav")))
    assert (len(samples), rate) == (160_000, 16_000)

    menu(hand, 0, "submit")
    hand.until(lambda: hand.find("#compare-prompt textarea").is_displayed())
    hand.until(lambda: hand.value("#compare-seed input") == "8")
    assert hand.value("#compare-prompt textarea") == "rain"
    hand.go("generate")
    menu(hand, 1, "edit")
    hand.until(lambda: hand.find("#edit-map svg[role=img]").is_displayed())
    assert hand.value("#edit-prompt textarea") == "rain"


def test_a_full_storage_is_said(hand):
    make(hand, 1)
    hand.run(
        "window.put = IDBObjectStore.prototype.put;"
        "IDBObjectStore.prototype.put = function (...values) {"  # as browsers end a transaction beyond the quota
        "  const asked = window.put.apply(this, values); this.transaction.abort(); return asked; };"
    )
    hand.write("#seed input", "8")
    make(hand, 2)
    hand.until(lambda: hand.find(".dear-takes-full").is_displayed())
    hand.run("IDBObjectStore.prototype.put = window.put;")
    hand.all(".dear-take [data-action=star]")[0].click()  # stores it
    hand.until(lambda: not hand.find(".dear-takes-full").is_displayed())
    hand.open()
    hand.until(lambda: len(hand.all(".dear-take")) == 2)
