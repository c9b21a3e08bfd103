"""Scores of pose and expression, from 68 landmarks and the mean face of `facepipe.geometry`.

Convention: angles are degrees in the order yaw, pitch, roll, signed as in `facepipe.types`. Rigid points are the
corners of the eyes and the nose: brows, lids, lips and jaw move with the expression and tell nothing about the pose.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from facepipe.geometry import euler_to_rotation, head_pose, mean_face68, rotation_to_euler
from facepipe.metrics._checks import Float64, real_array, require_same_shape
from facepipe.metrics.time import interocular_distance

__all__ = [
    "RIGID_POINTS",
    "angle_error",
    "expression",
    "expression_error",
    "expression_errors",
    "perspective_pose",
    "pose_error",
]

RIGID_POINTS = (*range(27, 36), 36, 39, 42, 45)
"""Indices of the iBUG points that the expression hardly moves: the nose, the corners of the eyes."""

_ROWS = 512
_STEEPEST = 75.0  # degrees between the line of sight and the face beyond which no expression can be read


def perspective_pose(landmarks: Any, *, size: tuple[int, int], focal: float | None = None) -> Float64:
    """Head pose as a pinhole camera sees it, by OpenCV's solvePnP on the rigid points of the mean face.

    `facepipe.geometry.head_pose` assumes a camera far away; near to a camera or towards the edge of a picture that is
    wrong by some degrees, and this is right, if the focal length is.

    Parameters
    ----------
    landmarks : (..., 68, 2) array
        In pixels of the frame.
    size : (int, int)
        Height and width of the frame; its centre is taken for the principal point.
    focal : float, optional
        Focal length in pixels. Default: the frame's width, a horizontal view of 53 degrees.

    Returns
    -------
    (..., 3) float64 array
        Yaw, pitch, roll.

    Raises
    ------
    ValueError
        For other shapes, NaN or infinity, points that fix no pose.

    Notes
    -----
    Levenberg-Marquardt on the reprojection error, started from the far camera's pose.
    """
    points = _landmarks68("landmarks", landmarks)
    height, width = size
    f = float(width if focal is None else focal)
    if not (height > 0 and width > 0 and f > 0):
        raise ValueError(f"expected a positive size and focal length, got {size} and {focal}")
    camera = np.array([[f, 0, (width - 1) / 2], [0, f, (height - 1) / 2], [0, 0, 1]])
    rigid = points.reshape(-1, 68, 2)[:, RIGID_POINTS]
    model = mean_face68()[list(RIGID_POINTS)]
    first = euler_to_rotation(*head_pose(rigid, model))
    solved = np.stack([_solve_pnp(p, r, model, camera) for p, r in zip(rigid, first, strict=True)])
    return np.stack(rotation_to_euler(solved), axis=-1).reshape(*points.shape[:-2], 3)


def _solve_pnp(points: Float64, rotation: Float64, model: Float64, camera: Float64) -> Float64:
    """(3, 3) rotation of one face."""
    spread = float(np.linalg.norm(points - points.mean(axis=0)))
    depth = camera[0, 0] * float(np.linalg.norm((model - model.mean(axis=0)) @ rotation[:2].T)) / spread
    centre = np.append((points.mean(axis=0) - camera[:2, 2]) / camera[0, 0], 1) * depth
    # The far camera sees every face straight on; turned towards this one, it starts within some degrees.
    start, offset = cv2.Rodrigues(rotation)[0], centre - rotation @ model.mean(axis=0)
    _, vector, _ = cv2.solvePnP(
        model.copy(), points.copy(), camera, None, start, offset[:, None], True, cv2.SOLVEPNP_ITERATIVE
    )
    return np.asarray(cv2.Rodrigues(vector)[0])


def pose_error(a: Any, b: Any) -> Float64:
    """Angle of the one rotation that turns one head pose into the other.

    Parameters
    ----------
    a, b : (..., 3) array
        Yaw, pitch, roll in degrees; the axes before the last broadcast.

    Returns
    -------
    (...,) float64 array
        Degrees in [0, 180].

    Raises
    ------
    ValueError
        For another last axis, NaN or infinity.
    """
    a, b = _angles("a", a), _angles("b", b)
    first, second = (euler_to_rotation(*np.moveaxis(x, -1, 0)) for x in (a, b))
    # From the chord, not from the trace: the arc cosine loses half of the digits near 0.
    chord = np.linalg.norm(first - second, axis=(-2, -1)) / np.sqrt(8)
    return np.asarray(np.degrees(2 * np.arcsin(np.clip(chord, 0, 1))))


def angle_error(a: Any, b: Any) -> Float64:
    """Absolute difference of each angle, (..., 3), the short way round: in [0, 180] degrees."""
    difference = _angles("a", a) - _angles("b", b)
    return np.asarray(np.abs((difference + 180) % 360 - 180))


def expression(landmarks: Any) -> Float64:
    """What the expression (and the face's own shape) adds to the mean face, with position, size and pose removed.

    Parameters
    ----------
    landmarks : (..., 68, 2) array
        In pixels.

    Returns
    -------
    (..., 68, 2) float64 array
        Displacement of each point within the plane of the face, x to its left (the image's right when frontal), y
        down; in inter-ocular distances of the mean face.

    Raises
    ------
    ValueError
        For other shapes, NaN or infinity, points that fix no pose, a face turned away by more than 75 degrees.
    """
    points = _landmarks68("landmarks", landmarks)
    model, rigid = mean_face68(), list(RIGID_POINTS)
    rotation = euler_to_rotation(*head_pose(points[..., rigid, :], model[rigid]))
    facing = rotation[..., 2, 2]
    if facing.min(initial=1) < np.cos(np.radians(_STEEPEST)):
        where = tuple(int(i) for i in np.unravel_index(int(facing.argmin()), facing.shape))
        raise ValueError(
            f"landmarks: expected faces turned away by less than {_STEEPEST:g} degrees, "
            f"got {np.degrees(np.arccos(np.clip(facing[where], -1, 1))):.0f} at index {where}; leave profiles out"
        )
    seen = model @ np.swapaxes(rotation[..., :2, :], -1, -2)
    p, q = points[..., rigid, :], seen[..., rigid, :]
    p_mean, q_mean = p.mean(axis=-2, keepdims=True), q.mean(axis=-2, keepdims=True)
    scale = ((p - p_mean) * (q - q_mean)).sum(axis=(-2, -1)) / ((q - q_mean) ** 2).sum(axis=(-2, -1))
    displacement = (points - p_mean) / scale[..., None, None] - (seen - q_mean)
    in_plane = np.linalg.inv(rotation[..., :2, :2])  # undoes roll and foreshortening
    return np.asarray(displacement @ np.swapaxes(in_plane, -1, -2) / interocular_distance(model[:, :2]))


def expression_error(a: Any, b: Any, *, identity: bool = False) -> float:
    """Root mean square distance of two expressions, pose removed.

    Parameters
    ----------
    a, b : (..., 68, 2) array
        Landmarks of the same frames, for instance of the target's clip and of the swap.
    identity : bool
        Whether the shapes of the two faces count as well. By default the median displacement of each of `a` and `b`
        over their frames is taken off first, so that two people who make the same faces differ by nothing.

    Returns
    -------
    float
        In inter-ocular distances; at least 0.

    Raises
    ------
    ValueError
        As `expression`; for different shapes; for a single frame unless `identity` is set.
    """
    return float(np.sqrt((expression_errors(a, b, identity=identity) ** 2).mean()))


def expression_errors(a: Any, b: Any, *, identity: bool = False) -> Float64:
    """Root mean square distance of two expressions, pose removed, for each frame.

    Parameters
    ----------
    a, b, identity
        As in `expression_error`, which is the root of the mean of these values' squares.

    Returns
    -------
    (...,) float64 array
        In inter-ocular distances; one value a face, in the order of `a`.

    Raises
    ------
    ValueError
        As `expression_error`.
    """
    points = _landmarks68("landmarks", a), _landmarks68("landmarks", b)
    require_same_shape(*points, "landmark arrays")
    flat = (each.reshape(-1, 68, 2) for each in points)
    # In parts: what is worked with on the way is many times the result, and a clip may be long.
    first, second = (
        np.concatenate([expression(each[i : i + _ROWS]) for i in range(0, len(each), _ROWS)]) for each in flat
    )
    if not identity:
        if len(first) < 2:
            raise ValueError("expected at least 2 frames to take the faces' own shapes off; or pass identity=True")
        first -= np.median(first, axis=0)
        second -= np.median(second, axis=0)
    first -= second
    return np.asarray(np.sqrt(np.einsum("nij,nij->n", first, first) / 68).reshape(points[0].shape[:-2]))


def _landmarks68(name: str, value: Any) -> Float64:
    points = real_array(name, value)
    if points.shape[-2:] != (68, 2) or not points.size:
        raise ValueError(f"{name}: expected shape (..., 68, 2), got {points.shape}")
    return points


def _angles(name: str, value: Any) -> Float64:
    angles = real_array(name, value)
    if angles.ndim == 0 or angles.shape[-1] != 3:
        raise ValueError(f"{name}: expected shape (..., 3) for yaw, pitch and roll, got {angles.shape}")
    return angles
