"""The waits of a visitor to the page: ``python -m dear.evaluation.click``. Prints two Markdown tables.

The page with the bundled weights is started in a process of its own and driven in headless Chromium, which needs the
package ``selenium`` and a Chromium with its driver.

The first table holds, beside the bar of each: the seconds from the start of the server's process to its first response,
cold (after its files are dropped from the page cache of Linux; those that other processes have mapped stay) and warm;
the seconds to the first contentful paint of a visit with an empty cache, and to a prompt that can be typed into; and
the cumulative layout shift of a visit with one generation. All of these are the browser's own performance entries.

The second table holds the seconds from a click on Generate until the browser can play something (``canplay``): a draft
where the run lasts long enough for one, else the sound itself; and until it can play the sound. Once with the default
settings, once with more iterations.
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
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
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
# What a visitor waits for, with its bar in seconds; of the layout shift, without a unit.
BARS = {
    "start_cold": ("server start to first response, cold, s", 20.0),
    "start_warm": ("server start to first response, warm, s", 8.0),
    "first_paint": ("first contentful paint, empty cache, s", 0.65),
    "usable": ("usable prompt, empty cache, s", 1.8),
    "layout_shift": ("cumulative layout shift, with one generation", 0.1),
}
STARTS = 3  # of a warm server
WINDOW_GAP, WINDOW = 1.0, 5.0  # seconds between shifts of one window, and of a whole one (web.dev/articles/cls)
# Runs before the page's own scripts. Keeps layout shifts, and the time at which the prompt can be typed into.
WATCH = """
window.shifts = [];
new PerformanceObserver((list) => {
  const unasked = list.getEntries().filter((each) => !each.hadRecentInput);
  window.shifts.push(...unasked.map((each) => [each.startTime / 1000, each.value]));
}).observe({ type: "layout-shift", buffered: true });
const look = () => {
  const prompt = document.querySelector("#prompt textarea");
  if (prompt?.checkVisibility() && !prompt.disabled && !prompt.closest("[inert]")) performance.mark("usable");
  else requestAnimationFrame(look);
};
requestAnimationFrame(look);
"""
SEEN = """
const first = (name) => performance.getEntriesByName(name)[0].startTime / 1000;
return [first("first-contentful-paint"), first("usable")];
"""
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


def forget_files(*folders: Path) -> None:
    """Drop the files of ``folders`` from the page cache, except those that a process has mapped. Linux only."""
    for file in (each for folder in folders for each in folder.rglob("*") if each.is_file()):
        with open(file, "rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def start_seconds() -> float:
    """Seconds from the start of the server's process to its first response."""
    began = time.perf_counter()
    with served_page() as url, urllib.request.urlopen(url, timeout=LONGEST_RUN) as answer:
        answer.read()
        return time.perf_counter() - began


def layout_shift(shifts: Sequence[Sequence[float]]) -> float:
    """Cumulative layout shift of shifts (second, value): that of the window with the largest sum."""
    largest, total, began, last = 0.0, 0.0, -WINDOW, -WINDOW
    for at, value in sorted(map(tuple, shifts)):
        if at - last >= WINDOW_GAP or at - began >= WINDOW:
            total, began = 0.0, at
        total, last = total + value, at
        largest = max(largest, total)
    return largest


def visit(browser: Any, url: str) -> dict[str, float]:
    """A visit with an empty cache and one generation: seconds to paint and prompt, and the layout shift."""
    from selenium.webdriver.support.ui import WebDriverWait

    browser.execute_cdp_cmd("Network.clearBrowserCache", {})
    size = {"width": 1400, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    watching = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": WATCH})
    try:
        browser.get(url)
        wait = WebDriverWait(browser, LONGEST_RUN, ignored_exceptions=(Exception,))
        first_paint, usable = wait.until(lambda _: browser.execute_script(SEEN))
        browser.find_element("css selector", "#prompt textarea").send_keys(PROMPT)
        browser.find_element("css selector", "#generate").click()  # a visitor's own, whose shifts are expected
        wait.until(lambda _: browser.find_element("css selector", "#facts dl"))
        wait.until(lambda _: browser.find_elements("css selector", ".dear-take"))
        time.sleep(1)  # for the pictures
        shifts = browser.execute_script("return window.shifts")
    finally:
        browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", watching)
    return {"first_paint": first_paint, "usable": usable, "layout_shift": layout_shift(shifts)}


def measure_visits(browser: Any, url: str, repeats: int) -> dict[str, float]:
    """Medians over ``repeats`` visits."""
    visits = [visit(browser, url) for _ in range(repeats)]
    return {name: statistics.median(each[name] for each in visits) for name in visits[0]}


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


def waits_table(waits: Mapping[str, float]) -> str:
    """What was measured of ``BARS``, beside the bar of each. The layout shift must lie below its bar."""
    lines = ["| wait | measured | bar |", "|---|---|---|"]
    for name, (title, bar) in BARS.items():
        if name in waits:
            sign = "<" if name == "layout_shift" else "≤"
            lines.append(f"| {title} | {waits[name]:.2f} | {sign} {bar:g} |")
    return "\n".join(lines)


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
        waits = {}
        with chromium() as browser:
            if hasattr(os, "posix_fadvise"):
                forget_files(Path(sys.prefix), APP.parent / "dear", APP.parent / "assets")
                waits["start_cold"] = start_seconds()
            waits["start_warm"] = statistics.median(start_seconds() for _ in range(STARTS))
            with served_page() as url:
                waits |= measure_visits(browser, url, args.repeats)
                rows = [
                    measure(browser, url, args.repeats),
                    measure(browser, url, args.repeats, iterations=args.iterations),
                ]
        result = {"machine": describe(torch.device("cpu")), "waits": waits, "rows": rows}
        save_json(args.json, result)
        print(f"{waits_table(waits)}\n\n{table(rows)}\n\nmachine: {json.dumps(result['machine'])}")

    return guarded(command)


if __name__ == "__main__":
    sys.exit(main())
