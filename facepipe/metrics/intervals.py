"""Confidence intervals of any score, by drawing samples again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facepipe.metrics._checks import Float64

__all__ = ["Interval", "block_bootstrap", "bootstrap", "half_sampling"]


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


def block_bootstrap(
    statistic: Callable[..., float],
    *samples: Any,
    blocks: Any,
    resamples: int = 400,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile confidence interval of a statistic of rows that come in blocks: whole blocks are drawn.

    Neighbouring frames of a clip look alike, so that drawing frames would promise far too much; blocks of a second
    or so are nearly independent of each other.

    Parameters
    ----------
    statistic : callable
        From as many arrays as `samples` to a number.
    *samples : (N, ...) arrays
        All of one length: rows belong together.
    blocks : (N,) array
        Which block each row belongs to; at least 2 different ones.
    resamples : int
        Number of draws.
    level : float
        Coverage, in (0, 1).
    seed : int
        Of the random draws.

    Returns
    -------
    Interval
        As `bootstrap`.

    Raises
    ------
    ValueError
        For no or empty samples, different lengths, a single block, a level or a number of draws out of range.

    Notes
    -----
    The cluster bootstrap of Davison, Hinkley 1997, "Bootstrap methods and their application", section 3.8; blocks of
    time as in Künsch 1989, DOI 10.1214/aos/1176347265, but not overlapping (Carlstein 1986).
    """
    arrays = _samples(samples, resamples, level, least=1)
    labels = np.asarray(blocks)
    lengths = [len(array) for array in (*arrays, labels)]
    if len(set(lengths)) > 1:
        raise ValueError(f"expected samples and blocks of one length, got lengths {lengths}")
    _, number = np.unique(labels, return_inverse=True)
    members = np.split(np.argsort(number, kind="stable"), np.cumsum(np.bincount(number))[:-1])
    if len(members) < 2:
        raise ValueError("expected at least 2 blocks, got 1; a single block says nothing of how much blocks differ")
    random = np.random.default_rng(seed)
    draws = np.empty(resamples)
    for i in range(resamples):
        rows = np.concatenate([members[block] for block in random.integers(len(members), size=len(members))])
        draws[i] = statistic(*(array[rows] for array in arrays))
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
