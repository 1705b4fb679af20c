"""The paper's tables at toy size, and what they are made of."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml

from dear.conditioning import Conditioning
from training import ablate
from training.cache.embeddings import part_of
from training.engine.ablation import AblationRecipe
from training.engine.recipe import Recipe, load_recipe
from training.report.tables import agreement
from training.reproduce import Reproduction

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def judge(clips, recipe, tmp_path_factory):
    """The folder of a classifier that fits the toy."""
    folder = tmp_path_factory.mktemp("judge")
    assert Reproduction(load_recipe(recipe, Recipe), [Path(clip) for clip in clips], folder, 1).classifier
    return folder / "classifier"


@pytest.fixture
def tables(tmp_path):
    """The tables that ship, with heads as small as the toy's."""
    data = yaml.safe_load((ROOT / "training" / "configs" / "tables.yaml").read_text())
    for run in data["runs"].values():
        run["head"] = {key: value for key, value in run["head"].items() if key != "groups"} | {"width": 8, "depth": 1}
    path = tmp_path / "tables.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return path


def test_every_table_is_made_at_toy_size_and_only_once(judge, clips, recipe, tables, tmp_path, capsys, monkeypatch):
    command = ["--clips", *clips, "--recipe", str(recipe), "--tables", str(tables), "--budget", "toy"]
    command += ["--out", str(tmp_path), "--judge", f"classifier:{judge}", "--workers", "1"]
    assert ablate.main([*command, "--table", "2", "3", "4", "5", "6", "7", "8"]) == 0
    printed, out = capsys.readouterr().out, tmp_path / "toy"
    wanted = load_recipe(tables, AblationRecipe)
    assert {path.name for path in (out / "runs").iterdir()} == set(wanted.runs)
    for number, table in wanted.tables.items():
        text = (out / f"table-{number}.md").read_text()
        assert text in printed and f"The paper's claim: {table.claim}." in text
        rows = [line.split(" | ") for line in text.splitlines()[4 : 4 + len(table.rows)]]
        found = json.loads((out / f"table-{number}.json").read_text())
        for cells, (name, row) in zip(rows, table.rows.items(), strict=True):
            assert (
                cells[0] == f"| {name}" and cells[1:6] == [f"{value:g}" for value in row.paper or ()]
            ) or not row.paper
            assert cells[6] == f"{found[name]['fd']:.3g}" and found[name]["clips"] == 5
            assert found[name]["fd"] > 0 and 0 <= found[name]["accuracy"] <= 1
        assert (out / f"table-{number}.png").read_bytes().startswith(b"\x89PNG")
    # Rows that share a run and its options share a measurement, and so their figures.
    tables_ = {number: json.loads((out / f"table-{number}.json").read_text()) for number in wanted.tables}
    assert tables_["2"]["15"] == tables_["5"]["2"] == tables_["4"]["energy and distillation, 1"]
    assert tables_["2"]["15"] != tables_["2"]["0"]
    monkeypatch.setattr(ablate.Ablation, "score", lambda *_: pytest.fail("measured again"))
    monkeypatch.setattr(torch.Tensor, "backward", lambda *_: pytest.fail("trained again"))
    assert ablate.main([*command, "--table", "7"]) == 0


def test_a_codec_that_draws_detail_renders_the_tokens_it_encoded(judge, clips, recipe, tables, tmp_path):
    drawn = yaml.safe_load(recipe.read_text())
    drawn["model"]["vae"] = {"kind": "detail", "token_dim": 16, "detail_dim": 16, "width": 16, "depth": 1}
    drawn["detail"] = {"steps": 1, "batch_size": 2, "lr": 1.0e-3, "warmup": 0}
    path = tmp_path / "drawn.yaml"
    path.write_text(yaml.safe_dump(drawn))
    command = ["--clips", *clips, "--recipe", str(path), "--tables", str(tables), "--budget", "toy"]
    command += ["--out", str(tmp_path / "out"), "--judge", f"classifier:{judge}", "--workers", "1", "--table", "7"]
    assert ablate.main(command) == 0
    rows = json.loads((tmp_path / "out" / "toy" / "table-7.json").read_text())
    assert set(rows) == set(load_recipe(tables, AblationRecipe).tables["7"].rows)
    assert all(row["clips"] == 5 and row["fd"] > 0 for row in rows.values())


def test_an_estimate_needs_no_recordings_and_shares_runs(recipe, tables, capsys):
    command = ["--recipe", str(recipe), "--tables", str(tables), "--budget", "toy", "--estimate", "--table"]
    assert ablate.main([*command, "7", "2"]) == 0
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[:2] for row in rows] == [["7", "3"], ["2", "9"], ["all", "10"]]
    assert ablate.main([*command[:-1], "--table", "9"]) == 2
    assert "--table must be among 2, 3, 4, 5, 6, 7, 8, got '9'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        ablate.main(["--table", "2"])
    assert "the following arguments are required: --clips, --out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"run": "none"}, r"tables\.2\.rows\.0\.run must be one of teacher, .*, got 'none'"),
        ({"paper": [1.0]}, r"paper must hold 5 figures or none, got \(1\.0,\)"),
        ({"guidance_level": "both"}, "guidance_level must be one of default, prediction, representation, got 'both'"),
        ({"steps": 4}, r"tables\.2\.rows\.0: steps must be 1 for the energy head, got 4"),
        ({"guidance_level": "prediction"}, "head.guidance_level must be one of default, representation"),
    ],
)
def test_a_row_that_cannot_be_is_named(recipe, tables, capsys, change, message):
    data = yaml.safe_load(tables.read_text())
    data["tables"]["2"]["rows"]["0"] |= change
    tables.write_text(yaml.safe_dump(data, sort_keys=False))
    assert ablate.main(["--recipe", str(recipe), "--tables", str(tables), "--table", "2", "--estimate"]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_parts_of_a_conditioning():
    tokens = torch.arange(2 * 4 * 3.0).view(2, 4, 3)
    conditioning = Conditioning(tokens, torch.tensor([[True] * 4, [True, True, False, False]]))
    words, pooled = (part_of(conditioning, part) for part in ("words", "pooled"))
    assert words.mask.tolist() == [[True] * 3 + [False], [True] + [False] * 3]
    assert torch.equal(words.tokens[0, :3], tokens[0, :3]) and not words.tokens[0, 3].any()
    assert torch.equal(pooled.tokens, torch.stack([tokens[0, 3:4], tokens[1, 1:2]])) and pooled.mask.all()
    assert part_of(conditioning, "all") is conditioning
    with pytest.raises(ValueError, match="embeddings must be one of all, words, pooled, got 'some'"):
        part_of(conditioning, "some")


def test_agreement_is_that_of_the_orders():
    table = load_recipe(ROOT / "training" / "configs" / "tables.yaml", AblationRecipe).tables["3"]
    falling = {name: {"fd": -row.paper[0]} for name, row in table.rows.items()}
    same = {name: {"fd": 10 * row.paper[0]} for name, row in table.rows.items()}
    assert agreement(table, same) == (pytest.approx(1), 6)
    assert agreement(table, falling) == (pytest.approx(-1), 6)
    assert agreement(table, {"1": {"fd": 1.0}}) is None
