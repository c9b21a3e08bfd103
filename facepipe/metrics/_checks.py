"""What every metric asks of its input, said once: shapes, finiteness, weights."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__: list[str] = []

Float64 = NDArray[np.float64]


def require_finite(name: str, array: NDArray[Any]) -> None:
    """Refuse NaN and infinity, naming the place of the first one.

    Raises
    ------
    ValueError
        With the index and the value.
    """
    if array.dtype.kind not in "fc":
        return
    bad = ~np.isfinite(array)
    if bad.any():
        where = tuple(int(i) for i in np.unravel_index(int(bad.argmax()), array.shape))
        raise ValueError(
            f"{name}: expected finite values, got {array[where]} at index {where} ({int(bad.sum())} in all); "
            "drop or repair these before scoring"
        )


def require_real(name: str, array: NDArray[Any]) -> None:
    """Refuse arrays that do not hold real numbers (objects, strings, complex)."""
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{name}: expected real numbers, got dtype {array.dtype}")


def require_same_shape(a: NDArray[Any], b: NDArray[Any], what: str = "images") -> None:
    """Refuse two arrays of different shape."""
    if a.shape != b.shape:
        raise ValueError(f"expected two {what} of the same shape, got {a.shape} and {b.shape}")


def real_array(name: str, value: Any, *, ndim: int | None = None) -> Float64:
    """`value` as a finite float64 array, with `ndim` axes if that is given.

    Raises
    ------
    ValueError
        For another number of axes, values that are not real numbers, NaN and infinity.
    """
    array = np.asarray(value)
    require_real(name, array)
    if ndim is not None and array.ndim != ndim:
        raise ValueError(f"{name}: expected an array with {ndim} axes, got shape {array.shape}")
    require_finite(name, array)
    return array.astype(np.float64, copy=False)


def feature_rows(name: str, value: Any, *, least: int = 1) -> Float64:
    """`value` as finite float64 features, one row a sample, with at least `least` rows."""
    array = real_array(name, value, ndim=2)
    if len(array) < least or array.shape[1] == 0:
        raise ValueError(f"{name}: expected at least {least} rows of features, got shape {array.shape}")
    return array


def weight_mask(mask: Any, size: tuple[int, ...]) -> Float64:
    """A (H, W) mask of weights as float64; not negative, finite, not all zero."""
    weights = real_array("mask", mask)
    if weights.shape != size:
        raise ValueError(f"mask: expected shape {size} to match the images, got {weights.shape}")
    if weights.size and weights.min() < 0:
        raise ValueError(f"mask: expected weights of at least 0, got {weights.min():g}")
    if not weights.any():
        raise ValueError("mask: expected some weight above 0, got an empty mask; there is nothing to score")
    return weights


def unit_rows(name: str, x: Float64) -> Float64:
    """`x` with every vector along its last axis scaled to length 1; one of zeros is refused."""
    # The largest entry first, so that squares neither overflow nor vanish.
    peak = np.abs(x).max(axis=-1, keepdims=True, initial=0)
    if not peak.all():
        where = tuple(int(i) for i in np.argwhere(peak[..., 0] == 0)[0])
        raise ValueError(f"{name}: expected embeddings that are not all zero, got one at index {where}")
    x = x / peak
    return np.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True))
