"""Scores of identity: similarity of embeddings, retrieval, verification.

Convention: an embedding is a row; the last axis is its dimension; it need not have unit length. Identity means nothing
without its net, its crop and a floor: name them beside the number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facepipe.metrics._checks import Float64, feature_rows, real_array, unit_rows

__all__ = [
    "Verification",
    "cosine_matrix",
    "cosine_similarity",
    "normalized_distance",
    "retrieval_accuracy",
    "retrieval_ranks",
    "verification",
]


def cosine_similarity(a: Any, b: Any) -> Float64:
    """Cosine of the angle between embeddings, row by row.

    Parameters
    ----------
    a, b : (..., D) array
        Embeddings; the axes before the last broadcast: ``(N, D)`` with ``(N, D)`` or with ``(D,)`` gives ``(N,)``.
        For all pairs use `cosine_matrix`.

    Returns
    -------
    (...,) float64 array
        In [-1, 1].

    Raises
    ------
    ValueError
        For different dimensions, a row of zeros (it has no direction), NaN or infinity.

    Examples
    --------
    >>> cosine_similarity([[1, 0], [1, 1]], [1, 0]).round(4).tolist()
    [1.0, 0.7071]
    """
    a, b = _unit_pair(a, b)
    return np.asarray(np.clip((a * b).sum(axis=-1), -1, 1))


def cosine_matrix(a: Any, b: Any) -> Float64:
    """Cosine similarity of every row of `a`, (N, D), with every row of `b`, (M, D): (N, M) float64."""
    a, b = _unit_pair(feature_rows("a", a), feature_rows("b", b))
    return np.asarray(np.clip(a @ b.T, -1, 1))


def normalized_distance(a: Any, b: Any) -> Float64:
    """Euclidean distance of embeddings scaled to unit length, row by row.

    Parameters
    ----------
    a, b : (..., D) array
        Embeddings, broadcast like in `cosine_similarity`.

    Returns
    -------
    (...,) float64 array
        In [0, 2]; equals ``sqrt(2 - 2 * cosine)``, without the loss of digits near 0.
    """
    a, b = _unit_pair(a, b)
    return np.asarray(np.linalg.norm(a - b, axis=-1))


def _unit_pair(a: Any, b: Any) -> tuple[Float64, Float64]:
    a, b = real_array("a", a), real_array("b", b)
    if a.ndim == 0 or b.ndim == 0 or a.shape[-1] != b.shape[-1] or a.shape[-1] == 0:
        raise ValueError(f"expected embeddings of one dimension (the last axis), got shapes {a.shape} and {b.shape}")
    return unit_rows("a", a), unit_rows("b", b)


def retrieval_accuracy(
    queries: Any, query_labels: Any, gallery: Any, gallery_labels: Any, *, top: tuple[int, ...] = (1, 5)
) -> dict[int, float]:
    """How often the right identity is among the `k` nearest entries of a gallery, by cosine similarity.

    Parameters
    ----------
    queries : (N, D) array
        Embeddings to look up.
    query_labels : (N,) array
        Their identities.
    gallery : (M, D) array
        Embeddings that are searched; it must not hold the queries themselves.
    gallery_labels : (M,) array
        Their identities.
    top : tuple of int
        The values of `k`, each from 1 to M.

    Returns
    -------
    dict
        From each `k` to the share of queries in [0, 1]. Ties count against the query: an entry of another identity
        that is as near as the right one stands before it.

    Raises
    ------
    ValueError
        For lengths that do not match, and a `k` larger than the gallery.
    """
    ranks = retrieval_ranks(queries, query_labels, gallery, gallery_labels)
    size = len(np.asarray(gallery_labels))
    if not top or min(top) < 1 or max(top) > size:
        raise ValueError(f"top: expected ranks from 1 to {size} (the gallery's size), got {top}")
    return {k: float((ranks < k).mean()) for k in top}


def retrieval_ranks(queries: Any, query_labels: Any, gallery: Any, gallery_labels: Any) -> NDArray[np.int64]:
    """How many wrong entries of a gallery stand before the first right one, by cosine similarity; for each query.

    Parameters
    ----------
    queries, query_labels, gallery, gallery_labels
        As in `retrieval_accuracy`.

    Returns
    -------
    (N,) int64 array
        From 0, the best, to M, the gallery's size: there is no right entry at all. Ties count against the query.

    Raises
    ------
    ValueError
        For lengths that do not match.
    """
    similarity = cosine_matrix(queries, gallery)
    query_labels, gallery_labels = np.asarray(query_labels), np.asarray(gallery_labels)
    if (query_labels.shape, gallery_labels.shape) != ((similarity.shape[0],), (similarity.shape[1],)):
        raise ValueError(
            f"expected one label a row, {similarity.shape[0]} and {similarity.shape[1]}, "
            f"got shapes {query_labels.shape} and {gallery_labels.shape}"
        )
    same = query_labels[:, None] == gallery_labels[None]
    best = np.where(same, similarity, -np.inf).max(axis=1, keepdims=True)
    before = ((similarity >= best) & ~same).sum(axis=1)
    return np.asarray(np.where(same.any(axis=1), before, similarity.shape[1]), np.int64)


@dataclass(frozen=True)
class Verification:
    """The receiver operating characteristic of a verifier that accepts a pair when its score >= threshold.

    Attributes
    ----------
    thresholds : (K,) float64 array
        Falling; the first is infinity (nothing is accepted), then every distinct score.
    far : (K,) float64 array
        False accept rate: share of pairs of different people that are accepted. Rising from 0 to 1.
    tar : (K,) float64 array
        True accept rate: share of pairs of the same person that are accepted. Rising from 0 to 1.
    """

    thresholds: Float64
    far: Float64
    tar: Float64

    @property
    def auc(self) -> float:
        """Area under the curve: the chance that a same pair outscores a different one, ties counting half."""
        return float(np.trapezoid(self.tar, self.far))

    @property
    def eer(self) -> float:
        """Equal error rate: where the false accept rate meets the false reject rate, between points linearly."""
        gap = self.far - (1 - self.tar)  # rises from -1 to 1
        after = int(np.argmax(gap >= 0))
        share = gap[after] / (gap[after] - gap[after - 1])
        return float(self.far[after] - share * (self.far[after] - self.far[after - 1]))

    def tar_at_far(self, far: float) -> float:
        """The largest true accept rate of a threshold whose false accept rate is at most `far`, in [0, 1].

        With fewer than ``1 / far`` different pairs this is the rate without a single false accept.
        """
        if not 0 <= far <= 1:
            raise ValueError(f"far: expected a rate in [0, 1], got {far}")
        return float(self.tar[self.far <= far].max())


def verification(scores: Any, same: Any) -> Verification:
    """Verification curve from the scores of pairs.

    Parameters
    ----------
    scores : (N,) array
        Similarity of each pair, larger is more alike. Negate distances.
    same : (N,) bool array
        Whether the pair shows one person; both kinds must occur.

    Returns
    -------
    Verification
        With `.auc`, `.eer` and `.tar_at_far`.

    Raises
    ------
    ValueError
        For lengths that do not match, a single kind of pair, NaN or infinity.
    """
    scores = real_array("scores", scores, ndim=1)
    truth: NDArray[Any] = np.asarray(same)
    if truth.shape != scores.shape or truth.dtype != np.bool_:
        raise ValueError(f"same: expected {len(scores)} booleans, got {truth.dtype} of shape {truth.shape}")
    if truth.all() or not truth.any():
        raise ValueError(f"same: expected pairs of both kinds, got {int(truth.sum())} same of {truth.size}")
    order = np.argsort(-scores, kind="stable")
    scores, truth = scores[order], truth[order]
    last = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)  # ties enter together
    accepted = np.cumsum(truth)[last]
    return Verification(
        thresholds=np.concatenate([[np.inf], scores[last]]),
        far=np.concatenate([[0.0], (last + 1 - accepted) / (~truth).sum()]),
        tar=np.concatenate([[0.0], accepted / truth.sum()]),
    )
