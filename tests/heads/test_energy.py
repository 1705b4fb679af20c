"""The formulas of the energy head: equation (8), and its scores of groups and channels."""

import math
from functools import partial

import pytest
import torch
from small_heads import C, D, N, build, drawer

from dear.config import ConfigError
from dear.heads import HEADS
from dear.heads.energy import direction_score, energy_loss, energy_score


def literal_energy(samples, target):
    """Equation (8) written out in Python floats."""
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
        """The first of 64 channels scatter a third as far as the others, and samples scatter twice too far in them."""
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
        score = partial(energy_score, relative=True)
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
                head.forward = lambda noise, context, code, given=given: given
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

    def test_the_score_of_directions_equals_its_formula(self):
        samples = torch.tensor([[[2.0, 0.0]], [[3.0, 3.0]], [[0.0, 0.5]]], dtype=torch.float64)
        target = torch.tensor([[0.1, 0.1 * math.sqrt(3)]], dtype=torch.float64)  # at 60 degrees
        similar = (0.5 + 0.0 + 0.5) / 3  # squared cosines of 45, 90 and 45 degrees
        right = (math.cos(math.pi / 3) ** 2 + math.cos(math.pi / 12) ** 2 + math.cos(math.pi / 6) ** 2) / 3
        wanted = torch.tensor([(similar - 2 * right) / (similar + 2 / 2)], dtype=torch.float64)
        torch.testing.assert_close(direction_score(samples, target), wanted, rtol=0, atol=1e-12)
        assert direction_score(torch.zeros(2, 1, 4), torch.zeros(1, 4)).isfinite().all()

    def test_directions_see_correlations_that_other_scores_hardly_see(self):
        """Pairs of channels of the samples are correlated by 0.6, those of the target are independent."""
        generator = torch.Generator().manual_seed(0)
        target, *samples = torch.randn(5, 4000, 64, generator=generator)
        samples = torch.stack(samples)
        first, second = samples.unflatten(-1, (32, 2)).unbind(-1)
        tied = torch.stack((first, 0.6 * first + 0.8 * second), dim=-1).flatten(-2)
        fair, wrong = (
            torch.stack((energy_loss(x, target).mean(), -direction_score(x, target).mean())) for x in (samples, tied)
        )
        excess = (wrong / fair - 1).abs()
        assert excess[0] < 0.003 < 0.1 < excess[1]

    def test_the_score_of_directions_has_its_minimum_at_the_right_covariance(self):
        """Along a path of covariances, its gradient is zero at that of the target, and leads there from both sides."""
        generator = torch.Generator().manual_seed(0)
        target, *noise = torch.randn(5, 50_000, 16, generator=generator, dtype=torch.float64)
        noise, size = torch.stack(noise), torch.linspace(-1, 1, 16, dtype=torch.float64)
        slopes = []
        for place in (-0.2, 0.0, 0.2):
            place = torch.tensor(place, dtype=torch.float64, requires_grad=True)
            direction_score((place * size).exp() * noise, target).mean().backward()
            slopes.append(place.grad.item())
        assert slopes[0] < -0.02 and abs(slopes[1]) < 0.003 and slopes[2] > 0.02

    def test_directions_are_scored_beside_the_whole_in_white_channels(self, context, target):
        plain, head = build("energy", samples=3), build("energy", samples=3, directions=2.0, direction_from=1)
        head.load_state_dict(plain.state_dict(), strict=False)
        head.whitening.copy_(torch.rand(D - 1, D - 1, generator=torch.Generator().manual_seed(1)))
        given = plain.loss(target, context, torch.Generator().manual_seed(0))
        samples = head(torch.randn(3, N, D, generator=torch.Generator().manual_seed(0)).double(), context).detach()
        white = [part[..., 1:] @ head.whitening.T for part in (samples, target)]
        loss = head.loss(target, context, torch.Generator().manual_seed(0))
        torch.testing.assert_close(loss, given + 2.0 * direction_score(*white))

    def test_directions_need_channels(self):
        with pytest.raises(ConfigError, match="head.direction_from must be below the token's 6 channels, got 6"):
            build("energy", directions=1.0, direction_from=6)

    def test_direct_noise_reaches_each_channel_alone(self, context):
        plain, direct = build("energy"), build("energy", direct_noise=True)
        direct.load_state_dict(plain.state_dict(), strict=False)
        noise = torch.randn(N, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        torch.testing.assert_close(direct(noise, context) - plain(noise, context), 0.1 * noise)

    def test_mixed_noise_starts_as_direct_noise_and_ties_channels_by_its_matrix(self, context):
        direct, mixed = build("energy", direct_noise=True), build("energy", direct_noise=True, mixed_noise=True)
        mixed.load_state_dict(direct.state_dict(), strict=False)
        noise = torch.randn(N, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        assert torch.equal(mixed(noise, context), direct(noise, context))
        torch.nn.init.normal_(mixed.mix.weight)
        changed = 0.1 * noise @ (mixed.mix.weight.T - torch.eye(D, dtype=torch.float64))
        torch.testing.assert_close(mixed(noise, context) - direct(noise, context), changed)
        with pytest.raises(ConfigError, match="head.mixed_noise needs head.direct_noise"):
            build("energy", mixed_noise=True)

    def test_innovations_are_scored_along_each_direction(self, context, target):
        plain, head = build("energy", samples=3), build("energy", samples=3, innovations=2.0)
        head.load_state_dict(plain.state_dict(), strict=False)
        head.innovation_basis.copy_(torch.rand(D, D, generator=torch.Generator().manual_seed(1)))
        given = plain.loss(target, context, torch.Generator().manual_seed(0))
        samples = head(torch.randn(3, N, D, generator=torch.Generator().manual_seed(0)).double(), context).detach()
        along = [part @ head.innovation_basis.T for part in (samples, target)]
        single = [literal_energy(along[0][..., i : i + 1], along[1][..., i : i + 1]) for i in range(D)]
        loss = head.loss(target, context, torch.Generator().manual_seed(0))
        torch.testing.assert_close(loss, given + 2.0 * torch.stack(single).mean(0))

    def test_direct_context_is_linear_and_starts_at_zero(self, context):
        plain, direct = build("energy"), build("energy", direct_context=True)
        direct.load_state_dict(plain.state_dict(), strict=False)
        noise = torch.randn(N, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        assert torch.equal(direct(noise, context), plain(noise, context))
        torch.nn.init.normal_(direct.linear.weight)
        added = context @ direct.linear.weight.T
        torch.testing.assert_close(direct(noise, context) - plain(noise, context), added)

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
