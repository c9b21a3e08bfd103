"""Scores of one set of images against another, from features: Fréchet and kernel distance, inception score, coverage.

Convention
    - Features are rows, (N, D); everything is worked in float64.
    - These functions do not know which net made the features. Whoever prints the number names the net, the resize and
      N; a Fréchet distance on other features than Inception's is not called FID.
"""

from __future__ import annotations

import itertools
import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import linalg, special

from facepipe.metrics._checks import Float64, feature_rows, real_array
from facepipe.metrics.statistics import FeatureStatistics

__all__ = [
    "FewSamplesWarning",
    "Manifold",
    "frechet_distance",
    "frechet_distance_between",
    "frechet_distance_of_features",
    "inception_score",
    "kernel_distance",
    "kernel_distance_subsets",
    "manifold_scores",
]


class FewSamplesWarning(UserWarning):
    """A number was computed from fewer samples than the dimension of the features: it is biased, and large."""


def frechet_distance(mu1: Any, sigma1: Any, mu2: Any, sigma2: Any) -> float:
    """Fréchet distance of two Gaussians, ``|mu1 - mu2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))``.

    Parameters
    ----------
    mu1, mu2 : (D,) array
        Means.
    sigma1, sigma2 : (D, D) array
        Covariances: symmetric and positive semidefinite; they may be singular.

    Returns
    -------
    float
        At least 0, never NaN; 0 for equal Gaussians. In squared units of the features.

    Raises
    ------
    ValueError
        For shapes that do not match, NaN or infinity, a matrix that is no covariance.

    Notes
    -----
    Dowson, Landau 1982, eq. (4), DOI 10.1016/0047-259X(82)90077-X; Heusel et al. 2017 for images. The trace of the
    root is the sum of the singular values of ``L1' L2`` where ``S = L L'``, so no root of a product of matrices, which
    is complex or NaN when they are singular, is ever taken.
    """
    mu1, mu2 = real_array("mu1", mu1, ndim=1), real_array("mu2", mu2, ndim=1)
    sigma1, sigma2 = _covariance("sigma1", sigma1, len(mu1)), _covariance("sigma2", sigma2, len(mu2))
    if mu1.shape != mu2.shape:
        raise ValueError(f"expected means of one dimension, got {mu1.shape} and {mu2.shape}")
    difference = mu1 - mu2
    rest = float(difference @ difference + np.trace(sigma1) + np.trace(sigma2))
    return max(rest - 2 * _trace_of_root(sigma1, sigma2, rest), 0.0)


def frechet_distance_between(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """`frechet_distance` of what two `FeatureStatistics` have seen.

    Warns
    -----
    FewSamplesWarning
        When one has fewer rows than the features have dimensions: its covariance is singular and the distance biased.
    """
    mean1, mean2 = a.mean, b.mean
    _warn_of_few(min(a.count, b.count), min(len(mean1), len(mean2)))
    return frechet_distance(mean1, a.covariance, mean2, b.covariance)


def _warn_of_few(samples: int, dimension: int) -> None:
    if samples < dimension:
        warnings.warn(
            f"Fréchet distance from {samples} samples of {dimension} dimensions: the covariance is singular and the "
            "distance too large; compare it only with numbers of the same sample size",
            FewSamplesWarning,
            stacklevel=3,
        )


def frechet_distance_of_features(x: Any, y: Any) -> float:
    """`frechet_distance` of the Gaussians fitted to two sets of features.

    Parameters
    ----------
    x, y : (N, D) and (M, D) array
        Features; at least 2 rows each.

    Returns
    -------
    float
        What `FeatureStatistics` give, but without the (D, D) covariances where there are fewer rows than that: with
        centred rows X and Y the trace of the root is the sum of the singular values of ``X Y'``, over
        ``sqrt((N - 1) (M - 1))``.

    Raises
    ------
    ValueError
        For different dimensions, fewer than 2 rows, NaN or infinity.

    Warns
    -----
    FewSamplesWarning
        As `frechet_distance_between`.
    """
    x, y = _feature_pair("x", x, "y", y, least=2)
    _warn_of_few(min(len(x), len(y)), x.shape[1])
    if min(len(x), len(y)) > x.shape[1]:
        a, b = FeatureStatistics().update(x), FeatureStatistics().update(y)
        return frechet_distance(a.mean, a.covariance, b.mean, b.covariance)
    difference = x.mean(axis=0) - y.mean(axis=0)
    x = (x - x.mean(axis=0)) / math.sqrt(len(x) - 1)
    y = (y - y.mean(axis=0)) / math.sqrt(len(y) - 1)
    root = float(np.linalg.svd(x @ y.T, compute_uv=False).sum())
    return max(float(difference @ difference + np.vdot(x, x) + np.vdot(y, y)) - 2 * root, 0.0)


def _covariance(name: str, value: Any, dimension: int) -> Float64:
    sigma = real_array(name, value, ndim=2)
    if sigma.shape != (dimension, dimension):
        raise ValueError(f"{name}: expected shape {(dimension, dimension)} to match its mean, got {sigma.shape}")
    # With the transpose on one vector without small entries: all of sigma - sigma.T costs as much as its factor.
    probe = np.where(np.random.default_rng(0).random(dimension) < 0.5, -1.0, 1.0) + 0.5
    asymmetry = np.abs(sigma @ probe - probe @ sigma).max(initial=0)
    if asymmetry > 1e-5 * np.abs(sigma).max(initial=0):
        raise ValueError(f"{name}: expected a symmetric covariance, got one that its transpose contradicts")
    return sigma


def _factor(name: str, sigma: Float64) -> Float64:
    """(D, R) factor L of rank R with ``sigma = L L'``: Cholesky, with pivoting when sigma is singular."""
    factor, info = linalg.lapack.dpotrf(sigma, lower=True, clean=True)
    if info == 0:
        return np.asarray(factor)
    packed, pivots, rank, _ = linalg.lapack.dpstrf(sigma, lower=True)
    factor = np.empty((len(sigma), rank))
    factor[pivots - 1] = np.tril(packed)[:, :rank]
    rest = np.diag(sigma) - np.einsum("ij,ij->i", factor, factor)
    if rest.min(initial=0) < -1e-5 * np.abs(np.diag(sigma)).max(initial=0):
        raise ValueError(f"{name}: expected a positive semidefinite covariance, got one with negative variance")
    return factor


_SMALL = 512  # dimensions up to which the exact way is quick enough


def _trace_of_root(sigma1: Float64, sigma2: Float64, rest: float) -> float:
    """Trace of the root of ``sigma1 sigma2``, to six digits of ``rest`` minus twice the trace or better."""
    if np.array_equal(sigma1, sigma2):
        return float(np.trace(sigma1))
    left = _factor("sigma1", sigma1)
    if left.shape[1] == 0:
        return 0.0
    if left.shape[1] > _SMALL:
        trace, unsure = _trace_by_eigenvalues(left, sigma2)
        if 2 * unsure < 1e-6 * (rest - 2 * trace):
            return trace
    return float(np.linalg.svd(left.T @ _factor("sigma2", sigma2), compute_uv=False).sum())


def _trace_by_eigenvalues(left: Float64, sigma2: Float64) -> tuple[float, float]:
    """Sum of the roots of the eigenvalues of ``left' sigma2 left``, and a bound of its error.

    An eigenvalue is known to some units in the last place of the largest, so near 0 its root keeps half of the digits
    at best. Singular values would keep them all, but take three times as long.
    """
    if left.shape[0] == left.shape[1]:
        product, _ = linalg.lapack.dsygst(sigma2, left, itype=2, lower=1)  # the lower triangle
    else:
        product = left.T @ sigma2 @ left
    eigenvalues = np.linalg.eigvalsh(product, UPLO="L")
    error = 10 * np.finfo(np.float64).eps * max(float(np.abs(eigenvalues).max()), np.finfo(np.float64).tiny)
    unsure = error / np.sqrt(np.maximum(eigenvalues, error))
    return float(np.sqrt(np.maximum(eigenvalues, 0)).sum()), float(unsure.sum())


def kernel_distance(x: Any, y: Any) -> float:
    """Kernel distance (KID): the unbiased squared maximum mean discrepancy under the kernel ``(x.y / D + 1)^3``.

    Parameters
    ----------
    x, y : (N, D) and (M, D) array
        Features; at least 2 rows each.

    Returns
    -------
    float
        Its expectation is 0 for equal distributions, so that it may be negative.

    Raises
    ------
    ValueError
        For different dimensions, fewer than 2 rows, NaN or infinity.

    Notes
    -----
    Bińkowski et al. 2018, "Demystifying MMD GANs", section 4, arXiv:1801.01401; the estimator is Gretton et al. 2012,
    eq. (3).
    """
    x, y = _feature_pair("x", x, "y", y, least=2)
    n, m = len(x), len(y)
    within_x = (_kernel_sum(x, x) - float(_cubic(np.einsum("ij,ij->i", x, x), x.shape[1]).sum())) / (n * (n - 1))
    within_y = (_kernel_sum(y, y) - float(_cubic(np.einsum("ij,ij->i", y, y), y.shape[1]).sum())) / (m * (m - 1))
    return within_x + within_y - 2 * _kernel_sum(x, y) / (n * m)


def kernel_distance_subsets(
    x: Any, y: Any, *, subsets: int = 100, size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Mean and standard deviation of `kernel_distance` over random subsets, as KID is usually published.

    Parameters
    ----------
    x, y : (N, D) and (M, D) array
        Features.
    subsets : int
        Number of pairs of subsets, at least 1.
    size : int
        Rows of each, drawn without replacement: from 2 to min(N, M).
    seed : int
        Of the random draws.

    Returns
    -------
    (float, float)
        Mean, and population standard deviation.
    """
    x, y = _feature_pair("x", x, "y", y, least=2)
    if subsets < 1 or not 2 <= size <= min(len(x), len(y)):
        raise ValueError(f"expected subsets >= 1 and size from 2 to {min(len(x), len(y))}, got {subsets} and {size}")
    random = np.random.default_rng(seed)
    values = [
        kernel_distance(random.choice(x, size, replace=False), random.choice(y, size, replace=False))
        for _ in range(subsets)
    ]
    return float(np.mean(values)), float(np.std(values))


_ROWS = 1024  # of a matrix of pairs at once: memory stays linear in the number of samples


def _cubic(products: Float64, dimension: int) -> Float64:
    return np.asarray((products / dimension + 1) ** 3)


def _kernel_sum(x: Float64, y: Float64) -> float:
    return sum(float(_cubic(x[i : i + _ROWS] @ y.T, x.shape[1]).sum()) for i in range(0, len(x), _ROWS))


def _feature_pair(name_x: str, x: Any, name_y: str, y: Any, *, least: int) -> tuple[Float64, Float64]:
    x, y = feature_rows(name_x, x, least=least), feature_rows(name_y, y, least=least)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"expected features of one dimension, got {x.shape} and {y.shape}")
    return x, y


def inception_score(probs: Any, splits: int = 10) -> tuple[float, float]:
    """Inception score, ``exp(E KL(p(y|x) || p(y)))``: mean and standard deviation over parts of the set.

    Parameters
    ----------
    probs : (N, K) array
        Class probabilities, one row an image: not negative, each row of sum 1. They are not logits.
    splits : int
        Number of consecutive parts, from 1 to N. Shuffle rows that come in an order.

    Returns
    -------
    (float, float)
        Mean, in [1, K], and population standard deviation.

    Raises
    ------
    ValueError
        For rows that are no probabilities, NaN or infinity, more parts than rows.

    Notes
    -----
    Salimans et al. 2016, section 4, arXiv:1606.03498. ``0 log 0 = 0``.
    """
    rows = feature_rows("probs", probs)
    if not 1 <= splits <= len(rows):
        raise ValueError(f"splits: expected from 1 to {len(rows)} (the number of rows), got {splits}")
    sums = rows.sum(axis=1)
    worst = int(np.abs(sums - 1).argmax())
    if rows.min() < 0 or abs(sums[worst] - 1) > 1e-3:
        raise ValueError(
            f"probs: expected rows >= 0 of sum 1 (a softmax), got a minimum of {rows.min():g} and row {worst} of sum "
            f"{sums[worst]:g}"
        )
    edges = [i * len(rows) // splits for i in range(splits + 1)]
    scores = [_inception_score(rows[start:stop]) for start, stop in itertools.pairwise(edges)]
    return float(np.mean(scores)), float(np.std(scores))


def _inception_score(rows: Float64) -> float:
    divergence = special.rel_entr(rows, rows.mean(axis=0)).sum(axis=1)
    return math.exp(divergence.mean())


@dataclass(frozen=True)
class Manifold:
    """How two sets overlap; see `manifold_scores`.

    Attributes
    ----------
    precision : float
        Share of fakes that lie near a real sample, in [0, 1].
    recall : float
        Share of real samples that lie near a fake, in [0, 1].
    density : float
        How many real neighbourhoods hold a fake, over the number expected; about 1 for equal distributions.
    coverage : float
        Share of real samples whose neighbourhood holds a fake, in [0, 1].
    """

    precision: float
    recall: float
    density: float
    coverage: float


def manifold_scores(real: Any, fake: Any, *, neighbours: int = 5) -> Manifold:
    """Precision, recall, density and coverage, by balls that reach to the k-th nearest neighbour.

    Parameters
    ----------
    real, fake : (N, D) and (M, D) array
        Features; more rows than `neighbours`.
    neighbours : int
        k, at least 1. The papers use 3 (precision, recall) and 5 (density, coverage).

    Returns
    -------
    Manifold

    Notes
    -----
    Kynkäänniemi et al. 2019, eq. (2), arXiv:1904.06991; Naeem et al. 2020, eq. (3) and (4), arXiv:2002.09797.
    """
    if neighbours < 1:
        raise ValueError(f"neighbours: expected at least 1, got {neighbours}")
    real, fake = _feature_pair("real", real, "fake", fake, least=neighbours + 1)
    centre = real.mean(axis=0)
    real, fake = real - centre, fake - centre
    real_radii, fake_radii = _radii(real, neighbours), _radii(fake, neighbours)
    in_real, covered, recalled, held = 0, np.zeros(len(real), bool), np.zeros(len(real), bool), 0
    for start in range(0, len(fake), _ROWS):
        part = slice(start, start + _ROWS)
        distances, slack = _squared_distances(fake[part], real)
        inside = distances <= real_radii + slack
        in_real += int(inside.any(axis=1).sum())
        held += int(inside.sum())
        covered |= inside.any(axis=0)
        recalled |= (distances <= fake_radii[part, None] + slack).any(axis=0)
    return Manifold(
        precision=in_real / len(fake),
        recall=float(recalled.mean()),
        density=held / (neighbours * len(fake)),
        coverage=float(covered.mean()),
    )


def _squared_distances(x: Float64, y: Float64) -> tuple[Float64, float]:
    """(N, M) squared distances, and by how much rounding may have moved them."""
    x2, y2 = np.einsum("ij,ij->i", x, x), np.einsum("ij,ij->i", y, y)
    slack = 1e-13 * float(x2.max() + y2.max())
    return np.maximum(x2[:, None] + y2 - 2 * (x @ y.T), 0), slack


def _radii(x: Float64, neighbours: int) -> Float64:
    """(N,) squared distance from each row to its k-th nearest other row."""
    parts = []
    for start in range(0, len(x), _ROWS):
        distances, _ = _squared_distances(x[start : start + _ROWS], x)
        own = np.arange(len(distances))
        distances[own, start + own] = 0  # itself, always the nearest
        parts.append(np.partition(distances, neighbours, axis=1)[:, neighbours])
    return np.concatenate(parts)
