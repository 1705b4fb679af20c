"""Look the versions of constraints.txt up in a database of known vulnerabilities: ``python .ci/audit.py [OPTION ...]``.

Runs pip-audit from this Python's environment; the options are passed on to it. The exit status is 0 if no version has a
known vulnerability, 1 if one has, and 3 if the database could not be asked, so that nothing is known.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOUND, UNKNOWN = 1, 3


def main(options: list[str]) -> int:
    tool = Path(sys.executable).with_name("pip-audit")
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [tool, "--strict", "--disable-pip", "--no-deps", "--requirement", ROOT / "constraints.txt"]
        command += ["--format", "json", "--output", report, "--progress-spinner", "off", *options]
        heard = subprocess.run(command, capture_output=True, text=True, check=False)
        # pip-audit has the same status for vulnerabilities and for its own failures. Only the former leave a report.
        text = report.read_text(encoding="utf-8") if report.is_file() else ""
    if not text:
        lines = heard.stderr.strip().splitlines() or [f"pip-audit ended with status {heard.returncode}"]
        print(
            f"audit: the database of vulnerabilities could not be asked, so nothing was checked: {lines[-1][:300]}",
            file=sys.stderr,
        )
        return UNKNOWN
    checked = json.loads(text)["dependencies"]
    faults = [(each, fault) for each in checked for fault in each.get("vulns", [])]
    for each, fault in faults:
        fixed = f", fixed in {', '.join(fault['fix_versions'])}" if fault["fix_versions"] else ""
        print(f"{each['name']} {each['version']}: {fault['id']}{fixed}")
    print(f"{len(checked)} versions checked, {len(faults)} known vulnerabilities")
    return FOUND if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
