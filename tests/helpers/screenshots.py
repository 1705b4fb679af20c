"""Screenshots of every tab in use, at two widths: ``python tests/helpers/screenshots.py`` writes ``assets/screens``.

The page is served with the bundled weights and driven in headless Chromium. ``--theme`` and ``--tabs`` choose what is
shown; ``--out`` chooses another folder.
"""

from __future__ import annotations

import argparse
import io
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
WIDTHS = (1400, 390)
TALLEST = {1400: 1500, 390: 2000}  # pixels; the rest is cut off
LARGEST = 120_000  # bytes of a picture
TRAINED = 300  # seconds of training before the picture of the toy, at most
PROMPT, SEED = "a dog barks, then rain falls", 7


class Walk:
    """A browser that goes through the page as a visitor does."""

    def __init__(self, browser: Any, url: str, theme: str):
        self.browser, self.url, self.theme = browser, url, theme

    def all(self, selector: str) -> list[Any]:
        return self.browser.find_elements("css selector", selector)

    def one(self, selector: str) -> Any:
        return self.browser.find_element("css selector", selector)

    def until(self, condition: Callable[[], Any]) -> Any:
        from selenium.webdriver.support.ui import WebDriverWait

        wait = WebDriverWait(self.browser, 600, poll_frequency=0.1, ignored_exceptions=(Exception,))
        return wait.until(lambda _: condition())

    def press(self, selector: str, index: int = 0) -> None:
        self.until(lambda: self.all(selector)[index].is_enabled() and self.all(selector)[index].is_displayed())
        # Not with the pointer: at 390 pixels something may cover it while the page scrolls.
        self.browser.execute_script("arguments[0].click()", self.all(selector)[index])

    def write(self, selector: str, text: str) -> None:
        from selenium.webdriver import Keys

        self.until(lambda: self.one(selector).is_displayed())
        self.one(selector).send_keys(Keys.CONTROL, "a")
        self.one(selector).send_keys(text, Keys.TAB)

    def resize(self, width: int, height: int = 900) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def open(self) -> None:
        self.resize(WIDTHS[0])
        query = f"?__theme={self.theme}&seed={SEED}&prompt={PROMPT.replace(' ', '+')}"
        self.browser.get(self.url + query)
        self.until(lambda: self.one("#prompt textarea").get_attribute("value") == PROMPT)

    def go(self, tab: str) -> None:
        self.press(f"button[role=tab][data-tab-id={tab}]")


def generate(walk: Walk) -> None:
    walk.press("#generate")
    walk.until(lambda: len(walk.all("#pictures svg[role=img]")) == 4)
    walk.until(lambda: walk.browser.execute_script("return document.querySelector('#sound audio').readyState") > 0)


def compare(walk: Walk) -> None:
    walk.write("#compare-prompt textarea", PROMPT)
    walk.write("#compare-seed input", str(SEED))
    walk.press("#compare")
    walk.until(lambda: len(walk.all("#best input")) == 6)
    walk.press("#best input", 2)
    walk.until(lambda: walk.one("#send").is_displayed())


def duel(walk: Walk) -> None:
    walk.write("#duel-prompt textarea", PROMPT)
    walk.write("#duel-seed input", str(SEED))
    walk.press("#duel")
    walk.until(lambda: "times as fast" in walk.one("#duel-status").text)


def edit(walk: Walk) -> None:
    walk.go("generate")
    generate(walk)
    walk.press("#use")
    walk.until(lambda: walk.one("#edit-map svg[role=img]").is_displayed())
    walk.write("#edit-prompt textarea", "a rooster crows")
    walk.write("#edit-seed input", str(SEED))
    walk.press("#edit")
    walk.until(lambda: len(walk.all("#edit-after svg[role=img]")) == 2)


def listening(walk: Walk) -> None:
    walk.write("#code input, #code textarea", "anna")
    walk.press("#begin")
    walk.until(lambda: walk.one("#rel").is_displayed())
    walk.press("#rel label", 3)
    walk.press("#ovl label", 2)


def hood(walk: Walk) -> None:
    walk.write("#toy-seed input", str(SEED))
    walk.press("#toy-train")
    walk.until(lambda: walk.one("#toy-train-stop").is_enabled())
    enough = time.monotonic() + TRAINED  # on a slow machine, the picture shows them learning
    walk.until(lambda: not walk.one("#toy-train-stop").is_enabled() or time.monotonic() > enough)
    walk.until(lambda: walk.one("#method .dear-stills").is_displayed())


def model(walk: Walk) -> None:
    walk.press("#model-kind input", 1)
    walk.write("#model-place input, #model-place textarea", "assets/mini")
    walk.write("#model-variant input, #model-variant textarea", "teacher")
    walk.press("#model-load")
    walk.until(lambda: "Loaded" in walk.one("#model-status").text)


TABS = {each.__name__: each for each in (generate, compare, duel, edit, listening, hood, model)}


def shoot(walk: Walk, width: int) -> bytes:
    """The page as it stands, as WebP of at most ``LARGEST`` bytes."""
    from PIL import Image

    walk.resize(width)
    walk.browser.execute_script("document.activeElement.blur(); window.scrollTo(0, 0)")
    time.sleep(1)
    height = walk.browser.execute_script("return document.documentElement.scrollHeight")
    walk.resize(width, min(height, TALLEST[width]))
    time.sleep(1)  # for pictures and fonts
    picture = Image.open(io.BytesIO(walk.browser.get_screenshot_as_png())).convert("RGB")
    for quality in range(85, 20, -5):
        file = io.BytesIO()
        picture.save(file, "WEBP", quality=quality, method=6)
        if len(file.getvalue()) <= LARGEST:
            break
    return file.getvalue()


def preview(pipeline: Any) -> bytes:
    """Write the preview of links to the page, a JPEG."""
    from PIL import Image

    from dear.visual import plots

    out = pipeline.generate(PROMPT, seed=SEED)
    card = plots.card_figure(out.mel[0].numpy(), pipeline.config.mel, "Describe a sound, then hear it")
    file = io.BytesIO()
    picture = Image.open(io.BytesIO(plots.to_png(card))).convert("RGB")
    picture.save(file, "JPEG", quality=72, optimize=True, progressive=True)
    return file.getvalue()


def make_study(folder: Path, pipeline: Any) -> None:
    """A listening study of two systems with two sounds each."""
    for system in ("one", "two"):
        (folder / system).mkdir(parents=True)
        for i, prompt in enumerate((PROMPT, "a rooster crowing at dawn")):
            pipeline.generate(prompt, seed=SEED + (system == "two"), iterations=8).save(folder / system / f"{i}.wav")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "assets" / "screens", metavar="DIR")
    parser.add_argument("--theme", choices=("light", "dark"), default="light")
    parser.add_argument("--tabs", nargs="*", choices=list(TABS), default=list(TABS))
    parser.add_argument("--preview", action="store_true", help="also the picture that links are shown with")
    args = parser.parse_args()
    args.out = args.out.resolve()
    os.chdir(ROOT)

    from dear import AudioDEAR
    from dear.evaluation.click import chromium
    from dear.ui import serve
    from dear.ui.preview import PICTURE
    from dear.ui.tabs.listening import RATINGS, STUDY
    from dear.ui.tabs.model import FOLDERS

    pipeline = AudioDEAR.from_pretrained()
    if args.preview:
        PICTURE.write_bytes(preview(pipeline))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work, chromium("--hide-scrollbars") as browser:
        make_study(Path(work) / "study", pipeline)
        os.environ |= {STUDY: f"{work}/study", RATINGS: f"{work}/ratings.db", FOLDERS: "1"}
        page = serve(pipeline, "127.0.0.1", port)
        walk = Walk(browser, page.local_url, args.theme)
        walk.open()
        for tab in args.tabs:
            walk.resize(WIDTHS[0])  # in a narrow window, most tabs are in a menu
            walk.go(tab)
            TABS[tab](walk)
            for width in WIDTHS:
                picture = shoot(walk, width)
                path = args.out / f"{tab}{'-dark' if args.theme == 'dark' else ''}-{width}.webp"
                path.write_bytes(picture)
                print(f"{path}: {len(picture) / 1000:.0f} kB", flush=True)
        page.close(verbose=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
