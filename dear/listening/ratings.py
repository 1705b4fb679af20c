"""Ratings of a listening test in an SQLite file, and their statistics (Appendix G).

Each rater gives each clip of each system two whole numbers from 1 to 5: REL, how well it fits its prompt, and OVL, its
overall quality. Many raters and processes may write at once; a rating given again replaces the one before.
"""

from __future__ import annotations

import math
import re
import sqlite3
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import astuple, dataclass, fields
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path

import numpy as np

from dear import csv_tables
from dear.listening.study import Clip

MEASURES = ("REL", "OVL")
SCORES = range(1, 6)
UNITS = ("rating", "rater")
NORMAL = 1.96  # standard errors on each side of a mean in Table 9
SCHEMA = 1  # the file's user_version
APPLICATION = 0x44454152  # the file's application_id
TABLES = """
CREATE TABLE clips (
  system TEXT NOT NULL, clip TEXT NOT NULL, prompt TEXT NOT NULL, digest TEXT NOT NULL,
  PRIMARY KEY (system, clip)
);
CREATE TABLE ratings (
  rater TEXT NOT NULL, system TEXT NOT NULL, clip TEXT NOT NULL,
  rel INTEGER NOT NULL CHECK (rel IN (1, 2, 3, 4, 5)), ovl INTEGER NOT NULL CHECK (ovl IN (1, 2, 3, 4, 5)),
  rated_at TEXT NOT NULL,
  PRIMARY KEY (rater, system, clip), FOREIGN KEY (system, clip) REFERENCES clips
);
"""


class RatingsError(ValueError):
    """A file of ratings that can't be used, or a rating that can't be taken."""


@dataclass(frozen=True)
class Rating:
    """The rating of one clip of one system by one rater."""

    rater: str
    system: str
    clip: str
    prompt: str
    rel: int
    ovl: int
    rated_at: str  # UTC, ISO 8601


@dataclass(frozen=True)
class Result:
    """One measure of one system, or of its difference from another. The interval of a single value is not a number."""

    unit: str  # what one value is: a rating, or a rater's mean
    measure: str
    system: str
    minus: str  # empty, or the system whose values are subtracted, clip by clip and rater by rater
    n: int  # values
    raters: int
    mean: float
    stdev: float
    stderr: float
    ci_low: float  # Student's t
    ci_high: float
    normal_low: float  # 1.96 standard errors on each side, as in Table 9
    normal_high: float


def check_rater(text: object) -> str:
    """A normalised rater's id. Spaces and case do not matter, so that returning raters find their ratings."""
    rater = " ".join(unicodedata.normalize("NFKC", text).casefold().split()) if isinstance(text, str) else ""
    # The first character is none that makes a table's cell a formula.
    if not re.fullmatch(r"\w[\w .@-]{0,39}", rater):
        raise RatingsError(
            "the code must be 1 to 40 letters, digits, spaces or . _ - @ and begin with a letter or digit"
        )
    return rater


class Ratings:
    """The file of ratings at ``path``, created if absent. Each call opens the file, so threads may share an instance.

    Raises :class:`RatingsError` for a file with other sounds or prompts under the names of these ``clips``, for a file
    of another program or version, and where SQLite fails.
    """

    def __init__(self, path: str | Path, clips: Iterable[Clip] = ()) -> None:
        self.path = Path(path)
        if not self.path.parent.is_dir():
            raise RatingsError(f"ratings must lie in an existing folder, got {str(path)!r}")
        with self._database() as database:
            database.execute("BEGIN IMMEDIATE")
            self._check_schema(database)
            self._check_clips(database, clips)
            database.execute("COMMIT")

    def save(self, rater: str, system: str, clip: str, rel: int, ovl: int) -> None:
        """Save a rating. The last rating of a rater for a clip counts."""
        for measure, score in zip(MEASURES, (rel, ovl), strict=True):
            if type(score) is not int or score not in SCORES:
                raise RatingsError(f"{measure} must be a whole number from 1 to 5, got {score!r}")
        row = (check_rater(rater), system, clip, rel, ovl, datetime.now(UTC).isoformat(timespec="seconds"))
        with self._database() as database:
            database.execute("INSERT OR REPLACE INTO ratings VALUES (?, ?, ?, ?, ?, ?)", row)

    def of(self, rater: str) -> dict[tuple[str, str], tuple[int, int]]:
        """A rater's (REL, OVL) by (system, clip)."""
        with self._database() as database:
            rows = database.execute("SELECT system, clip, rel, ovl FROM ratings WHERE rater = ?", (rater,)).fetchall()
        return {(system, clip): (rel, ovl) for system, clip, rel, ovl in rows}

    def all(self) -> list[Rating]:
        """Every rating, by rater, system and clip."""
        with self._database() as database:
            rows = database.execute(
                "SELECT rater, system, clip, prompt, rel, ovl, rated_at FROM ratings JOIN clips USING (system, clip) "
                "ORDER BY rater, system, clip"
            ).fetchall()
        return [Rating(*row) for row in rows]

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        try:
            # Another's write is waited for, seconds; every statement outside BEGIN is a transaction of its own.
            with closing(sqlite3.connect(self.path, timeout=30, isolation_level=None)) as database:
                database.execute("PRAGMA foreign_keys = ON")
                yield database
        except sqlite3.Error as error:
            raise RatingsError(f"the ratings in {self.path} can't be used: {error}") from None

    def _check_schema(self, database: sqlite3.Connection) -> None:
        application, version, tables = (
            database.execute(query).fetchone()[0]
            for query in ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_master")
        )
        if (application, version, tables) == (0, 0, 0):
            for statement in TABLES.split(";")[:-1]:
                database.execute(statement)
            database.execute(f"PRAGMA application_id = {APPLICATION}")
            database.execute(f"PRAGMA user_version = {SCHEMA}")
        elif application != APPLICATION:
            raise RatingsError(f"{self.path} is a database of another program, choose another file for the ratings")
        elif version != SCHEMA:
            raise RatingsError(f"{self.path} has ratings of schema {version}, this version reads schema {SCHEMA}")

    def _check_clips(self, database: sqlite3.Connection, clips: Iterable[Clip]) -> None:
        known = {
            (system, clip): (prompt, digest)
            for system, clip, prompt, digest in database.execute("SELECT system, clip, prompt, digest FROM clips")
        }
        for clip in clips:
            key, content = (clip.system, clip.name), (clip.prompt, clip.digest)
            if known.setdefault(key, content) != content:
                raise RatingsError(
                    f"{self.path} has ratings of another sound or prompt as {clip.system}/{clip.name}, "
                    "choose another file for the ratings"
                )
            database.execute("INSERT OR IGNORE INTO clips VALUES (?, ?, ?, ?)", (*key, *content))


def summarise(values: Sequence[float]) -> dict[str, float]:
    """Mean, standard deviation (n - 1), standard error, and the 95 % confidence interval of the mean in two forms.

    ``ci_low`` and ``ci_high`` are Student's t with n - 1 degrees of freedom. ``normal_low`` and ``normal_high`` are the
    paper's form (Table 9), 1.96 standard errors on each side. The latter is too narrow where n is small.
    """
    from scipy.special import stdtrit

    n, mean = len(values), float(np.mean(values))
    stdev = float(np.std(values, ddof=1)) if n > 1 else math.nan
    stderr = stdev / math.sqrt(n)
    margin = float(stdtrit(n - 1, 0.975)) * stderr if n > 1 else math.nan
    return {
        "mean": mean,
        "stdev": stdev,
        "stderr": stderr,
        "ci_low": mean - margin,
        "ci_high": mean + margin,
        "normal_low": mean - NORMAL * stderr,
        "normal_high": mean + NORMAL * stderr,
    }


def results(ratings: Iterable[Rating], unit: str = "rating") -> list[Result]:
    """For both measures: every system, then every pair of systems by the differences of what one rater gave one clip.

    ``unit`` says what one value is. ``"rating"`` takes each rating, as if all were independent. ``"rater"`` takes each
    rater's mean, which is right where raters differ in what they mean by a 3. Table 9 is of the second kind: all its
    rows fit ten values and the normal interval; Student's t takes 2.26 standard errors for ten values.
    """
    if unit not in UNITS:
        raise RatingsError(f"unit must be one of {', '.join(UNITS)}, got {unit!r}")
    ratings = list(ratings)
    found = []
    for measure in MEASURES:
        scores: dict[str, dict[tuple[str, str], float]] = {}
        for each in ratings:
            scores.setdefault(each.system, {})[each.rater, each.clip] = getattr(each, measure.lower())
        systems = sorted(scores)
        found += [_result(unit, measure, system, "", scores[system]) for system in systems]
        for one, other in combinations(systems, 2):
            both = {key: score - scores[other][key] for key, score in scores[one].items() if key in scores[other]}
            if both:
                found.append(_result(unit, measure, one, other, both))
    return found


def _result(unit: str, measure: str, system: str, minus: str, scores: Mapping[tuple[str, str], float]) -> Result:
    by_rater: dict[str, list[float]] = {}
    for (rater, _), score in scores.items():
        by_rater.setdefault(rater, []).append(score)
    values = list(scores.values()) if unit == "rating" else [float(np.mean(each)) for each in by_rater.values()]
    return Result(unit, measure, system, minus, len(values), len(by_rater), **summarise(values))


def to_csv(rows: Sequence[Rating] | Sequence[Result], kind: type[Rating] | type[Result]) -> str:
    """Ratings or results as a CSV table with a header."""
    return csv_tables.to_csv([field.name for field in fields(kind)], map(astuple, rows))
