"""The measured frames of some clips side by side, and medians of them with honest intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facepipe import metrics
from facepipe.evaluation.records import ClipScores, joined

__all__ = ["BLOCK_SECONDS", "LEAST_BLOCKS", "IntervalJson", "Rows", "interval", "median"]

BLOCK_SECONDS = 1.0
"""Frames of one track within so many seconds count as one draw of the bootstrap."""

LEAST_BLOCKS = 5
"""Blocks without which there is no interval."""

_RESAMPLES = 200

Statistic = Callable[..., float]
IntervalJson = dict[str, Any]
"""``{"value", "low", "high", "n"}``; low and high are None where there are too few blocks."""


def median(values: NDArray[np.float64]) -> float | None:
    """Median of the finite values; None where there are none."""
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else None


def interval(
    *samples: NDArray[np.float64],
    blocks: NDArray[np.int64],
    statistic: Statistic = lambda values: float(np.median(values)),
    resamples: int = _RESAMPLES,
) -> IntervalJson | None:
    """A statistic with its 95 % interval by blocks of time, as it stands in ``scores.json``.

    Parameters
    ----------
    *samples : (N, ...) arrays
        Rows that belong together; a row with a value that is not finite is left out.
    blocks : (N,) array
        Block of each row.
    statistic : callable
        From the arrays to a number; the median by default.
    resamples : int
        Draws.

    Returns
    -------
    dict or None
        ``value``, ``low``, ``high``, ``n`` (rows); None when no row is left or the statistic is not finite.
    """
    whole = np.ones(len(blocks), bool)
    for sample in samples:
        whole &= np.isfinite(sample).all(axis=tuple(range(1, sample.ndim)))
    kept = [sample[whole] for sample in samples]
    n = int(whole.sum())
    value = float(statistic(*kept)) if n else math.nan
    if not math.isfinite(value):
        return None
    low = high = None
    if len(np.unique(blocks[whole])) >= LEAST_BLOCKS:
        found = metrics.block_bootstrap(statistic, *kept, blocks=blocks[whole], resamples=resamples)
        low, high = (end if math.isfinite(end) else None for end in (found.low, found.high))
    return {"value": value, "low": low, "high": high, "n": n}


@dataclass(frozen=True)
class Rows:
    """All measured frames of some clips.

    Attributes
    ----------
    clips : dict from name to ClipScores
        In order.
    """

    clips: Mapping[str, ClipScores]

    def __len__(self) -> int:
        return sum(len(scores) for scores in self.clips.values())

    def column(self, name: str) -> NDArray[np.float64]:
        """(N,) float64: a column over all clips; NaN where it was not measured."""
        return joined(self.clips, name)

    @cached_property
    def clip(self) -> NDArray[np.int64]:
        """(N,) number of the clip of each row."""
        lengths = [len(scores) for scores in self.clips.values()]
        return np.repeat(np.arange(len(lengths)), lengths)

    @cached_property
    def blocks(self) -> NDArray[np.int64]:
        """(N,) number of the block of each row: a second of a track of a clip."""
        if not len(self):
            return np.empty(0, np.int64)
        second = np.floor(np.nan_to_num(self.column("seconds")) / BLOCK_SECONDS)
        keys = np.stack([self.clip, self.column("track"), second], axis=1)
        return np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)

    def median(self, name: str, where: NDArray[np.bool_] | None = None) -> float | None:
        """Median of a column, over all rows or some."""
        values = self.column(name)
        return median(values if where is None else values[where])

    def interval(self, name: str, where: NDArray[np.bool_] | None = None) -> IntervalJson | None:
        """Median of a column with its interval."""
        chosen = np.ones(len(self), bool) if where is None else where
        return interval(self.column(name)[chosen], blocks=self.blocks[chosen])

    def pair(self, name: str) -> dict[str, IntervalJson | None]:
        """``swapped`` and ``target`` of a measure, and the ratio of their medians."""
        swapped, target = (self.column(f"{name}_{of}") for of in ("swapped", "target"))
        return {
            "swapped": interval(swapped, blocks=self.blocks),
            "target": interval(target, blocks=self.blocks),
            "ratio": interval(swapped, target, blocks=self.blocks, statistic=_ratio),
        }

    def margin(self, net: str) -> NDArray[np.float64]:
        """(N,) similarity to the source minus similarity to the target."""
        return self.column(f"to_source_{net}") - self.column(f"to_target_{net}")


def _ratio(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    below = float(np.median(second))
    return float(np.median(first)) / below if below else math.nan
