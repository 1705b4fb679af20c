"""The runner of the attacks."""

from __future__ import annotations

import pytest

from tests.attack import __main__ as command
from tests.attack.runner import Outcome, Table, Try, run


def test_each_outcome_is_distinguished_from_the_others() -> None:
    table = run("attack_outcomes", large=True)
    assert {each.name: each.outcome for each in table.tries} == {
        "taken": Outcome.SOUND,
        "refused": Outcome.REFUSED,
        "raised by a library": Outcome.TRACEBACK,
        "hang": Outcome.HANG,
        "memory": Outcome.MEMORY,
        "too much at once": Outcome.MEMORY,
        "died": Outcome.TRACEBACK,
        "last": Outcome.SOUND,
    }
    assert "steps must be" in table.tries[1].detail
    assert 90 < table.megabytes < 150
    assert len(table.faults) == 5


def test_each_fourth_case_is_tried() -> None:
    assert [each.name for each in run("attack_outcomes", every=4).tries] == ["taken", "memory"]


def test_an_unknown_attack_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["volcano"]) == 2
    assert "ATTACK must be one of" in capsys.readouterr().err


def test_the_table_counts_the_outcomes() -> None:
    tries = [Try("a", Outcome.SOUND, "", 3.0), Try("b", Outcome.REFUSED, "no", 12.4), Try("c", Outcome.HANG, "", 0.0)]
    assert command.markdown([Table("calls", tries)]).splitlines()[-1] == "| calls | 3 | 1 | 1 | 0 | 1 | 0 | 12 MB |"


def test_an_attack_that_is_not_possible_here_says_why() -> None:
    table = run("attack_skipped")
    assert not table.tries and not table.faults
    assert command.markdown([table]).splitlines()[-1] == "| attack_skipped | skipped: no disk | | | | | | |"
