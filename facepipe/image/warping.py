"""Warp an aligned crop out of an image, and paste it back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from facepipe.image._pixels import (
    Mask,
    Pixels,
    blur,
    check_choice,
    check_image,
    check_mask,
    check_size,
    cv2,
    mask_box,
    missing_blur,
    mix_into,
)
from facepipe.image.lazy import LazyImage

__all__ = ["Border", "Interpolation", "paste", "paste_into", "warp"]

Border = Literal["constant", "replicate", "reflect"]
Interpolation = Literal["nearest", "linear", "cubic", "lanczos"]

_BORDERS = {"constant": cv2.BORDER_CONSTANT, "replicate": cv2.BORDER_REPLICATE, "reflect": cv2.BORDER_REFLECT_101}
INTERPOLATIONS = {
    "nearest": cv2.INTER_NEAREST,
    "linear": cv2.INTER_LINEAR,
    "cubic": cv2.INTER_CUBIC,
    "lanczos": cv2.INTER_LANCZOS4,
}
_RADIUS = 4
"""Source pixels that the widest interpolation looks at on each side."""


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


@dataclass(frozen=True, slots=True)
class _Axis:
    """How one axis of the source is read: first and last pixel, halvings, and the blur that remains."""

    start: int
    stop: int
    step: int
    sigma: float


def _plan(row: list[float], size: tuple[int, int], length: int, *, whole: bool) -> _Axis:
    """Which part of a source axis of `length` pixels a crop needs, and how strongly it must be smoothed.

    A crop pixel spans `extent` source pixels. Both images shall be as sharp as a Gaussian of `_NATIVE` of their own
    pixels: what is missing is a Gaussian of variance _NATIVE^2 (extent^2 - 1), as variances of blurs add. Part of it
    is had cheaply by halving n times, a box of variance (4^n - 1) / 12, while two samples a crop pixel remain.
    """
    u, v, shift = row
    extent = math.hypot(u, v)
    step = 1 << max(0, math.floor(math.log2(max(extent, 1.0))) - 1)
    sigma = math.sqrt(max(0.0, missing_blur(extent) ** 2 - (step * step - 1) / 12)) / step
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
    image: Pixels | LazyImage,
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
    image : (H, W) or (H, W, C) uint8 or float32 array, or LazyImage
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
    if not isinstance(image, LazyImage):
        check_image(image)
    h, w = check_size(size)
    check_choice(border, _BORDERS, "border")
    check_choice(interpolation, INTERPOLATIONS, "interpolation")
    rows = _inverse_rows(matrix)
    whole = border == "reflect"  # a mirror image can reach far inside
    x, y = (_plan(row, (h, w), n, whole=whole) for row, n in zip(rows, image.shape[1::-1], strict=True))
    if interpolation == "nearest":
        x, y = (_Axis(axis.start, axis.stop, 1, 0.0) for axis in (x, y))
    part: Pixels = image[y.start : y.stop, x.start : x.stop]
    fill = (float(value),) * 4
    part = _shrink(part, x, y, _BORDERS[border], fill)
    to_part = np.array(  # half-pixel rule: q = (p - start + 0.5) / step - 0.5
        [
            [row[0] / a.step, row[1] / a.step, (row[2] - a.start + 0.5) / a.step - 0.5]
            for row, a in zip(rows, (x, y), strict=True)
        ]
    )
    flags = INTERPOLATIONS[interpolation] | cv2.WARP_INVERSE_MAP
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
    return blur(part, x.sigma, y.sigma)


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
    check_image(frame, "frame")
    check_image(crop, "crop")
    if crop.dtype != frame.dtype or crop.shape[2:] != frame.shape[2:]:
        raise ValueError(
            f"crop: expected the frame's {frame.dtype} and channels {frame.shape[2:]}, but got {crop.dtype} and "
            f"{crop.shape[2:]}"
        )
    mask = check_mask(mask, crop.shape)
    box = _paste_box(frame.shape, frame_to_crop, mask)
    if box is None:
        return frame
    x0, y0, x1, y1 = box
    size = (y1 - y0, x1 - x0)
    crop_to_part = np.array(_inverse_rows(frame_to_crop))
    crop_to_part[:, 2] -= (x0, y0)
    part = warp(crop, crop_to_part, size, border="replicate", interpolation=interpolation)
    share = warp(mask, crop_to_part, size)
    mix_into(frame[y0:y1, x0:x1], part, share)
    return frame


def _paste_box(shape: tuple[int, ...], frame_to_crop: ArrayLike, mask: Mask) -> tuple[int, int, int, int] | None:
    """xyxy of the frame's pixels that the mask can reach; None when there are none."""
    covered = mask_box(mask, 0)
    if covered is None:
        return None
    (y, h), (x, w) = ((part.start, part.stop - part.start) for part in covered)
    spans = []
    for (u, v, shift), length in zip(_inverse_rows(frame_to_crop), (shape[1], shape[0]), strict=True):
        # One crop pixel of interpolation, and one and a half frame pixels of the low-pass when shrinking.
        middle = shift + u * (x + (w - 1) / 2) + v * (y + (h - 1) / 2)
        reach = (abs(u) * (w + 1) + abs(v) * (h + 1)) / 2 + 2.5
        spans.append((max(math.floor(middle - reach), 0), min(math.ceil(middle + reach) + 1, length)))
    (x0, x1), (y0, y1) = spans
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None
