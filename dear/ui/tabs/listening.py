"""The tab of the listening test (Appendix G): raters hear sounds of several systems blind and give REL and OVL."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from dear.listening.ratings import Ratings, RatingsError, check_rater
from dear.listening.study import Clip, anonymous_copy, order_for, read_study
from dear.ui import listening_results
from dear.ui.assets import load
from dear.ui.components.runs import QUIET
from dear.ui.context import Context, Tab

STUDY, RATINGS, KEY = "AUDIODEAR_STUDY", "AUDIODEAR_RATINGS", "AUDIODEAR_RESULTS_KEY"
MIN_KEY_LENGTH = 12
SECONDS_TO_ANSWER = 12  # per sound, for the estimate that raters read
# The paper rates REL and OVL from 1 to 5 and names no words for the points. Those of OVL are from ITU-T P.800.
RELEVANCE = ["Not at all", "A little", "Partly", "Mostly", "Fully"]
QUALITY = ["Bad", "Poor", "Fair", "Good", "Excellent"]
CLOSED = load("listening_closed.html")


@dataclass(frozen=True)
class ListeningTest:
    """The sounds, the file of ratings, and the key that opens the results. Without a key, results stay closed."""

    clips: list[Clip]
    ratings: Ratings
    key: str = ""


@dataclass(frozen=True)
class Session:
    """The progress of one rater. It stays on the server, so that the browser never knows which system it plays."""

    rater: str = ""
    at: int = 0  # index in the rater's own order
    heard: bool = False


def open_test(study: str | Path, ratings: str | Path, key: str = "") -> ListeningTest:
    """Read a study and open the file of its ratings. Raises ValueError for an argument that isn't allowed."""
    if key and len(key) < MIN_KEY_LENGTH:
        raise ValueError(f"{KEY} must have at least {MIN_KEY_LENGTH} characters, got {len(key)}")
    clips = read_study(study)
    return ListeningTest(clips, Ratings(ratings, clips), key)


def test_from(environment: Mapping[str, str]) -> ListeningTest | None:
    """The test named by the variables AUDIODEAR_STUDY, AUDIODEAR_RATINGS and AUDIODEAR_RESULTS_KEY.

    None without a study. Without a key, results stay closed. Raises ValueError as :func:`open_test` does.
    """
    if not environment.get(STUDY):
        return None
    if not environment.get(RATINGS):
        raise ValueError(f"{RATINGS} must name the file for the ratings of the study in {STUDY}")
    return open_test(environment[STUDY], environment[RATINGS], environment.get(KEY, ""))


def build(context: Context) -> None:
    test = test_from(os.environ)
    if test is None:
        gr.HTML(CLOSED)
    else:
        lay_out(context.page, test, context.folder)


def lay_out(page: gr.Blocks, test: ListeningTest, folder: Path) -> None:
    """Lay the test out inside ``page``. Files that it serves go into ``folder``."""
    total = len(test.clips)
    minutes = math.ceil(sum(clip.seconds + SECONDS_TO_ANSWER for clip in test.clips) / 60)
    welcome = load("listening_welcome.html").format(
        count=total, minutes=f"{minutes} minutes" if minutes > 1 else "a minute"
    )
    session = gr.State(Session())
    # A dictionary, because browsers drop an empty text. The secret protects nothing; it must only survive a restart.
    remembered = gr.BrowserState({"rater": ""}, storage_key="dear-rater", secret="dear-rater")
    with gr.Column(elem_classes="dear-listen"):
        with gr.Column() as start:
            gr.HTML(welcome)
            code = gr.Textbox(
                label="Your code", info="The code that you were given, or a name that no other rater uses.",
                max_lines=1, max_length=40, elem_id="code",
            )  # fmt: skip
            begin = gr.Button("Begin", variant="primary", elem_id="begin")
        with gr.Column(visible=False) as rate:
            head = gr.HTML("", elem_id="described")
            sound = gr.Audio(
                label="Sound", type="filepath", format="wav", interactive=False, buttons=[],
                waveform_options=gr.WaveformOptions(show_recording_waveform=False), elem_id="clip",
            )  # fmt: skip
            rel = _scale("Relevance", "How well does the sound match the description?", RELEVANCE, "rel")
            ovl = _scale("Overall quality", "How good does it sound, apart from the description?", QUALITY, "ovl")
        note = gr.HTML("", elem_id="note")
        with gr.Column(visible=False) as thanks:
            gr.HTML(f'<div class="dear-say"><h2>Thank you.</h2><p>You have rated all {total} sounds.</p></div>')
        with gr.Row(visible=False, elem_classes="dear-buttons") as buttons:
            back = gr.Button("Back", scale=1, elem_id="back")
            save = gr.Button("Save and continue", variant="primary", scale=3, elem_id="save")
        leave = gr.Button("Leave", size="sm", visible=False, elem_classes="dear-leave", elem_id="leave")
    outputs = [session, remembered, start, rate, thanks, buttons, back, save, leave, head, sound, rel, ovl, note]

    def show(now: Session, rated: Mapping[tuple[str, str], tuple[int, int]]) -> dict[Any, Any]:
        """The page of a session: the welcome, a sound, or the thanks after the last one."""
        rating, done = bool(now.rater) and now.at < total, bool(now.rater) and now.at == total
        shown: dict[Any, Any] = {
            session: now,
            remembered: {"rater": now.rater},
            start: gr.Column(visible=not now.rater),
            rate: gr.Column(visible=rating),
            thanks: gr.Column(visible=done),
            buttons: gr.Row(visible=rating or done),
            back: gr.Button("Back to the last sound" if done else "Back", interactive=now.at > 0),
            save: gr.Button(visible=rating),
            leave: gr.Button("Leave" if done else "Stop for now", visible=bool(now.rater)),
            note: "",
        }
        if rating:
            clip = order_for(now.rater, test.clips)[now.at]
            given = rated.get((clip.system, clip.name), (None, None))
            shown[head] = _head(clip.prompt, now, len(rated), total)
            shown[sound] = gr.Audio(str(anonymous_copy(clip, folder)))
            shown[rel], shown[ovl] = (gr.Radio(value=score) for score in given)
        return shown

    def enter(text: Any) -> dict[Any, Any]:
        """Show the first sound that this rater hasn't rated."""
        try:
            rater = check_rater(text)
            rated = test.ratings.of(rater)
        except RatingsError as error:
            return {note: _notice(str(error))}
        return show(Session(rater, _first_unrated(rater, rated)), rated)

    def _first_unrated(rater: str, rated: Mapping[tuple[str, str], tuple[int, int]]) -> int:
        order = order_for(rater, test.clips)
        return next((i for i, clip in enumerate(order) if (clip.system, clip.name) not in rated), total)

    def resume(stored: Any) -> dict[Any, Any]:
        rater = stored.get("rater") if isinstance(stored, dict) else None
        return enter(rater) if rater else show(Session(), {})

    def save_rating(now: Session, relevance: int | None, quality: int | None) -> dict[Any, Any]:
        """Save the rating of the current sound, then show the first one without a rating."""
        if not now.rater:  # the server has restarted since the page was opened
            return show(Session(), {}) | {note: _notice("This page was reset. Enter your code again.")}
        try:
            clip = order_for(now.rater, test.clips)[now.at]
            if not now.heard and (clip.system, clip.name) not in test.ratings.of(now.rater):
                return {note: _notice("Play the sound first.")}
            if relevance is None or quality is None:
                return {note: _notice("Answer both questions.")}
            test.ratings.save(now.rater, clip.system, clip.name, relevance, quality)
            rated = test.ratings.of(now.rater)
        except RatingsError as error:
            return {note: _notice(f"Your rating was not saved: {error}")}
        return show(Session(now.rater, _first_unrated(now.rater, rated)), rated)

    def go_back(now: Session) -> dict[Any, Any]:
        try:
            return show(Session(now.rater, max(now.at - 1, 0)), test.ratings.of(now.rater))
        except RatingsError as error:
            return {note: _notice(str(error))}

    page.load(resume, remembered, outputs, **QUIET)
    gr.on([begin.click, code.submit], enter, code, outputs, **QUIET)
    sound.play(lambda now: replace(now, heard=True), session, session, **QUIET)
    save.click(save_rating, [session, rel, ovl], outputs, **QUIET)
    back.click(go_back, session, outputs, **QUIET)
    leave.click(lambda: show(Session(), {}), None, outputs, **QUIET)
    if test.key:
        listening_results.results_panel(test.ratings, test.key, folder)


def _scale(label: str, question: str, words: list[str], name: str) -> gr.Radio:
    choices = [(f"{score}\n{word}", score) for score, word in enumerate(words, 1)]
    return gr.Radio(choices, label=label, info=question, elem_classes="dear-scale", elem_id=name)


def _notice(text: str) -> str:
    return f'<p class="dear-missing" role="alert">{escape(text)}</p>'


def _head(prompt: str, now: Session, rated: int, total: int) -> str:
    return (
        f'<p class="dear-progress"><span>Sound {now.at + 1} of {total}</span><span>{escape(now.rater)}</span></p>'
        f'<div class="dear-bar" aria-hidden="true"><span style="width:{100 * rated / total:.1f}%"></span></div>'
        f'<p class="dear-for">Description</p><p class="dear-described" dir="auto">{escape(prompt)}</p>'
    )


TAB = Tab("listening", "Listening test", build, styles=("listening.css", "results.css"))
