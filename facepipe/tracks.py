"""Tracks: which faces of a clip are one person's, over time.

The finder follows faces from frame to frame by their boxes. That is sure while a face is alone; where two cross, or
one goes out of sight, only the embeddings tell who is who. So its tracks are taken as pieces, cut where the scene or
the person changes, and joined anew: the best set of pairs of an earlier and a later piece, by who they show and by
where they move. What lies between two pieces of a track and is short is filled in.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facepipe.people import mean_embedding
from facepipe.types import Faces, Flag

__all__ = ["between", "fill_gaps", "link_tracks"]

Float64 = NDArray[np.float64]
Ints = NDArray[np.int64]

_TOUCHING = 0.1  # of the smaller box: its picture shows something of the other face
_COVERED = 0.4  # of a box under another: not missed, but hidden
_CLOSE = 1.5  # widths of a face from centre to centre within which two may be mixed up
_JUMP = 0.3  # widths in a frame: beside another face perhaps from one to the other
_WINDOW = 8  # faces on each side of a change of person
_CHANGED = 0.3  # cosine of the two sides; of one person .7 and more, of two -.24 to .39
_ENDS = 15  # faces at the end of a piece that tell who it is
_SAME = 0.35  # cosine above which pieces are joined wherever they are ...
_IN_PLACE = 0.5  # ... and what it counts that one begins where the other should be by then
_UNKNOWN = 0.1  # what the place has to outweigh where nothing was embedded
_HALVED = 20  # frames after which a place tells half as much
_STEPS = 5  # faces that a velocity is measured on
_COASTING = 10  # frames over which a velocity is believed
_LEAST_SURE = 3  # faces that nothing overlaps; with fewer of them a track is nobody's for sure
_STRANGE = 0.2  # cosine below which even few faces show another person
_LEAST_FIT = (0.15, 0.5)  # how well half-hidden faces have to fit one end of a gap, and the other
_STOPPED = 0.3  # widths: what it costs to have stopped, or turned back, out of sight
_FASTEST = 0.35  # widths of a face in a frame that a filled gap may move
_GROWTH = 1.6  # how much a face may grow or shrink over one


def link_tracks(faces: Faces, cuts: Sequence[int] = (), *, memory: int = 50) -> NDArray[np.int32]:
    """Numbers of the tracks by who the faces are, from tracks that were followed by place.

    Parameters
    ----------
    faces : Faces
        Rows in the order of frames, tracks as the finder followed them; embeddings help, and may be missing.
    cuts : sequence of int
        Frames with which a new scene begins. No track goes through one.
    memory : int
        Longest gap within a track, in frames.

    Returns
    -------
    (N,) int32 array
        Tracks, numbered in the order in which they begin; -1 stays -1. A track has one row a frame at most.
    """
    pieces = _pieces(faces, cuts)
    if not pieces:
        return faces.track.copy()
    track = np.full(len(faces), -1, np.int32)
    chains = _with_strays(_chains(pieces, _successors(pieces, memory)))
    for number, chain in enumerate(sorted(chains, key=lambda chain: int(chain[0].rows[0]))):
        for piece in chain:
            track[piece.rows] = number
    return track


# ------------------------------------------------------------------------------------------------------------- pieces


@dataclass(frozen=True, slots=True)
class _Piece:
    """A stretch of a followed track that shows one person in one scene, with what its two ends look like."""

    rows: Ints
    scene: int
    frames: tuple[int, int]
    places: tuple[Float64, Float64]
    """At the first and the last frame: centre, width, and velocity of the centre; (5,) each."""
    looks: tuple[NDArray[np.float32], NDArray[np.float32]]
    """Mean embeddings of the first and the last faces; zeros for unknown."""
    sure: int
    """On how many faces they rest."""


def _pieces(faces: Faces, cuts: Sequence[int]) -> list[_Piece]:
    """The pieces of all tracks, by their first frame."""
    touching, close = _neighbourhood(faces)
    alone = np.isfinite(faces.embedding).all(1) & (faces.embedding.shape[1] > 0) & ~touching
    clean = alone & ~close & faces.trusted  # what is close may hide a part, too: hair, a shoulder
    scene = np.searchsorted(np.asarray(cuts, np.int64), faces.frame, side="right")
    pieces = []
    for track in np.unique(faces.track[faces.track >= 0]):
        rows = np.flatnonzero(faces.track == track)
        jumps = (close[rows][1:] | close[rows][:-1]) & (_strides(faces.box[rows]) > _JUMP)
        breaks = np.flatnonzero((np.diff(faces.frame[rows]) != 1) | (np.diff(scene[rows]) != 0) | jumps) + 1
        for part in np.split(rows, breaks):
            changes = _changes(faces.embedding[part], clean[part], close[part])
            pieces += [_piece(faces, own, int(scene[own[0]]), clean, alone) for own in np.split(part, changes)]
    return sorted(pieces, key=lambda piece: int(piece.rows[0]))


def _neighbourhood(faces: Faces) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(N,) bool twice: whether another face of the frame overlaps, and whether one is close."""
    touching, close = np.zeros(len(faces), bool), np.zeros(len(faces), bool)
    centre, width = _centres(faces.box)
    step = 1
    while (one := np.flatnonzero(faces.frame[step:] == faces.frame[:-step])).size:  # rows are in order of frames
        other = one + step
        area = np.minimum(_area(faces.box[one]), _area(faces.box[other]))
        overlap = _common(faces.box[one], faces.box[other]) > _TOUCHING * area
        near = np.linalg.norm(centre[one] - centre[other], axis=1) < _CLOSE * np.maximum(width[one], width[other])
        for mask, found in ((touching, overlap), (close, near)):
            mask[one[found]] = mask[other[found]] = True
        step += 1
    return touching, close


def _strides(box: NDArray[np.float32]) -> Float64:
    """(N - 1,) how far each box is from the one before, in widths."""
    centre, width = _centres(box)
    return np.asarray(np.linalg.norm(np.diff(centre, axis=0), axis=1) / np.maximum(width[1:], 1e-6))


def _changes(embedding: NDArray[np.float32], clean: NDArray[np.bool_], close: NDArray[np.bool_]) -> list[int]:
    """Where a followed face becomes another person's: rows, of M, with which the next one begins.

    Only where another face was close by. A hand before the face also changes its embedding, and nobody else came.
    """
    index = np.flatnonzero(clean)
    if len(index) < 4 or not close.any():
        return []
    sums = np.concatenate([np.zeros((1, embedding.shape[1])), np.cumsum(embedding[index], axis=0, dtype=np.float64)])
    found: list[int] = []
    middle = np.arange(2, len(index) - 1)
    low, high = np.maximum(middle - _WINDOW, 0), np.minimum(middle + _WINDOW, len(index))
    before, after = sums[middle] - sums[low], sums[high] - sums[middle]
    alike = (before * after).sum(1) / np.maximum(np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1), 1e-12)
    for k in np.argsort(alike, kind="stable"):
        if alike[k] >= _CHANGED:
            break
        left, right = index[low[k]], index[high[k] - 1]
        if not close[left : right + 1].any() or any(left < other <= right for other in found):
            continue
        found.append(_moment(embedding, int(left), int(right), before[k] / (middle[k] - low[k]), after[k]))
    return sorted(found)


def _moment(embedding: NDArray[np.float32], left: int, right: int, before: Float64, after: Float64) -> int:
    """The row after `left` and up to `right` with which faces are more like `after` than like `before`."""
    towards = embedding[left : right + 1] @ (after / np.linalg.norm(after) - before / np.linalg.norm(before))
    towards = np.nan_to_num(towards)
    # All rows before the moment speak for `before`, all from it on for `after`.
    total = np.cumsum(-towards)[:-1] + np.cumsum(towards[::-1])[::-1][1:]
    return left + 1 + int(total.argmax())


def _piece(faces: Faces, rows: Ints, scene: int, clean: NDArray[np.bool_], alone: NDArray[np.bool_]) -> _Piece:
    frames = int(faces.frame[rows[0]]), int(faces.frame[rows[-1]])
    sure, seen = rows[clean[rows]], rows[alone[rows]]
    if not sure.size and len(seen) >= _ENDS:
        sure = seen
    looks = mean_embedding(faces.embedding[sure[:_ENDS]]), mean_embedding(faces.embedding[sure[-_ENDS:]])
    centre, width = _centres(faces.box[rows])
    last = min(len(rows) - 1, _STEPS)
    places = []
    for end, step in ((0, last), (-1, -1 - last)):
        velocity = (centre[step] - centre[end]) / max(last, 1) * (1 if end == 0 else -1)
        places.append(np.array([*centre[end], width[end], *velocity]))
    return _Piece(rows, scene, frames, (places[0], places[1]), looks, len(sure))


# -------------------------------------------------------------------------------------------------------------- links


def _successors(pieces: list[_Piece], memory: int) -> dict[int, int]:
    """Which piece goes on in which later one: the pairs of the largest total score, without those below 0."""
    if len(pieces) < 2:
        return {}
    from scipy.optimize import linear_sum_assignment  # a third of a second, at every start of the command line

    found = {}
    scenes = np.array([piece.scene for piece in pieces])
    for scene in np.unique(scenes):
        index = np.flatnonzero(scenes == scene)
        score = _scores([pieces[i] for i in index], memory)
        for i, j in zip(*linear_sum_assignment(-np.maximum(score, 0)), strict=True):
            if score[i, j] > 0:
                found[int(index[i])] = int(index[j])
    return found


def _scores(pieces: list[_Piece], memory: int) -> Float64:
    """(P, P) how well piece i goes on in piece j; -inf where it cannot."""
    gap = np.array([p.frames[0] for p in pieces])[None] - np.array([p.frames[1] for p in pieces])[:, None]
    heads, tails = (np.stack([piece.looks[end] for piece in pieces]).astype(np.float64) for end in (0, 1))
    no_tail, no_head = (~np.any(looks, axis=1, keepdims=True) for looks in (tails, heads))
    unknown = no_tail | no_head.T
    in_place = _IN_PLACE * _in_place(pieces, gap)
    score = np.where(unknown, in_place - _UNKNOWN, 2 * (tails @ heads.T - _SAME) + in_place)
    return np.where((gap >= 1) & (gap <= memory + 1), score, -np.inf)


def _in_place(pieces: list[_Piece], gap: Ints) -> Float64:
    """(P, P) 0 to 1: how near piece j begins to where piece i should be by then, or the other way round."""
    head, tail = (np.stack([piece.places[end] for piece in pieces]) for end in (0, 1))
    coasting = np.clip(gap, 0, _COASTING)[..., None]
    apart = head[None, :, :2] - tail[:, None, :2]
    misses = [apart, apart - tail[:, None, 3:] * coasting, apart - head[None, :, 3:] * coasting]
    width = np.maximum((head[None, :, 2] + tail[:, None, 2]) / 2, 1e-6)
    still, *moving = (np.linalg.norm(one, axis=-1) / width for one in misses)
    miss = np.minimum(still + _STOPPED, np.minimum(*moving))
    growth = np.log(np.maximum(head[None, :, 2], 1e-6) / np.maximum(tail[:, None, 2], 1e-6))
    room = np.clip(0.4 + 0.04 * gap, 0.4, 1.2)
    return np.asarray(np.exp(-((miss / room) ** 2) - (growth / 0.4) ** 2) * 0.5 ** (np.maximum(gap - 1, 0) / _HALVED))


def _chains(pieces: list[_Piece], successor: dict[int, int]) -> list[list[_Piece]]:
    """The pieces of each track, in order."""
    chains = []
    for first in sorted(set(range(len(pieces))) - set(successor.values())):
        chain: list[_Piece] = []
        at: int | None = first
        while at is not None:
            chain.append(pieces[at])
            at = successor.get(at)
        chains.append(chain)
    return chains


def _with_strays(chains: list[list[_Piece]]) -> list[list[_Piece]]:
    """The chains, with those of half-hidden faces put into the gap of another chain where they lie in its way.

    Who such a face is, nobody can tell, while the faces before and after it are surely one person's.
    """
    told = [sum(piece.sure for piece in chain) >= _LEAST_SURE for chain in chains]
    hosts = [list(chain) for chain, sure in zip(chains, told, strict=True) if sure]
    left = []
    for stray in (chain for chain, sure in zip(chains, told, strict=True) if not sure):
        best, chosen = 0.0, None
        for host in hosts:
            for k, (before, after) in enumerate(itertools.pairwise(host), start=1):
                if (fit := _fit_between(before, stray, after)) > best:
                    best, chosen = fit, (host, k)
        if chosen is None:
            left.append(stray)
        else:
            chosen[0][chosen[1] : chosen[1]] = stray
    return hosts + left


def _fit_between(before: _Piece, stray: list[_Piece], after: _Piece) -> float:
    """0 to 1: how well a chain goes from one piece to another; it may be far from one of them, but not from both."""
    if not (before.scene == stray[0].scene and before.frames[1] < stray[0].frames[0]):
        return 0.0
    if not stray[-1].frames[1] < after.frames[0] or any(_strangers(one, before) for one in stray):
        return 0.0
    fits = []
    for two in ([before, stray[0]], [stray[-1], after]):
        gap = two[1].frames[0] - two[0].frames[1]
        fits.append(float(_in_place(two, np.full((2, 2), gap))[0, 1]))
    return max(fits) if max(fits) > _LEAST_FIT[1] and min(fits) > _LEAST_FIT[0] else 0.0


def _strangers(one: _Piece, before: _Piece) -> bool:
    """Whether the few sure faces of a piece are another person's."""
    return one.sure > 0 and float(one.looks[0] @ before.looks[1]) < _STRANGE


# --------------------------------------------------------------------------------------------------------------- gaps


def fill_gaps(faces: Faces, times: Mapping[int, int], most: int) -> Faces:
    """Rows for the frames in which the face of a track was not found, flagged `Flag.FILLED`.

    Not where the face is hidden by another face, nor where it moved or grew too much for a guess.

    Parameters
    ----------
    faces : Faces
        Rows in the order of frames, with tracks.
    times : mapping from frame to pts
        Of all frames of the clip.
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
    whole = whole[np.lexsort((whole.track, -_area(whole.box), whole.frame))]
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
    centre, width = _centres(faces.box[[one, other]])
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
    rows = []
    for k, frame in enumerate(at.tolist()):
        rows.append(
            faces[one].with_columns(
                frame=np.array([frame], np.int64),
                pts=np.array([times[frame]], np.int64),
                score=np.full(1, np.nan, np.float32),
                embedding=np.full((1, faces.embedding.shape[1]), np.nan, np.float32),
                flags=np.array([Flag.FILLED], np.int32),
                **{name: value[k : k + 1] for name, value in values.items()},
            )
        )
    return rows


def _hidden(faces: Faces, row: Faces) -> bool:
    """Whether a filled face lies behind another face of its frame."""
    start, stop = np.searchsorted(faces.frame, row.frame[0] + np.array([0, 1]))
    others = faces.box[start:stop]
    return bool((_common(others, row.box) > _COVERED * _area(row.box)).any())


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


# -------------------------------------------------------------------------------------------------------------- boxes


def _centres(box: NDArray[np.float32]) -> tuple[Float64, Float64]:
    """Centres (N, 2) and widths (N,) of boxes."""
    b = box.astype(np.float64)
    return (b[:, :2] + b[:, 2:]) / 2, b[:, 2] - b[:, 0]


def _area(box: NDArray[np.float32]) -> Float64:
    return np.asarray(np.prod(np.clip(box[:, 2:] - box[:, :2], 0, None), axis=1, dtype=np.float64))


def _common(a: NDArray[np.float32], b: NDArray[np.float32]) -> Float64:
    """(N,) area that boxes share pair by pair; either may be a single one."""
    low, high = np.maximum(a[:, :2], b[:, :2]), np.minimum(a[:, 2:], b[:, 2:])
    return np.asarray(np.prod(np.clip(high - low, 0, None), axis=1, dtype=np.float64))
