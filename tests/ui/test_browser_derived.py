"""Other lengths, negative prompts, variations and loops on the page."""

from __future__ import annotations

import urllib.request

from webpage import Hand


def sound(hand):
    """The samples of the sound that is shown, as bytes of its WAV without the header."""
    address = hand.run("return document.querySelector('#sound audio').currentSrc")
    with urllib.request.urlopen(address, timeout=60) as file:
        return file.read().partition(b"data")[2]


def test_a_sound_gets_a_length_and_a_negative_prompt_and_is_varied_and_looped(browser, page):
    hand = Hand(browser, page)
    hand.open("?prompt=rain&seconds=12&negative_prompt=a+dog&cfg_scale=1&iterations=2")
    hand.until(lambda: hand.value("#prompt textarea") == "rain")
    hand.press("#more button")
    hand.until(lambda: hand.value("#seconds input[type=number]") == "12")
    hand.press("#generate")
    hand.until(lambda: "A negative prompt needs guidance" in hand.find(".toast-body").text)
    hand.write("#cfg-scale input[type=number]", "2")
    hand.press("#generate")
    hand.until(lambda: "12.0 s of sound in" in hand.find("#facts").text)
    assert "negative prompt\na dog\n" in hand.find("#facts").text
    hand.until(lambda: hand.seconds("#sound") == 12)
    assert "seconds=12" in hand.find(".dear-link").get_attribute("href")
    hand.until(lambda: len(hand.all("#pictures svg[role=img]")) == 2)

    hand.write("#seconds input[type=number]", "10")
    hand.press("#generate")
    hand.until(lambda: hand.seconds("#sound") == 10)
    hand.until(lambda: hand.find("#vary").is_enabled())
    hand.write("#strength input[type=number]", "0.5")
    hand.press("#vary")
    hand.until(lambda: "strength of the variation\n0.5" in hand.find("#facts").text)
    hand.until(lambda: len(hand.all("#pictures svg[role=img]")) == 4)
    varied = sound(hand)
    link = hand.find(".dear-link").get_attribute("href")
    hand.until(lambda: hand.find("#loop").is_enabled())
    hand.press("#loop")
    hand.until(lambda: "seconds redrawn at either end\n1" in hand.find("#facts").text)
    hand.until(lambda: hand.seconds("#sound") == 10)
    hand.until(lambda: len(hand.all(".dear-take")) == 4)
    looped = sound(hand)
    assert len({varied, looped}) == 2

    # Its link generates the source again, then the variation; so does the take of the loop.
    hand.open(link.removeprefix(page.local_url))
    hand.until(lambda: hand.value("#then textarea, #then input").startswith("vary 0.5 "))
    hand.press("#generate")
    hand.until(lambda: "strength of the variation\n0.5" in hand.find("#facts").text)
    hand.until(lambda: sound(hand) == varied and len(hand.all(".dear-take")) == 5)
    hand.all(".dear-take [data-action=menu]")[1].click()
    hand.press(".dear-menu [data-action=select]")
    hand.until(lambda: ", loop " in hand.value("#then textarea, #then input"))
    hand.press("#generate")
    hand.until(lambda: sound(hand) == looped)
    # Examples are generated without the changes.
    hand.find("#examples .dear-chip").click()
    hand.until(lambda: not hand.all("#then"))
    hand.until(lambda: sound(hand) not in (varied, looped) and "after the generation" not in hand.find("#facts").text)


def test_candidates_are_off_until_asked_for_and_the_result_says_how_many_there_were(browser, page, model):
    hand = Hand(browser, page)
    hand.open("?prompt=a+dog+barking&seed=3&iterations=2")
    hand.until(lambda: hand.value("#prompt textarea") == "a dog barking")
    hand.press("#more button")
    hand.until(lambda: hand.value("#candidates input[type=number]") == "1")
    assert "Off at 1" in hand.find("#candidates").text
    hand.write("#candidates input[type=number]", "3")
    hand.press("#generate")
    hand.until(lambda: "best of candidates\n3\nchosen by\nSoundClassifier" in hand.find("#facts").text)
    seed = int(hand.value("#seed input"))
    options = {name: getattr(model.sampling, name) for name in ("cfg_scale", "temperature", "steps")}
    out = model.generate("a dog barking", seed=3, candidates=3, iterations=2, **options)
    assert seed == out.seed  # that of the candidate, which makes it again alone
    assert f"seed={seed}&" in hand.find(".dear-link").get_attribute("href")
    hand.until(lambda: "best of 3" in hand.find(".dear-take").text)

    hand.write("#prompt textarea", "a cat meowing")
    hand.press("#generate")
    hand.until(lambda: "Candidates can't be compared for this prompt" in hand.find(".toast-body").text)
    assert "dog, rooster, rain, sea waves" in hand.find(".toast-body").text
