"""Where the weights of a run come from, for their card: data, licences, command and commit."""

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
AUDIOLDM = "AudioLDM's weights, which these files only name, are for non-commercial use (CC BY-NC-SA 4.0)."


def facts(
    config: Config, cache: Mapping[str, Any], items: int, about: str, command: str, git_commit: str | None
) -> Facts:
    """What a run knows of its weights. cache: the stamp of what was trained on, of ``items`` items."""
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
    """A table of the datasets, where the cache was made from manifests; else what its stamp says."""
    if "datasets" not in cache:
        told = {key: value for key, value in cache.items() if not isinstance(value, Mapping)}
        return f"{items:,} items of a cache that was made from:\n\n    {json.dumps(told)}"
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
    told = ", ".join(f"{licence} ({count:,})" for licence, count in sorted(counts.items()))
    return f"Licences of the sounds that were trained on: {told}."


def command_line(prog: str, arguments: Sequence[str], processes: int) -> str:
    """What to type to run this again. prog: ``python -m MODULE``."""
    launcher = f"accelerate launch --num_processes {processes}" if processes > 1 else "python"
    return f"{launcher}{prog.removeprefix('python')} {shlex.join(arguments)}"


def git_commit(folder: Path = ROOT) -> str | None:
    """The commit that is checked out in ``folder``, and whether files differ from it; None where git knows of none."""
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
    if Path(top).resolve() != folder.resolve():  # installed into the repository of something else
        return None
    return commit + (" and changes on top of it" if answers[1].strip() else "")
