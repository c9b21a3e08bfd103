"""The composite: a swapped face meets the frame. One place, whatever made the face."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from facepipe import geometry
from facepipe.config import SwapConfig
from facepipe.image import (
    ColorStats,
    apply_color,
    blend_feather,
    blend_multiband,
    color_stats,
    match_color,
    soften,
    transfer_map,
    warp,
)
from facepipe.types import Image

__all__ = ["Compositor", "Patch", "Region"]


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
    """

    rows: slice
    columns: slice
    mask: NDArray[np.float32]


class Compositor:
    """Puts patches of successive frames into them; keeps the colour statistics steady from frame to frame.

    Parameters
    ----------
    config : SwapConfig
        `color`, `blend` and `feather` are used.
    """

    _KEEP = 0.8  # how much of the last frame's colour statistics stays
    _PIXELS = 40_000  # enough for a mean and a covariance

    def __init__(self, config: SwapConfig) -> None:
        self._config = config
        self.reset()

    def reset(self) -> None:
        """Forget the colours: the next face is another one, or comes after a cut."""
        self._stats: tuple[ColorStats, ColorStats] | None = None

    def __call__(self, frame: Image, patch: Patch) -> tuple[Image, Region]:
        """The frame with the patch in it (a new array), and the region that changed."""
        rows, columns = _bounds(patch, frame.shape[:2])
        background = frame[rows, columns]
        if not background.size:  # the patch lies beside the frame
            return frame.copy(), Region(rows, columns, np.zeros(background.shape[:2], np.float32))
        face, mask = _place(patch, rows, columns)
        width = float(np.sqrt(mask.sum()))
        feather = max(2.0, self._config.feather * width)
        soft = soften(mask, erode=0.02 * width, feather=feather)
        if soft.max() > 0:
            face = self._colored(face, background, soft)
        blend = blend_multiband if self._config.blend == "multiband" else blend_feather
        result = frame.copy()
        result[rows, columns] = blend(face, background, soft)
        return result, Region(rows, columns, soft)

    def _colored(self, face: Image, background: Image, mask: NDArray[np.float32]) -> Image:
        """The face in the colours of what it covers."""
        method = self._config.color
        if method == "none":
            return face
        if method == "histogram":
            return match_color(face, background, method=method, mask=mask, reference_mask=mask)
        step = max(1, int(np.sqrt(mask.size / self._PIXELS)))
        thin = (slice(None, None, step), slice(None, None, step))
        own, wanted = (color_stats(np.ascontiguousarray(image[thin]), mask[thin]) for image in (face, background))
        if self._stats is not None:
            own, wanted = (_mix(old, new, self._KEEP) for old, new in zip(self._stats, (own, wanted), strict=True))
        self._stats = own, wanted
        return apply_color(face, transfer_map(own, wanted, method=method))


def _mix(old: ColorStats, new: ColorStats, keep: float) -> ColorStats:
    return ColorStats(keep * old.mean + (1 - keep) * new.mean, keep * old.covariance + (1 - keep) * new.covariance)


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
