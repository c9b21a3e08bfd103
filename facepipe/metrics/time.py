"""Scores of a video over time: how much landmarks, crops, identity and pixels shake from frame to frame."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from facepipe.geometry import apply, umeyama
from facepipe.metrics._checks import Float64, real_array, unit_rows
from facepipe.types import Image

__all__ = [
    "edge_flicker",
    "flow_warped_error",
    "flow_warped_errors",
    "identity_variance",
    "interocular_distance",
    "jitter",
    "residual_jitter",
    "similarity_jitter",
]


_LEAST_FOR_FLOW = 16  # pixels a side: below, OpenCV 5.0's DIS crashes the process


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
    mean = unit_rows("embeddings", rows).mean(axis=0)
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


def flow_warped_error(frames: Iterable[Any], *, reference: Iterable[Any] | None = None, masks: Any = None) -> float:
    """How much a video changes beyond what moves: each frame against the next, brought back along the optical flow.

    Parameters
    ----------
    frames : iterable of (H, W, 3) uint8 array
        Consecutive frames, RGB, at least 2. Only two are kept at a time.
    reference : iterable of (H, W, 3) uint8 array, optional
        Frames from which the flow is taken, as many: the target's clip, so that the swap's own flaws do not bend the
        flow to fit them. Default: `frames`.
    masks : iterable of (H, W) arrays, optional
        Weights >= 0, one a frame.

    Returns
    -------
    float
        Mean squared difference of values in [0, 1], over the pixels that both frames show.

    Raises
    ------
    ValueError
        For fewer than 2 frames, sequences of different length, frames of another shape or type, no pixel to compare.

    Notes
    -----
    Lai et al. 2018, "Learning blind video temporal consistency", section 4.1, arXiv:1808.00449. The flow is Kroeger et
    al. 2016 (DIS) in OpenCV's medium preset; a pixel counts as hidden by eq. (5) of Ruder, Dosovitskiy, Brox 2016,
    arXiv:1604.08610.
    """
    return _flow_errors(_together(frames, reference, masks), ("frame",))[0]


def flow_warped_errors(frames: Iterable[Any], reference: Iterable[Any], *, masks: Any = None) -> tuple[float, float]:
    """`flow_warped_error` of `frames` and of `reference`, both along the flow of `reference`, which is found once.

    Parameters and errors as there; the second value is what the first is to be compared with.
    """
    first, second = _flow_errors(_together(frames, reference, masks), ("frame", "reference"))
    return first, second


def _flow_errors(moments: Iterable[_Moment], names: tuple[str, ...]) -> list[float]:
    """The error of each of the named pictures of successive moments."""
    solver = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    totals, weight = [0.0] * len(names), 0.0
    for before, after in itertools.pairwise(moments):
        first, second = (cv2.cvtColor(x.reference, cv2.COLOR_RGB2GRAY) for x in (before, after))
        forward, backward = _flow(solver, first, second), _flow(solver, second, first)
        weights = before.mask * _visible(forward, backward)
        weight += float(weights.sum(dtype=np.float64))
        for i, name in enumerate(names):
            old, new = getattr(before, name), getattr(after, name)
            difference = (_sampled(new, forward) - old.astype(np.float32)) / 255
            totals[i] += float(np.einsum("hw,hwc,hwc->", weights, difference, difference, dtype=np.float64)) / 3
    if not weight:
        raise ValueError("expected at least 2 frames that show a common pixel under the mask, got none")
    return [total / weight for total in totals]


def edge_flicker(
    frames: Iterable[Any], masks: Iterable[Any], *, reference: Iterable[Any] | None = None, width: float = 0.04
) -> float:
    """Flicker along the edge of the mask: mean change of luminance from frame to frame, in a band about the edge.

    Parameters
    ----------
    frames : iterable of (H, W, 3) uint8 array
        Consecutive frames of the swap, RGB, at least 2.
    masks : iterable of (H, W) array
        The composite's masks, in [0, 1]; the edge is where they pass 0.5.
    reference : iterable of (H, W, 3) uint8 array, optional
        The target's clip. With it, only the change that the target does not make counts: 0 when nothing was swapped,
        however much the head moves.
    width : float
        Half of the band, as a share of the root of the mask's area; at least 1 pixel.

    Returns
    -------
    float
        Grey levels of 255 a frame; at least 0.

    Raises
    ------
    ValueError
        For fewer than 2 frames, sequences of different length, no mask with an edge.
    """
    if width <= 0:
        raise ValueError(f"width: expected more than 0, got {width}")
    total = pixels = 0.0
    for before, after in itertools.pairwise(_together(frames, reference, masks)):
        band = _edge_band(after.mask, width)
        change = _luminance(after.frame) - _luminance(before.frame)
        if reference is not None:
            change -= _luminance(after.reference) - _luminance(before.reference)
        total += float(np.abs(change[band]).sum(dtype=np.float64))
        pixels += float(band.sum())
    if not pixels:
        raise ValueError("expected at least 2 frames and a mask that passes 0.5 somewhere, got no edge at all")
    return total / pixels


@dataclass(frozen=True)
class _Moment:
    """A frame with what belongs to it."""

    frame: Image
    reference: Image
    mask: NDArray[np.float32]


def _together(
    frames: Iterable[Any], reference: Iterable[Any] | None, masks: Iterable[Any] | None
) -> Iterator[_Moment]:
    """The three sequences side by side, each checked as it passes; ValueError when one ends early."""
    sequences = [s for s in (frames, reference, masks) if s is not None]
    size: tuple[int, ...] | None = None
    for number, row in enumerate(zip(*sequences, strict=True)):
        values = [np.asarray(v) for v in row]
        frame = values[0]
        size = size or frame.shape
        other = values[1] if reference is not None else frame
        for image in (frame, other):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.shape != size:
                raise ValueError(
                    f"frame {number}: expected uint8 RGB of one size, got {image.dtype} of shape {image.shape} "
                    f"after {size}"
                )
        mask = np.ones(frame.shape[:2], np.float32) if masks is None else values[-1].astype(np.float32)
        if mask.shape != frame.shape[:2] or not (np.isfinite(mask).all() and mask.min() >= 0):
            raise ValueError(f"mask {number}: expected {frame.shape[:2]} finite weights >= 0, got shape {mask.shape}")
        yield _Moment(frame, other, mask)


def _flow(solver: cv2.DISOpticalFlow, first: NDArray[Any], second: NDArray[Any]) -> NDArray[np.float32]:
    """(H, W, 2): where each pixel of the first grey image is in the second, minus where it is."""
    if min(first.shape) < _LEAST_FOR_FLOW:
        raise ValueError(f"frames: expected at least {_LEAST_FOR_FLOW} pixels a side, got {first.shape}")
    return np.asarray(solver.calc(first, second, np.zeros((*first.shape, 2), np.float32)), np.float32)


def _sampled(image: NDArray[Any], flow: NDArray[np.float32]) -> NDArray[np.float32]:
    """`image` at each pixel moved by `flow`, (H, W, 2)."""
    grid = np.indices(flow.shape[:2], np.float32)
    x, y = grid[1] + flow[..., 0], grid[0] + flow[..., 1]
    return np.asarray(cv2.remap(image.astype(np.float32), x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))


def _visible(forward: NDArray[np.float32], backward: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Pixels of the first frame that the second shows: the way there and back ends where it began."""
    height, width = forward.shape[:2]
    back = _sampled(backward, forward)
    grid = np.indices((height, width), np.float32)
    x, y = grid[1] + forward[..., 0], grid[0] + forward[..., 1]
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    error = ((forward + back) ** 2).sum(axis=-1)
    allowed = 0.01 * ((forward**2).sum(axis=-1) + (back**2).sum(axis=-1)) + 0.5  # Ruder et al. 2016, eq. (5)
    return np.asarray(inside & (error <= allowed))


def _luminance(image: Image) -> NDArray[np.float32]:
    return np.asarray(image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32))


def _edge_band(mask: NDArray[np.float32], width: float) -> NDArray[np.bool_]:
    """Pixels within `width` (a share of the root of the area) of the edge of the mask."""
    inside = (mask > 0.5).astype(np.uint8)
    if inside.all() or not inside.any():
        return np.zeros(mask.shape, np.bool_)
    radius = max(1.0, width * float(np.sqrt(inside.sum())))
    distance = [cv2.distanceTransform(x, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) for x in (inside, 1 - inside)]
    return np.asarray(np.maximum(*distance) <= radius)
