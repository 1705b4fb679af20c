"""One contract for all heads, and the formulas of each."""

import dataclasses
import math

import pytest
import torch

from dear.config import HeadConfig
from dear.heads import HEADS
from dear.heads.diffusion import MIN_SIGNAL, cosine_signal
from dear.heads.energy import energy_loss

D, C, N = 6, 16, 9


def build(kind, seed=0, **options):
    torch.manual_seed(seed)
    config = HeadConfig(kind=kind, width=24, depth=2, **options)
    return HEADS[kind](config, D, C).double().eval()


def drawer(seed, count=N, dim=D):
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(count, dim, generator=generator, dtype=torch.float64)


def steps_of(kind):
    return 1 if kind == "energy" else 5


@pytest.fixture
def context():
    return torch.randn(N, C, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("kind", HEADS)
class TestContract:
    def test_loss_is_one_finite_value_per_row_and_repeats_with_its_generator(self, kind, context):
        head, target = build(kind), torch.randn(N, D, dtype=torch.float64)
        first = head.loss(target, context, torch.Generator().manual_seed(3))
        again = head.loss(target, context, torch.Generator().manual_seed(3))
        other = head.loss(target, context, torch.Generator().manual_seed(4))
        assert first.shape == (N,)
        assert first.isfinite().all()
        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    def test_every_parameter_and_the_context_get_a_finite_gradient(self, kind, context):
        head = build(kind)
        context = context.requires_grad_()
        head.loss(torch.randn(N, D, dtype=torch.float64), context, torch.Generator().manual_seed(0)).mean().backward()
        for name, parameter in head.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().sum() > 0, name
        assert context.grad.abs().sum(dim=1).gt(0).all()

    def test_samples_have_the_shape_and_repeat_with_their_noise(self, kind, context):
        head = build(kind)
        options = {"cfg_scale": 1.0, "steps": steps_of(kind), "temperature": 1.0}
        first = head.sample(context, None, draw=drawer(0), **options)
        assert first.shape == (N, D)
        assert torch.equal(first, head.sample(context, None, draw=drawer(0), **options))
        assert not torch.allclose(first, head.sample(context, None, draw=drawer(1), **options))

    def test_a_row_does_not_depend_on_its_batch(self, kind, context):
        head = build(kind)
        null = torch.zeros_like(context)
        options = {"cfg_scale": 3.0, "steps": steps_of(kind), "temperature": 0.8}
        whole = head.sample(context, null, draw=drawer(0), **options)
        draw = drawer(0)
        alone = head.sample(context[4:5], null[4:5], draw=lambda: draw()[4:5], **options)
        torch.testing.assert_close(alone, whole[4:5], rtol=0, atol=1e-12)

    def test_scale_one_is_no_guidance_and_scale_zero_is_the_null_condition(self, kind, context):
        head, null = build(kind), torch.randn(N, C, dtype=torch.float64)
        options = {"steps": steps_of(kind), "temperature": 1.0}
        free = head.sample(context, None, cfg_scale=1.0, draw=drawer(0), **options)
        assert torch.equal(head.sample(context, null, cfg_scale=1.0, draw=drawer(0), **options), free)
        dropped = head.sample(null, None, cfg_scale=1.0, draw=drawer(0), **options)
        nothing = head.sample(context, null, cfg_scale=0.0, draw=drawer(0), **options)
        torch.testing.assert_close(nothing, dropped, rtol=0, atol=1e-9)
        guided = head.sample(context, null, cfg_scale=3.0, draw=drawer(0), **options)
        assert not torch.allclose(guided, free)

    @pytest.mark.parametrize("steps", [0, -1, 100_000])
    def test_steps_out_of_range_are_refused_by_name(self, kind, context, steps):
        with pytest.raises(ValueError, match=rf"steps must be .*got {steps}"):
            build(kind).sample(context, None, cfg_scale=1.0, steps=steps, temperature=1.0, draw=drawer(0))

    def test_fits_a_mixture_in_two_dimensions(self, kind):
        """Two classes with two modes each: samples land near the modes of their class, near all of them."""
        torch.manual_seed(0)
        head = HEADS[kind](HeadConfig(kind=kind, width=64, depth=2), 2, 2)
        modes = torch.tensor([[[1.5, 0.0], [-1.5, 0.0]], [[0.0, 1.5], [0.0, -1.5]]])
        contexts = torch.eye(2)
        optimizer = torch.optim.Adam(head.parameters(), lr=3e-3)
        generator = torch.Generator().manual_seed(0)
        for step in range(500):
            for group in optimizer.param_groups:
                group["lr"] = 3e-3 * (1 - step / 500)
            label = torch.randint(2, (256,), generator=generator)
            mode = torch.randint(2, (256,), generator=generator)
            target = modes[label, mode] + 0.15 * torch.randn(256, 2, generator=generator)
            optimizer.zero_grad()
            head.loss(target, contexts[label], generator).mean().backward()
            optimizer.step()
        with torch.no_grad():
            for label in range(2):
                draw = torch.Generator().manual_seed(1)
                samples = head.sample(
                    contexts[label].expand(400, 2),
                    None,
                    cfg_scale=1.0,
                    steps=1 if kind == "energy" else 50,
                    temperature=1.0,
                    draw=lambda: torch.randn(400, 2, generator=draw),  # noqa: B023 - used within this turn only
                )
                distance = torch.cdist(samples, modes[label])
                assert (distance.amin(dim=1) < 0.6).float().mean() > 0.8
                share = (distance.argmin(dim=1) == 0).float().mean().item()
                assert 0.35 < share < 0.65


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

        def exact(x, t, context):
            signal = torch.tensor(head.signal, dtype=torch.float64)[t][:, None]
            return (x - signal.sqrt() * point) / (1 - signal).sqrt()

        head.forward = exact
        context = torch.zeros(N, C, dtype=torch.float64)
        got = head.sample(context, None, cfg_scale=1.0, steps=steps, temperature=1.0, draw=drawer(0))
        torch.testing.assert_close(got, point.expand(N, D), rtol=0, atol=1e-6)

    @pytest.mark.parametrize("eta", [0.0, 1.0])
    def test_with_the_true_noise_a_gaussian_keeps_its_variance(self, eta):
        head, deviation = build("diffusion", eta=eta), 0.5

        def exact(x, t, context):
            signal = torch.tensor(head.signal, dtype=torch.float64)[t][:, None]
            return (1 - signal).sqrt() * x / (signal * deviation**2 + 1 - signal)

        head.forward = exact
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
