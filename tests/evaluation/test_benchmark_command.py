"""The command of the benchmark: its report, its curves, and what it refuses."""

import argparse
import dataclasses
import json
import re
import sys

import pytest
import torch
from factory import tiny_checkpoint, tiny_config

from dear.evaluation.bench.curves import curves_figure, measure_curves, save_figure
from dear.evaluation.bench.jobs import import_job, many_job, soak, start_job
from dear.evaluation.bench.timing import Meter, table
from dear.evaluation.benchmark import ROWS, build_jobs, main
from dear.pipeline import AudioDEAR

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("benchmark") / "tiny")


def test_the_command_measures_a_checkpoint_and_names_what_is_missing(checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchsde", None)
    file = tmp_path / "result.json"
    rows = ["bundled", "bundled-fast", "bundled-teacher", "stable-audio-open"]
    options = ["--batches", "1", "2", "--repeats", "2", "--soak", "2", "--model", str(checkpoint), "--json", str(file)]
    assert main(["--rows", *rows, *options]) == 0
    printed = capsys.readouterr().out
    result = json.loads(file.read_text())
    assert {"processor", "cores", "threads", "torch", "load_average", "float32_flops_per_second"} <= set(
        result["machine"]
    )
    found = {(row["name"], row["batch"]): row for row in result["rows"]}
    assert set(found) == {(name, batch) for name in rows for batch in (1, 2)}
    assert found["stable-audio-open", 1]["skipped"] == "torchsde is not installed (pip install torchsde)"
    one = found["bundled", 1]
    assert set(one["stages"]) == {"text", "decode", "codec", "vocoder", "rest"}
    assert sum(one["stages"].values()) == pytest.approx(one["median"], rel=0.5)
    assert (one["iterations"], one["steps"], one["precision"], len(one["seconds"])) == (4, 1, "float32", 2)
    assert found["bundled-teacher", 2]["steps"] == 3 and one["timed"] and one["weights_bytes"] > 0
    assert result["real_time_factor_batch_2"] == pytest.approx(found["bundled", 2]["median"] / (2 * 0.625))
    assert result["bundled_teacher_over_student"] == pytest.approx(
        found["bundled-teacher", 1]["median"] / one["median"]
    )
    assert result["soak"]["generations"] == 2
    assert f"({one['stages']['decode'] / sum(one['stages'].values()):.0%})" in printed
    assert printed.startswith("| row |") and "real_time_factor: " in printed and "torchsde" in printed
    assert main(["--rows", "bundled", *options[:5], "--model", str(checkpoint), "--compare", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "| row | batch | precision | seconds then | now |" in printed and "another machine" not in printed


def test_a_checkpoint_without_a_teacher_is_no_obstacle(tmp_path):
    config = tiny_config()
    config = dataclasses.replace(config, variants={"student": config.variants["student"]})
    options = {"model": str(tiny_checkpoint(tmp_path / "alone", config)), "dtype": ["float32"], "timed": None}
    args = argparse.Namespace(rows=["bundled", "bundled-teacher"], batches=[1], threads=None, **options)
    jobs, skipped = build_jobs(args, CPU)
    assert [each.name for each in jobs] == ["bundled"]
    asked = {"name": "bundled-teacher", "batch": 1, "precision": "float32"}
    assert skipped == [asked | {"skipped": "the checkpoint holds no teacher"}]
    assert "| bundled-teacher | 1 |" in table(skipped)


def test_precisions_take_turns_and_are_compared(checkpoint, tmp_path, capsys):
    file = tmp_path / "result.json"
    options = ["--rows", "bundled", "bundled-fast", "bundled-many", "--dtype", "float32", "bfloat16", "--batches", "2"]
    assert main([*options, "--repeats", "1", "--model", str(checkpoint), "--json", str(file)]) == 0
    assert "| bundled-many | 2 |" in capsys.readouterr().out
    result = json.loads(file.read_text())
    found = {(row["name"], row["precision"]): row for row in result["rows"]}
    names, precisions = ("bundled", "bundled-fast", "bundled-many"), ("float32", "bfloat16")
    assert list(found) == [(name, precision) for precision in precisions for name in names]
    assert found["bundled", "bfloat16"]["weights_bytes"] < found["bundled", "float32"]["weights_bytes"]
    for precision, suffix in (("float32", ""), ("bfloat16", "_bfloat16")):
        assert result["machine"][f"{precision}_flops_per_second"] > 0
        one, many = (found[name, precision]["median"] for name in ("bundled", "bundled-many"))
        assert result[f"bundled_over_many{suffix}_batch_2"] == one / many
        assert result[f"real_time_factor{suffix}_batch_2"] == pytest.approx(one / (2 * 0.625))
    for name in names:
        ratio = found[name, "float32"]["median"] / found[name, "bfloat16"]["median"]
        assert result[f"{name.replace('-', '_')}_float32_over_bfloat16_batch_2"] == ratio


def test_many_batches_are_divided(checkpoint):
    pipeline = AudioDEAR.from_pretrained(checkpoint, device="cpu")
    each, asked = many_job("bundled-many", pipeline, 2), []
    pipeline.generate_many = lambda prompts, **options: asked.append((len(prompts), options)) or iter(())
    now = iter((0.0, 8.0))
    meter = Meter(CPU, clock=lambda: next(now))
    each.run(meter)
    assert asked == [(8, {"batch": 2, "seed": 0})] and meter.seconds == {"rest": 2.0}
    assert (each.batch, each.timed) == (2, "4 batches in a row, divided")


def test_all_takes_every_row_few_iterations_and_a_soak(monkeypatch):
    asked = []
    monkeypatch.setattr("dear.evaluation.benchmark.run", lambda args, device: asked.append(args) or {"machine": {}})
    assert main(["--all"]) == 0
    (args,) = asked
    assert args.rows == list(ROWS) and (args.timed, args.soak, args.repeats) == (4, 100, 3)


BAD = [
    (["--rows", "base-ours", "fast"], "--rows must be some of base-ours, .*, got 'fast'"),
    (["--all", "--rows", "start"], "--all and --rows must not both be given"),
    (["--batches", "0"], "--batches must be a whole number from 1 to 64, got 0"),
    (["--batches", "x"], "argument --batches: invalid int value: 'x'"),
    (["--repeats", "0"], "--repeats must be a whole number from 1 to 1000, got 0"),
    (["--threads", "-1"], "--threads must be a whole number from 1 to 1000000, got -1"),
    (["--soak", "0"], "--soak must be"),
    (["--timed", "-1"], "--timed must be a whole number from 0 to 1000, got -1"),
    (["--dtype", "int8"], "argument --dtype: invalid choice: 'int8'"),
    (["--device", "abacus"], "--device must be one of this machine such as cpu, cuda or mps, got 'abacus'"),
    (["--device", "meta"], "--device must be one of this machine"),
    (["--curves", "curves.txt"], "--curves must be a .png or .svg file"),
    (["--compare", "/nowhere.json"], "--compare must be the --json of an earlier benchmark"),
    (["--json", "/nowhere/at/all.json"], "--json must lie in an existing directory"),
    (["--rows", "bundled", "--model", "/nowhere"], "/nowhere"),
    (["--fast"], "unrecognized arguments: --fast"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_bad_options_end_with_one_sentence(options, message, capsys):
    assert main(options) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert captured.err.startswith("error: ")
    assert re.search(message, captured.err)


def test_a_fresh_process_writes_its_first_sound(checkpoint):
    meter = Meter(CPU)
    start_job(str(checkpoint), CPU, 1).run(meter)
    bare = Meter(CPU)
    import_job().run(bare)
    assert meter.seconds["rest"] > 0 and bare.seconds["rest"] > 0


def test_curves_are_measured_and_drawn(checkpoint, tmp_path):
    pipeline = AudioDEAR.from_pretrained(checkpoint, device="cpu")
    before = torch.get_num_threads()
    curves = measure_curves(pipeline, 1, iterations=(1, 4, 1000), batches=(1, 2), threads=(1, 2), clips=(1, 2))
    assert torch.get_num_threads() == before
    assert {curve.name: curve.values for curve in curves} == {
        "iterations": [1, 4],
        "batch": [1, 2],
        "threads": [1, 2],
        "length": [0.625, 1.25],
    }
    for curve in curves:
        assert all(0 < part <= whole for part, whole in zip(curve.decode, curve.median, strict=True))
    figure = curves_figure(curves, "tiny")
    assert [axes.get_xlabel() for axes in figure.axes] == [
        "decoding iterations",
        "sounds in a batch",
        "threads",
        "seconds of sound",
    ]
    drawn = figure.axes[0].get_lines()[0].get_xydata()
    assert drawn[:, 1].tolist() == curves[0].median
    for suffix, begin in ((".png", b"\x89PNG"), (".svg", b"<?xml")):
        save_figure(figure, tmp_path / f"curves{suffix}")
        assert (tmp_path / f"curves{suffix}").read_bytes().startswith(begin)
    assert len(list(tmp_path.iterdir())) == 2


def test_memory_is_reported_before_and_after(checkpoint):
    measured = soak(AudioDEAR.from_pretrained(checkpoint, device="cpu"), 12)
    assert measured["generations"] == 12 and measured["warm_generations"] == 1
    assert not any("device" in name for name in measured)
    if measured["start_bytes"] is not None:
        assert measured["growth_bytes"] == measured["end_bytes"] - measured["warm_bytes"]


def test_on_cuda_the_memory_of_both_is_reported(checkpoint, monkeypatch):
    class OnCuda:
        device = torch.device("cuda", 1)

        def generate(self, prompt, seed):
            held[0] += 10

    held = [100]
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: held[0] * (device.index == 1))
    measured = soak(OnCuda(), 3)
    found = {name: value for name, value in measured.items() if "device" in name}
    assert found == {f"{moment}_device_bytes": n for moment, n in [("start", 100), ("warm", 110), ("end", 130)]} | {
        "growth_device_bytes": 20
    }
