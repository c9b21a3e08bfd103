"""Feathered and multi-band blending."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from facepipe.image._pixels import Mask, Pixels, check_pair, cv2, mask_box, mix_into

__all__ = ["blend_feather", "blend_multiband"]


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
    mask = check_pair(fg, bg, mask)
    out, box = bg.copy(), mask_box(mask, 0)
    if box is not None:
        mix_into(out[box], fg[box], mask[box])
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
    mask = check_pair(fg, bg, mask)
    if levels is not None and levels < 0:
        raise ValueError(f"levels: expected 0 or more, but got {levels}")
    out, tight = bg.copy(), mask_box(mask, 0)
    if tight is None:
        return out
    short = min(s.stop - s.start for s in tight)
    levels = max(0, int(math.log2(short)) - 3) if levels is None else levels
    box = mask_box(mask, 2 << levels)
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
