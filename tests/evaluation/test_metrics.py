import math

import numpy as np
import pytest
from scipy.linalg import sqrtm

from dear.evaluation.judge.metrics import MetricError, frechet_distance, inception_score, kl_divergence


def gaussian_sample(mean, covariance, count, seed=0):
    """Points whose sample mean and unbiased covariance are exactly those given, up to rounding."""
    points = np.random.default_rng(seed).normal(size=(count, len(mean)))
    points -= points.mean(axis=0)
    root = np.linalg.cholesky(points.T @ points / (count - 1))
    return points @ np.linalg.inv(root).T @ np.linalg.cholesky(covariance).T + mean


def covariance_matrix(size, seed):
    factor = np.random.default_rng(seed).normal(size=(size, size))
    return factor @ factor.T + np.eye(size)


def test_frechet_of_diagonal_gaussians_is_the_closed_form():
    mean_a, mean_b = np.array([0.0, 1.0, -2.0]), np.array([3.0, 1.0, 2.0])
    sigma_a, sigma_b = np.array([1.0, 2.0, 0.5]), np.array([2.0, 2.0, 3.0])
    a = gaussian_sample(mean_a, np.diag(sigma_a**2), 50, seed=1)
    b = gaussian_sample(mean_b, np.diag(sigma_b**2), 80, seed=2)
    wanted = ((mean_a - mean_b) ** 2).sum() + ((sigma_a - sigma_b) ** 2).sum()
    assert frechet_distance(a, b) == pytest.approx(wanted, rel=1e-10)


def test_frechet_of_correlated_gaussians_is_the_formula_with_a_matrix_root():
    mean_a, mean_b = np.arange(6.0), np.ones(6)
    cov_a, cov_b = covariance_matrix(6, 1), covariance_matrix(6, 2)
    wanted = ((mean_a - mean_b) ** 2).sum() + np.trace(cov_a + cov_b - 2 * np.real(sqrtm(cov_a @ cov_b)))
    found = frechet_distance(gaussian_sample(mean_a, cov_a, 40), gaussian_sample(mean_b, cov_b, 33))
    assert found == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize(("count", "size"), [(5, 64), (200, 16), (2, 3), (64, 64)])
def test_frechet_is_zero_on_itself_symmetric_and_never_negative(count, size):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(count, size)), rng.normal(size=(count + 3, size)) * 2 + 1
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-12)
    assert frechet_distance(a, b) > 0


def test_frechet_of_fewer_clips_than_dimensions_is_that_of_the_subspace():
    # Three-dimensional Gaussians embedded in forty dimensions by an isometry keep their distance.
    a, b = gaussian_sample(np.zeros(3), np.eye(3), 12), gaussian_sample(np.full(3, 2.0), 4 * np.eye(3), 12, seed=5)
    basis = np.linalg.qr(np.random.default_rng(3).normal(size=(40, 3)))[0]
    assert frechet_distance(a @ basis.T, b @ basis.T) == pytest.approx(12 + 3, rel=1e-9)


def test_frechet_of_constant_features_is_the_distance_of_the_means():
    assert frechet_distance(np.zeros((4, 2)), np.tile([3.0, 4.0], (5, 1))) == pytest.approx(25)


def test_frechet_takes_float32_and_does_the_sums_in_float64():
    a = (np.random.default_rng(0).normal(size=(500, 4)) * 1e-3 + 1e3).astype(np.float32)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-12)


def test_kl_of_known_categoricals_and_its_direction():
    p, q = np.array([[0.5, 0.5], [1.0, 0.0]]), np.array([[0.25, 0.75], [0.5, 0.5]])
    first = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    assert kl_divergence(p, q) == pytest.approx((first + math.log(2)) / 2, rel=1e-12)
    reverse = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    assert kl_divergence(q[:1], p[:1]) == pytest.approx(reverse, rel=1e-12)
    assert kl_divergence(p, p) == 0


def test_kl_is_finite_where_the_second_says_impossible():
    assert kl_divergence([[1.0, 0.0]], [[0.0, 1.0]]) == pytest.approx(math.log(1e6))


def test_kl_pairs_rows():
    p = np.eye(3)
    assert kl_divergence(p, p) == 0
    assert kl_divergence(p, p[[1, 2, 0]]) > 10


def test_inception_score_of_uniform_and_one_hot_rows():
    assert inception_score(np.full((7, 10), 0.1)) == pytest.approx(1)
    assert inception_score(np.eye(10)) == pytest.approx(10)
    assert inception_score(np.eye(10)[[3, 3, 3]]) == pytest.approx(1)
    assert inception_score(np.eye(4)[[0, 0, 0, 1]]) == pytest.approx(
        math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    )


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: frechet_distance(np.zeros((1, 3)), np.zeros((4, 3))),
            "a must have two dimensions and at least 2 rows",
        ),
        (lambda: frechet_distance(np.zeros((4, 3)), np.zeros((4, 2))), "b must have as many columns"),
        (lambda: frechet_distance(np.zeros((4, 3)), np.full((4, 3), np.nan)), "b must be finite, got 12"),
        (lambda: frechet_distance(np.zeros(4), np.zeros((4, 1))), "a must have two dimensions"),
        (lambda: frechet_distance([["x", "y"]] * 3, np.zeros((4, 2))), "a must be an array of real numbers"),
        (lambda: frechet_distance(np.zeros((4, 2)), np.full((4, 2), 1j)), "b must be an array of real numbers"),
        (
            lambda: kl_divergence([[0.5, 0.5]], [[0.5, 0.6]]),
            "q must have rows that sum to 1, got a row that sums to 1.1",
        ),
        (lambda: kl_divergence([[0.5, 0.5]], [[1 / 3] * 3]), "q must have the shape of p"),
        (lambda: kl_divergence([[1.5, -0.5]], [[0.5, 0.5]]), "p must hold probabilities of at least 0"),
        (lambda: inception_score(np.zeros((0, 3))), "p must have two dimensions and at least 1 rows"),
        (lambda: inception_score([[np.inf, 0.0]]), "p must be finite"),
    ],
)
def test_bad_arrays_are_named(call, words):
    with pytest.raises(MetricError, match=words):
        call()
