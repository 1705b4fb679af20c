"""The provenance of a run's weights for their card: data, licences, command and commit."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dear.card import Facts
from dear.config import Config

ROOT = Path(__file__).resolve().parents[2]
AUDIOLDM = "AudioLDM's weights, which these files only refer to, are for non-commercial use (CC BY-NC-SA 4.0)."


def facts(
    config: Config, cache: Mapping[str, Any], items: int, about: str, command: str, git_commit: str | None
) -> Facts:
    """The facts for the card. cache: the stamp of the training data; items: their number."""
    licences = [_licences(cache["datasets"])] if "datasets" in cache else []
    licences += [AUDIOLDM] if "audioldm" in (config.vae.kind, config.vocoder.kind) else []
    return Facts(
        about=about,
        data=_data(cache, items),
        licences=" ".join(licences) or None,
        made_with=command,
        git_commit=git_commit,
    )


def _data(cache: Mapping[str, Any], items: int) -> str:
    """A table of the datasets where the cache was made from manifests, otherwise the contents of its stamp."""
    if "datasets" not in cache:
        stamp = {key: value for key, value in cache.items() if not isinstance(value, Mapping)}
        return f"{items:,} items of a cache that was made from:\n\n    {json.dumps(stamp)}"
    rows = "\n".join(
        f"| {name} | {each['sounds']:,} | {each['captioned']:,} | {', '.join(each['licences'])} |"
        for name, each in cache["datasets"].items()
    )
    return (
        f"{items:,} items of {cache['sounds']:,} sounds (digest of the manifests: `{cache['manifest']}`):\n\n"
        f"| dataset | sounds | with captions | licences |\n|---|---|---|---|\n{rows}"
    )


def _licences(datasets: Mapping[str, Any]) -> str:
    counts: dict[str, int] = {}
    for each in datasets.values():
        for licence, count in each["licences"].items():
            counts[licence] = counts.get(licence, 0) + count
    listed = ", ".join(f"{licence} ({count:,})" for licence, count in sorted(counts.items()))
    return f"Licences of the sounds that were trained on: {listed}."


def command_line(prog: str, arguments: Sequence[str], processes: int) -> str:
    """The command that repeats this run. prog: ``python -m MODULE``."""
    launcher = f"accelerate launch --num_processes {processes}" if processes > 1 else "python"
    return f"{launcher}{prog.removeprefix('python')} {shlex.join(arguments)}"


def git_commit(folder: Path = ROOT) -> str | None:
    """The commit checked out in ``folder``, and whether files differ from it; None where there is no repository."""
    try:
        answers = [
            subprocess.run(
                ["git", "-C", str(folder), *question], capture_output=True, text=True, timeout=10, check=True
            ).stdout
            for question in (["rev-parse", "--show-toplevel", "HEAD"], ["status", "--porcelain", "-uno"])
        ]
    except (OSError, subprocess.SubprocessError):
        return None
    top, commit = answers[0].split("\n")[:2]
    if Path(top).resolve() != folder.resolve():  # installed inside another repository
        return None
    return commit + (" and changes on top of it" if answers[1].strip() else "")
