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
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, special

from facepipe.metrics._checks import Float64, feature_rows, real_array

__all__ = [
    "FeatureStatistics",
    "FewSamplesWarning",
    "Interval",
    "Manifold",
    "bootstrap",
    "frechet_distance",
    "frechet_distance_between",
    "frechet_distance_of_features",
    "half_sampling",
    "inception_score",
    "kernel_distance",
    "kernel_distance_subsets",
    "manifold_scores",
]


class FewSamplesWarning(UserWarning):
    """A number was computed from fewer samples than the dimension of the features: it is biased, and large."""


class FeatureStatistics:
    """Mean and covariance of features that arrive in batches; memory O(D^2), whatever their number.

    Rows are gathered into blocks of D before they are added, so the result does not depend on how the rows were split
    into batches, to the last bit. `merge` joins the work of several processes (equal to 1e-10).

    Parameters
    ----------
    dimension : int, optional
        D; taken from the first batch when not given.

    Examples
    --------
    >>> statistics = FeatureStatistics().update([[0.0, 1.0]]).update([[2.0, 3.0], [4.0, 5.0]])
    >>> statistics.count, statistics.mean.tolist(), statistics.covariance.tolist()
    (3, [2.0, 3.0], [[4.0, 4.0], [4.0, 4.0]])

    Notes
    -----
    Chan, Golub, LeVeque 1983, "Algorithms for computing the sample variance", eq. (2.1), for matrices.
    DOI 10.1080/00031305.1983.10483115
    """

    def __init__(self, dimension: int | None = None) -> None:
        self._dimension = dimension
        self._moments: _Moments | None = None
        self._block: Float64 = np.empty((0, 0))  # rows that wait, and room for more
        self._waiting = 0

    def update(self, features: Any) -> Self:
        """Add the rows of a batch, (N, D); N may be 0.

        Raises
        ------
        ValueError
            For another dimension than before, NaN or infinity.
        """
        rows = feature_rows("features", features, least=0)
        self._require_dimension(rows.shape[1])
        while len(rows):
            taken = rows[: len(self._block) - self._waiting]
            self._block[self._waiting : self._waiting + len(taken)] = taken
            self._waiting += len(taken)
            rows = rows[len(taken) :]
            if self._waiting == len(self._block):
                self._moments = _with_rows(self._moments, self._block)
                self._waiting = 0
        return self

    def merge(self, other: FeatureStatistics) -> Self:
        """Add all that `other` has seen; `other` stays as it is.

        Raises
        ------
        ValueError
            For another dimension.
        """
        if other._dimension is not None:
            self._require_dimension(other._dimension)
        self._moments = _merged(self._current(), other._current())
        self._waiting = 0
        return self

    @property
    def count(self) -> int:
        """Number of rows seen."""
        return (self._moments.count if self._moments else 0) + self._waiting

    @property
    def mean(self) -> Float64:
        """(D,) mean; ValueError before the first row."""
        self._require_rows(1)
        waiting = self._block[: self._waiting]
        if self._moments is None:
            return np.asarray(waiting.mean(axis=0))
        mean = self._moments.mean.copy()
        return mean if not self._waiting else mean + (waiting.mean(axis=0) - mean) * (self._waiting / self.count)

    @property
    def covariance(self) -> Float64:
        """(D, D) sample covariance (divided by N - 1); ValueError with fewer than 2 rows."""
        self._require_rows(2)
        moments = self._current()
        assert moments is not None
        lower = np.tril(moments.scatter) / (moments.count - 1)
        return np.asarray(lower + np.tril(lower, -1).T)

    def _require_dimension(self, dimension: int) -> None:
        if self._dimension is None:
            self._dimension = dimension
        if dimension != self._dimension:
            raise ValueError(f"features: expected dimension {self._dimension}, got {dimension}")
        if not self._block.size:
            self._block = np.empty((max(dimension, _LEAST_BLOCK), dimension))

    def _require_rows(self, least: int) -> None:
        if self.count < least:
            raise ValueError(f"expected at least {least} rows of features, got {self.count}; call update first")

    def _current(self) -> _Moments | None:
        """All rows, those that wait for a whole block included; what waits goes on waiting."""
        if not self._waiting:
            return self._moments
        return _with_rows(_copied(self._moments), self._block[: self._waiting].copy())


_LEAST_BLOCK = 256  # rows; at least D, so that work on the (D, D) matrix is rare beside that on the rows


@dataclass(frozen=True)
class _Moments:
    """Number, mean and scatter matrix (sum of outer products about the mean) of some rows.

    Only the lower triangle of the scatter holds; it is in Fortran's order, for BLAS to add to in place.
    """

    count: int
    mean: Float64
    scatter: Float64


def _copied(moments: _Moments | None) -> _Moments | None:
    return moments and _Moments(moments.count, moments.mean, moments.scatter.copy(order="F"))


def _with_rows(moments: _Moments | None, rows: Float64) -> _Moments:
    """With the rows of a block; the old scatter and the rows are used up."""
    mean = rows.mean(axis=0)
    rows -= mean
    if moments is None:
        scatter = np.zeros((len(mean), len(mean)), order="F")
        moments = _Moments(0, mean, scatter)
    scatter = linalg.blas.dsyrk(1.0, rows.T, beta=1.0, c=moments.scatter, lower=1, overwrite_c=1)
    return _joined(moments, len(rows), mean, scatter)


def _joined(a: _Moments, rows: int, mean: Float64, scatter: Float64) -> _Moments:
    """Moments of `a` and of `rows` more, where `scatter` already is the sum of both scatters; used up."""
    count, shift = a.count + rows, mean - a.mean
    scatter = linalg.blas.dsyr(a.count * rows / count, shift, a=scatter, lower=1, overwrite_a=1)
    return _Moments(count, a.mean + shift * (rows / count), scatter)


def _merged(a: _Moments | None, b: _Moments | None) -> _Moments | None:
    """Of both, which stay as they are."""
    if a is None or b is None:
        return _copied(a or b)
    return _joined(a, b.count, b.mean, np.asfortranarray(a.scatter + b.scatter))


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
    means = a.mean, b.mean
    for statistics, mean in zip((a, b), means, strict=True):
        if statistics.count < len(mean):
            warnings.warn(
                f"Fréchet distance from {statistics.count} samples of {len(mean)} dimensions: the covariance is "
                "singular and the distance too large; compare only with numbers of the same sample size",
                FewSamplesWarning,
                stacklevel=2,
            )
    return frechet_distance(means[0], a.covariance, means[1], b.covariance)


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
    """
    x, y = _feature_pair("x", x, "y", y, least=2)
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


@dataclass(frozen=True)
class Interval:
    """A number with its confidence interval.

    Attributes
    ----------
    value : float
        The statistic of the sample itself.
    low, high : float
        Ends of the interval.
    level : float
        Its nominal coverage, e.g. 0.95.
    """

    value: float
    low: float
    high: float
    level: float


def bootstrap(
    statistic: Callable[..., float],
    *samples: Any,
    resamples: int = 1000,
    level: float = 0.95,
    paired: bool = False,
    seed: int = 0,
) -> Interval:
    """Percentile confidence interval of a statistic, by drawing rows with replacement.

    For means and medians. Distances between sets are biased by repeated rows: use `half_sampling` for them.

    Parameters
    ----------
    statistic : callable
        From as many arrays as `samples` to a number.
    *samples : (N, ...) arrays
        Rows that are independent of each other. Frames of one clip are not: give one row a clip.
    resamples : int
        Number of draws.
    level : float
        Coverage, in (0, 1).
    paired : bool
        Draw the same rows of all samples (image and its reference) instead of independent ones.
    seed : int
        Of the random draws.

    Returns
    -------
    Interval
        Its ends are values that were drawn, never between two: infinite scores give infinite ends, not NaN.

    Raises
    ------
    ValueError
        For no or empty samples, pairs of different length, a level or a number of draws out of range.

    Notes
    -----
    Efron, Tibshirani 1993, "An introduction to the bootstrap", chapter 13.
    """
    arrays = _samples(samples, resamples, level, least=1)
    lengths = [len(array) for array in arrays]
    if paired and len(set(lengths)) > 1:
        raise ValueError(f"expected samples of one length to draw pairs, got lengths {lengths}")
    random = np.random.default_rng(seed)
    draws = np.empty(resamples)
    for i in range(resamples):
        rows = [random.integers(n, size=n) for n in (lengths[:1] if paired else lengths)]
        rows = rows * len(lengths) if paired else rows
        draws[i] = statistic(*(array[index] for array, index in zip(arrays, rows, strict=True)))
    return Interval(float(statistic(*arrays)), *_central(draws, level), level)


def half_sampling(
    statistic: Callable[..., float], *samples: Any, resamples: int = 100, level: float = 0.95, seed: int = 0
) -> Interval:
    """Confidence interval of a statistic of sets, such as the Fréchet distance, from random halves of them.

    A half without repeated rows scatters about the whole as much as the whole does about the truth, since
    ``1/m - 1/n = 1/n`` for ``m = n/2``. The bias of a smaller sample is taken off with the halves' mean.

    Parameters
    ----------
    statistic : callable
        From as many arrays as `samples` to a number.
    *samples : (N, ...) arrays
        At least 4 independent rows each.
    resamples : int
        Number of halves.
    level : float
        Coverage, in (0, 1).
    seed : int
        Of the random draws.

    Returns
    -------
    Interval
        About the statistic of the whole samples.

    Raises
    ------
    ValueError
        For samples of fewer than 4 rows, a level or a number of halves out of range.

    Notes
    -----
    Politis, Romano, Wolf 1999, "Subsampling", chapter 2, DOI 10.1007/978-1-4612-1554-7, with the
    correction for drawing from a finite sample.
    """
    arrays = _samples(samples, resamples, level, least=4)
    random = np.random.default_rng(seed)
    draws = np.empty(resamples)
    for i in range(resamples):
        draws[i] = statistic(*(a[random.choice(len(a), len(a) // 2, replace=False)] for a in arrays))
    value = float(statistic(*arrays))
    low, high = _central(draws - draws.mean(), level)
    return Interval(value, value + low, value + high, level)


def _samples(samples: tuple[Any, ...], resamples: int, level: float, *, least: int) -> list[NDArray[Any]]:
    arrays = [np.asarray(sample) for sample in samples]
    lengths = [len(array) if array.ndim else 0 for array in arrays]
    if min(lengths, default=0) < least:
        raise ValueError(f"expected samples of at least {least} rows, got lengths {lengths}")
    if resamples < 1 or not 0 < level < 1:
        raise ValueError(f"expected at least 1 draw and a level in (0, 1), got {resamples} and {level}")
    return arrays


def _central(draws: Float64, level: float) -> tuple[float, float]:
    """The middle part of the draws, without interpolation."""
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], method="inverted_cdf")
    return float(low), float(high)
