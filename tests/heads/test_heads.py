"""The formulas of the diffusion head, and properties beyond the contract that the shipped heads share."""

import dataclasses
import math

import pytest
import torch
from small_heads import C, D, N, build, drawer, steps_of

from dear.config import ConfigError
from dear.heads import HEADS
from dear.heads.diffusion import MIN_SIGNAL, cosine_signal

SETTINGS = {
    "energy": {"kind": "energy"},
    "energy-noise-as-condition": {"kind": "energy", "noise_as": "condition", "samples": 3},
    "energy-groups": {"kind": "energy", "groups": (1, 3, 2)},
    "diffusion": {"kind": "diffusion"},
    "diffusion-ddim": {"kind": "diffusion", "eta": 0.0},
    "diffusion-velocity": {"kind": "diffusion", "prediction": "velocity"},
    "diffusion-velocity-ddim": {"kind": "diffusion", "prediction": "velocity", "eta": 0.0},
    "diffusion-representation": {"kind": "diffusion", "guidance_level": "representation"},
    "flow": {"kind": "flow"},
    "flow-uniform": {"kind": "flow", "times": "uniform"},
    "flow-representation": {"kind": "flow", "guidance_level": "representation"},
    "meanflow": {"kind": "meanflow"},
    "meanflow-uniform": {"kind": "meanflow", "times": "uniform", "flow_share": 0.5, "adaptive_power": 0.0},
    "meanflow-representation": {"kind": "meanflow", "guidance_level": "representation"},
    "shortcut": {"kind": "shortcut", "flow_share": 0.5},
    "shortcut-representation": {"kind": "shortcut", "guidance_level": "representation", "max_steps": 16},
}


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
class TestFormulas:
    def test_losses_are_positive_and_follow_the_noise(self, setting, context, target):
        # Without the adaptive weight, which hides the loss's own size.
        head = build(**({"adaptive_power": 0.0} if setting["kind"] == "meanflow" else {}) | setting)
        first = head.loss(target, context, torch.Generator().manual_seed(3))
        again = head.loss(target, context, torch.Generator().manual_seed(3))
        other = head.loss(target, context, torch.Generator().manual_seed(4))
        assert first.shape == (N,)
        assert first.isfinite().all() and first.gt(0).all()
        assert torch.equal(first, again)
        assert not torch.allclose(first, other, rtol=1e-3)

    def test_guidance_runs_the_head_once_per_step_on_mixed_contexts_or_twice_the_rows(self, setting, context):
        head, null, rows = build(**setting), torch.ones(N, C, dtype=torch.float64), []
        head.net.register_forward_pre_hook(lambda net, inputs: rows.append([len(x) for x in inputs]))
        steps = steps_of(head)
        head.sample(context, null, cfg_scale=2.0, steps=steps, temperature=1.0, draw=drawer(0))
        level = "representation" if setting["kind"] == "energy" else setting.get("guidance_level", "prediction")
        assert head.guidance_level == level
        assert len(rows) == steps
        assert {count for call in rows for count in call} == {N if level == "representation" else 2 * N}

    def test_temperature_zero_gives_the_same_for_any_noise(self, setting, context):
        """Except under ancestral sampling, which starts from the noise itself."""
        head = build(**setting)
        options = {"cfg_scale": 1.0, "steps": steps_of(head), "temperature": 0.0}
        same = torch.equal(*(head.sample(context, None, draw=drawer(seed), **options) for seed in (0, 1)))
        assert same == (setting["kind"] != "diffusion" or head.config.eta == 0)


def mixture(label, generator):
    """Two classes with two modes each, the second a quarter turn of the first: label [N] -> [N, 2]."""
    side = 4.0 * torch.randint(2, label.shape, generator=generator) - 2.0
    centre = torch.stack((side * (1 - label), side * label), dim=-1)
    return centre + 0.3 * torch.randn(*label.shape, 2, generator=generator)


def energy_distance(x, y):
    """Equation (1) between two sets of points [N, 2]."""
    return (2 * torch.cdist(x, y).mean() - torch.cdist(x, x).mean() - torch.cdist(y, y).mean()).item()


@pytest.mark.parametrize(
    ("setting", "few", "many"),
    [
        ({"kind": "energy"}, None, 1),
        ({"kind": "energy", "noise_as": "condition"}, None, 1),
        ({"kind": "diffusion"}, None, 50),
        ({"kind": "diffusion", "prediction": "velocity"}, None, 50),
        ({"kind": "flow"}, None, 10),
        ({"kind": "meanflow"}, 1, 4),
        ({"kind": "shortcut"}, 1, 4),
    ],
    ids=lambda value: "-".join(value.values()) if isinstance(value, dict) else None,
)
def test_fits_a_mixture_in_two_dimensions(setting, few, many):
    """With ``many`` steps it tells the modes apart; with ``few`` it at least leaves the noise far behind."""
    torch.manual_seed(0)
    kind = HEADS[setting["kind"]]
    head = kind(kind.Config(**{"width": 64, "depth": 2} | kind.toy_options | setting), 2, 2)
    contexts, generator = torch.eye(2), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(head.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, total_iters=150)
    for _ in range(150):
        label = torch.randint(2, (256,), generator=generator)
        optimizer.zero_grad()
        head.loss(mixture(label, generator), contexts[label], generator).mean().backward()
        optimizer.step()
        schedule.step()
    for label in torch.eye(2, dtype=torch.long):
        label = label.argmax().expand(500)
        data, noise = mixture(label, generator), torch.randn(500, 2, generator=generator)
        for steps in filter(None, (few, many)):
            with torch.no_grad():
                samples = head.sample(
                    contexts[label],
                    None,
                    cfg_scale=1.0,
                    steps=steps,
                    temperature=1.0,
                    draw=lambda: torch.randn(500, 2, generator=generator),
                )
            # One Gaussian with the moments of the data lacks its modes.
            reference = data.std(dim=0) * noise if steps == many else noise
            assert energy_distance(samples, data) < energy_distance(reference, data) / 2
            ratio = samples.std(dim=0) / data.std(dim=0)
            assert ratio.min() > 1 / 3 and ratio.max() < 3
            assert (samples.mean(dim=0) - data.mean(dim=0)).abs().max() < 0.8


class TestRefusals:
    def test_the_energy_head_mixes_representations_only(self):
        build("energy", guidance_level="representation")
        with pytest.raises(ConfigError, match=r"head\.guidance_level must be one of default, representation for the"):
            build("energy", guidance_level="prediction")

    @pytest.mark.parametrize(
        ("kind", "name", "value"),
        [
            ("energy", "guidance_level", "both"),
            ("energy", "noise_as", "output"),
            ("flow", "times", "late"),
            ("meanflow", "flow_share", 1.5),
            ("meanflow", "adaptive_power", -1.0),
            ("shortcut", "max_steps", 1),
            ("shortcut", "max_steps", 100),
        ],
    )
    def test_settings_out_of_range_are_refused_by_name(self, kind, name, value):
        with pytest.raises(ConfigError, match=rf"head\.{name} must be .*got {value!r}"):
            HEADS[kind].Config(**{name: value})


def test_weights_of_shipped_designs_keep_their_names():
    block = [f"{part}.{kind}" for part in ("norm", "mlp.0", "mlp.2", "modulation") for kind in ("weight", "bias")]
    parts = [f"{part}.{kind}" for part in ("input", "modulation", "output") for kind in ("weight", "bias")]
    net = {"net." + part for part in parts} | {f"net.blocks.{i}.{part}" for i in range(2) for part in block}
    context = {"context_in.weight", "context_in.bias"}
    time = {f"time_in.mlp.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")}
    assert set(build("energy").state_dict()) == net | context
    assert set(build("diffusion").state_dict()) == net | context | time


class RawTime(torch.nn.Module):
    """In place of an embedding: the time itself."""

    def forward(self, t):
        return t[:, None]


class TestDiffusion:
    def test_schedule_is_the_cosine_and_falls(self):
        signal = cosine_signal(1000)
        assert signal.diff().le(0).all()
        assert signal[0] > 0.999 and signal[-1] == MIN_SIGNAL
        angle = lambda t: math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2  # noqa: E731
        assert signal[499].item() == pytest.approx(angle(500) / angle(0))

    @pytest.mark.parametrize("eta", [0.0, 1.0])
    @pytest.mark.parametrize("steps", [1, 7, 100])
    def test_with_the_true_noise_the_sampler_arrives_at_the_data(self, eta, steps):
        """Where all data is one point, the exact noise is known in closed form, and so is the sample."""
        head, point = build("diffusion", eta=eta), torch.linspace(-2, 2, D, dtype=torch.float64)

        def exact(x, time, context):
            signal = torch.tensor(head.signal, dtype=torch.float64)[time.long()]
            return (x - signal.sqrt() * point) / (1 - signal).sqrt()

        head.time_in, head.denoise = RawTime(), exact
        context = torch.zeros(N, C, dtype=torch.float64)
        got = head.sample(context, None, cfg_scale=1.0, steps=steps, temperature=1.0, draw=drawer(0))
        torch.testing.assert_close(got, point.expand(N, D), rtol=0, atol=1e-6)

    @pytest.mark.parametrize("eta", [0.0, 1.0])
    def test_with_the_true_noise_a_gaussian_keeps_its_variance(self, eta):
        head, deviation = build("diffusion", eta=eta), 0.5

        def exact(x, time, context):
            signal = torch.tensor(head.signal, dtype=torch.float64)[time.long()]
            return (1 - signal).sqrt() * x / (signal * deviation**2 + 1 - signal)

        head.time_in, head.denoise = RawTime(), exact
        context = torch.zeros(20_000, C, dtype=torch.float64)
        got = head.sample(context, None, cfg_scale=1.0, steps=200, temperature=1.0, draw=drawer(0, 20_000))
        assert got.std().item() == pytest.approx(deviation, rel=0.03)

    def test_ddim_draws_once_and_ancestral_at_every_step_but_the_last(self, context):
        for eta, wanted in ((0.0, 1), (1.0, 5)):
            head, draw, calls = build("diffusion", eta=eta), drawer(0), []
            head.sample(
                context,
                None,
                cfg_scale=1.0,
                steps=5,
                temperature=1.0,
                draw=lambda draw=draw, calls=calls: (calls.append(1), draw())[1],
            )
            assert len(calls) == wanted

    def test_several_noise_levels_are_averaged_per_row(self, context):
        target = torch.randn(N, D, dtype=torch.float64)
        head = build("diffusion", levels=200)
        spread = torch.stack([head.loss(target, context, torch.Generator().manual_seed(s)) for s in range(4)]).std(0)
        head.config = dataclasses.replace(head.config, levels=1)
        wide = torch.stack([head.loss(target, context, torch.Generator().manual_seed(s)) for s in range(4)]).std(0)
        assert spread.mean() < 0.3 * wide.mean()


@pytest.mark.parametrize("level", ["prediction", "representation"])
@pytest.mark.parametrize("kind", ["diffusion", "flow", "meanflow", "shortcut"])
def test_what_does_not_depend_on_the_sample_is_computed_once(kind, level, context):
    """The result equals that of steps through the head's own forward."""
    options = {"eta": 0.0, "timesteps": 50} if kind == "diffusion" else {}
    head = build(kind=kind, guidance_level=level, **options)
    null, scale, steps = torch.ones_like(context), 2.5, 4
    calls = []
    for name in ("context_in", "time_in"):
        getattr(head, name).register_forward_hook(lambda *_, name=name: calls.append(name))
    got = head.sample(context, null, cfg_scale=scale, steps=steps, temperature=1.0, draw=drawer(0))
    assert sorted(calls) == ["context_in", "context_in", "time_in"]

    def predict(*inputs):
        if level == "representation":
            return head(*inputs, scale * context + (1 - scale) * null)
        return scale * head(*inputs, context) + (1 - scale) * head(*inputs, null)

    x = drawer(0)()
    if kind == "diffusion":
        times = [49, 33, 16, 0]
        for time, then in zip(times, [*(head.signal[each] for each in times[1:]), 1.0], strict=True):
            now, noise = head.signal[time], predict(x, torch.full((N,), time))
            x = then**0.5 * (x - (1 - now) ** 0.5 * noise) / now**0.5 + (1 - then) ** 0.5 * noise
    else:
        for t, r in ((1.0, 0.75), (0.75, 0.5), (0.5, 0.25), (0.25, 0.0)):
            x = x - (t - r) * predict(x, torch.full((N,), r), torch.full((N,), t))
    torch.testing.assert_close(got, x, rtol=0, atol=1e-9)
