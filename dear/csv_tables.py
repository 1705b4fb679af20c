"""Tables for spreadsheets, as CSV whose cells are never computed as formulas."""

from __future__ import annotations

import csv
import io
import math
import unicodedata
from collections.abc import Iterable, Sequence


def to_csv(header: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    """A CSV table; values that are not numbers (NaN) are empty.

    A text that a spreadsheet would compute as a formula gets an apostrophe in front.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")  # both are quoted in cells
    writer.writerow([_cell(value) for value in header])
    writer.writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue()


def _cell(value: object) -> object:
    if isinstance(value, str) and _is_formula(value):
        return f"'{value}"
    return "" if isinstance(value, float) and math.isnan(value) else value


def _is_formula(text: str) -> bool:
    """Whether a spreadsheet may read ``text`` as a formula; ``dear/ui/assets/csv.js`` asks the same.

    Spreadsheets skip white space, and may drop a tab or line break at the beginning. Some read wide forms as ASCII.
    """
    first = unicodedata.normalize("NFKC", text.lstrip()[:1])
    return first.startswith(("=", "+", "-", "@")) or text.startswith(("\t", "\r", "\n"))
