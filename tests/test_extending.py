"""The examples of docs/contributing.md in copies of the repository: the files and lines that a new kind touches."""

from __future__ import annotations

import difflib
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

from training.audioset import audioset_names

ROOT = Path(__file__).resolve().parents[1]
GUIDE = ROOT / "docs" / "contributing.md"


@dataclass(frozen=True)
class Registration:
    """Two lines in the module of a registry."""

    file: str
    registry: str
    imported: str
    entry: str


@dataclass(frozen=True)
class Kind:
    """What is done with the example in a section of the guide."""

    name: str  # of the example, by which the tests of the contract are selected
    contract: tuple[str, ...]  # test modules
    least: int  # number of tests of the contract that run on the example
    registration: Registration | None = None


KINDS = {
    "head": Kind(
        "gaussian",
        ("tests/heads/test_head_contract.py",),
        6,
        Registration(
            "dear/heads/__init__.py",
            "HEADS",
            "from dear.heads.gaussian import GaussianHead",
            '"gaussian": GaussianHead,',
        ),
    ),
    "text encoder": Kind(
        "hashed",
        ("tests/conditioning/test_encoder_contract.py",),
        6,
        Registration(
            "dear/conditioning/__init__.py",
            "ENCODERS",
            "from dear.conditioning.hashed import HashEncoder",
            '"hashed": HashEncoder,',
        ),
    ),
    "dataset": Kind(
        "field_notes",
        ("tests/training/test_datasets.py",),
        6,
        Registration(
            "training/data/datasets.py",
            "READERS",
            "from training.data.field_notes import field_notes",
            '"field_notes": field_notes,',
        ),
    ),
    "judge": Kind(
        "levels",
        ("tests/evaluation/test_judges.py",),
        1,
        Registration(
            "dear/evaluation/judge/__init__.py",
            "JUDGES",
            "from dear.evaluation.judge.levels import load_levels",
            '"levels": load_levels,',
        ),
    ),
    "tab": Kind(
        "hello",
        ("tests/ui/test_tabs.py",),
        3,
        Registration("dear/ui/registry.py", "TABS", "from dear.ui.tabs import hello", "hello.TAB,"),
    ),
    "sound": Kind(
        "gong",
        tuple(f"tests/training/test_{name}.py" for name in ("vocabulary", "captions", "scenes")),
        3,
    ),
}


def example(kind: str) -> tuple[str, str]:
    """The path and the text of the example in the section that explains how to add a ``kind``."""
    section = GUIDE.read_text(encoding="utf-8").partition(f"\n## Add a {kind}\n")[2].partition("\n## ")[0]
    found = re.search(r'^```\w+ title="(.+?)"\n(.*?)^```$', section, re.DOTALL | re.MULTILINE)
    assert found, f"the guide has no example of a {kind}"
    return found[1], found[2]


def register(text: str, registration: Registration) -> str:
    """The module of a registry with the import and the entry of the example."""
    registry = re.search(rf"^{registration.registry}: .*?\n(?=\}}|    \)\n\}})", text, re.DOTALL | re.MULTILINE)
    assert registry, f"{registration.registry} must have an entry on each line"
    before, after = text[: registry.start()], text[registry.end() :]
    return f"{before}{registration.imported}\n{registry[0]}        {registration.entry}\n{after}"


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


def changed_lines(before: str, after: str) -> list[str]:
    compared = difflib.ndiff(before.splitlines(), after.splitlines())
    return [f"{line[0]}{line[1:].strip()}" for line in compared if line[0] in "+-"]


@pytest.mark.parametrize("section", KINDS)
def test_a_new_kind_touches_one_file_and_its_registry_and_keeps_the_contract(tmp_path, section):
    kind, (path, code) = KINDS[section], example(section)
    folder = copied(tmp_path)
    assert not (folder / path).exists()
    (folder / path).write_text(code)
    expected = {("new", path)}
    if registration := kind.registration:
        before = (folder / registration.file).read_text()
        after = register(before, registration)
        (folder / registration.file).write_text(after)
        assert changed_lines(before, after) == [f"+{registration.imported}", f"+{registration.entry}"]
        expected.add(("edited", registration.file))

    compared = (
        differences(filecmp.dircmp(ROOT / package, folder / package, ignore=["__pycache__", "assets"]), package)
        for package in ("dear", "training")
    )
    assert {each for package in compared for each in package} == expected

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", *kind.contract, "-k", kind.name],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= kind.least


def test_the_table_of_the_guide_names_the_files_that_are_edited():
    rows = re.findall(r"^\| an? (.+?) \| (\d) \| (.+?) \|", GUIDE.read_text(encoding="utf-8"), re.MULTILINE)
    edited = {name: f"1: `{kind.registration.file}`" if kind.registration else "none" for name, kind in KINDS.items()}
    assert {name: (int(new), files) for name, new, files in rows} == {name: (1, edited[name]) for name in KINDS}


def test_judges_take_the_names_of_a_new_sound(tmp_path):
    path, text = example("sound")
    (tmp_path / Path(path).name).write_text(text)
    assert audioset_names(tmp_path) == {"gong": ["Gong"]}
