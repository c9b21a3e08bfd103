"""A clip as its own model of a face: what each of its pixels looks like, whatever pose and expression do.

Every face is warped onto one layout of landmarks (shape-free textures: Craw and Cameron 1992, DOI 10.5244/C.6.52).
There each pixel is a linear function of pose and expression, learned by a robust regression: pixels and faces that
differ much from it count less and less (iteratively reweighted least squares with Welsch's weights: Holland and Welsch
1977, DOI 10.1080/03610927708827533). What still differs, in units of the pixel's own spread, is not this face.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from facepipe.image import piecewise_warp
from facepipe.methods.bank import mean_face, nearest_covered, shape_free_layout, triangulation
from facepipe.stored import DAMAGED, read_arrays
from facepipe.types import Faces, Image
from facepipe.workspace import atomic_path

__all__ = ["STRONG", "FaceLayout", "FaceModel", "SeenFace", "disc", "shrunk"]

_SIZE = 64  # side of the layout
_DETAIL = 3  # times that in the pictures whose edges the border is moved to
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

STRONG = 6.0
"""Misfit that shows something."""
_MOST_MISFIT = 12.0  # misfit that counts at most: what is very unlike would widen when it is smoothed
_USUAL = 0.9  # share of the learned faces whose pose is an ordinary one
_APART = 5.0  # poses of a clip that tell something new: the frames between them look like one of them

Points = NDArray[np.float64]
Array32 = NDArray[np.float32]
Bools = NDArray[np.bool_]


class FaceLayout(NamedTuple):
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
    def of(cls, faces: Faces) -> FaceLayout:
        """The mean face for the kind of landmarks that `faces` has, as large as the layout."""
        points = shape_free_layout(mean_face(faces), _SIZE)
        return cls(points, triangulation(points))

    def texture(self, crop: Image, own: Points) -> tuple[Array32, Bools]:
        """(S, S, 4) red, green, blue and strength of edges of a face, and (S, S) where it is seen."""
        small, own = shrunk(crop, own)
        face, _ = piecewise_warp(small, own, self.points, self.triangles, (_SIZE, _SIZE))
        colors = face.astype(np.float32)
        seen = cv2.erode(face.max(2), disc(2)) > 0  # a crop is black where its frame ends, the layout beside the face
        return np.dstack([colors, _edges(colors.mean(2))]), seen


def shrunk(crop: Image, own: Points) -> tuple[Image, Points]:
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
class FaceModel:
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
    spread : (F, F) float64 array
        Inverse of the mean product of their codes: with it a code tells how far it is from all of them.
    usual : float
        How far most of them are themselves.
    """

    inside: Bools
    matrix: Array32
    scale: Array32
    clean: Bools
    spread: NDArray[np.float64]
    usual: float

    @classmethod
    def fit(cls, codes: Array32, textures: Array32, seen: Bools) -> FaceModel:
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
            covered = (misfit > STRONG).mean(1)
            clean = covered < _COVERED
            weight = np.exp(-misfit / cut) * shown * (np.exp(-((covered / _COVERED) ** 2)) + 0.02)[:, None]
            share = weight / np.maximum(weight.sum(0), 1e-3)
            normal = (share.T @ products).reshape(-1, *penalty.shape) + penalty
            moment = np.stack([(share * lit[..., c]).T @ codes for c in range(4)], axis=2)
            matrix = np.linalg.solve(normal, moment).transpose(0, 2, 1)
        known = codes[clean].astype(np.float64)
        inverse = np.linalg.inv(known.T @ known / max(1, len(known)) + penalty)
        far = np.einsum("nf,fg,ng->n", known, inverse, known)
        usual = float(np.quantile(far, _USUAL)) if len(known) else 0.0
        return cls(inside, matrix, scale, clean, inverse.astype(np.float64), usual)

    def write(self, path: Path, key: str) -> None:
        """Keep the model in a ``.npz`` file, with what it was learned from as `key`."""
        with atomic_path(path) as part, part.open("wb") as file:
            np.savez(file, key=np.array(key), **{name: getattr(self, name) for name in self.__dataclass_fields__})

    @classmethod
    def read(cls, path: Path, key: str) -> FaceModel | None:
        """The model that was kept with this key; None for another key, or a file that is missing or damaged."""
        try:
            kept: dict[str, Any] = read_arrays(path)
            if str(kept.pop("key")) != key:
                return None
            return cls(**{**kept, "usual": float(kept["usual"])})
        except DAMAGED:
            return None

    def doubt(self, code: Array32) -> float:
        """By how much the variance of what is expected grows for a code unlike those that were learned; 1 or more.

        A prediction's variance is ``1 + x (X'X)^-1 x'`` times that of the data (C. R. Rao, "Linear Statistical
        Inference and Its Applications", 2nd ed., Wiley 1973, section 4a). DOI 10.1002/9780470316436
        """
        wide = code.astype(np.float64)
        return 1.0 + max(0.0, float(wide @ self.spread @ wide) - self.usual) / _APART

    @cached_property
    def nearest(self) -> NDArray[np.int64]:
        """(S * S,) index of the nearest pixel inside of each."""
        return nearest_covered(self.inside)

    def misfit(self, code: Array32, texture: Array32, seen: Bools) -> SeenFace:
        """How a face differs from what its code tells."""
        values, shown = texture[self.inside], seen[self.inside]
        wanted = self.matrix @ code
        lit = _lit(values[None], wanted[None], shown[None], self.inside)[0]
        pictures = np.zeros((3, *seen.shape), np.float32)
        pictures[0][self.inside] = lit[:, :3].mean(1)
        pictures[1][self.inside] = (lit - wanted)[:, :3].mean(1)
        pictures[2][self.inside] = np.minimum(_misfit(lit, wanted, self.scale) / self.doubt(code), _MOST_MISFIT)
        return SeenFace(pictures[0], pictures[1], _spread(pictures[2], seen & self.inside))


class SeenFace(NamedTuple):
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


def disc(radius: int) -> NDArray[np.uint8]:
    """A disc for morphology; its radius is in pixels."""
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1)), np.uint8)
