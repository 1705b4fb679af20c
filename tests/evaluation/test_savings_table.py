"""The command that measures what each saving gains and costs."""

import json
import re

import numpy as np
import pytest
import torch
from factory import tiny_config

from dear.evaluation.generation import named_prompts
from dear.evaluation.savings import base_jobs, time_trials
from dear.evaluation.savings import main as evaluate
from dear.ranking import default_judge


@pytest.fixture
def recordings(tmp_path):
    """Noise in the format of clips.csv: two clips of each label that is prompted for, half of them held out."""
    import soundfile

    rows = ["file,label,fold"]
    for i, label in enumerate(label for label in named_prompts(default_judge()) for _ in range(2)):
        noise = np.random.default_rng(i).uniform(-1, 1, 16_000)
        soundfile.write(tmp_path / f"{i}.wav", noise, 16_000)
        rows.append(f"{i}.wav,{label},{4 if i % 2 else 1}")
    (tmp_path / "clips.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def test_the_table_tells_what_each_saving_gains_and_costs(recordings, tiny_folder, capsys):
    file = recordings / "savings.json"
    options = ["--rows", "refresh-2", "iterations-50", "--clips-per-class", "1", "--repeats", "1", "--json", str(file)]
    options += ["--plot", str(recordings / "speed.svg")]
    assert evaluate(["--reference", str(recordings), "--model", str(tiny_folder), *options]) == 0
    printed = capsys.readouterr().out.splitlines()
    result = json.loads(file.read_text())
    assert [row["name"] for row in result["rows"]] == ["exact", "refresh-2", "iterations-50"]
    exact, refresh, fewer = result["rows"]
    assert exact["speed_up"] == 1 and exact["iterations"] == refresh["iterations"] == 2 * fewer["iterations"] == 4
    assert refresh["savings"]["refresh_every"] == 2
    assert refresh["speed_up"] == pytest.approx(exact["decode_seconds"] / refresh["decode_seconds"])
    for row in result["rows"]:
        assert row["clips"] == 10 and 0 <= row["accuracy"] <= 1 and row["fd"] > 0
    assert result["floor_fd"] > 0
    plot = (recordings / "speed.svg").read_text()
    assert all(f"<!-- {name} -->" in plot for name in ("exact", "refresh-2", "iterations-50"))
    assert printed[0] == "| row | iterations | trades | decoding | accuracy | FD |"
    assert printed[3].startswith("| refresh-2 | 4 | known tokens are up to 1 iteration behind | ")


def test_the_base_size_can_be_timed_beside_it(monkeypatch):
    monkeypatch.setattr("dear.evaluation.savings.preset", lambda name: tiny_config())
    monkeypatch.setattr("dear.evaluation.bench.jobs.preset", lambda name: tiny_config())
    seconds = time_trials(base_jobs(["exact", "refresh-4", "null-2"], torch.device("cpu")), torch.device("cpu"), 1)
    assert list(seconds) == ["exact", "refresh-4", "null-2"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rows", "quick"], "--rows must be some of exact, .*, got 'quick'"),
        (["--clips-per-class", "0"], "--clips-per-class must be a whole number from 1 to 1000, got 0"),
        (["--plot", "speed.txt"], "--plot must be a .png or .svg file"),
        (["--json", "/nowhere/at/all.json"], "--json must lie in an existing directory"),
        (["--model", "/nowhere"], "/nowhere"),
    ],
)
def test_bad_options_of_the_table_end_with_one_sentence(options, message, tmp_path, capsys):
    assert evaluate(["--reference", str(tmp_path), *options]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert re.search(message, captured.err)
