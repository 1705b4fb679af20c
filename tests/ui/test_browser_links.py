"""Links to the page: what is started before their settings have arrived waits for them."""

from __future__ import annotations

import pytest
from selenium.webdriver import ActionChains, Keys
from webpage import Hand

SLOW = {"offline": False, "latency": 400, "downloadThroughput": -1, "uploadThroughput": -1}  # ms


@pytest.fixture
def slow(browser):
    """Every request of the browser takes longer."""
    browser.execute_cdp_cmd("Network.enable", {})
    browser.execute_cdp_cmd("Network.emulateNetworkConditions", SLOW)
    yield
    browser.execute_cdp_cmd("Network.emulateNetworkConditions", SLOW | {"latency": 0})


@pytest.mark.parametrize("by", ["click", "key"])
def test_a_run_that_is_started_before_the_settings_of_its_link_waits_for_them(browser, page, slow, by):
    hand = Hand(browser, page)
    hand.open("?prompt=rain&seed=7&cfg_scale=3&iterations=2&temperature=0.5")
    if by == "click":
        # Not by the mouse: Gradio's sign of loading may still lie over the button.
        browser.execute_script("document.querySelector('#generate').click()")
    else:
        ActionChains(browser).send_keys_to_element(hand.find("#prompt textarea"), Keys.ENTER).perform()
    early = hand.value("#prompt textarea")
    assert early == "" and "dear-held" in hand.find("#generate").get_attribute("class")
    hand.until(lambda: "10.0 s of sound in" in hand.find("#facts").text)
    used = "prompt\nrain\nseed\n7\nCFG scale\n3\niterations\n2\ntemperature\n0.5\n"
    assert used in hand.find("#facts").text
    assert "dear-held" not in hand.find("#generate").get_attribute("class")
    assert len(hand.all(".toast-body")) == 0
