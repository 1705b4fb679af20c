"""Help with prompts: what the model knows, what it does not, and prompts to pick."""

from __future__ import annotations

from webpage import Hand

from dear.ui.components import chips
from dear.vocabulary import KnownSound, Vocabulary


def test_an_unknown_prompt_is_said_to_be_one_with_the_nearest_known_ones_as_buttons(browser, page, model):
    hand = Hand(browser, page)
    hand.open("?prompt=a+dog+barks%2C+then+a+%3Cb%3Esubmarine")
    hand.until(lambda: "submarine" in hand.value("#prompt textarea"))
    hand.press("#generate")
    hand.until(lambda: "not trained on anything like “a <b>submarine”" in hand.find("#familiar").text)
    nearest = model.nearest("a dog barks, then a <b>submarine").wordings
    buttons = hand.all("#familiar [data-prompt]")
    assert [button.text for button in buttons] == [wording.text for wording in nearest]
    assert hand.find("#sound audio").is_displayed()  # the sound is offered nevertheless
    chosen = buttons[0].text
    buttons[0].click()
    hand.until(lambda: f"prompt\n{chosen}\n" in hand.find("#facts").text)
    assert hand.value("#prompt textarea") == chosen
    hand.until(lambda: not hand.all("#familiar [data-prompt]"))


def test_families_unfold_and_a_random_prompt_is_made_of_what_they_hold(browser, page, model):
    hand = Hand(browser, page)
    hand.open()
    families = hand.all("#families [data-panel]")
    sounds = model.vocabulary.families
    assert [button.text.split(" ")[0].lower() for button in families] == [name.split("_")[0] for name in sounds]
    assert not [each for each in hand.all("#families [data-prompt]") if each.is_displayed()]
    families[0].click()
    shown = [each for each in hand.all("#families [data-prompt]") if each.is_displayed()]
    assert len(shown) == len(sounds["animals"]) and families[0].get_attribute("aria-expanded") == "true"
    families[1].click()  # one at a time
    assert not shown[0].is_displayed()
    hand.find("#examples [data-random]").click()
    hand.until(lambda: hand.value("#prompt textarea"))
    prompt = hand.value("#prompt textarea")
    assert model.nearest(prompt).known
    hand.until(lambda: f"prompt\n{prompt}\n" in hand.find("#facts").text)


def test_examples_come_from_as_many_families_as_there_are():
    def sound(name: str) -> KnownSound:
        return KnownSound((name, f"the {name}"), (f"the {name} sounds",))

    vocabulary = Vocabulary(0.6, {"a": {"one": sound("one"), "two": sound("two")}, "b": {"three": sound("three")}})
    found = chips.examples(vocabulary)
    assert found[:3] == ["the one", "the three", "the two"]
    assert found[3:5] == ["the one sounds, then the three sounds", "the two sounds while the one sounds"]
    assert chips.examples_html(None) == "" and "does not say" in chips.families_html(None)
