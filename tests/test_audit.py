"""The audit of exact versions tells vulnerabilities from a database that cannot be reached."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

AUDIT = Path(__file__).resolve().parents[1] / ".ci" / "audit.py"
VULNERABLE = {"name": "b", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}]}


@pytest.fixture
def audit(tmp_path):
    """Runs the script beside a program in place of pip-audit, which is no requirement of the tests."""
    os.symlink(sys.executable, tmp_path / "python")

    def run(report: object, stderr: str, status: int) -> subprocess.CompletedProcess[str]:
        program = (
            f"#!{sys.executable}\nimport sys\nfrom pathlib import Path\nreport = {json.dumps(report)!r}\n"
            "if report != 'null':\n    Path(sys.argv[sys.argv.index('--output') + 1]).write_text(report)\n"
            f"sys.stderr.write({stderr!r})\nsys.exit({status})\n"
        )
        (tmp_path / "pip-audit").write_text(program)
        (tmp_path / "pip-audit").chmod(0o755)
        return subprocess.run([tmp_path / "python", AUDIT], capture_output=True, text=True, check=False)

    return run


def test_known_vulnerabilities_are_listed(audit):
    clean = {"name": "a", "version": "1", "vulns": []}
    found = audit({"dependencies": [clean, VULNERABLE]}, "Found 1 known vulnerability", 1)
    assert (found.returncode, found.stdout) == (
        1, "b 2: CVE-1, fixed in 3\n2 versions checked, 1 known vulnerabilities\n",
    )  # fmt: skip
    found = audit({"dependencies": [clean]}, "", 0)
    assert (found.returncode, found.stdout) == (0, "1 versions checked, 0 known vulnerabilities\n")


@pytest.mark.parametrize(
    "stderr",
    [
        "Traceback (most recent call last):\n  ...\nrequests.exceptions.ConnectionError: no network\n",
        "ERROR: a is not on PyPI",
        "",
    ],
)
def test_a_database_that_cannot_be_reached_is_one_sentence(audit, stderr):
    found = audit(None, stderr, 1)
    assert (found.returncode, found.stdout) == (3, "")
    (line,) = found.stderr.splitlines()
    assert line.startswith("audit: the database of vulnerabilities could not be asked, so nothing was checked: ")
    assert line.endswith(stderr.strip().splitlines()[-1] if stderr else "pip-audit ended with status 1")
