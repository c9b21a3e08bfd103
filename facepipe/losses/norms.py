"""Norms of vectors and of matrices."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from facepipe.losses._checks import wide

__all__ = ["MatrixNorm", "lp_norm", "matrix_norm"]

MatrixNorm = Literal["frobenius", "nuclear", "spectral"]


def lp_norm(x: Tensor, p: float, dim: int | tuple[int, ...] | None = None, *, keepdim: bool = False) -> Tensor:
    """The lp norm ``(sum |x|^p)^(1/p)`` of a vector.

    Parameters
    ----------
    x : Tensor
        Any shape, any dtype.
    p : float
        ``inf``: the largest absolute value. Any p > 0: as above (no norm below 1, since the triangle inequality fails,
        but in use). 0: the number of entries that are not zero (no norm either; its gradient is 0).
    dim : int or tuple of int, optional
        Axes that make up the vector; all by default.
    keepdim : bool
        Whether those axes stay, with length 1.

    Returns
    -------
    Tensor
        float32, or float64 for float64 input.

    Raises
    ------
    ValueError
        For a negative p or NaN, or a complex tensor.

    Notes
    -----
    Scaled by the largest entry, so that no power overflows or vanishes. At x = 0 the gradient is 0; for p < 1, where
    the true slope at a single zero entry is infinite, that entry's is 0, too. Among equal largest entries of p = inf
    the gradient is shared evenly.

    Examples
    --------
    >>> x = torch.tensor([1.0, 2.0, 8.0])
    >>> [round(float(lp_norm(x, p)), 4) for p in (0, 1, 2, math.inf)]
    [3.0, 11.0, 8.3066, 8.0]
    """
    if not p >= 0:
        raise ValueError(f"p: expected 0, a positive number or inf, got {p}")
    if x.is_complex():
        raise ValueError(f"x: expected real numbers, got {x.dtype}")
    x = wide(x)
    axes = tuple(range(x.ndim)) if dim is None else (dim,) if isinstance(dim, int) else tuple(dim)
    if p == 0:
        return _sum(x.ne(0).to(x.dtype), axes, keepdim)
    size = x.abs()
    if p == 1:
        return _sum(size, axes, keepdim)
    if p == math.inf:
        return size.amax(axes, keepdim) if axes else size
    peak = size.detach().amax(axes, keepdim=True) if axes else size.detach()
    peak = torch.where(peak > 0, peak, 1)
    positive = size > 0
    # 1 instead of 0 under the power, whose slope there may be infinite: then no NaN enters the gradient.
    powers = torch.where(positive, torch.where(positive, size / peak, 1) ** p, 0)
    total = _sum(powers, axes, keepdim=True)
    norm = torch.where(total > 0, torch.where(total > 0, total, 1) ** (1 / p), 0) * peak
    return norm if keepdim or not axes else norm.squeeze(axes)


def matrix_norm(x: Tensor, kind: MatrixNorm) -> Tensor:
    """Norm of matrices, which the literature writes with the same bars as that of vectors.

    Parameters
    ----------
    x : (..., M, N) Tensor
        Matrices.
    kind : {"frobenius", "nuclear", "spectral"}
        Root of the sum of squares; sum of the singular values; the largest singular value, which is the one that
        "the 2-norm of a matrix" means and the Lipschitz constant of the map.

    Returns
    -------
    (...) Tensor
        float32, or float64 for float64 input.

    Raises
    ------
    ValueError
        For fewer than two axes or another kind.
    """
    if x.ndim < 2:
        raise ValueError(f"x: expected matrices, (..., M, N), got shape {tuple(x.shape)}")
    if kind == "frobenius":
        return lp_norm(x, 2, (-2, -1))
    if kind == "nuclear":
        return _singular_values(x).sum(-1)
    if kind == "spectral":
        return _singular_values(x).amax(-1)
    raise ValueError(f"kind: expected one of {', '.join(get_args(MatrixNorm))}, got {kind!r}")


def _singular_values(x: Tensor) -> Tensor:
    values: Tensor = torch.linalg.svdvals(wide(x))
    return values


def _sum(x: Tensor, axes: tuple[int, ...], keepdim: bool) -> Tensor:
    return x.sum(axes, keepdim) if axes else x  # torch takes () for "all axes"
