"""The package's metadata is consistent: ranges, exact versions, the Space's front matter."""

import ast
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import dear
from dear.bundled import bundled
from dear.cli import EXTRAS as MISSING

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def requirements(lines):
    """Requirements of lines such as those of requirements.txt, comments left out."""
    bare = (line.partition("#")[0].strip() for line in lines)
    return [Requirement(line) for line in bare if line]


def keys(lines):
    """Comparable forms: name, range and marker."""
    return {(canonicalize_name(r.name), str(r.specifier), str(r.marker)) for r in requirements(lines)}


def test_requirements_are_the_core_and_the_extras_of_page_training_and_paper():
    expected = keys(PROJECT["dependencies"] + EXTRAS["ui"] + EXTRAS["train"] + EXTRAS["paper"])
    found = keys((ROOT / "requirements.txt").read_text().splitlines())
    assert {row for row in expected if row[0] != "torchvision"} == {row for row in found if row[0] != "pytest"}
    assert {row for row in found if row[0] == "pytest"} <= keys(EXTRAS["dev"])


def test_every_range_is_bounded_above_and_holds_the_exact_version():
    ranges = requirements(PROJECT["dependencies"] + [line for extra in EXTRAS.values() for line in extra])
    exact = requirements((ROOT / "constraints.txt").read_text().splitlines())
    assert all(str(pin.specifier).startswith("==") and pin.url is None for pin in exact)
    for wanted in ranges:
        assert any(part.operator in ("<", "==") for part in wanted.specifier), f"{wanted} has no upper bound"
        for version in ("3.11", "3.12", "3.13"):
            python = {"python_version": version, "python_full_version": f"{version}.7", "sys_platform": "linux"}
            if wanted.marker is not None and not wanted.marker.evaluate(python):
                continue
            pins = [
                pin
                for pin in exact
                if canonicalize_name(pin.name) == canonicalize_name(wanted.name)
                and (pin.marker is None or pin.marker.evaluate(python))
            ]
            assert len(pins) == 1, f"{wanted} on Python {version}: {pins}"
            (pinned,) = pins[0].specifier
            assert pinned.version in wanted.specifier, f"{pins[0]} is not in {wanted}"


def test_laions_package_comes_with_the_torchvision_that_it_imports():
    for lines in (EXTRAS["paper"], (ROOT / "constraints.txt").read_text().splitlines()):
        found = {r.name: r for r in requirements(lines)}
        assert str(found["laion-clap"].marker) == str(found["torchvision"].marker)
    exact = {name: Version(str(r.specifier)[2:]) for name, r in found.items()}
    # torchvision is built for one version of torch: 0.15 for 2.0, 0.16 for 2.1, and so on.
    assert exact["torchvision"].minor == exact["torch"].minor + 15


def test_commands_name_the_extra_that_has_a_package():
    names = {"yaml": "pyyaml"}
    for module, extra in MISSING.items():
        assert names.get(module, module) in {r.name for r in requirements(EXTRAS[extra])}
        assert names.get(module, module) not in {r.name for r in requirements(PROJECT["dependencies"])}


def test_a_user_of_the_library_is_not_held_below_numpy_2():
    assert all("2.2.0" in r.specifier for r in requirements(PROJECT["dependencies"]) if r.name == "numpy")
    assert "laion-clap" not in {r.name for r in requirements(PROJECT["dependencies"])}


def test_the_front_matter_of_the_space_names_what_is_here():
    facts = yaml.safe_load((ROOT / "README.md").read_text().split("---\n")[1])
    exact = {r.name: str(r.specifier)[2:] for r in requirements((ROOT / "constraints.txt").read_text().splitlines())}
    assert facts["sdk_version"] == exact["gradio"]
    assert facts["python_version"] in ("3.10", "3.12", "3.13")
    assert (ROOT / facts["thumbnail"]).is_file()
    assert (ROOT / facts["app_file"]).is_file()


def test_pre_commit_runs_the_ruff_of_the_constraints():
    text = (ROOT / ".pre-commit-config.yaml").read_text()
    exact = (ROOT / "constraints.txt").read_text().splitlines()
    for name in ("ruff", "import-linter"):
        pins = set(re.findall(rf"{name}==[\d.]+", text))
        assert pins == {line for line in exact if line.startswith(f"{name}==")}


def test_the_version_is_stated_in_one_place():
    assert "version" in PROJECT["dynamic"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", dear.__version__)
    assert f"version: {dear.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## [{dear.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("inside", [True, False])
def test_bundled_files_lie_inside_an_installed_package_or_beside_a_checkout(inside, tmp_path, monkeypatch):
    package = tmp_path / "dear"
    folder = (package if inside else tmp_path) / "assets"
    folder.mkdir(parents=True)
    monkeypatch.setattr("dear.bundled.__file__", str(package / "bundled.py"))
    assert bundled("mini") == folder / "mini"


def test_the_wheel_holds_every_bundled_file_that_is_read():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    used = set()
    for file in (ROOT / "dear").rglob("*.py"):
        used |= set(re.findall(r'bundled\("([^"]+)"\)', file.read_text()))
    assert used == {"mini", "classifier", "eval_prompts.json", "eval_compositions.json", "audioset.json"}
    assert settings["force-include"] == {f"assets/{name}": f"dear/assets/{name}" for name in used}
    assert all(bundled(name).exists() for name in used)


def test_a_file_of_more_than_350_lines_states_why_in_its_docstring():
    for folder in ("dear", "training", "tests", "docs"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            if text.count("\n") > 350:
                assert "file is long because" in " ".join((ast.get_docstring(ast.parse(text)) or "").split()), path


def test_the_container_is_given_all_that_the_package_is_built_from():
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    copied = {name for line in lines if line.startswith("COPY ") for name in line.split()[1:-1]}
    assert all((ROOT / name).exists() for name in copied)
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {*wheel["packages"], *wheel["force-include"], "pyproject.toml", "constraints.txt", "app.py"}
    needed |= {PROJECT["readme"], *PROJECT["license-files"]}
    assert needed <= copied
    ignored = set((ROOT / ".dockerignore").read_text().split())
    assert not {name.split("/")[0] for name in copied} & ignored
