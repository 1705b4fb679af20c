"""The visitor's own model: the browser remembers it, and the page follows it."""

from __future__ import annotations

import html
from typing import Any

import gradio as gr

from dear.ui.assets import load
from dear.ui.components.runs import QUIET
from dear.ui.context import Context
from dear.ui.model_registry import ModelChoice

# Not a gr.BrowserState: that of Gradio 6.31 loses its value when a page is opened again.
REMEMBER_JS = load("remember_model.js").rstrip()
RECALL_JS = load("recall_model.js").rstrip()
RECALLED_JS = load("recalled_model.js").rstrip()


def apply_choice(context: Context, choice: ModelChoice) -> dict[Any, Any]:
    """The new values of the page's components for a visitor who has this model."""
    model = context.models.get(choice)
    chosen = "" if choice == context.models.own else choice.to_json()
    return {context.chosen: chosen, **{each: update(model, choice) for each, update in context.model_updates.items()}}


def recall_model(context: Context) -> None:
    """When the page is opened, load the model that the browser remembers; then run the events of opening the page."""

    def recall(text: str | None) -> dict[Any, Any]:
        if not text:
            return {context.chosen: ""}
        try:
            return apply_choice(context, ModelChoice.from_json(text))
        except (ValueError, RuntimeError, OSError) as error:  # RuntimeError: too little memory
            gr.Warning(html.escape(f"The model that you used last time is not available: {error}", quote=False))
            return {context.chosen: ""}

    then = context.page.load
    if not context.models.fixed:
        opened = context.page.load(
            recall, context.chosen, [context.chosen, *context.model_updates], js=RECALL_JS, **QUIET
        )
        opened.failure(None, None, None, js=RECALLED_JS, api_visibility="private")
        then = opened.then(None, None, None, js=RECALLED_JS, api_visibility="private").then
    for event in context.open_events:
        done = then(event.function, event.inputs, event.outputs, **QUIET)
        if event.finished_js is not None:
            for after in (done.success, done.failure):
                after(None, None, None, js=event.finished_js, api_visibility="private")
