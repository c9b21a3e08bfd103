"""Masks: of polygons, of hulls, and their soft edges."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facepipe.errors import DegenerateLandmarksError
from facepipe.image._pixels import Mask, check_mask, check_size, cv2

__all__ = ["hull_mask", "polygon_mask", "soften"]

_SCANLINES = 8
"""Lines in a row of pixels on which a polygon's coverage is measured; along a line it is exact."""


def polygon_mask(points: ArrayLike, size: tuple[int, int]) -> Mask:
    """Share of each pixel that a polygon covers.

    Parameters
    ----------
    points : (N, 2) array
        Corners in order; may lie outside of the picture.
    size : (int, int)
        Height and width.

    Returns
    -------
    (h, w) float32 array in [0, 1]

    Raises
    ------
    DegenerateLandmarksError
        Fewer than three points, or values that are not finite.
    """
    h, w = check_size(size)
    p = np.asarray(points, dtype=np.float64)
    if p.ndim != 2 or p.shape[1] != 2 or len(p) < 3 or not np.isfinite(p).all():
        raise DegenerateLandmarksError(f"a polygon is expected to be three or more finite points, but got {p.shape}")
    x, line, sign = _crossings(p, h * _SCANLINES)
    # A crossing at x adds its sign to all that lies right of it: part of one pixel, the whole of all that follow.
    x = np.clip(x + 0.5, 0, w)
    column = x.astype(np.int64)
    part = x - column
    cell = line // _SCANLINES * (w + 2) + column
    added = np.bincount(cell, sign * (1 - part), h * (w + 2)) + np.bincount(cell + 1, sign * part, h * (w + 2))
    coverage = np.abs(np.cumsum(added.reshape(h, w + 2), axis=1)[:, :w]) / _SCANLINES
    mask: Mask = np.clip(coverage, 0, 1).astype(np.float32)
    mask[mask < 1e-6] = 0  # rounding of the sums
    return mask


def _crossings(p: NDArray[np.float64], lines: int) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Where the edges of a closed polygon cross horizontal lines: x, number of the line, +1 downwards or -1."""
    q = np.roll(p, -1, axis=0)
    # Line j lies at y = (j + 0.5) / _SCANLINES - 0.5; an edge takes its upper end along and leaves its lower one.
    ends = np.ceil((np.stack([p[:, 1], q[:, 1]]) + 0.5) * _SCANLINES - 0.5)
    first, last = np.clip(ends.min(0), 0, lines).astype(np.int64), np.clip(ends.max(0), 0, lines).astype(np.int64)
    count = last - first
    edge = np.repeat(np.arange(len(p)), count)
    line = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    y = (line + 0.5) / _SCANLINES - 0.5
    rise = q[edge, 1] - p[edge, 1]
    x = p[edge, 0] + (y - p[edge, 1]) * (q[edge, 0] - p[edge, 0]) / rise
    return x, line, np.where(rise > 0, 1, -1)


def hull_mask(points: ArrayLike, size: tuple[int, int]) -> Mask:
    """`polygon_mask` of the convex hull of points in any order; the same parameters and errors."""
    p = np.asarray(points, dtype=np.float32)
    if p.ndim != 2 or p.shape[1] != 2 or len(p) < 3 or not np.isfinite(p).all():
        raise DegenerateLandmarksError(f"a hull is expected to have three or more finite points, but got {p.shape}")
    return polygon_mask(cv2.convexHull(p)[:, 0], size)


def soften(mask: Mask, *, erode: float = 0.0, feather: float = 0.0) -> Mask:
    """Let a mask fall off smoothly *inside* its border, so that nothing spreads outside.

    Parameters
    ----------
    mask : (H, W) float32 or bool array
        Inside is where it is at least 0.5. The edge of the picture is a border too.
    erode : float
        Pixels from the border inwards that become 0.
    feather : float
        Pixels over which it then rises from 0 to 1, with slope 0 at both ends.

    Returns
    -------
    (H, W) float32 array in [0, 1]
        0 outside of the given mask and at its border, 1 deeper than ``erode + feather``.

    Raises
    ------
    ValueError
        A negative width, or not a mask.
    """
    mask = check_mask(mask, np.shape(mask))
    if mask.ndim != 2 or not erode >= 0 or not feather >= 0:
        raise ValueError(f"expected a (H, W) mask and widths of 0 or more, but got {mask.shape}, {erode}, {feather}")
    inside = cv2.copyMakeBorder((mask >= 0.5).view(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=(0,))
    distance = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    depth = distance - np.float32(0.5 + erode)  # the border runs half a pixel before the first pixel inside
    t = np.clip(depth / np.float32(max(feather, 1e-6)), 0, 1)
    soft: Mask = t * t * (3 - 2 * t)
    return soft
