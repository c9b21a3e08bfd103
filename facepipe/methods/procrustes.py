"""Swap method *procrustes*: the source face nearest in pose and expression, warped onto the target. No training.

For every target face the bank of source faces is searched for the one whose pose and expression are nearest; dynamic
programming over the clip keeps the choice from flickering. The chosen crop is laid over the target by its landmarks
(Procrustes) and then warped piecewise, triangle by triangle, so that every landmark lies where the target has it,
moved a little towards the source's own proportions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from facepipe import geometry
from facepipe.backends.landmarkers import FACE_OVAL, MESH_TO_IBUG68
from facepipe.composite import Patch
from facepipe.config import SwapConfig
from facepipe.errors import NoFaceError
from facepipe.image import delaunay, hull_mask, piecewise_warp, warp
from facepipe.types import Faces, Image

__all__ = ["SourceBank", "Swapper", "choose_sources", "frontal_shapes"]

_MOST = 1500  # faces in a bank: enough for every pose and mouth, few enough to search
_CANDIDATES = 48  # nearest faces that the search over time may choose from, a frame
_ANGLE = 8.0  # degrees of yaw or pitch that weigh as much as ...
_MOVE = 0.03  # ... this movement of lips, lids and brows, in distances between the eyes
_OPEN_EYE = 0.16  # opening of a wide open eye, in the same unit
_REACH = 0.25  # proportions are smoothed over this distance: they move eyes and mouths, but do not open them

Points = NDArray[np.float64]


def frontal_shapes(faces: Faces) -> Points:
    """Landmarks with position, size and head pose removed.

    Returns
    -------
    (N, 468, 3) or (N, 68, 2) float64 array
        The mesh turned to the front where there is one (three-dimensional Procrustes fit to the mean face), else the
        68 points laid over the mean face (two-dimensional fit); units of `geometry.mean_face68`.
    """
    model = _model(faces)
    points = faces.mesh if faces.mesh.size else faces.landmarks
    if not len(faces):
        return np.empty((0, *model.shape))
    return geometry.apply(geometry.umeyama(points, model), points)


def _model(faces: Faces) -> Points:
    return geometry.mean_face_mesh() if faces.mesh.shape[1] else geometry.mean_face68()[:, :2]


def _expression(frontal: Points) -> Points:
    """(N, F): what mouth, eyes and brows do, scaled so that distances compare.

    Lips are compared as they are, around their own centre: an open mouth is open whoever opens it. What differs
    between people is taken relative to the person: the opening of the eyes to how far this person's eyes open, brows
    and the mouth's place to where this person mostly has them.
    """
    points = (frontal if frontal.shape[1] == 68 else frontal[:, MESH_TO_IBUG68])[..., :2]
    mouth = points[:, 48:60].mean(1)
    lips = (points[:, 48:68] - mouth[:, None]).reshape(len(points), -1) / np.sqrt(20)
    lids = (points[:, [41, 40, 47, 46]] - points[:, [37, 38, 43, 44]])[..., 1].reshape(-1, 2, 2).mean(2)
    lids = lids * (_OPEN_EYE / np.maximum(np.quantile(lids, 0.9, axis=0), 1e-3))
    brows = points[:, 17:27, 1].reshape(-1, 2, 5).mean(2) - points[:, 36:48, 1].reshape(-1, 2, 6).mean(2)
    moved = np.concatenate([brows, mouth], 1)
    moved = moved - np.median(moved, axis=0)
    return np.concatenate([2 * lips, lids, 0.5 * moved], axis=1) / _MOVE


@dataclass(frozen=True)
class SourceBank:
    """Faces of the source person, ready to be searched and warped.

    Attributes
    ----------
    faces : Faces
        The chosen faces.
    crops : sequence of (S, S, 3) uint8 arrays
        One a face, aligned by ``frame_to_crop``.
    clip : (N,) int array
        Number of the clip that a face is from.
    mean : (P, D) float64 array
        The person's mean frontal shape (median over the faces).
    """

    faces: Faces
    crops: Sequence[Image]
    clip: NDArray[np.int64]
    mean: Points

    @classmethod
    def build(
        cls, tables: Sequence[Faces], crops: Sequence[Sequence[Image]], rows: Sequence[NDArray[np.bool_]]
    ) -> SourceBank:
        """Collect the chosen, unflagged rows of each clip (thinned evenly when there are very many).

        Raises
        ------
        NoFaceError
            No usable face at all.
        """
        index = [
            (c, int(i))
            for c, (t, keep) in enumerate(zip(tables, rows, strict=True))
            for i in np.flatnonzero(keep & t.trusted)
        ]
        if not index:
            seen = sum(int(keep.sum()) for keep in rows)
            raise NoFaceError(
                f"no usable source face: {seen} found, all flagged (profile, blurred, cut off, misfit, small)"
            )
        index = [
            index[i] for i in np.unique(np.linspace(0, len(index) - 1, min(_MOST, len(index))).round().astype(int))
        ]
        faces = Faces.concatenate([tables[c][[i for k, i in index if k == c]] for c in sorted({c for c, _ in index})])
        return cls(
            faces=faces,
            crops=[crops[c][i] for c, i in index],
            clip=np.array([c for c, _ in index]),
            mean=np.median(frontal_shapes(faces), axis=0),
        )

    @cached_property
    def points(self) -> Points:
        """(N, P, 2): mesh or landmarks in pixels of the crops."""
        points = self.faces.mesh[..., :2] if self.faces.mesh.size else self.faces.landmarks
        return geometry.apply(self.faces.frame_to_crop, points)

    @cached_property
    def expression(self) -> Points:
        """(N, F): see `choose_sources`."""
        return _expression(frontal_shapes(self.faces))


def choose_sources(
    bank: SourceBank,
    target: Faces,
    *,
    steadiness: float = 1.0,
    forbidden: NDArray[np.bool_] | None = None,
) -> NDArray[np.int64]:
    """For each target face the source face to use: nearest in pose and expression, and steady over time.

    Minimises the sum over frames of the squared distance of pose (in units of 8 degrees) and expression (in units of
    0.03 eye distances), plus a price for each change of the source face that grows with how different the two look
    (Viterbi 1967, DOI 10.1109/TIT.1967.1054010). Tracks are independent, and so are stretches apart by a gap.

    Parameters
    ----------
    bank : SourceBank
        N faces.
    target : Faces
        T faces of one person in the order of frames.
    steadiness : float
        Weight of the price of a change; 0 chooses each frame by itself.
    forbidden : (T, N) bool array, optional
        Pairs that may not be used (to rebuild a person's frame from that person's other frames).

    Returns
    -------
    (T,) int64 array
        Row of the bank, -1 where all are forbidden.
    """
    expression = _expression(frontal_shapes(target))
    pose = np.stack([target.yaw, target.pitch], 1) / _ANGLE
    bank_pose = np.stack([bank.faces.yaw, bank.faces.pitch], 1) / _ANGLE
    cost = _squared(pose, bank_pose) + _squared(expression, bank.expression)
    if forbidden is not None:
        cost[forbidden] = np.inf
    feature = np.concatenate([bank_pose, bank.expression], 1)
    chosen = np.empty(len(target), np.int64)
    breaks = np.flatnonzero((np.diff(target.frame) > 1) | (np.diff(target.track) != 0)) + 1
    for stretch in np.split(np.arange(len(target)), breaks):
        chosen[stretch] = _steady_path(cost[stretch], feature, steadiness)
    return chosen


def _squared(a: Points, b: Points) -> Points:
    return np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T, 0)


def _steady_path(cost: Points, feature: Points, steadiness: float) -> NDArray[np.int64]:
    """Cheapest path through the nearest candidates of each frame."""
    k = min(_CANDIDATES, cost.shape[1])
    near = np.sort(np.argpartition(cost, k - 1, axis=1)[:, :k], axis=1)
    price = np.take_along_axis(cost, near, 1)
    back = np.zeros_like(near)
    total = price[0]
    for t in range(1, len(near)):
        a, b = near[t - 1], near[t]
        change = np.sqrt(_squared(feature[a], feature[b])) + (a[:, None] != b)
        reached = total[:, None] + steadiness * change
        back[t] = reached.argmin(0)
        total = reached.min(0) + price[t]
    path = np.empty(len(near), np.int64)
    at = int(total.argmin())
    for t in range(len(near) - 1, -1, -1):
        path[t] = near[t, at] if np.isfinite(price[t, at]) else -1
        at = back[t, at]
    return path


class Swapper:
    """Makes the patch of one target face from the bank's chosen face.

    Parameters
    ----------
    bank : SourceBank
        The source person.
    target : Faces
        The target person's faces (for the mean shape); all of the clip.
    config : SwapConfig
        `shape` and `refine` are used.
    """

    def __init__(self, bank: SourceBank, target: Faces, config: SwapConfig) -> None:
        self._bank = bank
        self._config = config
        model = _model(target)
        dense = model.shape[1] == 3
        self._triangles = geometry.mesh_triangles() if dense else delaunay(model)
        self._outline = FACE_OVAL if dense else None
        self._target_mean = np.median(frontal_shapes(target), axis=0)
        own = _smoothing(model) @ (bank.mean - self._target_mean)
        self._own = own * _inner_weight(model)[:, None] * config.shape

    def __call__(self, face: Faces, source: int, frame_size: tuple[int, int]) -> Patch | None:
        """The patch for a one-row table `face`, from row `source` of the bank; None when it lies outside the frame."""
        points = (face.mesh if face.mesh.size else face.landmarks)[0].astype(np.float64)
        placed = points + self._proportions(points)
        low = np.maximum(np.floor(placed[:, :2].min(0)).astype(int) - 2, 0)
        high = np.minimum(np.ceil(placed[:, :2].max(0)).astype(int) + 3, frame_size[::-1])
        if (high - low < 4).any():
            return None
        size = (int(high[1] - low[1]), int(high[0] - low[0]))
        image, mask = self._warp(source, placed[:, :2] - low, placed[:, 2] if points.shape[1] == 3 else None, size)
        shift = np.array([[1.0, 0.0, -low[0]], [0.0, 1.0, -low[1]]])
        return Patch(image, mask, shift)

    def _proportions(self, points: Points) -> Points:
        """How far the source's own proportions move each landmark of this face, in its pixels."""
        pose = geometry.umeyama(self._target_mean, points)[:-1, :-1]
        return self._own @ pose.T

    def _warp(
        self, source: int, points: Points, depth: Points | None, size: tuple[int, int]
    ) -> tuple[Image, NDArray[np.float32]]:
        """The chosen crop laid over `points`, and where it has a face."""
        crop, own = np.asarray(self._bank.crops[source]), self._bank.points[source]
        outline = points if self._outline is None else points[self._outline]
        mask = hull_mask(outline, size)
        matrix = geometry.umeyama(own, points)[:2]
        if self._config.refine == "none":
            return warp(crop, matrix, size, border="replicate"), mask
        scale = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
        if scale < 0.7:  # the warp samples; a real low-pass comes first
            side = max(8, round(crop.shape[0] * scale))
            own = (own + 0.5) * (side / crop.shape[0]) - 0.5
            crop = cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA)
        image, covered = piecewise_warp(crop, own, points, self._triangles, size, depth=depth)
        return image, mask * covered


def _smoothing(model: Points) -> Points:
    """(P, P): Gaussian mean over the landmarks around each."""
    weight = np.exp(-_squared(model[:, :2], model[:, :2]) / (2 * _REACH**2))
    return weight / weight.sum(1, keepdims=True)


def _inner_weight(model: Points) -> Points:
    """(P,) 1 well inside of the face, falling smoothly to 0 at its outline, so that the outline stays the target's."""
    hull = cv2.convexHull(model[:, :2].astype(np.float32))
    inside = np.array([cv2.pointPolygonTest(hull, (float(x), float(y)), True) for x, y in model[:, :2]])
    t = np.clip(inside / 0.5, 0, 1)
    return t * t * (3 - 2 * t)
