"""What a net sees of a face, and how what it draws goes back into the frame.

`TextureView`: faces are warped by their landmarks onto one layout, so that features lie over each other whatever pose
and expression do (*shape-free* textures: Craw and Cameron 1992, DOI 10.5244/C.6.52), and what is drawn is warped onto
the target's landmarks. Where features are is known from the landmarks; a net draws how they look. `CropView`: a square
of the aligned crop, in which the net has to draw the features in their places too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from facepipe import geometry
from facepipe.backends.landmarkers import FACE_OVAL, MESH_TO_IBUG68
from facepipe.composite import Patch
from facepipe.image import hull_mask, piecewise_map, piecewise_warp, warp
from facepipe.methods.bank import crop_points, nearest_covered, shape_free_layout, triangulation
from facepipe.methods.procrustes import Overlay
from facepipe.types import Faces, Image

__all__ = [
    "BORDER",
    "CropView",
    "Seen",
    "TextureView",
    "View",
    "Window",
    "crop_outlines",
    "cut_settings",
    "find_window",
    "outline_mask",
    "view_of",
]

BORDER = 0.25
"""Surroundings that are kept around what a net sees, as a part of its side, on each of the four sides."""

_ROOM = 0.08  # of the window's side, left around the faces
_EDGE = 0.1  # of a pixel of a twin that has to be face for its colour to be known
_ANYWHERE = (2**20, 2**20)  # height and width: a twin is not cut off where the frame ends
_SPARE = 3  # pixels around a face that its warp may look at

Points = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Window:
    """A square of the aligned crop, in parts of the crop's side.

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


class Seen(NamedTuple):
    """A face as a net sees it.

    Attributes
    ----------
    image : (S, S, 3) uint8 array
        RGB.
    mask : (S, S) float32 array
        Where there is face, 0 to 1.
    """

    image: Image
    mask: NDArray[np.float32]


class View(Protocol):
    """How faces are cut out for a net, and how they are put back."""

    def see(self, image: Image, face: Faces, image_to_crop: Points, size: int, *, border: float = 0.0) -> Seen:
        """A face as a net sees it.

        Parameters
        ----------
        image : (H, W, 3) uint8 array
            A frame or an aligned crop.
        face : Faces
            One row.
        image_to_crop : (2, 3) float64 array
            From the image's pixels to those of the aligned crop: ``frame_to_crop`` for a frame.
        size : int
            Side of the picture, surroundings included.
        border : float
            Surroundings on each side, as a part of what is seen without.
        """
        ...

    def imitate(self, overlay: Overlay, face: Faces, crop: Image, own: Faces, size: int) -> Seen:
        """Another person's aligned crop, with the one-row table `own`, in the place of `face` of this person.

        `overlay` lays that person over this one. What a swap of `face` should look like, if both do the same.
        """
        ...

    def put(
        self, overlay: Overlay, image: Image, mask: NDArray[np.float32], face: Faces, frame_size: tuple[int, int]
    ) -> Patch | None:
        """The patch of a one-row table `face`, of a picture (S, S, 3) and its mask (S, S) that a net has drawn.

        None when it lies outside of the frame (height, width). `overlay` lays the drawn person over the target.
        """
        ...


@dataclass(frozen=True)
class CropView:
    """The window of the aligned crop; see `View`.

    Attributes
    ----------
    window : Window
        What is seen.
    crop : int
        Side of the aligned crops that ``frame_to_crop`` leads to.
    """

    window: Window
    crop: int

    def matrix(self, size: int, *, border: float = 0.0) -> Points:
        """(2, 3) from pixels of a crop to those of a picture; see `Window.crop_to_window`."""
        return self.window.crop_to_window(self.crop, size, border=border)

    def see(self, image: Image, face: Faces, image_to_crop: Points, size: int, *, border: float = 0.0) -> Seen:
        """See `View`."""
        window = self.matrix(size, border=border)
        picture = warp(image, geometry.compose(image_to_crop, window), (size, size), border="replicate")
        return Seen(picture, outline_mask(crop_outlines(face)[0], window, size))

    def imitate(self, overlay: Overlay, face: Faces, crop: Image, own: Faces, size: int) -> Seen:
        """See `View`: warped as the method *procrustes* does it."""
        window = self.matrix(size)
        patch = overlay(crop, crop_points(own)[0], face, _ANYWHERE)
        if patch is None:
            return Seen(np.zeros((size, size, 3), np.uint8), np.zeros((size, size), np.float32))
        place = geometry.compose(geometry.invert(patch.frame_to_patch), face.frame_to_crop[0], window)
        # Beside the face a patch is black: edges are averages of what is face there.
        covered = warp(np.asarray(patch.image.any(2), np.float32), place, (size, size))
        image = warp(patch.image, place, (size, size)) / np.maximum(covered, _EDGE)[..., None]
        return Seen(np.rint(np.minimum(image, 255)).astype(np.uint8), warp(patch.mask, place, (size, size)))

    def put(
        self, overlay: Overlay, image: Image, mask: NDArray[np.float32], face: Faces, frame_size: tuple[int, int]
    ) -> Patch | None:
        """See `View`: the picture has the target's shape already."""
        del overlay, frame_size
        window = self.matrix(image.shape[0])
        outline = outline_mask(crop_outlines(face)[0], window, image.shape[0])
        return Patch(image, np.minimum(mask, outline), geometry.compose(face.frame_to_crop[0], window))


@dataclass(frozen=True)
class TextureView:
    """Faces warped onto one layout of landmarks; see `View`.

    Attributes
    ----------
    model : (P, D) float64 array
        The mean face for the kind of landmarks that faces have.
    """

    model: Points
    _triangles: NDArray[Any] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_triangles", triangulation(self.model))

    def see(self, image: Image, face: Faces, image_to_crop: Points, size: int, *, border: float = 0.0) -> Seen:
        """See `View`. What the head itself hides has the colour of the nearest pixel that is seen, and no mask."""
        to_image = geometry.compose(face.frame_to_crop[0], geometry.invert(image_to_crop))
        points = geometry.apply(to_image, (face.mesh[..., :2] if face.mesh.size else face.landmarks)[0])
        low = np.clip(np.floor(points.min(0)).astype(int) - _SPARE, 0, np.array(image.shape[1::-1]) - 1)
        high = np.maximum(np.ceil(points.max(0)).astype(int) + _SPARE + 1, low + 1)
        part = np.ascontiguousarray(image[low[1] : high[1], low[0] : high[0]])
        layout = shape_free_layout(self.model, size, border=border)
        picture, covered = piecewise_warp(part, points - low, layout, self._triangles, (size, size))
        if not covered.all():
            picture = picture.reshape(-1, 3)[nearest_covered(covered)].reshape(picture.shape)
        return Seen(picture, covered.astype(np.float32))

    def imitate(self, overlay: Overlay, face: Faces, crop: Image, own: Faces, size: int) -> Seen:
        """See `View`: all textures have one shape."""
        del overlay, face
        return self.see(crop, own, np.eye(2, 3), size)

    def put(
        self, overlay: Overlay, image: Image, mask: NDArray[np.float32], face: Faces, frame_size: tuple[int, int]
    ) -> Patch | None:
        """See `View`: the texture is warped onto the target's landmarks, in the drawn person's proportions."""
        place = overlay.place(face, frame_size)
        if place is None:
            return None
        four = np.dstack([image, np.rint(mask * 255).astype(np.uint8)])
        laid, inside = overlay.lay(four, shape_free_layout(self.model, image.shape[0]), place)
        inside = np.asarray(inside * laid[..., 3] / 255, np.float32)
        return Patch(laid[..., :3], inside, place.frame_to_place)

    def landmarks(self, size: int, *, border: float = 0.0) -> Points:
        """(68, 2) where the 68 points lie in every picture of that side, surroundings included."""
        layout = shape_free_layout(self.model, size, border=border)
        return layout if len(layout) == 68 else layout[MESH_TO_IBUG68]

    def places(self, points: Points, matrix: Points, size: int) -> NDArray[np.float32]:
        """Where each pixel of a picture takes its colour from in the texture.

        Parameters
        ----------
        points : (P, D) float64 array
            Landmarks in a frame.
        matrix : (2, 3) float64 array
            From the frame to the picture.
        size : int
            Side of the picture.

        Returns
        -------
        (size, size, 2) float32 array
            x and y; -1 and 1 are the texture's outer edges, and 2 stands where there is no face.
        """
        depth = points[:, 2] if points.shape[1] == 3 else None
        texture, placed = 2 * shape_free_layout(self.model, 1), geometry.apply(matrix, points[:, :2])
        place, covered, _ = piecewise_map(texture, placed, self._triangles, (size, size), depth=depth)
        place[~covered] = 2
        return place


def cut_settings(view: str) -> tuple[str, ...]:
    """Settings of the aligned crops (of ``[align]``) that a net of a view is bound to."""
    return ("template", "margin", "size") if view == "crop" else ("template", "margin")


def view_of(facts: Mapping[str, Any]) -> View:
    """The view that a training's facts (``view``, ``window``, ``size``, ``shapes``) tell of."""
    if facts["view"] == "crop":
        return CropView(Window(*facts["window"]), facts["size"])
    points = len(facts["shapes"]["source"])
    return TextureView(geometry.mean_face_mesh() if points > 68 else geometry.mean_face68()[:, :2])


def crop_outlines(faces: Faces) -> Points:
    """(N, P, 2) outline of each face in pixels of its crop: the mesh's oval, or the 68 points."""
    points = faces.mesh[:, FACE_OVAL, :2] if faces.mesh.shape[1] else faces.landmarks
    return np.asarray(geometry.apply(faces.frame_to_crop, points))


def outline_mask(outline: Points, matrix: Points, size: int) -> NDArray[np.float32]:
    """(size, size) mask of the hull of an outline that `matrix` maps into the picture."""
    return hull_mask(geometry.apply(matrix, outline), (size, size))


def find_window(people: Sequence[tuple[Faces, NDArray[np.int64]]]) -> Window:
    """The square around nearly all faces, with some room.

    Parameters
    ----------
    people : sequence of (Faces, (N,) int array)
        Those that may be learned from, of each person, and the sides of their crops in pixels.
    """
    low, high = [], []
    for faces, sides in people:
        outlines = crop_outlines(faces) / sides[:, None, None]
        low.append(np.quantile(outlines.min(1), 0.02, axis=0))
        high.append(np.quantile(outlines.max(1), 0.98, axis=0))
    first, last = np.min(low, axis=0), np.max(high, axis=0)
    x, y = (first + last) / 2
    return Window(float(x), float(y), float((last - first).max() * (1 + _ROOM)))
