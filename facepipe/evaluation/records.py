"""What was measured of a clip, before it is summarized: columns with a row a frame, and what is kept beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # loads torch, which a run with nothing to do needs not
    from facepipe.backends.features import Features

__all__ = ["ClipScores", "Embedded", "Originals", "Shake", "joined"]

Column = NDArray[np.generic]

_WHOLE = {"frame": np.int64, "pts": np.int64, "face": np.int32, "track": np.int32, "found": np.bool_}


@dataclass(frozen=True, slots=True)
class Embedded:
    """Embeddings of some of a clip's swapped faces.

    Attributes
    ----------
    rows : (M,) int64 array
        The clip's rows that they belong to.
    values : (M, D) float32 array
        Of unit length.
    """

    rows: NDArray[np.int64]
    values: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Shake:
    """Jitter of a clip's landmarks, over all runs of successive frames.

    Attributes
    ----------
    second_difference, residual : float or None
        See `facepipe.metrics.jitter` and `residual_jitter`, in per cent of the inter-ocular distance; None without
        three successive frames.
    frames : int
        In which the face was found.
    """

    second_difference: float | None
    residual: float | None
    frames: int


@dataclass(slots=True)
class ClipScores:
    """Scores of one clip; those of all clips stay in memory until they are summarized, so nothing large is here.

    Attributes
    ----------
    columns : dict of str to (N,) array
        A row a measured frame. Numbers are float64 and NaN where they do not exist; ``frame``, ``pts``, ``face`` and
        ``track`` are whole numbers, ``found`` is a truth.
    jitter : dict of str to Shake
        For ``swapped`` and ``target``.
    rebuilt : list of (psnr, ssim)
        Of the same-identity swap, inside its mask.
    counts : dict of str to int
        ``total, swapped, skipped, flagged, no_face, lost`` frames.
    stretches : dict of str to list of (first, last)
        Frames without a face, skipped, and lost, longest stretch first.
    embeddings : dict of str to Embedded
        By net: of some of the swapped faces.
    features : dict of str to Features
        For ``swapped`` and ``target``: of some faces, where a feature net was given.
    held_out_from : int or None
        First frame that the method never learned from; None where it learned from no frame of the clip.
    """

    columns: dict[str, Column] = field(default_factory=dict)
    jitter: dict[str, Shake] = field(default_factory=dict)
    rebuilt: list[tuple[float, float]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    stretches: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    embeddings: dict[str, Embedded] = field(default_factory=dict)
    features: dict[str, Features] = field(default_factory=dict)
    held_out_from: int | None = None

    @classmethod
    def of_length(cls, rows: int) -> ClipScores:
        """Room for so many rows, nothing measured yet."""
        return cls({name: np.zeros(rows, dtype) for name, dtype in _WHOLE.items()})

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def put(self, row: int, values: Mapping[str, float | int | bool | None]) -> None:
        """Write values of a row; None stays NaN. A column that is new is NaN in all other rows."""
        for name, value in values.items():
            if name not in self.columns:
                self.columns[name] = np.full(len(self), np.nan)
            if value is not None:
                self.columns[name][row] = value

    def column(self, name: str) -> NDArray[np.float64]:
        """(N,) float64: a column, or NaN where it was not measured at all."""
        known = self.columns.get(name)
        return np.full(len(self), np.nan) if known is None else known.astype(np.float64)

    def cut(self, rows: int) -> None:
        """Drop the rows from `rows` on: the videos ended before they were filled."""
        self.columns = {name: values[:rows] for name, values in self.columns.items()}


@dataclass(frozen=True, slots=True)
class Originals:
    """The people of a run as they are in their own clips.

    Attributes
    ----------
    source : dict from net to (N, D) array
        Embeddings of the source person's faces, over all source clips.
    targets : dict from clip to dict from net to (N, D) array
        Of the person who was replaced, a target clip.
    features : Features or None
        Of faces of the source person, where a feature net was given.
    trained_with : frozenset of str
        Nets that took part in making the swap.
    """

    source: Mapping[str, NDArray[np.float32]]
    targets: Mapping[str, Mapping[str, NDArray[np.float32]]]
    features: Features | None = None
    trained_with: frozenset[str] = frozenset()


def joined(clips: Mapping[str, ClipScores], name: str) -> NDArray[np.float64]:
    """A column of all clips, in order."""
    return np.concatenate([scores.column(name) for scores in clips.values()]) if clips else np.empty(0)
