"""Who is who: the people of a set of clips, and the rows of a table of faces that show one of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from facepipe.metrics import cosine_similarity
from facepipe.types import Faces

__all__ = ["SAME_PERSON", "Person", "find_people", "mean_embedding", "person_rows"]

SAME_PERSON = 0.43
"""Cosine similarity (irv1) that separates the people of clips: different ones -.24 to .39, the same .53 to .99."""

_NEVER = 10.0  # cosine distances end at 2


def mean_embedding(embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    """Unit-length mean (D,) of embeddings (N, D); rows of NaN are left out, zeros when none remain."""
    rows = embeddings[np.isfinite(embeddings).all(axis=1)]
    if not rows.size:
        return np.zeros(embeddings.shape[1], np.float32)
    mean = rows.mean(axis=0, dtype=np.float64)
    return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-12), np.float32)


@dataclass(frozen=True, slots=True)
class _Track:
    clip: int
    number: int
    rows: NDArray[np.bool_]
    embedding: NDArray[np.float32]


def _tracks(tables: Sequence[Faces]) -> list[_Track]:
    """All tracks, longest first; each with the mean embedding of its faces (of those without a flag, if any)."""
    tracks = []
    for clip, faces in enumerate(tables):
        for number in np.unique(faces.track).tolist():
            rows = faces.track == number
            best = rows & faces.trusted if (rows & faces.trusted).any() else rows
            tracks.append(_Track(clip, number, rows, mean_embedding(faces.embedding[best])))
    # A track of which nothing was embedded cannot be told from anyone else's.
    known = [track for track in tracks if not track.embedding.size or track.embedding.any()]
    return sorted(known, key=lambda track: (-int(track.rows.sum()), track.clip, track.number))


@dataclass(frozen=True, slots=True)
class Person:
    """One person of a set of clips.

    Attributes
    ----------
    rows : list of (N,) bool arrays
        Which rows of each clip's table show the person.
    embedding : (D,) float32 array
        Unit-length mean of the tracks' embeddings, each weighed by its length.
    """

    rows: list[NDArray[np.bool_]]
    embedding: NDArray[np.float32]


def find_people(tables: Sequence[Faces], *, similarity: float = SAME_PERSON) -> list[Person]:
    """Group the tracks of all clips into people: clusters of average linkage on the cosine of their mean embeddings.

    A track is one person's, and says who that is far more surely than a single face. Nobody is in a frame twice: two
    tracks seen side by side are taken for very far apart, so sisters stay two people. Tracks of which nothing was
    embedded are nobody's.

    Parameters
    ----------
    tables : sequence of Faces
        One a clip, with embeddings.
    similarity : float
        Least mean cosine similarity of the tracks of one person.

    Returns
    -------
    list of Person
        Most faces first.

    References
    ----------
    R. R. Sokal and C. D. Michener, "A statistical method for evaluating systematic relationships", Univ. Kansas
    Science Bulletin 38, 1958 (average linkage).
    """
    tracks = [track for track in _tracks(tables) if track.embedding.size]
    people = []
    for members in _clusters(tracks, _side_by_side(tables), similarity):
        rows = [np.zeros(len(faces), bool) for faces in tables]
        for track in members:
            rows[track.clip] |= track.rows
        lengths = np.array([track.rows.sum() for track in members], np.float32)
        embeddings = np.stack([track.embedding for track in members])
        people.append(Person(rows, mean_embedding(embeddings * lengths[:, None])))
    return sorted(people, key=lambda person: -sum(int(rows.sum()) for rows in person.rows))


def _side_by_side(tables: Sequence[Faces]) -> set[tuple[int, int, int]]:
    """Clip and numbers of two tracks that are in one frame, more than half a face apart (else one face twice)."""
    found = set()
    for clip, faces in enumerate(tables):
        centres = (faces.box[:, :2] + faces.box[:, 2:]) / 2
        widths = faces.box[:, 2] - faces.box[:, 0]
        step = 1
        while (near := np.flatnonzero(faces.frame[step:] == faces.frame[:-step])).size:  # rows are in order of frames
            distance = np.linalg.norm(centres[near] - centres[near + step], axis=1)
            two = near[distance > np.minimum(widths[near], widths[near + step]) / 2]
            for a, b in zip(faces.track[two].tolist(), faces.track[two + step].tolist(), strict=True):
                found.add((clip, min(a, b), max(a, b)))
            step += 1
    return found


def _clusters(tracks: list[_Track], side_by_side: set[tuple[int, int, int]], similarity: float) -> list[list[_Track]]:
    """Tracks grouped by their embeddings; groups in the order of their first track."""
    if len(tracks) < 2:
        return [tracks] if tracks else []
    from scipy.cluster.hierarchy import fcluster, linkage  # not needed for a clip of one track
    from scipy.spatial.distance import pdist, squareform

    distances = squareform(pdist(np.stack([track.embedding for track in tracks]).astype(np.float64), "cosine"))
    index = {(track.clip, track.number): i for i, track in enumerate(tracks)}
    for clip, one, other in side_by_side:
        if (i := index.get((clip, one))) is not None and (j := index.get((clip, other))) is not None and i != j:
            distances[i, j] = distances[j, i] = _NEVER
    tree = linkage(squareform(distances, checks=False), "average")
    labels = fcluster(tree, 1 - similarity, criterion="distance").tolist()
    return [
        [track for track, own in zip(tracks, labels, strict=True) if own == label] for label in dict.fromkeys(labels)
    ]


def person_rows(
    tables: Sequence[Faces], *, picture: NDArray[np.float32] | None = None, similarity: float = 0.4
) -> list[NDArray[np.bool_]]:
    """Which rows of each table show the person asked for; at most one row a frame.

    Parameters
    ----------
    tables : sequence of Faces
        One a clip.
    picture : (D,) float32 array, optional
        Embedding of a picture of the person. Without it the person is whoever is seen in most frames: tracks are
        joined to people by the similarity of their embeddings. Tables without embeddings: the longest track of each.
    similarity : float
        Least cosine similarity of two appearances of one person.

    Returns
    -------
    list of (N,) bool arrays
        One a table; all False in a clip where the person is not seen.
    """
    tracks = _tracks(tables)
    chosen = [np.zeros(len(faces), bool) for faces in tables]
    if picture is None and tracks and tracks[0].embedding.size:
        person = find_people(tables, similarity=similarity)[0]
        return [_one_a_frame(*one, person.embedding) for one in zip(tables, person.rows, strict=True)]
    if picture is not None:
        members = [t for t in tracks if float(cosine_similarity(t.embedding, picture)) >= similarity]
        anchor = picture
    else:
        members = [next(t for t in tracks if t.clip == clip) for clip in sorted({t.clip for t in tracks})]
        anchor = np.zeros(0, np.float32)
    for track in members:
        chosen[track.clip] |= track.rows
    return [_one_a_frame(faces, rows, anchor) for faces, rows in zip(tables, chosen, strict=True)]


def _one_a_frame(faces: Faces, rows: NDArray[np.bool_], anchor: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Of several rows of one frame keep the one most like `anchor` (the largest face, without embeddings)."""
    index = np.flatnonzero(rows)
    if len(np.unique(faces.frame[index])) == len(index):
        return rows
    likeness = faces.embedding[index] @ anchor if anchor.size else -faces.face[index].astype(np.float32)
    order = np.lexsort((-np.nan_to_num(likeness, nan=-2.0), faces.frame[index]))
    first = np.unique(faces.frame[index][order], return_index=True)[1]
    kept = np.zeros_like(rows)
    kept[index[order][first]] = True
    return kept
