"""What is in front of a face - a hand, hair, a microphone - stays in front.

The clip is its own model of the face (`facepipe.methods.own_face`): what differs from it is not this face. It has to
reach in from beyond the outline and to be strong somewhere (hysteresis: Canny 1986, DOI 10.1109/TPAMI.1986.4767851),
in more than one frame; less will do beside frames where it was, since a hand that comes or goes is blurred. Its border
is then moved onto edges of the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from facepipe import geometry
from facepipe.composite import Patch
from facepipe.image import piecewise_warp, warp
from facepipe.methods.bank import crop_points
from facepipe.methods.faceset import hints_of
from facepipe.methods.own_face import STRONG, FaceLayout, FaceModel, SeenFace, disc, shrunk
from facepipe.methods.plan import Plan, Record
from facepipe.types import Faces, Image, evenly_spaced

__all__ = ["Occlusion", "WithOcclusion"]

_MOST = 240  # faces that are learned from, evenly spaced
_LEAST = 30  # faces with nothing in front, without which nothing is known
_SHARE = 0.3  # of the faces that are looked at, likewise
_COMPONENTS = 8  # of pose and expression

_WEAK = (1.6, 5.0)  # least and most misfit from which it may be a thing in front, ...
_OWN = 3.0  # ... and what it is in between, in units of the face's own misfit ...
_SURE = (0.3, 5.0)  # misfit in those units below and above which there is no doubt
_QUIET = 0.3  # ... which that share of its pixels does not exceed: cramped faces fit less than quiet ones
_SPOT = 0.008  # share of the face that has to be strong
_WHOLE = 0.6  # share of the face beyond which it is not an object in front, but other light or another face
_CLOSE = 5  # pixels: gaps that are closed
_BORDER = 4  # pixels from the outline at which something reaches in from beyond
_SNAP = 5  # pixels of the picture over which a border is moved
_REACH = 1  # frames before and after whose misfit counts
_TRACE = 2  # frames before and after, in which something is a trace ...
_FAINT = 0.5  # ... with that share of the misfit that is strong by itself ...
_STEP = 8  # ... no further away than so many pixels
_KEPT = 16  # faces that are kept while the clip goes by

Points = NDArray[np.float64]
Array32 = NDArray[np.float32]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Occlusion:
    """What is in front of the faces of a clip.

    Attributes
    ----------
    faces : Faces
        N faces of the clip.
    crops : sequence of (C, C, 3) uint8 arrays
        One a face, aligned by ``frame_to_crop``.
    codes : (N, F) float32 array
        Pose and expression.
    """

    faces: Faces
    crops: Sequence[Image]
    codes: Array32
    _layout: FaceLayout
    _model: FaceModel
    _seen: dict[int, SeenFace] = field(default_factory=dict)
    _fronts: dict[int, Bools | None] = field(default_factory=dict)

    @classmethod
    def learn(
        cls, faces: Faces, crops: Sequence[Image], rows: NDArray[np.bool_], *, kept: tuple[Path, str] | None = None
    ) -> Occlusion | None:
        """Learn what a person looks like with nothing in front.

        Parameters
        ----------
        faces : Faces
            N faces of a clip.
        crops : sequence of (C, C, 3) uint8 arrays
            One a face, aligned by ``frame_to_crop``.
        rows : (N,) bool array
            Those of the person.
        kept : (Path, str), optional
            A file that keeps what was learned, and the key of what it was learned from: with the same key it is read
            instead of learned again.

        Returns
        -------
        Occlusion or None
            None when too few faces have nothing in front: 30, or 30 % of those that are looked at.
        """
        known = np.flatnonzero(rows & faces.trusted)
        if len(known) < _LEAST:
            return None
        learned = known[evenly_spaced(len(known), _MOST)]
        layout, points = FaceLayout.of(faces), crop_points(faces[learned])
        features = hints_of(faces, faces[known]).astype(np.float64)
        mean = features[learned].mean(0)
        axes = np.linalg.svd(features[learned] - mean, full_matrices=False)[2][:_COMPONENTS]
        codes = np.concatenate([np.ones((len(faces), 1)), (features - mean) @ axes.T], axis=1).astype(np.float32)
        model = None if kept is None else FaceModel.read(*kept)
        if model is None:
            pairs = [layout.texture(crops[row], own) for row, own in zip(learned.tolist(), points, strict=True)]
            textures, seen = (np.stack(parts) for parts in zip(*pairs, strict=True))
            model = FaceModel.fit(codes[learned], textures, seen)
            if kept is not None:
                model.write(*kept)
        if model.clean.sum() < max(_LEAST, _SHARE * len(learned)):
            return None
        return cls(faces, crops, codes, layout, model)

    def front(self, row: int) -> Bools | None:
        """(S, S) what is in front of a face, in the layout; None for nothing."""
        found = self._sure(row)
        if found is None:
            beside = [one for k in self._near(row, _TRACE) if k != row and (one := self._sure(k)) is not None]
            if not beside:
                return None
            reached = cv2.dilate(np.any(beside, axis=0).view(np.uint8), disc(_STEP)).view(bool)
            found = self._found(row, self._look(row).misfit, _FAINT * STRONG, reached)
        return None if found is None else np.asarray(found.ravel()[self._model.nearest].reshape(found.shape))

    def _sure(self, row: int) -> Bools | None:
        """(S, S) what is in front by the misfit of the frame and its neighbours."""
        if row not in self._fronts:
            near = [self._look(k).misfit for k in self._near(row, _REACH)]
            everywhere = np.ones_like(self._model.inside)
            self._fronts[row] = self._found(row, np.median(near, axis=0).astype(np.float32), STRONG, everywhere)
            _forget(self._fronts)
        return self._fronts[row]

    def _found(self, row: int, misfit: Array32, strong: float, reached: Bools) -> Bools | None:
        """(S, S) what reaches in from beyond the outline, is strong somewhere, and lies where something `reached`."""
        inside = self._model.inside
        least = _SPOT * inside.sum()
        if (misfit > strong).sum() < least:
            return None
        own = float(np.clip(_OWN * np.quantile(misfit[inside], _QUIET), *_WEAK))
        found = _cut(self._look(row), misfit / own, self._model)
        _, labels = cv2.connectedComponents(found.astype(np.uint8))
        count = int(labels.max()) + 1
        border = inside & ~cv2.erode(inside.view(np.uint8), disc(_BORDER), borderValue=0).view(bool)
        wanted = np.bincount(labels[misfit > strong], minlength=count) >= least
        wanted &= np.bincount(labels[border], minlength=count) >= _BORDER
        wanted &= np.bincount(labels[reached], minlength=count) > 0
        wanted[0] = False
        found = wanted[labels]
        return found if found.any() and found[inside].mean() <= _WHOLE else None

    @cached_property
    def _row_of(self) -> dict[tuple[int, int], int]:
        """Row of each track's face in a frame: between them may lie those of other people."""
        keys = zip(self.faces.track.tolist(), self.faces.frame.tolist(), strict=True)
        return {key: row for row, key in enumerate(keys)}

    def _near(self, row: int, reach: int) -> list[int]:
        """Rows of the same track in the frames up to `reach` before and after, without a gap; `row` is among them."""
        track, frame = int(self.faces.track[row]), int(self.faces.frame[row])
        rows = [row]
        for step in (-1, 1):
            for k in range(1, reach + 1):
                beside = self._row_of.get((track, frame + step * k))
                if beside is None:
                    break
                rows.append(beside)
        return sorted(rows)

    def _look(self, row: int) -> SeenFace:
        """A face in the layout; those near by are kept."""
        if row not in self._seen:
            texture, seen = self._layout.texture(self.crops[row], crop_points(self.faces[row])[0])
            self._seen[row] = self._model.misfit(self.codes[row], texture, seen)
            _forget(self._seen)
        return self._seen[row]

    def hidden(self, row: int) -> float:
        """Share of a face that is behind something, in [0, 1]."""
        front = self.front(row)
        return 0.0 if front is None else float(front[self._model.inside].mean())

    def visible(self, row: int) -> Array32:
        """(C, C) float32 mask in the crop: 1 where the face is seen, 0 where something is in front of it."""
        crop = np.asarray(self.crops[row])
        front = self.front(row)
        if front is None:
            return np.ones(crop.shape[:2], np.float32)
        small, own = shrunk(crop, crop_points(self.faces[row])[0])
        layout = self._layout
        placed, known = piecewise_warp(front.astype(np.float32), layout.points, own, layout.triangles, small.shape[:2])
        covered = _snapped(small, placed, known)
        whole = cv2.resize(covered, crop.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        return np.asarray(1 - whole, np.float32)


def _forget(kept: dict[int, Any]) -> None:
    """Keep no more than the last few faces."""
    while len(kept) > _KEPT:
        del kept[next(iter(kept))]


def _cut(face: SeenFace, misfit: Array32, model: FaceModel) -> Bools:
    """(S, S) pixels of a thing whose misfit is mostly above 1: brightness and misfit as two mixtures, smooth borders.

    C. Rother et al., "GrabCut", ACM Trans. Graph. 23 (2004) 309-314. DOI 10.1145/1015706.1015720
    """
    inside, beyond = model.inside, model.nearest  # nothing is said of what is not face
    features = np.dstack([face.grey, 128 + face.rest, 60 * np.sqrt(misfit)])
    likely = cv2.morphologyEx((misfit > 1).astype(np.uint8), cv2.MORPH_CLOSE, disc(_CLOSE // 2))
    mask = np.where(likely > 0, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    mask[misfit > _SURE[1]] = cv2.GC_FGD
    mask[(misfit < _SURE[0]) & (likely == 0)] = cv2.GC_BGD
    first = (mask == cv2.GC_FGD) | (mask == cv2.GC_PR_FGD)
    if not first[inside].any() or first[inside].all():
        return np.asarray(first & inside)
    cv2.setRNGSeed(0)
    picture = np.rint(np.clip(features, 0, 255)).astype(np.uint8)
    mask, picture = mask.ravel()[beyond].reshape(mask.shape), picture.reshape(-1, 3)[beyond].reshape(picture.shape)
    cv2.grabCut(picture, mask, (0, 0, 1, 1), np.zeros((1, 65)), np.zeros((1, 65)), 1, cv2.GC_INIT_WITH_MASK)
    return np.asarray(((mask == cv2.GC_FGD) | (mask == cv2.GC_PR_FGD)) & inside)


def _snapped(image: Image, front: Array32, known: Bools) -> Array32:
    """A mask (0 to 1) whose border is moved onto edges of the picture near by: a watershed from both sides.

    F. Meyer, "Color image segmentation", Int. Conf. Image Processing and its Applications 1992, 303-306.
    """
    thing, face = (
        known & (np.asarray(cv2.erode((part | ~known).astype(np.uint8), disc(_SNAP), borderValue=0)) > 0)
        for part in (front >= 0.5, front < 0.5)
    )
    markers = np.where(thing, 1, np.where(face, 2, 0)).astype(np.int32)
    found = np.asarray(cv2.watershed(cv2.GaussianBlur(image, (3, 3), 0), markers))
    inner = (found[1:-1, 1:-1] != 2).astype(
        np.uint8
    )  # watersheds go to the front; the picture's own edge is always one
    _, labels, facts, _ = cv2.connectedComponentsWithStats(inner)
    large = facts[:, cv2.CC_STAT_AREA] >= _SPOT * known.sum()  # a speck is a nostril or a mole, not a thing
    large[0] = False
    whole = np.pad(large[labels].astype(np.float32), 1, mode="edge")
    return np.asarray(cv2.GaussianBlur(whole, (5, 5), 0), np.float32)


@dataclass(frozen=True)
class WithOcclusion:
    """A plan whose patches leave free what is in front of the target's face; see `facepipe.methods.plan.Plan`.

    Attributes
    ----------
    plan : Plan
        Any method's.
    occlusion : Occlusion
        Of the clip that is swapped.
    """

    plan: Plan
    occlusion: Occlusion

    @property
    def faces(self) -> Faces:
        """See `Plan`."""
        return self.plan.faces

    @property
    def batch(self) -> int:
        """See `Plan`."""
        return self.plan.batch

    @cached_property
    def _rows(self) -> list[int]:
        """The clip's row of each of the plan's."""
        known = self.occlusion.faces
        row_of = {key: row for row, key in enumerate(zip(known.frame.tolist(), known.face.tolist(), strict=True))}
        return [row_of[key] for key in zip(self.faces.frame.tolist(), self.faces.face.tolist(), strict=True)]

    def patches(self, rows: Sequence[int], frames: Sequence[Image]) -> list[Patch | None]:
        """See `Plan`."""
        made = self.plan.patches(rows, frames)
        return [None if one is None else self._freed(row, one) for row, one in zip(rows, made, strict=True)]

    def record(self, row: int) -> Record:
        """See `Plan`."""
        return self.plan.record(row)

    def _freed(self, row: int, patch: Patch) -> Patch:
        visible = self.occlusion.visible(self._rows[row])
        if visible.all():
            return patch
        crop_to_patch = geometry.compose(geometry.invert(self.faces.frame_to_crop[row]), patch.frame_to_patch)
        free = warp(visible, crop_to_patch, patch.mask.shape, border="replicate")
        return replace(patch, mask=patch.mask * free)
