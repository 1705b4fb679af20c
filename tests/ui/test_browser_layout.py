"""What a visitor sees of each tab without scrolling, on a screen of 1400 x 900 pixels."""

from __future__ import annotations

import pytest
from webpage import Hand

SCREEN = 900  # pixels
BOTTOMS = """
window.scrollTo(0, 0);
return Object.fromEntries(arguments[0].map((selector) =>
  [selector, document.querySelector(selector).getBoundingClientRect().bottom]));
"""


def check_visible(hand: Hand, *selectors: str) -> None:
    """Wait until every element is shown within the first screen."""

    def below() -> dict[str, float]:
        assert all(hand.find(selector).is_displayed() for selector in selectors)
        return {name: bottom for name, bottom in hand.run(BOTTOMS, selectors).items() if not 0 < bottom <= SCREEN}

    try:
        hand.until(lambda: not below())
    except Exception:
        pytest.fail(f"bottoms below {SCREEN} pixels: {below()}")


def test_controls_and_results_fit_on_one_screen(browser, page):
    hand = Hand(browser, page)
    hand.open("?prompt=a+dog+barking&seed=7&iterations=2")
    hand.until(lambda: hand.value("#prompt textarea") == "a dog barking")
    hand.press("#generate")
    hand.until(lambda: hand.seconds("#sound") == 10 and hand.all(".dear-take"))
    check_visible(hand, "#generate", "#variant", "#cfg-scale", "#iterations", "#temperature", "#variations", "#lock")
    check_visible(hand, "#facts", "#sound", "#png", "#vary", "#strength", ".dear-take")

    hand.press("#use")
    hand.until(lambda: hand.find("#edit-map svg[role=img]").is_displayed())
    hand.press("#edit")
    hand.until(lambda: len(hand.all("#edit-after svg[role=img]")) == 2)
    check_visible(hand, "#edit-sound", "#edit-mode", "#edit-prompt", "#edit", "#edit-start", "#edit-end")
    check_visible(hand, "#edit-around", "#edit-cfg-scale", "#edit-iterations", "#edit-temperature", "#edit-lock")
    check_visible(hand, "#edit-map", "#edit-result", "#edit-wav", "#edit-again", "#edit-undo")
    check_visible(hand, "#edit-after figure")  # the spectrogram of the result below the one before
    hand.resize(390, 844)  # on a phone: sound, region, prompt, result, and settings last
    names = ["#edit-sound", "#edit-map", "#edit-prompt", "#edit", "#edit-result", "#edit-after", "#edit-start"]
    place = "return document.querySelector(arguments[0]).getBoundingClientRect().top"
    hand.until(lambda: (tops := [hand.run(place, name) for name in names]) == sorted(tops))
    hand.resize(1400)

    hand.go("compare")
    hand.write("#compare-prompt textarea", "rain")
    hand.press("#compare")
    hand.until(lambda: len(hand.all("#best input")) == 6)
    check_visible(hand, "#compare", "#compare-blind", "#compare-equal", "#compare-lock")
    check_visible(hand, "#compare-grid", "#best", "#compare-zip")
