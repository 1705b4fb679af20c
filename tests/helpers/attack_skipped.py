"""An attack that is not possible on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tests.attack.runner import Skipped


def cases(large: bool) -> Iterator[tuple[str, Callable[[], object]]]:
    raise Skipped("no disk")
    yield
