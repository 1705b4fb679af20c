"""The heads that follow velocities, against flows in closed form."""

from itertools import pairwise

import pytest
import torch

from dear.heads import HEADS
from dear.heads.flow import FlowConfig
from dear.heads.meanflow import meanflow_target
from dear.heads.shortcut import shortcut_target
from dear.heads.velocity import draw_times

D, C, N = 3, 4, 40


@pytest.fixture
def path():
    """z [N, D] and times r <= t [N], some of them equal, in float64."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(N, D, generator=generator, dtype=torch.float64)
    r, t = torch.rand(2, N, generator=generator, dtype=torch.float64).sort(dim=0).values
    return z, torch.where(torch.arange(N) % 4 == 0, t, r), t


class Linear:
    """dz/dt = A z with A of known eigenvectors, so that its flow is ``exp((r - t) A)``."""

    def __init__(self):
        generator = torch.Generator().manual_seed(1)
        self.vectors = torch.eye(D, dtype=torch.float64) + 0.3 * torch.randn(
            D, D, generator=generator, dtype=torch.float64
        )
        self.values = torch.tensor([-1.5, 0.5, 2.0], dtype=torch.float64)
        self.inverse = torch.linalg.inv(self.vectors)

    def velocity(self, z, t):
        return z @ (self.vectors @ torch.diag(self.values) @ self.inverse).T

    def average(self, z, r, t):
        """(z_t - z_r) / (t - r), which is the velocity where r = t."""
        span = (t - r)[:, None]
        change = torch.where(
            span == 0, self.values, -torch.expm1(-span * self.values) / torch.where(span == 0, 1, span)
        )
        return (z @ self.inverse.T * change) @ self.vectors.T


class Gaussian:
    """The path from noise to data N(0, s^2): z_t keeps its quantile, so it scales as its deviation does."""

    s = 0.4

    def deviation(self, t):
        return ((1 - t) ** 2 * self.s**2 + t**2).sqrt()[:, None]

    def velocity(self, z, t):
        return (t - (1 - t) * self.s**2)[:, None] / self.deviation(t) ** 2 * z

    def average(self, z, r, t):
        span = (t - r)[:, None]
        return torch.where(
            span == 0,
            self.velocity(z, t),
            (1 - self.deviation(r) / self.deviation(t)) * z / torch.where(span == 0, 1, span),
        )


FLOWS = pytest.mark.parametrize("flow", [Linear(), Gaussian()], ids=["linear", "gaussian"])


@FLOWS
def test_exact_average_velocities_are_a_fixed_point_of_the_meanflow_identity(flow, path):
    z, r, t = path
    wanted = flow.average(z, r, t)
    # The closed form divides by t - r: where they are equal, the factor t - r removes the term with its derivative.
    target = meanflow_target(flow.average, z, r, t, flow.velocity(z, t))
    apart = t > r
    torch.testing.assert_close(target[apart], wanted[apart], rtol=0, atol=1e-9)
    torch.testing.assert_close(flow.average(z, t, t), flow.velocity(z, t), rtol=0, atol=1e-12)
    off = meanflow_target(lambda z, r, t: 1.1 * flow.average(z, r, t), z, r, t, flow.velocity(z, t))
    assert (off - 1.1 * wanted)[apart].abs().max() > 1e-2


def test_the_meanflow_target_of_an_instant_is_the_velocity_and_carries_no_gradient(path):
    z, _, t = path
    head = build("meanflow")
    u = lambda z, r, t: head(z, r, t, torch.zeros(N, C, dtype=torch.float64))  # noqa: E731
    target = meanflow_target(u, z, t, t, 2 * z)
    torch.testing.assert_close(target, 2 * z, rtol=0, atol=1e-12)
    assert not target.requires_grad


def test_the_derivative_of_the_meanflow_head_is_that_of_finite_differences(path):
    z, r, t = path
    head, context = build("meanflow"), torch.ones(N, C, dtype=torch.float64)
    velocity, step = torch.cos(z), 1e-5
    target = meanflow_target(lambda z, r, t: head(z, r, t, context), z, r, t, velocity)
    with torch.no_grad():
        ahead, behind = (head(z + sign * step * velocity, r, t + sign * step, context) for sign in (1, -1))
    rate = (ahead - behind) / (2 * step)
    torch.testing.assert_close(target, velocity - (t - r)[:, None] * rate, rtol=0, atol=1e-6)


@FLOWS
def test_two_exact_half_steps_are_the_exact_whole_step(flow, path):
    z, r, t = path
    target = shortcut_target(flow.average, z, r, t)
    torch.testing.assert_close(target, flow.average(z, r, t), rtol=0, atol=1e-9)
    middle = (r + t) / 2
    halfway = z - (t - middle)[:, None] * flow.average(z, middle, t)
    end = halfway - (middle - r)[:, None] * flow.average(halfway, r, middle)
    torch.testing.assert_close(z - (t - r)[:, None] * target, end, rtol=0, atol=1e-12)
    instant = shortcut_target(lambda z, r, t: flow.velocity(z, t), z, r, t)
    assert (instant - flow.average(z, r, t)).abs().max() > 1e-3


def build(kind, **options):
    torch.manual_seed(0)
    return HEADS[kind](HEADS[kind].Config(width=16, depth=1, **options), D, C).double().eval()


def follow(head, velocity):
    """Make the head predict ``velocity(z, r, t)``."""
    head.embed = lambda r, t: torch.stack((r, t), dim=1)
    head.move = lambda z, times, context: velocity(z, *times.unbind(1))


@pytest.mark.parametrize("kind", ["flow", "meanflow", "shortcut"])
@pytest.mark.parametrize("steps", [1, 4, 7])
def test_where_all_data_is_one_point_any_number_of_steps_arrives_at_it(kind, steps):
    head, point = build(kind), torch.linspace(-2, 2, D, dtype=torch.float64)
    follow(head, lambda z, r, t: (z - point) / t[:, None])
    noise = torch.randn(N, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    context = torch.zeros(N, C, dtype=torch.float64)
    got = head.sample(context, None, cfg_scale=1.0, steps=steps, temperature=0.5, draw=lambda: noise)
    torch.testing.assert_close(got, point.expand(N, D), rtol=0, atol=1e-5)


@pytest.mark.parametrize("steps", [1, 5])
def test_with_exact_average_velocities_any_number_of_steps_gives_the_gaussian(steps):
    head, flow = build("meanflow"), Gaussian()
    follow(head, lambda z, r, t: flow.average(z, r.double(), t.double()))
    noise = torch.randn(N, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    context = torch.zeros(N, C, dtype=torch.float64)
    got = head.sample(context, None, cfg_scale=1.0, steps=steps, temperature=1.0, draw=lambda: noise)
    torch.testing.assert_close(got, flow.s * noise, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["flow", "meanflow", "shortcut"])
def test_the_loss_is_zero_for_the_velocity_of_one_point_and_its_noise(kind):
    """On a straight path z stays on the line and its velocity is known, so every target agrees."""
    head, generator = build(kind, levels=3), torch.Generator().manual_seed(0)
    point = torch.linspace(-1, 1, D, dtype=torch.float64)
    follow(head, lambda z, r, t: (z - point) / t[:, None])
    loss = head.loss(point.expand(N, D), torch.zeros(N, C, dtype=torch.float64), generator)
    assert loss.shape == (N,)
    assert loss.max() < 1e-9


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8, 11, 64, 100, 128])
def test_shortcut_steps_have_trained_sizes_at_their_multiples(steps):
    times = build("shortcut").schedule(steps)
    assert len(times) == steps + 1
    assert (times[0], times[-1]) == (1, 0)
    sizes = [t - r for t, r in pairwise(times)]
    for t, size in zip(times[:-1], sizes, strict=True):
        assert 1 / size in {2**k for k in range(8)}
        assert (t / size).is_integer()
    assert max(sizes) <= 2 * min(sizes)


def test_the_finest_shortcut_step_stands_for_an_instant():
    head, z, context = build("shortcut"), torch.ones(1, D).double(), torch.ones(1, C).double()
    at = lambda span: head(z, torch.tensor([0.5 - span]), torch.tensor([0.5]), context)  # noqa: E731
    assert torch.equal(at(1 / 128), at(0))
    assert not torch.equal(at(1 / 64), at(0))


@pytest.mark.parametrize("kind", ["meanflow", "shortcut"])
def test_the_share_of_plain_flow_matching(kind):
    """``flow_share`` is the share of rows with r = t, on which plain flow matching trains."""
    for share in (0.0, 0.75, 1.0):
        head, seen = build(kind, levels=1, flow_share=share), []
        forward = head.forward
        head.forward = lambda z, r, t, c, forward=forward, seen=seen: (seen.append((r, t)), forward(z, r, t, c))[1]
        target, context = torch.zeros(4000, D).double(), torch.zeros(4000, C).double()
        with torch.no_grad():
            head.loss(target, context, torch.Generator().manual_seed(0))
        r, t = seen[-1]
        assert (r <= t).all() and r.min() >= 0 and t.max() <= 1
        assert (r == t).double().mean().item() == pytest.approx(share, abs=0.05)


def test_shortcut_targets_are_made_by_the_average_once_there_is_one():
    """All rows are leaps, so the loss of a head is zero exactly where it agrees with its targets."""
    head = build("shortcut", levels=1, flow_share=0.0, targets="averaged")
    plain = build("shortcut", levels=1, flow_share=0.0)
    assert head.wants_average and not plain.wants_average
    target, context = torch.zeros(8, D).double(), torch.zeros(8, C).double()
    loss = lambda head: head.loss(target, context, torch.Generator().manual_seed(0))  # noqa: E731
    assert torch.equal(loss(head), loss(plain))  # before a training attaches an average
    head.average = {name: torch.zeros_like(value) for name, value in head.named_parameters()}
    seen = []
    forward = head.forward
    head.forward = lambda *inputs: (seen.append(forward(*inputs)), seen[-1])[1]
    with torch.no_grad():
        wanted = loss(head)
    assert seen[0].abs().max() == seen[1].abs().max() == 0  # an average of zeros stands still
    torch.testing.assert_close(wanted, seen[2].square().mean(dim=-1))
    head.average = {"net.output.bias": torch.ones(D).double()}  # replaces one parameter only
    assert not torch.equal(loss(head), wanted)


def test_guidance_within_meanflow_s_training_is_its_equation():
    omega, kappa = 2.5, 0.3
    head = build("meanflow", omega=omega, kappa=kappa)
    assert head.wants_null_context and not build("meanflow").wants_null_context
    assert not build("meanflow", omega=0.7, kappa=0.3).wants_null_context
    velocity, z, c, n = (torch.randn(N, k, dtype=torch.float64) for k in (D, D, C, C))
    t = torch.rand(N, dtype=torch.float64)
    got = head.guided(velocity, z, t, c, n)
    wanted = omega * velocity + kappa * head(z, t, t, c) + (1 - omega - kappa) * head(z, t, t, n)
    torch.testing.assert_close(got, wanted)
    assert not got.requires_grad
    with pytest.raises(ValueError, match="null_context must be given"):
        head.loss(velocity, c, torch.Generator())
    loss = lambda null: head.loss(velocity, c, torch.Generator().manual_seed(0), null)  # noqa: E731
    assert not torch.equal(loss(n), loss(-n))


def test_the_adaptive_weight_evens_out_rows(path):
    z, _, _ = path
    scale = torch.logspace(0, 3, N, dtype=torch.float64)[:, None]
    context = torch.zeros(N, C, dtype=torch.float64)
    plain, even = (
        build("meanflow", adaptive_power=power).loss(scale * z, context, torch.Generator().manual_seed(0))
        for power in (0.0, 1.0)
    )
    assert plain.max() > 1000 * plain.min()
    assert even.min() > 0.9 and even.max() <= 1


def test_logit_normal_times_favour_the_middle_and_move_with_their_mean():
    times = draw_times("logit-normal", 20_000, torch.Generator().manual_seed(0), -0.4)
    assert times.logit().mean().item() == pytest.approx(-0.4, abs=0.05)
    assert times.logit().std().item() == pytest.approx(1.0, abs=0.05)
    even = draw_times("uniform", 20_000, torch.Generator().manual_seed(0))
    assert even.std().item() == pytest.approx(12**-0.5, abs=0.02)
    assert even.min() >= 0 and even.max() < 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_no_small_step_is_lost_in_half_precision(dtype):
    """Under a constant velocity of 1/4, noise arrives 1/4 lower in any number of steps."""
    head = HEADS["flow"](FlowConfig(width=8, depth=1), D, C).to(dtype)
    head.move = lambda z, times, context: torch.full_like(z, 0.25)
    noise = torch.randn(N, D, generator=torch.Generator().manual_seed(0)).to(dtype)
    seen = head.sample(
        torch.zeros(N, C, dtype=dtype), None, cfg_scale=1.0, steps=1000, temperature=1.0, draw=lambda: noise
    )
    assert seen.dtype == dtype
    torch.testing.assert_close(seen, (noise.float() - 0.25).to(dtype), rtol=1e-2, atol=1e-5)
