"""Sliced optimal transport of colours, and the lattice that makes a smooth map of it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facepipe.image._pixels import cv2

__all__ = ["Lattice", "sliced_transport"]

Floats = NDArray[np.float32]

NODES = 17
"""Nodes of a lattice along each axis."""


def sliced_transport(points: ArrayLike, target: ArrayLike, *, rounds: int = 8) -> NDArray[np.float64]:
    """Move a cloud of points until it is distributed as another: optimal transport, one direction at a time.

    A round moves every point along three orthogonal axes by the monotone map between the two clouds' projections
    (Pitié et al. 2007, section 3: "iterative distribution transfer"; the sum over directions is a step of Rabin et al.
    2012, eq. (11)). The axes of the rounds are fixed and cover the rotations evenly, so that equal clouds in equal
    order give equal bytes.

    Parameters
    ----------
    points, target : (N, 3) arrays
        As many of both; their order does not matter.
    rounds : int

    Returns
    -------
    (N, 3) float64 array
        Where each of the points goes.

    Raises
    ------
    ValueError
        Other shapes, no points, or fewer than 0 rounds.

    References
    ----------
    F. Pitié, A. C. Kokaram, R. Dahyot, "Automated colour grading using colour distribution transfer", Comput. Vis.
    Image Underst. 107 (2007) 123-137. DOI 10.1016/j.cviu.2006.11.011
    J. Rabin, G. Peyré, J. Delon, M. Bernot, "Wasserstein barycenter and its application to texture mixing", SSVM 2011,
    LNCS 6667 (2012) 435-446. DOI 10.1007/978-3-642-24785-9_37
    """
    moved, goal = np.array(points, dtype=np.float64).T, np.asarray(target, dtype=np.float64)
    if moved.shape != goal.T.shape or moved.ndim != 2 or len(moved) != 3 or not moved.size or rounds < 0:
        raise ValueError(
            f"expected two (N, 3) arrays and 0 rounds or more, but got {np.shape(points)}, {goal.shape} and {rounds}"
        )
    axes = _rotations(rounds)
    for rotation, wanted in zip(axes, np.sort(axes @ goal.T, axis=-1), strict=True):
        along = rotation @ moved
        order = np.argsort(along, axis=-1, kind="stable")
        np.put_along_axis(along, order, wanted - np.take_along_axis(along, order, -1), -1)  # now the way to go
        moved += rotation.T @ along
    return np.ascontiguousarray(moved.T)


def _rotations(count: int) -> NDArray[np.float64]:
    """(count, 3, 3) rotations, evenly spread: a Kronecker sequence through Shoemake's map of the cube."""
    golden = 1.2207440846057596  # the root of x^4 = x + 1, whose powers are badly approximable together
    u, v, w = np.modf(np.outer([1 / golden, golden**-2, golden**-3], np.arange(1, count + 1)))[0]
    a, b = np.sqrt(1 - u), np.sqrt(u)
    x, y, z, s = (
        a * np.sin(2 * np.pi * v),
        a * np.cos(2 * np.pi * v),
        b * np.sin(2 * np.pi * w),
        b * np.cos(2 * np.pi * w),
    )
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * s), 2 * (x * z + y * s)],
        [2 * (x * y + z * s), 1 - 2 * (x * x + z * z), 2 * (y * z - x * s)],
        [2 * (x * z - y * s), 2 * (y * z + x * s), 1 - 2 * (x * x + y * y)],
    ]
    return np.ascontiguousarray(np.moveaxis(np.array(rows).reshape(3, 3, count), -1, 0))


class Lattice:
    """Displacements at the nodes of a regular grid over a box of colours, trilinear in between.

    Parameters
    ----------
    low, high : (3,) array_like
        Corners of the box. Colours beyond move as the nearest one in the box does.
    """

    _SHRINK = 0.02
    """Points of a thousand that a node has unmoved, besides those around it: far from all points nothing moves."""

    def __init__(self, low: ArrayLike, high: ArrayLike) -> None:
        self._low = np.asarray(low, np.float32)
        self._scale = (NODES - 1) / (np.asarray(high, np.float32) - self._low)

    def _places(self, colors: NDArray[np.floating]) -> Floats:
        """(N, 3) in units of nodes."""
        return np.clip((colors - self._low) * self._scale, 0, np.float32(NODES - 1)).astype(np.float32)

    def fit(self, colors: NDArray[np.float64], moves: NDArray[np.float64]) -> Floats:
        """(NODES, NODES, NODES, 3): the mean move of the colours (N, 3) around each node, twice smoothed."""
        places = self._places(colors)
        cell = np.minimum(places.astype(np.int64), NODES - 2)
        part = places - cell
        corners = np.stack(np.meshgrid([0, 1], [0, 1], [0, 1], indexing="ij"), -1).reshape(-1, 3)
        weights = np.where(corners[:, None] == 1, part, 1 - part).prod(-1) * (1000 / len(colors))  # (8, N)
        index = ((cell[None] + corners[:, None]) @ np.array([NODES * NODES, NODES, 1])).ravel()

        def spread(values: NDArray[np.float64]) -> NDArray[np.float64]:
            total: NDArray[Any] = np.bincount(index, (weights * values).ravel(), NODES**3).reshape((NODES,) * 3)
            for axis in range(3):
                padded = np.pad(total, [(1, 1) if a == axis else (0, 0) for a in range(3)])
                ends = [np.take(padded, range(k, NODES + k), axis) for k in range(3)]
                total = (ends[0] + 2 * ends[1] + ends[2]) / 4
            return total

        mass = spread(np.ones(len(colors))) + self._SHRINK
        return np.stack([spread(moves[:, c]) / mass for c in range(3)], -1).astype(np.float32)

    def at(self, nodes: Floats, colors: Floats) -> Floats:
        """(H, W, 3) displacements of colours (H, W, 3).

        The lattice is read as a picture of its slices below each other, so that OpenCV interpolates in two of the
        dimensions; it does so in steps of 1/32 of a node.
        """
        first, y, x = cv2.split((colors - self._low) * self._scale)
        first, y, x = (np.clip(part, 0, np.float32(NODES - 1)) for part in (first, y, x))
        slices = np.minimum(np.floor(first), np.float32(NODES - 2))
        picture = nodes.reshape(NODES * NODES, NODES, 3)
        y += slices * np.float32(NODES)
        low = cv2.remap(picture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        y += np.float32(NODES)
        high = cv2.remap(picture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        share = first - slices
        moves: Floats = low + (high - low) * share[..., None]
        return moves
