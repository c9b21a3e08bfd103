"""Swap method *eigenface*: the source's face as a linear function of what the target's landmarks do; seconds to train.

Principal components of faces (Turk and Pentland 1991), of their *shape-free* texture: each training face is first
warped onto one layout of landmarks (Craw and Cameron 1992; the texture model of Cootes et al. 2001), so that features
lie over each other, and the drawn texture is warped onto the target's landmarks as in the method *procrustes*.
Components of whole crops were tried: they are a blur wherever heads turn and mouths open, and stay in the source's
pose. The two halves of a face are modelled apart (modular eigenspaces, Pentland et al. 1994): eyes and brows follow
eyes and brows, cheeks and mouth follow the mouth. A single model closes the eyes with the mouth when the source
happened to do both at once.

References
----------
M. Turk, A. Pentland, "Eigenfaces for recognition", J. Cogn. Neurosci. 3 (1991) 71-86. DOI 10.1162/jocn.1991.3.1.71
I. Craw, P. Cameron, "Face recognition by computer", BMVC 1992, 498-507. DOI 10.5244/C.6.52
T. F. Cootes, G. J. Edwards, C. J. Taylor, "Active appearance models", IEEE Trans. Pattern Anal. Mach. Intell. 23
(2001) 681-685. DOI 10.1109/34.927467
A. Pentland, B. Moghaddam, T. Starner, "View-based and modular eigenspaces for face recognition", CVPR 1994, 84-91.
DOI 10.1109/CVPR.1994.323814
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facepipe.backends.landmarkers import MESH_TO_IBUG68
from facepipe.composite import Patch
from facepipe.config import SwapConfig
from facepipe.image import piecewise_warp
from facepipe.methods.bank import (
    crop_points,
    driving_features,
    frontal_shapes,
    mean_face,
    nearest_covered,
    shape_free_layout,
    triangulation,
)
from facepipe.methods.faceset import FaceSet
from facepipe.methods.plan import Record, reference_faces, rows_to_swap
from facepipe.methods.procrustes import Overlay
from facepipe.networks.linear import held_back, principal_components, ridge
from facepipe.types import Faces, Image, evenly_spaced

__all__ = ["EigenfacePlan", "Eigenfaces"]

_SIZE = 192  # side of the textures: 160 lost half a decibel, 224 won nothing
_MOST = 300  # faces that are learned from, evenly spaced
_COMPONENTS = 40  # of each half; 20 drew the same
_PENALTY = 0.3  # of the regression, in squared units of the features; less drew noise from strange poses

_SMALL = 64  # side of the textures that are searched for things in front of the face
_SPOT = 9  # side of what counts as one thing there, in pixels
_NOISE = 8.0  # grey levels by which faces differ from any regression
_CUT = 1.5  # misfits, in units of the good faces' own, at which a weight has fallen to 1/e
_ROUNDS = 6

Points = NDArray[np.float64]
Array32 = NDArray[np.float32]


@dataclass(frozen=True)
class _Part:
    """A part of the face, linear in what drives it.

    Attributes
    ----------
    pixels : (D,) int64 array
        Where it is, as indices into the flattened texture.
    mean, basis : (3 D,), (K, 3 D) float32 array
        Grey levels, times the part's window; `basis` is scaled to one standard deviation of the training faces.
    matrix, constant : (K, F), (K,) float32 array
        From features to coefficients, in standard deviations.
    """

    pixels: NDArray[np.int64]
    mean: Array32
    basis: Array32
    matrix: Array32
    constant: Array32

    @classmethod
    def fit(cls, textures: NDArray[np.uint8], window: Array32, features: Points) -> _Part:
        """Learn from N textures (N, S, S, 3) what lies in the window (S, S), and how N features (N, F) drive it."""
        pixels = np.flatnonzero(window)
        x = torch.from_numpy(features).float()
        weight = _weights(textures, window, x)
        seen = textures.reshape(len(textures), -1, 3)[:, pixels] * window.reshape(-1, 1)[pixels]
        rows = torch.from_numpy(seen.reshape(len(seen), -1))
        found = principal_components(rows, _COMPONENTS, weight=weight)
        matrix, constant = ridge(x, found.coefficients(rows), weight, _PENALTY)
        basis = found.basis * found.deviation[:, None]
        return cls(pixels, found.mean.numpy(), basis.numpy(), matrix.numpy(), constant.numpy())

    def codes(self, features: Points) -> Array32:
        """(N, K) coefficients for (N, F) features; what no training face had is held back."""
        found = features.astype(np.float32) @ self.matrix.T + self.constant
        return np.asarray(held_back(torch.from_numpy(found)).numpy())


def _weights(textures: NDArray[np.uint8], window: Array32, features: Tensor) -> Tensor:
    """(N,) weight of each face: next to nothing with a hand, hair or a microphone in the window.

    What is in front of a face does not follow from the expression: a robust regression finds faces that differ much
    from what their features tell, in their worst spot, and does without them (Welsch's weights: Holland and Welsch
    1977, DOI 10.1080/03610927708827533). A smile that is seen in few faces is told by the lips, and stays.
    """
    size = (_SMALL, _SMALL)
    small = np.stack([cv2.resize(one * window[..., None], size, interpolation=cv2.INTER_AREA) for one in textures])
    wanted = torch.from_numpy(small.reshape(len(small), -1))
    weight = torch.ones(len(small), dtype=torch.float64)
    for _ in range(_ROUNDS):
        matrix, constant = ridge(features, wanted, weight, _PENALTY)
        rest = (wanted - features @ matrix.T - constant).abs().reshape(len(small), *size, 3).mean(3).numpy()
        worst = np.array([np.quantile(cv2.blur(one, (_SPOT, _SPOT)), 0.98) for one in rest])
        scale = _CUT * max(float(np.quantile(worst, 0.25)), _NOISE)
        weight = torch.from_numpy(np.exp(-((worst / scale) ** 2)))
    return weight


@dataclass(frozen=True)
class Eigenfaces:
    """A person's face as a linear function of pose and expression.

    Attributes
    ----------
    layout : (P, 2) float64 array
        Landmarks of the textures.
    mean : (P, D) float64 array
        The person's mean frontal shape (median over the training faces).
    upper, lower : _Part
        Down to the eyes, and from the nose on; they fade into each other.
    nearest : (S * S,) int64 array
        For each pixel the nearest one that has a face: textures go on beyond their outline.
    """

    layout: Points
    mean: Points
    upper: _Part
    lower: _Part
    nearest: NDArray[np.int64]

    @classmethod
    def fit(cls, person: FaceSet) -> Eigenfaces:
        """Learn from the faces in ``person.train``, and from no others."""
        rows = np.flatnonzero(person.train)
        rows = rows[evenly_spaced(len(rows), _MOST)]
        faces = person.faces[rows]
        layout = shape_free_layout(mean_face(faces), _SIZE)
        textures, covered = _textures(faces, person.crops.take(rows), layout)
        fall = _fall(layout) * covered
        upper, lower = driving_features(faces, faces)
        return cls(
            layout,
            np.median(frontal_shapes(faces), axis=0),
            _Part.fit(textures, fall, upper),
            _Part.fit(textures, covered - fall, lower),
            nearest_covered(covered > 0),
        )

    def codes(self, faces: Faces, person: Faces) -> Array32:
        """(N, K) coefficients that make this person do what N faces of another do.

        Parameters
        ----------
        faces : Faces
            N faces.
        person : Faces
            Faces of the same other person, that tell how far the eyes open and where brows and mouth mostly are.
        """
        if not len(faces):
            return np.empty((0, len(self.upper.basis) + len(self.lower.basis)), np.float32)
        upper, lower = driving_features(faces, person)
        return np.concatenate([self.upper.codes(upper), self.lower.codes(lower)], axis=1)

    def draw(self, code: Array32) -> Image:
        """(S, S, 3) uint8 RGB texture of one row of codes."""
        flat = np.zeros((_SIZE * _SIZE, 3), np.float32)
        for part, own in zip((self.upper, self.lower), np.split(code, [len(self.upper.basis)]), strict=True):
            flat[part.pixels] += (own @ part.basis + part.mean).reshape(-1, 3)
        texture = np.rint(np.clip(flat, 0, 255)).astype(np.uint8)
        return np.asarray(texture[self.nearest].reshape(_SIZE, _SIZE, 3))


def _fall(layout: Points) -> Array32:
    """(S, S): 1 down to the lower lids, falling smoothly to 0 at the base of the nose."""
    points = layout if len(layout) == 68 else layout[MESH_TO_IBUG68]
    top, bottom = points[[40, 41, 46, 47], 1].mean(), points[33, 1]
    t = np.clip((np.arange(_SIZE) - top) / (bottom - top), 0, 1)
    return np.repeat((1 - t * t * (3 - 2 * t)).astype(np.float32)[:, None], _SIZE, axis=1)


def _textures(faces: Faces, crops: Sequence[Image], layout: Points) -> tuple[NDArray[np.uint8], Array32]:
    """(N, S, S, 3) faces warped onto the layout, and (S, S) 1 where any has pixels; what one hides is their mean."""
    own, triangles = crop_points(faces), triangulation(layout)
    size = (_SIZE, _SIZE)
    textures, seen = np.empty((len(faces), *size, 3), np.uint8), np.empty((len(faces), *size), bool)
    for i, crop in enumerate(crops):
        textures[i], seen[i] = piecewise_warp(np.asarray(crop), own[i], layout, triangles, size)
    count = seen.sum(0)
    mean = textures.sum(0) / np.maximum(count, 1)[..., None]  # hidden pixels are 0
    return np.where(seen[..., None], textures, np.rint(mean).astype(np.uint8)), (count > 0).astype(np.float32)


@dataclass(frozen=True)
class EigenfacePlan:
    """The swap of one clip by a linear model; see `facepipe.methods.plan.Plan`.

    Attributes
    ----------
    model : Eigenfaces
        The person who is drawn.
    faces : Faces
        The faces that are swapped.
    codes : (N, K) float32 array
        What is drawn for each of them.
    overlay : Overlay
        Lays the drawn textures over them.
    """

    model: Eigenfaces
    faces: Faces
    codes: Array32
    overlay: Overlay

    @classmethod
    def make(cls, source: FaceSet, faces: Faces, rows: NDArray[np.bool_], config: SwapConfig) -> EigenfacePlan:
        """Learn the source person, and prepare the swap of a clip.

        Parameters
        ----------
        source : FaceSet
            The source person.
        faces : Faces
            All faces of the target clip, with landmarks of the source's kind.
        rows : (N,) bool array
            Those of the target person.
        config : SwapConfig
            `skip`, `shape` and `refine` are used.
        """
        target = faces[rows_to_swap(faces, rows, config)]
        return cls._of(Eigenfaces.fit(source), target, reference_faces(faces, rows, target), config)

    @classmethod
    def rebuild(cls, person: FaceSet, config: SwapConfig) -> EigenfacePlan:
        """The same-identity swap: a person's held-out faces, drawn by what was learned from the others.

        Parameters
        ----------
        person : FaceSet
            Faces of one clip; those that are neither learned from nor held out take no part.
        config : SwapConfig
            `refine` is used.
        """
        return cls._of(Eigenfaces.fit(person), person.faces[person.held_out], person.faces[person.train], config)

    @classmethod
    def _of(cls, model: Eigenfaces, target: Faces, reference: Faces, config: SwapConfig) -> EigenfacePlan:
        return cls(model, target, model.codes(target, reference), Overlay(model.mean, reference, config))

    @property
    def batch(self) -> int:
        """1: drawing takes a fifth of the time of the warp, which goes face by face; frames need not wait."""
        return 1

    def patches(self, rows: Sequence[int], frames: Sequence[Image]) -> list[Patch | None]:
        """See `Plan`."""
        model = self.model
        return [
            self.overlay(model.draw(self.codes[row]), model.layout, self.faces[row], frame.shape[:2])
            for row, frame in zip(rows, frames, strict=True)
        ]

    def record(self, row: int) -> Record:
        """No single source face."""
        return Record(int(self.faces.face[row]))
