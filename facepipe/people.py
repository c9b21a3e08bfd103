"""Who is who: choose the rows of a table of faces that show one person."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from facepipe.metrics import cosine_similarity
from facepipe.types import Faces

__all__ = ["mean_embedding", "person_rows"]


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
    if picture is not None:
        members = [t for t in tracks if float(cosine_similarity(t.embedding, picture)) >= similarity]
        anchor = picture
    elif tracks and tracks[0].embedding.size:
        members, anchor = _largest_group(tracks, similarity)
    else:
        members = [next(t for t in tracks if t.clip == clip) for clip in sorted({t.clip for t in tracks})]
        anchor = np.zeros(0, np.float32)
    for track in members:
        chosen[track.clip] |= track.rows
    return [_one_a_frame(faces, rows, anchor) for faces, rows in zip(tables, chosen, strict=True)]


def _largest_group(tracks: list[_Track], similarity: float) -> tuple[list[_Track], NDArray[np.float32]]:
    """Group the tracks, longest first, each with the nearest group that is near enough; the group of most frames."""
    groups: list[list[_Track]] = []
    centres: list[NDArray[np.float32]] = []
    for track in tracks:
        near = [float(cosine_similarity(track.embedding, centre)) for centre in centres]
        if near and max(near) >= similarity:
            best = int(np.argmax(near))
            groups[best].append(track)
            weights = np.array([member.rows.sum() for member in groups[best]], np.float32)
            centres[best] = mean_embedding(np.stack([m.embedding for m in groups[best]]) * weights[:, None])
        else:
            groups.append([track])
            centres.append(track.embedding)
    largest = max(range(len(groups)), key=lambda i: sum(int(track.rows.sum()) for track in groups[i]))
    return groups[largest], centres[largest]


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
