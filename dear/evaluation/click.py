"""The time from a click on Generate to sound: ``python -m dear.evaluation.click``. Prints a Markdown table.

The page with the bundled weights is started in a process of its own and driven in headless Chromium. Measured are the
seconds from the click until the browser can play something (``canplay``): a draft where the run lasts long enough for
one, else the sound itself; and until it can play the sound. Once with the default settings, once with more iterations.
It needs the package ``selenium`` and a Chromium with its driver.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import torch

from dear.cli import Parser, check_json, guarded, save_json
from dear.evaluation.bench.machine import describe
from dear.request import check_whole

APP = Path(__file__).resolve().parents[2] / "app.py"
PROMPT = "a dog barking"
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--mute-audio",
    "--autoplay-policy=no-user-gesture-required",
)  # fmt: skip
LONGEST_RUN = 600  # seconds
# Answers, a second after the end of the run, with the seconds from the click to each file that the player could play.
RUN = """
const done = arguments[0], played = new Map(), begin = performance.now();
const seconds = () => (performance.now() - begin) / 1000;
const facts = () => document.querySelector("#facts dl");
const before = facts();
const heard = (e) => {
  if (e.target.closest?.("#sound") && !played.has(e.target.currentSrc)) played.set(e.target.currentSrc, seconds());
};
document.addEventListener("canplay", heard, true);
let ended = 0;
const look = setInterval(() => {
  if (!ended && facts() && facts() !== before) ended = seconds();
  if (!ended || seconds() < ended + 1 || !played.size) return;
  clearInterval(look);
  document.removeEventListener("canplay", heard, true);
  done([...played.values()]);
}, 20);
document.querySelector("#generate").click();
"""


class BrowserError(ValueError):
    """Chromium or Selenium is missing, or the page cannot be served."""


@contextmanager
def chromium(*flags: str) -> Iterator[Any]:
    """Chromium without a screen or a network, as Selenium's driver. Raises BrowserError where it is not installed."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    try:
        from selenium import webdriver
    except ImportError:
        raise BrowserError("selenium must be installed to drive the page: pip install selenium") from None
    if not (program and driver):
        raise BrowserError("chromium and chromedriver must be installed: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    with tempfile.TemporaryDirectory(prefix="audiodear-chromium-", ignore_cleanup_errors=True) as profile:
        for flag in (*FLAGS, *flags, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
        try:
            yield browser
        finally:
            browser.quit()


@contextmanager
def served_page() -> Iterator[str]:
    """The address of the page with the bundled weights, in a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, str(APP)], cwd=APP.parent, env=os.environ | {"PORT": str(port)}, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        lines = []
        assert server.stdout is not None  # a pipe
        for line in server.stdout:
            lines.append(line)
            if " is served at " in line:
                yield line.split()[-1]
                return
        raise BrowserError(f"the page could not be served: {''.join(lines)}")
    finally:
        server.terminate()
        server.wait()


def measure(browser: Any, url: str, repeats: int, **settings: Any) -> dict[str, Any]:
    """Medians over ``repeats`` runs of the page at ``url``, after one more, with the settings of a link."""
    from selenium.webdriver.support.ui import WebDriverWait

    browser.set_script_timeout(LONGEST_RUN)
    browser.get(f"{url}?{urlencode({'prompt': PROMPT} | settings)}")
    WebDriverWait(browser, 60, ignored_exceptions=(Exception,)).until(
        lambda _: browser.find_element("css selector", "#prompt textarea").get_attribute("value") == PROMPT
    )
    iterations = int(browser.find_element("css selector", "#iterations input").get_attribute("value"))
    runs = [browser.execute_async_script(RUN) for _ in range(repeats + 1)][1:]
    return {
        "iterations": iterations,
        "first_sound_seconds": statistics.median(run[0] for run in runs),
        "end_seconds": statistics.median(run[-1] for run in runs),
        "drafts": sum(len(run) > 1 for run in runs),
        "runs": runs,
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    lines = ["| iterations | first sound, s | the sound, s | runs with a draft |", "|---|---|---|---|"]
    for row in rows:
        first, end = row["first_sound_seconds"], row["end_seconds"]
        lines.append(f"| {row['iterations']} | {first:.2f} | {end:.2f} | {row['drafts']} of {len(row['runs'])} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status: 0, or 2 after an error message."""
    parser = Parser(prog="python -m dear.evaluation.click", description=__doc__.split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="timed runs of each row, after a warm-up")
    parser.add_argument("--iterations", type=int, default=128, metavar="N", help="of the long run")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results to this file")

    def command() -> None:
        args = parser.parse_args(argv)
        check_whole("--repeats", args.repeats, 1, 1000)
        check_whole("--iterations", args.iterations, 1, 1_000_000)
        check_json(args.json)
        with chromium() as browser, served_page() as url:
            rows = [
                measure(browser, url, args.repeats),
                measure(browser, url, args.repeats, iterations=args.iterations),
            ]
        result = {"machine": describe(torch.device("cpu")), "rows": rows}
        save_json(args.json, result)
        print(f"{table(rows)}\n\nmachine: {json.dumps(result['machine'])}")

    return guarded(command)


if __name__ == "__main__":
    sys.exit(main())
