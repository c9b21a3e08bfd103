"""Scores of one image against another: MSE, PSNR, SSIM, multi-scale SSIM, each with an optional mask of weights.

Convention
    - Images are (H, W) or (H, W, C), both of one shape; any integer or floating dtype.
    - `data_range` is the distance from black to white (255 for uint8, 2 for [-1, 1]). It is never guessed.
    - `mask` holds (H, W) weights >= 0. A pixel of weight 0 has no influence on the score at all.
    - Colour is scored a channel at a time and averaged, as scikit-image does with `channel_axis`.

These compare with a ground truth. A real swap has none: see the design notes on what they may be used for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from facepipe.metrics._checks import Float64, require_finite, require_real, require_same_shape, weight_mask
from facepipe.types import Array

__all__ = ["MS_SSIM_WEIGHTS", "Window", "ms_ssim", "mse", "psnr", "ssim"]

Window = Literal["gaussian", "uniform"]

MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of the five scales, finest first. Wang, Simoncelli, Bovik 2003, section 3.2."""

_K1, _K2 = 0.01, 0.03  # Wang et al. 2004, section III-B
_STRIP = 24  # rows worked on at once, so that what a strip needs stays in the processor's cache


def mse(a: Any, b: Any, *, mask: Any = None) -> float:
    """Mean squared error.

    Parameters
    ----------
    a, b : (H, W) or (H, W, C) array
        Images of one shape, any real dtype.
    mask : (H, W) array, optional
        Weights >= 0 of the mean.

    Returns
    -------
    float
        In squared units of the input; 0 for identical images.

    Raises
    ------
    ValueError
        For different shapes, NaN or infinity, an empty mask.
    """
    a, b = _image_pair(a, b)
    if mask is None:
        # OpenCV sums in float64 whatever the input, but squares a root at the end: whole numbers are whole again here.
        total, pixels = cv2.norm(a, b, cv2.NORM_L2SQR), float(a.shape[0] * a.shape[1])
        total = round(total) if a.dtype == np.uint8 else total
    elif a.dtype == np.uint8 and np.asarray(mask).dtype == np.bool_ and a.shape[2] in (1, 3):
        chosen = weight_mask(mask, a.shape[:2]).astype(np.uint8)
        total, pixels = float(round(cv2.norm(a, b, cv2.NORM_L2SQR, chosen))), float(np.count_nonzero(chosen))
    else:
        weights = weight_mask(mask, a.shape[:2])
        total, pixels = 0.0, float(weights.sum())
        for top in range(0, len(a), _STRIP):
            rows = slice(top, top + _STRIP)
            difference = np.subtract(a[rows], b[rows], dtype=np.float64)
            total += float(np.einsum("hw,hwc,hwc->", weights[rows], difference, difference))
    _explain_unless_finite(total, a, b)
    return float(total / (pixels * a.shape[2]))


def psnr(a: Any, b: Any, *, data_range: float, mask: Any = None) -> float:
    """Peak signal-to-noise ratio, ``10 log10(data_range^2 / MSE)``.

    Parameters
    ----------
    a, b : (H, W) or (H, W, C) array
        Images of one shape, any real dtype.
    data_range : float
        Distance from black to white: 255 for uint8, 1 for [0, 1], 2 for [-1, 1].
    mask : (H, W) array, optional
        Weights >= 0; pixels of weight 0 do not count.

    Returns
    -------
    float
        Decibels; ``inf`` for identical images.

    Raises
    ------
    ValueError
        For different shapes, NaN or infinity, an empty mask, whole numbers that do not fit `data_range`.

    Examples
    --------
    >>> a = np.zeros((4, 4), np.uint8)
    >>> round(psnr(a, a + 1, data_range=255), 2)
    48.13
    """
    _require_data_range(data_range, a, b)
    error = mse(a, b, mask=mask)
    return math.inf if error == 0 else 10 * math.log10(data_range**2 / error)


def ssim(a: Any, b: Any, *, data_range: float, window: Window = "gaussian", mask: Any = None) -> float:
    """Structural similarity, the mean over all windows that lie within the image.

    Parameters
    ----------
    a, b : (H, W) or (H, W, C) array
        Images of one shape, at least as large as the window.
    data_range : float
        Distance from black to white: 255 for uint8, 1 for [0, 1], 2 for [-1, 1].
    window : {"gaussian", "uniform"}
        ``gaussian``: as published, 11x11, sigma 1.5, population variance; equals scikit-image with
        ``gaussian_weights=True, sigma=1.5, use_sample_covariance=False``. ``uniform``: 7x7, sample variance;
        equals scikit-image's default. Both leave out the border (5 or 3 pixels), where the window sticks out.
    mask : (H, W) array, optional
        Weights >= 0. They weigh the mean over windows and, inside of each window, its pixels: a pixel of weight 0
        changes nothing, so a face that was swapped inside of the mask's complement does not leak into the score.

    Returns
    -------
    float
        In [-1, 1]; 1 for identical images.

    Raises
    ------
    ValueError
        For different shapes, images smaller than the window, NaN or infinity, an empty mask.

    Notes
    -----
    Wang, Bovik, Sheikh, Simoncelli 2004, "Image quality assessment: from error visibility to structural
    similarity", eq. (13), with K1 = 0.01 and K2 = 0.03. DOI 10.1109/TIP.2003.819861. Worked in float32 for uint8,
    float16 and float32 (the images' mean is taken off first, so nothing is lost to cancellation), otherwise in
    float64.
    """
    _require_data_range(data_range, a, b)
    a, b = _image_pair(a, b)
    weights = None if mask is None else weight_mask(mask, a.shape[:2])
    return float(_mean_similarity(a, b, data_range, window, weights, luminance=True).mean())


def ms_ssim(a: Any, b: Any, *, data_range: float, mask: Any = None) -> float:
    """Multi-scale structural similarity over five scales, Gaussian window.

    Parameters
    ----------
    a, b : (H, W) or (H, W, C) array
        Images of one shape, at least 176 pixels high and wide.
    data_range : float
        Distance from black to white.
    mask : (H, W) array, optional
        Weights >= 0; averaged down like the images.

    Returns
    -------
    float
        In [0, 1]; a scale whose contrast term is negative counts as 0.

    Raises
    ------
    ValueError
        As `ssim`, and for images below 176 pixels.

    Notes
    -----
    Wang, Simoncelli, Bovik 2003, "Multi-scale structural similarity for image quality assessment", eq. (7); halved
    by the mean over 2x2 pixels. DOI 10.1109/ACSSC.2003.1292216
    """
    _require_data_range(data_range, a, b)
    a, b = _image_pair(a, b)
    least = 11 * 2 ** (len(MS_SSIM_WEIGHTS) - 1)
    if min(a.shape[:2]) < least:
        raise ValueError(f"ms_ssim: expected at least {least} pixels a side for five scales, got {a.shape[:2]}")
    weights = None if mask is None else weight_mask(mask, a.shape[:2])
    product = np.ones(a.shape[2])
    for scale, exponent in enumerate(MS_SSIM_WEIGHTS):
        if scale:
            a, b = _halved(a), _halved(b)
            weights = None if weights is None else _halved(weights[..., None])[..., 0]
        last = scale == len(MS_SSIM_WEIGHTS) - 1
        similarity = _mean_similarity(a, b, data_range, "gaussian", weights, luminance=last)
        product *= np.maximum(similarity, 0) ** exponent
    return float(product.mean())


@dataclass(frozen=True)
class _Kernel:
    """A separable window: its taps, and the factor from the population's variance to the wanted one."""

    taps: Float64
    variance_factor: float

    @property
    def radius(self) -> int:
        return len(self.taps) // 2


def _kernel(window: Window) -> _Kernel:
    if window == "gaussian":  # Wang et al. 2004, section III-B
        x = np.arange(-5, 6, dtype=np.float64)
        taps = np.exp(-0.5 * (x / 1.5) ** 2)
        return _Kernel(taps / taps.sum(), 1.0)
    if window == "uniform":
        return _Kernel(np.full(7, 1 / 7), 49 / 48)
    raise ValueError(f"window: expected 'gaussian' or 'uniform', got {window!r}")


def _image_pair(a: Any, b: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    """Both images as (H, W, C) arrays of one shape and of one dtype that OpenCV takes and that holds them exactly."""
    a, b = np.asarray(a), np.asarray(b)
    require_same_shape(a, b)
    for name, image in (("a", a), ("b", b)):
        require_real(name, image)
        if image.ndim not in (2, 3) or 0 in image.shape:
            raise ValueError(f"{name}: expected an image of shape (H, W) or (H, W, C), got {image.shape}")
    kinds = {np.dtype(x.dtype) for x in (a, b)}
    if kinds <= {np.dtype(np.uint8), np.dtype(np.bool_)}:
        dtype: type[np.generic] = np.uint8
    elif kinds <= {np.dtype(t) for t in (np.uint8, np.bool_, np.float16, np.float32)}:
        dtype = np.float32
    else:
        dtype = np.float64
    a, b = (np.ascontiguousarray(x, dtype=dtype) for x in (a, b))
    return (a[..., None], b[..., None]) if a.ndim == 2 else (a, b)


def _require_data_range(data_range: float, *images: Any) -> None:
    """Refuse a range that is not positive, and whole numbers that span more than it: the 255-against-1 slip."""
    if not (math.isfinite(data_range) and data_range > 0):
        raise ValueError(f"data_range: expected a positive number (255 for uint8), got {data_range}")
    for name, image in zip("ab", map(np.asarray, images), strict=True):
        if image.dtype.kind not in "iu" or image.size == 0 or data_range >= np.iinfo(image.dtype).max:
            continue
        low, high = int(image.min()), int(image.max())
        if high - low > data_range:
            raise ValueError(
                f"{name}: values from {low} to {high} ({image.dtype}) do not fit data_range={data_range:g}; "
                f"pass data_range={np.iinfo(image.dtype).max} or scale the images"
            )


def _explain_unless_finite(total: float, a: NDArray[Any], b: NDArray[Any]) -> None:
    """NaN and infinity always reach the sum, so the images are searched only when it is not finite."""
    if not math.isfinite(total):
        require_finite("a", a)
        require_finite("b", b)
        raise ValueError(f"expected values whose squares are finite, got some beyond that in {a.dtype}")


def _halved(image: NDArray[Any]) -> NDArray[np.float64]:
    """The mean over 2x2 pixels of a (H, W, C) image; an odd last row or column is dropped."""
    height, width = image.shape[0] // 2 * 2, image.shape[1] // 2 * 2
    x = image[:height, :width].astype(np.float64)
    rows = x[0::2] + x[1::2]
    return np.asarray((rows[:, 0::2] + rows[:, 1::2]) / 4)


def _mean_similarity(
    a: NDArray[Any], b: NDArray[Any], data_range: float, window: Window, weights: Float64 | None, *, luminance: bool
) -> Float64:
    """Mean over the valid windows of SSIM, or of its contrast-structure term alone; a value a channel."""
    kernel = _kernel(window)
    (height, width, channels), radius = a.shape, kernel.radius
    if min(height, width) < len(kernel.taps):
        raise ValueError(
            f"expected images of at least {len(kernel.taps)} pixels a side (the window), got {a.shape[:2]}"
        )
    columns = slice(radius, width - radius)
    inner = np.ones(1) if weights is None else weights[radius : height - radius, columns]
    if not inner.any():
        raise ValueError(f"mask: expected weight more than {radius} pixels inside of the border, got none there")
    totals = np.zeros(channels)
    for top in range(radius, height - radius, _STRIP):
        valid = slice(top, min(top + _STRIP, height - radius))
        read = slice(valid.start - radius, valid.stop + radius)
        w = None if weights is None else weights[read]
        for c in range(channels):
            with np.errstate(invalid="ignore", over="ignore"):  # told below, with its place
                values = _strip_similarity(a[read, :, c], b[read, :, c], data_range, kernel, w, luminance=luminance)
            totals[c] += (
                values.sum(dtype=np.float64)
                if weights is None
                else np.einsum("hw,hw->", weights[valid, columns], values)
            )
    _explain_unless_finite(float(totals.sum()), a, b)
    return totals / float((height - 2 * radius) * (width - 2 * radius) if weights is None else inner.sum())


def _strip_similarity(
    a: NDArray[Any], b: NDArray[Any], data_range: float, kernel: _Kernel, weights: Float64 | None, *, luminance: bool
) -> Array:
    """SSIM at every valid window of two (H, W) planes, from the moments of their sum and their difference.

    With p = a + b and m = a - b: 2 E[a] E[b] = (E[p]^2 - E[m]^2) / 2, and alike for the squares, the covariance and
    the variances. That takes four filters instead of five, and identical planes give exactly 1.
    """
    dtype = np.float64 if a.dtype == np.float64 else np.float32
    shift = cv2.mean(a)[0]  # variances do not change, and float32 does not lose them beside a large mean
    a, b = np.subtract(a, shift, dtype=dtype), np.subtract(b, shift, dtype=dtype)
    local = _local_mean(kernel, None if weights is None else weights.astype(dtype))
    p, m = a + b, a - b
    mean_p, mean_m, square_p, square_m = local(p), local(m), local(p * p), local(m * m)
    variance_p = (square_p - mean_p * mean_p) * dtype(kernel.variance_factor / 2)
    variance_m = (square_m - mean_m * mean_m) * dtype(kernel.variance_factor / 2)
    c2 = dtype((_K2 * data_range) ** 2)
    similarity = (variance_p - variance_m + c2) / (variance_p + variance_m + c2)
    if luminance:  # Wang et al. 2004, eq. (13)
        mean_p += dtype(2 * shift)
        mean_p, mean_m = mean_p * mean_p, mean_m * mean_m
        c1 = dtype(2 * (_K1 * data_range) ** 2)
        similarity *= (mean_p - mean_m + c1) / (mean_p + mean_m + c1)
    return np.asarray(similarity)


def _local_mean(kernel: _Kernel, weights: Array | None) -> Callable[[Array], Array]:
    """The mean within the window at every pixel where it fits, weighed by `weights` if there are any."""
    r = kernel.radius

    def filtered(x: Array) -> Array:
        return np.asarray(cv2.sepFilter2D(x, -1, kernel.taps, kernel.taps)[r:-r, r:-r])

    if weights is None:
        return filtered
    # A window without weight has the score of weight 0: any divisor above 0 will do there.
    norm = np.maximum(filtered(weights), np.finfo(weights.dtype).tiny)
    return lambda x: filtered(x * weights) / norm
