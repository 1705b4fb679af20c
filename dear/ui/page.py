"""The page: header, tabs, and the endpoints beside them."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import threading
from pathlib import Path

import gradio as gr

from dear.pipeline import AudioDEAR
from dear.ui.api import endpoints
from dear.ui.components.parts import QUIET, forget_old
from dear.ui.gpu import is_zero
from dear.ui.look import CSS, HEAD, THEME
from dear.ui.registry import TABS, Frame
from dear.ui.shelf import Shelf
from dear.ui.tabs.hood import CSS as HOOD_CSS
from dear.ui.tabs.listening import CSS as LISTENING_CSS
from dear.ui.tabs.listening import test_from
from dear.ui.tabs.models import is_fixed

TITLE = "AudioDEAR"
SENTENCE = "Describe a sound and hear ten seconds of it, drawn from noise in a few passes that you can watch."
UPLOADS = "250mb"  # two hours as MP3, a minute as 96 kHz WAV of eight channels; what lasts too long is told so


def build(shelf: Shelf, folder: Path) -> gr.Blocks:
    """The page around the models of ``shelf``. Files of results go into ``folder``, which must exist."""
    if is_zero():  # what is loaded before the launch is kept ready for the GPU
        for name in shelf.get(None).config.variants:
            shelf.get(None, name)
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.HTML(f'<header class="dear-header"><h1>Audio<em>DEAR</em></h1><p>{SENTENCE}</p></header>')
        # The visitor's model, as a Choice writes itself; empty: the page's own. The page keeps it, for a gr.State is
        # forgotten an hour after a browser was away, as that of a phone in a pocket.
        chosen = gr.Textbox("", visible=False)
        with gr.Tabs(selected="generate", elem_classes="dear-tabs") as tabs:
            frame = Frame(page, tabs, shelf, chosen, folder, test_from(os.environ))
            for name, tab in TABS.items():
                with gr.Tab(tab.title, id=name) as place:
                    tab.lay(frame, place)
        frame.then(frame.generate.restore, chosen, frame.generate.restored, **QUIET)
        endpoints(shelf, folder)
    return page.queue(max_size=32, default_concurrency_limit=4)


def serve(model: AudioDEAR, host: str, port: int, source: str | None = None, revision: str | None = None) -> gr.Blocks:
    """Start serving the page, in threads of its own. ``local_url`` of the result is its address.

    source, revision: where ``model`` came from; None for the bundled weights. Its other variants come from there too.
    Raises OSError where the port is taken, ValueError where the environment names a listening test that won't do.
    """
    folder = Path(tempfile.mkdtemp(prefix="audiodear-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    threading.Thread(target=forget_old, args=(folder,), daemon=True).start()
    page = build(Shelf(model, source, revision, is_fixed()), folder)
    try:
        page.launch(
            server_name=host,
            server_port=port,
            theme=THEME,
            css=CSS + LISTENING_CSS + HOOD_CSS,
            head=HEAD,
            footer_links=["api", "settings"],
            allowed_paths=[str(folder)],
            max_file_size=UPLOADS,
            ssr_mode=False,
            quiet=True,
            prevent_thread_lock=True,
        )
    except OSError as error:
        raise OSError(f"port {port} of {host} can't be served, perhaps another program has it: set PORT") from error
    return page
