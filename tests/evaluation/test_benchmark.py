"""The benchmark: its naive loops are the same function, its clocks multiply rightly, its command says what it did."""

import argparse
import dataclasses
import json
import re
import sys

import pytest
import torch
from factory import tiny_checkpoint, tiny_config, tiny_models
from test_sampling import CASES, build, condition

from dear.config import FAST, SamplingConfig
from dear.decoding import CachedDecoding
from dear.evaluation.bench import peers
from dear.evaluation.bench.curves import curves_figure, measure_curves, save_figure
from dear.evaluation.bench.jobs import BASE, base_job, many_job, soak, start_job
from dear.evaluation.bench.machine import PeakMemory, matmul_peak
from dear.evaluation.bench.naive import naive_generate, sampled
from dear.evaluation.bench.timing import Job, Meter, Setting, measure, table
from dear.evaluation.benchmark import build_jobs, figures, main
from dear.pipeline import AudioDEAR
from dear.sampling import generate
from dear.static import StaticDecoding

CPU = torch.device("cpu")


def ticks(*times):
    """A clock that shows these times."""
    shown = iter(times)
    return lambda: next(shown)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("benchmark") / "tiny")


@pytest.mark.parametrize("backbone", CASES)
@pytest.mark.parametrize(("variant", "steps"), [("student", 1), ("teacher", 4)])
def test_the_naive_loop_gives_the_tokens_of_the_fast_one(backbone, variant, steps):
    model = build(variant, **backbone)
    for sampling in (
        SamplingConfig(cfg_scale=2.5, iterations=5, temperature=0.9, steps=steps, guidance="linear"),
        SamplingConfig(cfg_scale=1.0, iterations=3, steps=steps),
    ):
        fast = [state.tokens for state in generate(model, condition(model, 2), [7, 8], sampling)]
        slow = list(naive_generate(model, condition(model, 2), [7, 8], sampling))
        assert len(slow) == sampling.iterations
        for got, wanted in zip(slow, fast, strict=True):
            torch.testing.assert_close(got, wanted, rtol=0, atol=1e-9)


def test_the_naive_loop_may_compute_some_iterations_only():
    model = build()
    sampling = SamplingConfig(iterations=4)
    order = list(generate(model, condition(model, 1), [3], sampling))[-1].order[0]
    states = list(naive_generate(model, condition(model, 1), [3], sampling, only={1, 3}))
    assert len(states) == 2
    drawn = states[-1][0].abs().sum(dim=1) > 0
    assert torch.equal(drawn, (order == 1) | (order == 3))


@pytest.mark.parametrize(("total", "count"), [(64, 1), (64, 8), (64, 64), (10, 3), (7, 7)])
def test_sampled_iterations_stand_for_all(total, count):
    weights = sampled(total, count)
    assert len(weights) == count and sum(weights.values()) == total
    assert list(weights) == sorted(weights) and min(weights) >= 0 and max(weights) < total
    # A time that grows steadily is met to within half an iteration of its growth.
    assert sum(weight * i for i, weight in weights.items()) / total == pytest.approx((total - 1) / 2, abs=0.51)


@pytest.mark.parametrize("count", [0, 5])
def test_no_more_iterations_are_sampled_than_there_are(count):
    with pytest.raises(ValueError, match=f"count must be a whole number from 1 to 4, got {count}"):
        sampled(4, count)


def test_a_meter_adds_weighted_stages_and_splits_them():
    meter = Meter(CPU, clock=ticks(0, 2, 10, 13, 20, 30))
    with meter.stage("decode", 4):
        pass
    with meter.stage("decode"):
        pass
    with meter.stage("rest"):
        pass
    meter.split("rest", {"codec": 6.0, "decode": 1.0})
    assert meter.seconds == {"decode": 12.0, "rest": 3.0, "codec": 6.0}


def test_operations_are_counted_with_their_weight():
    meter = Meter(CPU, count=True)
    linear = torch.nn.Linear(3, 5)
    queries = torch.randn(2, 4, 7, 8)
    with torch.no_grad():
        with meter.stage("product", 10):
            linear(torch.randn(2, 3))
        assert meter.flops == 10 * 2 * 2 * 3 * 5
        with meter.stage("attention"):
            torch.nn.functional.scaled_dot_product_attention(queries, queries, queries)
    assert meter.flops == 10 * 2 * 2 * 3 * 5 + 2 * (2 * 4 * 7 * 7 * 8 * 2)


def job(name, run, batch=1, **other):
    given = {"seconds_of_sound": 10.0, "network": None, "others": (), "precision": "float32", "iterations": 4}
    return Job(name, run, batch, **given | {"steps": 1, "timed": "all"} | other)


def test_rows_take_turns_and_medians_leave_the_warm_up_out():
    now, log = [0.0], []

    def taking(name, *times):
        left = iter(times)

        def run(meter):
            log.append(name)
            with meter.stage("decode"):
                now[0] += next(left)

        return run

    jobs = [job("base-ours", taking("a", 100, 2, 4, 3)), job("base-naive-student", taking("b", 100, 9, 6, 90))]
    rows = measure(jobs, CPU, 3, {}, clock=lambda: now[0])
    assert log == list("ab" * 4)
    assert (rows[0].low, rows[0].median, rows[0].high) == (2.5, 3, 3.5)
    assert rows[1].seconds == [9, 6, 90] and rows[1].stages == {"decode": 9}
    # The ratio of medians, not of means.
    assert figures([dataclasses.asdict(row) for row in rows]) == {"naive_student_over_ours": 3.0}


def test_a_row_that_fails_is_told_and_takes_nothing_from_the_others():
    def failing(after):
        calls = iter(range(100))

        def run(meter):
            if next(calls) == after:
                raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 9 GiB")
            with meter.stage("decode"):
                pass

        return run

    jobs = [job("at-once", failing(0)), job("sound", failing(-1)), job("later", failing(2))]
    failed = []
    (row,) = measure(jobs, CPU, 3, {}, failed=failed)
    assert row.name == "sound" and len(row.seconds) == 3
    told = [(each["name"], each["skipped"]) for each in failed]
    assert told == [(name, "it failed: CUDA out of memory.") for name in ("at-once", "later")]
    assert "| at-once |" in table([dataclasses.asdict(row), *failed])
    assert all(each["failed"] for each in failed)
    with pytest.raises(torch.OutOfMemoryError):
        measure([job("at-once", failing(0))], CPU, 1, {})


def base_jobs(names, setting):
    config = tiny_config()
    teacher = dataclasses.replace(config, name="tiny-teacher", variants={"teacher": config.variants["teacher"]})
    return [base_job(name, setting, config, teacher) for name in names]


def test_the_naive_rows_multiply_the_iterations_that_they_time():
    jobs = base_jobs(("base-naive-student", "base-naive-teacher"), Setting(2, CPU, torch.float32, 2))
    for each in jobs:
        # A clock that counts passes of the backbone: two for each of the four iterations, whichever were run.
        count = [0]
        hook = each.network.backbone.register_forward_hook(lambda *_, count=count: count.__setitem__(0, count[0] + 1))
        meter = Meter(CPU, clock=lambda count=count: count[0])
        each.run(meter)
        hook.remove()
        assert count[0] == 4 and meter.seconds == {"decode": 8}
        assert each.timed == "timed 2 of 4 iterations, multiplied"


def test_the_base_rows_share_weights_and_do_less_the_more_they_save():
    setting = Setting(1, CPU, torch.float32, None)
    jobs = base_jobs([name for name in BASE if name != "base-compiled"], setting)
    visible, full = (setting.built["tiny", form, False].backbone for form in ("visible", "full"))
    assert visible.token_in.weight.data_ptr() == full.token_in.weight.data_ptr()
    assert visible.config.masked_attention == "visible" and full.config.masked_attention == "full"
    rows = {row.name: row for row in measure(jobs, CPU, 1, {"float32": matmul_peak(CPU, torch.float32, 64, 1)})}
    names = ("base-fast", "base-ours", "base-full", "base-naive-student", "base-naive-teacher")
    flops = [rows[name].flops for name in names]
    assert flops == sorted(flops) and len(set(flops)) == 5 and flops[0] > 0
    assert f"refresh_every {FAST.refresh_every}" in rows["base-fast"].notes and "refresh" not in rows["base-ours"].notes
    assert set(rows["base-end-to-end"].stages) == {"decode", "codec", "vocoder"}
    assert rows["base-naive-teacher"].steps == 3 and rows["base-ours"].iterations == 4
    assert rows["base-ours"].parameters == sum(p.numel() for p in tiny_models(tiny_config())["student"].parameters())
    assert rows["base-ours"].utilisation > 0 and rows["base-ours"].precision == "float32"
    ratios = figures([dataclasses.asdict(row) for row in rows.values()])
    ratio = "naive_teacher_over_ours"
    students = {"naive_student_over_ours", "full_over_ours"}
    assert set(ratios) == {ratio, ratio + "_end_to_end", "naive_teacher_over_fast"} | students
    assert ratios["naive_teacher_over_fast"] == rows["base-naive-teacher"].median / rows["base-fast"].median


def test_a_compiled_row_is_counted_first_and_shares_no_model():
    plain, compiled = base_jobs(["base-ours", "base-compiled"], Setting(1, CPU, torch.float32, None))
    did = []

    def compile_it():
        compiled.compile()
        assert isinstance(compiled.network.decoding, StaticDecoding)
        assert isinstance(plain.network.decoding, CachedDecoding)
        did.append("compile")

    def run(meter):
        did.append("count" if meter.count else "run")

    (row,) = measure([dataclasses.replace(compiled, compile=compile_it, run=run)], CPU, 2, {})
    assert did == ["count", "compile", "run", "run", "run"] and len(row.seconds) == 2
    assert row.notes.endswith(", compiled")


def test_memory_on_top_of_what_was_held():
    with PeakMemory(CPU) as peak:
        torch.ones(64 * 2**20 // 4)
    if peak.bytes is None:
        pytest.skip("this system does not tell")
    assert 48 * 2**20 < peak.bytes < 256 * 2**20


def test_a_latent_diffusion_model_is_timed_by_its_first_steps():
    diffusers = pytest.importorskip("diffusers")
    small = {
        "block_out_channels": (32, 32, 32, 32),
        "cross_attention_dim": (32, 32, 32, 32),
        "layers_per_block": 1,
        "projection_class_embeddings_input_dim": 8,
    }
    network = diffusers.UNet2DConditionModel(**peers.AUDIOLDM | small).eval()
    calls = []

    def denoise(x, t):
        calls.append(int(t))
        return network(x, t, encoder_hidden_states=None, class_labels=torch.zeros(4, 8)).sample

    def finish(meter, latents):
        assert latents.shape == (2, 8, 16, 8)
        with meter.stage("codec"):
            pass

    found = peers.diffusion_job(
        "audioldm",
        Setting(2, CPU, torch.float32, 3),
        network,
        denoise,
        diffusers.DDIMScheduler(**peers.DDIM),
        200,
        (8, 16, 8),
        2.5,
        finish,
        (),
        10.24,
        "",
    )
    meter = Meter(CPU, clock=lambda: len(calls))
    found.run(meter)
    assert calls == [996, 991, 986]
    assert meter.seconds == {"decode": 200, "codec": 0}
    assert found.timed == "timed 3 of 200 steps, multiplied" and found.steps == 200


def test_peers_have_their_published_sizes():
    diffusers = pytest.importorskip("diffusers")
    with torch.device("meta"):  # sizes only
        networks = {
            "audioldm": diffusers.UNet2DConditionModel(**peers.AUDIOLDM),
            "audioldm2": diffusers.AudioLDM2UNet2DConditionModel(**peers.AUDIOLDM2),
            "stable-audio-open": diffusers.StableAudioDiTModel(**peers.STABLE_AUDIO),
        }
    millions = {name: sum(p.numel() for p in each.parameters()) // 10**6 for name, each in networks.items()}
    # The card of audioldm-s-full-v2 says 421 M, with 55 M each of codec and vocoder and CLAP's 125 M; the table of the
    # paper 346 M for AudioLDM 2; Stability's paper 1057 M.
    assert millions == {"audioldm": 185, "audioldm2": 346, "stable-audio-open": 1056}


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
    assert printed.startswith("| row |") and "real_time_factor: " in printed and "torchsde" in printed


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


BAD = [
    (["--rows", "base-ours", "fast"], "--rows must be some of base-ours, .*, got 'fast'"),
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
    assert meter.seconds["rest"] > 0


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


def test_memory_is_told_before_and_after(checkpoint):
    told = soak(AudioDEAR.from_pretrained(checkpoint, device="cpu"), 12)
    assert told["generations"] == 12 and told["warm_generations"] == 1
    assert not any("device" in name for name in told)
    if told["start_bytes"] is not None:
        assert told["growth_bytes"] == told["end_bytes"] - told["warm_bytes"]


def test_on_cuda_memory_is_told_of_both(checkpoint, monkeypatch):
    class OnCuda:
        device = torch.device("cuda", 1)

        def generate(self, prompt, seed):
            held[0] += 10

    held = [100]
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: held[0] * (device.index == 1))
    told = soak(OnCuda(), 3)
    found = {name: value for name, value in told.items() if "device" in name}
    assert found == {f"{moment}_device_bytes": n for moment, n in [("start", 100), ("warm", 110), ("end", 130)]} | {
        "growth_device_bytes": 20
    }
