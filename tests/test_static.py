"""Sampling in fixed shapes equals sampling in exact ones, also with recorded and replayed passes."""

import contextlib
import dataclasses
import gc
import threading
import weakref

import pytest
import torch
from factory import tiny_checkpoint
from small_models import BOTH, LEARNED, build, condition, longer, run

from dear import AudioDEAR
from dear.config import SamplingConfig, Savings
from dear.decoding import default_decoding
from dear.sampling import generate
from dear.static import IDLE, MOST_SHAPES, CUDAGraphs, StaticDecoding, fit

SAMPLING = SamplingConfig(cfg_scale=2.5, iterations=5, temperature=0.9)


class Tape:
    """A stand-in for CUDA graphs: a replay reads the inputs and writes the result of its recording."""

    def __init__(self):
        self.recorded = 0
        self.replayed = 0

    def __call__(self, function):
        self.recorded += 1
        result = function()
        result.fill_(torch.nan)  # recording a graph computes nothing

        def replay():
            self.replayed += 1
            result.copy_(function())

        return replay, result


def tokens_of(model, sampling=SAMPLING, seeds=(7, 8), **given):
    return run(model, condition(model, len(seeds)), list(seeds), sampling, **given)[-1].tokens


@pytest.mark.parametrize("record", [None, Tape])
@pytest.mark.parametrize("backbone", [BOTH, LEARNED, {"masked_attention": "visible", "conv_width": 3}])
@pytest.mark.parametrize(
    "sampling",
    [
        SAMPLING,
        dataclasses.replace(SAMPLING, iterations=1),
        dataclasses.replace(SAMPLING, iterations=16),
        dataclasses.replace(SAMPLING, cfg_scale=1.0),
        dataclasses.replace(SAMPLING, iterations=12, savings=Savings(refresh_every=4)),
        dataclasses.replace(SAMPLING, iterations=9, savings=Savings(guided_share=0.5, null_every=2, refresh_every=3)),
    ],
)
def test_the_tokens_are_those_of_exact_shapes(backbone, sampling, record):
    model = longer(**backbone)
    wanted = tokens_of(model, sampling)
    model.decoding = StaticDecoding(model.backbone, record)
    for _ in range(2):  # the second reuses the memory of the first
        torch.testing.assert_close(tokens_of(model, sampling), wanted, rtol=0, atol=1e-9)


def test_given_tokens_are_filled_up_around():
    model = longer()
    mask = torch.rand(2, 16, generator=torch.Generator().manual_seed(0)).argsort(dim=1) < 11
    given = {"given": torch.randn(2, 16, 16, dtype=torch.float64), "given_mask": mask}
    sampling = dataclasses.replace(SAMPLING, iterations=2)
    for more in ({}, {"left_out": ~mask & ((~mask).cumsum(dim=1) > 3)}):
        model.decoding = default_decoding(model.backbone)
        wanted = tokens_of(model, sampling, **given, **more)
        model.decoding = StaticDecoding(model.backbone, Tape)
        torch.testing.assert_close(tokens_of(model, sampling, **given, **more), wanted, rtol=0, atol=1e-9)


def test_shapes_are_few_whatever_the_iterations():
    model = longer()
    tape = Tape()
    model.decoding = StaticDecoding(model.backbone, lambda: tape)
    fitted = [fit(count, 16) for count in range(1, 17)]
    assert fitted == [1, 2, 4, 4, 6, 6, 8, 8, 10, 10, 12, 12, 14, 14, 16, 16]
    for iterations in range(1, 17):
        tokens_of(model, dataclasses.replace(SAMPLING, iterations=iterations))
    recorded = tape.recorded
    assert recorded <= 40 < 16 * 17 // 2 == tape.replayed
    for iterations in range(1, 17):
        tokens_of(model, dataclasses.replace(SAMPLING, iterations=iterations), seeds=(1, 2))
    assert tape.recorded == recorded


def test_generations_at_the_same_time_share_no_memory():
    model = build()
    prompts = condition(model, 2)
    alone = [run(model, prompts.select([i]), [i], SAMPLING)[-1].tokens for i in range(2)]
    model.decoding = StaticDecoding(model.backbone, Tape)
    both = [generate(model, prompts.select([i]), [i], SAMPLING) for i in range(2)]
    for states in zip(*both, strict=True):  # one iteration of each in turn
        last = states
    for state, wanted in zip(last, alone, strict=True):
        torch.testing.assert_close(state.tokens, wanted, rtol=0, atol=1e-9)
    assert len(model.decoding.idle) == 2


def test_prompts_of_any_length_share_the_same_passes():
    model, tape = build(), Tape()
    short = condition(model, 2)
    padded = short.pad(short.mask.shape[1] + 7)
    wanted = tokens_of(model)
    model.decoding = StaticDecoding(model.backbone, lambda: tape)
    recorded = []
    for conditioning in (short, padded):
        torch.testing.assert_close(run(model, conditioning, [7, 8], SAMPLING)[-1].tokens, wanted, rtol=0, atol=1e-9)
        recorded.append(tape.recorded)
    assert recorded[0] == recorded[1] > 0 and len(model.decoding.idle) == 1


def test_a_stopped_generation_gives_its_memory_back():
    model = build()
    model.decoding = StaticDecoding(model.backbone)
    states = generate(model, condition(model, 1), [0], SAMPLING)
    next(states)
    assert not model.decoding.idle
    states.close()
    assert len(model.decoding.idle) == 1


def test_only_so_many_batch_sizes_wait():
    model = build()
    model.decoding = StaticDecoding(model.backbone)
    for batch in range(1, IDLE + 3):
        tokens_of(model, seeds=range(batch))
    assert [len(each.cache.mask) for each in model.decoding.idle] == [2 * batch for batch in range(3, IDLE + 3)]


def test_threads_take_turns_with_what_is_idle():
    model = build()
    model.decoding = StaticDecoding(model.backbone)
    wanted = tokens_of(model)
    model.decoding = StaticDecoding(model.backbone, Tape)
    found = {}

    def work(name):
        for _ in range(5):
            found[name, len(found)] = tokens_of(model)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) >= 5
    for tokens in found.values():
        torch.testing.assert_close(tokens, wanted, rtol=0, atol=1e-9)


def test_values_of_a_generation_that_diverged_reach_no_later_one():
    model = build()
    wanted = tokens_of(model)
    model.decoding = StaticDecoding(model.backbone, Tape)
    broken = condition(model, 2)
    run(model, dataclasses.replace(broken, tokens=torch.full_like(broken.tokens, torch.nan)), [0, 1], SAMPLING)
    torch.testing.assert_close(tokens_of(model), wanted, rtol=0, atol=1e-9)


def test_every_thread_may_compile_all_shapes():
    model, limits = build(), []
    model.decoding = StaticDecoding(model.backbone)
    model.backbone.blocks[0].register_forward_pre_hook(lambda *_: limits.append(torch._dynamo.config.recompile_limit))
    thread = threading.Thread(target=tokens_of, args=(model,))
    thread.start()
    thread.join()
    assert limits == [MOST_SHAPES] * SAMPLING.iterations


def test_graphs_are_destroyed_at_once_with_their_model():
    """The garbage collector could destroy them in the middle of another recording."""
    model, tape = build(), Tape()
    model.decoding = StaticDecoding(model.backbone, lambda: tape)
    tokens_of(model)
    waiting = weakref.ref(model.decoding.idle[0])
    gc.disable()
    try:
        model.decoding = default_decoding(model.backbone)
        assert waiting() is None
    finally:
        gc.enable()


def test_graphs_of_a_workspace_share_a_stream_and_a_pool(monkeypatch):
    """Only the calls are checked, since no CUDA device is needed for them."""
    calls = []

    class Stream:
        def wait_stream(self, other):
            calls.append(("wait", self, other))

    class Graph:
        def replay(self):
            calls.append(("replay", self))

    @contextlib.contextmanager
    def within(*what, **options):
        calls.append(("begin", *what, options))
        yield
        calls.append(("end", *what))

    usual = Stream()
    for name, stand_in in {
        "Stream": Stream,
        "CUDAGraph": Graph,
        "current_stream": lambda: usual,
        "graph_pool_handle": object,
        "stream": within,
        "graph": within,
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    recorder = CUDAGraphs()
    side, pool = recorder.stream, recorder.pool
    for n in range(2):
        calls.clear()
        replay, result = recorder(lambda n=n: calls.append("run") or n)
        replay()
        graph = calls[-1][1]
        recorded = {"pool": pool, "stream": side, "capture_error_mode": "thread_local"}
        assert result == n and calls == [
            ("wait", side, usual),
            ("begin", side, {}),
            *["run"] * 3,
            ("end", side),
            ("wait", usual, side),
            ("begin", graph, recorded),
            "run",
            ("end", graph),
            ("replay", graph),
        ]


def test_full_attention_has_no_hidden_tokens_to_fill_up_with():
    with pytest.raises(ValueError, match="masked_attention"):
        StaticDecoding(build(masked_attention="full").backbone)


def test_compiled_sounds_are_the_same_up_to_rounding(tmp_path):
    tiny_checkpoint(tmp_path)
    model = AudioDEAR.from_pretrained(tmp_path, device="cpu")
    options = {"seed": 0, "iterations": 2, "num_samples": 2}
    wanted = model.generate("a dog barking", **options)
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    with torch._inductor.config.patch({"cpp.vec_isa_ok": False}):  # trying each instruction set takes longer
        got = model.compile().generate("a dog barking", **options)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > before
    torch.testing.assert_close(got.tokens, wanted.tokens, rtol=1e-4, atol=1e-4)
