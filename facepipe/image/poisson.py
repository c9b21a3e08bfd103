"""Poisson blending: the gradients of one picture with the border of another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from facepipe.image._pixels import Mask, Pixels, check_pair, cv2, mask_box
from facepipe.image.blending import blend_feather

__all__ = ["blend_poisson", "poisson_shift"]

_CROSS = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], np.float32)
_HAT = np.array([0.5, 1, 0.5], np.float32)
_DAMPING = np.float32(0.8)
"""Of Jacobi's iteration: what smooths best in two dimensions (Briggs, Henson & McCormick 2000, section 2)."""

Floats = NDArray[np.float32]


def blend_poisson(fg: Pixels, bg: Pixels, mask: Mask, *, tolerance: float = 0.05) -> Pixels:
    """Put `fg` where the mask is above 0, shifted smoothly so that it meets `bg` at the border without a step.

    Inside, the result has fg's Laplacian; at the border it is bg: Poisson's equation (Pérez et al. 2003, eq. 7) with
    the guidance of eq. (11).

    Parameters
    ----------
    fg, bg : (H, W) or (H, W, C) arrays, both uint8 or both float32
    mask : (H, W) float32 array in [0, 1]
        Above 0 is the region of the equation; where it is below 1 its solution is mixed with bg by it. A mask of 0 and
        1 gives the solution itself.
    tolerance : float
        See `poisson_shift`.

    Returns
    -------
    array like bg
        Bit for bit bg where the mask is 0. All of fg where the mask has no border within the picture.

    References
    ----------
    P. Pérez, M. Gangnet, A. Blake, "Poisson image editing", ACM Trans. Graph. 22 (2003) 313-318.
    DOI 10.1145/882262.882269
    """
    shifted = fg.astype(np.float32) + poisson_shift(fg, bg, mask, tolerance=tolerance)
    mixed = blend_feather(shifted, bg.astype(np.float32), mask)
    return np.rint(np.clip(mixed, 0, 255)).astype(np.uint8) if bg.dtype == np.uint8 else mixed


def poisson_shift(
    fg: Pixels, bg: Pixels, mask: Mask, *, limit: float | None = None, tolerance: float = 0.05, most: int = 100
) -> Floats:
    """What Poisson blending adds to `fg`: a membrane over the mask, which is bg - fg at the border.

    At the edge of the picture, where there is no bg to meet, it ends flat. It is found by conjugate gradients with a
    multigrid cycle as preconditioner (Tatebe 1993).

    Parameters
    ----------
    fg, bg, mask : see `blend_poisson`
    limit : float, optional
        A step at the border that is farther from the border's median than this (grey levels) is not followed all the
        way: the hair beside a face does not darken it. What remains of the step is for the mask to hide.
    tolerance : float
        The solver ends when a cycle would move nothing by more than this (grey levels).
    most : int
        Or after so many cycles.

    Returns
    -------
    (H, W) or (H, W, C) float32 array
        0 outside of the mask.

    References
    ----------
    O. Tatebe, "The multigrid preconditioned conjugate gradient method", 6th Copper Mountain Conference on Multigrid
    Methods, NASA CP 3224 (1993) 621-634.
    """
    mask = check_pair(fg, bg, mask)
    if not tolerance > 0 or most < 1 or (limit is not None and not limit >= 0):
        raise ValueError(f"expected tolerance > 0, most > 0 and limit >= 0, but got {tolerance}, {most} and {limit}")
    shift, box = np.zeros(bg.shape, np.float32), mask_box(mask, 1)
    if box is None or mask.all():
        return shift
    inside = mask[box] > 0
    size = (*inside.shape, bg.shape[2] if bg.ndim == 3 else 1)
    known = cv2.subtract(bg[box], fg[box], dtype=cv2.CV_32F).reshape(size)
    if limit is not None:
        border = (cv2.dilate(inside.view(np.uint8), np.uint8(_CROSS)) > 0) & ~inside
        middle = np.median(known[border], axis=0)
        known = np.clip(known, middle - np.float32(limit), middle + np.float32(limit))
    solution = _membrane(known, inside, tolerance, most)
    shift[box] = np.where(inside[..., None], solution, np.float32(0)).reshape(bg[box].shape)
    return shift


def _membrane(known: Floats, inside: NDArray[np.bool_], tolerance: float, most: int) -> Floats:
    """(H, W, C): 0 outside, deg(p) u_p = the sum of the neighbours' u inside, where those outside are `known`."""
    levels = _levels(inside, known.shape[2])
    finest = levels[0]
    residual = _neighbours(np.where(inside[..., None], np.float32(0), known)) * finest.inside
    solution, direction, before = np.zeros_like(known), np.zeros_like(known), 1.0
    for _ in range(most):  # preconditioned conjugate gradients, for all channels at once
        better = _cycle(levels, residual)
        if max(better.max(), -better.min()) < tolerance:
            break
        now = float(np.vdot(residual, better))
        direction *= np.float32(now / before)
        direction += better
        image = finest.apply(direction)
        length = np.float32(now / float(np.vdot(direction, image)))
        solution += direction * length
        image *= length
        residual -= image
        before = now
    return solution


def _neighbours(u: Floats) -> Floats:
    """Sum of the four neighbours; 0 beyond the picture."""
    total: Floats = cv2.filter2D(u, -1, _CROSS, borderType=cv2.BORDER_CONSTANT)
    return total.reshape(u.shape)


def _hat(u: Floats) -> Floats:
    total: Floats = cv2.sepFilter2D(u, -1, _HAT, _HAT, borderType=cv2.BORDER_CONSTANT)
    return total.reshape(u.shape)


@dataclass(frozen=True, slots=True)
class _Level:
    """One grid: the unknowns' places, how many neighbours each has, and the weights of a damped Jacobi step."""

    inside: Floats
    degree: Floats
    step: Floats

    def apply(self, u: Floats) -> Floats:
        """The operator: deg(p) u_p less the neighbours, for u that is 0 outside."""
        image: Floats = self.degree * u
        image -= _neighbours(u)
        image *= self.inside
        return image


def _levels(inside: NDArray[np.bool_], channels: int) -> list[_Level]:
    """Grids of halved density down to a few unknowns; a coarse one has every second pixel of that before it."""
    levels: list[_Level] = []
    while inside.any() and (not levels or min(levels[-1].inside.shape[:2]) > 4):
        degree = _neighbours(np.ones(inside.shape, np.float32))
        where = inside.astype(np.float32)
        weights = (where, degree * where, _DAMPING * where / np.maximum(degree, 1))
        levels.append(_Level(*(np.repeat(part[..., None], channels, axis=2) for part in weights)))
        inside = inside[::2, ::2]
    return levels


def _cycle(levels: list[_Level], residual: Floats) -> Floats:
    """A symmetric V-cycle from 0: a Jacobi step, the coarser grid, a Jacobi step."""
    level = levels[0]
    u: Floats = level.step * residual
    if len(levels) == 1:
        for _ in range(8):
            u += level.step * (residual - level.apply(u))
        return u
    coarse = np.ascontiguousarray(_hat(residual - level.apply(u))[::2, ::2])
    fine = np.zeros_like(u)
    fine[::2, ::2] = _cycle(levels[1:], coarse * levels[1].inside)
    u += _hat(fine) * level.inside
    u += level.step * (residual - level.apply(u))
    return u
