"""``python -m tests.attack [--large [--every N]] [ATTACK ...]``: run the attacks and print the table of their outcomes.

The exit status is 1 where a case ended in a traceback, hung, or took too much memory.
"""

from __future__ import annotations

import argparse
import pkgutil
import sys
from collections.abc import Sequence

import tests.attack
from dear.cli import guarded
from tests.attack.runner import Outcome, Table, Try, run

NAMES = sorted(
    module.name for module in pkgutil.iter_modules(tests.attack.__path__) if module.name not in ("__main__", "runner")
)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.attack", description=__doc__)
    parser.add_argument("attacks", metavar="ATTACK", nargs="*", help=f"of {', '.join(NAMES)}; all where absent")
    parser.add_argument("--large", action="store_true", help="all cases of each attack, for hours, instead of a few")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only each N-th case of each attack")
    options = parser.parse_args(arguments)
    return guarded(lambda: attack(options.attacks or NAMES, options.large, options.every))


def attack(names: Sequence[str], large: bool, every: int = 1) -> int:
    if every < 1:
        raise ValueError(f"--every must be at least 1, got {every}")
    for name in names:
        if name not in NAMES:
            raise ValueError(f"ATTACK must be one of {', '.join(NAMES)}, got {name!r}")
    tables = []
    for name in names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        tables.append(run(f"tests.attack.{name}", large, every, tell))
    print(markdown(tables))
    return int(any(table.faults for table in tables))


def tell(each: Try) -> None:
    if each.is_fault:
        print(f"  {each.outcome}: {each.name}: {each.detail}", file=sys.stderr, flush=True)


def markdown(tables: Sequence[Table]) -> str:
    """The table of ``docs/reliability.md``."""
    columns = {
        Outcome.SOUND: "accepted",
        Outcome.REFUSED: "refused with a sentence",
        Outcome.TRACEBACK: "tracebacks",
        Outcome.HANG: "hangs",
        Outcome.MEMORY: "above the memory limit",
    }
    head = ["attack", "cases", *columns.values(), "peak memory above idle"]
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    for table in tables:
        counts = [f"{table.count(outcome):,}" for outcome in columns]
        if table.skipped:
            lines.append(f"| {table.attack} | skipped: {table.skipped} |{' |' * (len(head) - 2)}")
            continue
        lines.append(f"| {table.attack} | {len(table.tries):,} | {' | '.join(counts)} | {table.megabytes:.0f} MB |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
