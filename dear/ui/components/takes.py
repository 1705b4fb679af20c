"""Takes: every finished sound, kept in the visitor's own browser. ``assets/takes.js`` holds their behaviour."""

from __future__ import annotations

import json
from collections.abc import Sequence
from urllib.parse import quote

import gradio as gr

from dear.output import Output
from dear.ui.assets import load
from dear.ui.link import MORE, OPTIONS, write_link

SETTINGS = ("variant", *OPTIONS, *MORE, "candidates", "strength", "loop", "changes", "digest")  # of a take
ADD_JS = "(text) => window.dearTakes.add(text)"
# Events of the component, with what they ask for and what JavaScript gives to them.
LINK_JS = "(chosen, _) => [chosen, window.dearTakes.link()]"


def panel() -> gr.HTML:
    """The takes. ``select`` restores the settings of one, ``edit`` and ``submit`` send one to another tab."""
    html = load("takes.html")
    return gr.HTML(html, js_on_load="window.dearTakes.attach(element, trigger)", elem_id="takes")


def describe(out: Output, files: Sequence[str], pictures: Sequence[str]) -> str:
    """The sounds of a finished generation as JSON, for the browser. files, pictures: one for each sound."""
    return json.dumps(
        [
            {
                "file": f"gradio_api/file={quote(file)}",
                "picture": picture,
                "prompt": one.prompts[0],
                "seed": one.seed,
                "settings": {name: one.settings[name] for name in SETTINGS if name in one.settings},
                "link": write_link(one),
            }
            for one, file, picture in zip(out, files, pictures, strict=True)
        ]
    )
