"""A person's faces for learning: which may be learned from, which are held out, and the window a net looks through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from facepipe import geometry
from facepipe.backends.landmarkers import FACE_OVAL
from facepipe.config import SwapConfig
from facepipe.errors import NoFaceError
from facepipe.image import hull_mask, warp
from facepipe.methods.bank import ChosenCrops, SourceBank, driving_features, frontal_shapes
from facepipe.methods.procrustes import Swapper, choose_sources
from facepipe.types import HINTS, Faces, evenly_spaced

__all__ = [
    "BORDER",
    "FaceSet",
    "Twins",
    "Window",
    "crop_outlines",
    "find_twins",
    "find_window",
    "held_out",
    "hints_of",
    "outline_mask",
]

BORDER = 0.25
"""Surroundings that are kept around the window, as a part of its side, on each of the four sides."""

_GAP = 5  # faces between the two parts that belong to neither: neighbours look alike
_ROOM = 0.08  # of the window's side, left around the faces
_LEAST = 16  # faces that can be learned from
_MOST = 1500  # faces that are searched for twins
_EDGE = 0.1  # of a pixel of a twin that has to be face for its colour to be known
_ANYWHERE = (2**20, 2**20)  # height and width: a twin is not cut off where the frame ends

Points = NDArray[np.float64]


def held_out(count: int, share: float) -> NDArray[np.bool_]:
    """(count,) bool: the last `share` of a clip's usable faces, which is never learned from."""
    return np.asarray(np.arange(count) >= count - round(share * count))


@dataclass(frozen=True)
class FaceSet:
    """The unflagged faces of one person.

    Attributes
    ----------
    faces : Faces
        N faces, clip by clip, in the order of frames.
    crops : ChosenCrops
        One (S, S, 3) uint8 array a face.
    clip : (N,) int array
        Number of the clip that a face is from.
    train, held_out : (N,) bool arrays
        What may be learned from, and what results are measured on. Each clip's end is held out, in one piece, so that
        no held-out face has a neighbour that was learned from.
    """

    faces: Faces
    crops: ChosenCrops
    clip: NDArray[np.int64]
    train: NDArray[np.bool_]
    held_out: NDArray[np.bool_]

    @classmethod
    def build(
        cls,
        tables: Sequence[Faces],
        crops: Sequence[NDArray[np.uint8]],
        rows: Sequence[NDArray[np.bool_]],
        *,
        share: float,
    ) -> FaceSet:
        """Take the chosen, unflagged rows of each clip; hold out the last `share` of each.

        Raises
        ------
        NoFaceError
            Fewer than 16 faces to learn from.
        """
        index, train, held = [], [], []
        for c, (faces, keep) in enumerate(zip(tables, rows, strict=True)):
            mine = np.flatnonzero(keep & faces.trusted)
            last = held_out(len(mine), share)
            index += [(c, int(i)) for i in mine]
            train.append(np.arange(len(mine)) < len(mine) - last.sum() - _GAP)
            held.append(last)
        learned = int(sum(part.sum() for part in train))
        if learned < _LEAST:
            raise NoFaceError(
                f"too few faces to learn from: {learned} without a flag and not held out, expected {_LEAST} or more"
            )
        chosen = [faces[[i for k, i in index if k == c]] for c, faces in enumerate(tables)]
        return cls(
            Faces.concatenate(chosen),
            ChosenCrops(crops, index),
            np.array([c for c, _ in index]),
            np.concatenate(train),
            np.concatenate(held),
        )

    def hints(self) -> NDArray[np.float32]:
        """(N, HINTS) pose and expression of each face; see `hints_of`."""
        return hints_of(self.faces, self.faces[self.train])

    def bank(self, rows: NDArray[np.int64]) -> SourceBank:
        """Some of the faces, ready to be searched."""
        mean = np.median(frontal_shapes(self.faces[rows]), axis=0)
        return SourceBank(self.faces[rows], self.crops.take(rows), self.clip[rows], mean)


def hints_of(faces: Faces, person: Faces) -> NDArray[np.float32]:
    """(N, HINTS) numbers that tell a net the pose and the expression of N faces.

    Parameters
    ----------
    faces : Faces
        N faces.
    person : Faces
        Faces of the same person, that tell how far the eyes open and where brows and mouth mostly are.
    """
    if not len(faces):
        return np.empty((0, HINTS), np.float32)
    upper, lower = driving_features(faces, person)
    return np.concatenate([upper, lower[:, 3:]], axis=1).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Window:
    """The square of the aligned crop that a net sees and draws, in parts of the crop's side.

    Attributes
    ----------
    x, y : float
        Its centre.
    side : float
        Its side.
    """

    x: float
    y: float
    side: float

    def crop_to_window(self, crop: int, size: int, *, border: float = 0.0) -> Points:
        """(2, 3) matrix from pixels of a crop of `crop` to those of a picture of `size`.

        Parameters
        ----------
        crop, size : int
            Sides in pixels.
        border : float
            Surroundings on each side, as a part of the window's side, that `size` covers as well.
        """
        whole = self.side * (1 + 2 * border)
        scale = size / (whole * crop)
        low = np.array([self.x, self.y]) - whole / 2
        return np.column_stack([np.eye(2) * scale, (0.5 - low * crop) * scale - 0.5])


def crop_outlines(faces: Faces) -> Points:
    """(N, P, 2) outline of each face in pixels of its crop: the mesh's oval, or the 68 points."""
    points = faces.mesh[:, FACE_OVAL, :2] if faces.mesh.shape[1] else faces.landmarks
    return np.asarray(geometry.apply(faces.frame_to_crop, points))


def outline_mask(outline: Points, matrix: Points, size: int) -> NDArray[np.float32]:
    """(size, size) mask of the hull of an outline that `matrix` maps into the picture."""
    return hull_mask(geometry.apply(matrix, outline), (size, size))


def find_window(sets: Sequence[FaceSet], crop: int) -> Window:
    """The square around nearly all faces that may be learned from, with some room.

    Parameters
    ----------
    sets : sequence of FaceSet
        All persons.
    crop : int
        Side of the crops in pixels.
    """
    low, high = [], []
    for one in sets:
        outlines = crop_outlines(one.faces[one.train]) / crop
        low.append(np.quantile(outlines.min(1), 0.02, axis=0))
        high.append(np.quantile(outlines.max(1), 0.98, axis=0))
    first, last = np.min(low, axis=0), np.max(high, axis=0)
    x, y = (first + last) / 2
    return Window(float(x), float(y), float((last - first).max() * (1 + _ROOM)))


@dataclass(frozen=True)
class Twins:
    """For faces of one person, pictures of another doing the same.

    Attributes
    ----------
    seen : (N,) int64 array
        The faces.
    rows : (N,) int64 array
        The face of the other person that each is made from.
    pictures : (N, size, size, 4) uint8 array
        RGB and mask, through the window; black where there is no face.
    """

    seen: NDArray[np.int64]
    rows: NDArray[np.int64]
    pictures: NDArray[np.uint8]


def find_twins(seen: FaceSet, other: FaceSet, window: Window, size: int, *, held_out: bool = False) -> Twins:
    """For each learnable face of one person the other person's most similar one, warped onto its landmarks.

    That is the swap method *procrustes*, which needs no training: pose and expression decide, faces with something in
    front of them are avoided, and the proportions stay the other person's.

    Parameters
    ----------
    seen, other : FaceSet
        Who is to be imitated, and by whom.
    window : Window
        Place of the pictures in the aligned crops.
    size : int
        Side of the pictures.
    held_out : bool
        For the held-out faces as well. Those of the other person are never used.
    """
    rows = np.flatnonzero(other.train)
    rows = rows[evenly_spaced(len(rows), _MOST)]
    mine = np.flatnonzero(seen.train | seen.held_out if held_out else seen.train)
    bank, wanted = other.bank(rows), seen.faces[mine]
    chosen = choose_sources(bank, wanted, steadiness=0.0)
    swapper = Swapper(bank, wanted, SwapConfig())
    pictures = np.zeros((len(wanted), size, size, 4), np.uint8)
    matrix = window.crop_to_window(seen.crops[0].shape[0], size)
    for picture, face, source in zip(pictures, wanted, chosen.tolist(), strict=True):
        patch = swapper(face, {source: 1.0}, _ANYWHERE)
        if patch is None:
            continue
        place = geometry.compose(geometry.invert(patch.frame_to_patch), face.frame_to_crop[0], matrix)
        # Beside the face a patch is black: edges are averages of what is face there.
        covered = warp(np.asarray(patch.image.any(2), np.float32), place, (size, size))
        image = warp(patch.image, place, (size, size)) / np.maximum(covered, _EDGE)[..., None]
        picture[..., :3] = np.rint(np.minimum(image, 255))
        picture[..., 3] = np.rint(warp(patch.mask, place, (size, size)) * 255)
    return Twins(mine, rows[chosen], pictures)
