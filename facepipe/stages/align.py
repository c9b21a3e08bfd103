"""Stage *align*: a crop of each face, laid over a template by a similarity transform (Umeyama 1991)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

from facepipe import geometry, smoothing
from facepipe.backends.landmarkers import MESH_TO_IBUG68
from facepipe.config import AlignConfig, LimitsConfig
from facepipe.eyes import eye_openness
from facepipe.gaps import between
from facepipe.image import sharpness, warp
from facepipe.types import Faces, Flag, Image
from facepipe.video import Frame

__all__ = ["align_faces", "crop_size", "crop_transforms", "steady_faces"]

# How much larger the variance of a flagged face's landmarks is taken to be.
_DOUBT = {Flag.PROFILE: 4.0, Flag.CUT_OFF: 4.0, Flag.MISFIT: 16.0}
_LEAST_SCORE = 0.1
_PROFILE = 45.0  # degrees of yaw from which on an eye is not seen well enough to say whether it is open
_THUMB = 24
_STEP, _SMALLEST, _LARGEST = 32, 128, 1024  # sides of crops; a second of the largest takes 80 MB
_SHARE = 0.9  # of a clip's faces are not made smaller
_JUDGED = 384  # side of the picture that sharpness is measured in, where the crop is larger: it depends on the scale
_LIKENESS = 0.6  # four frames apart faces have 0.6 to 1, blurred ones 0.72 to 0.9, what is put before them up to 0.57


def crop_size(faces: Faces, config: AlignConfig) -> int:
    """Side of a clip's crops in pixels: `AlignConfig.size`, or what the faces need.

    With ``auto`` a pixel of the crop is about one of the frame for the largest faces of the clip, so that they keep
    their detail and small ones are not blown up.
    """
    if config.size != "auto":
        return config.size
    if not len(faces):
        return _SMALLEST
    best = faces.landmarks[faces.trusted] if faces.trusted.any() else faces.landmarks
    shrinks = np.linalg.norm(crop_transforms(best, config, 1000)[:, 0, :2], axis=1)
    natural = 1000 / shrinks[shrinks > 0]
    if not natural.size:
        return _SMALLEST
    return int(np.clip(_STEP * np.ceil(np.quantile(natural, _SHARE) / _STEP), _SMALLEST, _LARGEST))


def crop_transforms(landmarks: NDArray[np.float32], config: AlignConfig, size: int) -> NDArray[np.float64]:
    """The similarity transform of each face into its crop.

    Parameters
    ----------
    landmarks : (N, 68, 2) array
        iBUG points in frame pixels.
    config : AlignConfig
        Template and margin.
    size : int
        Side of the crops in pixels, see `crop_size`.

    Returns
    -------
    (N, 2, 3) float64 array
        ``frame_to_crop``; rows of NaN for landmarks that fix no transform.
    """
    points = geometry.template_points(landmarks, config.template)
    template = geometry.template(config.template, size, margin=config.margin)
    return geometry.fit_each(points, template, fit=config.fit)[..., :2, :]


def steady_faces(faces: Faces, strength: float) -> Faces:
    """The faces with landmarks, mesh and pose smoothed along each track, with no delay; see `facepipe.smoothing`.

    A cut within a track, or more than five missing frames, begin anew. Faces of which the detector is less sure, and
    those flagged as profile, cut off or misfit, count less. Those filled in count nothing: they are laid anew between
    the smoothed ones.

    Parameters
    ----------
    faces : Faces
        As stage *detect* found them.
    strength : float
        `AlignConfig.smooth`; at 0 the same faces come back.

    Returns
    -------
    Faces
        As many rows. Faces without a track, whose landmarks are not finite or coincide, and tracks of a few frames
        stay as they are.
    """
    if strength == 0 or not len(faces):
        return faces
    landmarks, mesh = faces.landmarks.copy(), faces.mesh.copy()
    spread = np.ptp(landmarks, axis=1).max(-1)
    usable = np.isfinite(landmarks).all((1, 2)) & np.isfinite(mesh).all((1, 2)) & (faces.track >= 0) & (spread > 1)
    filled = faces.flags & Flag.FILLED != 0
    found = usable & ~filled
    changed = []
    for track in np.unique(faces.track[found]):
        rows = np.flatnonzero(found & (faces.track == track))
        times = faces.pts[rows] if (np.diff(faces.pts[rows]) > 0).all() else faces.frame[rows]
        if not (np.diff(times) > 0).all():  # two faces of a frame are no track
            continue
        for part in smoothing.segments(landmarks[rows], times):
            some, when = rows[part], times[part]
            if len(some) < smoothing.LEAST_ROWS:
                continue
            variance = _doubt(faces[some])
            points = faces.mesh[some] if mesh.size else landmarks[some]
            smooth = smoothing.smooth_track(points, when, variance=variance, strength=strength)
            if mesh.size:
                mesh[some] = smooth
                landmarks[some] = smooth[:, MESH_TO_IBUG68, :2]
            else:
                landmarks[some] = smooth
            changed.append(some)
        if (guessed := np.flatnonzero(filled & (faces.track == track))).size and len(rows) > 1:
            landmarks[guessed] = between(landmarks[rows], faces.frame[rows], faces.frame[guessed])
            mesh[guessed] = between(mesh[rows], faces.frame[rows], faces.frame[guessed])
            changed.append(guessed)
    if not changed:
        return faces
    rows = np.concatenate(changed)
    pose = {name: getattr(faces, name).copy() for name in ("yaw", "pitch", "roll")}
    for name, values in zip(pose, geometry.face_pose(landmarks[rows], mesh[rows]), strict=True):
        pose[name][rows] = values
    return faces.with_columns(landmarks=landmarks, mesh=mesh, **pose)


def _doubt(faces: Faces) -> NDArray[np.float64]:
    """(N,) factors by which the variance of the landmarks is larger than that of a sure, frontal face."""
    factor = 1 / np.clip(faces.score.astype(np.float64), _LEAST_SCORE, 1) ** 2
    for flag, more in _DOUBT.items():
        factor[faces.flags & flag != 0] *= more
    return factor


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
        Rows in the order of frames, as stage *detect* found them: what is smoothed twice is smoothed too much.
    config, limits
        Settings.
    write : callable
        Takes one (size, size, 3) uint8 RGB crop a row; the size is that of `crop_size`.

    Returns
    -------
    Faces
        With ``frame_to_crop``, ``sharpness`` and ``eyes`` filled in and `Flag.BLURRED` set where it applies;
        landmarks, mesh and pose are smoothed over time. A face whose landmarks fix no transform is flagged
        `Flag.MISFIT` and has a black crop. So is a filled one whose picture is not like the face found last: something
        else is in its place.
    """
    side = crop_size(faces, config)
    faces = steady_faces(faces, config.smooth)
    matrices = crop_transforms(faces.landmarks, config, side)
    bad = np.asarray(~np.isfinite(matrices).all((1, 2)))
    filled = faces.flags & Flag.FILLED != 0
    hidden = np.zeros(len(faces), bool)
    last: dict[int, Image] = {}  # by track: the face as it was found last
    size = (side, side)
    sharp = np.zeros(len(faces), np.float32)
    eyes = np.full((len(faces), 2), np.nan, np.float32)
    told = ~bad & (np.abs(faces.yaw) < _PROFILE) if faces.landmarks.shape[1] == 68 else np.zeros(len(faces), bool)
    rows = _rows_by_frame(faces)
    for frame in frames:
        for row in rows.pop(frame.index, ()):
            crop = np.zeros((*size, 3), np.uint8) if bad[row] else warp(frame.pixels, matrices[row], size)
            sharp[row] = _sharpness(crop)
            if told[row]:
                eyes[row] = eye_openness(crop, geometry.apply(matrices[row], faces.landmarks[row]))
            write(crop)
            track = int(faces.track[row])
            if not filled[row]:
                last[track] = crop
            elif track in last:
                hidden[row] = not _alike(last[track], crop)
    if rows:
        raise ValueError(f"faces of frame {min(rows)} and later: the clip has fewer frames than when they were found")
    flags = faces.flags & ~np.int32(Flag.BLURRED)
    flags[sharp < limits.min_sharpness] |= Flag.BLURRED
    flags[bad | hidden] |= Flag.MISFIT
    matrices = np.where(bad[:, None, None], 0.0, matrices)
    return faces.with_columns(frame_to_crop=matrices, sharpness=sharp, eyes=eyes, flags=flags)


def _sharpness(crop: Image) -> float:
    grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
    return sharpness(_resized(np.asarray(grey, np.uint8), min(len(crop), _JUDGED)))


def _resized(crop: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    if crop.shape[0] == side:
        return crop
    return np.asarray(cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA), np.uint8)


def _alike(one: Image, other: Image) -> bool:
    """Whether two crops show the same face, blurred or darkened perhaps: by the correlation of small grey pictures."""
    small = []
    for crop in (one, other):
        edge = crop.shape[0] // 6  # hair and background are left out
        inner = np.ascontiguousarray(crop[edge : crop.shape[0] - edge, edge : crop.shape[1] - edge])
        grey = cv2.cvtColor(_resized(inner, _THUMB), cv2.COLOR_RGB2GRAY).astype(np.float64)
        small.append((grey - grey.mean()) / max(float(np.linalg.norm(grey - grey.mean())), 1e-6))
    return float((small[0] * small[1]).sum()) > _LIKENESS


def _rows_by_frame(faces: Faces) -> dict[int, list[int]]:
    rows: dict[int, list[int]] = {}
    for row, frame in enumerate(faces.frame.tolist()):
        rows.setdefault(frame, []).append(row)
    return rows
