"""Which faces are good enough: qualities of faces, and rules that keep those within given ranges.

The same measures sort a person's faces (`facepipe faces`) and drop faces by rule (``[select]`` of the configuration).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from facepipe.config import SelectConfig
from facepipe.errors import UsageError
from facepipe.metrics import cosine_similarity
from facepipe.people import mean_embedding
from facepipe.types import Faces, Flag, Image

__all__ = ["KEYS", "Key", "Limit", "Selection", "likeness", "qualities", "select", "sizes", "within"]

Key = Literal["yaw", "pitch", "sharpness", "size", "similarity", "light", "confidence"]
"""Degrees; degrees; grey levels of detail; pixels; cosine to the person's mean; mean grey level; the detector's."""

KEYS: tuple[Key, ...] = get_args(Key)

Limit = tuple[float | None, float | None]
"""Least and greatest value; None is no limit."""

Crops = Sequence[Image] | NDArray[np.uint8]


def sizes(table: Faces) -> NDArray[np.float32]:
    """(N,) side of a square of the box's area, in pixels of the frame."""
    edges = np.maximum(table.box[:, 2:] - table.box[:, :2], 0)
    return np.asarray(np.sqrt(edges.prod(axis=1)), np.float32)


def likeness(table: Faces, embedding: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N,) cosine of each face to a person's embedding (D,), -1 to 1.

    A face that was not embedded takes that of the faces of its track before and after, by how far away they are; NaN
    where there are none, and for faces that were filled in.
    """
    known = np.isfinite(table.embedding).all(axis=1)
    found = np.full(len(table), np.nan, np.float32)
    if not known.any():
        return found
    found[known] = np.clip(cosine_similarity(table.embedding[known], embedding), -1, 1)
    open_rows = ~known & ~np.asarray(table.flags & Flag.FILLED, bool)
    for track in np.unique(table.track[open_rows]):
        own = table.track == track
        if (have := own & known).any():
            rows = own & open_rows
            found[rows] = np.interp(table.frame[rows], table.frame[have], found[have])
    return found


def qualities(table: Faces, key: Key, *, embedding: NDArray[np.float32], crops: Crops = ()) -> NDArray[np.float32]:
    """(N,) values of a table's faces by `key`.

    Parameters
    ----------
    table : Faces
        N faces.
    key : {"yaw", "pitch", "sharpness", "size", "similarity", "light", "confidence"}
    embedding : (D,) array
        Of the person, for ``similarity``.
    crops : N (S, S, 3) arrays
        Aligned crops, for ``light``: the mean grey level (BT.601) of the inner half.
    """
    match key:
        case "size":
            return sizes(table)
        case "similarity":
            return likeness(table, embedding)
        case "light":
            return np.array([_light(np.asarray(crop)) for crop in crops], np.float32)
        case "confidence":
            return np.asarray(table.score, np.float32)
        case "yaw" | "pitch" | "sharpness":
            return np.asarray(getattr(table, key), np.float32)


def _light(crop: Image) -> float:
    quarter = crop.shape[0] // 4
    inner = np.ascontiguousarray(crop[quarter : crop.shape[0] - quarter, quarter : crop.shape[1] - quarter])
    return float(cv2.cvtColor(inner, cv2.COLOR_RGB2GRAY).mean())


def within(values: NDArray[np.float32], limit: Limit) -> NDArray[np.bool_]:
    """(N,) bool: values from the least to the greatest, both included; what was not measured (NaN) is not."""
    least, most = (-np.inf if limit[0] is None else limit[0]), (np.inf if limit[1] is None else limit[1])
    return np.asarray((values >= least) & (values <= most))


@dataclass(frozen=True, slots=True)
class Selection:
    """What rules leave of a person's faces.

    Attributes
    ----------
    rows : list of (N,) bool arrays
        The rows of each table that are kept.
    total : int
        Faces that were looked at.
    dropped : dict of str to int
        Faces that each rule dropped; one that breaks several counts for the first of them.
    """

    rows: list[NDArray[np.bool_]]
    total: int
    dropped: dict[str, int]

    @property
    def kept(self) -> int:
        """Faces that are left."""
        return self.total - sum(self.dropped.values())

    @property
    def words(self) -> str:
        """E.g. ``15 of 241 faces dropped by rule: 12 yaw, 3 sharpness``; empty where all are kept."""
        if not self.dropped:
            return ""
        parts = ", ".join(f"{count} {key}" for key, count in self.dropped.items())
        return f"{self.total - self.kept} of {self.total} faces dropped by rule: {parts}"

    def emptied_by(self, rules: SelectConfig) -> str:
        """Why nothing is left, and the way out; empty where something is."""
        if self.kept or not self.total:
            return ""
        worst = max(self.dropped, key=lambda key: self.dropped[key])
        least, most = rules.ranges[worst]
        return f"{self.words}; none is left: widen select.{worst} = [{least:g}, {most:g}]"


def select(
    tables: Sequence[Faces], rows: Sequence[NDArray[np.bool_]], crops: Sequence[Crops], rules: SelectConfig
) -> Selection:
    """Apply rules to a person's faces; one that a measure does not exist for (not embedded) is not dropped by it.

    Parameters
    ----------
    tables : sequence of Faces
        One a clip.
    rows : sequence of (N,) bool arrays
        Those that the rules are applied to.
    crops : sequence of N (S, S, 3) arrays
        One a clip; only looked at by a rule on ``light``.
    rules : SelectConfig
        `SelectConfig.ranges` are kept. Similarity is that to the mean of all `rows` that have no flag (of all, where
        each has one).

    Raises
    ------
    UsageError
        A rule on similarity, and faces that are not embedded.
    """
    left = [np.array(keep, bool) for keep in rows]
    total, dropped = int(sum(keep.sum() for keep in left)), {}
    for key, values in _measured(tables, left, crops, rules):
        good = [within(part, rules.ranges[key]) | np.isnan(part) for part in values]
        count = int(sum((keep & ~fine).sum() for keep, fine in zip(left, good, strict=True)))
        left = [keep & fine for keep, fine in zip(left, good, strict=True)]
        if count:
            dropped[str(key)] = count
    return Selection(left, total, dropped)


def _measured(
    tables: Sequence[Faces], rows: Sequence[NDArray[np.bool_]], crops: Sequence[Crops], rules: SelectConfig
) -> Iterator[tuple[Key, list[NDArray[np.float32]]]]:
    """Each rule's key, and the values of all faces, a part a table; those beside `rows` are NaN."""
    keys = [key for key in KEYS if key in rules.ranges]
    mean = np.zeros(0, np.float32)
    if "similarity" in keys:
        if any(not table.embedding.shape[1] for table in tables):
            raise UsageError("select.similarity: these faces have no embeddings; set detect.embedder to irv1 or sface")
        mean = _mean(tables, rows)
    for key in keys:
        values = []
        for table, keep, pictures in zip(tables, rows, crops, strict=True):
            mine = np.flatnonzero(keep)
            some = [pictures[row] for row in mine.tolist()] if key == "light" else ()
            part = np.full(len(table), np.nan, np.float32)
            part[mine] = qualities(table[mine], key, embedding=mean, crops=some)
            values.append(part)
        yield key, values


def _mean(tables: Sequence[Faces], rows: Sequence[NDArray[np.bool_]]) -> NDArray[np.float32]:
    pairs = list(zip(tables, rows, strict=True))
    sure = np.concatenate([table.embedding[keep & table.trusted] for table, keep in pairs])
    return mean_embedding(sure if len(sure) else np.concatenate([table.embedding[keep] for table, keep in pairs]))
