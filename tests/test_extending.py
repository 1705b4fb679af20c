"""The examples of docs/contributing.md, in a copy of the repository: how many files a further kind touches."""

from __future__ import annotations

import filecmp
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
GUIDE = ROOT / "docs" / "contributing.md"


@dataclass(frozen=True)
class Kind:
    """A section of the guide, and what a reader of it does beside copying the example."""

    contract: tuple[str, ...]  # of the registry
    name: str  # of the example, by which the contract's tests are selected
    passes: int  # at least so many tests of the contract run on it
    changed: tuple[str, ...] = ()  # files that are edited
    imported: str = ""
    entry: str = ""
    registry: str = ""


KINDS = {
    "head": Kind(
        ("tests/heads/test_head_contract.py",),
        "gaussian",
        6,
        ("dear/heads/__init__.py",),
        "from dear.heads.gaussian import GaussianHead",
        '"gaussian": GaussianHead',
        "HEADS",
    ),
    "text encoder": Kind(
        ("tests/conditioning/test_encoder_contract.py",),
        "hashed",
        6,
        ("dear/conditioning/__init__.py",),
        "from dear.conditioning.hashed import HashEncoder",
        '"hashed": HashEncoder',
        "ENCODERS",
    ),
    "dataset": Kind(
        ("tests/training/test_datasets.py",),
        "field_notes",
        6,
        ("training/data/datasets.py",),
        "",
        '"field_notes": field_notes',
        "READERS",
    ),
    "judge": Kind(
        ("tests/evaluation/test_judges.py",),
        "levels",
        1,
        ("dear/evaluation/judge/__init__.py",),
        "from dear.evaluation.judge.levels import load_levels",
        '"levels": load_levels',
        "JUDGES",
    ),
}


def example(kind: str) -> tuple[str, str]:
    """The path and the text of the example in the section that explains how to add a ``kind``."""
    section = GUIDE.read_text(encoding="utf-8").partition(f"\n## Add a {kind}\n")[2].partition("\n## ")[0]
    found = re.search(r'^```\w+ title="(.+?)"\n(.*?)^```$', section, re.DOTALL | re.MULTILINE)
    assert found, f"the guide has no example of a {kind}"
    return found[1], found[2]


def insert(text: str, kind: Kind, function: str = "") -> str:
    """A registry's module with the import and the entry of the example, and its function where it has no own file."""
    registry = re.search(rf"^{kind.registry}: .*?\n(?=\}}|    \)\n\}})", text, re.DOTALL | re.MULTILINE)
    assert registry, f"{kind.registry} must have an entry on each line"
    before, after = text[: registry.start()], text[registry.end() :]
    return f"{before}{kind.imported}\n{function}\n\n{registry[0]}        {kind.entry},\n{after}"


def copied(folder: Path) -> Path:
    for package in ("dear", "training"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    for linked in ("tests", "assets", "pyproject.toml"):
        (folder / linked).symlink_to(ROOT / linked)
    return folder


def differences(compared: filecmp.dircmp, folder: str) -> Iterator[tuple[str, str]]:
    """("new", "edited" or "lost", path) of each file that differs below a folder."""
    for state, names in (("new", compared.right_only), ("edited", compared.diff_files), ("lost", compared.left_only)):
        yield from ((state, f"{folder}/{name}") for name in names)
    for name, below in compared.subdirs.items():
        yield from differences(below, f"{folder}/{name}")


@pytest.mark.parametrize("name", KINDS)
def test_a_further_kind_touches_few_files_and_keeps_the_contract(tmp_path, name):
    kind, (path, code) = KINDS[name], example(name)
    folder = copied(tmp_path)
    own = path not in kind.changed
    if own:
        assert not (folder / path).exists()
        (folder / path).write_text(code)
    for changed in kind.changed:
        file = folder / changed
        file.write_text(insert(file.read_text(), kind, "" if own else f"\n\n{code}\n"))

    found = {
        each
        for package in ("dear", "training")
        for each in differences(
            filecmp.dircmp(ROOT / package, folder / package, ignore=["__pycache__", "assets"]), package
        )
    }
    assert found == {("edited", each) for each in kind.changed} | ({("new", path)} if own else set())

    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", *kind.contract, "-k", kind.name],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-1000:]
    assert int(re.search(r"(\d+) passed", run.stdout)[1]) >= kind.passes
