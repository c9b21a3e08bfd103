"""Losses of one image against another, a pixel at a time, and total variation."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from facepipe.losses._checks import expanded, power, require_pixels, weighted_mean, wide, wide_difference

__all__ = ["charbonnier", "edge", "huber", "l1", "l2", "total_variation"]


def l1(a: Tensor, b: Tensor, *, weight: Tensor | None = None) -> Tensor:
    """Mean absolute error of two tensors of one shape; scalar. `weight` broadcasts to them."""
    return weighted_mean(wide_difference(a, b).abs(), weight)


def l2(a: Tensor, b: Tensor, *, weight: Tensor | None = None) -> Tensor:
    """Mean squared error (no root) of two tensors of one shape; scalar. `weight` broadcasts to them."""
    return weighted_mean(wide_difference(a, b).square(), weight)


def huber(a: Tensor, b: Tensor, *, delta: float = 1.0, weight: Tensor | None = None) -> Tensor:
    """Huber's loss: ``d^2 / 2`` up to ``|d| = delta``, from there on the tangent ``delta (|d| - delta / 2)``.

    Parameters
    ----------
    a, b : Tensor
        Of one shape.
    delta : float
        More than 0, in units of the images.
    weight : Tensor, optional
        Broadcasts to the images.

    Returns
    -------
    Tensor
        Scalar.

    Notes
    -----
    Huber 1964, DOI 10.1214/aoms/1177703732
    """
    if not delta > 0:
        raise ValueError(f"delta: expected more than 0, got {delta}")
    size = wide_difference(a, b).abs()
    small = size.clamp(max=delta)
    return weighted_mean(small * (size - small / 2), weight)


def charbonnier(a: Tensor, b: Tensor, *, epsilon: float = 1e-3, weight: Tensor | None = None) -> Tensor:
    """Charbonnier's loss, ``sqrt(d^2 + epsilon^2)``: L1 with a rounded corner; `epsilon` for equal images.

    Parameters
    ----------
    a, b : Tensor
        Of one shape.
    epsilon : float
        More than 0, in units of the images.
    weight : Tensor, optional
        Broadcasts to the images.

    Returns
    -------
    Tensor
        Scalar.

    Notes
    -----
    Charbonnier et al. 1994, DOI 10.1109/ICIP.1994.413553
    """
    if not epsilon > 0:
        raise ValueError(f"epsilon: expected more than 0, got {epsilon}")
    difference = wide_difference(a, b)
    return weighted_mean(torch.hypot(difference, difference.new_tensor(epsilon)), weight)


def edge(a: Tensor, b: Tensor, *, weight: Tensor | None = None) -> Tensor:
    """Mean absolute difference of the images' gradients (differences to the next pixel, across and down).

    Parameters
    ----------
    a, b : (..., H, W) Tensor
        Of one shape, at least 2 pixels a side.
    weight : Tensor, optional
        Broadcasts to the images; a step between two pixels has the lesser of their weights.

    Returns
    -------
    Tensor
        Scalar: the mean over both directions.

    Notes
    -----
    The gradient difference loss of Mathieu, Couprie, LeCun 2016, eq. (6), with signed gradients and alpha 1.
    arXiv:1511.05440
    """
    difference = wide_difference(a, b)
    require_pixels(difference, 2)
    total = difference.new_zeros(())
    for axis in (-1, -2):
        step = difference.diff(dim=axis).abs()
        total = total + weighted_mean(step, None if weight is None else _step_weight(weight, difference, axis))
    return total / 2


def total_variation(
    x: Tensor,
    beta: float = 2.0,
    *,
    anisotropic: bool = False,
    reduction: Literal["sum", "mean"] = "sum",
    weight: Tensor | None = None,
) -> Tensor:
    """Total variation with exponent: the sum over pixels of ``(dx^2 + dy^2)^(beta / 2)``.

    Parameters
    ----------
    x : (..., H, W) Tensor
        Images, at least 2 pixels a side.
    beta : float
        More than 0. 1 is the classic total variation, 2 the sum of squares.
    anisotropic : bool
        ``|dx|^beta + |dy|^beta`` instead.
    reduction : {"sum", "mean"}
        ``sum``: over all images, channels and pixels, as published. ``mean``: that, over their number.
    weight : Tensor, optional
        Broadcasts to the images.

    Returns
    -------
    Tensor
        Scalar.

    Raises
    ------
    ValueError
        For images below 2x2, beta of 0 or less.

    Notes
    -----
    Mahendran, Vedaldi 2015, section 2.2, arXiv:1412.0035. ``dx = x[i, j+1] - x[i, j]``, 0 in the last column; ``dy``
    alike in the last row. Gradients are finite for any beta: where all differences of a pixel are 0 they are 0.
    """
    if not beta > 0:
        raise ValueError(f"beta: expected more than 0, got {beta}")
    x = wide(x)
    require_pixels(x, 2)
    dx, dy = F.pad(x.diff(dim=-1), (0, 1)), F.pad(x.diff(dim=-2), (0, 0, 0, 1))
    if anisotropic:
        values = power(dx.square(), beta / 2) + power(dy.square(), beta / 2)
    else:
        values = power(dx.square() + dy.square(), beta / 2)
    if weight is not None:
        values = values * expanded(weight, values)
    total = values.sum()
    return total / values.numel() if reduction == "mean" else total


def _step_weight(weight: Tensor, like: Tensor, axis: int) -> Tensor:
    full, length = expanded(weight, like), like.shape[axis]
    return torch.minimum(full.narrow(axis, 0, length - 1), full.narrow(axis, 1, length - 1))
