"""The README and the documentation: length, links, and figures that can be drawn."""

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_readme_has_at_most_200_lines():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_to_files(page):
    targets = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    relative = [target for target in targets if not target.startswith(("http://", "https://"))]
    assert [target for target in relative if not (page.parent / target).exists()] == []


def test_the_figures_of_the_architecture_can_be_drawn(tmp_path):
    """In a copy: the script, the bundled configuration and the import contract are all that it reads."""
    for name in ("docs/figures/draw.py", "assets/mini/config.json", "pyproject.toml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run([sys.executable, str(tmp_path / "docs/figures/draw.py")], check=True)
    for name, words in (("pipeline.svg", "masked transformer"), ("rooms.svg", "sampling")):
        drawn = ElementTree.parse(tmp_path / "docs/figures" / name).getroot()
        assert words in [element.text for element in drawn.iter("{http://www.w3.org/2000/svg}text")]
        assert (ROOT / "docs/figures" / name).is_file()
