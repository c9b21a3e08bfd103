"""What is measured on the pixels of one frame, and of two that follow each other: plain functions of arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from facepipe import geometry, metrics
from facepipe.image import hull_mask, sharpness, warp
from facepipe.types import Array, Image

__all__ = ["SKIN_TONES", "Moment", "light", "occluded_share", "outside", "over_time", "rebuilt", "sharpness_of"]

SKIN_TONES = ((55.0, "very light"), (41.0, "light"), (28.0, "intermediate"), (10.0, "tan"), (-30.0, "brown"))
"""Least ITA of each class of skin, in degrees; below the last it is dark. Chardon et al. 1991, see `light`."""

_FLOW_SIDE = 144  # pixels of the root of the area of a face's region at which changes are measured
_ROOM = 0.25  # of the mask's box on each side, for the flow
_LEAST = 16  # pixels a side of what SSIM and flow can be measured on
_PATCH = 0.16  # half side of a patch of skin, in inter-ocular distances
_INNER = 0.8  # of the landmarks' outline: what every mask of a whole face covers
_PATCHES = ((40, 41, 48, 2), (46, 47, 54, 14), (28, 29, 30, 29))  # iBUG points: two cheeks, the ridge of the nose


@dataclass(frozen=True, slots=True)
class Moment:
    """One frame of the three videos.

    Attributes
    ----------
    target, swapped : (H, W, 3) uint8 array
        RGB.
    mask : (H, W) uint8 array
        0 where the target was left as it is.
    """

    target: Image
    swapped: Image
    mask: NDArray[np.uint8]

    @property
    def place(self) -> tuple[slice, slice] | None:
        """Rows and columns of the mask's box; None for an empty mask."""
        x, y, width, height = cv2.boundingRect(self.mask)
        return (slice(y, y + height), slice(x, x + width)) if width else None


def outside(moment: Moment, *, ssim: bool) -> dict[str, float | None]:
    """PSNR and SSIM of the pixels outside of the mask.

    Returns
    -------
    dict
        ``outside_psnr`` in dB, None when identical or when there is no outside; with `ssim` also ``outside_ssim``.
    """
    chosen = moment.mask == 0
    pair, values = (moment.target, moment.swapped), dict[str, float | None]()
    psnr = metrics.psnr(*pair, data_range=255, mask=chosen) if chosen.any() else math.nan
    values["outside_psnr"] = psnr if math.isfinite(psnr) else None
    if ssim and psnr == math.inf:  # identical pixels, as a lossless codec leaves them, need no windows
        values["outside_ssim"] = 1.0
    elif ssim and math.isfinite(psnr) and min(chosen.shape) >= _LEAST:
        values["outside_ssim"] = metrics.ssim(*pair, data_range=255, mask=chosen.astype(np.float32))
    return values


def rebuilt(truth: Image, drawn: Image, mask: NDArray[np.float32]) -> tuple[float, float] | None:
    """PSNR and SSIM inside of the mask of a rebuilt face; None where it is too small to tell."""
    if min(mask.shape) < _LEAST or not mask.any():
        return None
    psnr = metrics.psnr(truth, drawn, data_range=255, mask=mask)
    return psnr, metrics.ssim(truth, drawn, data_range=255, mask=mask)


def sharpness_of(moment: Moment) -> dict[str, float | None]:
    """Deviation of the Laplacian where the mask is whole, in grey levels: of the swap and of the target.

    A pixel in from there, so that the seam counts for neither.
    """
    place = moment.place
    names = {"sharpness_swapped": moment.swapped, "sharpness_target": moment.target}
    if place is None:
        return dict.fromkeys(names, None)
    whole = (moment.mask[place] == 255).astype(np.float32)
    square = np.ones((3, 3), np.uint8)
    inside = np.asarray(cv2.erode(whole, square, borderType=cv2.BORDER_CONSTANT, borderValue=0), np.float32)
    if not inside.any():
        return dict.fromkeys(names, None)
    return {name: sharpness(image[place], inside) for name, image in names.items()}


def light(image: Image, landmarks: Array) -> dict[str, float | None]:
    """Brightness and skin tone of a face, from patches of both cheeks and the nose.

    Parameters
    ----------
    image : (H, W, 3) uint8 array
        RGB, taken for sRGB.
    landmarks : (68, 2) array
        iBUG points in pixels.

    Returns
    -------
    dict
        ``brightness``: L* of CIE Lab, 0 to 100. ``skin``: individual typology angle, ``atan((L* - 50) / b*)`` in
        degrees. Medians over the patches' pixels; None where no patch lies in the picture. Both follow the light of
        the scene: the angle is a rough class of how skin looks here, not of the person.

    Notes
    -----
    Chardon, Cretois, Hourseau 1991, "Skin colour typology and suntanning pathways", DOI
    10.1111/j.1467-2494.1991.tb00561.x.
    """
    points = np.asarray(landmarks, np.float64)
    half = max(1, round(_PATCH * float(metrics.interocular_distance(points))))
    parts = []
    for corners in _PATCHES:
        x, y = np.round(points[list(corners)].mean(0)).astype(int)
        patch = image[max(0, y - half) : max(0, y + half + 1), max(0, x - half) : max(0, x + half + 1)]
        parts.append(patch.reshape(-1, 3))
    pixels = np.concatenate(parts)
    if not len(pixels):
        return {"brightness": None, "skin": None}
    lab = cv2.cvtColor((pixels[None] / np.float32(255)).astype(np.float32), cv2.COLOR_RGB2Lab)[0]
    lightness, _, yellow = np.median(lab, axis=0).tolist()
    return {"brightness": lightness, "skin": math.degrees(math.atan2(lightness - 50, max(yellow, 1e-6)))}


def occluded_share(mask: NDArray[np.uint8], landmarks: Array) -> float | None:
    """Share of the inner face, the landmarks' outline drawn in by a fifth, that a mask leaves out.

    None where the face lies outside of the frame.
    """
    points = np.asarray(landmarks, np.float64)
    centre = (points.min(0) + points.max(0)) / 2
    inner = centre + _INNER * (points - centre)
    low = np.maximum(np.floor(inner.min(0)).astype(int), 0)
    high = np.minimum(np.ceil(inner.max(0)).astype(int) + 1, np.array(mask.shape[::-1]))
    if (high <= low).any():
        return None
    face = hull_mask(inner - low, (int(high[1] - low[1]), int(high[0] - low[0]))) > 0.5
    if not face.any():
        return None
    return float(1 - (mask[low[1] : high[1], low[0] : high[0]][face] > 127).mean())


def over_time(before: Moment, after: Moment) -> Mapping[str, float | None]:
    """What changes from one frame to the next beyond what moves, in the swap and in the target.

    Returns
    -------
    dict
        ``flow_error_swapped`` and ``flow_error_target`` under the mask, both along the target's flow;
        ``edge_flicker_swapped`` and ``edge_flicker_target`` in one band. All with the face's region shrunk to about
        144 pixels. See `facepipe.metrics.flow_warped_error` and `edge_flicker`. None where there is no mask, or a
        tiny one.
    """
    names = [f"{what}_{of}" for what in ("flow_error", "edge_flicker") for of in ("swapped", "target")]
    place = _region(before, after)
    if place is None:
        return dict.fromkeys(names)
    swapped, target = (
        [_small(getattr(moment, of)[place]) for moment in (before, after)] for of in ("swapped", "target")
    )
    masks = [_small(moment.mask[place] / np.float32(255)) for moment in (before, after)]
    try:
        flow = metrics.flow_warped_errors(swapped, target, masks=masks)
        edge = [metrics.edge_flicker(pictures, masks) for pictures in (swapped, target)]
    except ValueError:  # no pixel of the mask is seen in both frames, or it has no edge
        return dict.fromkeys(names)
    return dict(zip(names, (*flow, *edge), strict=True))


def _region(before: Moment, after: Moment) -> tuple[slice, slice] | None:
    """Rows and columns about both masks, with room for what moves; None where there is nothing to measure."""
    x, y, width, height = cv2.boundingRect(before.mask | after.mask)
    if not before.mask.any() or not after.mask.any():
        return None
    spare_x, spare_y = round(_ROOM * width), round(_ROOM * height)
    rows = slice(max(0, y - spare_y), min(before.mask.shape[0], y + height + spare_y))
    columns = slice(max(0, x - spare_x), min(before.mask.shape[1], x + width + spare_x))
    scale = _shrunk((rows.stop - rows.start, columns.stop - columns.start))
    short = min(rows.stop - rows.start, columns.stop - columns.start)
    return (rows, columns) if short * scale >= _LEAST else None


def _shrunk(size: tuple[int, ...]) -> float:
    return min(1.0, _FLOW_SIDE / math.sqrt(size[0] * size[1]))


def _small(image: NDArray[np.generic]) -> NDArray[np.generic]:
    """A picture or a mask at the size at which the flow is computed, by the half-pixel rule."""
    scale = _shrunk(image.shape[:2])
    if scale == 1:
        return image
    size = round(scale * image.shape[0]), round(scale * image.shape[1])
    return np.asarray(warp(image, geometry.scaling(scale), size, border="replicate"))
