"""The page: header, tabs, and the endpoints beside them."""

from __future__ import annotations

import atexit
import shutil
import tempfile
import threading
from functools import partial
from pathlib import Path
from typing import cast

import gradio as gr
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from dear.pipeline import AudioDEAR
from dear.ui import metrics, visitor
from dear.ui.api import endpoints
from dear.ui.callers import trust_proxies
from dear.ui.components.files import remove_old_files
from dear.ui.context import Context
from dear.ui.gpu import is_zero
from dear.ui.model_registry import ModelRegistry
from dear.ui.preview import Previews
from dear.ui.registry import TABS
from dear.ui.requests import Page, PlainRequests
from dear.ui.tabs.model import allows_folders, is_fixed
from dear.ui.theme import HEAD, THEME, css
from dear.ui.turns import FairQueue

TITLE = "AudioDEAR"
TAGLINE = "Describe a sound. Watch ten seconds of it take shape from noise, then listen."
MAX_UPLOAD = "250mb"  # a minute as 96 kHz WAV of eight channels; longer sounds are refused after the upload


def build(models: ModelRegistry, folder: Path) -> gr.Blocks:
    """The page around ``models``. Files of results go into ``folder``, which must exist."""
    if is_zero():  # only weights that are loaded before the launch reach the GPU
        for name in models.get(None).config.variants:
            models.get(None, name)
    with Page(title=TITLE, analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.HTML(f'<header class="dear-header"><h1>Audio<em>DEAR</em></h1><p>{TAGLINE}</p></header>')
        # Not a gr.State: Gradio drops those an hour after a browser disconnects, such as a phone in a pocket.
        chosen = gr.Textbox("", visible=False)
        with gr.Tabs(selected=next(iter(TABS)), elem_classes="dear-tabs") as tabs:
            context = Context(page, tabs, models, chosen, folder)
            for name, tab in TABS.items():
                with gr.Tab(tab.title, id=name) as context.tab:
                    tab.build(context)
        context.close()
        visitor.recall_model(context)
        endpoints(models, folder)
    page.queue()
    page._queue = FairQueue(page)
    return page


def health(model: AudioDEAR, _: Request) -> JSONResponse:
    """Answer a host's monitor that the page works, and with which weights."""
    return JSONResponse({"status": "ok", "model": model.config.name, "variant": model.variant, "weights": model.digest})


def _metrics(page: gr.Blocks, _: Request) -> PlainTextResponse:
    return PlainTextResponse(metrics.RUNS.text(cast(FairQueue, page._queue).waiting()), media_type=metrics.TYPE)


def serve(model: AudioDEAR, host: str, port: int, source: str | None = None, revision: str | None = None) -> gr.Blocks:
    """Start serving the page in threads of its own. ``local_url`` of the result is its address.

    source, revision: where ``model`` came from; None for the bundled weights. Its other variants are loaded from there.
    Raises OSError if the port is taken, ValueError if the environment names a listening test that can't be opened.
    """
    trust_proxies()
    folder = Path(tempfile.mkdtemp(prefix="audiodear-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    threading.Thread(target=remove_old_files, args=(folder,), daemon=True).start()
    page = build(ModelRegistry(model, source, revision, is_fixed(), allows_folders()), folder)
    try:
        page.launch(
            server_name=host,
            server_port=port,
            theme=THEME,
            css=css(*TABS.values()),
            head=HEAD,
            footer_links=["api", "settings"],
            allowed_paths=[str(folder)],
            app_kwargs={"middleware": [Middleware(PlainRequests), Middleware(Previews, TITLE, TAGLINE)]},
            max_file_size=MAX_UPLOAD,
            ssr_mode=False,
            quiet=True,
            prevent_thread_lock=True,
        )
        page.app.router.routes.insert(0, Route("/health", partial(health, model)))
        if metrics.is_on():
            page.app.router.routes.insert(0, Route("/metrics", partial(_metrics, page)))
    except OSError as error:
        raise OSError(f"port {port} of {host} can't be served, perhaps another program has it: set PORT") from error
    return page
