"""The examples of how to add a kind, in a copy of the package: each is one new file and its entry in the registry."""

import filecmp
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import dear.conditioning
import dear.heads

ROOT = Path(dear.__file__).parents[1]


def example(text: str) -> str:
    """The code of a docstring: the first indented block, which ends before a line without an indent."""
    lines = text.partition("::\n")[2].splitlines()
    end = next(at for at, line in enumerate(lines) if line and not line.startswith(" "))
    return textwrap.dedent("\n".join(lines[:end])).strip() + "\n"


@pytest.mark.parametrize(
    ("module", "name", "cls", "registry", "contract"),
    [
        (dear.heads, "gaussian", "GaussianHead", "HEADS", "heads/test_head_contract.py"),
        (dear.conditioning, "hashed", "HashEncoder", "ENCODERS", "conditioning/test_encoder_contract.py"),
    ],
    ids=["head", "encoder"],
)
def test_a_further_kind_is_one_file_and_its_entry(tmp_path, module, name, cls, registry, contract):
    room = Path(module.__file__).parent.relative_to(ROOT)
    shutil.copytree(ROOT / "dear", tmp_path / "dear", ignore=shutil.ignore_patterns("__pycache__", "assets"))
    for linked in ("tests", "training", "assets", "pyproject.toml"):
        (tmp_path / linked).symlink_to(ROOT / linked)

    (tmp_path / room / f"{name}.py").write_text(example(module.__doc__))
    entry = tmp_path / room / "__init__.py"
    imports, mark, registries = entry.read_text().partition(f"\n{registry}: ")
    kinds, end, rest = registries.partition("}\n")
    imports += f"\nfrom {module.__name__}.{name} import {cls}\n"
    entry.write_text(f'{imports}{mark}{kinds}    "{name}": {cls},\n{end}{rest}')

    changed = filecmp.dircmp(ROOT / room, tmp_path / room, ignore=["__pycache__"])
    assert changed.right_only == [f"{name}.py"] and not changed.left_only and changed.diff_files == ["__init__.py"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", f"tests/{contract}", "-k", name],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-1000:]
    assert int(re.search(r"(\d+) passed", run.stdout)[1]) > 5
