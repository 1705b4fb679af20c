"""No cell of a table that the code exports is a formula to a spreadsheet."""

from __future__ import annotations

import csv
import io
import math
import re
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from dear.csv_tables import to_csv
from dear.listening.ratings import Rating, Result
from dear.listening.ratings import to_csv as study_csv
from dear.ui.assets import load
from dear.ui.tabs.compare import Cell, Comparison, _archive

ROOT = Path(__file__).resolve().parents[1]
HOSTILE = [
    "=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\ta", "\ra", " =1", "\u3000=1", "\u00a0+1", "\uff1d1+1",
    "\uff0b1", "\uff0d1", "\uff20A1", '="a"', "=cmd|' /C calc'!A0", "=1,2", "-",
]  # fmt: skip
HARMLESS = ["a\r=1", "a\n=1", "a - b", "a=b", "rain", "", "1", "'=1", 'a "dog", then\nrain']


def compare(text: str, folder: Path) -> str:
    path = folder / "a.wav"
    path.write_bytes(b"")
    cell = Cell({}, {"prompt": text, "seed": -1, text: 0.5}, "", str(path), str(path))
    with zipfile.ZipFile(
        _archive(Comparison(cells=(cell,), columns=1, headline="", blind=False, chosen=""), folder)
    ) as archive:
        return archive.read("comparison.csv").decode()


def study(text: str, _: Path) -> str:
    ratings = study_csv([Rating(text, text, text, text, 1, 2, text)], Rating)
    return ratings + study_csv([Result(text, text, text, text, 1, 1, *[-0.5] * 7)], Result)


# By module: what exports a table of hostile texts.
EXPORTS: dict[str, Callable[[str, Path], str]] = {
    "dear/listening/ratings.py": study,
    "dear/ui/tabs/compare.py": compare,
}


def is_formula(cell: str) -> bool:
    """Whether a spreadsheet may compute a cell, other than a number."""
    if re.fullmatch(r"-?\d+(\.\d+)?", cell):
        return False
    return cell[:1] in ("\t", "\r", "\n") or unicodedata.normalize("NFKC", cell.strip())[:1] in tuple("=+-@")


def test_every_export_is_known():
    """Tables are written by one module of Python and one script, and each of their users is tried below."""
    writers, users = set(), set()
    for path in [*ROOT.glob("dear/**/*.py"), *ROOT.glob("training/**/*.py"), ROOT / "app.py"]:
        text, name = path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix()
        if re.search(r"csv\.(writer|DictWriter)|\bwriterows?\(|from csv import|text/csv", text):
            writers.add(name)
        if re.search(r"import csv_tables|from dear\.csv_tables import|dear import .*csv_tables", text):
            users.add(name)
    assert writers == {"dear/csv_tables.py"}
    assert users == EXPORTS.keys()
    scripts = {path.name: path.read_text(encoding="utf-8") for path in ROOT.glob("dear/**/*.js")}
    assert {name for name, text in scripts.items() if re.search(r"\.csv\"|join\([\"'],[\"']\)", text)} <= {
        "takes.js", "csv.js",
    }  # fmt: skip
    assert "dearCsv" in scripts["takes.js"]


@pytest.mark.parametrize("export", EXPORTS.values(), ids=list(EXPORTS))
def test_no_cell_of_an_export_is_a_formula(export, tmp_path):
    for text in HOSTILE:
        cells = [cell for row in csv.reader(io.StringIO(export(text, tmp_path), newline="")) for cell in row]
        assert f"'{text}" in cells
        assert not [cell for cell in cells if is_formula(cell)]


def test_cells_keep_numbers_and_harmless_texts():
    table = to_csv(["a", "b"], [[each, -0.5] for each in HARMLESS] + [["x", math.nan]])
    assert list(csv.reader(io.StringIO(table, newline=""))) == [
        ["a", "b"], *([each, "-0.5"] for each in HARMLESS), ["x", ""],
    ]  # fmt: skip


def test_the_browsers_tables_have_the_same_cells(browser):
    browser.get("about:blank")
    table = browser.execute_script(
        load("csv.js") + "return window.dearCsv(arguments[0])", [[*HOSTILE, *HARMLESS, -1, 0.5]]
    )
    (cells,) = csv.reader(io.StringIO(table, newline=""))
    assert cells == [*(f"'{each}" for each in HOSTILE), *HARMLESS, "-1", "0.5"]
