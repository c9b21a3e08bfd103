"""Warps that bend: piecewise over triangles, and smooth through points."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facepipe.errors import DegenerateLandmarksError
from facepipe.image._pixels import Pixels, blur, check_choice, check_image, check_size, cv2, missing_blur
from facepipe.image.warping import INTERPOLATIONS, Interpolation

__all__ = ["delaunay", "piecewise_map", "piecewise_warp", "smooth_map"]


def delaunay(points: ArrayLike) -> NDArray[np.int32]:
    """Delaunay triangulation.

    Parameters
    ----------
    points : (N, 2) array

    Returns
    -------
    (T, 3) int32 array
        Corners of each triangle, all turning the same way.

    Raises
    ------
    DegenerateLandmarksError
        Points that span no plane, or are not finite.
    """
    from scipy.spatial import Delaunay, QhullError

    try:
        triangles = np.asarray(Delaunay(np.asarray(points, dtype=np.float64)).simplices, dtype=np.int32)
    except (QhullError, ValueError) as exc:
        raise DegenerateLandmarksError(f"points of shape {np.shape(points)} cannot be triangulated: {exc}") from exc
    return triangles


def piecewise_warp(
    image: Pixels,
    src_points: ArrayLike,
    dst_points: ArrayLike,
    triangles: ArrayLike,
    size: tuple[int, int],
    *,
    depth: ArrayLike | None = None,
    interpolation: Interpolation = "linear",
) -> tuple[Pixels, NDArray[np.bool_]]:
    """Move an image with a mesh: affine inside each triangle, continuous over their edges.

    Parameters
    ----------
    image : (H, W) or (H, W, C) uint8 or float32 array
        Smoothed first where the mesh shrinks it (by the typical factor of all triangles).
    src_points, dst_points : (N, 2) arrays
        Corners in the image and in the result.
    triangles : (T, 3) int array
        Three points each. Those that face the other way in the result than in the image are left out.
    size : (int, int)
        Height and width of the result.
    depth : (N,) array, optional
        Distance of the points; where triangles overlap, that with the smaller mean wins. Without it, the later one.
    interpolation : see `warp`

    Returns
    -------
    warped : (h, w) or (h, w, C) array of the image's dtype
        0 where no triangle is.
    coverage : (h, w) bool array
        Pixels whose centre lies in a triangle.

    Raises
    ------
    ValueError
        Wrong shape, dtype or option, or points that are not finite.
    """
    check_image(image)
    check_choice(interpolation, INTERPOLATIONS, "interpolation")
    place, coverage, extent = piecewise_map(src_points, dst_points, triangles, size, depth=depth)
    image = _prefilter(image, extent)
    warped: Pixels = cv2.remap(image, place, None, INTERPOLATIONS[interpolation], borderMode=cv2.BORDER_REPLICATE)
    warped = warped.reshape(*coverage.shape, *image.shape[2:])
    warped[~coverage] = 0
    return warped, coverage


def piecewise_map(
    src_points: ArrayLike,
    dst_points: ArrayLike,
    triangles: ArrayLike,
    size: tuple[int, int],
    *,
    depth: ArrayLike | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.bool_], float]:
    """Where each pixel of the result of `piecewise_warp` comes from; the same parameters and errors.

    Returns
    -------
    place : (h, w, 2) float32 array
        x and y in the image, for ``cv2.remap(image, place, None, …)``; -1 where no triangle is.
    coverage : (h, w) bool array
        Pixels whose centre lies in a triangle.
    extent : float
        Pixels of the image, along an edge, that the typical pixel of the result takes the place of; 1 for no triangle.
    """
    h, w = check_size(size)
    src, dst = np.asarray(src_points, dtype=np.float64), np.asarray(dst_points, dtype=np.float64)
    tri = np.asarray(triangles)
    if src.shape != dst.shape or src.ndim != 2 or src.shape[1] != 2 or not np.isfinite(src + dst).all():
        raise ValueError(f"points: expected two (N, 2) arrays, finite, but got {src.shape} and {dst.shape}")
    if tri.ndim != 2 or tri.shape[1] != 3 or (tri.size and not 0 <= tri.min() <= tri.max() < len(src)):
        raise ValueError(f"triangles: expected (T, 3) indices of {len(src)} points, but got {tri.shape}")
    if depth is not None:
        z = np.asarray(depth, dtype=np.float64)
        if z.shape != (len(src),):
            raise ValueError(f"depth: expected shape {(len(src),)}, but got {z.shape}")
        tri = tri[np.argsort(-z[tri].mean(1), kind="stable")]
    s, d = src[tri], dst[tri]
    area_s, area_d = _doubled_area(s), _doubled_area(d)
    kept = area_s * area_d > 1e-12
    place, coverage = _mesh_map(s[kept], d[kept], (h, w))
    extent = math.sqrt(float(np.median(area_s[kept] / area_d[kept]))) if kept.any() else 1.0
    return place, coverage, extent


def _prefilter(image: Pixels, extent: float) -> Pixels:
    """Blur for a map that packs `extent` source pixels into one."""
    sigma = missing_blur(extent)
    return blur(image, sigma, sigma)


def _doubled_area(t: NDArray[np.float64]) -> NDArray[np.float64]:
    """Signed, of triangles (T, 3, 2)."""
    u, v = t[:, 1] - t[:, 0], t[:, 2] - t[:, 0]
    area: NDArray[np.float64] = u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]
    return area


def _mesh_map(
    s: NDArray[np.float64], d: NDArray[np.float64], size: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """(h, w, 2) source x and y of every pixel in the triangles d (T, 3, 2), and (h, w) where they are set."""
    h, w = size
    t, y, first, count = _spans(d, size)
    # One entry a pixel: where it is in the result, and its place within its span.
    begin = np.cumsum(count) - count
    place = np.arange(int(count.sum())) - np.repeat(begin, count)
    index = np.repeat(y * w + first, count) + place
    steps = place.astype(np.float32)
    coverage = np.zeros(h * w, np.bool_)
    coverage[index] = True
    maps = np.full((h * w, 2), -1, np.float32)
    for c, slope_x, slope_y in zip((0, 1), *_gradients(s, d), strict=True):
        start = s[t, 0, c] + slope_x[t] * (first - d[t, 0, 0]) + slope_y[t] * (y - d[t, 0, 1])
        coordinate = np.repeat(slope_x[t].astype(np.float32), count)
        coordinate *= steps
        coordinate += np.repeat(start.astype(np.float32), count)
        maps[index, c] = coordinate  # of a repeated index the last value stays: later triangles cover earlier ones
    return maps.reshape(h, w, 2), coverage.reshape(h, w)


def _gradients(s: NDArray[np.float64], d: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Change of the source's (x, y) per pixel of the result along x and along y, (2, T) each."""
    (ux, uy), (vx, vy) = (d[:, 1] - d[:, 0]).T, (d[:, 2] - d[:, 0]).T
    su, sv = (s[:, 1] - s[:, 0]).T, (s[:, 2] - s[:, 0]).T
    det = ux * vy - uy * vx  # Cramer's rule for the two edges
    return (su * vy - sv * uy) / det, (sv * ux - su * vx) / det


def _spans(d: NDArray[np.float64], size: tuple[int, int]) -> tuple[NDArray[np.int64], ...]:
    """Rows of pixels in triangles (T, 3, 2): triangle, y, first x and number of pixels; in the triangles' order."""
    h, w = size
    x0, y0 = d[..., 0].T, d[..., 1].T  # (3, T), as all that follows
    top = np.clip(np.ceil(y0.min(0) - _SEAM), 0, h).astype(np.int64)
    bottom = np.clip(np.floor(y0.max(0) + _SEAM), -1, h - 1).astype(np.int64)
    rows = np.maximum(bottom - top + 1, 0)
    t = np.repeat(np.arange(len(d)), rows)
    y = np.arange(len(t)) - np.repeat(np.cumsum(rows) - rows, rows) + top[t]
    # Inside is where the three edge functions a x + b y + c are not negative; a row cuts each at one x.
    sign = np.sign(_doubled_area(d))
    a, b = (y0 - np.roll(y0, -1, axis=0)) * sign, (np.roll(x0, -1, axis=0) - x0) * sign
    c = _SEAM * np.hypot(a, b) - a * x0 - b * y0
    low, high = np.full(len(t), -1.0), np.full(len(t), float(w))
    for a_i, b_i, c_i in zip(a[:, t], b[:, t], c[:, t], strict=True):
        value = b_i * y + c_i
        with np.errstate(divide="ignore", invalid="ignore"):
            cut = -value / a_i
        np.maximum(low, cut, out=low, where=a_i > 0)
        np.minimum(high, cut, out=high, where=a_i < 0)
        low[(a_i == 0) & (value < 0)] = w + 1
    first = np.clip(np.ceil(low), 0, w + 1).astype(np.int64)
    last = np.clip(np.floor(high), -1, w - 1).astype(np.int64)
    return t, y, first, np.maximum(last - first + 1, 0)


_SEAM = 1e-4
"""Pixels by which triangles are widened, so that rounding leaves no crack between two of them."""


def smooth_map(
    points: ArrayLike, displacement: ArrayLike, size: tuple[int, int], *, grid: int = 8, smoothing: float = 0.0
) -> NDArray[np.float32]:
    """A smooth map through scattered displacements: a thin-plate spline, evaluated on a grid and interpolated.

    Parameters
    ----------
    points : (N, 2) array
        Where the displacement is known, in pixels of the result; at least three, not on a line.
    displacement : (N, 2) array
        What to add to a pixel of the result to get its place in the source.
    size : (int, int)
        Height and width of the result.
    grid : int
        Pixels between nodes; in between Catmull-Rom interpolation, exact for linear displacements. Choose it no larger
        than half the distance between neighbouring points whose displacements differ much.
    smoothing : float
        0 passes through every point; larger values bend less (added to the diagonal, points scaled to unit spread).

    Returns
    -------
    (h, w, 2) float32 array
        x and y in the source, for ``cv2.remap(image, map, None, …)``. Far from the points it goes on linearly: add
        points without displacement where the image shall stay.

    Raises
    ------
    DegenerateLandmarksError
        Points on a line, repeated points, or values that are not finite.

    References
    ----------
    F. L. Bookstein, "Principal warps: thin-plate splines and the decomposition of deformations", IEEE Trans. Pattern
    Anal. Mach. Intell. 11 (1989) 567-585. DOI 10.1109/34.24792
    """
    h, w = check_size(size)
    p, v = np.asarray(points, dtype=np.float64), np.asarray(displacement, dtype=np.float64)
    if p.ndim != 2 or p.shape[1] != 2 or p.shape != v.shape or len(p) < 3 or not np.isfinite(p + v).all():
        raise DegenerateLandmarksError(
            f"points and displacement are expected to be finite (N, 2) arrays, N > 2, but got {p.shape} and {v.shape}"
        )
    if grid < 1 or not smoothing >= 0:
        raise ValueError(f"expected grid of 1 or more and smoothing of 0 or more, but got {grid} and {smoothing}")
    nodes_x, across = _catmull_rom(w, grid)
    nodes_y, down = _catmull_rom(h, grid)
    nodes = np.stack(np.meshgrid(nodes_x, nodes_y), axis=-1)
    coarse = np.ascontiguousarray(_thin_plate(p, v, nodes.reshape(-1, 2), smoothing).T)
    dense = down @ coarse.reshape(2, *nodes.shape[:2]) @ np.ascontiguousarray(across.T)
    dense[0] += np.arange(w)
    dense[1] += np.arange(h)[:, None]
    return np.stack([dense[0], dense[1]], axis=-1).astype(np.float32)


def _catmull_rom(length: int, step: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Positions of the nodes along an axis, and the (length, nodes) matrix that interpolates between them."""
    count = (length - 1) // step + 4  # one node before the first pixel, two after the last
    positions = np.arange(length) / step
    cell = np.floor(positions).astype(np.int64)
    t = positions - cell
    weights = np.stack(
        [-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, -(t**2) + t**3], axis=-1
    )
    matrix = np.zeros((length, count))
    for i in range(4):
        matrix[np.arange(length), cell + i] = weights[:, i] / 2
    return np.arange(-step, (count - 1) * step, step, dtype=np.float64), matrix


def _thin_plate(
    p: NDArray[np.float64], v: NDArray[np.float64], at: NDArray[np.float64], smoothing: float
) -> NDArray[np.float64]:
    """Thin-plate spline through (p, v), evaluated at points (M, 2)."""
    centre, spread = p.mean(0), max(float(p.std()), 1e-12)
    q, at = (p - centre) / spread, (at - centre) / spread
    n = len(q)
    system = np.zeros((n + 3, n + 3))  # Bookstein 1989, the matrix L
    system[:n, :n] = _plate_kernel(q, q) + smoothing * np.eye(n)
    system[:n, n], system[:n, n + 1 :] = 1.0, q
    system[n:, :n] = system[:n, n:].T
    if np.linalg.matrix_rank(system[:n, n:]) < 3 or len(np.unique(q, axis=0)) < n:
        raise DegenerateLandmarksError("the points lie on a line or repeat: they fix no smooth map")
    weights = np.linalg.solve(system, np.vstack([v, np.zeros((3, 2))]))
    value: NDArray[np.float64] = _plate_kernel(at, q) @ weights[:n] + weights[n] + at @ weights[n + 1 :]
    return value


def _plate_kernel(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """U(r) = r^2 log r^2 between two sets of points."""
    r2 = ((a[:, None] - b[None]) ** 2).sum(-1)
    kernel: NDArray[np.float64] = r2 * np.log(np.maximum(r2, 1e-300))
    return kernel
