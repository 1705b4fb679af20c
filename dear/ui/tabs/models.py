"""The tab where a visitor chooses a model: the bundled one, a local folder, or a repository of the Hub."""

from __future__ import annotations

import html
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import gradio as gr

from dear.pipeline import AudioDEAR
from dear.ui.assets import load
from dear.ui.components import parts
from dear.ui.components.parts import QUIET, Update
from dear.ui.gpu import is_zero
from dear.ui.shelf import Choice, Shelf

FIXED = "AUDIODEAR_FIXED_MODEL"  # set to 1: visitors can't choose another model
OWN, BUNDLED, FOLDER, HUB = "This page's", "Bundled", "Local folder", "Hugging Face Hub"
YOURS = "What you load is yours alone, in this browser: other visitors keep what they have, and so do programs."
# A browser keeps what its visitor chose. Not a BrowserState: that of Gradio 6.31 loses it when a page is opened again.
# Storage may be closed to a page in a frame. While a model comes back, nothing can be pressed.
REMEMBER = "(text) => { try { localStorage.audiodearModel = text; } catch {} }"
RECALL = load("recall.js").rstrip()
RECALLED = "() => { document.querySelector('.dear-tabs').inert = false; }"
CLOSED = (
    "The model of this page is fixed. Run it on a machine of your own (<code>python app.py</code>) to load another one."
)


def is_fixed() -> bool:
    """Whether all visitors have the page's own model: in a Space unless the variable says 0.

    Under ZeroGPU always: what is loaded after the launch doesn't reach the processes that compute.
    """
    return is_zero() or os.environ.get(FIXED, "1" if os.environ.get("SPACE_ID") else "0") != "0"


def models_tab(page: gr.Blocks, shelf: Shelf, chosen: gr.Textbox, updates: dict[Any, Update]) -> Callable[..., Any]:
    """Lay out the tab inside the current Blocks, which is ``page``. ``chosen`` gets what is loaded here.

    updates: what follows from the model in all other tabs. Returns how to add what happens next, once a page that was
    opened has the model that its browser remembers.
    """
    own = _facts(shelf.get(None), shelf.own)
    if shelf.fixed:
        gr.HTML(f'<div class="dear-model">{own}<p class="dear-note">{CLOSED}</p></div>')
        return page.load
    ways = [BUNDLED, FOLDER, HUB] if shelf.own.source is None else [OWN, BUNDLED, FOLDER, HUB]
    with gr.Row(equal_height=False, elem_classes="dear-tab"):
        with gr.Column(scale=4, min_width=320, elem_classes="dear-controls"):
            kind = gr.Radio(
                ways,
                value=ways[0],
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

    updates = updates | {facts: _facts}

    def follow(choice: Choice) -> dict[Any, Any]:
        """What the page becomes for a visitor who has this model."""
        model = shelf.get(choice)
        kept = "" if choice == shelf.own else choice.write()
        return {chosen: kept, **{each: update(model, choice) for each, update in updates.items()}}

    def load(where: str, name: str, commit: str, which: str) -> Iterator[dict[Any, Any]]:
        yield {status: parts.progress_bar("Loading", 0)}
        with parts.told():
            if where == OWN:
                choice = shelf.own
            elif where in (FOLDER, HUB) and not name.strip():
                raise ValueError(f"model must be a checkpoint's folder or owner/name on the Hub, got {name!r}")
            else:
                source = name.strip() if where in (FOLDER, HUB) else None
                asked = source, commit.strip() or None if where == HUB else None, which.strip() or None
                # Nobody waits for a download whose visitor has left; it may go on for long before its next report.
                with closing(parts.watch(lambda told: shelf.load(*asked, told), end=False)) as reports:
                    for choice in reports:
                        if isinstance(choice, tuple):
                            done, total = (count / 1e6 for count in choice)
                            yield {status: parts.progress_bar(f"Downloaded {done:.1f} of {total:.1f} MB", done / total)}
            yield {status: '<p class="dear-headline" role="status">Loaded.</p>', **follow(choice)}

    def ask(where: str) -> list[Any]:
        label = "Folder" if where == FOLDER else "Repository, as owner/name"
        named, hub = where in (FOLDER, HUB), where == HUB
        return [gr.Textbox(label=label, visible=named), gr.Textbox(visible=hub), gr.Textbox(visible=where != OWN)]

    def recall(text: str | None) -> dict[Any, Any]:
        """What this browser chose before, where it can still be had."""
        if not text:
            return {chosen: ""}
        try:
            return follow(Choice.read(text))
        except (ValueError, RuntimeError, OSError) as error:  # too little memory, too
            gr.Warning(html.escape(f"The model that was loaded here before is not in use: {error}", quote=False))
            return {chosen: ""}

    kind.change(ask, kind, [place, revision, variant], queue=False, **QUIET)
    loaded = gr.on(
        [button.click, place.submit, revision.submit, variant.submit], load, [kind, place, revision, variant],
        [status, chosen, *updates], show_progress="minimal", show_progress_on=[status], concurrency_limit=1,
        api_visibility="private",
    )  # fmt: skip
    loaded.failure(lambda: "", None, status, **QUIET)
    loaded.success(None, chosen, None, js=REMEMBER, api_visibility="private")
    opened = page.load(recall, chosen, [chosen, *updates], js=RECALL, **QUIET)
    opened.failure(None, None, None, js=RECALLED, api_visibility="private")
    return opened.then(None, None, None, js=RECALLED, api_visibility="private").then


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
