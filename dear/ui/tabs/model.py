"""The tab where a visitor chooses a model: the bundled one, a local folder, or a repository on the Hub."""

from __future__ import annotations

import html
import os
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import gradio as gr

from dear.pipeline import AudioDEAR
from dear.ui.callers import current_caller
from dear.ui.components.runs import QUIET, Start, page_errors, progress_bar, refusal, run_buttons, runs, watch
from dear.ui.context import Context, Tab
from dear.ui.gpu import is_zero
from dear.ui.model_registry import MAX_LOADS, ModelChoice
from dear.ui.visitor import REMEMBER_JS, apply_choice

FIXED = "AUDIODEAR_FIXED_MODEL"  # 1: visitors can't choose another model
FOLDERS = "AUDIODEAR_LOCAL_FOLDERS"  # 1: visitors may load models from folders of this machine
OWN, BUNDLED, FOLDER, HUB = "This page's", "Bundled", "Local folder", "Hugging Face Hub"
PRIVATE = "The model that you load is used in this browser only. Other visitors and programs keep theirs."
LOADED = '<p class="dear-headline" role="status">Loaded.</p>'
CLOSED = "Everyone who visits this page uses this model."


def is_fixed() -> bool:
    """Whether all visitors use the page's own model. This is the default in a Space; the variable changes it.

    Under ZeroGPU it is always so, because models that are loaded after the launch do not reach the processes that
    compute.
    """
    return is_zero() or os.environ.get(FIXED, "1" if os.environ.get("SPACE_ID") else "0") != "0"


def allows_folders() -> bool:
    """Whether visitors may load models from folders of this machine; only where the host says so."""
    return os.environ.get(FOLDERS, "0") != "0"


def build(context: Context) -> None:
    models = context.models
    own = _facts(models.get(None), models.own)
    if models.fixed:
        gr.HTML(f'<div class="dear-model">{own}<p class="dear-note">{CLOSED}</p></div>')
        return
    kinds = [*([] if models.own.source is None else [OWN]), BUNDLED, *([FOLDER] if models.folders else []), HUB]
    with gr.Row(equal_height=False, elem_classes="dear-tab"):
        with gr.Column(scale=4, min_width=320, elem_classes="dear-controls"):
            kind = gr.Radio(kinds, value=kinds[0], label="Source", elem_id="model-kind", elem_classes="dear-pick")
            with gr.Group(elem_classes="dear-settings"):
                place = gr.Textbox(label="Folder", visible=False, elem_id="model-place")
                revision = gr.Textbox(
                    label="Revision", info="Branch, tag or commit. Leave empty for the latest.", visible=False,
                    elem_id="model-revision",
                )  # fmt: skip
                variant = gr.Textbox(
                    label="Variant", info="Such as student or teacher. Leave empty for the checkpoint's default.",
                    elem_id="model-variant",
                )  # fmt: skip
            button, stop = run_buttons("Load", "model-load")
            gr.HTML(f'<p class="dear-note">{PRIVATE}</p>')
        with gr.Column(scale=7, min_width=320, elem_classes="dear-results"):
            facts = gr.HTML(own, elem_id="model-facts")
            status = gr.HTML("", elem_id="model-status", elem_classes="dear-status")
    context.model_updates[facts] = _facts

    def load(source: str, name: str, commit: str, variant_name: str) -> Iterator[dict[Any, Any]]:
        name = name.strip()
        if source == FOLDER and not name:
            raise refusal("Enter the path of a checkpoint's folder.")
        if source == HUB and not name:
            raise refusal("Enter a repository as owner/name.")
        yield {status: progress_bar("Loading", 0)}
        with page_errors():
            if source == OWN:
                choice = models.own
            else:
                origin = name if source in (FOLDER, HUB) else None
                request = origin, commit.strip() or None if source == HUB else None, variant_name.strip() or None
                caller = current_caller()
                # The next report of a download may take long.
                loading = watch(lambda progress: models.load(*request, progress, caller), wait_on_close=False)
                with closing(loading) as reports:
                    for choice in reports:
                        if isinstance(choice, tuple):
                            done, total = (count / 1e6 for count in choice)
                            text = f"Downloaded {done:.1f} of {total:.1f} MB" if total else "Loading"
                            yield {status: progress_bar(text, done / total if total else 0)}
            changes = apply_choice(context, choice)
        yield {status: LOADED, **changes, stop: gr.Button(interactive=False)}

    def show_fields(source: str) -> list[Any]:
        label = "Folder" if source == FOLDER else "Repository, as owner/name"
        named, hub = source in (FOLDER, HUB), source == HUB
        return [gr.Textbox(label=label, visible=named), gr.Textbox(visible=hub), gr.Textbox(visible=source != OWN)]

    def connect() -> None:
        """Let a loaded model change the components of all tabs."""
        triggers = [button.click, place.submit, revision.submit, variant.submit]
        start = Start(triggers, load, [kind, place, revision, variant])
        outputs = [status, context.chosen, *context.model_updates, stop]
        (loaded,) = runs([start], outputs, stop, status, {"concurrency_limit": MAX_LOADS})
        loaded.success(None, context.chosen, None, js=REMEMBER_JS, api_visibility="private")

    kind.change(show_fields, kind, [place, revision, variant], queue=False, **QUIET)
    context.connect(connect)


def _facts(model: AudioDEAR, choice: ModelChoice) -> str:
    head = model.config.variants[model.variant].head.kind
    count = sum(parameter.numel() for parameter in model.model.parameters())
    rows = {
        "from": choice.origin,
        "model": model.config.name,
        "variant": model.variant,
        "variants": ", ".join(model.config.variants),
        "head": f"{head}, {model.sampling.steps} step" + ("s" if model.sampling.steps > 1 else ""),
        "parameters": f"{count / 1e6:.1f} million",
        "tokens": f"{model.model.length} of {model.model.token_dim} values",
        "weights": model.digest,
        "device": str(model.device),
    }
    listed = "".join(f"<div><dt>{name}</dt><dd>{html.escape(str(value))}</dd></div>" for name, value in rows.items())
    return f'<div class="dear-facts"><p class="dear-headline">In use</p><dl>{listed}</dl></div>'


TAB = Tab("model", "Model", build, styles=("model.css",))
