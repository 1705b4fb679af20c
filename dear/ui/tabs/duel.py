"""The tab where the teacher and the student draw the same prompt, against the clock or blind."""

from __future__ import annotations

import html
import math
import random
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import gradio as gr

from dear.loudness import PAGE
from dear.output import Output
from dear.pipeline import AudioDEAR
from dear.ui.components import checks, controls
from dear.ui.components.files import LIFETIME, player, store, store_anonymous
from dear.ui.components.pictures import strip
from dear.ui.components.runs import QUIET, Start, expired, page_errors, progress_bar, refusal, run_buttons, runs
from dear.ui.context import Context, Tab
from dear.ui.gpu import on_gpu

STUDENT, TEACHER = "student", "teacher"
SIDES = ("A", "B")
RACE, BLIND = "With clocks", "Blind"
START = "Generate with both"
REPORT_INTERVAL = 0.25  # seconds between pictures of each of the two in progress
ABOUT = (
    "Both models get the same prompt and the same seed, each with its own default settings. They take turns: the one "
    "that has used less time computes its next iteration. Each clock counts the computing time of its model, from text "
    "to sound, without the pictures. In blind mode, the sides are shuffled, both sounds play at the same loudness, and "
    "clocks and pictures stay hidden until you vote."
)


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % confidence interval of a proportion (Wilson's score interval). Raises ValueError without any trial."""
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(f"successes must be 0 to trials, and trials at least 1, got {successes} of {trials}")
    z = 1.959964
    share, spread = successes / trials, z * z / trials
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / trials + spread / (4 * trials))
    return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(frozen=True)
class Tally:
    """A visitor's blind votes."""

    student: int = 0
    teacher: int = 0
    neither: int = 0

    def text(self) -> str:
        votes = self.student + self.teacher
        ties = f"; {self.neither} without a difference" if self.neither else ""
        if not votes:
            return f"No blind vote yet{ties}."
        low, high = wilson(self.student, votes)
        preferred = f"{self.student} of {votes} vote" + ("s" if votes > 1 else "")
        return (
            f"You preferred the student in {preferred}: {100 * self.student / votes:.0f} %, "
            f"95 % confidence interval {100 * low:.0f} to {100 * high:.0f} %{ties}."
        )


@dataclass(frozen=True)
class Trial:
    """Two sounds, and the variants on sides A and B."""

    order: tuple[str, str]
    titles: dict[str, str]  # of each variant, with its settings
    seconds: dict[str, float]
    bodies: dict[str, str]  # picture and player of each variant
    voted: bool


def build(context: Context) -> None:
    models, folder = context.models, context.folder
    with gr.Row(equal_height=False, elem_classes="dear-tab"):
        with gr.Column(scale=4, min_width=320, elem_classes="dear-controls"):
            prompt = controls.prompt_box("duel-prompt")
            start, stop = run_buttons(START, "duel")
            with gr.Group(elem_classes="dear-settings"):
                mode = gr.Radio([RACE, BLIND], value=RACE, label="Mode", elem_id="duel-mode")
                seed, lock = controls.seed_row("duel-")
            gr.HTML(f'<p class="dear-note">{ABOUT}</p>')
        with gr.Column(scale=8, min_width=320, elem_classes="dear-results"):
            status = gr.HTML("", elem_id="duel-status", elem_classes="dear-status")
            with gr.Row(elem_classes="dear-duel"):
                sides = [gr.HTML(_blank(name), elem_id=f"duel-{name}") for name in (STUDENT, TEACHER)]
            with gr.Row(visible=False, elem_classes="dear-tools") as votes:
                buttons = [
                    gr.Button(text, size="sm", elem_id=f"vote-{i}")
                    for i, text in enumerate(("A is better", "No difference", "B is better"))
                ]
            score = gr.HTML(_score(Tally()), elem_id="tally")
    latest = gr.State(None, time_to_live=LIFETIME)
    tally = gr.State(Tally())

    @on_gpu(sounds=2)
    def draw(chosen: str, text: str, number: int) -> Generator[Any, None, None]:
        """The title and the mel configuration of each variant; then each result as it comes, as (name, output)."""
        with page_errors():
            variants = {name: models.get(chosen, name) for name in (STUDENT, TEACHER)}
            streams = {name: model.stream(text, seed=number, loudness=PAGE) for name, model in variants.items()}
            yield {name: (_title(name, model), model.config.mel) for name, model in variants.items()}
            spent = dict.fromkeys(streams, 0.0)
            while streams:
                name = min(streams, key=lambda each: spent[each])
                out = next(streams[name])
                spent[name] = _seconds(out)
                if out.iteration == out.iterations:
                    del streams[name]
                yield name, out

    def run(chosen: str, text: str, how: str, number: float | None, keep: bool) -> Iterator[dict[Any, Any]]:
        blind = how == BLIND
        checks.check_prompt(text)
        first = checks.resolve_seed(number, keep)
        with page_errors():
            if not {STUDENT, TEACHER} <= set(models.get(chosen).config.variants):
                raise refusal("This model has no teacher and student to compare. Choose another one in the tab Model.")
            yield {
                status: progress_bar("Loading both models", 0),
                votes: gr.Row(visible=False),
                seed: first,
                latest: None,
            }
            for name in (STUDENT, TEACHER):
                models.get(chosen, name)
        order = (STUDENT, TEACHER)
        if blind and random.getrandbits(1):
            order = (TEACHER, STUDENT)
        place = dict(zip(order, sides, strict=True))
        shares = dict.fromkeys(order, 0.0)
        reported_at = dict.fromkeys(order, 0.0)
        seconds: dict[str, float] = {}
        bodies: dict[str, str] = {}
        heard: dict[str, str] = {}  # in blind mode, before the vote
        with closing(draw(chosen, text, first)) as reports:
            known = next(reports)
            titles = {name: title for name, (title, _) in known.items()}
            names = {name: SIDES[order.index(name)] for name in order} if blind else titles
            yield {status: "", **{place[name]: _blank(names[name]) for name in order}}
            for name, out in reports:
                shares[name] = out.iteration / out.iterations
                side = SIDES[order.index(name)]
                label = f"Mel spectrogram of sound {side}"
                if shares[name] == 1:
                    seconds[name] = _seconds(out)
                    picture = strip(out, known[name][1], label)
                    bodies[name] = picture + player(store(out, folder), f"Sound {side}")
                    heard[name] = player(store_anonymous(out, folder, level=True), f"Sound {side}")
                    if not blind:
                        yield {place[name]: _done(titles[name], seconds[name], bodies[name])}
                elif time.perf_counter() - reported_at[name] >= REPORT_INTERVAL:
                    reported_at[name] = time.perf_counter()
                    if blind:
                        yield {status: progress_bar("Generating both sounds", sum(shares.values()) / 2)}
                    else:
                        picture = strip(out, known[name][1], f"{label}, in progress")
                        yield {place[name]: _running(titles[name], _seconds(out), shares[name], picture)}
        trial = Trial(order, titles, seconds, bodies, voted=not blind)
        yield {stop: gr.Button(interactive=False), latest: trial, status: "", votes: gr.Row(visible=blind)}
        if blind:
            yield {place[name]: _done(names[name], None, heard[name]) for name in order}
        else:
            ratio = f"{seconds[TEACHER] / seconds[STUDENT]:.1f}"
            sentence = f"The student was {ratio} times as fast as the teacher."
            yield {status: f'<p class="dear-headline" role="status">{sentence}</p>'}

    def vote(button: int, trial: Trial | None, counted: Tally) -> dict[Any, Any]:
        """Count a vote once, and reveal the sides."""
        if trial is None:
            raise expired(START)
        if trial.voted:
            return {votes: gr.Row(visible=False)}
        winner = (trial.order[0], "neither", trial.order[1])[button]
        counted = replace(counted, **{winner: getattr(counted, winner) + 1})
        revealed = {
            place: _done(f"{side}: {trial.titles[name]}", trial.seconds[name], trial.bodies[name])
            for place, side, name in zip(sides, SIDES, trial.order, strict=True)
        }
        return {
            votes: gr.Row(visible=False),
            latest: replace(trial, voted=True),
            tally: counted,
            score: _score(counted),
            **revealed,
        }

    inputs = [context.chosen, prompt, mode, seed, lock]
    runs([Start([start.click, prompt.submit], run, inputs)], [*sides, stop, status, votes, seed, latest], stop, status)
    for i, each in enumerate(buttons):
        each.click(partial(vote, i), [latest, tally], [*sides, votes, latest, tally, score], **QUIET)


def _title(name: str, model: AudioDEAR) -> str:
    steps = model.sampling.steps
    return f"{name.capitalize()}, {steps} step" + ("s" if steps > 1 else "")


def _blank(title: str) -> str:
    blank = '<div class="dear-blank"></div>'
    return f'<article class="dear-cell"><h3>{html.escape(title.capitalize())}</h3>{blank}</article>'


def _seconds(out: Output) -> float:
    """The time on the clock: the computing of one result, without the mels of the partial results before it."""
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


TAB = Tab("duel", "Teacher and student", build, styles=("cells.css", "duel.css"))
