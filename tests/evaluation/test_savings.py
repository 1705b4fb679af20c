"""Approximate savings: exact if they are off, and equal to a literal form if they are on."""

import dataclasses
import json
import re

import pytest
import torch
from factory import tiny_config
from small_models import BOTH, LEARNED, ROTARY, L, T, build, condition, longer, run

from dear.cli import main
from dear.config import FAST, Config, ConfigError, SamplingConfig, Savings, from_dict
from dear.kinds import KINDS
from dear.layers import rotary_angles, rotate
from dear.masking import random_order, spread_order, token_schedule
from dear.request import check_options
from dear.sampling import generate, guidance_scale


class Slow:
    """A literal form of one branch for one item: all L tokens in every pass, with values of stale ones from a dict.

    ``seen``: per block {position: (key, value, input of local mixing)}, each as it was when last computed.
    """

    def __init__(self, model, one):
        self.model, self.one = model, one
        self.prefix = model.backbone.prefix(one.tokens, one.mask)
        self.seen = [{} for _ in model.backbone.blocks]

    def contexts(self, tokens, known, fresh):
        """tokens [L, D], known and fresh [L] lists of bool -> contexts [L, C]; only fresh known tokens are renewed."""
        net = self.model.backbone
        x = torch.stack([net.token_in(tokens[i]) if known[i] else net.mask_token for i in range(L)])
        if net.positions is not None:
            x = x + net.positions
        for block, prefix, seen in zip(net.blocks, self.prefix.blocks, self.seen, strict=True):
            if block.mixing is not None:
                own = block.mixing_norm(x)
                old = {i: seen[i][2] for i in seen}
                shown = {i: own[i] if fresh[i] else old[i] for i in range(L) if known[i]}
                weight, half = block.mixing.weight, len(block.mixing.weight) // 2
                mixed = []
                for i in range(L):
                    others = [weight[d + half] * shown[i + d] for d in range(-half, half + 1) if d and i + d in shown]
                    mixed.append(block.mixing.bias + weight[half] * own[i] + sum(others))
                x = x + torch.stack(mixed)
            queries, keys, values = (part[0] for part in block.attention.project(block.attention_norm(x)[None]))
            if net.config.positions != "learned":
                angles = rotary_angles(torch.arange(L)[None], queries.shape[-1])
                queries, keys = rotate(queries[None], angles)[0], rotate(keys[None], angles)[0]
            for i in range(L):
                if known[i] and fresh[i]:
                    seen[i] = keys[:, i], values[:, i], own[i] if block.mixing is not None else None
            attended = []
            for i in range(L):
                pairs = [seen[j][:2] for j in range(L) if known[j]] + ([] if known[i] else [(keys[:, i], values[:, i])])
                real = self.one.mask[0]
                every_key = torch.cat((prefix[0][0][:, real], *(key[:, None] for key, _ in pairs)), dim=1)
                every_value = torch.cat((prefix[1][0][:, real], *(value[:, None] for _, value in pairs)), dim=1)
                weights = (every_key @ queries[:, i, :, None] / every_key.shape[-1] ** 0.5).softmax(dim=1)
                attended.append((weights * every_value).sum(dim=1).flatten())
            x = x + block.attention.out(torch.stack(attended))
            x = x + block.mlp(block.mlp_norm(x))
        return net.norm(x)


@torch.no_grad()
def slow(model, one, seed, sampling, given=None, keep=None):
    """A literal form of the savings of ``sampling``, for one item."""
    savings = sampling.savings
    generator = torch.Generator().manual_seed(seed)
    order = random_order(L, generator).tolist()
    keep = [False] * L if keep is None else keep
    order = [i for i in order if keep[i]] + [i for i in order if not keep[i]]
    tokens = torch.zeros(L, model.token_dim, dtype=torch.float64) if given is None else given.clone()
    branches = {"real": Slow(model, one), "null": Slow(model, model.null(one, torch.tensor([True])))}
    passed, renewed, difference = {"real": 0, "null": 0}, {"real": None, "null": None}, {}
    known_at = {i: 0 for i in range(L) if keep[i]}  # the iteration in whose pass a token is known for the first time
    start = begin = sum(keep)
    counts = token_schedule(L - start, sampling.iterations)
    for k, count in enumerate(counts):
        new = order[start : start + count]
        guided = start - begin <= savings.guided_share * (L - begin)
        both = guided and k % savings.null_every == 0
        names = ["real", "null"] if both else ["real"]
        due = [renewed[name] is None or k - renewed[name] >= savings.refresh_every for name in names]
        since = min(passed[name] for name in names)
        known = [i in known_at for i in range(L)]
        fresh = [known[i] and (any(due) or known_at[i] > since) for i in range(L)]
        contexts = {name: branches[name].contexts(tokens, known, fresh) for name in names}
        for name in names:
            passed[name] = k
            renewed[name] = k if any(due) else renewed[name]
        if both:
            difference = {i: contexts["null"][i] - contexts["real"][i] for i in range(L)}
        tokens[new] = model.head.sample(
            contexts["real"][new],
            contexts["real"][new] + torch.stack([difference[i] for i in new]) if guided else None,
            cfg_scale=guidance_scale(sampling, (start + count) / L),
            steps=sampling.steps,
            temperature=sampling.temperature,
            draw=lambda count=count: torch.randn(count, model.token_dim, generator=generator).double(),
        )
        known_at |= dict.fromkeys(new, k + 1)
        start += count
    return tokens


WAYS = [
    Savings(refresh_every=3),
    Savings(refresh_every=1000),
    Savings(null_every=3),
    Savings(guided_share=0.4),
    Savings(refresh_every=2, null_every=3, guided_share=0.8),
    Savings(refresh_every=4, null_every=2),
]


@pytest.mark.parametrize("savings", [Savings(), *WAYS])
@pytest.mark.parametrize(
    ("backbone", "variant", "steps"), [(BOTH, "student", 1), (ROTARY, "student", 1), (LEARNED, "teacher", 4)]
)
def test_each_is_its_literal_reading(savings, backbone, variant, steps):
    model = longer(variant, **backbone)
    conditioning = condition(model, 2)
    sampling = SamplingConfig(cfg_scale=2.5, iterations=7, temperature=0.9, steps=steps, savings=savings)
    got = run(model, conditioning, [7, 8], sampling)[-1].tokens
    for item in range(2):
        wanted = slow(model, conditioning.select([item]), 7 + item, sampling)
        torch.testing.assert_close(got[item], wanted, rtol=0, atol=1e-9)
    exact = run(model, conditioning, [7, 8], dataclasses.replace(sampling, savings=Savings()))[-1].tokens
    assert ((got - exact).abs().max() > 1e-4) == (savings != Savings())


def test_given_tokens_are_kept_in_the_caches_too():
    model = longer(**BOTH)
    given = torch.randn(2, L, model.token_dim, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    keep = torch.arange(L).expand(2, -1) % 3 == 0
    savings = Savings(refresh_every=3, null_every=2, guided_share=0.7)
    sampling, conditioning = SamplingConfig(cfg_scale=2.5, iterations=6, savings=savings), condition(model, 2)
    got = run(model, conditioning, [3, 4], sampling, given=given, given_mask=keep)[-1].tokens
    assert torch.equal(got[keep], given[keep])
    for item in range(2):
        wanted = slow(model, conditioning.select([item]), 3 + item, sampling, given[item], keep[item].tolist())
        torch.testing.assert_close(got[item], wanted, rtol=0, atol=1e-9)


def test_a_recomputation_in_every_iteration_is_the_exact_path_bit_for_bit():
    model = longer(**BOTH)
    sampling, conditioning = SamplingConfig(cfg_scale=2.5, iterations=7), condition(model, 2)
    wanted = run(model, conditioning, [0, 1], sampling)[-1].tokens
    spelled = Savings(refresh_every=1, guided_share=1.0, null_every=1, order="random")
    got = run(model, conditioning, [0, 1], dataclasses.replace(sampling, savings=spelled))[-1].tokens
    assert torch.equal(got, wanted)


@pytest.mark.parametrize("savings", [*WAYS, Savings(order="spread"), Savings(order="nested")])
def test_an_item_of_a_batch_is_what_its_seed_gives_alone(savings):
    model = build()
    conditioning = condition(model, 3)
    sampling = SamplingConfig(cfg_scale=3.0, iterations=5, savings=savings)
    batch = run(model, conditioning, [10, 11, 12], sampling)[-1]
    alone = run(model, conditioning.select([1]), [11], sampling)[-1]
    torch.testing.assert_close(alone.tokens[0], batch.tokens[1], rtol=0, atol=1e-9)
    assert torch.equal(alone.order[0], batch.order[1])
    assert not torch.equal(batch.order[0], batch.order[1])
    again = run(model, conditioning, [10, 11, 12], sampling)[-1]
    assert torch.equal(again.tokens, batch.tokens)


def test_two_generations_at_once_keep_apart_what_they_keep():
    model = build()
    conditioning = condition(model, 1)
    sampling = SamplingConfig(cfg_scale=2.0, iterations=5, savings=Savings(refresh_every=3, null_every=2))
    wanted = [run(model, conditioning, [seed], sampling)[-1].tokens for seed in (1, 2)]
    both = (generate(model, conditioning, [seed], sampling) for seed in (1, 2))
    last = list(zip(*both, strict=True))[-1]
    assert all(torch.equal(state.tokens, tokens) for state, tokens in zip(last, wanted, strict=True))


def test_fewer_tokens_and_branches_are_computed():
    model, rows = build(), []
    model.backbone.blocks[0].register_forward_pre_hook(lambda block, inputs: rows.append(inputs[0].shape[:2].numel()))
    conditioning = condition(model, 1)
    assert token_schedule(8, 5) == [1, 1, 2, 2, 2]

    def computed(**savings):
        rows.clear()
        run(model, conditioning, [0], SamplingConfig(cfg_scale=2.0, iterations=5, savings=Savings(**savings)))
        return list(rows)

    assert computed() == [2, 4, 8, 12, 16]
    assert computed(refresh_every=1000) == [2, 4, 6, 8, 8]
    assert computed(refresh_every=3) == [2, 4, 6, 12, 8]
    assert computed(null_every=2) == [4, 2, 12, 6, 16]
    assert computed(guided_share=0.3) == [2, 4, 8, 6, 8]


def test_guidance_of_no_share_is_guidance_of_the_first_iteration():
    model = build()
    sampling = SamplingConfig(cfg_scale=3.0, iterations=4)
    states = run(model, condition(model, 1), [0], dataclasses.replace(sampling, savings=Savings(guided_share=0)))
    guided = run(model, condition(model, 1), [0], sampling)
    free = run(model, condition(model, 1), [0], dataclasses.replace(sampling, cfg_scale=1.0))
    torch.testing.assert_close(states[0].tokens, guided[0].tokens, rtol=0, atol=1e-12)
    assert not torch.allclose(states[1].tokens, guided[1].tokens)
    assert not torch.allclose(states[0].tokens, free[0].tokens)


@pytest.mark.parametrize("backbone", [{"masked_attention": "full", "conv_width": 0}, BOTH])
def test_guidance_can_be_saved_under_both_forms_of_attention(backbone):
    model = build(**backbone)
    sampling = SamplingConfig(cfg_scale=3.0, iterations=5, savings=Savings(null_every=2, guided_share=0.5))
    states = run(model, condition(model, 2), [0, 1], sampling)
    assert states[-1].known.all() and states[-1].tokens.isfinite().all()
    # The first iteration has nothing to be behind.
    exact = run(model, condition(model, 2), [0, 1], dataclasses.replace(sampling, savings=Savings()))
    torch.testing.assert_close(states[0].tokens, exact[0].tokens, rtol=0, atol=1e-9)


@pytest.mark.parametrize("length", [1, 2, 7, 8, 24, 128])
def test_a_spread_order_is_a_permutation_whose_beginnings_are_even(length):
    order = spread_order(length, torch.Generator().manual_seed(3))
    assert sorted(order.tolist()) == list(range(length))
    for count in (2**k for k in range(8) if 2**k <= length and length in (1, 2, 8, 128)):
        # One of the first ``count`` in each of as many equal stretches.
        assert sorted((order[:count] // (length // count)).tolist()) == list(range(count))


def test_spread_orders_differ_from_seed_to_seed_and_reach_every_position_first():
    orders = [spread_order(8, torch.Generator().manual_seed(seed)) for seed in range(200)]
    assert {int(order[0]) for order in orders} == set(range(8))
    assert len({tuple(order.tolist()) for order in orders}) > 50


BAD = [
    ({"refresh_every": 0}, "savings.refresh_every must be a whole number from 1 to 1024, got 0"),
    ({"refresh_every": 2.0}, "savings.refresh_every must be a whole number from 1 to 1024, got 2.0"),
    ({"refresh_every": True}, "savings.refresh_every must be .*got True"),
    ({"null_every": 1025}, "savings.null_every must be a whole number from 1 to 1024, got 1025"),
    ({"guided_share": 1.1}, "savings.guided_share must be a number from 0 to 1, got 1.1"),
    ({"guided_share": float("nan")}, "savings.guided_share must be a number from 0 to 1, got nan"),
    ({"guided_share": "half"}, "savings.guided_share must be a number from 0 to 1, got 'half'"),
    ({"order": "sorted"}, "savings.order must be one of random, spread, nested, got 'sorted'"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_bad_values_are_refused_by_name(options, message):
    with pytest.raises(ConfigError, match=f"^{message}$"):
        Savings(**options)


TEXTS = [
    ("refresh_every=4, null_every=2", Savings(refresh_every=4, null_every=2)),
    ("guided_share=.5,order=spread", Savings(guided_share=0.5, order="spread")),
    ("fast", FAST),
]


@pytest.mark.parametrize(("text", "savings"), TEXTS)
def test_savings_are_read_from_text(text, savings):
    assert Savings.parse(text) == savings


@pytest.mark.parametrize("text", ["", "slow", "refresh=4", "null_every=2,null_every=3", "order=spread,"])
def test_other_text_is_refused_by_value(text):
    with pytest.raises(ConfigError, match=rf"savings must be fast, or once each of .*got {re.escape(repr(text))}"):
        Savings.parse(text)


def test_a_value_of_another_kind_is_refused_by_name():
    with pytest.raises(ConfigError, match="savings.null_every must be a number, got ''"):
        Savings.parse("null_every")
    with pytest.raises(ConfigError, match="savings.refresh_every must be a number, got 'x'"):
        Savings.parse("refresh_every=x")


def test_a_configuration_may_hold_savings_or_be_older_than_they_are():
    data = json.loads(tiny_config().to_json())
    sampling = data["variants"]["student"]["sampling"]
    assert sampling.pop("savings") == dataclasses.asdict(Savings())
    assert Config.from_dict(data, KINDS) == tiny_config()
    sampling["savings"] = {"refresh_every": 4}
    config = Config.from_dict(data, KINDS)
    assert config.variants["student"].sampling.savings == Savings(refresh_every=4)
    assert Config.from_json(config.to_json(), KINDS) == config
    with pytest.raises(ConfigError, match='savings.refresh_every must be 1 for masked_attention "full".*got 4'):
        Config.from_dict(data | {"backbone": data["backbone"] | {"masked_attention": "full"}}, KINDS)
    sampling["savings"] = {"speed": 4}
    with pytest.raises(ConfigError, match=r"unknown field variants\.student\.sampling\.savings\.speed"):
        Config.from_dict(data, KINDS)
    with pytest.raises(ConfigError, match="savings.null_every must be of type int, got 2.5"):
        from_dict(SamplingConfig, {"savings": {"null_every": 2.5}})


def test_what_is_no_savings_is_refused():
    model = build()
    with pytest.raises(ValueError, match="^savings must be a dear.Savings or None, got 'fast'"):
        check_options(SamplingConfig(iterations=4), model.length, model.head, savings="fast")


def test_full_attention_has_nothing_to_keep():
    model = build(masked_attention="full", conv_width=0)
    sampling = SamplingConfig(iterations=3, savings=Savings(refresh_every=2))
    with pytest.raises(ValueError, match="savings.refresh_every must be 1 for masked_attention"):
        next(generate(model, condition(model, 1, length=T), [0], sampling))


SPELLED = Savings(refresh_every=2, null_every=2, order="spread")


def test_every_way_to_generate_takes_them(student):
    exact = student.generate("rain", seed=1)
    out = student.generate("rain", seed=1, savings=SPELLED)
    assert out.settings["savings"] == dataclasses.asdict(SPELLED)
    assert exact.settings["savings"] == dataclasses.asdict(Savings())
    assert not torch.equal(out.order, exact.order)
    parts = list(student.stream("rain", seed=1, savings=SPELLED))
    assert torch.equal(parts[-1].waveform, out.waveform)
    draft = student.draft(parts[1])
    assert draft.waveform.shape == out.waveform.shape and draft.settings == out.settings
    sound = exact.waveform[0]
    redrawn = student.inpaint(sound, 16000, 0.2, 0.5, "rain", seed=1, savings=SPELLED)
    more = student.extend(sound, 16000, 0.5, "rain", seed=1, savings=SPELLED)
    for got in (redrawn, more):
        assert got.settings["savings"] == dataclasses.asdict(SPELLED)
    assert not torch.equal(redrawn.order, student.inpaint(sound, 16000, 0.2, 0.5, "rain", seed=1).order)
    assert not torch.equal(more.waveform, student.extend(sound, 16000, 0.5, "rain", seed=1).waveform)


def test_the_command_line_takes_them_and_the_file_tells(tiny_folder, tmp_path, capsys):
    import soundfile

    file = tmp_path / "rain.wav"
    command = ["generate", "rain", "-o", str(file), "--model", str(tiny_folder), "--seed", "1", "--savings"]
    assert main([*command, "refresh_every=2,null_every=2,order=spread"]) == 0
    comment = json.loads(soundfile.SoundFile(file).comment)
    assert comment["savings"] == dataclasses.asdict(SPELLED)
    capsys.readouterr()
    assert main([*command, "refresh_every=0"]) == 2
    assert capsys.readouterr().err == "savings.refresh_every must be a whole number from 1 to 1024, got 0\n"
