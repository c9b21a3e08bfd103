"""What pixels and masks are, their checks, a blur and a mix: shared by the modules of this package."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import cv2 as _cv2
import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Mask",
    "Pixels",
    "blur",
    "check_choice",
    "check_image",
    "check_mask",
    "check_pair",
    "check_rgb",
    "check_size",
    "cv2",
    "mask_box",
    "missing_blur",
    "mix_into",
]

cv2: Any = _cv2  # its stubs differ from release to release

Pixels = NDArray[Any]
"""(H, W) or (H, W, C), uint8 or float32."""

Mask = NDArray[np.float32]
"""(H, W) in [0, 1]."""


def check_image(image: Pixels, name: str = "image") -> Pixels:
    if not isinstance(image, np.ndarray) or image.dtype not in (np.uint8, np.float32):
        got = image.dtype if isinstance(image, np.ndarray) else type(image).__name__
        raise ValueError(f"{name}: expected an array of uint8 or float32, but got {got}")
    if image.ndim not in (2, 3) or 0 in image.shape or (image.ndim == 3 and image.shape[2] > 4):
        raise ValueError(f"{name}: expected (H, W) or (H, W, 1 to 4) with pixels in it, but got {image.shape}")
    return image


def check_rgb(image: Pixels, name: str = "image") -> Pixels:
    if check_image(image, name).ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"{name}: expected RGB of shape (H, W, 3), but got {image.shape}")
    return image


def check_mask(mask: Pixels, size: tuple[int, ...], name: str = "mask") -> Mask:
    if not isinstance(mask, np.ndarray) or mask.shape != size[:2]:
        raise ValueError(f"{name}: expected an array of shape {size[:2]}, but got {np.shape(mask)}")
    if mask.dtype == np.uint8:
        raise ValueError(f"{name}: expected float32 in [0, 1] or bool, but got uint8: divide by 255 or compare first")
    return mask if mask.dtype == np.float32 else mask.astype(np.float32)


def check_size(size: Sequence[int]) -> tuple[int, int]:
    if len(size) != 2 or size[0] < 1 or size[1] < 1:
        raise ValueError(f"size: expected (height, width) of at least one pixel, but got {size}")
    return int(size[0]), int(size[1])


def check_choice(value: str, choices: Any, name: str) -> None:
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(choices)}, but got {value!r}")


_NATIVE = 0.45
"""Standard deviation, in its own pixels, of the Gaussian that an image is taken to have been sampled with.

It passes 0.84 of a wave of 0.2 cycles a pixel and 0.1 of one of 0.75 cycles, which would alias.
"""


def missing_blur(extent: float) -> float:
    """Standard deviation in source pixels of the low-pass for taking one pixel out of `extent`."""
    return _NATIVE * math.sqrt(max(0.0, extent * extent - 1))


def blur(image: Pixels, sigma_x: float, sigma_y: float) -> Pixels:
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


_STRIP = 12_000
"""Pixels that are mixed at once, so that the float intermediates stay in the processor's cache."""


def mix_into(bg: Pixels, fg: Pixels, share: Mask) -> None:
    """Set bg to bg + share (fg - bg), rounded for uint8; a pixel whose share is 0 keeps every bit."""
    depth = cv2.CV_8U if bg.dtype == np.uint8 else cv2.CV_32F
    channels = bg.shape[2] if bg.ndim == 3 else 1
    rows = max(1, _STRIP // bg.shape[1])
    for y in range(0, len(bg), rows):
        behind, s = bg[y : y + rows], share[y : y + rows]
        change = cv2.subtract(fg[y : y + rows], behind, dtype=cv2.CV_32F)
        change = cv2.multiply(change, cv2.merge([s] * channels), dst=change)
        behind[...] = cv2.add(behind, change, dtype=depth).reshape(behind.shape)


def mask_box(mask: Mask, pad: int) -> tuple[slice, slice] | None:
    """Rows and columns where the mask is above 0, and `pad` more on each side; None when it is nowhere."""
    inside = mask > 0
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    if not rows.size:
        return None
    top, left = (max(int(places[0]) - pad, 0) for places in (rows, columns))
    return slice(top, int(rows[-1]) + 1 + pad), slice(left, int(columns[-1]) + 1 + pad)


def check_pair(fg: Pixels, bg: Pixels, mask: Mask) -> Mask:
    check_image(fg, "fg")
    check_image(bg, "bg")
    if fg.shape != bg.shape or fg.dtype != bg.dtype:
        raise ValueError(f"fg and bg are expected to be alike, but got {fg.shape} {fg.dtype}, {bg.shape} {bg.dtype}")
    return check_mask(mask, bg.shape)
