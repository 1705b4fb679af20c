"""The tab where a visitor chooses a model: the bundled one, a local folder, or a repository of the Hub."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict
from typing import Any

import gradio as gr

from dear.pipeline import AudioDEAR
from dear.ui import parts
from dear.ui.gpu import is_zero
from dear.ui.parts import QUIET, Update
from dear.ui.shelf import Choice, Shelf

FIXED = "AUDIODEAR_FIXED_MODEL"  # set to 1: visitors can't choose another model
BUNDLED, FOLDER, HUB = "Bundled", "Local folder", "Hugging Face Hub"
YOURS = "What you load is yours alone, in this browser: other visitors keep what they have, and so do programs."
STORE = "localStorage.audiodearModel"  # where a browser keeps its choice
CLOSED = (
    "The model of this page is fixed. Run it on a machine of your own (<code>python app.py</code>) to load another one."
)


def is_fixed() -> bool:
    """Whether all visitors have the page's own model: in a Space unless the variable says 0.

    Under ZeroGPU always: what is loaded after the launch doesn't reach the processes that compute.
    """
    return is_zero() or os.environ.get(FIXED, "1" if os.environ.get("SPACE_ID") else "0") != "0"


def models_tab(page: gr.Blocks, shelf: Shelf, chosen: gr.State, updates: dict[Any, Update]) -> Callable[..., Any]:
    """Lay out the tab inside the current Blocks, which is ``page``. ``chosen`` becomes what is loaded here.

    updates: what follows from the model in all other tabs. Returns how to add what happens next, once a page that was
    opened has the model that its browser remembers.
    """
    own = _facts(shelf.get(None), shelf.own)
    if is_fixed():
        gr.HTML(f'<div class="dear-model">{own}<p class="dear-note">{CLOSED}</p></div>')
        return page.load
    with gr.Row(equal_height=False, elem_classes="dear-tab"):
        with gr.Column(scale=4, min_width=320, elem_classes="dear-controls"):
            kind = gr.Radio(
                [BUNDLED, FOLDER, HUB],
                value=BUNDLED,
                label="Where from",
                elem_id="model-kind",
                elem_classes="dear-pick",
            )
            with gr.Group(elem_classes="dear-settings"):
                place = gr.Textbox(label="Folder", visible=False, elem_id="model-place")
                revision = gr.Textbox(
                    label="Revision", info="Branch, tag or commit; empty for the newest.", visible=False,
                    elem_id="model-revision",
                )  # fmt: skip
                variant = gr.Textbox(
                    label="Variant", info="student, teacher, ...; empty for the checkpoint's own choice.",
                    elem_id="model-variant",
                )  # fmt: skip
            button = gr.Button("Load", variant="primary", elem_id="model-load")
            gr.HTML(f'<p class="dear-note">{YOURS}</p>')
        with gr.Column(scale=7, min_width=320, elem_classes="dear-results"):
            facts = gr.HTML(own, elem_id="model-facts")
            status = gr.HTML("", elem_id="model-status", elem_classes="dear-status")
    # Not a BrowserState: that of Gradio 6.31 loses what it held when the page is opened again.
    kept = gr.Textbox("", visible=False)

    def load(where: str, name: str, commit: str, which: str) -> Iterator[dict[Any, Any]]:
        yield {status: parts.progress_bar("Loading", 0)}
        source = None if where == BUNDLED else name.strip()
        revision = commit.strip() or None if where == HUB else None
        with (
            parts.told(),
            closing(parts.watch(lambda told: shelf.load(source, revision, which.strip() or None, told))) as reports,
        ):
            for report in reports:
                if isinstance(report, tuple):
                    done, total = (count / 1e6 for count in report)
                    yield {status: parts.progress_bar(f"Downloaded {done:.1f} of {total:.1f} MB", done / total)}
        yield {
            status: '<p class="dear-headline" role="status">Loaded.</p>',
            chosen: report,
            kept: "" if report == shelf.own else json.dumps(asdict(report)),
        }

    def ask(where: str) -> list[Any]:
        label = "Folder" if where == FOLDER else "Repository, as owner/name"
        return [gr.Textbox(label=label, visible=where != BUNDLED), gr.Textbox(visible=where == HUB)]

    kind.change(ask, kind, [place, revision], queue=False, **QUIET)
    loaded = gr.on(
        [button.click, place.submit, revision.submit, variant.submit], load, [kind, place, revision, variant],
        [status, chosen, kept], concurrency_limit=1, **QUIET,
    )  # fmt: skip
    loaded.failure(lambda: "", None, status, **QUIET)
    updates = updates | {facts: _facts}

    def follow(choice: Choice | None) -> list[Any]:
        """What all tabs become for a visitor who has chosen a model; for others they are as they should be."""
        if choice is None:
            return [gr.skip() for _ in updates]
        model = shelf.get(choice)
        return [update(model, choice) for update in updates.values()]

    def recall(text: str) -> Choice | None:
        """What this browser chose before, where it can still be had."""
        if not text:
            return None
        try:
            choice = Choice(**json.loads(text))
            shelf.get(choice)
        except (TypeError, ValueError) as error:
            gr.Warning(html.escape(f"The model that was loaded here before is not in use: {error}", quote=False))
            return None
        return choice

    loaded.success(follow, chosen, list(updates), **QUIET)
    loaded.success(None, kept, None, js=f"(text) => {{ {STORE} = text; }}", api_visibility="private")
    opened = page.load(recall, kept, chosen, js=f"() => {STORE} ?? ''", **QUIET)
    return opened.then(follow, chosen, list(updates), **QUIET).then


def _facts(model: AudioDEAR, chosen: Choice) -> str:
    head = model.config.variants[model.variant].head.kind
    count = sum(parameter.numel() for parameter in model.model.parameters())
    rows = {
        "from": chosen.words,
        "model": model.config.name,
        "variant": f"{model.variant} of {', '.join(model.config.variants)}",
        "head": f"{head}, {model.sampling.steps} step" + ("s" if model.sampling.steps > 1 else ""),
        "parameters": f"{count / 1e6:.1f} million",
        "tokens": f"{model.model.length} of {model.model.token_dim} values",
        "weights": model.digest,
        "device": str(model.device),
    }
    listed = "".join(f"<div><dt>{name}</dt><dd>{html.escape(str(value))}</dd></div>" for name, value in rows.items())
    return f'<div class="dear-facts"><p class="dear-headline">In use</p><dl>{listed}</dl></div>'
