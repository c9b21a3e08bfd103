"""Head pose, pose error and expression: a head turned by known angles, before a camera of known focal length."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from facepipe.geometry import euler_to_rotation, head_pose, mean_face68
from facepipe.metrics import (
    angle_error,
    expression,
    expression_error,
    expression_errors,
    perspective_pose,
    pose_error,
)

Array = NDArray[Any]
SIZE = (360, 640)
ANGLES = st.tuples(st.floats(-60, 60), st.floats(-40, 40), st.floats(-80, 80))


def seen(
    angles: tuple[float, ...], *, distance: float = 8.0, focal: float = 640.0, face: Array | None = None
) -> Array:
    """Landmarks of a head in front of a pinhole camera; lengths in units of the mean face."""
    points = (mean_face68() if face is None else face) @ euler_to_rotation(*angles).T + [0.4, -0.3, distance]
    return np.asarray(points[:, :2] / points[:, 2:] * focal + [319.5, 179.5])


def far(angles: tuple[float, ...], face: Array) -> Array:
    """Landmarks of a head far away, 40 pixels a unit."""
    return np.asarray((face @ euler_to_rotation(*angles).T)[:, :2] * 40 + [100, 90])


@settings(deadline=None, max_examples=40)
@given(angles=ANGLES, distance=st.floats(3, 30))
def test_pose_comes_back(angles: tuple[float, float, float], distance: float) -> None:
    pose = perspective_pose(seen(angles, distance=distance), size=SIZE, focal=640)
    assert pose_error(pose, angles) < 0.05
    np.testing.assert_allclose(pose, angles, atol=0.1)


def test_nearer_than_the_far_camera_thinks() -> None:
    """At three eye distances the far camera is off by degrees."""
    landmarks = seen((20, 10, 5), distance=3)
    assert pose_error(head_pose(landmarks, mean_face68()), (20, 10, 5)) > 5
    assert pose_error(perspective_pose(landmarks, size=SIZE), (20, 10, 5)) < 0.01


def test_signs() -> None:
    """As the conventions say: right in the image, up, clockwise."""
    nose, still = 30, seen((0, 0, 0))
    right, up, clockwise = seen((20, 0, 0)), seen((0, 20, 0)), seen((0, 0, 20))
    assert right[nose, 0] > still[nose, 0]
    assert up[nose, 1] < still[nose, 1]
    assert clockwise[45, 1] > still[45, 1]  # the eye at the image's right goes down
    for index, landmarks in enumerate((right, up, clockwise)):
        pose = perspective_pose(landmarks, size=SIZE)
        assert pose[index] == pytest.approx(20, abs=0.05)
        np.testing.assert_allclose(np.delete(pose, index), 0, atol=0.05)


def test_noise_moves_it_a_little_and_the_expression_not_at_all() -> None:
    random = np.random.default_rng(0)
    landmarks = seen((15, -5, 10))
    noisy = landmarks + random.normal(scale=0.5, size=(50, 68, 2))
    assert np.median(pose_error(perspective_pose(noisy, size=SIZE), (15, -5, 10))) < 3
    talking = landmarks.copy()
    talking[48:] += [0, 9]
    talking[:17] += [0, 5]
    np.testing.assert_array_equal(perspective_pose(talking, size=SIZE), perspective_pose(landmarks, size=SIZE))


def test_batches() -> None:
    tracks = np.stack([[seen((yaw, pitch, 0)) for yaw in (0, 30)] for pitch in (-10, 0, 10)])
    poses = perspective_pose(tracks, size=SIZE)
    assert poses.shape == (3, 2, 3)
    np.testing.assert_allclose(poses[2, 1], (30, 10, 0), atol=0.05)


@settings(deadline=None, max_examples=50)
@given(a=ANGLES, b=ANGLES)
def test_pose_error_equals_scipy(a: tuple[float, ...], b: tuple[float, ...]) -> None:
    first, second = (Rotation.from_matrix(euler_to_rotation(*x)) for x in (a, b))
    expected = math.degrees((first.inv() * second).magnitude())
    assert pose_error(a, b) == pytest.approx(expected, abs=1e-6)
    assert pose_error(b, a) == pytest.approx(float(pose_error(a, b)), abs=1e-9)
    assert pose_error(a, a) == 0


def test_known_errors() -> None:
    assert pose_error((0, 0, 0), (0, 0, 30)) == pytest.approx(30)
    assert pose_error((10, 20, 179), (10, 20, -179)) == pytest.approx(2)
    assert pose_error((0, 0, 0), (0, 0, 180)) == pytest.approx(180)
    assert pose_error((0, 0, 0), (1e-7, 0, 0)) == pytest.approx(1e-7)
    np.testing.assert_allclose(angle_error([[10, 20, 179]], (12, 19, -179)), [[2, 1, 2]])


# --------------------------------------------------------------------------------------------------------- expression


def talking_face(amount: float) -> Array:
    """The mean face with lips and jaw moved down within its plane; a unit is an eye distance."""
    face = mean_face68().copy()
    face[54:60, 1] += amount
    face[48:54, 1] += amount / 5
    return face


@settings(deadline=None, max_examples=40)
@given(angles=ANGLES, amount=st.floats(0, 0.5))
def test_expression_does_not_depend_on_pose(angles: tuple[float, ...], amount: float) -> None:
    face = talking_face(amount)
    expected = (face - mean_face68())[:, :2]
    np.testing.assert_allclose(expression(far(angles, face)), expected, atol=1e-6)


def test_expression_error_of_a_known_difference() -> None:
    a, b = far((0, 0, 0), talking_face(0)), far((25, -10, 40), talking_face(0.5))
    expected = math.sqrt((6 * 0.5**2 + 6 * 0.1**2) / 68)
    assert expression_error(a, b, identity=True) == pytest.approx(expected, rel=1e-5)
    assert expression_error(a, a, identity=True) == 0


def test_two_people_who_make_the_same_faces() -> None:
    """A wider face that says the same: nothing is left when each one's own shape is taken off."""
    amounts = [0, 0, 0, 0.1, 0.3, 0.2, 0]
    wide = talking_face(0) - mean_face68()
    wide[:17, 0] += np.linspace(-0.2, 0.2, 17)
    a = np.stack([far((5 * t, 0, 0), talking_face(v)) for t, v in enumerate(amounts)])
    b = np.stack([far((0, 3 * t, 10), talking_face(v) + wide) for t, v in enumerate(amounts)])
    assert expression_error(a, b) == pytest.approx(0, abs=1e-5)
    assert expression_error(a, b, identity=True) > 0.05
    assert expression_error(a, b[::-1]) > 0.01


def test_errors_of_frames_make_up_the_whole() -> None:
    a = np.stack([far((0, 0, 0), talking_face(v)) for v in (0, 0, 0.1, 0.4, 0)])
    b = np.stack([far((5, 0, 0), talking_face(v)) for v in (0, 0, 0.3, 0.4, 0)])
    errors = expression_errors(a, b)
    assert errors.shape == (5,)
    assert int(errors.argmax()) == 2
    assert math.sqrt(float((errors**2).mean())) == pytest.approx(expression_error(a, b))
    alone = [expression_error(x, y, identity=True) for x, y in zip(a, b, strict=True)]
    assert expression_errors(a, b, identity=True) == pytest.approx(alone)


FACE = far((0, 0, 0), mean_face68())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: perspective_pose(FACE[:5], size=SIZE), r"landmarks: expected shape \(..., 68, 2\), got \(5, 2\)"),
        (lambda: perspective_pose(FACE * math.nan, size=SIZE), r"landmarks: expected finite values, got nan"),
        (lambda: perspective_pose(FACE, size=SIZE, focal=0), "positive size and focal length"),
        (lambda: perspective_pose(FACE * 0, size=SIZE), "fix no pose"),
        (lambda: pose_error((1, 2), (1, 2, 3)), r"a: expected shape \(..., 3\) for yaw, pitch and roll, got \(2,\)"),
        (lambda: expression(far((85, 0, 0), mean_face68())), r"less than 75 degrees, got 85 at index \(\)"),
        (lambda: expression_error(FACE, FACE), "at least 2 frames.*identity=True"),
        (lambda: expression_error(np.stack([FACE] * 2), np.stack([FACE] * 3)), "landmark arrays of the same shape"),
    ],
)
def test_refuses(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
