"""Scores of a video over time: how much landmarks, crops, identity and pixels shake from frame to frame."""

from __future__ import annotations

from typing import Any

import numpy as np

from facepipe.geometry import apply, umeyama
from facepipe.metrics._checks import Float64, real_array
from facepipe.metrics.identity import cosine_similarity

__all__ = [
    "identity_variance",
    "interocular_distance",
    "jitter",
    "residual_jitter",
    "similarity_jitter",
]


def interocular_distance(points: Any) -> Float64:
    """Distance between the centres of the eyes.

    Parameters
    ----------
    points : (..., 68, 2) or (..., 5, 2) array
        iBUG landmarks (the eye's centre is the mean of its six points), or five points whose first two are the eyes.

    Returns
    -------
    (...,) float64 array
        In the points' unit.

    Raises
    ------
    ValueError
        For another number of points.
    """
    points = real_array("points", points)
    if points.ndim < 2 or points.shape[-1] < 2 or points.shape[-2] not in (5, 68):
        raise ValueError(f"points: expected shape (..., 68, 2) or (..., 5, 2), got {points.shape}")
    if points.shape[-2] == 5:
        first, second = points[..., 0, :2], points[..., 1, :2]
    else:
        first, second = points[..., 36:42, :2].mean(axis=-2), points[..., 42:48, :2].mean(axis=-2)
    return np.asarray(np.linalg.norm(first - second, axis=-1))


def jitter(points: Any, *, scale: Any = None) -> float:
    """Shake of a track of landmarks: mean length of their second difference, in inter-ocular distances.

    The second difference ``p[t+1] - 2 p[t] + p[t-1]`` is 0 for a still face and for one that moves evenly.

    Parameters
    ----------
    points : (T, N, 2) array
        Landmarks of consecutive frames, T >= 3.
    scale : float or (T,) array, optional
        What lengths are divided by. Default: the median inter-ocular distance of the track, which needs 68 or 5
        points.

    Returns
    -------
    float
        At least 0; a number without unit. Multiply by 100 for per cent of the inter-ocular distance.

    Raises
    ------
    ValueError
        For fewer than 3 frames, NaN or infinity, a scale that is not positive.
    """
    points = _track("points", points, least=3)
    size = _positive_scale(interocular_distance(points) if scale is None else scale)
    return float(np.linalg.norm(np.diff(points, n=2, axis=0), axis=-1).mean() / size)


def residual_jitter(points: Any) -> float:
    """Shake of landmarks against each other: what a similarity transform from frame to frame leaves over.

    Movement, turning in the plane and zoom of the whole face do not count, so this measures the landmarker (and the
    expression), not the head.

    Parameters
    ----------
    points : (T, N, 2) array
        68 or 5 landmarks of consecutive frames, T >= 2.

    Returns
    -------
    float
        Median over the frames of the root mean square residual, in per cent of the inter-ocular distance.

    Raises
    ------
    ValueError
        For fewer than 2 frames, NaN or infinity, eyes that coincide, points that fix no similarity transform.
    """
    points = _track("points", points, least=2)
    size = _positive_scale(interocular_distance(points))
    before, after = points[:-1], points[1:]
    residual = np.sqrt(((apply(umeyama(before, after), before) - after) ** 2).sum(axis=-1).mean(axis=-1))
    return float(100 * np.median(residual) / size)


def similarity_jitter(matrices: Any, *, size: float) -> float:
    """Shake of a track of crops: mean second difference of where a similarity transform puts the crop's corners.

    Parameters
    ----------
    matrices : (T, 2, 3) or (T, 3, 3) array
        ``frame_to_crop`` of consecutive frames, T >= 3.
    size : float
        Side of the crop in pixels.

    Returns
    -------
    float
        As a share of the crop's side in the frame (its median); at least 0.

    Raises
    ------
    ValueError
        For fewer than 3 frames, matrices that cannot be inverted, NaN or infinity.
    """
    m = real_array("matrices", matrices, ndim=3)
    if m.shape[1:] not in ((2, 3), (3, 3)) or len(m) < 3:
        raise ValueError(f"matrices: expected shape (T, 2, 3) with T >= 3, got {m.shape}")
    linear, offset = m[:, :2, :2], m[:, :2, 2]
    area = np.abs(np.linalg.det(linear))
    if not area.all():
        raise ValueError(f"matrices: expected matrices that can be inverted, got a singular one at {area.argmin()}")
    corners = np.array([[0, 0], [size, 0], [size, size], [0, size]], np.float64) - 0.5
    in_frame = np.linalg.solve(linear[:, None], (corners - offset[:, None])[..., None])[..., 0]
    side = _positive_scale(size / np.sqrt(area))
    return float(np.linalg.norm(np.diff(in_frame, n=2, axis=0), axis=-1).mean() / side)


def identity_variance(embeddings: Any) -> float:
    """How much identity wanders along a track: ``1 - |mean of the unit embeddings|^2``.

    Parameters
    ----------
    embeddings : (T, D) array
        One embedding a frame, any length but 0.

    Returns
    -------
    float
        In [0, 1]: 0 when all point the same way; it equals the mean of ``1 - cosine`` over all ordered pairs.
    """
    rows = real_array("embeddings", embeddings, ndim=2)
    if not len(rows):
        raise ValueError(f"embeddings: expected at least 1 row, got shape {rows.shape}")
    cosine_similarity(rows, rows)  # refuses rows of zeros
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    mean = unit.mean(axis=0)
    return float(np.clip(1 - mean @ mean, 0, 1))


def _track(name: str, value: Any, *, least: int) -> Float64:
    points = real_array(name, value, ndim=3)
    if len(points) < least or points.shape[1] == 0 or points.shape[2] != 2:
        raise ValueError(f"{name}: expected shape (T, N, 2) with T >= {least}, got {points.shape}")
    return points


def _positive_scale(scale: Any) -> float:
    size = float(np.median(real_array("scale", scale)))
    if size <= 0:
        raise ValueError(f"scale: expected a positive length, got {size}; do the eyes coincide?")
    return size
