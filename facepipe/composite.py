"""The composite: a swapped face meets the frame. One place, whatever made the face."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facepipe import geometry
from facepipe.config import SwapConfig
from facepipe.image import (
    ColorMap,
    Texture,
    add_grain,
    apply_color_map,
    blend_feather,
    blend_multiband,
    color_map,
    match_blur,
    poisson_shift,
    soften,
    texture,
    warp,
)
from facepipe.types import Image
from facepipe.watermark import Mark

__all__ = ["Compositor", "Moment", "Patch", "Region"]


@dataclass(frozen=True, slots=True)
class Patch:
    """A swapped face before it meets the frame.

    Attributes
    ----------
    image : (h, w, 3) uint8 array
        RGB.
    mask : (h, w) float32 array
        Where there is a face, 0 to 1.
    frame_to_patch : (2, 3) float64 array
        From pixels of the frame to pixels of the patch.
    """

    image: Image
    mask: NDArray[np.float32]
    frame_to_patch: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Region:
    """The part of a frame that a composite changed.

    Attributes
    ----------
    rows, columns : slice
        Where in the frame.
    mask : (h, w) float32 array
        The soft mask that was used, 0 to 1; the frame is untouched where it is 0.
    face : (h, w, 3) uint8 array
        RGB: what was blended into the frame there, in the frame's colours, blur and grain.
    """

    rows: slice
    columns: slice
    mask: NDArray[np.float32]
    face: Image


@dataclass(frozen=True, slots=True)
class Moment:
    """What the mark goes by.

    Attributes
    ----------
    landmarks : (68, 2) or (5, 2) array
        Of the replaced face, in pixels of the frame.
    seconds : float
        Time of the frame.
    """

    landmarks: NDArray[Any]
    seconds: float


class Compositor:
    """Puts patches of successive frames into them; keeps colours and texture steady from frame to frame.

    Parameters
    ----------
    config : SwapConfig
        `color`, `color_space`, `blend`, `feather` and `grain` are used.
    seed : int
        Of the grain.
    mark : Mark, optional
        The invisible mark that faces get.
    """

    _KEEP = 0.8  # how much of the last frame's colour map and texture stays
    _PIXELS = 20_000  # enough for the distribution of colours
    _STEP = 32.0  # grey levels by which Poisson's blend follows a step at the border

    def __init__(self, config: SwapConfig, seed: int = 0, mark: Mark | None = None) -> None:
        self._config = config
        self._mark = mark
        self._seed = seed
        self.reset()

    def reset(self) -> None:
        """Forget colours and texture: the next face is another one, or comes after a cut."""
        self._colors: ColorMap | None = None
        self._textures: tuple[Texture, Texture, Texture] | None = None
        self._shift: NDArray[np.float32] | None = None

    def __call__(
        self, frame: Image, patch: Patch, index: int = 0, moment: Moment | None = None
    ) -> tuple[Image, Region]:
        """The frame with the patch in it (a new array), and the region that changed.

        The grain is that of the frame's number, `index`: the same bytes whenever it is composited. The mark needs to
        know the `moment`.
        """
        rows, columns = _bounds(patch, frame.shape[:2])
        background = frame[rows, columns]
        if not background.size:  # the patch lies beside the frame
            return frame.copy(), Region(rows, columns, np.zeros(background.shape[:2], np.float32), background)
        face, mask = _place(patch, rows, columns)
        width = float(np.sqrt(mask.sum()))
        feather = max(2.0, self._config.feather * width)
        soft = soften(mask, erode=0.02 * width, feather=feather)
        if soft.max() > 0:
            face = self._colored(face, background, soft)
            if self._config.grain:
                face = self._textured(face, background, soft, index)
        if self._mark is not None and moment is not None and soft.max() > 0:
            landmarks = moment.landmarks - [columns.start, rows.start]
            face = self._mark.into(face, soft, landmarks, moment.seconds)
        if self._config.blend == "poisson":
            face = self._relit(face, background, soft)
        result = frame.copy()
        blend = blend_multiband if self._config.blend == "multiband" else blend_feather
        result[rows, columns] = blend(face, background, soft)
        return result, Region(rows, columns, soft, face)

    def _colored(self, face: Image, background: Image, mask: NDArray[np.float32]) -> Image:
        """The face in the colours of what it covers."""
        if self._config.color == "none":
            return face
        own, wanted, weights = (self._small(part) for part in (face, background, mask))
        if not weights.any():  # a mask of a pixel or two
            own, wanted, weights = face, background, mask
        colors = color_map(
            own,
            wanted,
            method=self._config.color,
            mask=weights,
            reference_mask=weights,
            space=self._config.color_space,
        )
        self._colors = colors if self._colors is None else colors.mixed(self._colors, self._KEEP)
        return apply_color_map(face, self._colors)

    def _small(self, picture: NDArray[Any]) -> NDArray[Any]:
        """At most half as large, low-passed: quicker, and the frame's noise does not count as colour."""
        scale = min(0.5, float(np.sqrt(self._PIXELS / (picture.shape[0] * picture.shape[1]))))
        size = max(1, round(scale * picture.shape[0])), max(1, round(scale * picture.shape[1]))
        return warp(picture, geometry.scaling(scale), size, border="replicate")

    def _textured(self, face: Image, background: Image, mask: NDArray[np.float32], index: int) -> Image:
        """The face blurred and grained as what it covers; never sharpened."""
        own, wanted = texture(face, mask), texture(background, mask)
        if self._textures is not None:
            own, wanted = (new.mixed(old, self._KEEP) for new, old in zip((own, wanted), self._textures, strict=False))
        face = match_blur(face, own, wanted)
        left = texture(face, mask)
        if self._textures is not None:
            left = left.mixed(self._textures[2], self._KEEP)
        self._textures = own, wanted, left
        return add_grain(face, left, wanted, seed=(self._seed, index))

    def _relit(self, face: Image, background: Image, mask: NDArray[np.float32]) -> Image:
        """The face moved by Poisson's shift, kept steady inside: what passes the border does not flicker on it."""
        shift = poisson_shift(face, background, mask, limit=self._STEP)
        if shift.any() or self._shift is not None:
            down, across = (_hats(np.asarray(mask.any(axis))) for axis in (1, 0))
            weight = down.T @ mask @ across
            grid = np.einsum("hi,hwc,wj->ijc", down, shift * mask[..., None], across, optimize=True)
            grid /= np.maximum(weight, 1e-6)[..., None]
            steady = grid if self._shift is None else self._KEEP * self._shift + (1 - self._KEEP) * grid
            self._shift = steady
            shift += np.einsum("hi,ijc,wj->hwc", down, steady - grid, across, optimize=True)
        return np.asarray(np.rint(np.clip(face + shift, 0, 255)), np.uint8)


def _hats(covered: NDArray[np.bool_], nodes: int = 8) -> NDArray[np.float32]:
    """(N, nodes): weights of nodes spread evenly over the covered part of an axis, linear in between."""
    first, last = np.flatnonzero(covered)[[0, -1]]
    place = (np.arange(len(covered)) - first) / max(last - first, 1) * (nodes - 1)
    weights: NDArray[np.float32] = np.maximum(0, 1 - np.abs(place[:, None] - np.arange(nodes))).astype(np.float32)
    return weights


def _is_shift(matrix: NDArray[np.float64]) -> bool:
    """Whether the patch is cut from the frame's own grid, so that nothing has to be resampled."""
    return bool((matrix[:, :2] == np.eye(2)).all() and (matrix[:, 2] == np.round(matrix[:, 2])).all())


def _bounds(patch: Patch, size: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of the frame under the patch, with a pixel to spare, inside the frame."""
    height, width = patch.mask.shape
    corners = np.array([[0, 0], [width - 1, 0], [0, height - 1], [width - 1, height - 1]], np.float64)
    placed = geometry.apply(geometry.invert(patch.frame_to_patch), corners)
    spare = 0 if _is_shift(patch.frame_to_patch) else 1
    low = np.maximum(np.floor(placed.min(0)).astype(int) - spare, 0)
    high = np.minimum(np.ceil(placed.max(0)).astype(int) + 1 + spare, size[::-1])
    high = np.maximum(high, low)
    return slice(int(low[1]), int(high[1])), slice(int(low[0]), int(high[0]))


def _place(patch: Patch, rows: slice, columns: slice) -> tuple[Image, NDArray[np.float32]]:
    """Face and mask in the pixels of the frame's region."""
    if _is_shift(patch.frame_to_patch):
        y, x = rows.start + int(patch.frame_to_patch[1, 2]), columns.start + int(patch.frame_to_patch[0, 2])
        height, width = rows.stop - rows.start, columns.stop - columns.start
        return patch.image[y : y + height, x : x + width], patch.mask[y : y + height, x : x + width]
    to_region = geometry.compose(geometry.invert(patch.frame_to_patch), [[1, 0, -columns.start], [0, 1, -rows.start]])
    size = (rows.stop - rows.start, columns.stop - columns.start)
    return warp(patch.image, to_region, size, border="replicate"), warp(patch.mask, to_region, size)
