"""Points and the transforms between them: similarity fits, Procrustes analysis, templates, head pose. Numpy only.

Points are ``(x, y)`` or ``(x, y, z)`` in the last axis. A matrix maps column vectors, ``y = A x + t``: ``[A | t]`` of
shape (D, D+1), or (D+1, D+1) with the last row ``0 … 0 1``. All angles are degrees; signs as in `facepipe.types`.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facepipe.errors import ConfigError, DegenerateLandmarksError, WeightsMissingError

__all__ = [
    "TEMPLATES",
    "TEMPLATE_SIZE",
    "GeneralizedProcrustes",
    "Procrustes",
    "Similarity",
    "SimilarityFit",
    "apply",
    "compose",
    "euler_to_rotation",
    "face_pose",
    "ffhq_quad",
    "fit_each",
    "fit_similarity",
    "five_points",
    "generalized_procrustes",
    "head_pose",
    "invert",
    "mean_face68",
    "mean_face_mesh",
    "mesh_triangles",
    "procrustes",
    "rotation_to_euler",
    "scaling",
    "similarity_params",
    "template",
    "template_points",
    "umeyama",
]

Points = NDArray[np.float64]

_TOLERANCE = 64 * np.finfo(np.float64).eps
"""Relative size below which a spread or a singular value is rounding noise."""

_HUBER = 1.345  # deviations beyond which a point counts less: 95 % efficient where noise is normal
_MEDIAN_OF_NORMS = 1.1774  # median length of a planar error whose coordinates have a deviation of 1 (Rayleigh)
_REWEIGHTINGS = 10
_TINY = 1e-12

_BLOCK = 256
"""Sets that are centred at once: 256 sets of 68 points stay in the processor's cache."""


# ---------------------------------------------------------------------------------------------- similarity transform


def umeyama(
    src: ArrayLike, dst: ArrayLike, *, weights: ArrayLike | None = None, with_scale: bool = True
) -> NDArray[np.float64]:
    """Least-squares similarity transform that maps `src` onto `dst`; never a reflection.

    Minimises ``sum_i w_i |dst_i - (c R src_i + t)|^2`` over scale ``c``, rotation ``R`` and translation ``t``.

    Parameters
    ----------
    src, dst : (..., N, D) array
        Corresponding points of any dimension; the batch axes broadcast. Integers are promoted to float64.
    weights : (..., N) array, optional
        Non-negative; equal when not given. Points of weight zero are ignored, even when they are not finite.
    with_scale : bool
        False for a rigid motion, c = 1.

    Returns
    -------
    (..., D+1, D+1) float64 array
        Homogeneous matrix. For mirrored points it holds the best proper rotation and that rotation's own
        least-squares scale, which may be small.

    Raises
    ------
    DegenerateLandmarksError
        The shapes do not fit, a value is not finite, the weights are negative or all zero, the points coincide, or
        they do not fix one rotation (in 3-D: points on a line).

    References
    ----------
    S. Umeyama, "Least-squares estimation of transformation parameters between two point patterns", IEEE Trans.
    Pattern Anal. Mach. Intell. 13 (1991) 376-380. DOI 10.1109/34.88573

    Examples
    --------
    >>> umeyama([[0, 0], [1, 0], [0, 1]], [[2, 3], [2, 5], [0, 3]]).round(6) + 0.0
    array([[ 0., -2.,  2.],
           [ 2.,  0.,  3.],
           [ 0.,  0.,  1.]])
    """
    return _fit(src, dst, weights, with_scale=with_scale, reflection=False)


SimilarityFit = Literal["umeyama", "procrustes", "robust"]


def fit_similarity(src: ArrayLike, dst: ArrayLike, *, fit: SimilarityFit = "umeyama") -> NDArray[np.float64]:
    """Similarity transform that maps `src` onto `dst`, by one of three rules; never a reflection.

    Parameters
    ----------
    src, dst : (..., N, D) array
        See `umeyama`.
    fit : {"umeyama", "procrustes", "robust"}
        ``umeyama``: least squares. ``procrustes``: its rotation, and the scale at which both shapes have one size
        (root of the sum of squares about the mean, Gower 1975): noise does not shrink the face. ``robust``: least
        squares by Huber's weights, so that a few points that are far off count little.

    Returns
    -------
    (..., D+1, D+1) float64 array
        Homogeneous matrix.

    Raises
    ------
    DegenerateLandmarksError
        As `umeyama`.

    References
    ----------
    J. C. Gower, "Generalized Procrustes analysis", Psychometrika 40 (1975) 33-51. DOI 10.1007/BF02291478
    P. W. Holland, R. E. Welsch, "Robust regression using iteratively reweighted least-squares", Commun. Stat. Theory
    Methods 6 (1977) 813-827. DOI 10.1080/03610927708827533
    """
    matrix = umeyama(src, dst)
    match fit:
        case "umeyama":
            return matrix
        case "procrustes":
            return _of_one_size(matrix, np.asarray(src, np.float64), np.asarray(dst, np.float64))
        case "robust":
            for _ in range(_REWEIGHTINGS):
                residual = np.linalg.norm(apply(matrix, src) - np.asarray(dst, np.float64), axis=-1)
                near = _HUBER / _MEDIAN_OF_NORMS * np.median(residual, axis=-1, keepdims=True) + _TINY
                matrix = umeyama(src, dst, weights=near / np.maximum(residual, near))
            return matrix


def fit_each(src: ArrayLike, dst: ArrayLike, *, fit: SimilarityFit = "umeyama") -> NDArray[np.float64]:
    """`fit_similarity` of each set of `src`, NaN where its points fix no transform.

    Parameters
    ----------
    src : (..., N, D) array
        The sets.
    dst : (N, D) array
        What each is mapped onto.
    fit
        See `fit_similarity`.

    Returns
    -------
    (..., D+1, D+1) float64 array
    """
    sets = np.asarray(src)
    try:
        return fit_similarity(sets, dst, fit=fit)
    except DegenerateLandmarksError:  # which it is, has to be found out one by one
        matrices = np.full((*sets.shape[:-2], sets.shape[-1] + 1, sets.shape[-1] + 1), np.nan)
        for index in np.ndindex(sets.shape[:-2]):
            with suppress(DegenerateLandmarksError):
                matrices[index] = fit_similarity(sets[index], dst, fit=fit)
        return matrices


def _of_one_size(matrix: Points, src: Points, dst: Points) -> Points:
    """The transform with its scale changed to the ratio of both shapes' sizes, about their means."""
    size = [np.sqrt(np.square(p - p.mean(-2, keepdims=True)).sum((-2, -1))) for p in (src, dst)]
    out = matrix.copy()
    out[..., :-1, :-1] *= (size[1] / size[0] / similarity_params(matrix).scale)[..., None, None]
    out[..., :-1, -1] = dst.mean(-2) - np.einsum("...ij,...j->...i", out[..., :-1, :-1], src.mean(-2))
    return out


def _fit(
    src: ArrayLike, dst: ArrayLike, weights: ArrayLike | None, *, with_scale: bool, reflection: bool
) -> NDArray[np.float64]:
    """The one implementation of the fit; `reflection` allows det(R) = -1 where that fits better."""
    x, y, w, batch = _paired(src, dst, weights)
    m = _moments(x, y, w)
    _check_spread(m, batch)
    planar = x.shape[-1] == 2 and not reflection
    R, trace, gap = _rotation_planar(m.cov) if planar else _rotation_svd(m.cov, reflection=reflection)

    # The optimum is a single rotation only while the two smallest signed singular values do not cancel
    # (Umeyama 1991, below eq. (43): rank >= m - 1). Rounding of the means scales with the distance from the origin.
    sx, sy = np.sqrt(m.var_x), np.sqrt(m.var_y)
    noise = _TOLERANCE * (sx * sy + _norm(m.mean_x) * sy + _norm(m.mean_y) * sx)
    reason = "the points fix no single rotation (too few, on a line in 3-D, or a mirrored shape without a direction)"
    _refuse(gap <= noise, reason, batch)

    A = (trace / m.var_x)[:, None, None] * R if with_scale else R  # eq. (42)
    out = np.zeros((len(x), x.shape[-1] + 1, x.shape[-1] + 1))
    out[:, :-1, :-1] = A
    out[:, :-1, -1] = m.mean_y - np.einsum("bij,bj->bi", A, m.mean_x)  # eq. (41)
    out[:, -1, -1] = 1.0
    return out.reshape(*batch, *out.shape[1:])


def _rotation_planar(cov: Points) -> tuple[Points, Points, Points]:
    """R, tr(DS) and d1 + s d2 for D = 2 without an SVD: maximise tr(R^T cov) over the angle of R."""
    a, b = cov[:, 0, 0] + cov[:, 1, 1], cov[:, 1, 0] - cov[:, 0, 1]
    trace = np.hypot(a, b)
    cos, sin = np.divide([a, b], trace, where=trace > 0, out=np.zeros((2, len(a))))
    return np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2), trace, trace


def _rotation_svd(cov: Points, *, reflection: bool) -> tuple[Points, Points, Points]:
    """R, tr(DS) and the sum of the two smallest signed singular values, for any D."""
    U, d, Vt = np.linalg.svd(cov)  # cov = U D V^T, below eq. (38)
    sign = np.sign(np.linalg.det(U) * np.linalg.det(Vt))  # eq. (43), which is eq. (39) when the rank is full
    if reflection:  # a flat shape needs no mirror: keep the proper rotation
        sign = np.where(d[:, -1] > _TOLERANCE * d[:, 0], 1.0, sign)
    S = np.ones_like(d)
    S[:, -1] = sign
    return (U * S[:, None, :]) @ Vt, (d * S).sum(-1), (d * S)[:, -2:].sum(-1)  # eq. (40)


class _Moments(NamedTuple):
    """Umeyama 1991, eq. (34)-(38), a row a set."""

    mean_x: Points
    mean_y: Points
    var_x: Points
    var_y: Points
    cov: Points


def _moments(x: Points, y: Points, w: Points | None) -> _Moments:
    """Weighted moments of B sets of N points; `w` sums to one over N."""
    B, N, D = x.shape
    m = _Moments(np.empty((B, D)), np.empty((B, D)), np.empty(B), np.empty(B), np.empty((B, D, D)))
    uniform = np.full((1, 1, N), 1.0 / N)
    with np.errstate(over="ignore", invalid="ignore"):  # told by _check_spread
        for start in range(0, B, _BLOCK):
            s = slice(start, start + _BLOCK)
            ws = uniform if w is None else w[s, None, :]
            # Points of float32 become float64 here: all of a film's at once would fill the memory.
            xs, ys = np.asarray(x[s], np.float64), np.asarray(y[s], np.float64)
            mean_x, mean_y = ws @ xs, ws @ ys  # eq. (34), (35)
            m.mean_x[s], m.mean_y[s] = mean_x[:, 0], mean_y[:, 0]
            # A mean repeated to full size is subtracted five times faster than a broadcast one (inner loop of D).
            xc, yc = np.repeat(mean_x, N, axis=1), np.repeat(mean_y, N, axis=1)
            np.subtract(xs, xc, out=xc)
            np.subtract(ys, yc, out=yc)
            if w is not None:  # half of the weight on each side of every product
                root = np.sqrt(w[s])[..., None]
                xc, yc = xc * root, yc * root
            m.var_x[s] = np.einsum("bnd,bnd->b", xc, xc)  # eq. (36)
            m.var_y[s] = np.einsum("bnd,bnd->b", yc, yc)  # eq. (37)
            m.cov[s] = np.swapaxes(yc, -1, -2) @ xc  # eq. (38)
    if w is None:
        m = m._replace(var_x=m.var_x / N, var_y=m.var_y / N, cov=m.cov / N)
    return m


def _paired(
    src: ArrayLike, dst: ArrayLike, weights: ArrayLike | None
) -> tuple[Points, Points, Points | None, tuple[int, ...]]:
    """Validate, promote, broadcast, and flatten the batch axes into one."""
    x, y = (p if p.dtype == np.float32 else np.asarray(p, np.float64) for p in map(np.asarray, (src, dst)))
    if x.ndim < 2 or y.ndim < 2 or x.shape[-2:] != y.shape[-2:]:
        raise DegenerateLandmarksError(
            f"src and dst are expected to be (..., N, D) with equal N and D, but got {x.shape} and {y.shape}"
        )
    N, D = x.shape[-2:]
    if N < 2 or D < 1:
        raise DegenerateLandmarksError(f"at least two points of one dimension are needed, but got shape {x.shape}")
    w = None if weights is None else np.asarray(weights, dtype=np.float64)
    if w is not None and (w.ndim < 1 or w.shape[-1] != N):
        raise DegenerateLandmarksError(f"weights are expected to be (..., {N}), but got {w.shape}")
    try:
        batch = np.broadcast_shapes(x.shape[:-2], y.shape[:-2], () if w is None else w.shape[:-1])
    except ValueError as exc:
        raise DegenerateLandmarksError(f"the batch axes of {x.shape} and {y.shape} do not broadcast") from exc
    x = np.broadcast_to(x, (*batch, N, D)).reshape(-1, N, D)
    y = np.broadcast_to(y, (*batch, N, D)).reshape(-1, N, D)
    if w is None:
        return x, y, None, batch
    w = np.broadcast_to(w, (*batch, N)).reshape(-1, N)
    total = w.sum(-1, keepdims=True)
    _refuse(~(np.isfinite(total[:, 0]) & (w >= 0).all(-1)), "weights are negative or not finite", batch)
    _refuse(total[:, 0] == 0, "all weights are zero", batch)
    ignored = (w == 0)[..., None]
    return np.where(ignored, 0.0, x), np.where(ignored, 0.0, y), w / total, batch


def _check_spread(m: _Moments, batch: tuple[int, ...]) -> None:
    """Refuse what is not finite, and points that coincide."""
    with np.errstate(over="ignore", invalid="ignore"):
        total = m.var_x + m.var_y + np.einsum("bij->b", m.cov)
    _refuse(~np.isfinite(total), "a coordinate is not finite (or too large to be squared)", batch)
    for name, mean, var in (("src", m.mean_x, m.var_x), ("dst", m.mean_y, m.var_y)):
        _refuse(np.sqrt(var) <= _TOLERANCE * _norm(mean), f"all points of {name} that have weight coincide", batch)


def _norm(vectors: Points) -> Points:
    squares: Points = np.einsum("...d,...d->...", vectors, vectors)
    root: Points = np.sqrt(squares)
    return root


def _refuse(bad: NDArray[np.bool_], reason: str, batch: tuple[int, ...]) -> None:
    """Raise when any set is bad, and name the first one."""
    if not bad.any():
        return
    where = ""
    if batch:
        index = tuple(int(i) for i in np.unravel_index(int(np.argmax(bad)), batch))
        where = f"set {index[0] if len(index) == 1 else index} of {batch}: "
    raise DegenerateLandmarksError(f"{where}{reason}")


# --------------------------------------------------------------------------------------------------------- Procrustes


@dataclass(frozen=True, eq=False)
class Procrustes:
    """What `procrustes` found.

    Attributes
    ----------
    disparity : float
        ``sum |a - aligned|^2 / sum |a - mean(a)|^2``: 0 for equal shapes. With scaling at most 1, the same when a and
        b change places, and (with reflection) the number that `scipy.spatial.procrustes` gives.
    transform : (D+1, D+1) float64 array
        Maps b onto a, in the units of a.
    aligned : (N, D) float64 array
        `transform` applied to b.
    """

    disparity: float
    transform: NDArray[np.float64]
    aligned: NDArray[np.float64]


def procrustes(a: ArrayLike, b: ArrayLike, *, scaling: bool = True, reflection: bool = False) -> Procrustes:
    """Lay shape `b` over shape `a` and say how different they remain.

    Parameters
    ----------
    a, b : (N, D) array
        Corresponding points; `a` stays where it is.
    scaling : bool
        Whether b may change its size.
    reflection : bool
        Whether b may be mirrored where that fits better.

    Raises
    ------
    DegenerateLandmarksError
        As `umeyama`, or the input is a batch.

    References
    ----------
    J. C. Gower, "Generalized Procrustes analysis", Psychometrika 40 (1975) 33-51. DOI 10.1007/BF02291478
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.ndim != 2:
        raise DegenerateLandmarksError(f"a and b are expected to be (N, D), but got {a.shape} and {b.shape}")
    transform = _fit(b, a, None, with_scale=scaling, reflection=reflection)
    aligned = apply(transform, b)
    disparity = ((a - aligned) ** 2).sum() / ((a - a.mean(0)) ** 2).sum()
    return Procrustes(float(disparity), transform, aligned)


@dataclass(frozen=True, eq=False)
class GeneralizedProcrustes:
    """What `generalized_procrustes` found.

    Attributes
    ----------
    mean : (N, D) float64 array
        The mean shape, centred on the origin, about as the first shape is turned. Its centroid size (root of the sum
        of squares) is, with scaling, the mean centroid size of the shapes.
    transforms : (K, D+1, D+1) float64 array
        Each maps a shape onto the mean.
    aligned : (K, N, D) float64 array
        The shapes in the frame of the mean.
    residual : float
        Sum of squared distances of the aligned shapes to the mean, per shape, over the squared size of the mean.
    iterations : int
        Rounds that were made.
    converged : bool
        Whether the mean moved by less than `tol` in the last round.
    """

    mean: NDArray[np.float64]
    transforms: NDArray[np.float64]
    aligned: NDArray[np.float64]
    residual: float
    iterations: int
    converged: bool


def generalized_procrustes(
    shapes: ArrayLike, *, scaling: bool = True, reflection: bool = False, iterations: int = 100, tol: float = 1e-10
) -> GeneralizedProcrustes:
    """Mean shape of several, free of where, how large and how turned each of them is.

    Alternates between fitting every shape to the mean and averaging the fitted shapes; with scaling the mean keeps
    its size, else all would shrink to a point. Each half step lowers the sum of squares, so it converges.

    Parameters
    ----------
    shapes : (K, N, D) array
        K shapes of N corresponding points.
    scaling, reflection : bool
        As in `procrustes`.
    iterations : int
        Most rounds to make.
    tol : float
        Stop when the mean moves by less than this part of its size.

    Raises
    ------
    DegenerateLandmarksError
        As `umeyama`; the message names the shape.

    References
    ----------
    J. C. Gower, "Generalized Procrustes analysis", Psychometrika 40 (1975) 33-51. DOI 10.1007/BF02291478
    """
    x = np.asarray(shapes, dtype=np.float64)
    if x.ndim != 3 or len(x) == 0:
        raise DegenerateLandmarksError(f"shapes are expected to be (K, N, D) with K > 0, but got {x.shape}")
    if iterations < 1:
        raise ConfigError(f"iterations is expected to be at least 1, but got {iterations}")
    x = x - x.mean(1, keepdims=True)
    size = float(np.sqrt((x**2).sum((1, 2))).mean())
    mean = x[0] * (size / np.sqrt((x[0] ** 2).sum())) if scaling and x[0].any() else x[0]
    converged, done = False, 0
    while not converged and done < iterations:
        transforms = _fit(x, mean, None, with_scale=scaling, reflection=reflection)
        new = apply(transforms, x).mean(0)
        if scaling:
            new *= size / np.sqrt((new**2).sum())
        converged = bool(np.sqrt(((new - mean) ** 2).sum()) <= tol * size)
        mean, done = new, done + 1
    transforms = _fit(shapes, mean, None, with_scale=scaling, reflection=reflection)
    aligned = apply(transforms, shapes)
    residual = float(((aligned - mean) ** 2).sum() / len(x) / (mean**2).sum())
    return GeneralizedProcrustes(mean, transforms, aligned, residual, done, converged)


# ---------------------------------------------------------------------------------------------------------- templates

TEMPLATE_SIZE: Mapping[str, int] = {"arcface5": 112, "ffhq": 512, "ibug33": 112, "ibug51": 112, "ibug68": 112}
"""Side in pixels of the square crop in which each template of `TEMPLATES` is given."""

_ARCFACE5 = [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)]
"""Eyes, nose, corners of the mouth as published with ArcFace (Deng et al. 2019, DOI 10.1109/CVPR.2019.00482)."""

_FFHQ = [
    (192.98138, 239.94708),
    (318.90277, 240.19360),
    (256.63416, 314.01935),
    (201.26117, 371.41043),
    (313.08905, 371.15118),
]
"""The mean five points of FFHQ pictures at 512 pixels, as published with the restoration nets trained on them."""


_PARTS: Mapping[str, NDArray[np.int64]] = {"ibug33": np.r_[17:49, 54], "ibug51": np.arange(17, 68)}
"""Which of the 68 points: without the jaw; and also without the lips but for the corners of the mouth."""


@functools.cache
def _face_model(key: str) -> Points:
    """An array of data/face_model.npz, read-only float64."""
    file = resources.files("facepipe").joinpath("data", "face_model.npz")
    try:
        data = file.read_bytes()
    except FileNotFoundError as exc:
        raise WeightsMissingError(
            "facepipe/data/face_model.npz is not in this installation: install facepipe again, or run the script "
            "that makes it in a source checkout"
        ) from exc
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return _read_only(arrays[key])


def _read_only(values: ArrayLike) -> Points:
    array = np.array(values, dtype=np.float64)
    array.flags.writeable = False
    return array


class _Templates(Mapping[str, NDArray[np.float64]]):
    """Canonical landmarks by name; the mean face's file is read when its template is first looked at."""

    def __init__(self) -> None:
        self._points = {"arcface5": _read_only(_ARCFACE5), "ffhq": _read_only(_FFHQ)}

    def __getitem__(self, name: str) -> NDArray[np.float64]:
        if name in self._points:
            return self._points[name]
        if name not in TEMPLATE_SIZE:
            raise KeyError(name)
        whole = _face_model("ibug68")
        return _read_only(whole[_PARTS[name]]) if name in _PARTS else whole

    def __iter__(self) -> Iterator[str]:
        return iter(TEMPLATE_SIZE)

    def __len__(self) -> int:
        return len(TEMPLATE_SIZE)


TEMPLATES: Mapping[str, NDArray[np.float64]] = _Templates()
"""Canonical landmarks, read-only float64, in pixels of a square crop whose side is in `TEMPLATE_SIZE`.

``arcface5`` (5, 2): eyes, nose, corners of the mouth; ``ffhq`` (5, 2): the same under the FFHQ alignment;
``ibug68`` (68, 2): the mean face, placed in the frame of arcface5; ``ibug51`` (51, 2): its points without the jaw's;
``ibug33`` (33, 2): brows, nose, eyes and corners of the mouth, which move least when a mouth opens.
"""


def template(name: str, size: int, *, margin: float = 0.0) -> NDArray[np.float64]:
    """A template in pixels of a square crop of another size.

    Parameters
    ----------
    name : str
        A key of `TEMPLATES`.
    size : int
        Side of the crop in pixels.
    margin : float
        The template's own square is widened by this part of its side on each of the four sides, then scaled to
        `size`; 0.25 makes the face 1 / 1.5 as large.

    Returns
    -------
    (N, 2) float64 array
        Half-pixel rule: ``(p + 0.5) * s - 0.5``.

    Raises
    ------
    ConfigError
        Unknown name, or a size or margin out of range.
    """
    if name not in TEMPLATE_SIZE:
        raise ConfigError(f"template {name!r} is not known: choose one of {', '.join(TEMPLATE_SIZE)}")
    if not size > 0 or not margin > -0.5:
        raise ConfigError(f"expected size > 0 and margin > -0.5, but got size {size} and margin {margin}")
    side = TEMPLATE_SIZE[name]
    scale = size / (side * (1 + 2 * margin))
    return (TEMPLATES[name] + 0.5 + margin * side) * scale - 0.5


def mean_face68() -> NDArray[np.float64]:
    """The mean face's 68 iBUG points in three dimensions, frontal; a model for `head_pose`.

    Returns
    -------
    (68, 3) float64 array, read-only
        x to the image's right, y down, z away from the camera; the unit is the distance between the eyes' centres.
    """
    return _face_model("points68")


def mean_face_mesh() -> NDArray[np.float64]:
    """The mean face's FaceMesh vertices in the frame and units of `mean_face68`.

    Returns
    -------
    (468, 3) float64 array
        Read-only; symmetric about x = 0.
    """
    return _face_model("mesh")


def mesh_triangles() -> NDArray[np.int64]:
    """Triangles over the vertices of FaceMesh: Delaunay's on the mean face seen from the front.

    Returns
    -------
    (T, 3) int64 array
        Indices of vertices.
    """
    return _face_model("triangles").astype(np.int64)


# ------------------------------------------------------------------------------------------------------ landmark sets


def five_points(landmarks: ArrayLike) -> NDArray[np.float64]:
    """Eye centres, tip of the nose and corners of the mouth, in ArcFace's order, from 68 iBUG points.

    Parameters
    ----------
    landmarks : (..., 68, D) or (..., 5, D) array
        Five points are given back as they are.

    Returns
    -------
    (..., 5, D) float64 array
        Eye at the image's left, eye at its right, nose, left and right corner of the mouth.

    Raises
    ------
    DegenerateLandmarksError
        Neither 68 nor 5 points.
    """
    p = np.asarray(landmarks, dtype=np.float64)
    if p.ndim < 2 or p.shape[-2] not in (5, 68):
        raise DegenerateLandmarksError(f"landmarks are expected to be (..., 68, D) or (..., 5, D), but got {p.shape}")
    if p.shape[-2] == 5:
        return p
    eyes = [p[..., 36:42, :].mean(-2), p[..., 42:48, :].mean(-2)]
    return np.stack([*eyes, p[..., 30, :], p[..., 48, :], p[..., 54, :]], axis=-2)


def template_points(landmarks: ArrayLike, name: str) -> NDArray[np.float64]:
    """The points of a face that correspond to those of a template.

    Parameters
    ----------
    landmarks : (..., 68, D) array
        iBUG points.
    name : str
        A key of `TEMPLATES`.

    Returns
    -------
    (..., N, D) float64 array

    Raises
    ------
    DegenerateLandmarksError
        Not 68 points.
    """
    if name in ("arcface5", "ffhq"):
        return five_points(landmarks)
    p = np.asarray(landmarks, dtype=np.float64)
    if p.ndim < 2 or p.shape[-2] != 68:
        raise DegenerateLandmarksError(f"expected (..., 68, D) landmarks, but got shape {p.shape}")
    return p[..., _PARTS[name], :] if name in _PARTS else p


def ffhq_quad(landmarks: ArrayLike) -> NDArray[np.float64]:
    """The oriented square that FFHQ's alignment crops around a face.

    Parameters
    ----------
    landmarks : (..., 68, 2) or (..., 5, 2) array
        Frame pixels.

    Returns
    -------
    (..., 4, 2) float64 array
        Corners of the square in frame pixels: top left, bottom left, bottom right, top right as the face sees it.

    Raises
    ------
    DegenerateLandmarksError
        Wrong shape, or eyes and mouth that give no direction.

    References
    ----------
    T. Karras, S. Laine, T. Aila, "A style-based generator architecture for generative adversarial networks", CVPR
    2019, appendix A. DOI 10.1109/CVPR.2019.00453
    """
    p = five_points(landmarks)
    eyes, mouth = (p[..., 0, :] + p[..., 1, :]) / 2, (p[..., 3, :] + p[..., 4, :]) / 2
    eye_to_eye, eye_to_mouth = p[..., 1, :] - p[..., 0, :], mouth - eyes
    x = eye_to_eye - _quarter_turn(eye_to_mouth)
    length = _norm(x)
    _refuse(~(length > 0).reshape(-1), "eyes and mouth give no direction", p.shape[:-2])
    side = np.maximum(2.0 * _norm(eye_to_eye), 1.8 * _norm(eye_to_mouth))
    x *= (side / length)[..., None]
    y, c = _quarter_turn(x), eyes + 0.1 * eye_to_mouth
    return np.stack([c - x - y, c - x + y, c + x + y, c + x - y], axis=-2)


def _quarter_turn(v: Points) -> Points:
    """(x, y) turned from +x towards +y."""
    return np.stack([-v[..., 1], v[..., 0]], axis=-1)


# ----------------------------------------------------------------------------------------------------------- matrices


def apply(matrix: ArrayLike, points: ArrayLike) -> NDArray[np.float64]:
    """Map points by an affine transform.

    Parameters
    ----------
    matrix : (..., D, D+1) or (..., D+1, D+1) array
        The last row of a square matrix is not looked at.
    points : (..., N, D) array
        The batch axes broadcast with the matrix's.

    Returns
    -------
    (..., N, D) float64 array
    """
    m, p = _affine(matrix), np.asarray(points, dtype=np.float64)
    if p.ndim < 2 or p.shape[-1] != m.shape[-2]:
        raise ValueError(f"points are expected to be (..., N, {m.shape[-2]}) for this matrix, but got {p.shape}")
    mapped: Points = p @ np.swapaxes(m[..., :-1], -1, -2) + m[..., None, :, -1]
    return mapped


def invert(matrix: ArrayLike) -> NDArray[np.float64]:
    """The transform back.

    Parameters
    ----------
    matrix : (..., D, D+1) or (..., D+1, D+1) array

    Returns
    -------
    float64 array of the matrix's shape

    Raises
    ------
    DegenerateLandmarksError
        The matrix is singular or not finite.
    """
    m = _affine(matrix)
    try:
        A = np.linalg.inv(m[..., :-1])
    except np.linalg.LinAlgError as exc:
        raise DegenerateLandmarksError("a matrix that maps everything onto a line or a point has no inverse") from exc
    if not np.isfinite(A).all():
        raise DegenerateLandmarksError("a matrix with values that are not finite has no inverse")
    return _as_shape(np.concatenate([A, -A @ m[..., -1:]], axis=-1), np.shape(matrix))


def compose(*matrices: ArrayLike) -> NDArray[np.float64]:
    """One transform for several, the first given being applied first.

    ``compose(frame_to_crop, crop_to_net)`` is ``frame_to_net``.

    Parameters
    ----------
    *matrices : (..., D, D+1) or (..., D+1, D+1) arrays
        At least one; the batch axes broadcast.

    Returns
    -------
    float64 array
        (..., D+1, D+1) when all are square, else (..., D, D+1).
    """
    if not matrices:
        raise ValueError("compose expects at least one matrix")
    square = all(np.shape(m)[-2] == np.shape(m)[-1] for m in matrices)
    total = _affine(matrices[0])
    for matrix in matrices[1:]:
        m = _affine(matrix)
        linear, shift = m[..., :-1] @ total[..., :-1], m[..., :-1] @ total[..., -1:] + m[..., -1:]
        total = np.concatenate([linear, shift], axis=-1)
    D = total.shape[-2]
    return _as_shape(total, (D + 1 if square else D, D + 1))


def scaling(factor: float) -> NDArray[np.float64]:
    """(2, 3) matrix that makes a picture `factor` times as large: its edges stay edges (half-pixel rule)."""
    return np.array([[factor, 0, (factor - 1) / 2], [0, factor, (factor - 1) / 2]], np.float64)


def _affine(matrix: ArrayLike) -> Points:
    """The (..., D, D+1) part of a matrix."""
    m = np.asarray(matrix, dtype=np.float64)
    if m.ndim < 2 or m.shape[-1] - m.shape[-2] not in (0, 1) or m.shape[-1] < 2:
        raise ValueError(f"a matrix is expected to be (..., D, D+1) or (..., D+1, D+1), but got {m.shape}")
    return m[..., : m.shape[-1] - 1, :]


def _as_shape(m: Points, shape: tuple[int, ...]) -> Points:
    """Add the last row when the last two of `shape` are equal."""
    if shape[-2] != shape[-1]:
        return m
    last = np.zeros((*m.shape[:-2], 1, m.shape[-1]))
    last[..., -1] = 1.0
    return np.concatenate([m, last], axis=-2)


class Similarity(NamedTuple):
    """A planar similarity in words. Arrays of the matrix's batch shape."""

    scale: NDArray[np.float64]
    """Destination pixels per source pixel."""
    angle_deg: NDArray[np.float64]
    """Degrees, positive clockwise as seen in the image (from +x towards +y)."""
    translation: NDArray[np.float64]
    """(..., 2): where the origin goes."""


def similarity_params(matrix: ArrayLike) -> Similarity:
    """Scale, angle and translation of a planar transform; of an affine one, those of its nearest similarity.

    Parameters
    ----------
    matrix : (..., 2, 3) or (..., 3, 3) array

    Returns
    -------
    Similarity
    """
    m = _affine(matrix)
    if m.shape[-2] != 2:
        raise ValueError(f"a planar matrix, (..., 2, 3) or (..., 3, 3), is expected, but got {np.shape(matrix)}")
    a, b = (m[..., 0, 0] + m[..., 1, 1]) / 2, (m[..., 1, 0] - m[..., 0, 1]) / 2
    return Similarity(np.asarray(np.hypot(a, b)), np.asarray(np.degrees(np.arctan2(b, a))), m[..., -1])


# ---------------------------------------------------------------------------------------------------------- head pose


def euler_to_rotation(yaw: ArrayLike, pitch: ArrayLike, roll: ArrayLike) -> NDArray[np.float64]:
    """Rotation matrix of a head from its angles: R = Rz(roll) Rx(-pitch) Ry(-yaw).

    Axes: x to the image's right, y down, z away from the camera. Yaw turns about the head's own vertical axis, then
    pitch leans that axis, then roll turns the image; so turning the picture changes roll alone.

    Parameters
    ----------
    yaw, pitch, roll : (...) array
        Degrees; positive: towards the image's right, up, clockwise as seen in the image.

    Returns
    -------
    (..., 3, 3) float64 array
        Maps the frontal head's coordinates to the camera's.
    """
    degrees = np.stack(np.broadcast_arrays(np.negative(yaw), np.negative(pitch), np.asarray(roll)))
    angles = np.radians(degrees.astype(np.float64))
    (sy, sp, sr), (cy, cp, cr) = np.sin(angles), np.cos(angles)
    rows = [
        [cr * cy - sr * sp * sy, -sr * cp, cr * sy + sr * sp * cy],
        [sr * cy + cr * sp * sy, cr * cp, sr * sy - cr * sp * cy],
        [-cp * sy, sp, cp * cy],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def rotation_to_euler(rotation: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Yaw, pitch and roll of a rotation matrix: the inverse of `euler_to_rotation`.

    Parameters
    ----------
    rotation : (..., 3, 3) array

    Returns
    -------
    yaw, pitch, roll : (...) float64 arrays
        Degrees; yaw and roll in [-180, 180], pitch in [-90, 90]. At a pitch of ±90 (the gimbal lock: crown or chin
        towards the camera) only a sum of yaw and roll is defined.
    """
    R = np.asarray(rotation, dtype=np.float64)
    if R.shape[-2:] != (3, 3):
        raise ValueError(f"a rotation is expected to be (..., 3, 3), but got {R.shape}")
    yaw = np.arctan2(R[..., 2, 0], R[..., 2, 2])
    pitch = np.arctan2(-R[..., 2, 1], np.hypot(R[..., 2, 0], R[..., 2, 2]))
    roll = np.arctan2(-R[..., 0, 1], R[..., 1, 1])
    return np.degrees(yaw), np.degrees(pitch), np.degrees(roll)


def head_pose(
    landmarks: ArrayLike, model: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Yaw, pitch and roll of a head from its landmarks.

    Parameters
    ----------
    landmarks : (..., N, 3) or (..., N, 2) array
        In three dimensions (z in the scale of x and y, smaller is nearer) the rotation is the similarity fit's. In
        two, that of a camera far away (scaled orthographic projection).
    model : (N, 3) array
        The same points of a frontal head, for instance `mean_face68`; its own pose is the zero.

    Returns
    -------
    yaw, pitch, roll : (...) float64 arrays
        Degrees, see `euler_to_rotation`.

    Raises
    ------
    DegenerateLandmarksError
        Wrong shapes, values that are not finite, or points that fix no pose.

    References
    ----------
    D. F. DeMenthon, L. S. Davis, "Model-based object pose in 25 lines of code", Int. J. Comput. Vis. 15 (1995)
    123-141 (the algorithm POS). DOI 10.1007/BF01450852
    """
    p, X = np.asarray(landmarks, dtype=np.float64), np.asarray(model, dtype=np.float64)
    if X.ndim != 2 or X.shape[-1] != 3 or p.ndim < 2 or p.shape[-2] != len(X) or p.shape[-1] not in (2, 3):
        raise DegenerateLandmarksError(
            f"landmarks are expected to be (..., N, 2 or 3) and model (N, 3), but got {p.shape} and {X.shape}"
        )
    if p.shape[-1] == 3:
        m = umeyama(X, p)[..., :-1, :-1]
        return rotation_to_euler(m / np.cbrt(np.linalg.det(m))[..., None, None])
    return rotation_to_euler(_orthographic_rotation(p, X))


def face_pose(
    landmarks: ArrayLike, mesh: NDArray[np.floating[Any]]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Yaw, pitch and roll of N faces: by the mesh (N, 468, 3) in three dimensions, else by the 68 points (N, 68, 2).

    See `head_pose`. A mesh that is empty is none.
    """
    return head_pose(mesh, mean_face_mesh()) if mesh.size else head_pose(landmarks, mean_face68())


def _orthographic_rotation(p: Points, X: Points) -> Points:
    """(..., 3, 3) rotation of model points X (N, 3) that are seen at p (..., N, 2) by a camera far away."""
    batch = p.shape[:-2]
    Xc = X - X.mean(0)
    depth = np.linalg.svd(Xc, compute_uv=False)
    if not np.isfinite(depth).all() or len(X) < 4 or depth[-1] <= _TOLERANCE * depth[0]:
        raise DegenerateLandmarksError(
            "the model is flat, not finite, or has fewer than four points: it fixes no pose"
        )
    _refuse(~np.isfinite(p).all((-1, -2)).reshape(-1), "a coordinate is not finite", batch)
    # POS, section 3: p = s (I, J)^T X + t, linear least squares by the pseudo-inverse of the object matrix.
    A = np.swapaxes(p - p.mean(-2, keepdims=True), -1, -2) @ np.linalg.pinv(Xc).T
    U, d, Vt = np.linalg.svd(A, full_matrices=False)
    _refuse((d[..., 1] <= _TOLERANCE * d[..., 0]).reshape(-1), "the points lie on a line and fix no pose", batch)
    rows = U @ Vt  # the nearest pair of orthonormal rows, s removed
    third = np.cross(rows[..., 0, :], rows[..., 1, :])
    return np.concatenate([rows, third[..., None, :]], axis=-2)
