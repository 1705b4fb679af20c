"""The theme, the style sheets and the script of the page. No request goes to any other host."""

from __future__ import annotations

import gradio as gr
from gradio.themes.utils import colors, fonts

from dear.ui.assets import load
from dear.ui.context import Tab
from dear.visual import plots

TEAL = colors.Color(
    c50="#eff8f6", c100="#d8eeea", c200="#b3ddd6", c300="#84c4bb", c400="#4fa79e", c500="#2b8f8a",
    c600="#1f757d", c700="#1b5f68", c800="#194c55", c900="#173f47", c950="#0c252b", name="teal",
)  # fmt: skip
STONE = colors.Color(
    c50="#f7f8f7", c100="#eff1f0", c200="#e1e5e4", c300="#cbd1d0", c400="#9aa3a4", c500="#6a7476",
    c600="#525b5e", c700="#363e41", c800="#21282b", c900="#171d20", c950="#101517", name="stone",
)  # fmt: skip
# Gradio serves these fonts. Its file of weight 600 lacks the Latin letters, hence 700.
FONT = (fonts.LocalFont("IBM Plex Sans", weights=(400, 700)), "ui-sans-serif", "system-ui", "sans-serif")
MONO = (fonts.LocalFont("IBM Plex Mono", weights=(400, 700)), "ui-monospace", "monospace")

THEME = gr.themes.Base(
    primary_hue=TEAL, secondary_hue=TEAL, neutral_hue=STONE, radius_size="lg", font=FONT, font_mono=MONO
).set(
    body_background_fill="*neutral_50",
    body_background_fill_dark="*neutral_950",
    block_background_fill="white",
    block_background_fill_dark="*neutral_900",
    block_border_color="*neutral_200",
    block_border_color_dark="*neutral_800",
    block_border_width="1px",
    block_label_background_fill="transparent",
    block_label_background_fill_dark="transparent",
    block_label_border_width="0px",
    block_label_text_color="*neutral_600",
    block_label_text_color_dark="*neutral_300",
    block_title_text_color="*neutral_800",
    block_title_text_color_dark="*neutral_100",
    block_title_text_weight="600",
    block_info_text_color="*neutral_500",
    block_info_text_color_dark="*neutral_400",
    body_text_color="*neutral_800",
    body_text_color_dark="*neutral_100",
    body_text_color_subdued="*neutral_500",
    body_text_color_subdued_dark="*neutral_400",
    input_background_fill="white",
    input_background_fill_dark="*neutral_950",
    input_border_width="1px",
    input_border_color="*neutral_300",
    input_border_color_dark="*neutral_700",
    input_border_color_focus="*primary_500",
    input_border_color_focus_dark="*primary_400",
    button_primary_background_fill="*primary_600",
    button_primary_background_fill_hover="*primary_700",
    button_primary_background_fill_dark="*primary_600",
    button_primary_background_fill_hover_dark="*primary_700",
    button_primary_text_color="white",
    button_secondary_background_fill="white",
    button_secondary_background_fill_dark="*neutral_900",
    button_secondary_background_fill_hover="*neutral_100",
    button_secondary_background_fill_hover_dark="*neutral_800",
    button_secondary_border_color="*neutral_300",
    button_secondary_border_color_dark="*neutral_700",
    button_secondary_text_color="*neutral_800",
    button_secondary_text_color_dark="*neutral_100",
    button_border_width="1px",
    checkbox_label_background_fill="white",
    checkbox_label_background_fill_dark="*neutral_900",
    checkbox_label_background_fill_hover="*neutral_100",
    checkbox_label_background_fill_hover_dark="*neutral_800",
    checkbox_label_background_fill_selected="*primary_50",
    checkbox_label_background_fill_selected_dark="*primary_950",
    checkbox_label_border_width="1px",
    checkbox_label_border_color="*neutral_200",
    checkbox_label_border_color_dark="*neutral_700",
    slider_color="*primary_500",
    slider_color_dark="*primary_400",
    checkbox_background_color_selected="*primary_600",
    checkbox_background_color_selected_dark="*primary_500",
)

FILM_MS = 4000  # length of the film of a finished sound, however fast it was drawn
# Constants that assets refer to by name: the edges of a plot in percent, and the colours of loudness.
STYLE_VALUES = {
    "LEFT": f"{100 * plots.LEFT:g}",
    "SPAN": f"{100 * (plots.RIGHT - plots.LEFT):g}",
    "LOUDNESS": ", ".join(plots.LOUDNESS_COLOURS),
}
SCRIPT_VALUES = {"LEFT": f"{plots.LEFT:g}", "SPAN": f"{plots.RIGHT - plots.LEFT:g}", "FILM": str(FILM_MS)}
# outside.css styles what lies around the blocks: Gradio prefixes the rules of ``css`` so that they would not match.
HEAD = f"""
<style>
{load("outside.css")}</style>
<script>
{load("page.js", **SCRIPT_VALUES)}{load("zip.js")}{load("csv.js")}{load("takes.js")}</script>
"""


def css(*tabs: Tab) -> str:
    """The style sheet of a page with these tabs."""
    names = dict.fromkeys(["page.css", *(name for tab in tabs for name in tab.styles)])
    return "\n" + "\n".join(load(name, **STYLE_VALUES) for name in names)
