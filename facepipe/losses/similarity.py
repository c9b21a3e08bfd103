"""Structural dissimilarity, at one scale and at several."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from facepipe.losses._checks import expanded, power, require_pixels, weighted_mean, wide

__all__ = ["dssim", "ms_dssim"]

_TAPS = 11  # Wang et al. 2004, section III-B
_SCALE_EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang, Simoncelli, Bovik 2003, section 3.2


def dssim(a: Tensor, b: Tensor, *, data_range: float = 2.0, weight: Tensor | None = None) -> Tensor:
    """Structural dissimilarity, ``(1 - SSIM) / 2``; the same SSIM as `facepipe.metrics.ssim`.

    Parameters
    ----------
    a, b : (B, C, H, W) Tensor
        Of one shape, at least 11 pixels a side.
    data_range : float
        Distance from black to white; 2 for images in [-1, 1].
    weight : Tensor, optional
        Broadcasts to the images. As in the metric it weighs the pixels within the windows as well: what has weight 0
        gets no gradient.

    Returns
    -------
    Tensor
        Scalar in [0, 1]; 0 for equal images.

    Raises
    ------
    ValueError
        For other shapes, images smaller than the window, a range that is not positive.

    Notes
    -----
    Wang et al. 2004, eq. (13): Gaussian window of 11, sigma 1.5, windows within the image only.
    DOI 10.1109/TIP.2003.819861
    """
    with torch.autocast(a.device.type, enabled=False):  # autocast would run the filters in bfloat16
        a, b, weight = _image_pair(a, b, weight, data_range, _TAPS)
        similarity, _, window_weight = _similarity(a, b, data_range, weight)
        return (1 - weighted_mean(similarity, window_weight)) / 2


def ms_dssim(
    a: Tensor, b: Tensor, *, data_range: float = 2.0, scales: int = 5, weight: Tensor | None = None
) -> Tensor:
    """Multi-scale structural dissimilarity, ``(1 - MS-SSIM) / 2``.

    Parameters
    ----------
    a, b : (B, C, H, W) Tensor
        Of one shape, at least ``11 * 2^(scales - 1)`` pixels a side.
    data_range : float
        Distance from black to white; 2 for images in [-1, 1].
    scales : int
        From 1 to 5, as published and in `facepipe.metrics.ms_ssim`. With fewer (small crops) the exponents of the
        finest are scaled to the sum of the published five.
    weight : Tensor, optional
        Broadcasts to the images.

    Returns
    -------
    Tensor
        Scalar in [0, 0.5]: a scale whose contrast term is negative counts as 0.

    Raises
    ------
    ValueError
        As `dssim`, and for another number of scales.

    Notes
    -----
    Wang, Simoncelli, Bovik 2003, eq. (7), DOI 10.1109/ACSSC.2003.1292216
    """
    if not 1 <= scales <= len(_SCALE_EXPONENTS):
        raise ValueError(f"scales: expected from 1 to {len(_SCALE_EXPONENTS)}, got {scales}")
    exponents = _SCALE_EXPONENTS[:scales]
    with torch.autocast(a.device.type, enabled=False):
        a, b, weight = _image_pair(a, b, weight, data_range, _TAPS * 2 ** (scales - 1))
        product = a.new_ones(a.shape[:2])
        for scale, exponent in enumerate(exponents):
            if scale:
                a, b, weight = (None if x is None else F.avg_pool2d(x, 2) for x in (a, b, weight))  # type: ignore[assignment]
            full, contrast, window_weight = _similarity(a, b, data_range, weight)
            values = _mean_by_plane(full if scale == scales - 1 else contrast, window_weight)
            product = product * power(values.clamp(min=0), exponent * sum(_SCALE_EXPONENTS) / sum(exponents))
        return (1 - product.mean()) / 2


def _image_pair(
    a: Tensor, b: Tensor, weight: Tensor | None, data_range: float, least: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The images in a wide dtype, the weight expanded to them; all checked."""
    if a.ndim != 4 or a.shape != b.shape:
        raise ValueError(f"expected two (B, C, H, W) of the same shape, got {tuple(a.shape)} and {tuple(b.shape)}")
    require_pixels(a, least)
    if not (math.isfinite(data_range) and data_range > 0):
        raise ValueError(f"data_range: expected a positive number (2 for [-1, 1]), got {data_range}")
    a, b = wide(a), wide(b)
    return a, b, None if weight is None else expanded(weight, a)


def _similarity(
    a: Tensor, b: Tensor, data_range: float, weight: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """SSIM and its contrast-structure term at every valid window, and the windows' weights.

    By the moments of sum and difference, as `facepipe.metrics` does and says why.
    """
    local = _local_mean(a, weight)
    p, m = a + b, a - b
    mean_p2, mean_m2 = local(p).square(), local(m).square()
    variance_p, variance_m = local(p.square()) - mean_p2, local(m.square()) - mean_m2
    c1, c2 = 2 * (0.01 * data_range) ** 2, 2 * (0.03 * data_range) ** 2
    contrast = (variance_p - variance_m + c2) / (variance_p + variance_m + c2)
    full = contrast * (mean_p2 - mean_m2 + c1) / (mean_p2 + mean_m2 + c1)
    r = _TAPS // 2
    return full, contrast, None if weight is None else weight[..., r:-r, r:-r]


def _local_mean(like: Tensor, weight: Tensor | None) -> Callable[[Tensor], Tensor]:
    """The Gaussian mean at every pixel where the window fits, weighed by `weight` if there is one."""
    rows, columns = (_window_means(length, like.dtype, like.device) for length in like.shape[-2:])

    def filtered(image: Tensor) -> Tensor:
        return rows @ image @ columns.T

    if weight is None:
        return filtered
    w = weight
    norm = filtered(w).clamp(min=torch.finfo(w.dtype).tiny)  # where it is 0, so is the window's own weight
    return lambda image: filtered(image * w) / norm


@lru_cache(maxsize=32)
def _window_means(length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(length - 10, length): each row the Gaussian window at one place. As a matrix product filters are several times
    faster than as a convolution of planes with one channel, forward and backward, for all sides that nets draw.
    """
    x = torch.arange(_TAPS, dtype=torch.float64) - _TAPS // 2
    taps = torch.exp(-0.5 * (x / 1.5) ** 2)
    places = length - _TAPS + 1
    matrix = torch.zeros(places, length, dtype=torch.float64)
    for tap, value in enumerate(taps / taps.sum()):
        matrix.diagonal(tap)[:] = value
    return matrix.to(device, dtype)


def _mean_by_plane(values: Tensor, weight: Tensor | None) -> Tensor:
    """(B, C) weighted mean of (B, C, H, W)."""
    if weight is None:
        return values.mean((-2, -1))
    total = weight.sum((-2, -1))
    return (values * weight).sum((-2, -1)) / torch.where(total > 0, total, 1)
