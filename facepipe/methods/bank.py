"""The source person's faces, ready to be searched: pose, expression, and whether something hides the face."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from facepipe import geometry
from facepipe.backends.landmarkers import MESH_TO_IBUG68
from facepipe.errors import NoFaceError
from facepipe.image import delaunay, piecewise_warp
from facepipe.types import Faces, Image, evenly_spaced

__all__ = [
    "ANGLE",
    "CLEAR",
    "CLUTTERED",
    "ChosenCrops",
    "Movements",
    "SourceBank",
    "behaviour",
    "crop_points",
    "driving_features",
    "expression",
    "frontal_landmarks",
    "frontal_shapes",
    "mean_face",
    "movements",
    "nearest_covered",
    "neighbours",
    "shape_free_layout",
    "triangulation",
]

_MOST = 1500  # faces in a bank: enough for every pose and mouth, few enough to search
ANGLE = 8.0
"""Degrees of a head's turn that weigh as much as one unit of expression."""

_MOVE = 0.03  # movement of lips, lids and brows that counts as one, in distances between the eyes
_OPEN_EYE = 0.16  # opening of a wide open eye, in the same unit
_SEEN = 9.0  # what closed eyes count by their look: more than by the lids' landmarks, and than a mouth
CLEAR = 0.02
"""Clutter below which there is nothing in front of a face."""
CLUTTERED = 0.15
"""Clutter above which there may well be."""
_HIDDEN = (2.0, 4.0)  # clutter of a face with something before it, and of one all hidden: a fingertip is bad enough
_BESIDE = 3  # frames
_UNSEEN = 0.25  # of the clutter in which a closer look finds nothing
_FILLED = 0.974  # of a texture's side, by the face
_SMALL = 48  # side of the pictures that are searched for things in front of the face

Points = NDArray[np.float64]


def frontal_shapes(faces: Faces) -> Points:
    """Landmarks with position, size and head pose removed.

    Returns
    -------
    (N, 468, 3) or (N, 68, 2) float64 array
        The mesh turned to the front where there is one (three-dimensional Procrustes fit to the mean face), else the
        68 points laid over the mean face (two-dimensional fit); units of `geometry.mean_face68`.
    """
    return geometry.apply(*_turned(faces))


def frontal_landmarks(faces: Faces) -> Points:
    """(N, 68, 2) float64: the iBUG points of `frontal_shapes`, in a twentieth of the memory."""
    matrices, points = _turned(faces)
    return geometry.apply(matrices, points if points.shape[1] == 68 else points[:, MESH_TO_IBUG68])[..., :2]


def _turned(faces: Faces) -> tuple[Points, NDArray[np.float32]]:
    """The transforms that turn faces to the front, and the points of the faces."""
    points = faces.mesh if faces.mesh.size else faces.landmarks
    return geometry.umeyama(points, mean_face(faces)), points


def mean_face(faces: Faces) -> Points:
    """(468, 3) or (68, 2): the mean face for the kind of landmarks that `faces` has."""
    return geometry.mean_face_mesh() if faces.mesh.shape[1] else geometry.mean_face68()[:, :2]


def crop_points(faces: Faces) -> Points:
    """(N, P, 2): mesh or landmarks in pixels of the crops."""
    points = faces.mesh[..., :2] if faces.mesh.size else faces.landmarks
    return np.asarray(geometry.apply(faces.frame_to_crop, points))


def triangulation(layout: Points) -> NDArray[np.signedinteger[Any]]:
    """(T, 3) triangles of a face's mesh, or of its 68 points as they lie in `layout` (P, 2)."""
    return geometry.mesh_triangles() if len(layout) > 68 else delaunay(layout)


def shape_free_layout(model: Points, size: int, *, border: float = 0.0) -> Points:
    """(P, 2): the mean face `model`, in pixels of a texture; its mouth is open a little, with room for teeth.

    Parameters
    ----------
    model : (P, D) float64 array
        See `mean_face`.
    size : int
        Side of the texture, surroundings included.
    border : float
        Surroundings on each side, as a part of the side without.
    """
    model = model[:, :2]
    low, high = model.min(0), model.max(0)
    scale = _FILLED * size / ((1 + 2 * border) * (high - low).max())
    return np.asarray((model - (low + high) / 2) * scale + (size - 1) / 2)


def nearest_covered(covered: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(H * W,) index, into the flattened picture, of the covered pixel that is nearest to each."""
    from scipy.ndimage import distance_transform_edt

    y, x = distance_transform_edt(~covered, return_distances=False, return_indices=True)
    return np.asarray(y * covered.shape[1] + x, np.int64).ravel()


def neighbours(faces: Faces, row: int, reach: int) -> list[int]:
    """Rows of the same track in the frames up to `reach` before and after, without a gap; `row` is among them."""
    near = range(max(0, row - reach), min(len(faces), row + reach + 1))
    return [k for k in near if faces.track[k] == faces.track[row] and faces.frame[k] - faces.frame[row] == k - row]


class Movements(NamedTuple):
    """What the parts of N faces do, scaled so that distances compare.

    Attributes
    ----------
    lips : (N, 40) float64 array
        As they are, around their own centre: an open mouth is open whoever opens it.
    lids : (N, 2) float64 array
        Opening of the eyes, relative to how far this person's eyes open.
    brows, mouth : (N, 2) float64 array
        Height of the brows, and place of the mouth (x, y), relative to where this person mostly has them.
    """

    lips: Points
    lids: Points
    brows: Points
    mouth: Points


def movements(frontal: Points, *, person: Points | None = None) -> Movements:
    """What mouth, eyes and brows do in frontal shapes (N, P, D).

    Parameters
    ----------
    frontal : (N, P, D) float64 array
        See `frontal_shapes` and `frontal_landmarks`.
    person : (M, P, D) float64 array, optional
        Shapes of the same person that tell how far the eyes open and where brows and mouth mostly are; by default
        those of `frontal` itself.
    """
    lips, lids, brows, mouth = _places(frontal)
    _, own_lids, own_brows, own_mouth = _places(frontal if person is None else person)
    lids = lids * (_OPEN_EYE / np.maximum(np.quantile(own_lids, 0.9, axis=0), 1e-3))
    brows, mouth = (0.5 * (now - np.median(own, axis=0)) for now, own in ((brows, own_brows), (mouth, own_mouth)))
    return Movements(2 * lips / _MOVE, lids / _MOVE, brows / _MOVE, mouth / _MOVE)


def _places(frontal: Points) -> tuple[Points, Points, Points, Points]:
    """Lips around their centre, opening of the eyes, height of the brows over the eyes, place of the mouth."""
    points = (frontal if frontal.shape[1] == 68 else frontal[:, MESH_TO_IBUG68])[..., :2]
    mouth = points[:, 48:60].mean(1)
    lips = (points[:, 48:68] - mouth[:, None]).reshape(len(points), -1) / np.sqrt(20)
    lids = (points[:, [41, 40, 47, 46]] - points[:, [37, 38, 43, 44]])[..., 1].reshape(-1, 2, 2).mean(2)
    brows = points[:, 17:27, 1].reshape(-1, 2, 5).mean(2) - points[:, 36:48, 1].reshape(-1, 2, 6).mean(2)
    return lips, lids, brows, mouth


def expression(frontal: Points) -> Points:
    """(N, F): what mouth, eyes and brows do, side by side; see `Movements`."""
    return np.concatenate(movements(frontal), axis=1)


def driving_features(faces: Faces, person: Faces) -> tuple[Points, Points]:
    """(N, 7) and (N, 45): what drives the upper and the lower part of a face; both begin with the three angles.

    Parameters
    ----------
    faces : Faces
        N faces.
    person : Faces
        Faces of the same person, see `movements`.
    """
    pose = np.stack([faces.yaw, faces.pitch, faces.roll], 1).astype(np.float64) / ANGLE
    moved = movements(frontal_landmarks(faces), person=frontal_landmarks(person))
    upper = np.concatenate([pose, moved.lids, moved.brows], axis=1)
    return upper, np.concatenate([pose, moved.lips, moved.mouth], axis=1)


def behaviour(faces: Faces) -> Points:
    """(N, F): the `expression` of faces of one person, and how open their eyes look.

    Landmarks do not tell eyes that look down from open ones, pictures do: see `facepipe.eyes`. Relative to the open
    eyes of this person; eyes of which nothing can be told count as the person's most are.
    """
    seen = faces.eyes.astype(np.float64)
    if np.isfinite(seen).any(0).all():
        seen /= np.maximum(np.nanquantile(seen, 0.9, axis=0), 1e-3)
        seen = np.where(np.isfinite(seen), seen, np.nanmedian(seen, axis=0))
    else:
        seen = np.ones_like(seen)
    return np.concatenate([expression(frontal_landmarks(faces)), _SEEN * seen], axis=1)


class ChosenCrops(Sequence[Image]):
    """Rows of the crops of several clips; those that lie in files are read each time they are asked for.

    A row of a memory map would stay in this process's memory once it was looked at, and `SourceBank.clutter` looks at
    every row.
    """

    def __init__(self, crops: Sequence[NDArray[np.uint8]], index: Sequence[tuple[int, int]]) -> None:
        self._crops = crops
        self._index = index

    @property
    def sides(self) -> NDArray[np.int64]:
        """(N,) sides in pixels: crops of one clip are alike, those of two may differ."""
        return np.array([self._crops[clip].shape[1] for clip, _ in self._index], np.int64)

    def take(self, rows: NDArray[np.int64]) -> ChosenCrops:
        """Some of the crops, in that order."""
        return ChosenCrops(self._crops, [self._index[row] for row in rows.tolist()])

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, at: Any) -> Any:
        clip, row = self._index[at]
        crops = self._crops[clip]
        if not isinstance(crops, np.memmap):
            return crops[row]
        shape, size = crops.shape[1:], int(np.prod(crops.shape[1:]))
        return np.fromfile(str(crops.filename), np.uint8, size, offset=crops.offset + row * size).reshape(shape)


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
    row : (N,) int array
        Row in the table of the clip; none of a bank that was not built from tables.
    """

    faces: Faces
    crops: Sequence[Image]
    clip: NDArray[np.int64]
    mean: Points
    row: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    def hiding(self, shares: Points) -> SourceBank:
        """The bank, when it is known of some faces how much of them is hidden.

        What hides a face is blurred where it comes and goes: cluttered faces of the frames beside are hidden too.

        Parameters
        ----------
        shares : (N,) float64 array
            0 for nothing; NaN where it is not known.
        """
        hidden = np.flatnonzero(shares > 0)
        apart = np.abs(self.faces.frame[:, None] - self.faces.frame[hidden])
        beside = ((apart <= _BESIDE) & (self.clip[:, None] == self.clip[hidden])).any(1) & (self.clutter > CLUTTERED)
        least, most = _HIDDEN
        price = least + (most - least) * np.sqrt(shares)
        known = np.where(beside | (shares > 0), price, _UNSEEN * self.clutter)
        bank = replace(self)
        vars(bank)["clutter"] = np.where(np.isfinite(shares), known, self.clutter)
        return bank

    @classmethod
    def build(
        cls,
        tables: Sequence[Faces],
        crops: Sequence[NDArray[np.uint8]],
        rows: Sequence[NDArray[np.bool_]],
        *,
        whole: Sequence[Faces] | None = None,
    ) -> SourceBank:
        """Collect the chosen, unflagged rows of each clip (thinned evenly when there are very many).

        Parameters
        ----------
        tables, crops, rows : sequences
            One a clip.
        whole : sequence of Faces, optional
            The same tables with their meshes, where `tables` are without.

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
        index = [index[i] for i in evenly_spaced(len(index), _MOST)]
        whole = tables if whole is None else whole
        faces = Faces.concatenate([whole[c][[i for k, i in index if k == c]] for c in sorted({c for c, _ in index})])
        return cls(
            faces=faces,
            crops=ChosenCrops(crops, index),
            clip=np.array([c for c, _ in index]),
            mean=np.median(frontal_shapes(faces), axis=0),
            row=np.array([i for _, i in index]),
        )

    @cached_property
    def points(self) -> Points:
        """(N, P, 2): mesh or landmarks in pixels of the crops."""
        return crop_points(self.faces)

    @cached_property
    def behaviour(self) -> Points:
        """(N, F): see `behaviour`."""
        return behaviour(self.faces)

    @cached_property
    def clutter(self) -> Points:
        """(N,) how much there is in front of each face: a hand, hair, a microphone; 0 for nothing.

        Edges where this person's face is smooth in most pictures. The faces are warped onto the mean face, so that
        features lie over each other; the strength of edges beyond its lower quartile over the bank is averaged over
        small patches, and the worst patches count. Relative to the lower quartile of the bank: a person who is
        covered in most of the pictures cannot be told from one with a beard. Wrinkles and compression are clutter
        too: what is above `CLEAR` is worth a closer look, see `hiding`.
        """
        model = mean_face(self.faces)[:, :2]
        points = (model - model.min(0)) / np.ptp(model, axis=0) * (_SMALL - 1)
        triangles = triangulation(model)
        edges = np.stack(
            [_edges(crop, own, points, triangles) for crop, own in zip(self.crops, self.points, strict=True)]
        )
        excess = np.maximum(edges - np.quantile(edges, 0.25, axis=0), 0)
        patches = np.stack([cv2.blur(one, (7, 7)) for one in excess])
        worst = np.quantile(patches.reshape(len(patches), -1), 0.97, axis=1)
        return np.asarray(np.maximum(worst - np.quantile(worst, 0.25), 0))


def _edges(crop: Image, own: Points, points: Points, triangles: NDArray[Any]) -> NDArray[np.float32]:
    """(S, S) strength of edges of a face that is warped onto `points`, by its own contrast; 0 near the outline."""
    side = 2 * _SMALL
    small = cv2.resize(np.asarray(crop), (side, side), interpolation=cv2.INTER_AREA)
    own = (own + 0.5) * (side / crop.shape[0]) - 0.5
    face, covered = piecewise_warp(small, own, points, triangles, (_SMALL, _SMALL))
    grey = np.asarray(cv2.cvtColor(face, cv2.COLOR_RGB2GRAY), np.float32)
    contrast = float(grey[covered > 0].std()) if (covered > 0).any() else 0.0
    smooth = cv2.GaussianBlur(grey, (0, 0), 1.0)
    edges = np.hypot(cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1))
    inner = cv2.erode((covered > 0).astype(np.uint8), np.ones((5, 5), np.uint8), borderValue=0)
    return np.asarray(edges * inner / max(contrast, 1.0), np.float32)
