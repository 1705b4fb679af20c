from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
import torch
from factory import tiny_config

import dear
from dear.cli import EXTRAS, guarded, main
from dear.model import MaskedModel
from dear.options import OPTIONS
from dear.presets import PRESETS

ROOT = Path(dear.__file__).parents[1]


@pytest.fixture
def generate(tiny_folder, tmp_path, capsys):
    """Run ``generate`` in a folder of its own; returns status, stdout, stderr and the files there."""
    target = tmp_path / "out"
    target.mkdir()

    def run(*arguments: str, prompt: str = "a dog barking", output: str = "dog.wav", model: Path = tiny_folder):
        status = main(
            ["generate", prompt, "-o", str(target / output), "--model", str(model), "--device", "cpu", *arguments]
        )
        captured = capsys.readouterr()
        return status, captured.out, captured.err, sorted(os.listdir(target))

    run.folder = target
    return run


def test_generate_writes_the_same_bytes_for_a_seed(generate):
    status, printed, errors, names = generate("--seed", "0")
    assert (status, errors, names) == (0, "", ["dog.wav"])
    assert "dog.wav: seed 0, 0.625 s of sound" in printed
    assert printed.count("\n") == 1
    assert soundfile.info(generate.folder / "dog.wav").frames == 10_000
    generate("--seed", "0", output="again.wav")
    generate("--seed", "1", output="other.wav")
    dog, again, other = ((generate.folder / f"{name}.wav").read_bytes() for name in ("dog", "again", "other"))
    assert dog == again != other


def test_generate_takes_every_option(generate):
    status, printed, errors, names = generate(
        *[
            "--variant",
            "teacher",
            "--cfg-scale",
            "3",
            "--iterations",
            "2",
            "--temperature",
            "0.5",
            "--steps",
            "2",
            "--seed",
            "5",
            "--num-samples",
            "2",
        ],
        output="rain.flac",
        prompt="rain,\nthen waves",
    )
    assert (status, errors, names) == (0, "", ["rain-1.flac", "rain-2.flac"])
    assert "seed 5" in printed
    assert "seed 6" in printed


def refused(result, *parts):
    status, out, errors, names = result
    assert status == 2
    assert out == ""
    assert names == []
    assert errors.count("\n") == 1
    assert "Traceback" not in errors
    assert len(errors) < 400
    for part in parts:
        assert part in errors, errors


def test_bad_prompts_and_paths_are_refused(generate):
    refused(generate(prompt=""), "prompt must have 1 to 1000 characters after stripping, got 0")
    refused(generate(prompt="   "), "prompt must have 1 to 1000 characters after stripping, got 0")
    refused(generate(prompt="x" * 10_000), "prompt must have 1 to 1000 characters", "10000")
    refused(generate(output="dog.aac"), "path must end in .wav, .flac, .mp3, .ogg", "dog.aac")
    refused(generate(prompt="a \a dog"), "prompt must be without control characters, got U+0007")
    refused(generate(output="x" * 252 + ".wav"), "path must have a name of at most 255 bytes, got 256")
    refused(generate("--num-samples", "2", output="x" * 251 + ".wav"), "at most 255 bytes, got 257")
    refused(generate(output="none/dog.wav"), "path must lie in an existing directory", "none")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--iterations abc", "argument --iterations: must be a whole number, got 'abc'"),
        ("--iterations 1.5", "argument --iterations: must be a whole number, got '1.5'"),
        ("--cfg-scale much", "argument --cfg-scale: must be a number, got 'much'"),
        ("--seed " + "x" * 5000, "argument --seed: must be a whole number, got 'xxx"),
        ("--seed", "argument --seed: expected one argument"),
        ("--colour red", "unrecognized arguments: --colour red"),
        ("--device toaster", "device must be one of this machine"),
        ("--variant painter", "variant must be one of student, teacher, got 'painter'"),
    ],
)
def test_bad_arguments_are_refused(generate, arguments, message):
    refused(generate(*arguments.split()), message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--cfg-scale nan", "cfg_scale must be a number from 0 to 20, got nan"),
        ("--cfg-scale 1000", "cfg_scale must be a number from 0 to 20, got 1000"),
        ("--iterations 0", "iterations must be a whole number from 1 to 8, got 0"),
        ("--iterations 1000000000", "iterations must be a whole number from 1 to 8, got 1000000000"),
        ("--temperature -1", "temperature must be a number from 0 to 2, got -1.0"),
        ("--steps 3", "steps must be 1"),
        ("--seed -1", "seed must be a whole number from 0"),
        ("--num-samples 65", "num_samples must be a whole number from 1 to 64, got 65"),
    ],
)
def test_values_out_of_range_are_refused(generate, arguments, message):
    refused(generate(*arguments.split()), message)


def test_missing_command_and_prompt_are_refused(capsys):
    for argv in ([], ["sing"], ["generate"], ["generate", "a dog"], ["info", "--preset", "mini", "--model", "x"]):
        assert main(argv) == 2
        errors = capsys.readouterr().err
        assert errors.count("\n") == 1
        assert "usage" not in errors


def test_damaged_checkpoints_are_refused(generate, own_folder, tmp_path):
    weights = own_folder / "student.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    refused(generate(model=own_folder), f"{weights} is truncated or damaged")
    weights.unlink()
    refused(generate(model=own_folder), f"{weights} is missing")
    weights.write_bytes(whole)
    config = own_folder / "config.json"
    config.write_text(json.dumps(tiny_config().to_dict() | {"colour": 1}))
    refused(generate(model=own_folder), f"{config}: unknown field colour")
    config.write_text("{")
    refused(generate(model=own_folder), f"{config}: the configuration is not valid JSON")
    config.unlink()
    refused(generate(model=own_folder), f"{config} is missing")
    refused(generate(model=tmp_path / "none"), "model must be a checkpoint's folder or owner/name on the Hub")


def test_interruption_is_quiet(generate, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("dear.pipeline.AudioDEAR.from_pretrained", interrupt)
    assert generate() == (130, "", "", [])


def test_memory_that_is_too_small_is_one_sentence(generate, monkeypatch):
    def exhausted(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")

    monkeypatch.setattr("dear.pipeline.AudioDEAR.generate", exhausted)
    status, out, error, files = generate()
    assert (status, out, files) == (2, "", [])
    assert error == "the device's memory is too small for this; ask for fewer samples at once\n"


def test_a_full_disk_is_one_sentence_and_leaves_nothing(generate, monkeypatch):
    def full(path, data):
        path.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    status, out, error, files = generate()
    assert (status, out, files) == (2, "", [])
    assert "No space left on device" in error and "Traceback" not in error


def test_info_counts_the_parameters(capsys, tiny_folder):
    for arguments in (["--model", str(tiny_folder)], ["--model", str(tiny_folder), "--variant", "teacher"]):
        assert main(["info", *arguments]) == 0
        info = json.loads(capsys.readouterr().out)
        assert info["variant"] == arguments[-1].replace(str(tiny_folder), "student")
        model = MaskedModel(tiny_config(), info["variant"])
        parameters = info["parameters"]
        assert set(parameters) == {"backbone", "head", "null", "total"}
        assert parameters["null"] == 384
        assert parameters["total"] == sum(p.numel() for p in model.parameters())
        assert sum(parameters.values()) == 2 * parameters["total"]
        assert info["config"] == json.loads(tiny_config().to_json())


def test_info_of_presets(capsys):
    totals = {}
    for name in PRESETS:
        assert main(["info", "--preset", name]) == 0
        totals[name] = json.loads(capsys.readouterr().out)["parameters"]["total"]
    assert totals["mini"] < 8_000_000
    assert totals["base"] == 191_201_920
    for arguments in (["--preset", "huge"], ["--preset", "base", "--variant", "teacher"], ["--model", "./none"]):
        assert main(["info", *arguments]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.count("\n") == 1
        assert arguments[-1] in captured.err


def test_bad_input_ends_a_process_with_status_2():
    bad = subprocess.run([sys.executable, "-m", "dear", "sing"], cwd=ROOT, capture_output=True, text=True)
    assert bad.returncode == 2
    assert bad.stdout == ""
    assert bad.stderr.count("\n") == 1
    assert "sing" in bad.stderr


def test_importing_the_package_is_light():
    code = "import sys, dear, dear.cli; dear.cli.parser(); print(dear.__version__, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == f"{dear.__version__} False\n"
    assert dear.AudioDEAR.__module__ == "dear.pipeline"
    assert dear.Output.__name__ == "Output"
    with pytest.raises(AttributeError, match="no attribute 'Painter'"):
        dear.Painter  # noqa: B018


def test_the_options_are_those_of_python_with_their_ranges(capsys):
    with pytest.raises(SystemExit):
        main(["generate", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for name, option in OPTIONS.items():
        assert f"--{name.replace('_', '-')}" in text and f"{option.low:g} to {option.high:g}. {option.help}" in text


def test_packages_of_extras_are_named_where_they_are_absent(tmp_path):
    """None in sys.modules makes an import fail as that of an absent package does."""
    commands = ["audiocaps", "benchmark", "compositions", "losses", "savings", "score", "toy"]
    code = (
        f"import sys; sys.modules |= dict.fromkeys({[*EXTRAS]!r}); from dear.cli import main; "
        f"import {', '.join(f'dear.evaluation.{name}' for name in commands)}; "
        f"sys.exit(main(['listen', {str(tmp_path)!r}, '--ratings', {str(tmp_path / 'ratings.sqlite')!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == ("this command needs gradio, which is not installed; run pip install 'audiodear[ui]'\n")


def test_a_package_that_no_extra_has_is_a_fault_of_the_code():
    def run():
        raise ModuleNotFoundError("No module named 'unknown'", name="unknown")

    with pytest.raises(ModuleNotFoundError, match="unknown"):
        guarded(run)


def test_a_process_generates_with_neither_transformers_nor_the_compiler(tmp_path):
    """They would take most of the time of a command. ``runpy`` runs the package as ``python -m dear`` does."""
    code = (
        "import atexit, runpy, sys; atexit.register(lambda: print(*sys.modules)); "
        "runpy.run_module('dear', run_name='__main__')"
    )
    arguments = ["generate", "a dog barks 🐕", "--iterations", "1", "-o", str(tmp_path / "dog.wav"), "--device", "cpu"]
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    printed, modules = done.stdout.splitlines()
    heavy = {"transformers", "torch._dynamo", "sympy", "scipy", "matplotlib", "huggingface_hub", "gradio", "diffusers"}
    assert "dog.wav: seed " in printed and heavy.isdisjoint(modules.split()) and "torch" in modules.split()
    assert os.listdir(tmp_path) == ["dog.wav"]
    assert soundfile.info(tmp_path / "dog.wav").frames == 160_000
