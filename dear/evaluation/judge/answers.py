"""The names of a judge that count as right for a label, and the verdicts on clips."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dear.bundled import bundled
from dear.judge.base import Judge, JudgeError

AUDIOSET = bundled("audioset.json")  # {label: [names of AudioSet that count as right]}, from the vocabulary
TOP = 5


@dataclass(frozen=True)
class Verdicts:
    """The verdicts on N clips, among C choices."""

    heard: tuple[str, ...]  # N, the best choice
    right: np.ndarray  # [N] bool: no choice scores higher than the clip's own label
    top: np.ndarray  # [N] bool: one of the label's names is among the judge's five most probable names
    score: np.ndarray  # [N] float: probability of the label's best name


@dataclass(frozen=True)
class Choices:
    """The labels among which a judge chooses, each with the positions of its names in the judge's probabilities.

    Labels may share names. A clip counts as right where its label ties with another.
    """

    positions: Mapping[str, tuple[int, ...]]

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.positions)

    def scores(self, probabilities: np.ndarray) -> np.ndarray:
        """probabilities [N, names] -> [N, C], that of each label's most probable name."""
        columns = [probabilities[:, list(positions)].max(axis=1) for positions in self.positions.values()]
        return np.stack(columns, axis=1)

    def judge(self, probabilities: np.ndarray, labels: Sequence[str]) -> Verdicts:
        """probabilities [N, names]; labels: what each clip is. Raises :class:`JudgeError` for other labels."""
        if unknown := sorted(set(labels) - set(self.positions)):
            raise JudgeError(f"labels must be among {', '.join(self.labels)}, got {', '.join(map(repr, unknown))}")
        scores = self.scores(probabilities)
        own = scores[np.arange(len(labels)), [self.labels.index(label) for label in labels]]
        first = np.argsort(-probabilities, axis=1, kind="stable")[:, :TOP]
        return Verdicts(
            tuple(self.labels[best] for best in scores.argmax(axis=1)),
            own >= scores.max(axis=1),
            np.array([bool(set(self.positions[label]) & set(row)) for label, row in zip(labels, first, strict=True)]),
            own,
        )


def choices(judge: Judge, labels: Sequence[str], answers: Mapping[str, Sequence[str]]) -> Choices:
    """Choices of ``labels``, each with those of its ``answers`` that the judge can name.

    A label that is itself a name of the judge stands only for that name.

    Raises :class:`JudgeError` for a label that the judge cannot name, or fewer than two labels.
    """
    index = {name: position for position, name in enumerate(judge.names)}
    found = {label: _positions(label, index, answers) for label in dict.fromkeys(labels)}
    if nameless := sorted(label for label, positions in found.items() if not positions):
        raise JudgeError(f"labels must be ones that {judge.name} has a name for, got {', '.join(map(repr, nameless))}")
    if len(found) < 2:
        raise JudgeError(
            f"labels must be at least two for {judge.name} to choose from, got {', '.join(found) or 'none'}"
        )
    return Choices(found)


def nameable(judge: Judge, labels: Sequence[str], answers: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """The distinct ``labels`` that the judge can name."""
    index = {name: position for position, name in enumerate(judge.names)}
    return tuple(label for label in dict.fromkeys(labels) if _positions(label, index, answers))


def _positions(label: str, index: Mapping[str, int], answers: Mapping[str, Sequence[str]]) -> tuple[int, ...]:
    if label in index:
        return (index[label],)
    return tuple(index[name] for name in answers.get(label, ()) if name in index)


def load_answers(path: str | Path = AUDIOSET) -> dict[str, list[str]]:
    """``{label: [names]}`` from a JSON file. Raises :class:`JudgeError` naming the file."""
    try:
        answers = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise JudgeError(f"{path} can't be read as the names of labels: {error}") from None
    if not isinstance(answers, dict) or not all(
        isinstance(names, list) and all(isinstance(name, str) for name in names) for names in answers.values()
    ):
        raise JudgeError(f"{path} must map each label to a list of names")
    return answers


def all_choices(judge: Judge, labels: Sequence[str], answers: Mapping[str, Sequence[str]] | None = None) -> Choices:
    """The choices of a judge: all its names if its classes are exclusive, otherwise ``labels`` with their ``answers``.

    answers: None for those of the vocabulary. Raises :class:`JudgeError` as :func:`choices` does, and where one of
    ``labels`` is not among the names.
    """
    if not judge.exclusive:
        return choices(judge, labels, load_answers() if answers is None else answers)
    if unknown := sorted(set(labels) - set(judge.names)):
        raise JudgeError(f"labels must be among {', '.join(judge.names)}, got {', '.join(map(repr, unknown))}")
    return choices(judge, judge.names, {})
