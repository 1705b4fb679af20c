"""The page in tests: served, built tab by tab, visited over HTTP and in a browser."""

from __future__ import annotations

import json
import os
import socket
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import gradio as gr
from selenium.webdriver import Keys
from selenium.webdriver.support.ui import WebDriverWait

from dear.pipeline import AudioDEAR
from dear.ui import serve
from dear.ui.context import Context, Tab
from dear.ui.model_registry import ModelRegistry
from dear.ui.tabs.model import FOLDERS


def answers(url: str, data: list[Any]) -> Any:
    """Call ``/generate`` of the page at ``url`` with these arguments. Returns the stream of its events."""
    call = f"{url}gradio_api/call/generate"
    request = urllib.request.Request(call, json.dumps({"data": data}).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        event = json.load(answer)["event_id"]
    return urllib.request.urlopen(f"{call}/{event}", timeout=60)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def served(model: AudioDEAR, source: str | None = None) -> Iterator[gr.Blocks]:
    """The whole page on a free port of this machine. Visitors may load models from folders."""
    with patch.dict(os.environ, {FOLDERS: "1"}):
        page = serve(model, "127.0.0.1", free_port(), source)
    try:
        yield page
    finally:
        page.server.config.timeout_graceful_shutdown = 0  # does not wait for a browser that is still connected
        page.close(verbose=False)


def build_tabs(models: ModelRegistry, folder: Path, *tabs: Tab) -> Context:
    """A page of these tabs alone, which is not served."""
    with gr.Blocks() as page:
        chosen = gr.Textbox("", visible=False)
        with gr.Tabs() as holder:
            context = Context(page, holder, models, chosen, folder)
            for tab in tabs:
                with gr.Tab(tab.title, id=tab.name) as context.tab:
                    tab.build(context)
        context.close()
    return context


def function(page: gr.Blocks, name: str, module: str | None = None) -> Callable[..., Any]:
    """The function ``name`` of an event of the page, and of a module if several have one of that name."""
    return next(
        each.fn for each in page.fns.values() if each.fn and each.name == name and module in (None, each.fn.__module__)
    )


def by_id(changes: dict[Any, Any]) -> dict[str, Any]:
    """The changes of one report, keyed by the elements' ids, or by type for components without one."""
    return {component.elem_id or type(component).__name__: value for component, value in changes.items()}


class Visitor:
    """A browser's session with the page's own Generate, as Gradio's frontend speaks with the server."""

    def __init__(self, page: gr.Blocks, name: str):
        from dear.ui.tabs import generate

        self.url, self.session = f"{page.local_url}gradio_api/queue", name
        self.index = next(
            i for i, f in page.fns.items() if f.fn and (f.fn.__module__, f.name) == (generate.__name__, "run")
        )
        self.api = page.local_url + "gradio_api"

    def post(self, url: str, **body: Any) -> Any:
        body |= {"session_hash": self.session, "fn_index": self.index}
        request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def begin(self, *arguments: Any) -> None:
        """Start a run of the page's own model: ten seconds, without a negative prompt or a choice of candidates."""
        self.event = self.post(f"{self.url}/join", data=["", *arguments, 10, "", 1, ""])["event_id"]
        self.messages = urllib.request.urlopen(f"{self.url}/data?session_hash={self.session}", timeout=120)

    def hear(self) -> Iterator[Any]:
        for line in self.messages:
            if line.startswith(b"data:"):
                yield json.loads(line[5:])

    def stop(self) -> None:
        self.post(f"{self.api}/cancel", event_id=self.event)


class Hand:
    """A visitor's actions in the browser."""

    def __init__(self, browser: Any, page: gr.Blocks, width: int = 1400):
        self.browser, self.url = browser, page.local_url
        self.resize(width)

    def resize(self, width: int, height: int = 900) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def open(self, query: str = "") -> None:
        self.browser.get(self.url + query)
        self.until(lambda: self.find("#generate").is_displayed())

    def find(self, selector: str) -> Any:
        return self.browser.find_element("css selector", selector)

    def all(self, selector: str) -> list[Any]:
        return self.browser.find_elements("css selector", selector)

    def until(self, condition: Callable[[], Any]) -> Any:
        wait = WebDriverWait(self.browser, 60, poll_frequency=0.05, ignored_exceptions=(Exception,))
        return wait.until(lambda _: condition())

    def run(self, script: str, *values: Any) -> Any:
        return self.browser.execute_script(script, *values)

    def value(self, selector: str) -> str:
        return self.find(selector).get_attribute("value")

    def write(self, selector: str, text: str) -> None:
        self.until(lambda: self.find(selector).is_displayed())
        self.find(selector).send_keys(Keys.CONTROL, "a")
        self.find(selector).send_keys(text, Keys.TAB)

    def press(self, selector: str) -> None:
        self.until(lambda: self.find(selector).is_enabled() and self.find(selector).is_displayed())
        self.find(selector).click()

    def go(self, name: str) -> None:
        self.press(f"button[role=tab][data-tab-id={name}]")

    def seconds(self, selector: str) -> float:
        return self.run(f"return document.querySelector('{selector} audio').duration")
