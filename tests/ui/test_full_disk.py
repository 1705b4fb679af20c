"""A full disk of the host is a sentence to visitors, and a line to the host."""

from __future__ import annotations

import asyncio
import errno
import json
import os

import pytest
from webpage import answers, served

from dear.output import Output
from dear.ui.components.files import new_folder
from dear.ui.requests import FULL, PlainRequests


def fail(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/results/a.wav")


def test_a_run_that_cannot_be_saved_is_refused(student, tiny_folder, monkeypatch, capsys):
    monkeypatch.setattr(Output, "save", fail)
    with served(student, str(tiny_folder)) as page, answers(page.local_url, ["a dog", *[None] * 6]) as stream:
        kind, _, content = stream.read().decode().partition("\ndata: ")
    assert kind == "event: error" and json.loads(content)["error"] == FULL
    stderr = capsys.readouterr().err
    assert "No space left on device: '/results/a.wav'" in stderr and "Traceback" not in stderr


def test_an_upload_that_cannot_be_saved_is_refused(capsys):
    sent = []

    async def app(scope, receive, send):
        fail()

    async def send(message):
        sent.append(message)

    asyncio.run(PlainRequests(app)({"type": "http", "method": "POST", "path": "/upload"}, None, send))
    assert sent[0]["status"] == 507 and json.loads(sent[1]["body"]) == {"detail": FULL}
    assert "Traceback" not in capsys.readouterr().err


def test_a_result_that_cannot_be_saved_leaves_no_folder(tmp_path):
    def write_half() -> None:
        with new_folder(tmp_path) as place:
            (place / "a.wav").write_bytes(b"half")
            fail()

    with pytest.raises(OSError, match="No space"):
        write_half()
    assert not list(tmp_path.iterdir())
    with new_folder(tmp_path) as place:
        (place / "a.wav").write_bytes(b"whole")
    assert [path.name for path in tmp_path.rglob("*.wav")] == ["a.wav"]
