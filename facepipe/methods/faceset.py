"""A person's faces for learning: which are held out, and pictures of another person doing the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from facepipe.config import SwapConfig
from facepipe.errors import NoFaceError
from facepipe.methods.bank import ChosenCrops, SourceBank, driving_features, frontal_shapes
from facepipe.methods.procrustes import Overlay, choose_sources
from facepipe.methods.view import Seen, View
from facepipe.types import HINTS, Faces, evenly_spaced

__all__ = ["FaceSet", "Twins", "find_twins", "held_out", "hints_of", "see_rows"]

_GAP = 5  # faces between the two parts that belong to neither: neighbours look alike
_LEAST = 16  # faces that can be learned from
_MOST = 1500  # faces that are searched for twins

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
        whole: Sequence[Faces] | None = None,
    ) -> FaceSet:
        """Take the chosen, unflagged rows of each clip; hold out the last `share` of each.

        `whole` are the same tables with their meshes, where `tables` are without.

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
        chosen = [faces[[i for k, i in index if k == c]] for c, faces in enumerate(tables if whole is None else whole)]
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

    @cached_property
    def mean(self) -> Points:
        """(P, D) the person's mean frontal shape: median over the faces that may be learned from."""
        return np.asarray(np.median(frontal_shapes(self.faces[self.train]), axis=0))

    def bank(self, rows: NDArray[np.int64]) -> SourceBank:
        """Some of the faces, ready to be searched."""
        return SourceBank(self.faces[rows], self.crops.take(rows), self.clip[rows], self.mean)


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


def find_twins(seen: FaceSet, other: FaceSet, view: View, size: int, *, held_out: bool = False) -> Twins:
    """For each learnable face of one person the other person's most similar one, as the view shows it in its place.

    That is the swap method *procrustes*, which needs no training: pose and expression decide, and faces with something
    in front of them are avoided.

    Parameters
    ----------
    seen, other : FaceSet
        Who is to be imitated, and by whom.
    view : View
        How the pictures are cut out.
    size : int
        Side of the pictures.
    held_out : bool
        For the held-out faces as well. Those of the other person are never used.
    """
    rows = np.flatnonzero(other.train)
    rows = rows[evenly_spaced(len(rows), _MOST)]
    mine = np.flatnonzero(seen.train | seen.held_out if held_out else seen.train)
    wanted = seen.faces[mine]
    chosen = rows[choose_sources(other.bank(rows), wanted, steadiness=0.0)]
    overlay = Overlay(other.mean, wanted, SwapConfig())
    pictures = np.empty((len(wanted), size, size, 4), np.uint8)
    for picture, face, source in zip(pictures, wanted, chosen.tolist(), strict=True):
        image, mask = view.imitate(overlay, face, other.crops[source], other.faces[source], size)
        picture[..., :3], picture[..., 3] = image, np.rint(mask * 255)
    return Twins(mine, chosen, pictures)


def see_rows(faces: FaceSet, rows: NDArray[np.int64], view: View, size: int, *, border: float = 0.0) -> Iterator[Seen]:
    """Some of a person's faces as a net sees them, one after the other."""
    for row in rows.tolist():
        yield view.see(np.asarray(faces.crops[row]), faces.faces[row], np.eye(2, 3), size, border=border)
