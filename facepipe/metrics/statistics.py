"""Mean and covariance of features that arrive in batches, from several workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from scipy import linalg

from facepipe.metrics._checks import Float64, feature_rows

__all__ = ["FeatureStatistics"]


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
