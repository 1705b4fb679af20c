"""Calls of a page over HTTP: its endpoints, its private events, and what is no call at all."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import io
import json
import os
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch
from urllib.parse import quote, urlsplit

import numpy as np
import soundfile
from factory import tiny_checkpoint, tiny_config
from study import make_study
from webpage import served

from dear.config import MelConfig
from dear.pipeline import AudioDEAR
from dear.ui.requests import FAILED
from dear.ui.tabs.listening import KEY, RATINGS, STUDY
from tests.attack.runner import Refused

SECONDS = 120
SMALL, LARGE = 80, 5_000
SECRET = "a key that is long"
PREFIX = "/gradio_api"
# What a call may hold beside what it should.
HOSTILE: list[Any] = [
    None, True, "", " ", "\0", "\ud800", "x" * 5_000, "../../etc/passwd", "/etc/passwd", "=1+1", "<script>", "🐶",
    "nan", -1, 0, 1, 2**31, 2**63, 10**400, 1e308, -1e-308, 0.5, float("nan"), float("inf"), [], [[]], [{}],
    ["a"] * 2_000, {}, {"a": 1}, {"\ud800": "\ud800"}, {"path": "/etc/passwd"}, {"path": "x" * 5_000}, {"path": "\0"},
    {"path": ".."},
    {"path": None, "meta": {"_type": "gradio.FileData"}}, {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}},
    {"path": "x" * 300, "meta": {"_type": "gradio.FileData"}}, {"url": "file:///etc/passwd"},
]  # fmt: skip
BODIES = [
    b"", b"{", b"null", b"[]", b"0", b'"x"', b"\xff\xfe", b'{"data": null}', b'{"data": {}}', b'{"data": [NaN]}',
    b'{"data": ["\\ud800"]}', b'{"data": ' + b"[" * 5_000 + b"]" * 5_000 + b"}", b'{"fn_index": -1, "data": []}',
    b'{"fn_index": "0", "data": [], "session_hash": "s"}', b'{"fn_index": 10000000, "data": [], "session_hash": "s"}',
    b'{"fn_index": 1e300, "data": [], "session_hash": "s"}', b'{"fn_index": 3, "data": [], "session_hash": "\\ud800"}',
    b'{"fn_index": 3, "data": [], "session_hash": {}}', b'{"data": [], "session_hash": null}', b'{"event_id": "x"}',
]  # fmt: skip
PLACES = [
    "/call/generate", "/call/compare", "/call/nothing", "/call/v2/generate", "/call/v2/nothing", "/queue/join",
    "/run/predict", "/run/generate", "/api/predict", "/cancel", "/reset", "/upload", "/component_server", "/stream/x",
]  # fmt: skip
PATHS = [
    "/file=/etc/passwd", "/file=", "/file=" + "x" * 5_000, "/file=%00", "/file=..%2f..%2fetc%2fpasswd", "/file=\\\\x",
    "/file=" + "a/" * 1_000, "/file=%ff%fe", "/file=file:///etc/passwd", "/file=http://127.0.0.1:9/", "/queue/data",
    "/queue/data?session_hash=nobody", "/call/generate/nobody", "/upload_progress?upload_id=nobody", "/info",
    "/startup-events",
    "/queue/status", "/static/../../etc/passwd", "/custom_component/x/client/y/z", "/proxy=http://127.0.0.1:9/",
    "/stream/x/y/1/playlist.m3u8", "/deep_link?session_hash=" + "x" * 5_000, "/config?deep_link=%00", "/nothing",
]  # fmt: skip


class Server:
    """A page with tiny networks, clips of half a second and a listening test, and what it writes to stderr."""

    def __init__(self, folder: Path):
        config = dataclasses.replace(tiny_config(), mel=MelConfig(frames=64, samples=8_000))
        checkpoint = tiny_checkpoint(folder / "tiny", config)
        test = {
            STUDY: str(make_study(folder / "study")),
            RATINGS: str(folder / "ratings.db"),
            KEY: SECRET,
        }
        self.stack = contextlib.ExitStack()
        self.stderr = io.StringIO()
        sys.stderr = self.stderr  # for the threads of the server
        with patch.dict(os.environ, test):
            model = AudioDEAR.from_pretrained(checkpoint, device="cpu")
            self.page = self.stack.enter_context(served(model, str(checkpoint)))
        self.host = urlsplit(self.page.local_url).netloc
        tone = folder / "tone.wav"
        soundfile.write(tone, (0.3 * np.sin(0.2 * np.arange(24_000))).astype(np.float32), 16_000)
        self.tone = {"path": self.upload(tone.read_bytes()), "meta": {"_type": "gradio.FileData"}}

    def upload(self, data: bytes) -> str:
        """Upload a file. Returns its path on the server."""
        before, boundary = len(self.stderr.getvalue()), "x" * 20
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="tone.wav"\r\n\r\n'.encode()
        body = head + data + f"\r\n--{boundary}--\r\n".encode()
        status, answer = self.ask("POST", "/upload", body, f"multipart/form-data; boundary={boundary}")
        self.check(before, status, answer)
        return json.loads(answer)[0]

    def ask(self, method: str, path: str, body: bytes = b"", kind: str = "application/json") -> tuple[int, str]:
        connection = http.client.HTTPConnection(self.host, timeout=SECONDS)
        try:
            connection.putrequest(method, quote(PREFIX + path, safe="/=?&%:\\"), skip_accept_encoding=True)
            connection.putheader("Content-Type", kind)
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, answer.read().decode(errors="replace")
        finally:
            connection.close()

    def no_traceback(self, before: int) -> None:
        log = self.stderr.getvalue()[before:]
        assert "Traceback" not in log, log[-1500:]

    def check(self, before: int, status: int, answer: str) -> None:
        """Raise the sentence of a refusal, or AssertionError for an answer without one."""
        self.no_traceback(before)
        assert "Traceback" not in answer
        if status >= 400:
            with contextlib.suppress(json.JSONDecodeError):  # some sentences are plain text
                content = json.loads(answer)
                answer = str(content.get("detail") or content.get("error") or "")
            assert answer and "Internal Server Error" not in answer and FAILED not in answer, (status, answer[:500])
            raise Refused(answer[:500])

    def raw(self, method: str, path: str, body: bytes = b"") -> None:
        before = len(self.stderr.getvalue())
        status, answer = self.ask(method, path, body)
        if method != "HEAD":  # which has no body to tell in
            self.check(before, status, answer)
        self.no_traceback(before)

    def call(self, name: str, data: list[Any]) -> None:
        """A call of a named endpoint."""
        before = len(self.stderr.getvalue())
        status, answer = self.ask("POST", f"/call/{name}", json.dumps({"data": data}).encode())
        self.check(before, status, answer)
        status, answer = self.ask("GET", f"/call/{name}/{json.loads(answer)['event_id']}")
        events = answer.strip().split("\n\n")
        kind, _, content = events[-1].partition("\ndata: ")
        self.finish(before, kind == "event: complete", json.loads(content))

    def join(self, index: int, data: list[Any], session: str) -> None:
        """An event of the page, as its own frontend sends it."""
        before = len(self.stderr.getvalue())
        body = {"fn_index": index, "data": data, "session_hash": session}
        self.check(before, *self.ask("POST", "/queue/join", json.dumps(body).encode()))
        _, answer = self.ask("GET", f"/queue/data?session_hash={session}")
        messages = [json.loads(line[5:]) for line in answer.splitlines() if line.startswith("data:")]
        last = next(each for each in reversed(messages) if each["msg"] == "process_completed")
        self.finish(before, last["success"], last["output"])

    def finish(self, before: int, success: bool, output: Any) -> None:
        self.no_traceback(before)
        if not success:
            assert isinstance(output, dict) and output.get("error"), output
            assert FAILED not in output["error"], output
            raise Refused(str(output["error"])[:500])


def cases(large: bool) -> Iterator[tuple[str, Callable[[], object]]]:
    server = Server(Path(tempfile.mkdtemp()))
    rng = random.Random(0)
    good: dict[str, list[Any]] = {
        "generate": ["a dog", 2, 2, 1, 3, None, None],
        "compare": ["a dog", [1, 2], [2], 1, 3, None, None],
        "inpaint": [server.tone, 0.2, 0.4, "a dog", 2, 2, 1, 3, None, None, 0],
        "extend": [server.tone, 0.3, "a dog", 2, 2, 1, 3, None, None],
    }
    # Training of toy heads takes minutes, whatever it is given.
    events = [index for index, each in server.page.fns.items() if each.fn and "hood" not in each.fn.__module__]
    for number in range(LARGE if large else SMALL):
        kind = rng.random()
        if kind < 0.4:
            name = rng.choice(list(good))
            data = _damaged(rng, good[name])
            yield f"/call/{name} {data!a:.200}", partial(server.call, name, data)
        elif kind < 0.8:
            index = rng.choice(events)
            inputs = server.page.fns[index].inputs
            data = _damaged(rng, [_some(rng, block, server.tone) for block in inputs])
            session = f"s{number}"
            yield f"event {server.page.fns[index].name} {data!a:.200}", partial(server.join, index, data, session)
        elif kind < 0.9:
            place, body = rng.choice(PLACES), rng.choice(BODIES)
            yield f"POST {place} {body!r:.80}", partial(server.raw, "POST", place, body)
        else:
            method, path = rng.choice(["GET", "GET", "HEAD", "POST", "DELETE"]), rng.choice(PATHS)
            yield f"{method} {path:.80}", partial(server.raw, method, path)


def _damaged(rng: random.Random, data: list[Any]) -> list[Any]:
    """``data`` with some values replaced, left out or added."""
    data = [rng.choice(HOSTILE) if rng.random() < 0.2 else each for each in data]
    if rng.random() < 0.1:
        del data[rng.randrange(len(data) + 1) :]
    if rng.random() < 0.05:
        data.append(rng.choice(HOSTILE))
    return data


def _some(rng: random.Random, block: Any, tone: Any) -> Any:
    """A value that suits a component of the page."""
    kind = type(block).__name__.lower()
    if kind in ("audio", "uploadbutton", "file"):
        return tone
    if kind in ("slider", "number"):
        return rng.choice([getattr(block, "minimum", None) or 0, 1, 2])
    if kind in ("radio", "dropdown") and getattr(block, "choices", None):
        return rng.choice(block.choices)[1]
    return {"textbox": "a dog", "checkbox": True, "dataset": 0, "state": None}.get(kind)
