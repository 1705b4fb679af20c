"""The heads on a toy, the two distances that judge them, and the pictures that explain them."""

import itertools
import math
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import torch

from dear.evaluation import toy as command
from dear.heads import HEADS
from dear.toy import POINTS, SCALES, TOYS, ToyTraining, mmd, reference, spread_scores, wasserstein
from dear.visual import sketches


@pytest.fixture
def cloud():
    return torch.randn(60, 2, generator=torch.Generator().manual_seed(0))


def test_equal_sets_are_no_distance_apart_in_any_order(cloud):
    mixed = cloud[torch.randperm(60, generator=torch.Generator().manual_seed(1))]
    for distance in (mmd, wasserstein):
        assert distance(cloud, cloud) == pytest.approx(0, abs=1e-7)
        assert distance(cloud, mixed) == pytest.approx(0, abs=1e-7)
        assert distance(mixed + 1, cloud) == pytest.approx(distance(cloud + 1, cloud), abs=1e-9)
        assert distance(cloud, cloud + 1) == pytest.approx(distance(cloud + 1, cloud), abs=1e-9)


@pytest.mark.parametrize("shift", [(0.3, 0.4), (-3.0, 4.0)])
def test_the_distances_of_shifted_points_are_known(cloud, shift):
    shift = torch.tensor(shift)
    length = float(shift.norm())
    # No pairing of a set with its shifted copy is shorter than the shift itself.
    assert wasserstein(cloud, cloud + shift) == pytest.approx(length, rel=1e-6)
    masses = torch.ones(7, 2), torch.ones(5, 2) + shift
    kernel = sum(math.exp(-(length**2) / (2 * scale**2)) for scale in SCALES) / len(SCALES)
    assert mmd(*masses) == pytest.approx(math.sqrt(2 - 2 * kernel), rel=1e-6)


def test_the_pairing_is_the_shortest_one():
    a, b = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[2.1], [1.1], [0.1]])
    assert wasserstein(a, b) == pytest.approx(0.1, rel=1e-5)
    a, b = torch.randn(2, 40, 1, generator=torch.Generator().manual_seed(3))
    assert wasserstein(a, b) == pytest.approx(float((a.sort(dim=0)[0] - b.sort(dim=0)[0]).abs().mean()), rel=1e-5)


@pytest.mark.parametrize(
    ("distance", "a", "b", "message"),
    [
        (mmd, (4, 2), (4, 3), r"a and b must be points \[N, D\] and \[M, D\], got \[4, 2\] and \[4, 3\]"),
        (wasserstein, (0, 2), (0, 2), "a and b must be points"),
        (wasserstein, (4, 2), (5, 2), "a and b must hold as many points, got 4 and 5"),
    ],
)
def test_sets_that_cannot_be_compared_are_refused(distance, a, b, message):
    with pytest.raises(ValueError, match=message):
        distance(torch.zeros(a), torch.zeros(b))
    with pytest.raises(ValueError, match="a and b must be finite"):
        distance(torch.full((2, 2), torch.nan), torch.zeros(2, 2))


@pytest.mark.parametrize("toy", TOYS)
def test_a_toy_is_as_wide_as_the_noise_and_differs_from_it(toy):
    points = TOYS[toy](20_000, torch.Generator().manual_seed(0))
    assert points.std(dim=0).mean() == pytest.approx(1, abs=0.1)
    noise = torch.randn(POINTS, 2, generator=torch.Generator().manual_seed(0))
    floor = wasserstein(reference(toy), reference(toy, draw=1))
    assert wasserstein(reference(toy), noise) > 2 * floor
    assert torch.equal(reference(toy), reference(toy))


@pytest.mark.parametrize("kind", HEADS)
def test_every_head_comes_near_the_target(kind):
    training = ToyTraining(kind, "swiss-roll", seed=0, iterations=100)
    before = training.draw(32)
    training.train(60)
    training.train(1000)  # no more than are left
    assert training.iteration == 100
    after = training.draw(32)
    assert mmd(training.reference, after) < 0.75 * mmd(training.reference, before)
    assert wasserstein(training.reference, after) < 0.6 * wasserstein(training.reference, before)


@pytest.mark.parametrize("kind", HEADS)
def test_a_seed_gives_the_same_points_however_the_training_is_divided(kind):
    one, other, third = (ToyTraining(kind, "gaussians", seed, iterations=6) for seed in (5, 5, 6))
    torch.manual_seed(1)  # has no effect
    one.train(6)
    other.train(2)
    other.draw(3)
    torch.rand(3)
    other.train(4)
    assert torch.equal(one.draw(2), one.draw(2))
    assert torch.equal(one.draw(2), other.draw(2))
    assert not torch.equal(one.draw(2), third.draw(2))
    assert one.steps_taken(2) == (1 if kind == "energy" else 2)
    assert torch.equal(one.draw(1), one.draw(2)) == (kind == "energy")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "gaussian"}, "kind must be one of energy, .*, got 'gaussian'"),
        ({"toy": "moons"}, "toy must be one of swiss-roll, gaussians, got 'moons'"),
        ({"seed": -1}, "seed must be a whole number from 0 to .*, got -1"),
        ({"iterations": 0}, "iterations must be a whole number from 1 to 1000000, got 0"),
    ],
)
def test_bad_input_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        ToyTraining(**({"kind": "energy", "toy": "swiss-roll", "seed": 0} | change))
    with pytest.raises(ValueError, match="steps must be a whole number from 1 to 100, got 101"):
        ToyTraining("flow", "swiss-roll", 0, 1).draw(101)


def test_the_command_prints_a_table_and_draws_it(tmp_path, capsys):
    out = tmp_path / "roll.png"
    assert command.main(["--out", str(out), "--iterations", "1", "--steps", "1", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[:2] for line in lines[3:]] == [
        [f"| {name}", count]
        for name in (*HEADS, "meanflow-published")
        for count in (["1"] if name == "energy" else ["1", "3"])
    ]
    assert out.read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.iterdir()) == [out]
    for bad, message in (
        (["--out", "roll.txt"], ".png or .svg"),
        (["--toy", "moons"], "toy must be"),
        (["--seed", "x"], "x"),
        (["--seeds", "0"], "--seeds must be a whole number from 1 to 100, got 0"),
        (["--seconds", "-1"], "--seconds must be above 0"),
        (["--seconds", "1", "--iterations", "1"], "not allowed with"),
    ):
        assert command.main(bad) == 2
        assert message in capsys.readouterr().err


def test_several_seeds_are_a_mean_and_a_deviation():
    rows = command.measure_toy("gaussians", [1], [3, 4, 5], iterations=2)
    first = [row for row in rows if row.head == "flow"]
    assert [row.seed for row in first] == [3, 4, 5] and len({row.mmd for row in first}) == 3
    again = ToyTraining("flow", "gaussians", 4, 2)
    again.train(2)
    assert torch.equal(first[1].points, again.draw(1))
    mean, deviation = np.mean([row.wsd for row in first]), np.std([row.wsd for row in first], ddof=1)
    assert f"| flow | 1 | {np.mean([row.mmd for row in first]):.3f} ± " in command.table("gaussians", rows)
    assert f"| {mean:.3f} ± {deviation:.3f} | 2 |" in command.table("gaussians", rows)


def test_a_time_buys_iterations_in_proportion(monkeypatch):
    """The clock advances by a second whenever it is read."""
    clock = itertools.count()
    monkeypatch.setattr(command.time, "process_time", lambda: next(clock))
    assert command.fitting("flow", "gaussians", 2.0) == 2 * command.CALIBRATION
    assert command.fitting("flow", "gaussians", 1e-9) == 1


def test_published_settings_are_those_of_the_configuration():
    published = ToyTraining("meanflow", "gaussians", 0, 1, {"levels": 1}).head.config
    assert (published.adaptive_power, published.flow_share, published.times) == (1.0, 0.75, "logit-normal")


def test_a_scatter_holds_every_point_within_reach():
    svg = sketches.scatter_svg([([(0, 0), (2, -1), (3, 0)], "#abcdef")], 2, "a <b> & c")
    root = ElementTree.fromstring(svg)
    assert root.get("aria-label") == "a <b> & c"
    assert root[0].get("d") == "M500 500h0M1000 750h0"  # the y axis points up
    ElementTree.fromstring(sketches.scatter_svg([([], "#abcdef")], 2, "none"))


def test_the_film_tells_hidden_known_and_new_tokens_apart():
    root = ElementTree.fromstring(sketches.tokens_svg([-1, 0, 1, 2, 2, -1], 2, (3, 2), "film"))
    places = [[tuple(map(int, place)) for place in re.findall(r"M(\d+) (\d+)", path.get("d"))] for path in root]
    hidden, known, new = ({(time, 2 - up) for time, up in each} for each in places)
    assert hidden == {(0, 0), (2, 1)}
    assert known == {(0, 1), (1, 0)}
    assert new == {(1, 1), (2, 0)}


def test_repulsion_is_what_keeps_samples_apart():
    spreads = [i / 20 for i in range(41)]
    attraction, score = spread_scores(spreads, torch.Generator().manual_seed(0))
    assert spreads[int(np.argmin(attraction))] == 0
    assert spreads[int(np.argmin(score))] == pytest.approx(1, abs=0.11)
    # Normal distributions in one dimension: E|X - Y| = sqrt(2 (1 + s^2) / pi), E|X - X'| = 2 s / sqrt(pi).
    for s, pull, whole in zip(spreads, attraction, score, strict=True):
        expected = 2 * math.sqrt(2 * (1 + s * s) / math.pi)
        assert pull == pytest.approx(expected, rel=0.03)
        assert whole == pytest.approx(expected - 2 * s / math.sqrt(math.pi), abs=0.05)


def test_the_arrows_are_the_gradients_of_the_loss():
    from dear.heads.energy import energy_loss

    target, samples = torch.tensor([0.1, 0.55]), torch.tensor([[-0.95, -0.5], [0.85, -0.62]], requires_grad=True)
    (gradient,) = torch.autograd.grad(energy_loss(samples[:, None], target[None]).sum(), samples)
    axes = sketches.score_figure(target, samples.detach()).axes[0]
    arrows = [np.subtract(each.xy, each.xyann) for each in axes.texts if hasattr(each, "arrow_patch")]
    assert len(arrows) == 4
    for pull, push, down in zip(arrows[::2], arrows[1::2], -gradient, strict=True):
        np.testing.assert_allclose((pull + push) / np.linalg.norm(pull), down, atol=1e-5)
