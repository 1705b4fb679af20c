import math

import numpy as np
import pytest
from scipy.linalg import sqrtm

from dear.evaluation.judge.metrics import (
    MetricError,
    frechet_distance,
    inception_score,
    inception_scores,
    kernel_distance,
    kl_divergence,
    kl_of_logits,
    mean_similarity,
    median_distance,
)


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


def drawn(count, size, seed):
    """Features or logits as they were given to the other packages."""
    values = np.random.default_rng(seed).normal(size=(count, size))
    return (values * (1 + seed) + np.sin(np.arange(size))).astype(np.float32)


# audioldm_eval 0.0.3 on CPU, of drawn(count, size, 1) against drawn(count, size, 2) and logits of seeds 3 and 4.
AUDIOLDM_EVAL = [
    (40, 8, 5, 20.070072748, 4.926506996, 3.145715714, 2.337687757, 0.518084183),
    (24, 50, 9, 355.653903774, 5.078592300, 6.259267330, 1.906813108, 0.101077410),
]


@pytest.mark.parametrize(("count", "size", "classes", "fd", "softmax", "sigmoid", "mean", "deviation"), AUDIOLDM_EVAL)
def test_the_numbers_are_those_of_audioldm_eval(count, size, classes, fd, softmax, sigmoid, mean, deviation):
    generated, reference = drawn(count, classes, 3), drawn(count, classes, 4)
    assert frechet_distance(drawn(count, size, 1), drawn(count, size, 2)) == pytest.approx(fd, rel=1e-6)
    assert kl_of_logits(reference, generated) == pytest.approx(softmax, abs=1e-5)
    assert kl_of_logits(reference, generated, "sigmoid") == pytest.approx(sigmoid, abs=1e-5)
    rows = generated[np.random.RandomState(2020).permutation(count)].astype(float)
    scores = inception_scores(np.exp(rows) / np.exp(rows).sum(axis=1, keepdims=True), 10)
    assert (scores.mean(), scores.std()) == pytest.approx((mean, deviation), abs=1e-6)


def test_the_numbers_are_those_of_other_packages():
    # frechet-audio-distance 0.3.4 and fadtk 1.1.0; then kadtk 1.1.0 in float64, which takes the second set's median.
    assert frechet_distance(drawn(500, 128, 1), drawn(520, 128, 2)) == pytest.approx(230.18992562, rel=1e-6)
    assert kernel_distance(drawn(50, 8, 2), drawn(40, 8, 1)) == pytest.approx(2.5604845, rel=1e-6)


def test_kl_of_logits_in_closed_form():
    reference, generated = np.log([[0.5, 0.5], [0.75, 0.25]]), np.log([[0.25, 0.75], [0.75, 0.25]])
    wanted = 0.5 * (0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    assert kl_of_logits(reference, generated, epsilon=0) == pytest.approx(wanted, rel=1e-12)
    assert kl_of_logits(reference + 7, generated - 3, epsilon=0) == pytest.approx(wanted, rel=1e-12)
    sure, unsure = [[200.0, -200.0]], [[0.0, 0.0]]
    assert kl_of_logits(sure, [[-200.0, 200.0]]) == pytest.approx(math.log(1e6))
    assert kl_of_logits(sure, unsure, "sigmoid", epsilon=0) == pytest.approx(math.log(2))
    assert kl_of_logits(unsure, sure, "sigmoid") == pytest.approx(-0.5 * math.log(4 * (1 + 1e-6) * 1e-6))
    assert kl_of_logits(unsure, [[200.0, 200.0]], "sigmoid") < 0


def test_inception_scores_of_parts():
    p = np.eye(6)[[0, 1, 2, 3, 3, 3, 3]]
    np.testing.assert_allclose(inception_scores(p, 2), [3, 1])
    assert inception_scores(p, 1).tolist() == [inception_score(p)]
    assert inception_scores(p, 7).tolist() == pytest.approx([1] * 7)


def test_kernel_distance_of_two_pairs_is_the_formula():
    x, y = np.array([[0.0], [1.0]]), np.array([[0.0], [3.0]])
    kernel = lambda distance: math.exp(-(distance**2) / 2)  # noqa: E731
    between = (kernel(0) + kernel(3) + kernel(1) + kernel(2)) / 4
    assert median_distance(x) == 1
    assert kernel_distance(x, y) == pytest.approx(100 * (kernel(1) + kernel(3) - 2 * between))
    assert kernel_distance(x, y, bandwidth=2) == pytest.approx(kernel_distance(x / 2, y / 2, bandwidth=1))


def test_kernel_distance_does_not_depend_on_the_number_of_clips():
    generator = np.random.default_rng(0)
    few, many = (
        np.mean([kernel_distance(*generator.normal(size=(2, count, 4)), bandwidth=2) for _ in range(200)])
        for count in (5, 40)
    )
    assert abs(few) < 1.5 and abs(many) < 0.3  # 3 standard errors; the spread alone shrinks
    assert np.mean([frechet_distance(*generator.normal(size=(2, 5, 4))) for _ in range(50)]) > 1


def test_mean_similarity():
    assert mean_similarity([[1.0, 0.0], [0.0, 2.0]], [[3.0, 0.0], [1.0, 1.0]]) == pytest.approx((1 + 0.5**0.5) / 2)


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
        (lambda: inception_scores(np.eye(3), 4), "splits must be 1 to 3, the number of rows of p, got 4"),
        (lambda: kl_of_logits([[1.0]], [[1.0, 2.0]]), "generated must have the shape of reference"),
        (lambda: kl_of_logits([[1.0]], [[1.0]], "tanh"), "form must be one of softmax, sigmoid, got 'tanh'"),
        (lambda: kernel_distance(np.eye(3), np.eye(4)), "generated must have as many columns as reference, 3, got 4"),
        (lambda: kernel_distance(np.zeros((3, 2)), np.eye(2)), "bandwidth must be above 0, got 0.0"),
        (lambda: mean_similarity([[1.0]], [[0.0]]), "must have no row of zeros"),
    ],
)
def test_bad_arrays_are_named(call, words):
    with pytest.raises(MetricError, match=words):
        call()
