"""A listening test as a page of its own: no other tab, no model, and no name that could bias raters."""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import gradio as gr
from starlette.middleware import Middleware

from dear.ui.requests import Page, PlainRequests
from dear.ui.tabs.listening import KEY, TAB, ListeningTest, lay_out, open_test
from dear.ui.theme import HEAD, THEME, css

NO_DIVIDER = "<style>footer .divider { display: none !important; }</style>"  # the footer has one entry


def serve_test(test: ListeningTest, host: str, port: int) -> gr.Blocks:
    """Start serving the test in threads of its own. ``local_url`` of the result is its address.

    Raises OSError if the port is taken.
    """
    folder = Path(tempfile.mkdtemp(prefix="audiodear-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with Page(title="Listening test", analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
        lay_out(blocks, test, folder)
    try:
        blocks.queue(max_size=64, default_concurrency_limit=4).launch(
            server_name=host,
            server_port=port,
            theme=THEME,
            css=css(TAB),
            head=HEAD + NO_DIVIDER,
            footer_links=["settings"],
            max_file_size="1mb",
            app_kwargs={"middleware": [Middleware(PlainRequests)]},
            ssr_mode=False,
            quiet=True,
            prevent_thread_lock=True,
        )
    except OSError as error:
        raise OSError(f"port {port} of {host} can't be served, perhaps another program has it") from error
    return blocks


def run(study: str, ratings: str, host: str, port: int) -> None:
    """Serve a study until interrupted. Prints the address and the key of the results."""
    if not 1 <= port <= 65535:
        raise ValueError(f"port must be a whole number from 1 to 65535, got {port}")
    test = open_test(study, ratings, os.environ.get(KEY) or secrets.token_urlsafe(12))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # a clean exit, which removes the page's files
    blocks = serve_test(test, host, port)
    systems = {clip.system for clip in test.clips}
    print(f"{len(test.clips)} sounds of {len(systems)} systems are served at {blocks.local_url}")
    print(f"Key of the results, which open below the test: {test.key}", flush=True)
    blocks.block_thread()
