"""Tracks: which faces of a clip are one person's, over time.

The finder follows faces from frame to frame by their boxes. That is sure while a face is alone; where two cross, or
one goes out of sight, only the embeddings tell who is who. So its tracks are taken as pieces, cut where the scene or
the person changes, and joined anew: the best set of pairs of an earlier and a later piece, by who they show and by
where they move.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from facepipe.boxes import area, centres, common
from facepipe.people import mean_embedding
from facepipe.types import Faces

__all__ = ["link_tracks", "near", "neighbourhood"]

Float64 = NDArray[np.float64]
Ints = NDArray[np.int64]

_TOUCHING = 0.1  # of the smaller box: its picture shows something of the other face
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
    touching, close = neighbourhood(faces)
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


def neighbourhood(faces: Faces) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(N,) bool twice: whether another face of the frame overlaps, and whether one is close."""
    touching, close = np.zeros(len(faces), bool), np.zeros(len(faces), bool)
    centre, width = centres(faces.box)
    step = 1
    while (one := np.flatnonzero(faces.frame[step:] == faces.frame[:-step])).size:  # rows are in order of frames
        other = one + step
        smaller = np.minimum(area(faces.box[one]), area(faces.box[other]))
        overlap = common(faces.box[one], faces.box[other]) > _TOUCHING * smaller
        beside = _beside(centre[one], centre[other], width[one], width[other])
        for mask, found in ((touching, overlap), (close, beside)):
            mask[one[found]] = mask[other[found]] = True
        step += 1
    return touching, close


def near(box: NDArray[np.float32]) -> NDArray[np.bool_]:
    """(N,) bool: which of the faces (N, 4) of one frame have another close by."""
    centre, width = centres(box)
    beside = _beside(centre[:, None], centre[None], width[:, None], width[None])
    np.fill_diagonal(beside, val=False)
    return np.asarray(beside.any(axis=1))


def _beside(one: Float64, other: Float64, one_width: Float64, other_width: Float64) -> NDArray[np.bool_]:
    """(...) bool, of centres (..., 2) and widths (...)."""
    apart = np.linalg.norm(one - other, axis=-1)
    return np.asarray(apart < _CLOSE * np.maximum(one_width, other_width))


def _strides(box: NDArray[np.float32]) -> Float64:
    """(N - 1,) how far each box is from the one before, in widths."""
    centre, width = centres(box)
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
    centre, width = centres(faces.box[rows])
    last = min(len(rows) - 1, _STEPS)
    places = []
    for end, step in ((0, last), (-1, -1 - last)):
        velocity = (centre[step] - centre[end]) / max(last, 1) * (1 if end == 0 else -1)
        places.append(np.array([*centre[end], width[end], *velocity]))
    return _Piece(rows, scene, frames, (places[0], places[1]), looks, len(sure))


# -------------------------------------------------------------------------------------------------------------- links


def _successors(pieces: list[_Piece], memory: int) -> dict[int, int]:
    """Which piece goes on in which later one: the pairs of the largest total score, without those below 0."""
    i, j = _candidates(pieces, memory)
    score = _scores(pieces, i, j)
    good = score > 0
    i, j, score = i[good], j[good], score[good]
    if not len(score):
        return {}
    from scipy.optimize import linear_sum_assignment  # a third of a second, at every start of the command line
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = len(pieces)  # ends are 0 to count - 1, beginnings follow
    graph = coo_array((np.ones(len(i)), (i, count + j)), shape=(2 * count, 2 * count))
    group = connected_components(graph, directed=False)[1][i]
    order = np.argsort(group, kind="stable")
    found = {}
    for part in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
        (ends, row), (beginnings, column) = (np.unique(one[part], return_inverse=True) for one in (i, j))
        table = np.zeros((len(ends), len(beginnings)))
        table[row, column] = score[part]
        for a, b in zip(*linear_sum_assignment(-table), strict=True):
            if table[a, b] > 0:
                found[int(ends[a])] = int(beginnings[b])
    return found


def _candidates(pieces: list[_Piece], memory: int) -> tuple[Ints, Ints]:
    """Pairs of pieces of a scene of which the second begins within `memory` frames after the first."""
    starts, ends = (np.array([piece.frames[end] for piece in pieces]) for end in (0, 1))
    scene = np.array([piece.scene for piece in pieces])
    low, high = np.searchsorted(starts, ends, "right"), np.searchsorted(starts, ends + memory + 1, "right")
    i = np.repeat(np.arange(len(pieces)), high - low)
    j = np.arange(len(i)) - np.repeat(np.cumsum(high - low) - high, high - low)
    same = scene[i] == scene[j]
    return i[same], j[same]


def _scores(pieces: list[_Piece], i: Ints, j: Ints) -> Float64:
    """(K,) how well piece i goes on in piece j."""
    head, tail = (np.stack([piece.places[end] for piece in pieces]) for end in (0, 1))
    looks = [np.stack([piece.looks[end] for piece in pieces]).astype(np.float64) for end in (0, 1)]
    gap = np.array([p.frames[0] for p in pieces])[j] - np.array([p.frames[1] for p in pieces])[i]
    in_place = _IN_PLACE * _in_place(tail[i], head[j], gap)
    unknown = ~np.any(looks[1], axis=1)[i] | ~np.any(looks[0], axis=1)[j]
    alike = np.einsum("kd,kd->k", looks[1][i], looks[0][j])
    return np.where(unknown, in_place - _UNKNOWN, 2 * (alike - _SAME) + in_place)


def _in_place(tail: Float64, head: Float64, gap: Ints) -> Float64:
    """(K,) 0 to 1: how near a head is to where its tail should be by then, or the other way round; see `_Piece`."""
    coasting = np.clip(gap, 0, _COASTING)[:, None]
    apart = head[:, :2] - tail[:, :2]
    misses = [apart, apart - tail[:, 3:] * coasting, apart - head[:, 3:] * coasting]
    width = np.maximum((head[:, 2] + tail[:, 2]) / 2, 1e-6)
    still, *moving = (np.linalg.norm(one, axis=1) / width for one in misses)
    miss = np.minimum(still + _STOPPED, np.minimum(*moving))
    growth = np.log(np.maximum(head[:, 2], 1e-6) / np.maximum(tail[:, 2], 1e-6))
    room = np.clip(0.4 + 0.04 * gap, 0.4, 1.2)
    return np.asarray(np.exp(-((miss / room) ** 2) - (growth / 0.4) ** 2) * 0.5 ** ((gap - 1) / _HALVED))


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
    hosts = [chain for chain, sure in zip(chains, told, strict=True) if sure]
    strays = [chain for chain, sure in zip(chains, told, strict=True) if not sure]
    gaps = [(h, *pair) for h, host in enumerate(hosts) for pair in itertools.pairwise(host)]
    bounds = np.array([(before.frames[1], after.frames[0]) for _, before, after in gaps]).reshape(-1, 2)
    fits = []
    for s, stray in enumerate(strays):
        around = (bounds[:, 0] < stray[0].frames[0]) & (stray[-1].frames[1] < bounds[:, 1])
        fits += [(_fit_between(gaps[g][1], stray, gaps[g][2]), s, gaps[g][0]) for g in np.flatnonzero(around).tolist()]
    taken = set[int]()
    for fit, s, h in sorted(fits, key=lambda one: -one[0]):
        if fit > 0 and s not in taken and not _meet(hosts[h], strays[s]):
            hosts[h] = sorted(hosts[h] + strays[s], key=lambda piece: piece.frames)
            taken.add(s)
    return hosts + [stray for s, stray in enumerate(strays) if s not in taken]


def _meet(one: list[_Piece], other: list[_Piece]) -> bool:
    """Whether two chains have pieces at one time."""
    return any(a.frames[0] <= b.frames[1] and b.frames[0] <= a.frames[1] for a in one for b in other)


def _fit_between(before: _Piece, stray: list[_Piece], after: _Piece) -> float:
    """0 to 1: how well a chain goes from one piece to another; it may be far from one of them, but not from both."""
    if before.scene != stray[0].scene or any(_strangers(one, before) for one in stray):
        return 0.0
    tails, heads = (before, stray[-1]), (stray[0], after)
    gap = np.array([head.frames[0] - tail.frames[1] for tail, head in zip(tails, heads, strict=True)])
    places = np.stack([tail.places[1] for tail in tails]), np.stack([head.places[0] for head in heads])
    low, high = sorted(_in_place(*places, gap).tolist())
    return high if low > _LEAST_FIT[0] and high > _LEAST_FIT[1] else 0.0


def _strangers(one: _Piece, before: _Piece) -> bool:
    """Whether the few sure faces of a piece are another person's."""
    return one.sure > 0 and float(one.looks[0] @ before.looks[1]) < _STRANGE
