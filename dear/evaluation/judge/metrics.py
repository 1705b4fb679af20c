"""Distances between sets of sounds, as pure functions of arrays. All arithmetic is float64."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import rel_entr

SMALLEST = 1e-6  # probabilities below this count as this in a KL divergence, as audioldm_eval adds 1e-6
TOLERANCE = 1e-4  # how far from 1 a row of float32 probabilities may sum


class MetricError(ValueError):
    """An array that a metric can't be computed from."""


def frechet_distance(a: ArrayLike, b: ArrayLike) -> float:
    """Fréchet distance between Gaussians fitted to two sets of features (Heusel et al. 2017, equation 6).

    ``|mean_a - mean_b|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2)`` with the unbiased covariances A and B.

    a [N,D], b [N',D], N and N' at least 2 and possibly below D. Returns a number >= 0, symmetric in a and b,
    zero up to rounding for equal sets. Raises :class:`MetricError` naming the argument.

    With A = X'X and B = Y'Y, the eigenvalues of A^1/2 B A^1/2 are the squared singular values of XY', so the trace of
    the root is the sum of the latter. No square root of a nearly singular matrix is taken: forming one would turn
    rounding of 1e-16 into errors of 1e-8, or into a complex number, wherever there are fewer clips than dimensions.
    """
    a, b = _features("a", a), _features("b", b)
    if a.shape[1] != b.shape[1]:
        raise MetricError(f"b must have as many columns as a, {a.shape[1]}, got {b.shape[1]}")
    difference = a.mean(axis=0) - b.mean(axis=0)
    x, y = _root(a), _root(b)
    traces = np.square(x).sum() + np.square(y).sum()
    overlap = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    return max(0.0, float(difference @ difference + traces - 2 * overlap))


def kl_divergence(p: ArrayLike, q: ArrayLike) -> float:
    """Mean over paired items of KL(p_i || q_i) in nats.

    p [N,K], q [N,K]: rows of class probabilities. Row i of p belongs to the same text as row i of q. audioldm_eval puts
    the reference first and the generated sound second, KL(reference || generated), in that the reference decides which
    classes matter: pass ``p=reference, q=generated``. Probabilities below 1e-6 count as 1e-6, so the answer is finite
    (at most 13.8). Raises :class:`MetricError` naming the argument.
    """
    p, q = _probabilities("p", p), _probabilities("q", q)
    if p.shape != q.shape:
        raise MetricError(f"q must have the shape of p, {list(p.shape)}, got {list(q.shape)}")
    ratio = np.log(np.maximum(p, SMALLEST)) - np.log(np.maximum(q, SMALLEST))
    return float(np.maximum((p * ratio).sum(axis=1), 0).mean())


def inception_score(p: ArrayLike) -> float:
    """exp of the mean over items of KL(p_i || mean of p): the effective number of classes, from 1 to K.

    p [N,K]: rows of class probabilities. One split over all N (Salimans et al. 2016 average ten of them, which for a
    few hundred clips measures the size of the splits). Raises :class:`MetricError` naming the argument.
    """
    p = _probabilities("p", p)
    return float(np.exp(rel_entr(p, p.mean(axis=0)).sum(axis=1).mean()))


def _root(features: np.ndarray) -> np.ndarray:
    """X with X'X = the unbiased covariance of features [N,D], of at most D rows."""
    centred = (features - features.mean(axis=0)) / np.sqrt(len(features) - 1)
    return np.asarray(np.linalg.qr(centred, mode="r")) if centred.shape[0] > centred.shape[1] else centred


def _matrix(name: str, values: ArrayLike, rows: int) -> np.ndarray:
    try:
        array = np.asarray(values)
    except ValueError:  # rows of unlike lengths
        raise MetricError(f"{name} must be an array of real numbers, got rows of unlike lengths") from None
    if not (np.issubdtype(array.dtype, np.floating) or np.issubdtype(array.dtype, np.integer)):
        raise MetricError(f"{name} must be an array of real numbers, got {array.dtype}")
    array = array.astype(np.float64)
    if array.ndim != 2 or array.shape[0] < rows or array.shape[1] < 1:
        raise MetricError(f"{name} must have two dimensions and at least {rows} rows, got shape {list(array.shape)}")
    if not np.isfinite(array).all():
        raise MetricError(f"{name} must be finite, got {int((~np.isfinite(array)).sum())} values that are not")
    return array


def _features(name: str, values: ArrayLike) -> np.ndarray:
    return _matrix(name, values, rows=2)


def _probabilities(name: str, values: ArrayLike) -> np.ndarray:
    array = _matrix(name, values, rows=1)
    if array.min() < 0:
        raise MetricError(f"{name} must hold probabilities of at least 0, got {array.min():g}")
    sums = array.sum(axis=1)
    worst = sums[np.abs(sums - 1).argmax()]
    if abs(worst - 1) > TOLERANCE:
        raise MetricError(f"{name} must have rows that sum to 1, got a row that sums to {worst:g}")
    return array
