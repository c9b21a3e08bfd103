"""Smoothing of landmarks along a track: without delay, and no more than the landmarker's own noise asks for.

The face is taken apart into a rigid movement and what is left of each point in the head's own frame. Both follow the
same model, a point whose velocity wanders (white acceleration), but the rest (lids, lips) has a much lighter touch.
The noise of the measurement is read off the track's fourth differences, which hardly know movement; the acceleration,
at every moment, off second differences over longer spans, which hardly know noise. So what is still becomes steady
and a fast move passes as it is.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facepipe import geometry

__all__ = ["LEAST_ROWS", "rts", "segments", "smooth_track"]

Float64 = NDArray[np.float64]
Floats = NDArray[np.floating[Any]]

LEAST_ROWS = 9
"""Shorter tracks tell too little of their noise and stay as they are."""

_MEDIAN_OF_CHI2 = 0.45494  # of one degree of freedom
_REFERENCE_FRAMES = 48
_POINTS = 160  # smoothed at a time: a long track takes little more memory than its points do


@dataclass(frozen=True, slots=True)
class _Touch:
    """How movement is told from noise."""

    spans: tuple[int, ...]
    """Frames from the middle of a second difference to its ends."""
    window: int
    """Second differences are averaged over so many neighbours on each side."""
    floor: float
    """Least acceleration: spectral density per variance of the noise and cubic frame."""
    lasting: float
    """Deviation of the whole noise over that of the part which changes from frame to frame and is measured."""


_RIGID = _Touch(spans=(4, 8), window=4, floor=1e-3, lasting=1.6)
_REST = _Touch(spans=(1, 2), window=1, floor=0.1, lasting=1.0)
_MARGIN = 4.0  # movement is what goes beyond so many times the noise's share of a second difference


def smooth_track(
    points: ArrayLike, times: ArrayLike, *, variance: ArrayLike | None = None, strength: float = 1.0
) -> Floats:
    """Smooth the points of one face over time, with no delay (zero phase).

    Parameters
    ----------
    points : (T, N, D) array
        Points of one track between two cuts, in pixels; D is 2 or 3.
    times : (T,) array
        When; strictly rising, any unit. Missing frames are simply left out.
    variance : (T,) array, optional
        How much noisier than usual each row is, as a factor > 0 of the noise's variance. Default: all alike.
    strength : float
        Standard deviation of the noise to reckon with, as a multiple of the measured one. 0 changes nothing.

    Returns
    -------
    (T, N, D) array
        float64; float32 of float32, though it is reckoned in float64 where that matters. Tracks of fewer than
        `LEAST_ROWS` rows come back as they are. Constant and even motion is kept.

    Raises
    ------
    ValueError
        Shapes that do not fit, times that do not rise, a negative strength, values that are not finite.
    DegenerateLandmarksError
        A row whose points coincide.
    """
    p, t = np.asarray(points), np.asarray(times, np.float64)
    p = p if p.dtype == np.float32 else np.asarray(p, np.float64)
    if p.ndim != 3 or t.shape != p.shape[:1]:
        raise ValueError(f"points and times: expected shapes (T, N, D) and (T,), got {p.shape} and {t.shape}")
    v = np.ones(len(t)) if variance is None else np.asarray(variance, np.float64)
    if v.shape != t.shape or not (v > 0).all():
        raise ValueError(f"variance: expected {t.shape} factors above 0, got shape {v.shape}")
    if not (np.isfinite(p).all() and (np.diff(t) > 0).all()):
        raise ValueError("points and times: expected finite points at strictly rising times")
    if not 0 <= strength < np.inf:
        raise ValueError(f"strength: expected at least 0, got {strength}")
    if len(p) < LEAST_ROWS or strength == 0:
        return p.copy()
    t = (t - t[0]) / np.median(np.diff(t))
    shape, linear, centre = _taken_apart(p)
    spread = linear.reshape(len(p), -1, 1)  # the axes turn into each other, so they share their noise
    parts: list[tuple[Float64, int]] = [(centre[..., None], 1), (spread, linear.shape[2])]
    noises, accelerations = [], []
    for y, groups in parts:
        noise, acceleration = _told(y, t, v, strength, _RIGID)
        noises.append(np.repeat(noise, groups))
        accelerations.append(np.repeat(acceleration, groups, axis=1))
    movement = np.concatenate([centre[..., None], linear], axis=2)
    rigid = rts(movement, t, np.concatenate(accelerations, axis=1), np.concatenate(noises) * v[:, None])
    inverse, out = np.linalg.inv(linear), np.empty_like(p)
    for start in range(0, p.shape[1], _POINTS):
        some = slice(start, start + _POINTS)
        rest = (_local(p[:, some], inverse, centre) - shape[:, some]).astype(np.float32)
        noise, acceleration = _told(rest, t, v, strength, _REST)
        deformed = shape[:, some] + rts(rest, t, acceleration, noise * v[:, None])
        out[:, some] = np.swapaxes(rigid[..., 1:] @ deformed + rigid[..., :1], 1, 2)
    return out


def _told(y: Floats, t: Float64, v: Float64, strength: float, touch: _Touch) -> tuple[Float64, Float64]:
    """Variance (G,) of the noise in (T, D, G) that is reckoned with, and acceleration (T - 1, G)."""
    noise = (strength * touch.lasting) ** 2 * _noise(y, t, v)
    return noise, _acceleration(y, t, v, noise, touch)


def _taken_apart(p: Floats) -> tuple[Float64, Float64, Float64]:
    """Mean shape (D, N) of size 1, linear part (T, D, D), centre (T, D): p' = A (shape + rest) + c."""
    few = np.linspace(0, (len(p) - 1) // 2, min(len(p), _REFERENCE_FRAMES) // 2).astype(int)
    some = p[np.union1d(few, len(p) - 1 - few)].astype(np.float64)  # the same rows when time runs backwards
    shape = (p[(len(p) - 1) // 2].astype(np.float64) + p[len(p) // 2]) / 2
    for _ in range(2):
        linear, centre = _placed(shape, some)
        shape = _local(some, np.linalg.inv(linear), centre).mean(0).T
    shape = shape - shape.mean(0)
    shape /= np.sqrt((shape**2).sum(-1).mean())
    return shape.T, *_placed(shape, p)


def _placed(shape: Float64, p: Floats) -> tuple[Float64, Float64]:
    m = geometry.umeyama(shape, p)
    return m[:, :-1, :-1], m[:, :-1, -1]


def _local(p: Floats, inverse: Floats, centre: Float64) -> Float64:
    """Points in the head's own frame, (T, D, N), by the inverse of the linear part."""
    return np.asarray(inverse @ (np.swapaxes(p, 1, 2) - centre[..., None]))


def _noise(y: Floats, t: Float64, v: Float64) -> Float64:
    """Variance (G,) of the white noise in (T, D, G), by the median of squared fourth divided differences."""
    n = len(t) - 4
    knots = np.stack([t[k : n + k] for k in range(5)])
    apart = knots[:, None] - knots[None]
    apart[range(5), range(5)] = 1.0
    c = 1 / apart.prod(1)  # (5, T - 4), the weights of a divided difference
    c /= np.sqrt(sum(c[k] ** 2 * v[k : n + k] for k in range(5)))  # so that its variance is the noise's
    c = c.astype(y.dtype)[..., None, None]
    d = c[0] * y[:n]
    for k in range(1, 5):
        d += c[k] * y[k : n + k]
    d = np.abs(d, out=d).transpose(2, 0, 1).reshape(y.shape[2], -1)
    rounding = float(np.finfo(y.dtype).eps) * max(float(np.abs(y).max()), 1.0)
    median = np.median(d, axis=1, overwrite_input=True).astype(np.float64)
    return np.asarray(np.maximum(median**2 / _MEDIAN_OF_CHI2, rounding**2))


def _acceleration(y: Floats, t: Float64, v: Float64, noise: Float64, touch: _Touch) -> Float64:
    """Spectral density (T - 1, G) of the acceleration: what second differences hold beyond noise, at its largest span.

    For white acceleration of density q, the second divided difference over h1 and h2 has the variance
    q (h1 + h2) / 3 + noise (1/h1^2 + (1/h1 + 1/h2)^2 + 1/h2^2).
    """
    most = np.broadcast_to(touch.floor * noise, (len(t), y.shape[2])).copy()
    for m in touch.spans:
        if len(t) < 2 * m + 1:
            continue
        h1, h2 = t[m:-m] - t[: -2 * m], t[2 * m :] - t[m:-m]
        left, right = ((1 / h).astype(y.dtype)[:, None, None] for h in (h1, h2))
        d = (y[2 * m :] - y[m:-m]) * right
        d -= (y[m:-m] - y[: -2 * m]) * left
        share = v[: -2 * m] / h1**2 + v[m:-m] * (1 / h1 + 1 / h2) ** 2 + v[2 * m :] / h2**2
        d *= d
        beyond = _averaged(d.mean(1) - _MARGIN * noise * share[:, None], touch.window)
        q = beyond / _averaged((h1 + h2)[:, None] / 3, touch.window)
        np.maximum(most[m:-m], q, out=most[m:-m])
        np.maximum(most[:m], q[0], out=most[:m])
        np.maximum(most[-m:], q[-1], out=most[-m:])
    return (most[1:] + most[:-1]) / 2


def _averaged(x: Float64, reach: int) -> Float64:
    """Mean over `reach` neighbours on each side along the first axis; fewer at the ends."""
    total, count = x.copy(), np.ones((len(x), 1))
    for k in range(1, min(reach, len(x) - 1) + 1):
        total[k:] += x[:-k]
        total[:-k] += x[k:]
        count[k:] += 1
        count[:-k] += 1
    return np.asarray(total / count)


def rts(values: ArrayLike, times: ArrayLike, process: ArrayLike, noise: ArrayLike) -> Floats:
    """What a Rauch-Tung-Striebel smoother gives for position and velocity under white acceleration.

    The state is (position, velocity), nothing is known of it beforehand, and its best estimate from all measurements,
    past and future, is the smoothing spline (Wahba 1978): it comes out of one five-banded system (Reinsch 1967), in
    the time of one pass, exact where the covariances of the recursion would need a starting guess.

    Parameters
    ----------
    values : (T, D, G) array
        Measurements: G groups of D coordinates each; those of a group share their variances.
    times : (T,) array
        Strictly rising.
    process : (T - 1, G) array
        Spectral density of the acceleration between two measurements, in units of value² / time³; at least 0.
    noise : (T, G) array
        Variance of the measurements, at least 0.

    Returns
    -------
    (T, D, G) array
        Positions, float64; float32 of float32. Values that lie on a line come back as they are.

    References
    ----------
    H. E. Rauch, F. Tung, C. T. Striebel, "Maximum likelihood estimates of linear dynamic systems", AIAA J. 3 (1965)
    1445-1450. DOI 10.2514/3.3166
    G. Wahba, "Improper priors, spline smoothing and the problem of guarding against model errors in regression",
    J. R. Stat. Soc. B 40 (1978) 364-372. DOI 10.1111/j.2517-6161.1978.tb01050.x
    C. H. Reinsch, "Smoothing by spline functions", Numer. Math. 10 (1967) 177-183. DOI 10.1007/BF02162161

    Examples
    --------
    >>> y = np.array([0.0, 1.2, 1.8, 3.0]).reshape(4, 1, 1)
    >>> rts(y, np.arange(4), np.zeros((3, 1)), np.ones((4, 1))).ravel().round(2)  # no acceleration: a line
    array([0.06, 1.02, 1.98, 2.94])
    """
    y = np.asarray(values)
    y = y.astype(np.float32 if y.dtype == np.float32 else np.float64)
    h = np.diff(np.asarray(times, np.float64))[:, None].astype(y.dtype)
    q, r = np.asarray(process, y.dtype), np.asarray(noise, y.dtype)
    if len(y) < 3:
        return y
    i = 1 / h
    first, middle, last = i[:-1], -(i[:-1] + i[1:]), i[1:]  # a column of Q, which makes second divided differences
    hq = h * q
    # Reinsch 1967, eq. (9): R + Q' V Q, with the density of each interval in R.
    a = (hq[:-1] + hq[1:]) / 3 + r[:-2] * first**2 + r[1:-1] * middle**2 + r[2:] * last**2
    b = hq[1:-1] / 6 + r[1:-2] * middle[:-1] * first[1:] + r[2:-1] * last[:-1] * middle[1:]
    c = r[2:-2] * last[:-2] * first[2:]
    slopes = y[1:] - y[:-1]
    slopes *= i[..., None]
    g = np.zeros_like(y)
    np.subtract(slopes[1:], slopes[:-1], out=g[1:-1])
    _solve_banded(np.maximum(a, np.finfo(y.dtype).tiny), b, c, g[1:-1])
    np.subtract(g[1:], g[:-1], out=slopes)
    slopes *= i[..., None]
    np.subtract(slopes[1:], slopes[:-1], out=g[1:-1])  # Q g
    g[0], g[-1] = slopes[0], -slopes[-1]
    g *= r[:, None]
    y -= g
    return y


def _solve_banded(a: Floats, b: Floats, c: Floats, z: Floats) -> None:
    """Solve symmetric positive definite five-banded systems by LDL'.

    Diagonals a (n, G), b (n-1, G), c (n-2, G); right-hand sides z (n, D, G). The solution takes the place of z, the
    pivots that of a.
    """
    n = len(a)
    u, w = np.zeros_like(a), np.zeros_like(a)
    f = np.zeros_like(a[0])
    for k in range(n):
        pivot = a[k]
        if k:
            pivot -= u[k - 1] * f
            z[k] -= u[k - 1] * z[k - 1]
        if k > 1:
            pivot -= w[k - 2] * c[k - 2]
            z[k] -= w[k - 2] * z[k - 2]
        if k < n - 1:
            f = b[k] - w[k - 1] * f if k else b[k]
            u[k] = f / pivot
        if k < n - 2:
            w[k] = c[k] / pivot
    z /= a[:, None]
    for k in range(n - 2, -1, -1):
        z[k] -= u[k] * z[k + 1]
        if k < n - 2:
            z[k] -= w[k] * z[k + 2]


def segments(landmarks: ArrayLike, times: ArrayLike, *, gap: float = 6.5, jump: float = 0.25) -> list[slice]:
    """Stretches of a track without a cut, which are smoothed each on its own.

    Parameters
    ----------
    landmarks : (T, N, D) array
        Points of one track.
    times : (T,) array
        Strictly rising.
    gap : float
        Longest time between two rows, in median steps: 6.5 allows five missing frames.
    jump : float
        A cut is where a step is longer than both its neighbours by so much of the face's size (the root mean square
        distance from its centre). Of real moves, 0.05 is a lot.

    Returns
    -------
    list of slice
        In order; they cover all rows.
    """
    p, t = np.asarray(landmarks, np.float64), np.asarray(times, np.float64)
    if len(p) < 2:
        return [slice(0, len(p))] if len(p) else []
    steps = np.diff(t)
    length = np.sqrt((np.diff(p, axis=0) ** 2).sum(-1).mean(-1)) * np.minimum(np.median(steps) / steps, 1.0)
    size = np.sqrt(((p - p.mean(1, keepdims=True)) ** 2).sum(-1).mean(-1))
    padded = np.pad(length, 1)  # nothing is known before the first row: a cut right behind it counts
    around = np.maximum(padded[:-2], padded[2:]) if len(length) > 1 else length
    cut = (steps > gap * np.median(steps)) | (length - around > jump * np.minimum(size[1:], size[:-1]))
    edges = [0, *(np.flatnonzero(cut) + 1).tolist(), len(p)]
    return [slice(start, stop) for start, stop in itertools.pairwise(edges)]
