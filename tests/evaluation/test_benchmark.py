"""The benchmark: naive loops that compute the same function, clocks that scale correctly, reports of the command."""

import dataclasses

import pytest
import torch
from factory import tiny_checkpoint, tiny_config, tiny_models
from small_models import CASES, build, condition

from dear.config import FAST, SamplingConfig
from dear.decoding import CachedDecoding
from dear.evaluation.bench import peers
from dear.evaluation.bench.jobs import BASE, base_job, training_job
from dear.evaluation.bench.machine import PeakMemory, matmul_peak
from dear.evaluation.bench.naive import naive_generate, sampled
from dear.evaluation.bench.timing import Job, Meter, Setting, measure, table
from dear.evaluation.benchmark import figures
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
            torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-9)


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


def test_a_row_that_fails_is_reported_and_takes_nothing_from_the_others():
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
    skipped = [(each["name"], each["skipped"]) for each in failed]
    assert skipped == [(name, "it failed: CUDA out of memory.") for name in ("at-once", "later")]
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


def test_a_training_step_moves_the_weights():
    each = training_job(Setting(2, CPU, torch.float32, None), tiny_config())
    before = {name: value.clone() for name, value in each.network.state_dict().items()}
    meter = Meter(CPU)
    each.run(meter)
    assert set(meter.seconds) == {"step"} and (each.name, each.precision) == ("base-training", "float32")
    assert not torch.equal(each.network.state_dict()["backbone.token_in.weight"], before["backbone.token_in.weight"])
    assert all(parameter.grad is None for parameter in each.network.parameters())


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
