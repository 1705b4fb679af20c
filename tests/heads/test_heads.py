"""The formulas of the energy and the diffusion head, and what the shipped heads have in common beside the contract."""

import dataclasses
import math

import pytest
import torch
from small_heads import C, D, N, build, drawer, steps_of

from dear.config import ConfigError
from dear.heads import HEADS
from dear.heads.diffusion import MIN_SIGNAL, cosine_signal
from dear.heads.energy import energy_loss

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
            # One Gaussian with the moments of the data knows nothing of its modes.
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


def literal_energy(samples, target):
    """Equation (8) read aloud, in Python floats."""
    m = len(samples)
    values = []
    for n in range(len(target)):
        norm = lambda a, b, n=n: math.sqrt(sum((float(p) - float(q)) ** 2 for p, q in zip(a[n], b[n], strict=True)))  # noqa: E731
        near = sum(norm(samples[i], target) for i in range(m))
        apart = sum(norm(samples[i], samples[j]) for i in range(m) for j in range(m) if i != j)
        values.append(2 / m * near - apart / (m * (m - 1)))
    return torch.tensor(values, dtype=torch.float64)


class TestEnergy:
    @pytest.mark.parametrize("m", [2, 3, 4])
    def test_equals_a_literal_reading_of_equation_8(self, m):
        generator = torch.Generator().manual_seed(m)
        samples = torch.randn(m, 7, D, generator=generator, dtype=torch.float64)
        target = torch.randn(7, D, generator=generator, dtype=torch.float64)
        torch.testing.assert_close(energy_loss(samples, target), literal_energy(samples, target), rtol=0, atol=1e-12)

    def test_two_samples_give_equation_3(self):
        generator = torch.Generator().manual_seed(0)
        x1, x2, y = torch.randn(3, 7, D, generator=generator, dtype=torch.float64)
        wanted = (x1 - y).norm(dim=1) + (x2 - y).norm(dim=1) - (x1 - x2).norm(dim=1)
        torch.testing.assert_close(energy_loss(torch.stack((x1, x2)), y), wanted, rtol=0, atol=1e-12)

    def test_its_gradient_moves_both_samples_and_is_that_of_the_formula(self):
        samples = torch.randn(2, 3, D, dtype=torch.float64, requires_grad=True)
        target = torch.randn(3, D, dtype=torch.float64)
        energy_loss(samples, target).sum().backward()
        unit = lambda v: v / v.norm(dim=1, keepdim=True)  # noqa: E731
        x1, x2 = samples.detach()
        torch.testing.assert_close(samples.grad[0], unit(x1 - target) - unit(x1 - x2))
        torch.testing.assert_close(samples.grad[1], unit(x2 - target) - unit(x2 - x1))
        assert samples.grad.abs().sum(dim=(1, 2)).gt(0).all()

    def test_samples_that_coincide_give_finite_gradients(self):
        samples = torch.zeros(2, 3, D, requires_grad=True)
        energy_loss(samples, torch.zeros(3, D)).sum().backward()
        assert samples.grad.isfinite().all()

    def test_half_precision_is_scored_in_float32(self):
        samples, target = torch.randn(2, 3, D).bfloat16(), torch.randn(3, D).bfloat16()
        loss = energy_loss(samples, target)
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, energy_loss(samples.float(), target.float()))

    def test_groups_of_channels_are_scored_beside_the_whole(self, context, target):
        head = build("energy", groups=(2, 4), samples=3)
        loss = head.loss(target, context, torch.Generator().manual_seed(0))
        samples = head(torch.randn(3, N, D, generator=torch.Generator().manual_seed(0)).double(), context).detach()
        parts = (slice(None), slice(2), slice(2, None))
        wanted = sum(literal_energy(samples[..., part], target[:, part]) for part in parts) / 3
        torch.testing.assert_close(loss, wanted, rtol=0, atol=1e-12)

    def test_groups_see_scatter_in_a_few_channels_that_the_whole_hardly_sees(self):
        """Of 64 channels the first scatter a third as far as the others; samples scatter twice too far in them."""
        generator = torch.Generator().manual_seed(0)
        size = torch.ones(64).index_fill(0, torch.arange(4), 0.3)
        target, *samples = size * torch.randn(5, 20_000, 64, generator=generator)
        samples = torch.stack(samples)
        wide = torch.cat((2 * samples[..., :4], samples[..., 4:]), dim=-1)
        excess = []
        for seen in (64, 4):
            fair, far = (energy_loss(x[..., :seen], target[:, :seen]).mean() for x in (samples, wide))
            excess.append((far / fair - 1).item())
        assert 0 < excess[0] < 0.02 < 0.1 < excess[1]

    def test_relative_scores_do_not_depend_on_the_scale_of_a_token(self, context, target):
        head = build("energy", relative=True, samples=4, groups=(2, 4))
        score = head._score
        samples = torch.randn(4, N, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        near, far = (score(size * samples, size * target) for size in (1e3, 1e6))
        torch.testing.assert_close(near, far, rtol=1e-3, atol=0)
        assert (score(1e-3 * samples, 1e-3 * target) < near).all()  # the floor: nothing is divided by 0

    def test_channels_see_variance_in_the_wrong_channels(self):
        """Samples with the total variance of the target, half of that of some channels moved to others."""
        generator = torch.Generator().manual_seed(0)
        target, *samples = torch.randn(5, 4000, 64, generator=generator)
        samples, size = torch.stack(samples), torch.tensor([0.5, 1.5]).sqrt().repeat(32)
        excess = []
        for weight in (0.0, 100.0):
            head = HEADS["energy"](HEADS["energy"].Config(samples=4, channels=weight), 64, C)
            losses = []
            for given in (samples, size * samples):
                head.forward = lambda noise, context, given=given: given
                losses.append(head.loss(target, target, generator).mean())
            excess.append((losses[1] / losses[0] - 1).item())
        assert 0 < excess[0] < 0.001 < 0.01 < excess[1]

    def test_channels_are_scored_beside_the_whole(self, context, target):
        head = build("energy", channels=2.0, samples=3)
        loss = head.loss(target, context, torch.Generator().manual_seed(0))
        samples = head(torch.randn(3, N, D, generator=torch.Generator().manual_seed(0)).double(), context).detach()
        single = [literal_energy(samples[..., i : i + 1], target[:, i : i + 1]) for i in range(D)]
        wanted = literal_energy(samples, target) + 2.0 * torch.stack(single).mean(0)
        torch.testing.assert_close(loss, wanted, rtol=0, atol=1e-12)

    def test_direct_noise_reaches_each_channel_alone(self, context):
        plain, direct = build("energy"), build("energy", direct_noise=True)
        direct.load_state_dict(plain.state_dict(), strict=False)
        noise = torch.randn(N, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        torch.testing.assert_close(direct(noise, context) - plain(noise, context), 0.1 * noise)

    def test_groups_must_be_all_channels(self):
        with pytest.raises(ConfigError, match="head.groups must sum to the token's 6 channels"):
            build("energy", groups=(2, 3))

    def test_wrong_shapes_are_refused(self):
        with pytest.raises(ValueError, match="samples must be"):
            energy_loss(torch.zeros(1, 3, D), torch.zeros(3, D))
        with pytest.raises(ValueError, match="samples must be"):
            energy_loss(torch.zeros(2, 4, D), torch.zeros(3, D))

    def test_guidance_is_equation_9_on_the_context(self, context):
        head, null = build("energy"), torch.randn(N, C, dtype=torch.float64)
        guided = head.sample(context, null, cfg_scale=2.5, steps=1, temperature=0.7, draw=drawer(0))
        mixed = 2.5 * context + (1 - 2.5) * null
        assert torch.allclose(guided, head(0.7 * drawer(0)(), mixed), rtol=0, atol=1e-12)

    def test_temperature_zero_draws_the_same_for_any_noise(self, context):
        head = build("energy")
        options = {"cfg_scale": 1.0, "steps": 1, "temperature": 0.0}
        first = head.sample(context, None, draw=drawer(0), **options)
        assert torch.equal(first, head.sample(context, None, draw=drawer(1), **options))


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
    """And the result is that of steps through the head's own forward."""
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
