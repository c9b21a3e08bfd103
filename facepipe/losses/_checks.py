"""What the losses share: wide dtypes, checked shapes, weighted means, powers with a finite slope."""

from __future__ import annotations

import torch
from torch import Tensor

__all__: list[str] = []


def wide(x: Tensor) -> Tensor:
    """float64 stays, everything else becomes float32."""
    return x if x.dtype == torch.float64 else x.float()


def power(x: Tensor, exponent: float) -> Tensor:
    """``x ** exponent`` for x >= 0, with gradient 0 at 0."""
    positive = x > 0
    return torch.where(positive, torch.where(positive, x, 1) ** exponent, 0)


def wide_difference(a: Tensor, b: Tensor) -> Tensor:
    if a.shape != b.shape:
        raise ValueError(f"expected two tensors of the same shape, got {tuple(a.shape)} and {tuple(b.shape)}")
    return wide(a) - wide(b)


def expanded(weight: Tensor, like: Tensor) -> Tensor:
    try:
        return weight.to(like.dtype).expand_as(like)
    except RuntimeError as exc:
        raise ValueError(
            f"weight: expected a shape that broadcasts to {tuple(like.shape)}, got {tuple(weight.shape)}"
        ) from exc


def weighted_mean(values: Tensor, weight: Tensor | None) -> Tensor:
    if weight is None:
        return values.mean()
    weight = expanded(weight, values)
    total = weight.sum()
    return (values * weight).sum() / torch.where(total > 0, total, 1)


def require_pixels(x: Tensor, least: int) -> None:
    if x.ndim < 2 or min(x.shape[-2:]) < least:
        raise ValueError(f"expected images of at least {least} pixels a side, got shape {tuple(x.shape)}")
