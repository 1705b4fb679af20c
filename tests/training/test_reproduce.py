"""A reproduction at toy size, from recordings to a checkpoint, also after kills."""

import dataclasses
import json
import os
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from processes import end, start, wait_until
from reproduction import SOUNDS, same_weights, train_all

from dear.config import ConfigError
from dear.evaluation.judge import load_judge
from dear.heads import HEADS
from dear.model import MaskedModel
from dear.pipeline import AudioDEAR
from training import heads
from training.cache.tokens import weights_digest
from training.engine.recipe import Recipe, load_recipe
from training.report.card import last_phase
from training.reproduce import Reproduction, main

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def finished(clips, recipe, tmp_path_factory):
    """An undisturbed reproduction, on one thread as in the processes that it is compared with."""
    out, threads = tmp_path_factory.mktemp("finished"), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert main(["--clips", *clips, "--out", str(out), "--recipe", str(recipe), "--workers", "1"]) == 0
    finally:
        torch.set_num_threads(threads)
    return out


def contents(out):
    """The bytes of everything that ships."""
    return {path.name: path.read_bytes() for path in sorted((out / "toy").rglob("*.safetensors"))}


def reported(out, name):
    """The results of a measured table, by row."""
    paths = (out / "reports").glob(f"{name}-*.json")
    return {path.stem.removeprefix(f"{name}-"): json.loads(path.read_text())["result"] for path in paths}


def test_all_stages_end_in_a_checkpoint_that_makes_sound(finished):
    for variant in ("student", "teacher"):
        model = AudioDEAR.from_pretrained(finished / "toy", variant=variant, device="cpu")
        out = model.generate("a dog barking", seed=0)
        assert out.waveform.shape == (1, 10_000)
        assert out.waveform.abs().max() > 1e-4
    scores = reported(finished, "scores")
    assert set(scores) == {"student", "teacher", "plain"}
    assert scores["student"]["clips"] == len(SOUNDS)
    composed = reported(finished, "compositions")
    assert set(composed) == {"recordings", "student", "teacher", "plain"}
    assert all(row["clips"] == 12 and row["both"] <= min(row["first"], row["second"]) for row in composed.values())


def test_a_recipe_may_leave_out_what_serves_comparisons(clips, recipe, tmp_path):
    """Without a refined codec, a learned vocoder, a classifier of its own and a student without distillation."""
    short = yaml.safe_load(recipe.read_text())
    for name in ("conv", "vocoder", "classifier", "finish"):
        del short[name]
    short["model"]["vae"] = {"kind": "detail", "token_dim": 16, "detail_dim": 16, "width": 16, "depth": 1}
    short["detail"] = {"steps": 2, "batch_size": 2, "lr": 1.0e-3, "warmup": 0}
    short["model"]["vocoder"] = {"kind": "mel-gain", "iterations": 2, "momentum": 0.9}
    short["masking"] = {"shares": "cosine", "empty": 0.5, "targets": 3}
    short["measure"]["plain"] = False
    path = tmp_path / "short.yaml"
    path.write_text(yaml.safe_dump(short))
    out = tmp_path / "out"
    assert main(["--clips", *clips, "--out", str(out), "--recipe", str(path), "--workers", "1"]) == 0
    assert {folder.name for folder in out.iterdir()} == {
        "cache",
        "cache-held-out",
        "codec",
        "detail",
        "student",
        "teacher",
        "reports",
        "toy",
    }
    scores = reported(out, "scores")
    assert set(scores) == {"student", "teacher"}
    assert set(scores["student"]["per_class"]) == {"dog", "rain", "clock_tick"}  # what the bundled classifier knows
    assert set(json.loads((out / "reports" / "codecs.json").read_text())["result"]) == {"mel-gain", "detail + mel-gain"}
    card = (out / "toy" / "README.md").read_text()
    assert "lambda = 0" not in card
    assert all(f'"tone {number}" by nobody' in card for number in range(len(SOUNDS)))
    model = AudioDEAR.from_pretrained(out / "toy", device="cpu")
    assert (model.config.vae.kind, model.config.vocoder.kind) == ("detail", "mel-gain")


@pytest.mark.parametrize(
    ("part", "kind", "stage"), [("vae", "conv", "conv"), ("vae", "detail", "detail"), ("vocoder", "istft", "vocoder")]
)
def test_a_recipe_trains_the_parts_that_its_model_names(recipe, tmp_path, part, kind, stage):
    short = yaml.safe_load(recipe.read_text())
    short["model"]["vocoder"] = {"kind": "mel-gain"}
    short["model"][part] = {"kind": kind}
    short.pop(stage, None)
    path = tmp_path / "short.yaml"
    path.write_text(yaml.safe_dump(short))
    with pytest.raises(ConfigError, match=f"{stage} must be there for a .* of kind {kind}"):
        load_recipe(path, Recipe)


def test_the_card_thanks_every_author_that_was_heard_and_tells_the_measured_figures(finished):
    card = (finished / "toy" / "README.md").read_text()
    assert card.startswith("---\nlicense: cc-by-4.0\n")
    for number in range(len(SOUNDS)):
        assert f'"tone {number}" by nobody, CC0, https://example.org/{number}' in card
    assert "In the student's last phase of 4 more steps 30% to 100% of a scene's tokens are hidden, each share" in card
    scores = reported(finished, "scores")
    for row in scores.values():
        assert f"| {row['accuracy']:.3f} | {row['fd']:.1f} |" in card
    composed = reported(finished, "compositions")
    for row in composed.values():
        assert f"| {row['first']:.3f} | {row['second']:.3f} | {row['both']:.3f} | {row['same']:.3f} |" in card


def test_heads_are_compared_on_one_cache_and_a_second_call_times_alone(
    finished, clips, recipe, tmp_path, capsys, monkeypatch
):
    compared = {
        "train": {"steps": 6, "batch_size": 4, "lr": 1e-3, "warmup": 1, "save_every": 2, "log_every": 2},
        "measure": {
            "cfg_scales": [2.0], "temperatures": {"student": [0.7, 1.0]}, "tuning_clips": 1, "scored_clips": 2,
        },
        "rows": {
            "energy": {"head": {"kind": "energy", "width": 8, "depth": 1}, "masking": {"ratio": [0.3, 1.0]}},
            "shortcut": {"head": {"kind": "shortcut", "width": 8, "depth": 1}, "masking": {}},
            "flow": {"head": {"kind": "flow", "width": 8, "depth": 1}, "masking": {}, "steps": [4, 10]},
        },
    }  # fmt: skip
    (tmp_path / "heads.yaml").write_text(yaml.safe_dump(compared, sort_keys=False))
    arguments = ["--clips", *clips, "--out", str(finished), "--recipe", str(recipe)]
    arguments += ["--compare", str(tmp_path / "heads.yaml"), "--rows", "energy", "flow"]
    wrong = compared | {"rows": {"energy": compared["rows"]["energy"] | {"steps": [4]}}}
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(wrong))
    assert heads.main([*arguments[:-4], str(tmp_path / "wrong.yaml")]) == 2  # at once, and not after its training
    assert "steps must be 1 for the energy head" in capsys.readouterr().err
    assert heads.main([*arguments, "x"]) == 2
    assert capsys.readouterr().err.endswith("--rows must be among energy, shortcut, flow, got 'x'\n")
    assert heads.main(arguments) == 0
    first = capsys.readouterr().out
    *lines, _, by = first.splitlines()
    rows = [line.split(" | ") for line in lines[2:]]
    assert by.startswith("10 clips in each row, one candidate each; judge: SoundClassifier ")
    assert [(row[0], row[1]) for row in rows] == [("| energy", "1"), ("| flow", "4"), ("| flow", "10")]
    assert all(0 <= float(row[5]) <= float(row[6]) <= 1 and float(row[7]) > 0 for row in rows)
    log = (finished / "heads" / "flow" / "log.jsonl").read_text()
    assert json.loads(log.splitlines()[-1])["step"] == 6
    assert all(float(row[-1].strip("| ")) > 0 for row in rows)
    run = Reproduction(load_recipe(recipe, Recipe), [Path(folder) for folder in clips], finished, 1)
    compared_again = load_recipe(tmp_path / "heads.yaml", heads.HeadsRecipe)
    by_other = heads.Comparison(compared_again, run, load_judge(f"classifier:{finished / 'classifier'}"))
    np.testing.assert_allclose(by_other.reference.embedding.features, run.reference.embedding.features, atol=1e-4)
    monkeypatch.setattr(heads.Comparison, "measure", None)  # nothing is measured again
    assert heads.main(arguments) == 0
    again = [line.split(" | ") for line in capsys.readouterr().out.splitlines()[2:-2]]
    assert [row[:-1] for row in again] == [row[:-1] for row in rows]


def test_a_damaged_codec_is_reported(finished, clips, recipe, tmp_path, capsys):
    shutil.copytree(finished / "codec", tmp_path / "codec")
    arguments = ["--clips", *clips, "--out", str(tmp_path), "--recipe", str(recipe), "--stages", "codec"]
    os.truncate(tmp_path / "codec" / "patch.safetensors", 100)
    assert main(arguments) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "patch.safetensors is lost or damaged (" in message and message.endswith("patch.json to make it again")
    (tmp_path / "codec" / "patch.json").unlink()
    assert main(arguments) == 0
    assert "mels: scene 8/8" in capsys.readouterr().err


def test_students_start_from_the_teacher_and_differ_by_lambda(finished):
    student = (finished / "student" / "log.jsonl").read_text()
    plain = (finished / "student-plain" / "log.jsonl").read_text()
    assert "representation" in student
    assert "representation" not in plain


def test_the_last_phase_goes_on_from_the_averages_of_the_first(finished, recipe):
    model = MaskedModel(load_recipe(recipe, Recipe).model, "student")
    for name in ("student", "student-plain"):
        first, last = (
            torch.load(finished / phase / "state.pt", weights_only=True) for phase in (name, f"{name}-finish")
        )
        model.load_state_dict(first["model"] | first["ema"])
        settings = json.loads(last["description"])["settings"]
        assert settings["student"] == weights_digest(model)
        assert settings["masking"]["shares"] == "cosine"
        assert last["step"] == 4


def test_a_finished_run_does_nothing_again(finished, clips, recipe):
    made = [*finished.rglob("*.pt"), *finished.rglob("*.json"), *finished.rglob("log.jsonl")]
    before = {path: path.stat().st_mtime_ns for path in made if "toy" not in path.parts}
    shipped = contents(finished)
    assert main(["--clips", *clips, "--out", str(finished), "--recipe", str(recipe)]) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert contents(finished) == shipped
    assert (finished / "toy" / "README.md").exists()


def test_what_was_made_from_something_else_is_refused_not_reported(finished, clips, recipe, tmp_path, capsys):
    for old, new, words in (
        ("tuning_clips: 1", "tuning_clips: 2", "its measure.tuning_clips is 1, wanted is 2"),
        ("    old: 4", "    old: 2", "was made from other settings: its scenes.clips"),
    ):
        changed = tmp_path / "changed.yaml"
        changed.write_text(recipe.read_text().replace(old, new))
        assert main(["--clips", *clips, "--out", str(finished), "--recipe", str(changed)]) == 2
        assert words in capsys.readouterr().err


def test_killed_in_the_middle_of_every_stage_it_reaches_the_same_weights(finished, clips, recipe, tmp_path):
    """SIGKILL as soon as a stage has saved its first state (or block), again and again, then to the last stage."""
    stages = ["teacher", "student", "student-finish", "student-plain", "conv", "vocoder", "classifier-state"]
    for moment in ["cache/blocks/*", *(f"{stage}/state.pt" for stage in stages)]:
        process = start(train_all, clips, recipe, tmp_path)
        wait_until(lambda moment=moment: list(tmp_path.glob(moment)), process)
        process.kill()
        assert end(process) == [-signal.SIGKILL]
    assert end(start(train_all, clips, recipe, tmp_path)) == [0]
    same_weights(tmp_path, finished)


def test_bad_input_is_one_sentence_and_status_2(clips, recipe, tmp_path, capsys):
    out = ["--out", str(tmp_path / "out")]
    assert main(["--clips", str(tmp_path / "none"), *out]) == 2
    assert "does not exist" in capsys.readouterr().err.splitlines()[-1]
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(recipe.read_text() + "colour: blue\n")
    assert main(["--clips", *clips, *out, "--recipe", str(wrong)]) == 2
    error = capsys.readouterr().err
    assert f"{wrong}: unknown field colour" in error
    assert "Traceback" not in error
    for old, new, words in (
        ("    new: 5\n", "", "held_out must state the held-out fold of the folder 'new', got it for old"),
        ("  - beep\n", "  - cat\n", "clips must hold recordings of every sound of the recipe, got none of cat"),
    ):
        assert recipe.read_text().count(old) == 1
        wrong.write_text(recipe.read_text().replace(old, new))
        assert main(["--clips", *clips, *out, "--recipe", str(wrong)]) == 2
        assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("tuning_clips: 1", "tuning_clips: 0", "measure.tuning_clips must be at least 1, got 0"),
        ("    teacher:\n    - 1.0\n", "", "name some for every variant, got none for 'teacher'"),
        ("  cfg_scales:\n  - 1.0\n  - 2.0\n", "  cfg_scales: []\n", "measure.cfg_scales must hold at least one scale"),
        ("  count: 48", "  count: 0", "scenes.count must be at least 1, got 0"),
        ("  wordings: 2", "  wordings: -1", "scenes.wordings must be at least 0, and 0 without recaption, got -1"),
        ("  recaption: true", "  recaption: false", "0 without recaption, got 2"),
        ("scenes:\n", "scenes:\n  kinds: [0, 0, 0]\n", "scenes.kinds must be shares from 0 on, not all 0"),
        ("  - beep\n", "  - submarine\n", "scenes: sounds must name sounds of the vocabulary or families"),
        ("    rain: 2\n", "    hail: 2\n", "got 'hail'"),
        ("  pairs: 12\n", "  pairs: 0\n", "measure.pairs must be at least 1, got 0"),
    ],
)
def test_what_would_fail_after_hours_is_refused_at_once(recipe, tmp_path, old, new, words):
    text = recipe.read_text()
    assert text.count(old) == 1
    (tmp_path / "wrong.yaml").write_text(text.replace(old, new))
    with pytest.raises(ConfigError, match=re.escape(words)):
        load_recipe(tmp_path / "wrong.yaml", Recipe)


def test_the_recipe_of_the_heads_is_sound():
    recipe = load_recipe(heads.RECIPES / "heads.yaml", heads.HeadsRecipe)
    assert {row.head.kind for row in recipe.rows.values()} == set(HEADS)
    energy, wide, whole = (recipe.rows[name] for name in ("energy", "energy-wide", "energy-whole"))
    assert wide == dataclasses.replace(energy, masking=dataclasses.replace(energy.masking, ratio=(0.3, 1.0)))
    assert whole == dataclasses.replace(energy, head=dataclasses.replace(energy.head, groups=()))
    assert {row.masking for name, row in recipe.rows.items() if name != "energy-wide"} == {energy.masking}


def test_the_recipes_are_sound_and_within_their_bounds():
    bundled, everyday = (
        load_recipe(ROOT / "training" / "configs" / f"{name}.yaml", Recipe) for name in ("mini", "everyday")
    )
    assert bundled.scenes.held_out == {"esc10": 4} and len(bundled.scenes.sounds) == 10
    assert everyday.scenes.held_out == {"esc10": 4, "sounds": 5} and everyday.scenes.sounds == ()  # all
    for recipe in (bundled, everyday):
        assert recipe.model.length == 128
        assert set(recipe.model.variants) == {"student", "teacher"}
        assert last_phase(dataclasses.replace(recipe, finish=None)) == ""
    assert "lambda" not in last_phase(bundled)
    assert everyday.finish is not None
    assert last_phase(everyday) == (
        f"In the student's last phase of {everyday.finish.steps:,} more steps lambda is 0, and 10% to 100% of a "
        "scene's tokens are hidden, each share as often as in decoding, in nested decoding orders."
    )
    with pytest.raises(ConfigError, match="cannot read the recipe"):
        load_recipe(ROOT / "training" / "configs" / "none.yaml", Recipe)
