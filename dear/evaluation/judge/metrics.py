"""Distances between sets of sounds, as pure functions of arrays. All arithmetic is float64.

The paper's figures are those of audioldm_eval. :func:`frechet_distance`, :func:`kl_of_logits` and
:func:`inception_scores` give its numbers from the same features and logits to 1e-4; it averages in float32.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial.distance import cdist, pdist
from scipy.special import expit, log_softmax, rel_entr, xlogy

FORMS = ("softmax", "sigmoid")  # of kl_of_logits
EPSILON = 1e-6  # added to the generated sounds' probabilities by audioldm_eval
KAD_SCALE = 100.0  # of kadtk
SMALLEST = 1e-6  # probabilities below this count as this in kl_divergence
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

    p [N,K], q [N,K]: rows of class probabilities. Row i of p belongs to the same text as row i of q. The reference
    comes first, KL(reference || generated), so that it decides which classes matter: ``p=reference, q=generated``.
    Probabilities below 1e-6 count as 1e-6, so the answer is finite (at most 13.8).
    Raises :class:`MetricError` naming the argument.
    """
    p, q = _probabilities("p", p), _probabilities("q", q)
    if p.shape != q.shape:
        raise MetricError(f"q must have the shape of p, {list(p.shape)}, got {list(q.shape)}")
    ratio = np.log(np.maximum(p, SMALLEST)) - np.log(np.maximum(q, SMALLEST))
    return float(np.maximum((p * ratio).sum(axis=1), 0).mean())


def inception_score(p: ArrayLike) -> float:
    """exp of the mean over items of KL(p_i || mean of p): the effective number of classes, from 1 to K.

    p [N,K]: rows of class probabilities. One split over all N. Raises :class:`MetricError` naming the argument.
    """
    return float(inception_scores(p, 1)[0])


def inception_scores(p: ArrayLike, splits: int) -> np.ndarray:
    """The inception score of each of ``splits`` consecutive parts of p [N,K], as equal as N allows -> [splits].

    Salimans et al. (2016) report mean and standard deviation of ten; a part's score is at most its number of clips, so
    ten parts of a few hundred clips give less than one. The order of the rows matters: audioldm_eval shuffles them by
    ``numpy.random.RandomState(2020).permutation(N)``. Raises :class:`MetricError` naming the argument.
    """
    p = _probabilities("p", p)
    if not 1 <= splits <= len(p):
        raise MetricError(f"splits must be 1 to {len(p)}, the number of rows of p, got {splits!r}")
    ends = [index * len(p) // splits for index in range(splits + 1)]
    parts = [p[begin:end] for begin, end in itertools.pairwise(ends)]
    return np.exp([rel_entr(part, part.mean(axis=0)).sum(axis=1).mean() for part in parts])


def kl_of_logits(reference: ArrayLike, generated: ArrayLike, form: str = "softmax", epsilon: float = EPSILON) -> float:
    """audioldm_eval's KL(reference || generated) in nats, the mean over N pairs, from logits [N,K] of each.

    form: ``"softmax"`` forms one distribution over K classes from each row; this is the KL of the paper's tables.
        ``"sigmoid"`` sums ``r log(r / g)`` over independent probabilities without the part of ``1 - r``, so it is not a
        divergence and can be negative.
    epsilon: added only to the generated probabilities, before the logarithm. With the default a pair costs at most 13.8
        in the softmax form.
    Raises :class:`MetricError`, which names the argument.
    """
    r, g = _matrix("reference", reference, rows=1), _matrix("generated", generated, rows=1)
    if r.shape != g.shape:
        raise MetricError(f"generated must have the shape of reference, {list(r.shape)}, got {list(g.shape)}")
    if form not in FORMS:
        raise MetricError(f"form must be one of {', '.join(FORMS)}, got {form!r}")
    probabilities = (lambda x: np.exp(log_softmax(x, axis=1))) if form == "softmax" else expit
    p, q = probabilities(r), probabilities(g)
    return float((xlogy(p, p) - xlogy(p, q + epsilon)).sum(axis=1).mean())


def kernel_distance(reference: ArrayLike, generated: ArrayLike, bandwidth: float | None = None) -> float:
    """Kernel audio distance (Chung et al. 2025): 100 times the unbiased squared MMD under a Gaussian kernel.

    reference [N,D], generated [N',D], N and N' at least 2. Unlike the Fréchet distance its expectation does not depend
    on the number of clips; between samples of one distribution it is as often negative as positive.
    bandwidth: of the kernel ``exp(-|x - y|^2 / (2 bandwidth^2))``; None: the median distance between two rows of
    the reference (kadtk 1.1.0 takes the median of the set that is passed second). Raises :class:`MetricError` naming
    the argument, also where the median is 0.
    """
    x, y = _features("reference", reference), _features("generated", generated)
    if x.shape[1] != y.shape[1]:
        raise MetricError(f"generated must have as many columns as reference, {x.shape[1]}, got {y.shape[1]}")
    if bandwidth is None:
        bandwidth = median_distance(x)
    if not bandwidth > 0:
        raise MetricError(f"bandwidth must be above 0, got {bandwidth!r}")
    gamma = 1 / (2 * bandwidth**2)
    within = [np.exp(-gamma * pdist(each, "sqeuclidean")).mean() for each in (x, y)]
    between = np.exp(-gamma * cdist(x, y, "sqeuclidean")).mean()
    return KAD_SCALE * float(sum(within) - 2 * between)


def median_distance(x: ArrayLike) -> float:
    """The median distance between two rows of x [N,D]; of an even number of distances the lower middle one."""
    distances = np.sort(pdist(_features("x", x)))
    return float(distances[(len(distances) - 1) // 2])


def mean_similarity(a: ArrayLike, b: ArrayLike) -> float:
    """The mean over N of the cosine between row i of a [N,D] and row i of b [N,D]; the CLAP score of text and sound.

    Raises :class:`MetricError` naming the argument.
    """
    a, b = _matrix("a", a, rows=1), _matrix("b", b, rows=1)
    if a.shape != b.shape:
        raise MetricError(f"b must have the shape of a, {list(a.shape)}, got {list(b.shape)}")
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    if not lengths.min() > 0:
        raise MetricError("a and b must have no row of zeros, which has no direction")
    return float(((a * b).sum(axis=1) / lengths).mean())


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
