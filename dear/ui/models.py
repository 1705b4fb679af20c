"""The tab that exchanges the model: the bundled one, a local folder, or a repository of the Hub."""

from __future__ import annotations

import html
import os
from typing import Any

import gradio as gr

from dear.ui import parts
from dear.ui.gpu import is_zero
from dear.ui.holder import Holder
from dear.ui.parts import QUIET, Update

FIXED = "AUDIODEAR_FIXED_MODEL"  # set to 1: visitors can't exchange the model
BUNDLED, FOLDER, HUB = "Bundled", "Local folder", "Hugging Face Hub"
SHARED = "One model serves this whole page: all its visitors get what is loaded here. Sounds in the making keep theirs."
CLOSED = (
    "The model of this page is fixed. Run it on a machine of your own (<code>python app.py</code>) to load another one."
)


def is_fixed() -> bool:
    """Whether visitors are kept from exchanging the model: in a Space unless the variable says 0.

    Under ZeroGPU always: the processes that compute would keep the model that they began with.
    """
    return is_zero() or os.environ.get(FIXED, "1" if os.environ.get("SPACE_ID") else "0") != "0"


def models_tab(holder: Holder, updates: dict[Any, Update]) -> dict[Any, Update]:
    """Lay out the tab inside the current Blocks. ``updates``: what follows from the model in all other tabs.

    Returns what follows from it in this one.
    """
    if is_fixed():
        gr.HTML(f'<div class="dear-model">{_facts(holder)}<p class="dear-note">{CLOSED}</p></div>')
        return {}
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
            gr.HTML(f'<p class="dear-note">{SHARED}</p>')
        with gr.Column(scale=7, min_width=320, elem_classes="dear-results"):
            facts = gr.HTML(_facts(holder), elem_id="model-facts")
            status = gr.HTML("", elem_id="model-status", elem_classes="dear-status")

    def load(where: str, name: str, commit: str, which: str, progress: Any = gr.Progress(track_tqdm=True)) -> list[str]:  # noqa: B008 - how Gradio is asked for it
        progress(0, desc="Loading")
        with parts.told():
            if where != BUNDLED and not name.strip():
                raise ValueError(f"model must be a checkpoint's folder or owner/name on the Hub, got {name!r}")
            holder.exchange(
                None if where == BUNDLED else name.strip(),
                commit.strip() or None if where == HUB else None,
                which.strip() or None,
            )
        return ['<p class="dear-headline" role="status">Loaded.</p>', _facts(holder)]

    def ask(where: str) -> list[Any]:
        label = "Folder" if where == FOLDER else "Repository, as owner/name"
        return [gr.Textbox(label=label, visible=where != BUNDLED), gr.Textbox(visible=where == HUB)]

    kind.change(ask, kind, [place, revision], queue=False, **QUIET)
    loaded = gr.on(
        [button.click, place.submit, revision.submit, variant.submit], load, [kind, place, revision, variant],
        [status, facts], show_progress_on=[status], concurrency_limit=1, api_visibility="private",
    )  # fmt: skip
    loaded.success(lambda: [update(holder.model) for update in updates.values()], None, list(updates), **QUIET)
    return {facts: lambda model: _facts(holder)}


def _facts(holder: Holder) -> str:
    model = holder.model
    head = model.config.variants[model.variant].head.kind
    count = sum(parameter.numel() for parameter in model.model.parameters())
    rows = {
        "from": holder.source,
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
