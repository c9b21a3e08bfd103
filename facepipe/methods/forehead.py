"""The forehead: landmarks above those that a landmarker finds, so that mask and warp reach towards the hairline.

The 68 points end at the brows, the mesh a little below the hairline. How high a forehead is follows the canon of
facial thirds: from the brows to the hairline it is as far as from the brows to the bottom of the nose (L. G. Farkas et
al., "Vertical and horizontal proportions of the face in young adult North American Caucasians: revision of
neoclassical canons", Plast. Reconstr. Surg. 75 (1985) 328-338). Its outline is that of the mean face's mesh.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from facepipe import geometry
from facepipe.backends.landmarkers import FACE_OVAL, MESH_TO_IBUG68
from facepipe.image import delaunay
from facepipe.types import Image

__all__ = ["Forehead", "picture_ends"]

Points = NDArray[np.float64]

_AUTO = 0.65  # above it the source's forehead covers the target's hair; below, a seam shows on the forehead
_BROWS, _NOSE, _ENDS = [21, 22], 33, [17, 26]  # iBUG: between the brows, bottom of the nose, outer ends of the brows


def _frame(points: Points) -> tuple[Points, Points, Points]:
    """Middle of the brows (D,), the vector along them, and the one up from the bottom of the nose; of 68 points."""
    middle = points[_BROWS].mean(0)
    return middle, points[_ENDS[1]] - points[_ENDS[0]], middle - points[_NOSE]


@functools.cache
def _outline() -> tuple[NDArray[np.int64], Points]:
    """The mesh's points over the brows, from one side to the other, and their (K, 2) places in `_frame`."""
    mesh = geometry.mean_face_mesh()[:, :2]
    middle, across, up = _frame(mesh[MESH_TO_IBUG68])
    oval = np.asarray(FACE_OVAL)
    places = np.linalg.solve(np.stack([across, up], axis=1), (mesh[oval] - middle).T).T
    above = places[:, 1] > 0
    order = np.argsort(places[above, 0])
    return oval[above][order], places[above][order]


@dataclass(frozen=True)
class Forehead:
    """Adds points above the brows to a face's landmarks.

    Attributes
    ----------
    share : float
        How far the face reaches above the brows, in distances from the brows to the bottom of the nose; 1 is the
        canon's hairline. Nothing is added where the landmarks reach as far by themselves: the mean mesh does to 0.47.
    """

    share: float

    @classmethod
    def of(cls, setting: float | Literal["auto"], count: int) -> Forehead:
        """The forehead that `SwapConfig.forehead` asks for, for a face of `count` landmarks."""
        if setting == "auto":
            return cls(_AUTO if count == 68 else 0.0)
        return cls(setting)

    def __post_init__(self) -> None:
        if not self.share >= 0:
            raise ValueError(f"forehead: expected a share of 0 or more, got {self.share}")

    def adds(self, count: int) -> int:
        """How many points are added to `count` landmarks: 468 or 68."""
        top = _outline()[1][:, 1].max()
        return len(_outline()[0]) if self.share > (top if count > 68 else 0) else 0

    def points(self, points: Points) -> Points:
        """Landmarks (P, D), D 2 or 3, with those of the forehead behind them (P + K, D)."""
        dense = len(points) > 68
        if not self.adds(len(points)):
            return points
        over, places = _outline()
        middle, across, up = _frame(points[MESH_TO_IBUG68] if dense else points)
        height = places[:, 1:] * (self.share / places[:, 1].max())
        if dense:  # from where the mesh ends
            added = points[over] + (height - places[:, 1:]) * up
        else:
            added = middle + places[:, :1] * across + height * up
        return np.concatenate([points, added])

    def triangles(self, model: Points, known: NDArray[Any]) -> NDArray[Any]:
        """The triangles `known` of a mean face's landmarks (P, D) and those of its forehead; indices of `points`."""
        count = len(model)
        more = self.adds(count)
        if not more:
            return known
        if count == 68:
            return delaunay(self.points(model)[:, :2])
        over, new = _outline()[0], np.arange(count, count + more)
        lower = np.stack([over[:-1], over[1:], new[:-1]], axis=1)
        upper = np.stack([over[1:], new[1:], new[:-1]], axis=1)
        return np.concatenate([known, lower, upper])

    def outline(self, count: int) -> NDArray[np.int64] | None:
        """Which of `points` the face's outline goes through; None for all."""
        if count == 68:
            return None
        return np.concatenate([np.asarray(FACE_OVAL), np.arange(count, count + self.adds(count))])


def picture_ends(crop: Image) -> NDArray[np.bool_] | None:
    """(H, W) bool: the part of an aligned crop that lies beyond its frame, black up to the crop's edge; None for none.

    Dark hair is not meant: what is black has to be connected with the edge of the crop.
    """
    black = (crop.max(2) == 0).view(np.uint8)
    edge = np.concatenate([black[0], black[-1], black[:, 0], black[:, -1]])
    if not edge.any():
        return None
    _, labels = cv2.connectedComponents(black, connectivity=4)
    ends = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    return np.asarray(np.isin(labels, ends[ends > 0]))
