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
    """One line in the module of a registry."""

    file: str
    registry: str
    line: str


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
        Registration("dear/heads/__init__.py", "HEADS", '"gaussian": "dear.heads.gaussian:GaussianHead",'),
    ),
    "text encoder": Kind(
        "hashed",
        ("tests/conditioning/test_encoder_contract.py",),
        6,
        Registration("dear/conditioning/__init__.py", "ENCODERS", '"hashed": "dear.conditioning.hashed:HashEncoder",'),
    ),
    "dataset": Kind(
        "field_notes",
        ("tests/training/test_datasets.py",),
        6,
        Registration("training/data/readers.py", "READERS", '"field_notes": "training.data.field_notes:field_notes",'),
    ),
    "judge": Kind(
        "levels",
        ("tests/evaluation/test_judges.py",),
        1,
        Registration(
            "dear/evaluation/judge/__init__.py", "JUDGES", '"levels": "dear.evaluation.judge.levels:load_levels",'
        ),
    ),
    "tab": Kind(
        "hello",
        ("tests/ui/test_tabs.py",),
        3,
        Registration("dear/ui/registry.py", "TABS", '"hello": "dear.ui.tabs.hello:TAB",'),
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
    """The module of a registry with the line of the example."""
    registry = re.search(rf"^{registration.registry}: .*?\n(?=    \}}\n\))", text, re.DOTALL | re.MULTILINE)
    assert registry, f"{registration.registry} must have an entry on each line"
    return f"{text[: registry.end()]}        {registration.line}\n{text[registry.end() :]}"


def differences(compared: filecmp.dircmp, folder: str) -> Iterator[tuple[str, str]]:
    """("new", "edited" or "lost", path) of each file that differs below a folder."""
    for state, names in (("new", compared.right_only), ("edited", compared.diff_files), ("lost", compared.left_only)):
        yield from ((state, f"{folder}/{name}") for name in names)
    for name, below in compared.subdirs.items():
        yield from differences(below, f"{folder}/{name}")


def changed_lines(before: str, after: str) -> list[str]:
    compared = difflib.ndiff(before.splitlines(), after.splitlines())
    return [f"{line[0]}{line[1:].strip()}" for line in compared if line[0] in "+-"]


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository with the examples of all kinds."""
    folder = tmp_path_factory.mktemp("extended")
    for package in ("dear", "training"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    for linked in ("tests", "assets", "pyproject.toml"):
        (folder / linked).symlink_to(ROOT / linked)
    for section, kind in KINDS.items():
        path, code = example(section)
        assert not (folder / path).exists()
        (folder / path).write_text(code)
        if registration := kind.registration:
            file = folder / registration.file
            file.write_text(register(file.read_text(), registration))
    return folder


def test_a_new_kind_is_one_file_and_one_line_of_its_registry(extended):
    expected = {("new", example(section)[0]) for section in KINDS}
    for registration in filter(None, (kind.registration for kind in KINDS.values())):
        texts = [(folder / registration.file).read_text() for folder in (ROOT, extended)]
        assert changed_lines(*texts) == [f"+{registration.line}"]
        expected.add(("edited", registration.file))
    compared = (
        differences(filecmp.dircmp(ROOT / package, extended / package, ignore=["__pycache__", "assets"]), package)
        for package in ("dear", "training")
    )
    assert {each for package in compared for each in package} == expected


def test_each_new_kind_keeps_its_contract(extended):
    """All examples in one process: importing the packages takes longer than the tests."""
    modules = [module for kind in KINDS.values() for module in kind.contract]
    names = " or ".join(kind.name for kind in KINDS.values())
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-vv", "-p", "no:cacheprovider", *modules, "-k", names],
        cwd=extended,
        env=os.environ | {"PYTHONPATH": str(extended)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    passed = re.findall(r"^(\S+?)::(.+) PASSED", done.stdout, re.MULTILINE)
    for kind in KINDS.values():
        assert sum(module in kind.contract and kind.name in test for module, test in passed) >= kind.least, kind.name


def test_the_table_of_the_guide_names_the_files_that_are_edited():
    rows = re.findall(r"^\| an? (.+?) \| (\d) \| (.+?) \|", GUIDE.read_text(encoding="utf-8"), re.MULTILINE)
    edited = {name: f"1: `{kind.registration.file}`" if kind.registration else "none" for name, kind in KINDS.items()}
    assert {name: (int(new), files) for name, new, files in rows} == {name: (1, edited[name]) for name in KINDS}


def test_judges_take_the_names_of_a_new_sound(tmp_path):
    path, text = example("sound")
    (tmp_path / Path(path).name).write_text(text)
    assert audioset_names(tmp_path) == {"gong": ["Gong"]}
