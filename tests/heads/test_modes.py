"""The modes of the energy head: a discrete choice before the noise."""

import dataclasses

import pytest
import torch
from factory import tiny_config
from small_heads import C, D, N, build, drawer
from small_models import condition, run

from dear.checkpoint import load_model, save_checkpoint
from dear.conditioning import Conditioning
from dear.config import ConfigError, SamplingConfig
from dear.heads.energy import EnergyConfig, EnergyHead, draw_codes, energy_score
from dear.model import MaskedModel

MODES = {"modes": 4, "mode_channels": 2}
OPTIONS = {"steps": 1, "temperature": 1.0}


def test_without_modes_nothing_is_added_and_noise_is_drawn_once(context):
    head, noise = build("energy", mode_guidance=3.0, mode_temperature=0.5), drawer(0)()
    assert not {name for name in head.state_dict() if name.startswith(("pick", "centres", "gate", "code"))}
    draws = iter([noise])
    sample = head.sample(context, None, cfg_scale=1.0, draw=lambda: next(draws), **OPTIONS)
    assert torch.equal(sample, head(noise, context))


def test_codes_follow_the_softmax():
    logits = torch.tensor([2.0, -1.0, 0.5, -torch.inf, 1.0])
    noise = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    counts = draw_codes(logits.expand(len(noise), -1), noise).bincount(minlength=5)
    torch.testing.assert_close(counts / len(noise), logits.softmax(0), rtol=0, atol=0.006)
    assert counts[3] == 0


def test_codes_are_the_inverse_of_the_cumulative_distribution():
    logits = torch.tensor([0.2, 0.3, 0.5]).log().expand(6, -1)
    uniform = torch.tensor([0.001, 0.19, 0.21, 0.49, 0.51, 0.999])
    noise = torch.distributions.Normal(0, 1).icdf(uniform)
    assert draw_codes(logits, noise).tolist() == [0, 0, 1, 1, 2, 2]
    assert draw_codes(logits[:2], torch.tensor([-100.0, 100.0])).tolist() == [0, 2]
    assert (draw_codes(torch.full((2, 3), torch.nan), torch.zeros(2)) < 3).all()


def test_a_sample_is_that_of_the_chosen_mode(context):
    head, draws = build("energy", **MODES, mode_temperature=0.5, direct_noise=True), drawer(0)
    for name in ("code_out", "code_sd"):
        torch.nn.init.normal_(getattr(head, name).weight)
    torch.nn.init.normal_(head.gate)
    sample = head.sample(context, None, cfg_scale=1.0, steps=1, temperature=0.7, draw=draws)
    draws = drawer(0)
    noise, chance = 0.7 * draws(), draws()
    choice = chance.sum(1) / chance.shape[1] ** 0.5
    code = draw_codes(head.pick(context) / 0.35, choice)
    assert len(code.unique()) > 1
    size = head.direct(context) + head.code_sd.weight[code]
    wanted = head.net(noise, head.context_in(context) + head.code_in.weight[code]) + size * noise
    wanted = wanted + head.code_out.weight[code]
    wanted[:, :2] += head.gate * head.centres[code]
    torch.testing.assert_close(sample, wanted)


@pytest.mark.parametrize("factor", [0.0, 1.0, 2.0])
def test_guidance_mixes_logits(context, factor):
    head = build("energy", **MODES, mode_guidance=factor, mode_temperature=1.0)
    null, choice = torch.randn(N, C, dtype=torch.float64), drawer(1)()[:, 0]
    scale = 1 + factor * 1.5
    logits = scale * head.pick(context) + (1 - scale) * head.pick(null)
    chosen = head.choose(context, null, 2.5, 1.0, choice)
    assert torch.equal(chosen, draw_codes(logits, choice))
    assert torch.equal(head.choose(context, null, 2.5, 0.0, choice), logits.argmax(1))
    assert torch.equal(head.choose(context, null, 1.0, 1.0, choice), draw_codes(head.pick(context), choice))


def test_the_loss_is_the_score_of_the_target_s_mode_and_its_cross_entropy(target, context):
    head = build("energy", **MODES, mode_weight=0.7, samples=3)
    loss = head.loss(target, context, torch.Generator().manual_seed(0))
    code = (target[:, None, :2] - head.centres).norm(dim=2).argmin(1)
    assert len(code.unique()) > 1
    noise = torch.randn(3, N, D, generator=torch.Generator().manual_seed(0)).double()
    entropy = -head.pick(context).log_softmax(1)[torch.arange(N), code]
    torch.testing.assert_close(
        loss, energy_score(head(noise, context, code), target, head.config.relative) + 0.7 * entropy
    )


def trained(**options) -> torch.Tensor:
    """Samples [2000, 2] of a head trained on two clusters at -3 and 3 in the first channel."""
    torch.manual_seed(0)
    head = EnergyHead(EnergyConfig(width=24, depth=1, **options), 2, 1)
    if options:
        head.centres.copy_(torch.tensor([[-3.0], [3.0]]))
    optimizer = torch.optim.Adam(head.parameters(), lr=3e-3)
    generator, context = torch.Generator().manual_seed(0), torch.ones(2000, 1)
    for _ in range(400):
        side = 6 * torch.randint(2, (64, 1), generator=generator) - 3
        target = torch.cat((side, torch.zeros_like(side)), 1) + 0.2 * torch.randn(64, 2, generator=generator)
        optimizer.zero_grad()
        head.loss(target, context[:64], generator).mean().backward()
        optimizer.step()
    with torch.no_grad():
        return head.sample(
            context, None, cfg_scale=1.0, draw=lambda: torch.randn(2000, 2, generator=generator), **OPTIONS
        )


def test_no_sample_lies_between_two_clusters():
    between = [(samples[:, 0].abs() < 1.5).sum() for samples in (trained(), trained(modes=2, mode_channels=1))]
    assert between[0] > 20 and between[1] == 0


def with_modes(modes: int = 4) -> MaskedModel:
    config = tiny_config()
    head = EnergyConfig(width=16, depth=1, modes=modes, mode_channels=3)
    variant = dataclasses.replace(config.variants["student"], head=head)
    model = MaskedModel(dataclasses.replace(config, variants={"student": variant}))
    torch.nn.init.normal_(model.head.centres)
    return model


def test_a_generation_does_not_depend_on_its_batch():
    model = with_modes().double().eval()
    torch.nn.init.normal_(model.head.pick[-1].weight)
    torch.nn.init.normal_(model.head.code_out.weight)
    sampling, both = SamplingConfig(cfg_scale=3.0, iterations=4), condition(model, 2)
    whole = run(model, both, [5, 6], sampling)[-1].tokens
    alone = run(model, Conditioning(both.tokens[1:], both.mask[1:]), [6], sampling)[-1].tokens
    torch.testing.assert_close(whole[1:], alone, rtol=0, atol=1e-9)


def test_a_checkpoint_keeps_the_centres(tmp_path):
    model = with_modes()
    save_checkpoint(tmp_path / "saved", model.config, {"student": model}, torch.nn.Module(), torch.nn.Module())
    loaded = load_model(tmp_path / "saved", model.config, "student")
    assert torch.equal(loaded.head.centres, model.head.centres)
    torch.testing.assert_close(loaded.head.code_in.weight, model.head.code_in.weight, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modes": 1, "mode_channels": 2}, "head.modes must be 0 or at least 2, got 1"),
        ({"modes": 4}, "head.mode_channels must be at least 1 with modes, got 0"),
        ({"modes": 4, "mode_channels": D + 1}, f"head.mode_channels must be at most the token's {D} channels"),
        ({"modes": 4, "mode_channels": 2, "noise_as": "condition"}, "head.noise_as must be input with modes"),
    ],
)
def test_settings_that_do_not_fit_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        EnergyHead(EnergyConfig(**options), D, C)
