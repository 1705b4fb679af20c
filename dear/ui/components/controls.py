"""Controls for what a generation follows from, in the bounds of the model that the page has."""

from __future__ import annotations

import gradio as gr

from dear.pipeline import AudioDEAR
from dear.ui.link import MAX_VARIATIONS


def head_radio(model: AudioDEAR, value: str | None = None) -> gr.Radio:
    """The variants of the checkpoint, each with its head. value: None for that of ``model``."""
    choices = []
    for name, variant in model.config.variants.items():
        steps = variant.sampling.steps
        choices.append((f"{name}: {variant.head.kind}, {steps} step{'s' if steps > 1 else ''}", name))
    return gr.Radio(
        choices, value=value or model.variant, label="Head", info="What draws each token.", visible=len(choices) > 1,
        elem_id="head",
    )  # fmt: skip


def cfg_slider(model: AudioDEAR, value: float | None = None, name: str = "cfg-scale") -> gr.Slider:
    value = model.sampling.cfg_scale if value is None else value
    return gr.Slider(
        0, 20, value, step=0.1, label="CFG scale",
        info="How closely to follow the prompt; 1 is without guidance.", elem_id=name,
    )  # fmt: skip


def temperature_slider(model: AudioDEAR, value: float | None = None, name: str = "temperature") -> gr.Slider:
    value = model.sampling.temperature if value is None else value
    return gr.Slider(
        0, 2, value, step=0.05, label="Temperature", info="Less is safer and plainer, more is freer.", elem_id=name
    )


def iterations_slider(model: AudioDEAR, value: int | None = None, name: str = "iterations") -> gr.Slider:
    length = model.model.length
    return gr.Slider(
        1, length, model.sampling.iterations if value is None else value, step=1, label="Iterations",
        info=f"Passes in which the {length} tokens are drawn; fewer are faster.", elem_id=name,
    )  # fmt: skip


def steps_slider(model: AudioDEAR, value: int | None = None, name: str = "steps") -> gr.Slider:
    most = model.model.head.max_steps
    return gr.Slider(
        1, max(most, 2), model.sampling.steps if value is None else value, step=1, label="Steps",
        info="Denoising steps of the head for each token; fewer are faster.", visible=most > 1, elem_id=name,
    )  # fmt: skip


def variations_slider(model: AudioDEAR, value: int | None = None) -> gr.Slider:
    return gr.Slider(
        1, MAX_VARIATIONS, value or 1, step=1, label="Variations",
        info="Sounds for the same prompt, each from a seed of its own.", elem_id="variations",
    )  # fmt: skip
