"""A benchmark beside an earlier one: which rows became faster or slower, by more than their spread."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MACHINE = ("processor", "cores", "threads", "gpu", "torch", "device")  # what times depend on


def load_earlier(path: Path) -> dict[str, Any]:
    """Read a file that ``--json`` wrote in an earlier run. Raises ValueError for anything else."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(result["machine"], dict) or not isinstance(result["rows"], list):
            raise TypeError("no machine or no rows")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"--compare must be the --json of an earlier benchmark, got {str(path)!r} ({error})") from None
    return result


def changes(rows: Sequence[Mapping[str, Any]], earlier: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each row that both runs measured: its medians then and now, in seconds, and their ratio.

    verdict: "faster" or "slower" where the quartiles do not overlap, else "same".
    """
    found = {_key(row): row for row in earlier if "skipped" not in row}
    compared = []
    for row in rows:
        if "skipped" in row or _key(row) not in found:
            continue
        then = found[_key(row)]
        verdict = "faster" if row["high"] < then["low"] else "slower" if row["low"] > then["high"] else "same"
        compared.append(
            {
                **{name: row[name] for name in ("name", "batch", "precision")},
                "then": then["median"],
                "now": row["median"],
                "speed_up": then["median"] / row["median"],
                "verdict": verdict,
            }
        )
    return compared


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["name"], row["batch"], row["precision"]


def differing(machine: Mapping[str, Any], earlier: Mapping[str, Any]) -> dict[str, list[Any]]:
    """{fact: [then, now]} of what differs between two machines, and so makes times hard to compare."""
    return {name: [earlier.get(name), machine.get(name)] for name in MACHINE if earlier.get(name) != machine.get(name)}


def changes_table(compared: Sequence[Mapping[str, Any]], machine: Mapping[str, list[Any]]) -> str:
    """Markdown, and what differs between the machines."""
    lines = [
        "| row | batch | precision | seconds then | now | speed-up | beyond the quartiles |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in compared:
        cells = [each["name"], str(each["batch"]), each["precision"], f"{each['then']:.3g}", f"{each['now']:.3g}"]
        lines.append("| " + " | ".join([*cells, f"{each['speed_up']:.2f}x", each["verdict"]]) + " |")
    changed = "; ".join(f"{name} {now!r}, then {then!r}" for name, (then, now) in machine.items())
    return "\n".join(lines) + (f"\n\nanother machine: {changed}" if changed else "")
