"""Who a caller is: an address, which only trusted proxies may forward, or else a session."""

from __future__ import annotations

import http.client
import json
import types
from urllib.parse import urlsplit

import gradio as gr
import pytest
from webpage import free_port

from dear.ui.callers import LOOPBACK, PRIVATE, PROXIES, caller_of, trust_proxies


def asked(host: str | None) -> types.SimpleNamespace:
    return types.SimpleNamespace(client=types.SimpleNamespace(host=host))


@pytest.mark.parametrize(
    ("host", "caller"),
    [
        ("93.184.216.34", "93.184.216.34"),
        ("10.0.0.7", "10.0.0.7"),  # no proxy that the host has named
        ("::ffff:93.184.216.34", "93.184.216.34"),
        ("2606:2800:21f::1", "2606:2800:21f::/64"),
        ("2606:2800:21f::ffff:1", "2606:2800:21f::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("127.0.0.1", "s"),
        ("::1", "s"),
        ("::ffff:127.0.0.1", "s"),
        ("unknown", "unknown"),
        ("", "s"),
        (None, "s"),
    ],
)
def test_a_caller_is_an_address_or_a_session(host, caller, monkeypatch):
    monkeypatch.delenv(PROXIES, raising=False)
    assert caller_of(asked(host), "s") == caller


def test_sessions_count_behind_named_proxies_alone(monkeypatch):
    monkeypatch.setenv(PROXIES, "10.0.0.0/8, proxy.local,*, 192.168.1.1")
    for host, caller in (("10.0.0.7", "s"), ("192.168.1.1", "s"), ("192.168.1.2", "192.168.1.2")):
        assert caller_of(asked(host), "s") == caller
    assert caller_of(asked("10.0.0.7")) == "10.0.0.7"  # all visitors of a lock
    assert caller_of(asked("127.0.0.1"), "s") == "127.0.0.1"


@pytest.mark.parametrize(
    ("given", "space", "trusted"),
    [
        (None, None, LOOPBACK),
        (None, "someone/sounds", PRIVATE),
        ("", "someone/sounds", ""),
        ("10.0.0.1", None, "10.0.0.1"),
    ],
)
def test_a_space_trusts_the_private_networks(given, space, trusted, monkeypatch):
    for name, value in ((PROXIES, given), ("SPACE_ID", space)):
        monkeypatch.setenv(name, "x")  # restored after the test
        if value is None:
            monkeypatch.delenv(name)
        else:
            monkeypatch.setenv(name, value)
    trust_proxies()
    assert caller_of(asked("10.0.0.7"), "s") == ("s" if trusted == PRIVATE else "10.0.0.7")
    assert caller_of(asked("10.0.0.1"), "s") == ("s" if trusted in (PRIVATE, "10.0.0.1") else "10.0.0.1")
    assert caller_of(asked("127.0.0.1"), "s") == ("s" if trusted in (PRIVATE, LOOPBACK) else "127.0.0.1")


@pytest.mark.parametrize("trusted", [LOOPBACK, ""])
def test_forwarded_addresses_are_those_of_trusted_proxies(trusted, monkeypatch):
    """A page whose only peer is this machine, as a proxy in front of it would be."""
    monkeypatch.setenv(PROXIES, trusted)

    def who(request: gr.Request) -> str:
        return caller_of(request, "session")

    with gr.Blocks() as page:
        gr.Button().click(who, None, gr.Textbox(), api_name="who")
    page.queue()
    page.launch(server_name="127.0.0.1", server_port=free_port(), prevent_thread_lock=True, quiet=True)
    try:
        for headers, caller in [
            ([], "session"),
            (["93.184.216.34"], "93.184.216.34"),
            (["8.8.8.8, 93.184.216.34"], "93.184.216.34"),  # the first was sent by the visitor
            (["8.8.8.8", "93.184.216.34"], "93.184.216.34"),  # so was the first line
            (["8.8.8.8, 93.184.216.34, 127.0.0.1"], "93.184.216.34"),  # two proxies
            (["192.168.1.5"], "192.168.1.5"),
            (["127.0.0.1"], "session"),
            ([""], "session"),
        ]:
            assert call(page, headers) == (caller if trusted else "127.0.0.1")
    finally:
        page.close(verbose=False)


def call(page: gr.Blocks, forwarded: list[str]) -> str:
    connection = http.client.HTTPConnection(urlsplit(page.local_url).netloc, timeout=60)
    try:
        connection.putrequest("POST", "/gradio_api/call/who")
        for each in forwarded:
            connection.putheader("X-Forwarded-For", each)
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Content-Length", "12")
        connection.endheaders(b'{"data": []}')
        event = json.loads(connection.getresponse().read())["event_id"]
        connection.request("GET", f"/gradio_api/call/who/{event}")
        answer = connection.getresponse().read().decode()
    finally:
        connection.close()
    (caller,) = json.loads(answer.partition("data: ")[2])
    return caller
