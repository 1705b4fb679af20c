"""The commands that train one model: python -m training.teacher and training.distill."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import subprocess
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from factory import tiny_config, tiny_models
from small_training import arguments, cache, prepare, state

from dear.config import ConfigError
from dear.pipeline import AudioDEAR
from dear.presets import preset
from training import distill, teacher
from training.cache.tokens import weights_digest
from training.data.manifest import Entry, write_manifest
from training.distill import load_teacher
from training.engine.provenance import command_line, facts, git_commit
from training.engine.recipe import DistillConfig, ModelRecipe, load_recipe
from training.engine.stage import open_cache
from training.engine.trainer import StateError
from training.runtime import lock
from training.runtime.lock import locked

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "training" / "configs"


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Teacher and student after two steps each."""
    folder = tmp_path_factory.mktemp("commands")
    prepare(folder)
    assert teacher.main(arguments(folder, "teacher", "--max-steps", "2", out="teacher")) == 0
    more = ("--teacher", str(folder / "teacher"), "--max-steps", "2")
    assert distill.main(arguments(folder, "student", *more, out="student")) == 0
    return folder


@pytest.mark.parametrize("name", ["teacher", "student"])
def test_two_steps_end_in_a_checkpoint_that_makes_sound(trained, name):
    model = AudioDEAR.from_pretrained(trained / name / "checkpoint", device="cpu")
    assert model.variant == name
    out = model.generate("rain", seed=0)
    assert out.waveform.shape == (1, 10_000) and out.waveform.isfinite().all()
    averaged = state(trained / name)["ema"]
    for key, value in model.model.state_dict().items():
        assert torch.equal(value, averaged[key].half().float())


@pytest.mark.parametrize("name", ["teacher", "student"])
def test_a_run_tells_its_speed_and_lets_itself_be_heard(trained, name):
    summary = json.loads((trained / name / "summary.json").read_text())
    assert summary["steps"] == 2 and summary["tokens_per_step"] == 4 * 8
    assert summary["tokens_per_second"] == pytest.approx(32 * summary["steps_per_second"])
    expected = summary["flops_per_step"] * summary["steps_per_second"] / summary["peak_flops_per_second"]
    assert summary["utilisation"] == pytest.approx(expected)
    lines = [json.loads(line) for line in (trained / name / "log.jsonl").read_text().splitlines()]
    assert any(set(line.get("speed", {})) == {"steps", "tokens", "utilisation"} for line in lines)
    assert any("hidden_1" in line.get("validation", {}) for line in lines)
    names = sorted(path.name for path in (trained / name / "samples").iterdir())
    assert names == [f"0000002-{i}.{kind}" for i in (1, 2) for kind in ("png", "wav")]
    sound, rate = soundfile.read(trained / name / "samples" / "0000002-1.wav")
    model = AudioDEAR.from_pretrained(trained / name / "checkpoint", device="cpu")
    assert (len(sound), rate) == (10_000, model.sample_rate)


def test_a_history_of_checkpoints_is_kept(trained):
    """The later of two checkpoints is kept; its weights are those of the final checkpoint."""
    text = yaml.safe_load((trained / "teacher.yaml").read_text()) | {"history": {"every": 1, "keep": 1}}
    (trained / "history.yaml").write_text(yaml.safe_dump(text))
    command = arguments(trained, "teacher", "--max-steps", "2", out="kept")
    assert teacher.main([*command, "--config", str(trained / "history.yaml")]) == 0
    assert [path.name for path in (trained / "kept" / "history").iterdir()] == ["step-0000002"]
    kept, last = (
        AudioDEAR.from_pretrained(trained / "kept" / name, device="cpu")
        for name in ("history/step-0000002", "checkpoint")
    )
    assert weights_digest(kept.model) == weights_digest(last.model)


def test_samples_leave_the_run_alone(trained):
    recipe = yaml.safe_load((trained / "teacher.yaml").read_text())
    del recipe["samples"]
    (trained / "silent.yaml").write_text(yaml.safe_dump(recipe))
    assert teacher.main(arguments(trained, "silent", "--max-steps", "2", out="silent")) == 0
    assert not (trained / "silent" / "samples").exists()
    heard, silent = state(trained / "teacher")["model"], state(trained / "silent")["model"]
    assert all(torch.equal(heard[name], silent[name]) for name in heard)


def test_a_student_starts_from_the_teachers_average_wherever_it_lies(trained):
    student = load_recipe(trained / "student.yaml", ModelRecipe).model
    average = state(trained / "teacher")["ema"]
    for source in ("teacher", "teacher/state.pt", "teacher/checkpoint"):
        found = load_teacher(str(trained / source), student).state_dict()
        assert all(torch.allclose(found[name], average[name], atol=1e-3, rtol=1e-3) for name in average)
    settings = json.loads(state(trained / "student")["description"])["settings"]
    assert settings["teacher"] == weights_digest(load_teacher(str(trained / "teacher"), student))
    wider = replace(student, backbone=replace(student.backbone, width=64))
    with pytest.raises(ConfigError, match=r"its backbone\.width is 32, wanted is 64"):
        load_teacher(str(trained / "teacher"), wider)
    with pytest.raises(StateError, match="not the training state of a teacher"):
        load_teacher(str(trained / "tiny.pt"), student)


def test_a_manifest_is_encoded_on_first_use(trained, capsys):
    rng, entries = np.random.default_rng(0), []
    for number in range(3):
        path = trained / f"{number}.wav"
        soundfile.write(path, 0.1 * rng.standard_normal(10_240), 16000)
        entries.append(
            Entry(
                id=str(number),
                path=path,
                dataset="noise",
                captions=(f"noise {number}",),
                licence="CC0" if number else None,
                duration=0.64,
                sample_rate=16000,
                channels=1,
                digest=str(number),
            )
        )
    write_manifest(trained / "noise.jsonl", entries)
    wanted = arguments(trained, "teacher", "--max-steps", "1", out="from-manifest")
    wanted[wanted.index("--data") + 1] = str(trained / "noise.jsonl")
    assert teacher.main(wanted) == 2
    assert "python -m training.encode --manifest" in capsys.readouterr().err
    assert teacher.main([*wanted, "--cache", str(trained / "shards")]) == 0
    whole = open_cache(str(trained / "shards"))
    assert len(whole) == 3
    for rank in range(2):  # of two processes each reads its own micro-batches, here two of four
        own = open_cache(str(trained / "shards"), rank, 2, parts=4)
        indices = own.indices(0, 8, 0)
        for part in (rank, rank + 2):
            read, wanted = (cache.batch(indices)["tokens"][part::4] for cache in (own, whole))
            assert torch.equal(read, wanted) and wanted.any()
    assert state(trained / "from-manifest")["step"] == 1
    card = (trained / "from-manifest" / "checkpoint" / "README.md").read_text()
    assert "3 items of 3 sounds" in card and "| noise | 3 | 3 | unknown, CC0 |" in card
    assert "Licences of the sounds that were trained on: CC0 (2), unknown (1)." in card


@pytest.mark.parametrize(("name", "module"), [("teacher", "teacher"), ("student", "distill")])
def test_the_card_tells_data_command_commit_and_size(trained, name, module):
    card = (trained / name / "checkpoint" / "README.md").read_text()
    assert '## Data\n\n12 items of a cache that was made from:\n\n    {"made": "of noise", "count": 12}\n' in card
    typed = [line for line in card.splitlines() if line.startswith("    python -m ")]
    more = ("--teacher", str(trained / "teacher")) if name == "student" else ()
    wanted = arguments(trained, name, *more, "--max-steps", "2", out=name)
    assert [shlex.split(line) for line in typed] == [["python", "-m", f"training.{module}", *wanted]]
    parameters = sum(p.numel() for p in tiny_models(tiny_config())[name].parameters())
    assert f"after 2 of 6 steps of 4 sounds; {parameters:,} of {parameters:,} parameters were trained." in card
    assert ("Commit of the code: " in card) == (git_commit() is not None)


def test_a_second_run_in_a_folder_is_refused_in_one_sentence(trained, capsys, monkeypatch):
    monkeypatch.setattr(lock, "PATIENCE", 0.0)
    before = state(trained / "teacher")["step"]
    with locked(trained / "teacher"):
        assert teacher.main(arguments(trained, "teacher", "--max-steps", "3", out="teacher")) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    holder = f"process {os.getpid()} on {socket.gethostname()}"
    assert error.startswith(f"error: {trained / 'teacher'} is in use by {holder}; ")
    assert state(trained / "teacher")["step"] == before


def test_the_card_of_a_model_on_audioldm_tells_its_licence():
    assert "CC BY-NC-SA 4.0" in facts(preset("base"), {"made": "of noise"}, 1, "", "", None).licences
    assert facts(tiny_config(), {"made": "of noise"}, 1, "", "", None).licences is None


def test_several_processes_and_odd_names_are_printed_as_they_are_typed():
    command = command_line("python -m training.teacher", ["--data", "a b", "--out", "x"], 4)
    assert command == "accelerate launch --num_processes 4 -m training.teacher --data 'a b' --out x"


@pytest.mark.skipif(shutil.which("git") is None, reason="this machine has no git")
def test_the_commit_is_that_of_the_code_and_tells_of_changes(tmp_path):
    def git(*words: str) -> str:
        user = ("-c", "user.name=n", "-c", "user.email=e@example.org")
        return subprocess.run(["git", *user, *words], cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    git("init")
    assert git_commit(tmp_path) is None
    (tmp_path / "code.py").write_text("1")
    git("add", "code.py")
    git("commit", "-m", "first")
    commit = git("rev-parse", "HEAD").strip()
    assert git_commit(tmp_path) == commit
    (tmp_path / "code.py").write_text("2")
    assert git_commit(tmp_path) == f"{commit} and changes on top of it"
    (tmp_path / "installed").mkdir()
    assert git_commit(tmp_path / "installed") is None


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--data", "nothing", "nothing is not a finished cache"),
        ("--data", "wide", "--data must hold 8 tokens of 16 values behind conditioning of 384 values"),
        ("--config", "two.yaml", "model.variants must name the one variant that is trained, got student, teacher"),
        ("--config", "student.yaml", "distill must be absent"),
        ("--codec", None, "--codec must name a checkpoint"),
        ("--max-steps", "0", "--max-steps must be at least 1"),
        ("--peak", "-1", "--peak must be above 0"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(trained, capsys, option, value, words):
    if not (trained / "wide").exists():
        model = tiny_config()
        cache(trained / "wide", replace(model, vae=replace(model.vae, token_dim=24)))
        recipe = yaml.safe_load((trained / "teacher.yaml").read_text())
        recipe["model"] = json.loads(model.to_json())
        (trained / "two.yaml").write_text(yaml.safe_dump(recipe))
    wanted = arguments(trained, "teacher", out="refused")
    if value is None:
        del wanted[wanted.index(option) : wanted.index(option) + 2]
    else:
        wanted += [option, value if option in ("--max-steps", "--peak") else str(trained / value)]
    assert teacher.main(wanted) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and words in error
    assert not (trained / "refused").exists()


@pytest.mark.parametrize("form", ["base", "base-visible"])
def test_the_papers_recipes_are_the_presets(form):
    taught = load_recipe(CONFIGS / f"{form}-teacher.yaml", ModelRecipe)
    student = load_recipe(CONFIGS / f"{form}-student.yaml", ModelRecipe)
    assert taught.model == preset(f"{form}-teacher")
    assert student.model == preset(form)
    for name, recipe in (("teacher", taught), ("student", student)):
        assert asdict(recipe.masking) == {
            "ratio": (0.7, 1.0),
            "shares": "uniform",
            "empty": 0.0,
            "order": "random",
            "targets": 0,
            "drop": 0.1,
            "blurred": 0.0,
            "jitter": 0.0,
        }
        assert (recipe.train.batch_size, recipe.train.lr, recipe.train.parts(8)) == (2048, 1e-3, 32)
        text = (CONFIGS / f"{form}-{name}.yaml").read_text()
        lines = [line for line in text.splitlines() if not line.startswith("#")]
        assert all(" # " in line for line in lines if ": " in line)  # where each value comes from
    assert student.distill == DistillConfig(weight=1000.0, channels="mean", freeze=False)
