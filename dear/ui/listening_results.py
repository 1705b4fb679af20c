"""The results of a listening test, for its organisers: tables, intervals and CSV files."""

from __future__ import annotations

import hmac
import math
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from dear.listening.ratings import Rating, Ratings, RatingsError, Result, results, to_csv
from dear.ui.callers import LockOut, caller_of
from dear.ui.components.files import new_folder
from dear.ui.components.runs import QUIET, refusal

UNITS = [("each rating", "rating"), ("each rater's mean", "rater")]
UNIT_NOTES = {
    "rating": "Treats all ratings as independent. Ratings of one rater are not, so the intervals are too narrow.",
    "rater": "Treats each rater's mean as one value. The intervals are correct, and wide if there are few raters.",
}


def results_panel(ratings: Ratings, expected: str, folder: Path) -> None:
    """Lay out the results of ``ratings``. They are sent to the browser only once the ``expected`` key is given."""
    with gr.Accordion("Results, for the organisers of this test", open=False, elem_classes="dear-study"):
        key = gr.Textbox(label="Key", type="password", max_lines=1, elem_id="key")
        unlock = gr.Button("Show the results", elem_id="unlock")
        with gr.Column(visible=False) as inside:
            unit = gr.Radio(UNITS, value="rating", label="Statistics over", elem_id="unit")
            tables = gr.HTML("", elem_id="tables")
            with gr.Row():
                ratings_file = gr.DownloadButton("Ratings as CSV", elem_id="ratings-csv")
                results_file = gr.DownloadButton("Results as CSV", elem_id="results-csv")

    guesses = LockOut()

    def show_results(given: str, chosen: str, request: gr.Request | None = None) -> dict[Any, Any]:
        caller = caller_of(request)
        if (seconds := guesses.begin(caller)) > 0:
            raise refusal(f"Too many wrong keys. Try again in {math.ceil(seconds / 60)} minutes.")
        if not hmac.compare_digest(given.strip().encode(errors="replace"), expected.encode()):
            raise refusal("This is not the key of this test.")
        guesses.right(caller)
        try:
            rows = ratings.all()
            shown = results(rows, chosen)
        except RatingsError as error:
            raise refusal(str(error)) from None
        every = [result for _, unit in UNITS for result in results(rows, unit)]
        with new_folder(folder) as files:
            (files / "ratings.csv").write_bytes(to_csv(rows, Rating).encode())
            (files / "results.csv").write_bytes(to_csv(every, Result).encode())
        return {
            inside: gr.Column(visible=True),
            tables: _tables(shown, chosen),
            ratings_file: gr.DownloadButton(value=files / "ratings.csv"),
            results_file: gr.DownloadButton(value=files / "results.csv"),
        }

    gr.on(
        [unlock.click, key.submit, unit.input],
        show_results,
        [key, unit],
        [inside, tables, ratings_file, results_file],
        **QUIET,
    )


def _tables(shown: list[Result], unit: str) -> str:
    """One table per measure, and one of the differences between systems if there are several."""
    if not shown:
        return '<div class="dear-empty"><p>No ratings yet.</p></div>'
    parts = [f'<p class="dear-note">{UNIT_NOTES[unit]}</p>']
    names = {"REL": "text relevance", "OVL": "overall quality"}
    for measure, name in names.items():
        rows = [each for each in shown if each.measure == measure and not each.minus]
        parts.append(_table(f"{measure} <span>{name}</span>", rows, 1, 5))
    for measure in names:
        rows = [each for each in shown if each.measure == measure and each.minus]
        if rows:
            reach = max(0.5, *(abs(end) for each in rows for end in _ends(each)))
            title = f"Differences in {measure} <span>within rater and description; not corrected for multiple"
            parts.append(_table(f"{title} comparisons</span>", rows, -reach, reach))
    return f'<div class="dear-tables" tabindex="0">{"".join(parts)}</div>'


def _table(title: str, rows: list[Result], low: float, high: float) -> str:
    names = ("system", "n", "raters", "mean", "stdev", "stderr", "95 % CI (t)", "95 % CI (normal)", "")
    header = "".join(f'<th scope="col">{name}</th>' for name in names)
    body = "".join(_row(row, low, high) for row in rows)
    return f"<table><caption>{title}</caption><thead><tr>{header}</tr></thead><tbody>{body}</tbody></table>"


def _row(row: Result, low: float, high: float) -> str:
    name = f"{row.system} − {row.minus}" if row.minus else row.system
    numbers = [_number(number) for number in (row.mean, row.stdev, row.stderr)]
    intervals = [_interval(row.ci_low, row.ci_high), _interval(row.normal_low, row.normal_high)]
    cells = "".join(f"<td>{cell}</td>" for cell in (escape(name), row.n, row.raters, *numbers, *intervals))
    left, dot, right = (
        100 * min(max((value - low) / (high - low), 0), 1) for value in (_ends(row)[0], row.mean, _ends(row)[1])
    )
    zero = "<u></u>" if row.minus else ""
    mark = f'<i style="left:{left:.1f}%;width:{right - left:.1f}%"></i><b style="left:{dot:.1f}%"></b>'
    return f'<tr>{cells}<td class="dear-ci" aria-hidden="true"><div>{zero}{mark}</div></td></tr>'


def _interval(low: float, high: float) -> str:
    return "–" if math.isnan(low) else f"[{_number(low)}, {_number(high)}]"


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}".replace("-", "−")


def _ends(row: Result) -> tuple[float, float]:
    """The interval; the mean twice if there is none."""
    return (row.mean, row.mean) if math.isnan(row.ci_low) else (row.ci_low, row.ci_high)
