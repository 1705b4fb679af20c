"""Prompts to pick, as chips: examples, the sounds of each family, and the known prompts nearest to another one."""

from __future__ import annotations

import html
from collections.abc import Sequence

import gradio as gr

from dear.ui.assets import load
from dear.vocabulary import KnownSound, Nearest, Vocabulary

SINGLES, PAIRS = 3, 3  # examples of one sound and of two
PICK_JS = load("pick.js").rstrip()  # tells the page which prompt was picked, then triggers a click
# The picked prompt in place of the second input of a run.
PICKED_JS = "(chosen, prompt, ...rest) => [chosen, window.dearPicked ?? prompt, ...rest]"


def picker(value: str, name: str) -> gr.HTML:
    """A component whose ``click`` means that a prompt was picked. value: HTML with :func:`chip`."""
    return gr.HTML(value, js_on_load=PICK_JS, elem_id=name, elem_classes="dear-examples")


def chip(prompt: str, clause: str = "") -> str:
    """A button that picks ``prompt``. clause: the same as a clause, from which random compositions are made."""
    text = html.escape(prompt)
    extra = f' data-clause="{html.escape(clause)}"' if clause else ""
    return f'<button type="button" class="dear-chip" data-prompt="{text}"{extra}>{text}</button>'


def examples(vocabulary: Vocabulary) -> list[str]:
    """Single sounds and compositions of two, of as many families as there are."""
    families = [list(family.values()) for family in vocabulary.families.values()]
    # The first sounds of all families, then the second ones, and so on.
    sounds = [family[i] for i in range(max(map(len, families))) for family in families if i < len(family)]
    singles, rest = sounds[:SINGLES], sounds[SINGLES:] + sounds[:SINGLES]
    pairs = [(rest[(2 * i) % len(rest)], rest[(2 * i + 1) % len(rest)]) for i in range(PAIRS)]
    joined = [
        f"{one.clauses[0]}{' while ' if i % 2 else ', then '}{two.clauses[0]}" for i, (one, two) in enumerate(pairs)
    ]
    return list(dict.fromkeys([_title(sound) for sound in singles] + joined))


def examples_html(vocabulary: Vocabulary | None) -> str:
    """Examples, and a button for a random prompt; empty for a model without a vocabulary."""
    if vocabulary is None:
        return ""
    random = '<button type="button" class="dear-chip dear-random" data-random>Random prompt</button>'
    return f'<p class="dear-note">Try one of these</p>{_group([*map(chip, examples(vocabulary)), random])}'


def families_html(vocabulary: Vocabulary | None) -> str:
    """A button for each family, which unfolds the sounds of it."""
    if vocabulary is None:
        return '<p class="dear-note">This model does not say which sounds it knows.</p>'
    buttons, panels = [], []
    for name, family in vocabulary.families.items():
        title = html.escape(name.replace("_", " ").capitalize())
        buttons.append(
            f'<button type="button" class="dear-chip dear-family" aria-expanded="false" data-panel="family-{name}">'
            f"{title} <small>{len(family)}</small></button>"
        )
        chips = [chip(_title(sound), sound.clauses[0]) for sound in family.values()]
        panels.append(f'<div id="family-{name}" hidden>{_group(chips, title)}</div>')
    count = len(vocabulary.sounds)
    note = f'<p class="dear-note">This model knows {count} sound{"s" if count > 1 else ""}. Pick one:</p>'
    return note + _group(buttons, "Families of sounds") + "".join(panels)


def nearest_html(nearest: Nearest | None) -> str:
    """The unknown parts of a prompt and the nearest known prompts, or an empty text if the model knows all of it."""
    if nearest is None or nearest.known:
        return ""
    unknown = [part for part in nearest.parts if not part.known]
    names = " and ".join(f"“<bdi>{html.escape(part.text)}</bdi>”" for part in unknown)
    texts = dict.fromkeys(wording.text for part in unknown for wording in part.wordings)
    return (
        f'<div class="dear-unknown" role="status"><p><strong>The model was not trained on anything like {names}.'
        "</strong> The result may be another sound. The nearest prompts that it knows:</p>"
        f"{_group(map(chip, texts))}</div>"
    )


def _title(sound: KnownSound) -> str:
    return next((noun for noun in sound.nouns if " " in noun), sound.nouns[0])


def _group(chips: Sequence[str] | map[str], label: str = "Prompts") -> str:
    """Chips in a row, which is one stop of the keyboard; arrows move among them."""
    return f'<div class="dear-chips" role="group" aria-label="{label}">{"".join(chips)}</div>'
