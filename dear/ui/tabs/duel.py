"""The tab where a many-step teacher and its one-step student draw the same prompt: against the clock, or blind."""

from __future__ import annotations

import html
import math
import random
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr

from dear.output import Output
from dear.ui.components import parts
from dear.ui.components.parts import KEEP, QUIET
from dear.ui.gpu import on_gpu
from dear.ui.shelf import Shelf

STUDENT, TEACHER = "student", "teacher"
SIDES = ("A", "B")
RACE, BLIND = "With clocks", "Blind"
TOLD_EVERY = 0.25  # seconds between pictures of each of the two in progress
GPU_SECONDS = 60  # that both together are allowed under ZeroGPU
ABOUT = (
    "The same prompt and the same seed, each with its own default settings. They take turns, iteration by iteration: "
    "whoever has had less time is next, so the clocks run side by side until one is done. A clock counts what its own "
    "model computes, from the text to the sound, and not the pictures that are drawn meanwhile. Blind, the two are "
    "shuffled, and their clocks are hidden until you have chosen."
)


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % confidence interval of a share (Wilson's score interval). Raises ValueError without any trial."""
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(f"successes must be 0 to trials, and trials at least 1, got {successes} of {trials}")
    z = 1.959964
    share, spread = successes / trials, z * z / trials
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / trials + spread / (4 * trials))
    return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(frozen=True)
class Tally:
    """A visitor's votes."""

    student: int = 0
    teacher: int = 0
    neither: int = 0

    def text(self) -> str:
        votes = self.student + self.teacher
        undecided = f"; {self.neither} without a difference" if self.neither else ""
        if not votes:
            return f"No blind choice yet{undecided}."
        low, high = wilson(self.student, votes)
        return (
            f"The student was better in {self.student} of {votes}: {100 * self.student / votes:.0f} %, "
            f"95 % confidence interval {100 * low:.0f} to {100 * high:.0f} %{undecided}."
        )


@dataclass(frozen=True)
class Trial:
    """Two sounds, and who made those of sides A and B."""

    order: tuple[str, str]
    titles: dict[str, str]  # of each variant, with its settings
    seconds: dict[str, float]
    bodies: dict[str, str]  # picture and player of each side
    voted: bool


def duel_tab(shelf: Shelf, chosen: gr.Textbox, folder: Path) -> None:
    """Lay out the tab inside the current Blocks."""
    with gr.Row(equal_height=False, elem_classes="dear-tab"):
        with gr.Column(scale=4, min_width=320, elem_classes="dear-controls"):
            prompt = parts.prompt_box("duel-prompt")
            button, stop = parts.go_row("Let both draw it", "duel")
            with gr.Group(elem_classes="dear-settings"):
                mode = gr.Radio([RACE, BLIND], value=RACE, label="How", elem_id="duel-mode")
                seed, lock = parts.seed_row("duel-")
            gr.HTML(f'<p class="dear-note">{ABOUT}</p>')
        with gr.Column(scale=8, min_width=320, elem_classes="dear-results"):
            with gr.Row(elem_classes="dear-duel"):
                sides = [gr.HTML(_blank(name), elem_id=f"duel-{name}") for name in (STUDENT, TEACHER)]
            status = gr.HTML("", elem_id="duel-status", elem_classes="dear-status")
            with gr.Row(visible=False, elem_classes="dear-tools") as votes:
                vote = [
                    gr.Button(text, size="sm", elem_id=f"vote-{i}")
                    for i, text in enumerate(("A is better", "No difference", "B is better"))
                ]
            score = gr.HTML(_score(Tally()), elem_id="tally")
    trial = gr.State(None, time_to_live=KEEP)
    tally = gr.State(Tally())

    @on_gpu(GPU_SECONDS)
    def draw(which: str, text: str, number: int) -> Generator[Any, None, None]:
        """The title and the mel's configuration of each; then each result as it comes, as (name, output)."""
        with parts.told():
            models = {name: shelf.get(which, name) for name in (STUDENT, TEACHER)}
            streams = {name: model.stream(text, seed=number) for name, model in models.items()}
            yield {name: (_title(name, model), model.config.mel) for name, model in models.items()}
            spent = dict.fromkeys(streams, 0.0)
            while streams:
                name = min(streams, key=lambda each: spent[each])
                out = next(streams[name])
                spent[name] = _seconds(out)
                if out.iteration == out.iterations:
                    del streams[name]
                yield name, out

    def run(which: str, text: str, how: str, number: float | None, keep: bool) -> Iterator[dict[Any, Any]]:
        blind = how == BLIND
        with parts.told():
            named = shelf.get(which).config.variants
            if not {STUDENT, TEACHER} <= set(named):
                raise ValueError(f"model must have a teacher and a student, got {', '.join(named)}")
            first = parts.seed_of(number, keep)
            shelf.get(which).stream(text, seed=first)  # checks the input before anything is loaded
            yield {status: parts.progress_bar("Loading", 0), votes: gr.Row(visible=False), seed: first, trial: None}
            for name in (STUDENT, TEACHER):
                shelf.get(which, name)
        order = (STUDENT, TEACHER)
        if blind and random.getrandbits(1):
            order = (TEACHER, STUDENT)
        place = dict(zip(order, sides, strict=True))
        shares = dict.fromkeys(order, 0.0)
        told_at = dict.fromkeys(order, 0.0)
        seconds: dict[str, float] = {}
        bodies: dict[str, str] = {}
        with closing(draw(which, text, first)) as reports:
            known = next(reports)
            titles = {name: title for name, (title, _) in known.items()}
            names = {name: SIDES[order.index(name)] for name in order} if blind else titles
            yield {status: "", **{place[name]: _blank(names[name]) for name in order}}
            for name, out in reports:
                shares[name] = out.iteration / out.iterations
                label = f"Mel spectrogram of sound {SIDES[order.index(name)]}"
                if shares[name] == 1:
                    seconds[name] = _seconds(out)
                    player = parts.player(parts.store(out, folder), f"Sound {SIDES[order.index(name)]}")
                    bodies[name] = parts.strip(out, known[name][1], label) + player
                    if not blind:
                        yield {place[name]: _done(titles[name], seconds[name], bodies[name])}
                elif time.perf_counter() - told_at[name] >= TOLD_EVERY:
                    told_at[name] = time.perf_counter()
                    if blind:
                        yield {status: parts.progress_bar("Drawing both", sum(shares.values()) / 2)}
                    else:
                        picture = parts.strip(out, known[name][1], f"{label}, in progress")
                        yield {place[name]: _running(titles[name], _seconds(out), shares[name], picture)}
        found = Trial(order, titles, seconds, bodies, voted=not blind)
        yield {stop: gr.Button(interactive=False), trial: found, status: "", votes: gr.Row(visible=blind)}
        if blind:
            yield {place[name]: _done(names[name], None, bodies[name]) for name in order}
        else:
            times = f"{seconds[TEACHER] / seconds[STUDENT]:.1f}"
            yield {
                status: f'<p class="dear-headline" role="status">The student took 1/{times} of the teacher\'s time.</p>'
            }

    def choose(found: Trial | None, counted: Tally, which: int) -> dict[Any, Any]:
        """Count a vote once, and reveal who was who."""
        if found is None:
            raise parts.forgotten("Let both draw it")
        if found.voted:
            return {votes: gr.Row(visible=False)}
        winner = {0: found.order[0], 1: "neither", 2: found.order[1]}[which]
        counted = replace(counted, **{winner: getattr(counted, winner) + 1})
        revealed = {
            place: _done(f"{side}: {found.titles[name]}", found.seconds[name], found.bodies[name])
            for place, side, name in zip(sides, SIDES, found.order, strict=True)
        }
        return {
            votes: gr.Row(visible=False),
            trial: replace(found, voted=True),
            tally: counted,
            score: _score(counted),
            **revealed,
        }

    triggers = [button.click, prompt.submit]
    parts.runs(
        [(triggers, run, [chosen, prompt, mode, seed, lock])], [*sides, stop, status, votes, seed, trial], stop, status
    )
    for i, each in enumerate(vote):
        each.click(
            lambda found, counted, which=i: choose(found, counted, which), [trial, tally],
            [*sides, votes, trial, tally, score], **QUIET,
        )  # fmt: skip


def _title(name: str, model: Any) -> str:
    steps = model.sampling.steps
    return f"{name.capitalize()}, {steps} step" + ("s" if steps > 1 else "")


def _blank(title: str) -> str:
    blank = '<div class="dear-blank"></div>'
    return f'<article class="dear-cell"><h3>{html.escape(title.capitalize())}</h3>{blank}</article>'


def _seconds(out: Output) -> float:
    """What one's own clock shows: a result's own computing, without the mels of the partial results before it."""
    stages = out.timings
    return stages["text"] + stages["decode"] + stages["codec"] / out.iteration + stages["vocoder"]


def _running(title: str, seconds: float, share: float, picture: str) -> str:
    return (
        f'<article class="dear-cell"><h3>{html.escape(title)}</h3><p class="dear-clock">{seconds:.1f} <small>s</small>'
        f'</p>{picture}<div class="dear-bar"><span style="width:{100 * share:.1f}%"></span></div></article>'
    )


def _done(title: str, seconds: float | None, body: str) -> str:
    clock = "" if seconds is None else f'<p class="dear-clock">{seconds:.2f} <small>s</small></p>'
    return f'<article class="dear-cell"><h3>{html.escape(title)}</h3>{clock}{body}</article>'


def _score(tally: Tally) -> str:
    return f'<p class="dear-note" role="status">{tally.text()}</p>'
