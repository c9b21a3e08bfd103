"""Swap method *procrustes*: the source face nearest in pose and expression, warped onto the target. No training.

For every target face the bank of source faces is searched for the one whose pose and expression are nearest; dynamic
programming over the clip keeps the choice from flickering. The chosen crop is laid over the target by its landmarks
(Procrustes) and then warped piecewise, triangle by triangle, so that every landmark lies where the target has it,
moved a little towards the source's own proportions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from facepipe import geometry
from facepipe.composite import Patch
from facepipe.config import SwapConfig
from facepipe.image import hull_mask, piecewise_warp, warp
from facepipe.methods.bank import (
    ANGLE,
    SourceBank,
    behaviour,
    frontal_shapes,
    mean_face,
    neighbours,
    triangulation,
)
from facepipe.methods.forehead import Forehead, picture_ends
from facepipe.methods.plan import Record, rows_to_swap
from facepipe.types import Faces, Image

__all__ = ["Overlay", "Place", "ProcrustesPlan", "Swapper", "choose_sources", "crossfade", "plan_procrustes"]

_CANDIDATES = 48  # nearest faces that the search over time may choose from, a frame
_CLUTTER = 25.0  # price of a unit of clutter in front of the source face
_CRACK = 0.012  # of a patch's side: how far the mesh may gape
_REACH = 0.25  # proportions are smoothed over this distance: they move eyes and mouths, but do not open them

Points = NDArray[np.float64]


def choose_sources(
    bank: SourceBank,
    target: Faces,
    *,
    steadiness: float = 1.0,
    forbidden: NDArray[np.bool_] | None = None,
) -> NDArray[np.int64]:
    """For each target face the source face to use: nearest in pose and expression, and steady over time.

    Minimises the sum over frames of the squared distance of pose (in units of 8 degrees), expression (in units of
    0.03 eye distances) and the look of the eyes (in units of a ninth of the person's open ones), plus a price for
    what hides the source face (`SourceBank.clutter`) and one for each change of the source face, which grows with how
    different the two look
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
    wanted = behaviour(target)
    pose, bank_pose = _pose(target), _pose(bank.faces)
    cost = _squared(pose, bank_pose) + _squared(wanted, bank.behaviour) + _CLUTTER * bank.clutter
    if forbidden is not None:
        cost[forbidden] = np.inf
    feature = np.concatenate([bank_pose, bank.behaviour], 1)
    chosen = np.empty(len(target), np.int64)
    possible = np.isfinite(cost).any(1)  # a frame without a source ends a stretch: no path goes through it
    breaks = np.flatnonzero((np.diff(target.frame) > 1) | (np.diff(target.track) != 0) | np.diff(possible)) + 1
    for stretch in np.split(np.arange(len(target)), breaks):
        chosen[stretch] = _steady_path(cost[stretch], feature, steadiness)
    return chosen


def crossfade(chosen: NDArray[np.int64], target: Faces, reach: int) -> list[dict[int, float]]:
    """Shares of source faces in each target face: where the choice changes, the old fades into the new.

    Parameters
    ----------
    chosen : (T,) int64 array
        See `choose_sources`.
    target : Faces
        T faces.
    reach : int
        Frames before and after a frame whose choices count in it; 0 uses its own choice alone. Frames of another
        track, or beyond a gap, do not count.

    Returns
    -------
    list of dict
        From the row of the bank to its share, shares adding up to 1; empty where nothing was chosen.
    """
    shares: list[dict[int, float]] = []
    for t, own in enumerate(chosen.tolist()):
        counts: dict[int, float] = {}
        for k in neighbours(target, t, reach) if own >= 0 else ():
            if chosen[k] >= 0:
                counts[int(chosen[k])] = counts.get(int(chosen[k]), 0.0) + 1.0
        total = sum(counts.values())
        shares.append({source: count / total for source, count in counts.items()})
    return shares


def _pose(faces: Faces) -> Points:
    return np.stack([faces.yaw, faces.pitch], 1).astype(np.float64) / ANGLE


def _squared(a: Points, b: Points) -> Points:
    """(N, M) squared distances of rows (N, F) and (M, F)."""
    return np.asarray(np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T, 0))


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


class Place(NamedTuple):
    """Where in a frame a picture of a face goes.

    Attributes
    ----------
    points : (P, 2) float64 array
        Its landmarks, in pixels of the place.
    depth : (P,) float64 array or None
        Their distance, where it is known.
    size : (int, int)
        Height and width in pixels of the frame.
    frame_to_place : (2, 3) float64 array
        A shift by whole pixels.
    """

    points: Points
    depth: Points | None
    size: tuple[int, int]
    frame_to_place: Points


class Overlay:
    """Lays pictures of one person over the faces of another, landmark on landmark.

    Parameters
    ----------
    mean : (P, D) float64 array
        The mean frontal shape of the person in the pictures.
    target : Faces
        The target person's faces (for their mean shape); all of the clip.
    config : SwapConfig
        `shape` and `refine` are used.
    forehead : Forehead, optional
        How far pictures are laid above the brows; not at all by default, since what nets draw ends there.
    """

    def __init__(self, mean: Points, target: Faces, config: SwapConfig, *, forehead: Forehead | None = None) -> None:
        self._config = config
        model = mean_face(target)
        self._forehead = forehead or Forehead(0.0)
        self._triangles = self._forehead.triangles(model, triangulation(model))
        self._outline = self._forehead.outline(len(model))
        self._target_mean = np.median(frontal_shapes(target), axis=0) if len(target) else model
        self._own = _smoothing(model) @ (mean - self._target_mean) * _inner_weight(model)[:, None] * config.shape

    def points(self, face: Faces) -> Points:
        """(P, D) landmarks of a one-row table `face`, moved towards the own proportions of the person laid over it."""
        points = (face.mesh if face.mesh.size else face.landmarks)[0].astype(np.float64)
        pose = geometry.umeyama(self._target_mean, points)[:-1, :-1]
        return np.asarray(points + self._own @ pose.T)

    def place(self, face: Faces, frame_size: tuple[int, int]) -> Place | None:
        """Where a one-row table `face` is in a frame of that height and width; None when it lies outside."""
        points = self._forehead.points(self.points(face))
        low = np.maximum(np.floor(points[:, :2].min(0)).astype(int) - 2, 0)
        high = np.minimum(np.ceil(points[:, :2].max(0)).astype(int) + 3, frame_size[::-1])
        if (high - low < 4).any():
            return None
        shift = np.array([[1.0, 0.0, -low[0]], [0.0, 1.0, -low[1]]])
        depth = points[:, 2] if points.shape[1] == 3 else None
        return Place(points[:, :2] - low, depth, (int(high[1] - low[1]), int(high[0] - low[0])), shift)

    def lay(self, picture: Image, own: Points, place: Place) -> tuple[Image, NDArray[np.float32]]:
        """A picture (H, W, C) with landmarks `own` (P, 2), moved to its place, and where it has a face."""
        outline = place.points if self._outline is None else place.points[self._outline]
        mask = hull_mask(outline, place.size)
        matrix = geometry.umeyama(own, place.points[: len(own)])[:2]
        own = self._forehead.points(own)
        if self._config.refine == "none":
            return warp(picture, matrix, place.size, border="replicate"), mask
        scale = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
        if scale < 0.7:  # the warp samples; a real low-pass comes first
            side = max(8, round(picture.shape[0] * scale))
            own = (own + 0.5) * (side / picture.shape[0]) - 0.5
            picture = np.asarray(cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA))
        image, covered = piecewise_warp(picture, own, place.points, self._triangles, place.size, depth=place.depth)
        return image, mask * _mended(image, covered)

    def __call__(self, picture: Image, own: Points, face: Faces, frame_size: tuple[int, int]) -> Patch | None:
        """The patch of a one-row table `face`; see `place` and `lay`."""
        place = self.place(face, frame_size)
        return None if place is None else Patch(*self.lay(picture, own, place), place.frame_to_place)


class Swapper:
    """Makes the patch of one target face from the bank's chosen face.

    Parameters
    ----------
    bank : SourceBank
        The source person.
    target, config
        See `Overlay`.
    """

    def __init__(self, bank: SourceBank, target: Faces, config: SwapConfig) -> None:
        self._bank = bank
        forehead = Forehead.of(config.forehead, len(bank.mean))
        self._overlay = Overlay(bank.mean, target, config, forehead=forehead)
        self._raised = forehead.adds(len(bank.mean)) > 0

    def __call__(self, face: Faces, shares: Mapping[int, float], frame_size: tuple[int, int]) -> Patch | None:
        """The patch for a one-row table `face`; None when it lies outside of the frame.

        Parameters
        ----------
        face : Faces
            One row.
        shares : mapping of int to float
            Rows of the bank and their shares, which add up to 1; see `crossfade`.
        frame_size : (int, int)
            Height and width.
        """
        place = self._overlay.place(face, frame_size)
        if place is None:
            return None
        layers = {source: self._laid(source, place) for source in shares}
        if len(layers) == 1:
            return Patch(*next(iter(layers.values())), place.frame_to_place)
        image = sum(shares[source] * layer.astype(np.float32) for source, (layer, _) in layers.items())
        mask = np.minimum.reduce([covered for _, covered in layers.values()])
        return Patch(np.asarray(np.rint(image), np.uint8), mask, place.frame_to_place)

    def _laid(self, source: int, place: Place) -> tuple[Image, NDArray[np.float32]]:
        """The bank's face in its place; its forehead may lie beyond the frame that it is cut from."""
        crop, points = np.asarray(self._bank.crops[source]), self._bank.points[source]
        ends = picture_ends(crop) if self._raised else None
        if ends is None:
            return self._overlay.lay(crop, points, place)
        four = np.dstack([crop, np.where(ends, 0, 255).astype(np.uint8)])
        laid, mask = self._overlay.lay(four, points, place)
        return laid[..., :3], np.where(laid[..., 3] == 255, mask, 0).astype(np.float32)


@dataclass(frozen=True)
class ProcrustesPlan:
    """Which source face goes onto which target face; see `facepipe.methods.plan.Plan`.

    Attributes
    ----------
    bank : SourceBank
        The source person.
    faces : Faces
        The target person's faces that are swapped, one a frame at most; those that have a source.
    chosen : (N,) int64 array
        Row of the bank for each of them.
    shares : list of dict
        The same with cross-fades: rows of the bank and their shares.
    swapper : Swapper
        Makes the patches.
    """

    bank: SourceBank
    faces: Faces
    chosen: NDArray[np.int64]
    shares: list[dict[int, float]]
    swapper: Swapper

    @property
    def batch(self) -> int:
        """1: faces are warped one by one."""
        return 1

    def patches(self, rows: Sequence[int], frames: Sequence[Image]) -> list[Patch | None]:
        """See `Plan`."""
        return [
            self.swapper(self.faces[row], self.shares[row], frame.shape[:2])
            for row, frame in zip(rows, frames, strict=True)
        ]

    def record(self, row: int) -> Record:
        """The chosen face, whatever fades into it."""
        source = int(self.chosen[row])
        frame, face = (int(column[source]) for column in (self.bank.faces.frame, self.bank.faces.face))
        return Record(int(self.faces.face[row]), int(self.bank.clip[source]), frame, face)


def plan_procrustes(
    bank: SourceBank,
    faces: Faces,
    rows: NDArray[np.bool_],
    config: SwapConfig,
    *,
    forbidden: NDArray[np.bool_] | None = None,
) -> ProcrustesPlan:
    """Choose the faces to swap and their sources.

    Parameters
    ----------
    bank : SourceBank
        The source person.
    faces : Faces
        All faces of the target clip.
    rows : (N,) bool array
        Those of the target person.
    config : SwapConfig
        Faces with a flag of ``skip`` are left out.
    forbidden : (N, M) bool array, optional
        Pairs of rows of `faces` and of the bank that may not be used; a face that may use none is left out.
    """
    wanted = rows_to_swap(faces, rows, config)
    target = faces[wanted]
    chosen = np.empty(0, np.int64)
    if len(target):
        barred = None if forbidden is None else forbidden[wanted]
        chosen = choose_sources(bank, target, steadiness=config.steadiness, forbidden=barred)
    # The person's proportions are measured on all unflagged faces, or on what there is.
    reference = faces[rows & faces.trusted] if (rows & faces.trusted).any() else target
    shares = [share for share in crossfade(chosen, target, config.crossfade) if share]
    possible = chosen >= 0
    if not possible.all():
        target, chosen = target[possible], chosen[possible]
    return ProcrustesPlan(bank, target, chosen, shares, Swapper(bank, reference, config))


def _mended(image: Image, covered: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Where there is face, with cracks closed; their pixels of `image` become the mean of the face around them.

    Where a mesh folds over, at a nostril or along the jaw, single pixels have no triangle that is seen. The soft edge
    would make a spot of each.
    """
    size = 1 + 2 * max(1, round(_CRACK * max(covered.shape)))
    whole = cv2.morphologyEx(covered.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((size, size), np.uint8))
    cracks = (whole > 0) & ~covered
    if cracks.any():
        near = [cv2.blur(np.asarray(one, np.float32), (size, size)) for one in (image * covered[..., None], covered)]
        image[cracks] = np.rint(near[0][cracks] / np.maximum(near[1][cracks, None], 1e-6))
        return whole > 0
    return covered


def _smoothing(model: Points) -> Points:
    """(P, P): Gaussian mean over the landmarks around each."""
    weight = np.exp(-_squared(model[:, :2], model[:, :2]) / (2 * _REACH**2))
    return np.asarray(weight / weight.sum(1, keepdims=True))


def _inner_weight(model: Points) -> Points:
    """(P,) 1 well inside of the face, falling smoothly to 0 at its outline, so that the outline stays the target's."""
    hull = cv2.convexHull(model[:, :2].astype(np.float32))
    inside = np.array([cv2.pointPolygonTest(hull, (float(x), float(y)), True) for x, y in model[:, :2]])
    t = np.clip(inside / 0.5, 0, 1)
    return t * t * (3 - 2 * t)
