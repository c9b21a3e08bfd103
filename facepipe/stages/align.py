"""Stage *align*: a crop of each face, laid over a template by a similarity transform (Umeyama 1991)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from facepipe import geometry
from facepipe.config import AlignConfig, LimitsConfig
from facepipe.errors import DegenerateLandmarksError
from facepipe.image import sharpness, warp
from facepipe.types import Faces, Flag, Image
from facepipe.video import Frame

__all__ = ["align_faces", "crop_transforms"]


def crop_transforms(landmarks: NDArray[np.float32], config: AlignConfig) -> NDArray[np.float64]:
    """The similarity transform of each face into its crop.

    Parameters
    ----------
    landmarks : (N, 68, 2) array
        iBUG points in frame pixels.
    config : AlignConfig
        Template, size and margin.

    Returns
    -------
    (N, 2, 3) float64 array
        ``frame_to_crop``; rows of NaN for landmarks that fix no transform.
    """
    points = landmarks if config.template == "ibug68" else geometry.five_points(landmarks)
    template = geometry.template(config.template, config.size, margin=config.margin)
    try:
        return geometry.umeyama(points, template)[..., :2, :]
    except DegenerateLandmarksError:
        matrices = np.full((len(points), 2, 3), np.nan)
        for row, one in enumerate(points):
            try:
                matrices[row] = geometry.umeyama(one, template)[:2]
            except DegenerateLandmarksError:
                continue
        return matrices


def align_faces(
    frames: Iterable[Frame],
    faces: Faces,
    config: AlignConfig,
    limits: LimitsConfig,
    write: Callable[[Image], None],
) -> Faces:
    """Cut the crop of every face and hand it to `write`, in the order of the rows.

    Parameters
    ----------
    frames : iterable of Frame
        The frames of the clip from which `faces` were found.
    faces : Faces
        Rows in the order of frames.
    config, limits
        Settings.
    write : callable
        Takes one (size, size, 3) uint8 RGB crop a row.

    Returns
    -------
    Faces
        With ``frame_to_crop`` and ``sharpness`` filled in and `Flag.BLURRED` set where it applies. A face whose
        landmarks fix no transform is flagged `Flag.MISFIT` and has a black crop.
    """
    matrices = crop_transforms(faces.landmarks, config)
    bad = np.asarray(~np.isfinite(matrices).all((1, 2)))
    size = (config.size, config.size)
    sharp = np.zeros(len(faces), np.float32)
    rows = _rows_by_frame(faces)
    for frame in frames:
        for row in rows.pop(frame.index, ()):
            crop = np.zeros((*size, 3), np.uint8) if bad[row] else warp(frame.image, matrices[row], size)
            sharp[row] = sharpness(crop)
            write(crop)
    if rows:
        raise ValueError(f"faces of frame {min(rows)} and later: the clip has fewer frames than when they were found")
    flags = faces.flags & ~np.int32(Flag.BLURRED)
    flags[sharp < limits.min_sharpness] |= Flag.BLURRED
    flags[bad] |= Flag.MISFIT
    return faces.with_columns(frame_to_crop=np.where(bad[:, None, None], 0.0, matrices), sharpness=sharp, flags=flags)


def _rows_by_frame(faces: Faces) -> dict[int, list[int]]:
    rows: dict[int, list[int]] = {}
    for row, frame in enumerate(faces.frame.tolist()):
        rows.setdefault(frame, []).append(row)
    return rows
