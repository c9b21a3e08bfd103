"""Pixels: warp and paste, masks, colour transfer, blending, piecewise and smooth warps. Numpy and OpenCV.

Images are (H, W) or (H, W, C) arrays, C up to 4, uint8 or float32; colour is RGB, and float32 colour has the range of
uint8, 0 … 255. Masks are (H, W) float32 in [0, 1]. Points are (x, y) with pixel centres at integers; sizes are
(height, width); matrices are named by direction, all as in `facepipe.types`. Wrong shapes and types raise ValueError.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import cv2 as _cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from facepipe.errors import DegenerateLandmarksError

cv2: Any = _cv2  # its stubs differ from release to release

__all__ = [
    "ColorStats",
    "apply_color",
    "blend_feather",
    "blend_multiband",
    "color_stats",
    "delaunay",
    "hull_mask",
    "match_color",
    "paste",
    "paste_into",
    "piecewise_warp",
    "polygon_mask",
    "sharpness",
    "smooth_map",
    "soften",
    "transfer_map",
    "warp",
]

Pixels = NDArray[Any]
"""(H, W) or (H, W, C), uint8 or float32."""

Mask = NDArray[np.float32]
"""(H, W) in [0, 1]."""

Border = Literal["constant", "replicate", "reflect"]
Interpolation = Literal["nearest", "linear", "cubic", "lanczos"]
Method = Literal["reinhard", "covariance", "histogram", "none"]
Space = Literal["lab", "rgb"]

_BORDERS = {"constant": cv2.BORDER_CONSTANT, "replicate": cv2.BORDER_REPLICATE, "reflect": cv2.BORDER_REFLECT_101}
_INTERPOLATIONS = {
    "nearest": cv2.INTER_NEAREST,
    "linear": cv2.INTER_LINEAR,
    "cubic": cv2.INTER_CUBIC,
    "lanczos": cv2.INTER_LANCZOS4,
}
_RADIUS = 4
"""Source pixels that the widest interpolation looks at on each side."""


# ------------------------------------------------------------------------------------------------------------- checks


def _check_image(image: Pixels, name: str = "image") -> Pixels:
    if not isinstance(image, np.ndarray) or image.dtype not in (np.uint8, np.float32):
        got = image.dtype if isinstance(image, np.ndarray) else type(image).__name__
        raise ValueError(f"{name}: expected an array of uint8 or float32, but got {got}")
    if image.ndim not in (2, 3) or 0 in image.shape or (image.ndim == 3 and image.shape[2] > 4):
        raise ValueError(f"{name}: expected (H, W) or (H, W, 1 to 4) with pixels in it, but got {image.shape}")
    return image


def _check_rgb(image: Pixels, name: str = "image") -> Pixels:
    if _check_image(image, name).ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"{name}: expected RGB of shape (H, W, 3), but got {image.shape}")
    return image


def _check_mask(mask: Pixels, size: tuple[int, ...], name: str = "mask") -> Mask:
    if not isinstance(mask, np.ndarray) or mask.shape != size[:2]:
        raise ValueError(f"{name}: expected an array of shape {size[:2]}, but got {np.shape(mask)}")
    if mask.dtype == np.uint8:
        raise ValueError(f"{name}: expected float32 in [0, 1] or bool, but got uint8: divide by 255 or compare first")
    return mask if mask.dtype == np.float32 else mask.astype(np.float32)


def _check_size(size: Sequence[int]) -> tuple[int, int]:
    if len(size) != 2 or size[0] < 1 or size[1] < 1:
        raise ValueError(f"size: expected (height, width) of at least one pixel, but got {size}")
    return int(size[0]), int(size[1])


def _check_choice(value: str, choices: Any, name: str) -> None:
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(choices)}, but got {value!r}")


def _inverse_rows(matrix: ArrayLike) -> list[list[float]]:
    """The inverse of a planar affine matrix as two rows of floats (quicker than small arrays)."""
    m = np.asarray(matrix, dtype=np.float64)
    if m.shape not in ((2, 3), (3, 3)):
        raise ValueError(f"matrix: expected shape (2, 3) or (3, 3), but got {m.shape}")
    (a, b, tx), (c, d, ty) = m[:2].tolist()
    det = a * d - b * c
    if not math.isfinite(det + tx + ty) or abs(det) < 1e-18:
        raise ValueError(f"matrix: expected one that is finite and has an inverse, but got {m[:2].tolist()}")
    ia, ib, ic, id_ = d / det, -b / det, -c / det, a / det
    return [[ia, ib, -(ia * tx + ib * ty)], [ic, id_, -(ic * tx + id_ * ty)]]


# ----------------------------------------------------------------------------------------------------- warp and paste


@dataclass(frozen=True, slots=True)
class _Axis:
    """How one axis of the source is read: first and last pixel, halvings, and the blur that remains."""

    start: int
    stop: int
    step: int
    sigma: float


_NATIVE = 0.45
"""Standard deviation, in its own pixels, of the Gaussian that an image is taken to have been sampled with.

It passes 0.84 of a wave of 0.2 cycles a pixel and 0.1 of one of 0.75 cycles, which would alias.
"""


def _missing_blur(extent: float) -> float:
    """Standard deviation in source pixels of the low-pass for taking one pixel out of `extent`."""
    return _NATIVE * math.sqrt(max(0.0, extent * extent - 1))


def _plan(row: list[float], size: tuple[int, int], length: int, *, whole: bool) -> _Axis:
    """Which part of a source axis of `length` pixels a crop needs, and how strongly it must be smoothed.

    A crop pixel spans `extent` source pixels. Both images shall be as sharp as a Gaussian of `_NATIVE` of their own
    pixels: what is missing is a Gaussian of variance _NATIVE^2 (extent^2 - 1), as variances of blurs add. Part of it
    is had cheaply by halving n times, a box of variance (4^n - 1) / 12, while two samples a crop pixel remain.
    """
    u, v, shift = row
    extent = math.hypot(u, v)
    step = 1 << max(0, math.floor(math.log2(max(extent, 1.0))) - 1)
    sigma = math.sqrt(max(0.0, _missing_blur(extent) ** 2 - (step * step - 1) / 12)) / step
    h, w = size
    middle = shift + u * (w - 1) / 2 + v * (h - 1) / 2
    reach = (abs(u) * w + abs(v) * h) / 2 + step * (math.ceil(3 * sigma) + _RADIUS + 1)
    start, stop = math.floor(middle - reach), math.ceil(middle + reach) + 1
    if whole and (start < 0 or stop > length):
        start, stop = 0, length
    start = min(max(start, 0), length - 1)
    stop = min(max(stop, start + 1), length)
    stop = min(stop + (start - stop) % step, length)
    return _Axis(start, stop, step, sigma)


def warp(
    image: Pixels,
    matrix: ArrayLike,
    size: tuple[int, int],
    *,
    border: Border = "constant",
    value: float = 0,
    interpolation: Interpolation = "linear",
) -> Pixels:
    """Cut an aligned crop out of an image, with a low-pass where the crop has fewer pixels than the image.

    Only the part of the image that the crop shows is touched.

    Parameters
    ----------
    image : (H, W) or (H, W, C) uint8 or float32 array
    matrix : (2, 3) or (3, 3) array
        Maps image pixels to crop pixels.
    size : (int, int)
        Height and width of the crop.
    border : {"constant", "replicate", "reflect"}
        What lies beyond the image: `value`, its outermost pixel, or its mirror image. Take "replicate" for a crop
        that is to be pasted back, else the constant creeps in where the face touches the frame's edge.
    value : float
        For the constant border, in every channel.
    interpolation : {"nearest", "linear", "cubic", "lanczos"}
        Between pixels. Linear reproduces ramps exactly; OpenCV's cubic (a = -0.75) and Lanczos are sharper and
        misplace a ramp by up to 0.05 pixel of the image. "nearest" is for labels and never smooths.

    Returns
    -------
    (h, w) or (h, w, C) array of the image's dtype

    Raises
    ------
    ValueError
        Wrong shape, dtype or option, or a matrix without an inverse.
    """
    _check_image(image)
    h, w = _check_size(size)
    _check_choice(border, _BORDERS, "border")
    _check_choice(interpolation, _INTERPOLATIONS, "interpolation")
    rows = _inverse_rows(matrix)
    whole = border == "reflect"  # a mirror image can reach far inside
    x, y = (_plan(row, (h, w), n, whole=whole) for row, n in zip(rows, image.shape[1::-1], strict=True))
    if interpolation == "nearest":
        x, y = (_Axis(axis.start, axis.stop, 1, 0.0) for axis in (x, y))
    part = image[y.start : y.stop, x.start : x.stop]
    fill = (float(value),) * 4
    part = _shrink(part, x, y, _BORDERS[border], fill)
    to_part = np.array(  # half-pixel rule: q = (p - start + 0.5) / step - 0.5
        [
            [row[0] / a.step, row[1] / a.step, (row[2] - a.start + 0.5) / a.step - 0.5]
            for row, a in zip(rows, (x, y), strict=True)
        ]
    )
    flags = _INTERPOLATIONS[interpolation] | cv2.WARP_INVERSE_MAP
    crop: Pixels = cv2.warpAffine(part, to_part, (w, h), flags=flags, borderMode=_BORDERS[border], borderValue=fill)
    return crop.reshape(h, w, *image.shape[2:])


def _shrink(part: Pixels, x: _Axis, y: _Axis, border: int, fill: tuple[float, ...]) -> Pixels:
    """Halve by exact 2 x 2 means, then blur."""
    right, below = -part.shape[1] % x.step, -part.shape[0] % y.step
    if right or below:  # at the image's edge only
        part = cv2.copyMakeBorder(part, 0, below, 0, right, border, value=fill)
    sx, sy = x.step, y.step
    while sx > 1 or sy > 1:
        fx, fy = min(sx, 2), min(sy, 2)
        part = cv2.resize(part, (part.shape[1] // fx, part.shape[0] // fy), interpolation=cv2.INTER_AREA)
        sx, sy = sx // fx, sy // fy
    return _blur(part, x.sigma, y.sigma)


def _blur(image: Pixels, sigma_x: float, sigma_y: float) -> Pixels:
    """Gaussian of the given widths; nothing where it would move less than 2 % to a neighbour."""
    if max(sigma_x, sigma_y) < 0.2:
        return image
    (nx, sx), (ny, sy) = _taps(sigma_x), _taps(sigma_y)
    blurred: Pixels = cv2.GaussianBlur(image, (nx, ny), sigmaX=sx, sigmaY=sy, borderType=cv2.BORDER_REPLICATE)
    return blurred.reshape(image.shape)


def _taps(sigma: float) -> tuple[int, float]:
    """Length of a sampled Gaussian, and the parameter that gives it the variance sigma^2.

    Sampling narrow Gaussians loses variance, so three taps a, 1 - 2a, a are solved for: 2a = sigma^2.
    """
    variance = sigma * sigma
    if variance >= 0.5:
        return 2 * math.ceil(3 * sigma) + 1, sigma
    if variance < 1e-4:
        return 1, 1.0
    return 3, math.sqrt(-0.5 / math.log(variance / 2 / (1 - variance)))


def paste(
    frame: Pixels, crop: Pixels, frame_to_crop: ArrayLike, mask: Mask, *, interpolation: Interpolation = "linear"
) -> Pixels:
    """Lay a crop back into its frame where the mask says so.

    Parameters
    ----------
    frame : (H, W) or (H, W, C) uint8 or float32 array
        Left as it is.
    crop : (h, w) or (h, w, C) array of the frame's dtype
    frame_to_crop : (2, 3) or (3, 3) array
        The matrix that `warp` was given.
    mask : (h, w) float32 array
        Share of the crop in [0, 1].
    interpolation : see `warp`
        For the crop; the mask is always interpolated linearly.

    Returns
    -------
    array like frame
        A new frame. Where the warped mask is 0 every pixel equals the frame's, bit for bit.

    Raises
    ------
    ValueError
        Wrong shape, dtype or option, or a matrix without an inverse.
    """
    return paste_into(frame.copy(), crop, frame_to_crop, mask, interpolation=interpolation)


def paste_into(
    frame: Pixels, crop: Pixels, frame_to_crop: ArrayLike, mask: Mask, *, interpolation: Interpolation = "linear"
) -> Pixels:
    """`paste` that changes `frame` itself, and gives it back: several faces in one frame need one copy."""
    _check_image(frame, "frame")
    _check_image(crop, "crop")
    if crop.dtype != frame.dtype or crop.shape[2:] != frame.shape[2:]:
        raise ValueError(
            f"crop: expected the frame's {frame.dtype} and channels {frame.shape[2:]}, but got {crop.dtype} and "
            f"{crop.shape[2:]}"
        )
    mask = _check_mask(mask, crop.shape)
    box = _paste_box(frame.shape, frame_to_crop, mask)
    if box is None:
        return frame
    x0, y0, x1, y1 = box
    size = (y1 - y0, x1 - x0)
    crop_to_part = np.array(_inverse_rows(frame_to_crop))
    crop_to_part[:, 2] -= (x0, y0)
    part = warp(crop, crop_to_part, size, border="replicate", interpolation=interpolation)
    share = warp(mask, crop_to_part, size)
    _mix_into(frame[y0:y1, x0:x1], part, share)
    return frame


def _paste_box(shape: tuple[int, ...], frame_to_crop: ArrayLike, mask: Mask) -> tuple[int, int, int, int] | None:
    """xyxy of the frame's pixels that the mask can reach; None when there are none."""
    x, y, w, h = cv2.boundingRect(cv2.compare(mask, 0, cv2.CMP_GT))
    if w == 0:
        return None
    spans = []
    for (u, v, shift), length in zip(_inverse_rows(frame_to_crop), (shape[1], shape[0]), strict=True):
        # One crop pixel of interpolation, and one and a half frame pixels of the low-pass when shrinking.
        middle = shift + u * (x + (w - 1) / 2) + v * (y + (h - 1) / 2)
        reach = (abs(u) * (w + 1) + abs(v) * (h + 1)) / 2 + 2.5
        spans.append((max(math.floor(middle - reach), 0), min(math.ceil(middle + reach) + 1, length)))
    (x0, x1), (y0, y1) = spans
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


_STRIP = 12_000
"""Pixels that are mixed at once, so that the float intermediates stay in the processor's cache."""


def _mix_into(bg: Pixels, fg: Pixels, share: Mask) -> None:
    """Set bg to bg + share (fg - bg), rounded for uint8; a pixel whose share is 0 keeps every bit."""
    depth = cv2.CV_8U if bg.dtype == np.uint8 else cv2.CV_32F
    channels = bg.shape[2] if bg.ndim == 3 else 1
    rows = max(1, _STRIP // bg.shape[1])
    for y in range(0, len(bg), rows):
        behind, s = bg[y : y + rows], share[y : y + rows]
        change = cv2.subtract(fg[y : y + rows], behind, dtype=cv2.CV_32F)
        change = cv2.multiply(change, cv2.merge([s] * channels), dst=change)
        behind[...] = cv2.add(behind, change, dtype=depth).reshape(behind.shape)


# -------------------------------------------------------------------------------------------------------------- masks

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
    h, w = _check_size(size)
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
    mask = _check_mask(mask, np.shape(mask))
    if mask.ndim != 2 or not erode >= 0 or not feather >= 0:
        raise ValueError(f"expected a (H, W) mask and widths of 0 or more, but got {mask.shape}, {erode}, {feather}")
    inside = cv2.copyMakeBorder((mask >= 0.5).view(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=(0,))
    distance = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    depth = distance - np.float32(0.5 + erode)  # the border runs half a pixel before the first pixel inside
    t = np.clip(depth / np.float32(max(feather, 1e-6)), 0, 1)
    soft: Mask = t * t * (3 - 2 * t)
    return soft


# ------------------------------------------------------------------------------------------------------------- colour

_FLAT = 0.25
"""Variance (of half a grey level or half a unit of Lab) added to every variance: flat regions give no wild gains."""


@dataclass(frozen=True, eq=False)
class ColorStats:
    """Mean and covariance of the colours in a region. Both may be averaged over frames before they are used.

    Attributes
    ----------
    mean : (3,) float64 array
    covariance : (3, 3) float64 array
        In the units of the space: L 0 … 100, a and b about -127 … 127; RGB 0 … 255.
    """

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]


def _to_space(image: Pixels, space: str) -> NDArray[np.float32]:
    values = image.astype(np.float32)
    if space == "rgb":
        return values
    lab: NDArray[np.float32] = cv2.cvtColor(values / np.float32(255), cv2.COLOR_RGB2Lab)
    return lab


def _from_space(values: NDArray[np.float32], space: str, dtype: np.dtype[Any]) -> Pixels:
    if space == "lab":
        values = cv2.cvtColor(values, cv2.COLOR_Lab2RGB) * np.float32(255)
    values = np.clip(values, 0, 255)
    return np.rint(values).astype(np.uint8) if dtype == np.uint8 else values


def _selected(image: Pixels, mask: Mask | None, space: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Colours (3, N) of the pixels with weight, and the weights (N,), which sum to 1."""
    _check_choice(space, get_args(Space), "space")
    _check_rgb(image)
    pixels = image.reshape(1, -1, 3)
    weights = np.ones(pixels.shape[1], np.float32)
    if mask is not None:
        weights = _check_mask(mask, image.shape).reshape(-1)
        chosen = np.flatnonzero(weights > 0)
        if not chosen.size:
            raise ValueError("mask: expected at least one pixel of the image in it, but got none")
        pixels, weights = pixels.take(chosen, axis=1), weights[chosen]
    w = weights.astype(np.float64)
    return np.ascontiguousarray(_to_space(pixels, space)[0].T, dtype=np.float64), w / w.sum()


def color_stats(image: Pixels, mask: Mask | None = None, *, space: Space = "lab") -> ColorStats:
    """Mean and covariance of an image's colours.

    Parameters
    ----------
    image : (H, W, 3) uint8 or float32 array, RGB
    mask : (H, W) float32 or bool array, optional
        Weight of each pixel.
    space : {"lab", "rgb"}

    Raises
    ------
    ValueError
        Not RGB, or nothing in the mask.
    """
    values, w = _selected(image, mask, space)
    mean = values @ w
    centred = values - mean[:, None]
    return ColorStats(mean, (centred * w) @ centred.T)


def transfer_map(
    stats: ColorStats, reference: ColorStats, *, method: Method = "reinhard", max_gain: float = 3.0
) -> NDArray[np.float64]:
    """The affine colour map that gives an image the statistics of a reference.

    Parameters
    ----------
    stats, reference : ColorStats
        Of the image and of what it shall look like, in the same space.
    method : {"reinhard", "covariance", "none"}
        Match mean and spread of each channel (Reinhard et al. 2001, there in l-alpha-beta), or mean and covariance by
        the linear Monge-Kantorovich map, which moves colours least (Pitié & Kokaram 2007), or nothing.
    max_gain : float
        No direction of colour space is stretched or squeezed by more than this factor.

    Returns
    -------
    (3, 4) float64 array
        ``[A | t]``: new = A old + t.

    References
    ----------
    E. Reinhard et al., "Color transfer between images", IEEE CG&A 21 (2001) 34-41. DOI 10.1109/38.946629
    F. Pitié, A. Kokaram, "The linear Monge-Kantorovitch linear colour mapping for example-based colour transfer",
    CVMP 2007. DOI 10.1049/cp:20070055
    """
    _check_choice(method, ("reinhard", "covariance", "none"), "method")
    if not max_gain >= 1:
        raise ValueError(f"max_gain: expected 1 or more, but got {max_gain}")
    if method == "none":
        return np.eye(3, 4)
    flat = _FLAT * np.eye(3)
    u, v = stats.covariance + flat, reference.covariance + flat
    if method == "reinhard":  # section "Statistics and color correction": the ratio of standard deviations
        A = np.diag(np.sqrt(np.diag(v) / np.diag(u)))
    else:  # eq. for the MK map: T = U^(-1/2) (U^(1/2) V U^(1/2))^(1/2) U^(-1/2)
        root = _symmetric_power(u, 0.5)
        back = _symmetric_power(u, -0.5)
        A = back @ _symmetric_power(root @ v @ root, 0.5) @ back
    gains, axes = np.linalg.eigh((A + A.T) / 2)
    A = (axes * np.clip(gains, 1 / max_gain, max_gain)) @ axes.T
    return np.column_stack([A, reference.mean - A @ stats.mean])


def _symmetric_power(matrix: NDArray[np.float64], power: float) -> NDArray[np.float64]:
    values, vectors = np.linalg.eigh(matrix)
    result: NDArray[np.float64] = (vectors * np.maximum(values, 1e-12) ** power) @ vectors.T
    return result


def apply_color(image: Pixels, affine: ArrayLike, *, space: Space = "lab") -> Pixels:
    """Send every colour through an affine map.

    Parameters
    ----------
    image : (H, W, 3) uint8 or float32 array, RGB
    affine : (3, 4) array
        From `transfer_map`.
    space : {"lab", "rgb"}
        The space of the map.

    Returns
    -------
    (H, W, 3) array of the image's dtype
        Clipped to 0 … 255, and rounded when uint8.
    """
    _check_choice(space, get_args(Space), "space")
    _check_rgb(image)
    a = np.asarray(affine, dtype=np.float64)
    if a.shape != (3, 4):
        raise ValueError(f"affine: expected shape (3, 4), but got {a.shape}")
    if np.array_equal(a, np.eye(3, 4)):  # no round trip through Lab
        return image.copy()
    return _from_space(cv2.transform(_to_space(image, space), a), space, image.dtype)


def match_color(
    image: Pixels,
    reference: Pixels,
    *,
    method: Method = "reinhard",
    mask: Mask | None = None,
    reference_mask: Mask | None = None,
    space: Space = "lab",
    max_gain: float = 3.0,
) -> Pixels:
    """Give an image the colours of a reference, judged by what lies in the masks.

    Parameters
    ----------
    image, reference : (H, W, 3) uint8 or float32 arrays, RGB
        Their sizes may differ.
    method : {"reinhard", "covariance", "histogram", "none"}
        As in `transfer_map`; "histogram" matches the cumulative histogram of each channel.
    mask, reference_mask : (H, W) float32 or bool arrays, optional
        Weights for the statistics. The whole image is changed all the same.
    space : {"lab", "rgb"}
    max_gain : float
        See `transfer_map`; not for "histogram".

    Returns
    -------
    (H, W, 3) array of the image's dtype

    Raises
    ------
    ValueError
        Not RGB, an unknown option, or nothing in a mask.
    """
    _check_choice(method, get_args(Method), "method")
    if method == "histogram":
        return _match_histogram(image, reference, mask, reference_mask, space)
    if method == "none":
        return _check_rgb(image).copy()
    stats, wanted = color_stats(image, mask, space=space), color_stats(reference, reference_mask, space=space)
    return apply_color(image, transfer_map(stats, wanted, method=method, max_gain=max_gain), space=space)


def _match_histogram(
    image: Pixels, reference: Pixels, mask: Mask | None, reference_mask: Mask | None, space: Space
) -> Pixels:
    """Per channel, v -> Q_reference(F_image(v)) with 1024 bins, linear in between."""
    have, have_w = _selected(image, mask, space)
    want, want_w = _selected(reference, reference_mask, space)
    values = _to_space(image, space)
    for c in range(3):
        low = float(min(have[c].min(), want[c].min()))
        high = float(max(have[c].max(), want[c].max(), low + 1e-3))
        x, f = _cumulative(have[c], have_w, (low, high))
        y, g = _cumulative(want[c], want_w, (low, high))
        values[..., c] = np.interp(values[..., c], x, np.interp(f, g, y))
    return _from_space(values, space, image.dtype)


def _cumulative(
    values: NDArray[np.float64], weights: NDArray[np.float64], span: tuple[float, float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean value of each bin that is not empty, and the share of the weight below its middle."""
    bins = np.minimum(((values - span[0]) * (1024 / (span[1] - span[0]))).astype(np.int64), 1023)
    mass = np.bincount(bins, weights, 1024)
    filled = mass > 0
    centre = np.bincount(bins, weights * values, 1024)[filled] / mass[filled]
    mass = mass[filled]
    return centre, np.cumsum(mass) - mass / 2


# ------------------------------------------------------------------------------------------------------------- blends


def _mask_box(mask: Mask, pad: int) -> tuple[slice, slice] | None:
    x, y, w, h = cv2.boundingRect(cv2.compare(mask, 0, cv2.CMP_GT))
    if w == 0:
        return None
    return slice(max(y - pad, 0), y + h + pad), slice(max(x - pad, 0), x + w + pad)


def _check_pair(fg: Pixels, bg: Pixels, mask: Mask) -> Mask:
    _check_image(fg, "fg")
    _check_image(bg, "bg")
    if fg.shape != bg.shape or fg.dtype != bg.dtype:
        raise ValueError(f"fg and bg are expected to be alike, but got {fg.shape} {fg.dtype}, {bg.shape} {bg.dtype}")
    return _check_mask(mask, bg.shape)


def blend_feather(fg: Pixels, bg: Pixels, mask: Mask) -> Pixels:
    """``bg + mask (fg - bg)``.

    Parameters
    ----------
    fg, bg : (H, W) or (H, W, C) arrays, both uint8 or both float32
    mask : (H, W) float32 array in [0, 1]

    Returns
    -------
    array like bg
        Bit for bit bg where the mask is 0.
    """
    mask = _check_pair(fg, bg, mask)
    out, box = bg.copy(), _mask_box(mask, 0)
    if box is not None:
        _mix_into(out[box], fg[box], mask[box])
    return out


def blend_multiband(fg: Pixels, bg: Pixels, mask: Mask, *, levels: int | None = None) -> Pixels:
    """Blend each band of detail over a width of its own size: fine detail sharply, shading widely.

    Low bands reach beyond the mask's border, so the result is faded in over the outermost part of the mask (where it
    is below 1/4). Give a mask from `soften`; a hard one leaves a seam.

    Parameters
    ----------
    fg, bg : (H, W) or (H, W, C) arrays, both uint8 or both float32
    mask : (H, W) float32 array in [0, 1]
    levels : int, optional
        Bands besides the lowest. By default the lowest is about 8 pixels of the mask's shorter side.

    Returns
    -------
    array like bg
        Bit for bit bg where the mask is 0.

    References
    ----------
    P. J. Burt, E. H. Adelson, "A multiresolution spline with application to image mosaics", ACM Trans. Graph. 2 (1983)
    217-236. DOI 10.1145/245.247
    """
    mask = _check_pair(fg, bg, mask)
    if levels is not None and levels < 0:
        raise ValueError(f"levels: expected 0 or more, but got {levels}")
    out, tight = bg.copy(), _mask_box(mask, 0)
    if tight is None:
        return out
    short = min(s.stop - s.start for s in tight)
    levels = max(0, int(math.log2(short)) - 3) if levels is None else levels
    box = _mask_box(mask, 2 << levels)
    assert box is not None
    behind, m = bg[box], mask[box]
    # Every step is linear, so that the pyramids of fg - bg are all that is needed.
    change = cv2.subtract(fg[box], behind, dtype=cv2.CV_32F).reshape(behind.shape)
    banded = _multiband(change, m, levels)
    guard = np.minimum(m * np.float32(4), np.float32(1))
    mixed = np.float32(behind) + banded * (guard if behind.ndim == 2 else guard[..., None])
    out[box] = np.rint(np.clip(mixed, 0, 255)) if bg.dtype == np.uint8 else mixed
    return out


def _multiband(change: NDArray[np.float32], mask: Mask, levels: int) -> NDArray[np.float32]:
    """Laplacian pyramid of `change` times Gaussian pyramid of `mask`, summed (Burt & Adelson 1983, section 3)."""
    m = mask if change.ndim == 2 else mask[..., None]
    if levels == 0 or min(mask.shape) < 2:
        product: NDArray[np.float32] = change * m
        return product
    h, w = mask.shape
    small = cv2.pyrDown(change).reshape((h + 1) // 2, (w + 1) // 2, *change.shape[2:])
    low = _multiband(small, cv2.pyrDown(mask), levels - 1)
    detail = change - cv2.pyrUp(small, dstsize=(w, h)).reshape(change.shape)
    total: NDArray[np.float32] = detail * m + cv2.pyrUp(low, dstsize=(w, h)).reshape(change.shape)
    return total


# ------------------------------------------------------------------------------------------- piecewise and smooth maps


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
    _check_image(image)
    _check_choice(interpolation, _INTERPOLATIONS, "interpolation")
    h, w = _check_size(size)
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
    map_x, map_y, coverage = _mesh_map(s[kept], d[kept], (h, w))
    if kept.any():
        image = _prefilter(image, math.sqrt(float(np.median(area_s[kept] / area_d[kept]))))
    warped: Pixels = cv2.remap(image, map_x, map_y, _INTERPOLATIONS[interpolation], borderMode=cv2.BORDER_REPLICATE)
    warped = warped.reshape(h, w, *image.shape[2:])
    warped[~coverage] = 0
    return warped, coverage


def _prefilter(image: Pixels, extent: float) -> Pixels:
    """Blur for a map that packs `extent` source pixels into one."""
    sigma = _missing_blur(extent)
    return _blur(image, sigma, sigma)


def _doubled_area(t: NDArray[np.float64]) -> NDArray[np.float64]:
    """Signed, of triangles (T, 3, 2)."""
    u, v = t[:, 1] - t[:, 0], t[:, 2] - t[:, 0]
    area: NDArray[np.float64] = u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]
    return area


def _mesh_map(
    s: NDArray[np.float64], d: NDArray[np.float64], size: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """Source x and y of every pixel in the triangles d (T, 3, 2), and where they are set; all (h, w)."""
    h, w = size
    t, y, first, count = _spans(d, size)
    # One entry a pixel: where it is in the result, and its place within its span.
    begin = np.cumsum(count) - count
    place = np.arange(int(count.sum())) - np.repeat(begin, count)
    index = np.repeat(y * w + first, count) + place
    steps = place.astype(np.float32)
    coverage = np.zeros(h * w, np.bool_)
    coverage[index] = True
    maps = []
    for c, slope_x, slope_y in zip((0, 1), *_gradients(s, d), strict=True):
        start = s[t, 0, c] + slope_x[t] * (first - d[t, 0, 0]) + slope_y[t] * (y - d[t, 0, 1])
        coordinate = np.repeat(slope_x[t].astype(np.float32), count)
        coordinate *= steps
        coordinate += np.repeat(start.astype(np.float32), count)
        dense = np.full(h * w, -1, np.float32)
        dense[index] = coordinate  # of a repeated index the last value stays: later triangles cover earlier ones
        maps.append(dense.reshape(h, w))
    return maps[0], maps[1], coverage.reshape(h, w)


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
    h, w = _check_size(size)
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


# ------------------------------------------------------------------------------------------------------------ measure


def sharpness(image: Pixels, mask: Mask | None = None) -> float:
    """Standard deviation of the Laplacian: how much fine detail there is.

    Parameters
    ----------
    image : (H, W) or (H, W, 3) uint8 or float32 array
        RGB is made grey first (BT.601 weights).
    mask : (H, W) float32 or bool array, optional
        Pixels that count: where it is above 0.

    Returns
    -------
    float
        Grey levels; 0 for a flat image.

    References
    ----------
    J. L. Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy: a comparative study", ICPR 2000 (there
    the variance). DOI 10.1109/ICPR.2000.903548
    """
    grey = _check_image(image) if image.ndim == 2 else cv2.cvtColor(_check_rgb(image), cv2.COLOR_RGB2GRAY)
    chosen = None if mask is None else cv2.compare(_check_mask(mask, image.shape), 0, cv2.CMP_GT)
    _, deviation = cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_32F), mask=chosen)
    return float(deviation[0, 0])
