"""Controls that several tabs share, within the limits of the visitor's model."""

from __future__ import annotations

from typing import Any

import gradio as gr

from dear.options import OPTIONS
from dear.pipeline import AudioDEAR
from dear.ui.link import MAX_VARIATIONS
from dear.variations import LONGEST, SHORTEST

MAX_CANDIDATES = 8


def prompt_box(name: str, placeholder: str = "What should be heard?", **options: Any) -> gr.Textbox:
    return gr.Textbox(
        label="Prompt", placeholder=placeholder, lines=1, max_lines=5, elem_id=name, elem_classes="dear-prompt",
        **options,
    )  # fmt: skip


def seed_row(prefix: str = "") -> tuple[gr.Number, gr.Checkbox]:
    """A seed, and whether to keep it. Typing a seed or rolling the dice keeps it."""
    with gr.Row(elem_classes="dear-seed"):
        seed = gr.Number(0, label="Seed", precision=0, minimum=0, min_width=120, elem_id=f"{prefix}seed")
        dice = gr.Button("Roll", min_width=56, scale=0, elem_id=f"{prefix}dice", elem_classes="dear-dice")
        lock = gr.Checkbox(False, label="Keep", min_width=96, elem_id=f"{prefix}lock", elem_classes="dear-lock")
    roll = "() => [Math.floor(Math.random() * 2 ** 32), true]"
    dice.click(None, None, [seed, lock], js=roll, api_visibility="private")
    seed.input(None, None, lock, js="() => true", api_visibility="private")
    return seed, lock


def variant_radio(model: AudioDEAR, value: str | None = None) -> gr.Radio:
    """The variants of the checkpoint. value: None for that of ``model``."""
    choices = []
    for name, variant in model.config.variants.items():
        steps = variant.sampling.steps
        choices.append((f"{name}, {steps} step{'s' if steps > 1 else ''}", name))
    return gr.Radio(
        choices, value=value or model.variant, label="Variant", info="The model whose head draws the tokens.",
        visible=len(choices) > 1, elem_id="variant",
    )  # fmt: skip


def cfg_scale_slider(model: AudioDEAR, value: float | None = None, name: str = "cfg-scale") -> gr.Slider:
    option, value = OPTIONS["cfg_scale"], model.sampling.cfg_scale if value is None else value
    return gr.Slider(
        option.low, option.high, value, step=0.1, label="CFG scale", info=option.help, elem_id=name,
    )  # fmt: skip


def temperature_slider(model: AudioDEAR, value: float | None = None, name: str = "temperature") -> gr.Slider:
    option, value = OPTIONS["temperature"], model.sampling.temperature if value is None else value
    return gr.Slider(option.low, option.high, value, step=0.05, label="Temperature", info=option.help, elem_id=name)


def iterations_slider(model: AudioDEAR, value: int | None = None, name: str = "iterations") -> gr.Slider:
    length = model.model.length
    return gr.Slider(
        1, length, model.sampling.iterations if value is None else value, step=1, label="Iterations",
        info=OPTIONS["iterations"].help, elem_id=name,
    )  # fmt: skip


def steps_slider(model: AudioDEAR, value: int | None = None, name: str = "steps") -> gr.Slider:
    limit = model.model.head.max_steps
    return gr.Slider(
        1, max(limit, 2), model.sampling.steps if value is None else value, step=1, label="Steps",
        info=OPTIONS["steps"].help, visible=limit > 1, elem_id=name,
    )  # fmt: skip


def seconds_slider(model: AudioDEAR, value: float | None = None) -> gr.Slider:
    clip = model.config.mel.samples / model.sample_rate
    return gr.Slider(
        min(SHORTEST, clip), LONGEST, clip if value is None else value, step=0.5, label="Length", elem_id="seconds",
        info=f"In seconds. Beyond {clip:g}, the model continues the sound.",
    )  # fmt: skip


def negative_box(model: AudioDEAR, value: str | None = None) -> gr.Textbox:
    return gr.Textbox(
        value or "", label="Negative prompt", info="What should not be heard. It needs a CFG scale above 1.",
        max_lines=2, elem_id="negative",
    )  # fmt: skip


def candidates_slider(model: AudioDEAR, value: int | None = None) -> gr.Slider:
    return gr.Slider(
        1, MAX_CANDIDATES, value or 1, step=1, label="Candidates", elem_id="candidates",
        visible=model.vocabulary is not None,
        info="Off at 1. With more, a classifier keeps the one that matches the prompt best.",
    )  # fmt: skip


def changes_box(model: AudioDEAR, value: str | None = None) -> gr.Textbox:
    """The variations and loops of a link, shown where there are any."""
    return gr.Textbox(
        value or "", label="Then", visible=bool(value), elem_id="then",
        info="Changes of the generated sound, each with its seed. Clear this to keep the sound as it is.",
    )  # fmt: skip


def shown_variant_box(model: AudioDEAR, value: str | None = None) -> gr.Textbox:
    """The variant whose settings the sliders show, hidden. The browser sends it together with their values."""
    return gr.Textbox(value or model.variant, visible=False)


def variations_slider(model: AudioDEAR, value: int | None = None) -> gr.Slider:
    return gr.Slider(
        1, MAX_VARIATIONS, value or 1, step=1, label="Variations", info="Sounds to make, each from its own seed.",
        elem_id="variations",
    )  # fmt: skip
