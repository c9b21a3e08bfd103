"""What is in front of a face - a hand, hair, a microphone - stays in front: the clip is its own model of the face.

Every face is warped onto one layout of landmarks (shape-free textures: Craw and Cameron 1992, DOI 10.5244/C.6.52).
There each pixel is a linear function of pose and expression, learned by a robust regression: pixels and faces that
differ much from it count less and less (iteratively reweighted least squares with Welsch's weights: Holland and Welsch
1977, DOI 10.1080/03610927708827533). What still differs, in units of the pixel's own spread, is not this face. It has
to reach in from beyond the outline and to be strong somewhere (hysteresis: Canny 1986, DOI
10.1109/TPAMI.1986.4767851), in more than one frame; its border is then moved onto edges of the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from facepipe import geometry
from facepipe.composite import Patch
from facepipe.image import piecewise_warp, warp
from facepipe.methods.bank import crop_points, mean_face, nearest_covered, neighbours, shape_free_layout, triangulation
from facepipe.methods.faceset import hints_of
from facepipe.methods.plan import Plan, Record
from facepipe.types import Faces, Image, evenly_spaced

__all__ = ["Occlusion", "WithOcclusion"]

_SIZE = 64  # side of the layout
_DETAIL = 3  # times that in the pictures whose edges the border is moved to
_MOST = 240  # faces that are learned from, evenly spaced
_LEAST = 30  # faces with nothing in front, without which nothing is known
_SHARE = 0.3  # of the faces that are looked at, likewise
_COMPONENTS = 8  # of pose and expression
_PENALTY = 0.5  # of the regression, in squared units of the features
_CUTS = (12.0, 12.0, 9.0, 6.0, 4.0, 4.0, 4.0)  # misfit at which a pixel's weight has fallen to 1/e, a round
_COVERED = 0.03  # share of the face with a strong misfit at which the whole face's weight has fallen to 1/e
_NOISE = (5.0, 5.0, 5.0, 3.0)  # grey levels of red, green, blue and edges by which any face differs
_SHIFT = 0.7  # pixels by which landmarks are wrong
_GAIN = (0.6, 1.6)  # of light, from face to face

_LIGHT = 0.12  # natural logarithm of ratios that belong to the light of a face
_ROUNDS = 4
_SHADE = 0.6  # to which a shadow may darken a face
_SHARES = (0.85, 0.15)  # of colours and of edges in the misfit

_STRONG = 6.0  # misfit that shows something
_MOST_MISFIT = 12.0  # misfit that counts at most: what is very unlike would widen when it is smoothed
_WEAK = (1.6, 5.0)  # least and most misfit from which it may be that thing, ...
_OWN = 3.0  # ... and what it is in between, in units of the face's own misfit ...
_SURE = (0.3, 5.0)  # misfit in those units below and above which there is no doubt
_QUIET = 0.3  # ... which that share of its pixels does not exceed: cramped faces fit less than quiet ones
_SPOT = 0.008  # share of the face that has to be strong
_WHOLE = 0.6  # share of the face beyond which it is not an object in front, but other light or another face
_CLOSE = 5  # pixels: gaps that are closed
_BORDER = 4  # pixels from the outline at which something reaches in from beyond
_SNAP = 5  # pixels of the picture over which a border is moved
_REACH = 1  # frames before and after whose misfit counts

Points = NDArray[np.float64]
Array32 = NDArray[np.float32]
Bools = NDArray[np.bool_]


class _Layout(NamedTuple):
    """Where pixels of a face lie, whatever the face does.

    Attributes
    ----------
    points : (P, 2) float64 array
        Landmarks, in pixels of the layout.
    triangles : (T, 3) int array
        Of landmarks.
    """

    points: Points
    triangles: NDArray[np.signedinteger[Any]]

    @classmethod
    def of(cls, faces: Faces) -> _Layout:
        """The mean face for the kind of landmarks that `faces` has, as large as the layout."""
        points = shape_free_layout(mean_face(faces), _SIZE)
        return cls(points, triangulation(points))

    def texture(self, crop: Image, own: Points) -> tuple[Array32, Bools]:
        """(S, S, 4) red, green, blue and strength of edges of a face, and (S, S) where it is seen."""
        small, own = _small(crop, own)
        face, _ = piecewise_warp(small, own, self.points, self.triangles, (_SIZE, _SIZE))
        colors = face.astype(np.float32)
        seen = cv2.erode(face.max(2), _disc(2)) > 0  # a crop is black where its frame ends, the layout beside the face
        return np.dstack([colors, _edges(colors.mean(2))]), seen


def _small(crop: Image, own: Points) -> tuple[Image, Points]:
    """The crop with no more pixels than are looked at, and the landmarks in it."""
    crop = np.asarray(crop)
    side = min(_DETAIL * _SIZE, crop.shape[0])
    if side == crop.shape[0]:
        return crop, own
    small = cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA)
    return np.asarray(small), (own + 0.5) * (side / crop.shape[0]) - 0.5


def _edges(grey: Array32) -> Array32:
    """Strength of edges."""
    smooth = cv2.GaussianBlur(grey, (0, 0), 0.8)
    return np.asarray(np.hypot(cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1)) / 4)


def _spread(values: Array32, seen: Bools) -> Array32:
    """(..., S, S) means over the neighbourhood of each pixel, of pixels that are seen; 0 where none is."""
    out = np.empty_like(values)
    for one, inside, result in zip(
        values.reshape(-1, *values.shape[-2:]),
        seen.reshape(-1, *seen.shape[-2:]),
        out.reshape(-1, *out.shape[-2:]),
        strict=True,
    ):
        weight = inside.astype(np.float32)
        share = cv2.GaussianBlur(weight, (0, 0), 1.5)
        result[:] = cv2.GaussianBlur(one * weight, (0, 0), 1.5) / np.maximum(share, 1e-3) * weight
    return out


@dataclass(frozen=True)
class _Model:
    """What a person's face looks like, pixel by pixel.

    Attributes
    ----------
    inside : (S, S) bool array
        The D pixels that most faces show.
    matrix : (D, 4, F) float32 array
        From F numbers of pose and expression, the first of which is 1, to red, green, blue and strength of edges.
    scale : (D, 4) float32 array
        By how much faces differ from that.
    clean : (N,) bool array
        Faces that were learned from and have nothing in front.
    """

    inside: Bools
    matrix: Array32
    scale: Array32
    clean: Bools

    @classmethod
    def fit(cls, codes: Array32, textures: Array32, seen: Bools) -> _Model:
        """Learn from N faces: codes (N, F), textures (N, S, S, 4), and what is seen of each (N, S, S)."""
        inside = seen.mean(0) > 0.6
        count, seen = len(codes), seen & inside
        values, shown = textures[:, inside], seen[:, inside]
        products = (codes[:, :, None] * codes[:, None]).reshape(count, -1)
        penalty = np.diag([1e-6] + [_PENALTY] * (codes.shape[1] - 1)).astype(np.float32)
        matrix = np.zeros((*values.shape[1:], codes.shape[1]), np.float32)
        matrix[..., 0] = np.median(values, axis=0)
        weight, clean, spread = shown.astype(np.float32), np.ones(count, bool), None
        for cut in _CUTS:
            wanted = np.einsum("nf,dcf->ndc", codes, matrix, optimize=True)
            lit = _lit(values, wanted, shown, inside)
            rest = lit - wanted
            if spread is None:  # a median at first: what is in front of some faces does not widen it
                spread = (1.4826 * np.median(np.abs(rest), axis=0)) ** 2
            else:
                spread = np.einsum("nd,ndc->dc", weight / np.maximum(weight.sum(0), 1e-3), rest**2)
            scale = np.sqrt(spread + _floor(matrix[..., 0], inside))
            picture = np.zeros(seen.shape, np.float32)
            picture[:, inside] = ((rest / scale) ** 2).mean(2)  # a shadow is nothing to learn from either
            misfit = _spread(picture, seen)[:, inside]
            covered = (misfit > _STRONG).mean(1)
            clean = covered < _COVERED
            weight = np.exp(-misfit / cut) * shown * (np.exp(-((covered / _COVERED) ** 2)) + 0.02)[:, None]
            share = weight / np.maximum(weight.sum(0), 1e-3)
            normal = (share.T @ products).reshape(-1, *penalty.shape) + penalty
            moment = np.stack([(share * lit[..., c]).T @ codes for c in range(4)], axis=2)
            matrix = np.linalg.solve(normal, moment).transpose(0, 2, 1)
        return cls(inside, matrix, scale, clean)

    @cached_property
    def nearest(self) -> NDArray[np.int64]:
        """(S * S,) index of the nearest pixel inside of each."""
        return nearest_covered(self.inside)

    def misfit(self, code: Array32, texture: Array32, seen: Bools) -> _Seen:
        """How a face differs from what its code tells."""
        values, shown = texture[self.inside], seen[self.inside]
        wanted = self.matrix @ code
        lit = _lit(values[None], wanted[None], shown[None], self.inside)[0]
        pictures = np.zeros((3, *seen.shape), np.float32)
        pictures[0][self.inside] = lit[:, :3].mean(1)
        pictures[1][self.inside] = (lit - wanted)[:, :3].mean(1)
        pictures[2][self.inside] = np.minimum(_misfit(lit, wanted, self.scale), _MOST_MISFIT)
        return _Seen(pictures[0], pictures[1], _spread(pictures[2], seen & self.inside))


class _Seen(NamedTuple):
    """A face in the layout, all (S, S) float32; 0 where nothing is known.

    Attributes
    ----------
    grey, rest
        Brightness in even light, and what that is more than expected.
    misfit
        Mean square of what the face differs by, in units of the pixels' spread.
    """

    grey: Array32
    rest: Array32
    misfit: Array32


def _misfit(lit: Array32, wanted: Array32, scale: Array32) -> Array32:
    """(..., D) squares of what faces (..., D, 4) differ by; a shadow is no difference."""
    shade = lit[..., :3].mean(-1) / np.maximum(wanted[..., :3].mean(-1), 8)
    rest = ((lit - wanted * np.clip(shade, _SHADE, 1)[..., None]) / scale) ** 2
    return np.asarray(_SHARES[0] * rest[..., :3].mean(-1) + _SHARES[1] * rest[..., 3])


def _lit(values: Array32, wanted: Array32, shown: Bools, inside: Bools) -> Array32:
    """Faces (N, D, 4) in the light of the wanted ones: a factor for each colour, and a slope over the face.

    Medians first, then a plane through what is not far from them: what is in front of the face has little to say.
    """
    y, x = (np.argwhere(inside).T - (_SIZE - 1) / 2) / (_SIZE / 2)
    ratio = wanted[..., :3] / np.maximum(values[..., :3], 8)
    gain = np.ones((len(values), 1, 3), np.float32)
    some = shown.any(1)
    gain[some] = np.nanmedian(np.where(shown[some, :, None], ratio[some], np.nan), axis=1, keepdims=True)
    gain = np.clip(gain, *_GAIN)
    left = np.log(np.clip((ratio / gain).mean(2), 0.25, 4))
    basis = np.stack([np.ones_like(x), x, y], axis=1).astype(np.float32)
    plane = np.zeros((len(values), 3), np.float32)
    for _ in range(_ROUNDS):
        weight = shown * np.exp(-(((left - plane @ basis.T) / _LIGHT) ** 2))
        normal = np.einsum("nd,df,dg->nfg", weight, basis, basis, optimize=True) + np.eye(3, dtype=np.float32)
        plane = np.linalg.solve(normal, ((weight * left) @ basis)[..., None])[..., 0]
    light = np.exp(plane @ basis.T)[..., None] * gain
    return values * np.concatenate([light, light.mean(2, keepdims=True)], axis=2, dtype=np.float32)


def _floor(colors: Array32, inside: Bools) -> Array32:
    """(D, 4) squares of what any face differs by: noise, and landmarks beside their place where there are edges."""
    grey = np.zeros(inside.shape, np.float32)
    grey[inside] = colors[:, :3].mean(1)
    grey = np.where(inside, grey, grey[inside].mean())
    return np.asarray(np.square(_NOISE, dtype=np.float32) + (_SHIFT * _edges(grey)[inside][:, None] / 2) ** 2)


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
    _layout: _Layout
    _model: _Model
    _seen: dict[int, _Seen] = field(default_factory=dict)

    @classmethod
    def learn(cls, faces: Faces, crops: Sequence[Image], rows: NDArray[np.bool_]) -> Occlusion | None:
        """Learn what a person looks like with nothing in front.

        Parameters
        ----------
        faces : Faces
            N faces of a clip.
        crops : sequence of (C, C, 3) uint8 arrays
            One a face, aligned by ``frame_to_crop``.
        rows : (N,) bool array
            Those of the person.

        Returns
        -------
        Occlusion or None
            None when too few faces have nothing in front: 30, or 30 % of those that are looked at.
        """
        known = np.flatnonzero(rows & faces.trusted)
        if len(known) < _LEAST:
            return None
        learned = known[evenly_spaced(len(known), _MOST)]
        layout, points = _Layout.of(faces), crop_points(faces)
        features = hints_of(faces, faces[known]).astype(np.float64)
        mean = features[learned].mean(0)
        axes = np.linalg.svd(features[learned] - mean, full_matrices=False)[2][:_COMPONENTS]
        codes = np.concatenate([np.ones((len(faces), 1)), (features - mean) @ axes.T], axis=1).astype(np.float32)
        pairs = [layout.texture(crops[row], points[row]) for row in learned.tolist()]
        model = _Model.fit(codes[learned], np.stack([one for one, _ in pairs]), np.stack([seen for _, seen in pairs]))
        if model.clean.sum() < max(_LEAST, _SHARE * len(learned)):
            return None
        return cls(faces, crops, codes, layout, model)

    def front(self, row: int) -> Bools | None:
        """(S, S) what is in front of a face, in the layout; None for nothing."""
        inside = self._model.inside
        near = [self._look(k).misfit for k in neighbours(self.faces, row, _REACH)]
        misfit: Array32 = np.median(near, axis=0).astype(np.float32)
        least = _SPOT * inside.sum()
        if (misfit > _STRONG).sum() < least:
            return None
        own = float(np.clip(_OWN * np.quantile(misfit[inside], _QUIET), *_WEAK))
        found = _cut(self._look(row), misfit / own, self._model)
        _, labels = cv2.connectedComponents(found.astype(np.uint8))
        count = int(labels.max()) + 1
        border = inside & ~cv2.erode(inside.view(np.uint8), _disc(_BORDER), borderValue=0).view(bool)
        wanted = np.bincount(labels[misfit > _STRONG], minlength=count) >= least
        wanted &= np.bincount(labels[border], minlength=count) >= _BORDER
        wanted[0] = False
        found = wanted[labels]
        if not found.any() or found[inside].mean() > _WHOLE:
            return None
        return np.asarray(found.ravel()[self._model.nearest].reshape(found.shape))

    def _look(self, row: int) -> _Seen:
        """A face in the layout; those near by are kept."""
        if row not in self._seen:
            texture, seen = self._layout.texture(self.crops[row], crop_points(self.faces[row])[0])
            for old in [one for one in self._seen if abs(one - row) > 2 * _REACH]:
                self._seen.pop(old, None)
            self._seen[row] = self._model.misfit(self.codes[row], texture, seen)
        return self._seen[row]

    def visible(self, row: int) -> Array32:
        """(C, C) float32 mask in the crop: 1 where the face is seen, 0 where something is in front of it."""
        crop = np.asarray(self.crops[row])
        front = self.front(row)
        if front is None:
            return np.ones(crop.shape[:2], np.float32)
        small, own = _small(crop, crop_points(self.faces[row])[0])
        layout = self._layout
        placed, known = piecewise_warp(front.astype(np.float32), layout.points, own, layout.triangles, small.shape[:2])
        covered = _snapped(small, placed, known)
        whole = cv2.resize(covered, crop.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        return np.asarray(1 - whole, np.float32)


def _cut(face: _Seen, misfit: Array32, model: _Model) -> Bools:
    """(S, S) pixels of a thing whose misfit is mostly above 1: brightness and misfit as two mixtures, smooth borders.

    C. Rother et al., "GrabCut", ACM Trans. Graph. 23 (2004) 309-314. DOI 10.1145/1015706.1015720
    """
    inside, beyond = model.inside, model.nearest  # nothing is said of what is not face
    features = np.dstack([face.grey, 128 + face.rest, 60 * np.sqrt(misfit)])
    likely = cv2.morphologyEx((misfit > 1).astype(np.uint8), cv2.MORPH_CLOSE, _disc(_CLOSE // 2))
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


def _disc(radius: int) -> NDArray[np.uint8]:
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1)), np.uint8)


def _snapped(image: Image, front: Array32, known: Bools) -> Array32:
    """A mask (0 to 1) whose border is moved onto edges of the picture near by: a watershed from both sides.

    F. Meyer, "Color image segmentation", Int. Conf. Image Processing and its Applications 1992, 303-306.
    """
    thing, face = (
        known & (np.asarray(cv2.erode((part | ~known).astype(np.uint8), _disc(_SNAP), borderValue=0)) > 0)
        for part in (front >= 0.5, front < 0.5)
    )
    markers = np.where(thing, 1, np.where(face, 2, 0)).astype(np.int32)
    found = np.asarray(cv2.watershed(cv2.GaussianBlur(image, (3, 3), 0), markers))
    inner = np.float32(found[1:-1, 1:-1] != 2)  # watersheds go to the front; the picture's own edge is always one
    return np.asarray(cv2.GaussianBlur(np.pad(inner, 1, mode="edge"), (5, 5), 0), np.float32)


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
