"""Access to the page: the keyboard, names, contrast, what is in view, and that nothing jumps."""

import json
import re

from selenium.webdriver import ActionChains, Keys
from webpage import Hand, Visitor


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
    wanted = ["generate", "cfg-scale", "iterations", "temperature", "variations", "seed", "dice", "lock", "wav"]
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

    # In every tab, the keyboard reaches every control, which then shows its focus.
    for name in ("generate", "compare", "duel", "edit", "listening", "hood", "model"):
        hand.go(name)
        hand.until(lambda name=name: hand.find(f"[data-tab-id={name}][aria-selected=true]").is_displayed())
        count, bad = hand.run(
            """
            const all = [...document.querySelectorAll('button, input, textarea, select, a[href], [role=button]')]
              .filter((e) => e.closest('.tabitem, .tab-container') && e.checkVisibility({ visibilityProperty: true })
                && !e.disabled && e.type !== 'file' && e.offsetParent && !e.closest('[aria-hidden=true]'));
            return [all.length, all.filter((e) => {
              if (e.tabIndex < 0) return !e.matches('[role=tab], .dear-chip');  // arrows reach these
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


def test_nothing_jumps_and_the_wait_is_shown_from_the_first_moment(browser, page):
    hand = Hand(browser, page)
    hand.open("?prompt=rain")
    hand.until(lambda: hand.value("#prompt textarea") == "rain")
    assert hand.run("return document.querySelector('#lock').getBoundingClientRect().bottom") <= 900  # all settings
    hand.run(
        """
        window.shift = 0;
        new PerformanceObserver((list) => {
          for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shift += entry.value;
        }).observe({ type: "layout-shift" });
        window.seen = [];
        const facts = document.querySelector("#facts");
        new MutationObserver(() => window.seen.push([facts.innerText, facts.offsetHeight]))
          .observe(facts, { childList: true, subtree: true });
        """
    )
    first = Visitor(page, "before")  # the second visitor waits
    first.begin("a dog", "student", 2, 64, 1, 1, 2, "student", 1, True)
    hand.press("#generate")
    hand.until(lambda: "10.0 s of sound in" in hand.find("#facts").text)
    hand.until(lambda: len(hand.all("#pictures svg[role=img]")) == 4)
    hand.until(lambda: re.search(r"\d\.\d s from your click to the sound", hand.find("#facts").text))
    assert any("of sound in" in json.dumps(message) for message in first.hear())
    first.messages.close()
    seen = hand.run("return window.seen")
    assert "Waiting to start" in seen[0][0] and seen[0][1] > 100
    assert hand.run("return window.shift") < 0.1


def test_what_can_be_used_has_a_name_and_the_chosen_tab_can_be_read(browser, page):
    hand = Hand(browser, page)
    hand.open("?prompt=rain")
    hand.until(lambda: hand.value("#prompt textarea") == "rain")
    hand.press("#generate")
    hand.until(lambda: hand.seconds("#sound") == 10)
    resets = [
        each.get_attribute("aria-label") for each in hand.all("#cfg-scale .reset-button, #iterations .reset-button")
    ]
    assert resets == ["Reset CFG scale", "Reset Iterations"]
    assert hand.find("#sound audio").get_attribute("aria-label") == "Sound"
    # The examples are one stop; arrows move among them.
    items = hand.all("#examples .dear-chip")
    assert [item.get_attribute("tabindex") for item in items] == ["0"] + ["-1"] * (len(items) - 1)
    hand.run("arguments[0].focus()", items[0])
    ActionChains(browser).send_keys(Keys.ARROW_RIGHT).perform()
    assert hand.run("return document.activeElement === arguments[0]", items[1])
    contrast = """
        const light = (colour) => {
          const [r, g, b] = colour.match(/[0-9.]+/g).slice(0, 3).map((c) => c / 255)
            .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
          return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        let behind = document.querySelector("[role=tab][aria-selected=true]");
        const tab = getComputedStyle(behind).color, page = () => getComputedStyle(behind).backgroundColor;
        while (page() === "rgba(0, 0, 0, 0)") behind = behind.parentElement;
        const [low, high] = [light(tab), light(page())].sort((a, b) => a - b);
        return (high + 0.05) / (low + 0.05);
        """
    assert hand.run(contrast) >= 4.5
    hand.resize(390, 844)  # on a phone, the prompt and its result are seen together
    box = "return document.querySelector(arguments[0]).getBoundingClientRect().toJSON()"
    hand.run("window.scrollTo(0, 0)")
    hand.until(lambda: 0 < hand.run(box, "#prompt")["top"] < hand.run(box, "#sound")["bottom"] < 844)
    hand.resize(1400)
    hand.open("?__theme=dark")
    hand.until(lambda: hand.run("return document.body.classList.contains('dark')"))
    hand.until(lambda: hand.run(contrast) >= 4.5)
    # All settings of a generation are visible at once, also for a variant of several steps.
    hand.all("#variant input")[1].click()
    hand.until(lambda: hand.value("#cfg-scale input[type=number]") == "2")
    hand.run("window.scrollTo(0, 0)")
    assert hand.run("return document.querySelector('#lock').getBoundingClientRect().bottom") <= 900
