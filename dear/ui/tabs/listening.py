"""The tab of the listening test (Appendix G): raters hear clips of several systems blind and give REL and OVL."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from dear.listening.ratings import Ratings, RatingsError, check_rater
from dear.listening.study import Clip, anonymous_copy, order_for, read_study
from dear.ui.assets import load
from dear.ui.tabs import results

STUDY, RATINGS, KEY = "AUDIODEAR_STUDY", "AUDIODEAR_RATINGS", "AUDIODEAR_RESULTS_KEY"
SHORTEST_KEY = 12  # characters
SECONDS_TO_ANSWER = 12
# The paper rates REL and OVL from 1 to 5 and names no words for the points. Those of OVL are from ITU-T P.800.
RELEVANCE = ["Not at all", "A little", "Partly", "Mostly", "Fully"]
QUALITY = ["Bad", "Poor", "Fair", "Good", "Excellent"]
WELCOME = """
<div class="dear-say">
<h2>Listening test</h2>
<p>You will hear {count} short sounds, one at a time. Each was made for the description above it, and several may have
the same description. Play each, then answer two questions: how well it matches the description, and how good it sounds
by itself. There is no right answer, only what you hear.</p>
<p>Wear headphones if you can, choose a comfortable volume and leave it there. It takes about {minutes}. Every answer is
kept at once: stop when you like, and go on where you stopped with the same code.</p>
</div>
"""
NO_TEST = f"""
<div class="dear-empty"><p>Here people can rate sounds of several systems without knowing which made which; no test is
set up on this page.</p>
<p>To start one, put a folder of sounds for each system, with the same file names, beside a <code>prompts.csv</code>
(columns <code>file</code> and <code>prompt</code>) and run
<code>python&nbsp;-m&nbsp;dear&nbsp;listen&nbsp;FOLDER&nbsp;--ratings&nbsp;ratings.db</code>, or set
<code>{STUDY}</code> and <code>{RATINGS}</code> where this page is hosted, the latter to a file that outlives it. With
<code>{KEY}</code>, a phrase of yours, results and their table are there for whoever knows it.</p></div>
"""
CSS = "\n" + load("listening.css")
CSS += results.CSS


@dataclass(frozen=True)
class ListeningTest:
    """What raters hear, where their ratings go, and the key that opens the results; empty: they stay closed."""

    clips: list[Clip]
    ratings: Ratings
    key: str = ""


@dataclass(frozen=True)
class Session:
    """Where one visitor is. It stays on the server, so a page never knows the system that it plays."""

    rater: str = ""
    at: int = 0  # in the rater's own order
    heard: bool = False


def open_test(study: str | Path, ratings: str | Path, key: str = "") -> ListeningTest:
    """Read a study and open the file of its ratings. Raises ValueError for any of the three that won't do."""
    if key and len(key) < SHORTEST_KEY:
        raise ValueError(f"{KEY} must have at least {SHORTEST_KEY} characters, got {len(key)}")
    clips = read_study(study)
    return ListeningTest(clips, Ratings(ratings, clips), key)


def test_from(environment: Mapping[str, str]) -> ListeningTest | None:
    """The test that environment variables name: AUDIODEAR_STUDY, AUDIODEAR_RATINGS, AUDIODEAR_RESULTS_KEY.

    None where there is no study; without a key, the results stay closed. Raises ValueError as :func:`open_test` does.
    """
    if not environment.get(STUDY):
        return None
    if not environment.get(RATINGS):
        raise ValueError(f"{RATINGS} must name the file that keeps the ratings of the study in {STUDY}")
    return open_test(environment[STUDY], environment[RATINGS], environment.get(KEY, ""))


def listening_tab(page: gr.Blocks, test: ListeningTest | None, folder: Path) -> None:
    """Lay out the tab inside the current Blocks, which is ``page``. Files that it serves go into ``folder``."""
    if test is None:
        gr.HTML(NO_TEST)
        return
    total = len(test.clips)
    minutes = math.ceil(sum(clip.seconds + SECONDS_TO_ANSWER for clip in test.clips) / 60)
    welcome = WELCOME.format(count=total, minutes=f"{minutes} minutes" if minutes > 1 else "a minute")
    session = gr.State(Session())
    # Kept by the browser, which does not keep an empty text: hence the dictionary. The secret hides nothing, it only
    # has to be the same after a restart.
    remembered = gr.BrowserState({"rater": ""}, storage_key="dear-rater", secret="dear-rater")
    with gr.Column(elem_classes="dear-listen"):
        with gr.Column() as start:
            gr.HTML(welcome)
            code = gr.Textbox(
                label="Your code", info="The one that you were given, or a name that nobody else here uses.",
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
            ovl = _scale("Overall quality", "How good does it sound, whatever was described?", QUALITY, "ovl")
        note = gr.HTML("", elem_id="note")
        with gr.Column(visible=False) as thanks:
            gr.HTML(f'<div class="dear-say"><h2>Thank you.</h2><p>You have rated all {total} sounds.</p></div>')
        with gr.Row(visible=False, elem_classes="dear-buttons") as buttons:
            back = gr.Button("Back", scale=1, elem_id="back")
            save = gr.Button("Save and go on", variant="primary", scale=3, elem_id="save")
        leave = gr.Button("Leave", size="sm", visible=False, elem_classes="dear-leave", elem_id="leave")
    outputs = [session, remembered, start, rate, thanks, buttons, back, save, leave, head, sound, rel, ovl, note]

    def show(now: Session, rated: Mapping[tuple[str, str], tuple[int, int]]) -> dict[Any, Any]:
        """What a page shows of a session: the welcome, a clip, or, past the last one, the thanks."""
        rating, done = bool(now.rater) and now.at < total, bool(now.rater) and now.at == total
        shown: dict[Any, Any] = {
            session: now,
            remembered: {"rater": now.rater},
            start: gr.Column(visible=not now.rater),
            rate: gr.Column(visible=rating),
            thanks: gr.Column(visible=done),
            buttons: gr.Row(visible=rating or done),
            back: gr.Button("Back to the last one" if done else "Back", interactive=now.at > 0),
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

    def enter(text: str) -> dict[Any, Any]:
        """Begin, or go on with the first clip that this rater has not rated."""
        try:
            rater = check_rater(text)
            rated = test.ratings.of(rater)
        except RatingsError as error:
            return {note: _missing(str(error))}
        return show(Session(rater, _first_unrated(rater, rated)), rated)

    def _first_unrated(rater: str, rated: Mapping[tuple[str, str], tuple[int, int]]) -> int:
        order = order_for(rater, test.clips)
        return next((i for i, clip in enumerate(order) if (clip.system, clip.name) not in rated), total)

    def resume(kept: dict[str, str]) -> dict[Any, Any]:
        return enter(kept["rater"]) if kept["rater"] else show(Session(), {})

    def keep(now: Session, relevance: int | None, quality: int | None) -> dict[Any, Any]:
        """Keep the rating of the clip that is shown, then show the first one without any."""
        if not now.rater:  # the server has been started anew under an open page
            return show(Session(), {}) | {note: _missing("Please enter your code again: this page had lost it.")}
        try:
            clip = order_for(now.rater, test.clips)[now.at]
            if not now.heard and (clip.system, clip.name) not in test.ratings.of(now.rater):
                return {note: _missing("Please play the sound first.")}
            if relevance is None or quality is None:
                return {note: _missing("Please answer both questions.")}
            test.ratings.save(now.rater, clip.system, clip.name, relevance, quality)
            rated = test.ratings.of(now.rater)
        except RatingsError as error:
            return {note: _missing(f"Your rating was not kept: {error}")}
        return show(Session(now.rater, _first_unrated(now.rater, rated)), rated)

    def go_back(now: Session) -> dict[Any, Any]:
        try:
            return show(Session(now.rater, max(now.at - 1, 0)), test.ratings.of(now.rater))
        except RatingsError as error:
            return {note: _missing(str(error))}

    page.load(resume, remembered, outputs, show_progress="hidden", api_visibility="private")
    gr.on([begin.click, code.submit], enter, code, outputs, show_progress="hidden", api_visibility="private")
    sound.play(lambda now: replace(now, heard=True), session, session, show_progress="hidden", api_visibility="private")
    save.click(keep, [session, rel, ovl], outputs, show_progress="hidden", api_visibility="private")
    back.click(go_back, session, outputs, show_progress="hidden", api_visibility="private")
    leave.click(lambda: show(Session(), {}), None, outputs, show_progress="hidden", api_visibility="private")
    if test.key:
        results.results_panel(test.ratings, test.key, folder)


def _scale(label: str, question: str, words: list[str], name: str) -> gr.Radio:
    choices = [(f"{score}\n{word}", score) for score, word in enumerate(words, 1)]
    return gr.Radio(choices, label=label, info=question, elem_classes="dear-scale", elem_id=name)


def _missing(text: str) -> str:
    return f'<p class="dear-missing" role="alert">{escape(text)}</p>'


def _head(prompt: str, now: Session, rated: int, total: int) -> str:
    return (
        f'<p class="dear-progress"><span>Sound {now.at + 1} of {total}</span><span>{escape(now.rater)}</span></p>'
        f'<div class="dear-bar" aria-hidden="true"><span style="width:{100 * rated / total:.1f}%"></span></div>'
        f'<p class="dear-for">Description</p><p class="dear-described" dir="auto">{escape(prompt)}</p>'
    )
