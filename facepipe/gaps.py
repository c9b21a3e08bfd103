"""Gaps: what a track looks like in the frames in which its face was not found."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facepipe.boxes import area, centres, common
from facepipe.types import Faces, Flag

__all__ = ["between", "fill_gaps"]

Float64 = NDArray[np.float64]

_COVERED = 0.4  # of a box under another: not missed, but hidden
_FASTEST = 0.35  # widths of a face in a frame that a filled gap may move
_GROWTH = 1.6  # how much a face may grow or shrink over one


def fill_gaps(faces: Faces, times: Mapping[int, int], most: int) -> Faces:
    """Rows for the frames in which the face of a track was not found, flagged `Flag.FILLED`.

    Not where the face is hidden by another face, nor where it moved or grew too much for a guess.

    Parameters
    ----------
    faces : Faces
        Rows in the order of frames, with tracks.
    times : mapping from frame to pts
        Of the frames that were looked at; no others are filled.
    most : int
        Longest gap that is filled, in frames.

    Returns
    -------
    Faces
        The given rows and the new ones, in order; `face` is numbered anew. Of a new row box, landmarks and mesh are
        interpolated, its score and embedding are NaN; pose and crop are left as in the row before the gap.
    """
    pairs = [pair for pair in _gaps(faces, most) if _steady(faces, *pair)]
    fresh = [row for pair in pairs for row in _filled(faces, *pair, times) if not _hidden(faces, row)]
    if not fresh:
        return faces
    whole = Faces.concatenate([faces, *fresh])
    whole = whole[np.lexsort((whole.track, -area(whole.box), whole.frame))]
    first = np.searchsorted(whole.frame, whole.frame)
    return whole.with_columns(face=(np.arange(len(whole)) - first).astype(np.int32))


def _gaps(faces: Faces, most: int) -> list[tuple[int, int]]:
    """The rows before and after each gap of a track of up to `most` frames."""
    order = np.lexsort((faces.frame, faces.track))
    one, other = order[:-1], order[1:]
    missing = faces.frame[other] - faces.frame[one] - 1
    wanted = (faces.track[one] == faces.track[other]) & (faces.track[one] >= 0) & (missing > 0) & (missing <= most)
    return list(zip(one[wanted].tolist(), other[wanted].tolist(), strict=True))


def _steady(faces: Faces, one: int, other: int) -> bool:
    centre, width = centres(faces.box[[one, other]])
    frames = int(faces.frame[other] - faces.frame[one])
    moved = float(np.linalg.norm(centre[1] - centre[0]))
    return moved <= _FASTEST * frames * float(width.mean()) and float(width.max()) <= _GROWTH * float(width.min())


def _filled(faces: Faces, one: int, other: int, times: Mapping[int, int]) -> list[Faces]:
    """A table of one row for each frame between two rows of a track."""
    track = np.flatnonzero(faces.track == faces.track[one])
    near = track[np.abs(np.searchsorted(track, one) - np.arange(len(track))) <= 3]
    at = np.arange(faces.frame[one] + 1, faces.frame[other])
    values = {
        name: between(getattr(faces, name)[near], faces.frame[near], at).astype(np.float32)
        for name in ("box", "landmarks", "mesh")
    }
    doubt = int((faces.flags[one] | faces.flags[other]) & Flag.MISFIT)  # a guess from wrong landmarks is wrong, too
    rows = []
    for k, frame in enumerate(at.tolist()):
        if frame not in times:
            continue
        rows.append(
            faces[one].with_columns(
                frame=np.array([frame], np.int64),
                pts=np.array([times[frame]], np.int64),
                score=np.full(1, np.nan, np.float32),
                embedding=np.full((1, faces.embedding.shape[1]), np.nan, np.float32),
                flags=np.array([Flag.FILLED | doubt], np.int32),
                **{name: value[k : k + 1] for name, value in values.items()},
            )
        )
    return rows


def _hidden(faces: Faces, row: Faces) -> bool:
    """Whether a filled face lies behind another face of its frame."""
    start, stop = np.searchsorted(faces.frame, row.frame[0] + np.array([0, 1]))
    others = faces.box[start:stop]
    return bool((common(others, row.box) > _COVERED * area(row.box)).any())


def between(points: ArrayLike, times: ArrayLike, at: ArrayLike) -> Float64:
    """Points of a track at times without a measurement: smooth, and never beyond the points before and after.

    Parameters
    ----------
    points : (T, ...) array
        At least two.
    times : (T,) array
        Strictly rising.
    at : (K,) array
        Within `times`.

    Returns
    -------
    (K, ...) float64 array

    References
    ----------
    F. N. Fritsch and R. E. Carlson, "Monotone piecewise cubic interpolation", SIAM J. Numer. Anal. 17 (1980) 238-246.
    DOI 10.1137/0717021
    """
    from scipy.interpolate import PchipInterpolator  # only where there is a gap

    p = np.asarray(points, np.float64)
    where = np.asarray(at, np.float64)
    if not p.size:
        return np.empty((len(where), *p.shape[1:]))
    return np.asarray(PchipInterpolator(np.asarray(times, np.float64), p, axis=0)(where), np.float64)
