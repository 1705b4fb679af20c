"""Previews of links to the page in messages and posts, and the sound that one click on such a link gives."""

import html
import io
import re
import urllib.request
from urllib.parse import urlencode

from PIL import Image
from recordings import assert_same_audio
from webpage import Hand

from dear.ui.page import TAGLINE
from dear.ui.preview import tags


def read(url, **headers):
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60) as answer:
        return answer.read()


def found(page):
    pairs = re.findall(r'<meta (?:property|name)="((?:og|twitter):[a-z:_]+)" content="([^"]*)" />', page)
    assert len(pairs) == len(dict(pairs)) == page.count('"og:') + page.count('"twitter:')  # none of Gradio's is left
    return {name: html.unescape(value) for name, value in pairs}


def test_the_page_has_title_description_and_picture(page):
    shown = found(read(page.local_url).decode())
    assert (shown["og:title"], shown["og:description"]) == ("AudioDEAR", TAGLINE)
    assert shown["og:image"] == f"{page.local_url}preview.jpg"
    assert Image.open(io.BytesIO(read(shown["og:image"]))).size == (1200, 630)


def test_a_link_is_titled_by_its_prompt_and_behind_a_proxy_the_picture_has_the_public_address(page):
    prompt = '"><script>alert(1)</script> \n a dog & its owner'
    headers = {"X-Forwarded-Host": "sounds.example", "X-Forwarded-Proto": "https"}
    text = read(f"{page.local_url}?{urlencode({'prompt': prompt, 'seed': 1})}", **headers).decode()
    shown = found(text)
    assert shown["og:title"] == '“"><script>alert(1)</script> a dog & its owner” · AudioDEAR'
    assert "<script>alert" not in text
    assert shown["og:description"] == "One click makes this sound."
    assert shown["og:image"] == "https://sounds.example/preview.jpg"


def test_a_long_prompt_is_cut_in_a_title():
    title = found(tags("x" * 500, "http://a", "Page", ""))["og:title"]
    assert title == f"“{'x' * 119}…” · Page"


def test_one_click_on_a_shared_link_makes_the_very_sound_of_the_variation_shared(browser, page):
    hand = Hand(browser, page)
    hand.open("?prompt=a+dog+barking&seed=40&iterations=3&cfg_scale=2.5&temperature=0.8&variations=3")
    hand.until(lambda: hand.value("#variations input[type=number]") == "3")
    hand.press("#generate")
    hand.until(lambda: len(hand.all("#variation input")) == 3)
    hand.press("#variation label:nth-of-type(3)")
    hand.until(lambda: "seed=42&" in hand.find(".dear-link").get_attribute("href"))
    link = hand.find(".dear-link").get_attribute("href")
    shared = read(hand.run("return document.querySelector('#sound audio').src"))

    hand.open("?seed=1")  # another address first, so that the link is opened as a new visitor opens it
    hand.browser.get(link)
    hand.until(lambda: hand.value("#prompt textarea") == "a dog barking" and hand.value("#seed input") == "42")
    hand.press("#generate")
    hand.until(lambda: "s of sound in" in hand.find("#facts").text)
    assert hand.value("#seed input") == "42"
    hand.until(lambda: hand.find("#sound audio"))
    assert_same_audio(read(hand.run("return document.querySelector('#sound audio').src")), shared)
