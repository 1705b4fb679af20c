"""The figures of a visit to the page, apart from the browser."""

from __future__ import annotations

import pytest

from dear.evaluation.click import layout_shift


def test_layout_shift_is_that_of_the_worst_window():
    assert layout_shift([]) == 0
    assert layout_shift([(0.0, 0.1), (0.5, 0.2)]) == pytest.approx(0.3)
    assert layout_shift([(3.0, 0.25), (0.0, 0.1), (0.5, 0.2)]) == pytest.approx(0.3)  # a gap starts another window
    assert layout_shift([(0.9 * i, 0.1) for i in range(8)]) == pytest.approx(0.6)  # as do five seconds
