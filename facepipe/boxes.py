"""Boxes, ``xyxy``: centres, areas, and what two of them share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["area", "centres", "common"]

Float64 = NDArray[np.float64]


def centres(box: NDArray[np.float32]) -> tuple[Float64, Float64]:
    """Centres (N, 2) and widths (N,) of boxes (N, 4)."""
    b = box.astype(np.float64)
    return (b[:, :2] + b[:, 2:]) / 2, b[:, 2] - b[:, 0]


def area(box: NDArray[np.float32]) -> Float64:
    """(...,) areas of boxes (..., 4); 0 of one that is turned inside out."""
    return np.asarray(np.prod(np.clip(box[..., 2:] - box[..., :2], 0, None), axis=-1, dtype=np.float64))


def common(a: NDArray[np.float32], b: NDArray[np.float32]) -> Float64:
    """(...,) area that boxes (..., 4) share pair by pair; their shapes broadcast."""
    low, high = np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])
    return np.asarray(np.prod(np.clip(high - low, 0, None), axis=-1, dtype=np.float64))
