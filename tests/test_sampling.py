"""The generation loop against a naive one that recomputes everything, and its promises to callers."""

import dataclasses
import math
import re
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from factory import tiny_config
from small_models import CASES, T, build, condition, nested_levels, run
from torch.utils._python_dispatch import TorchDispatchMode

from dear.config import BackboneConfig, SamplingConfig, Savings
from dear.decoding import default_decoding
from dear.heads import HEADS
from dear.masking import nested_order, token_schedule
from dear.randomness import seeded
from dear.request import check_options
from dear.sampling import generate, guidance_scale
from dear.static import StaticDecoding


@torch.no_grad()
def naive(model, conditioning, seeds, sampling):
    """Decode one item at a time; every iteration computes all positions, both branches and the prefix."""
    results = []
    for item, seed in enumerate(seeds):
        one = conditioning.select([item])
        null = model.null(one, torch.tensor([True]))
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(model.length, generator=generator)
        dtype = next(model.parameters()).dtype
        tokens = torch.zeros(1, model.length, model.token_dim, dtype=dtype)
        known = torch.zeros(1, model.length, dtype=torch.bool)
        start = 0

        def beside(position, tokens=tokens, known=known):
            reach, rows = model.config.backbone.neighbours, [tokens[0, :0, 0]]
            for place in (position + offset for offset in range(-reach, reach + 1) if offset):
                row = tokens.new_zeros(model.token_dim + 1)
                if 0 <= place < model.length and known[0, place]:
                    row = torch.cat((tokens[0, place], row[:1] + 1))
                rows.append(row)
            return torch.cat(rows)

        def draw(n, generator=generator, dtype=dtype):
            return torch.randn(n, model.token_dim, generator=generator).to(dtype)

        for count in token_schedule(model.length, sampling.iterations):
            new = order[start : start + count]
            start += count
            more = torch.stack([beside(position) for position in new.tolist()])
            contexts = torch.cat((model.context(tokens, known, one)[0, new], more), dim=-1)
            nulls = torch.cat((model.context(tokens, known, null)[0, new], more), dim=-1)
            tokens[0, new] = model.head.sample(
                contexts,
                nulls,
                cfg_scale=guidance_scale(sampling, start / model.length),
                steps=sampling.steps,
                temperature=sampling.temperature,
                draw=partial(draw, count),
            )
            known[0, new] = True
        results.append(tokens)
    return torch.cat(results)


@pytest.mark.parametrize("backbone", CASES)
@pytest.mark.parametrize(("variant", "steps"), [("student", 1), ("teacher", 4)])
@pytest.mark.parametrize("guidance", ["constant", "linear"])
def test_the_loop_equals_the_naive_one(backbone, variant, steps, guidance):
    model = build(variant, **backbone)
    sampling = SamplingConfig(cfg_scale=2.5, iterations=5, temperature=0.9, steps=steps, guidance=guidance)
    conditioning = condition(model, 2)
    got = run(model, conditioning, [7, 8], sampling)[-1].tokens
    torch.testing.assert_close(got, naive(model, conditioning, [7, 8], sampling), rtol=1e-12, atol=1e-9)


def test_float32_stays_near_float64_over_a_few_iterations():
    sampling = SamplingConfig(cfg_scale=2.0, iterations=3)
    wide, narrow = build(), build(dtype=torch.float32)
    got = run(narrow, condition(narrow, 1), [3], sampling)[-1].tokens
    wanted = run(wide, condition(wide, 1), [3], sampling)[-1].tokens
    torch.testing.assert_close(got.double(), wanted, rtol=0, atol=1e-3)


@pytest.mark.parametrize("iterations", [1, 3, 8])
def test_exactly_as_many_states_as_iterations_each_knowing_more(iterations):
    model = build()
    states = run(model, condition(model, 2), [0, 1], SamplingConfig(iterations=iterations))
    assert [state.iteration for state in states] == list(range(1, iterations + 1))
    counts = token_schedule(model.length, iterations)
    for k, state in enumerate(states):
        assert state.known.sum(dim=1).tolist() == [sum(counts[: k + 1])] * 2
        assert torch.equal(state.known, state.order >= 0)
        assert (state.order == k).sum(dim=1).tolist() == [counts[k]] * 2
        assert not state.tokens[~state.known].any()
    for before, after in pairwise(states):
        assert torch.equal(before.tokens[before.known], after.tokens[before.known])
    assert states[-1].known.all()


def test_an_item_of_a_batch_is_the_one_that_its_seed_gives_alone():
    model = build()
    sampling, conditioning = SamplingConfig(cfg_scale=3.0, iterations=4), condition(model, 3)
    batch = run(model, conditioning, [10, 11, 12], sampling)[-1]
    alone = run(model, conditioning.select([1]), [11], sampling)[-1]
    torch.testing.assert_close(alone.tokens[0], batch.tokens[1], rtol=0, atol=1e-9)
    assert torch.equal(alone.order[0], batch.order[1])
    assert not torch.equal(batch.order[0], batch.order[1])


def test_padding_of_the_conditioning_changes_nothing():
    model = build()
    conditioning = condition(model, 2)
    sampling = SamplingConfig(cfg_scale=3.0, iterations=4)
    short = run(model, conditioning, [0, 1], sampling)[-1].tokens
    long = run(model, conditioning.pad(T + 6), [0, 1], sampling)[-1].tokens
    torch.testing.assert_close(short, long, rtol=0, atol=1e-9)


def test_two_generations_at_once_do_not_mix():
    model = build()
    conditioning, sampling = condition(model, 1), SamplingConfig(iterations=4)
    wanted = [run(model, conditioning, [seed], sampling)[-1].tokens for seed in (1, 2)]
    first, second = (generate(model, conditioning, [seed], sampling) for seed in (1, 2))
    last = list(zip(first, second, strict=True))[-1]
    assert torch.equal(last[0].tokens, wanted[0])
    assert torch.equal(last[1].tokens, wanted[1])


def test_the_global_random_state_is_left_alone():
    model, before = build(), torch.get_rng_state()
    run(model, condition(model, 1), [0], SamplingConfig(iterations=2))
    assert torch.equal(torch.get_rng_state(), before)


def test_given_tokens_are_kept_and_the_others_drawn():
    model = build()
    given = torch.randn(2, model.length, model.token_dim, dtype=torch.float64)
    keep = torch.ones(2, model.length, dtype=torch.bool)
    keep[:, 2:5] = False
    states = run(model, condition(model, 2), [0, 1], SamplingConfig(iterations=3), given=given, given_mask=keep)
    assert len(states) == 3
    assert torch.equal(states[-1].tokens[keep], given[keep])
    assert states[-1].known.all()
    assert states[-1].order[keep].eq(-1).all()
    assert sorted(states[-1].order[0, 2:5].tolist()) == [0, 1, 2]
    with pytest.raises(ValueError, match="iterations must be a whole number from 1 to 3, got 4"):
        run(model, condition(model, 2), [0, 1], SamplingConfig(iterations=4), given=given, given_mask=keep)
    keep[0, 0] = False
    with pytest.raises(ValueError, match=r"must hold equally many tokens of each item, got \[4, 5\]"):
        run(model, condition(model, 2), [0, 1], SamplingConfig(iterations=3), given=given, given_mask=keep)


@pytest.mark.parametrize("bands", [1, 2])
def test_a_nested_order_is_drawn_level_by_level_around_given_tokens(bands):
    config = tiny_config()
    model = build(config=dataclasses.replace(config, vae=dataclasses.replace(config.vae, patch_mels=64 // bands)))
    assert model.config.grid == (8, bands)
    sampling = SamplingConfig(iterations=model.length - 2, savings=Savings(order="nested"))
    given = torch.randn(2, model.length, model.token_dim, dtype=torch.float64)
    keep = torch.zeros(2, model.length, dtype=torch.bool)
    keep[0, [1, 5]] = keep[1, [0, 6]] = True
    last = run(model, condition(model, 2), [0, 1], sampling, given=given, given_mask=keep)[-1]
    assert torch.equal(last.tokens[keep], given[keep]) and last.order[keep].eq(-1).all()
    for item, seed in enumerate((0, 1)):
        drawn = last.order[item].argsort()[2:].tolist()  # one token in each iteration
        whole = nested_order(model.length, seeded(seed), bands).tolist()
        assert drawn == [i for i in whole if not keep[item, i]]
        fits = (nested_levels(drawn, bands, offset) for offset in range(8))
        assert any(levels == sorted(levels) for levels in fits)


@pytest.mark.parametrize("attention", ["visible", "full"])
def test_what_is_left_out_is_neither_drawn_nor_listened_to(attention):
    model = build(masked_attention=attention)
    given = torch.randn(2, model.length, model.token_dim, dtype=torch.float64)
    keep, left_out = (torch.zeros(2, model.length, dtype=torch.bool) for _ in range(2))
    keep[:, 1], left_out[:, 4:] = True, True
    drawn = ~(keep | left_out)

    def last(tokens, left_out):
        sampling, prompts = SamplingConfig(iterations=2), condition(model, 2)
        return run(model, prompts, [0, 1], sampling, given=tokens, given_mask=keep, left_out=left_out)[-1]

    state = last(given, left_out)
    assert torch.equal(state.known, ~left_out)
    assert state.order[left_out].eq(-1).all() and state.order[drawn].ge(0).all()
    assert torch.equal(last(given + left_out[..., None], left_out).tokens, state.tokens)
    assert not torch.allclose(last(given + keep[..., None], left_out).tokens[drawn], state.tokens[drawn])
    with pytest.raises(ValueError, match=r"left_out must be .* and nowhere given"):
        last(given, ~drawn)
    left_out[0, 4] = False
    with pytest.raises(ValueError, match="must hold equally many tokens of each item"):
        last(given, left_out)


def test_what_is_given_is_listened_to():
    model = build()
    keep = torch.ones(1, model.length, dtype=torch.bool)
    keep[:, 3] = False
    results = [
        run(
            model,
            condition(model, 1),
            [0],
            SamplingConfig(iterations=1),
            given=torch.full((1, model.length, model.token_dim), value, dtype=torch.float64),
            given_mask=keep,
        )[-1].tokens[0, 3]
        for value in (0.0, 1.0)
    ]
    assert not torch.allclose(*results)


def test_scale_one_equals_no_guidance_and_never_asks_for_the_null_branch():
    model = build()
    conditioning = condition(model, 1)
    plain = run(model, conditioning, [0], SamplingConfig(cfg_scale=1.0, iterations=3))[-1].tokens
    model.null.vector.data.fill_(math.nan)
    again = run(model, conditioning, [0], SamplingConfig(cfg_scale=1.0, iterations=3))[-1].tokens
    assert torch.equal(plain, again)


def test_linear_guidance_climbs_to_the_scale():
    sampling = SamplingConfig(cfg_scale=5.0, guidance="linear")
    assert guidance_scale(sampling, 0.0) == 1.0
    assert guidance_scale(sampling, 0.5) == 3.0
    assert guidance_scale(sampling, 1.0) == 5.0
    assert guidance_scale(SamplingConfig(cfg_scale=5.0), 0.1) == 5.0


BAD = [
    ("cfg_scale", math.nan),
    ("cfg_scale", 1000),
    ("cfg_scale", -0.1),
    ("cfg_scale", "3"),
    ("cfg_scale", True),
    ("iterations", 0),
    ("iterations", 10**9),
    ("iterations", 2.5),
    ("iterations", True),
    ("temperature", 2.01),
    ("temperature", math.inf),
    ("steps", 0),
    ("steps", 1001),
    ("cfg_scale", np.float32(21)),
    ("iterations", np.bool_(True)),
    ("steps", 2),  # the energy head draws in one step
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_bad_options_are_refused_by_name_and_value(name, value):
    model = build()
    with pytest.raises(
        ValueError, match=rf"^{name} must be .*got {re.escape(repr(getattr(value, 'item', lambda: value)()))}"
    ):
        check_options(SamplingConfig(iterations=4), model.length, model.head, **{name: value})


def test_a_number_too_long_to_print_is_still_refused_by_name():
    model = build()
    with pytest.raises(ValueError, match="^iterations must be a whole number from 1 to 8, got"):
        check_options(SamplingConfig(iterations=4), model.length, model.head, iterations=10**5000)


def test_numbers_of_numpy_are_numbers():
    model = build()
    options = check_options(
        SamplingConfig(iterations=4), model.length, model.head, cfg_scale=np.float32(2), iterations=np.int64(3)
    )
    assert (options.cfg_scale, options.iterations) == (2.0, 3)
    assert type(options.iterations) is int


def test_good_options_replace_the_defaults():
    model = build()
    defaults = SamplingConfig(cfg_scale=2.0, iterations=4, temperature=0.7)
    assert check_options(defaults, model.length, model.head) == defaults
    changed = check_options(defaults, model.length, model.head, cfg_scale=0, iterations=model.length, temperature=0)
    assert changed == dataclasses.replace(defaults, cfg_scale=0.0, iterations=model.length, temperature=0.0)


def test_only_visible_attention_may_leave_positions_out():
    model = build(masked_attention="full")
    prefix = model.backbone.prefix(*dataclasses.astuple(condition(model, 1)))
    with pytest.raises(ValueError, match="masked_attention"):
        model.backbone.cache(prefix)
    assert BackboneConfig().masked_attention == "visible"


class OnTheDevice(TorchDispatchMode):
    """Refuses what makes the host wait for a GPU: reading values, sizes that depend on values, copies to the host."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select"), name
        assert not (name == "_to_copy" and (kwargs or {}).get("device") == torch.device("cpu")), name
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("savings", [Savings(), Savings(refresh_every=2, null_every=2, guided_share=0.6)])
@pytest.mark.parametrize("static", [False, True])
def test_the_loop_never_waits_for_the_device(kind, savings, static):
    model = build("student", torch.float32)
    model.head = HEADS[kind](HEADS[kind].Config(width=32, depth=1), model.token_dim, 32).eval()
    model.decoding = StaticDecoding(model.backbone) if static else default_decoding(model.backbone)
    steps = 1 if kind == "energy" else 4
    sampling = SamplingConfig(cfg_scale=2.0, iterations=5, steps=steps, savings=savings)
    states = generate(model, condition(model, 2), [0, 1], sampling)
    next(states)  # the work before the loop may wait
    with OnTheDevice():
        assert len(list(states)) == 4


def test_the_loop_never_waits_for_the_device_under_joint_attention():
    model = build(dtype=torch.float32, **CASES[-1])
    states = generate(model, condition(model, 2), [0, 1], SamplingConfig(cfg_scale=2.0, iterations=5))
    next(states)
    with OnTheDevice():
        assert len(list(states)) == 4


def test_waiting_for_the_device_is_noticed():
    with OnTheDevice(), pytest.raises(AssertionError, match="_local_scalar_dense"):
        torch.ones(1).item()
