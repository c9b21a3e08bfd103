"""Whether eyes are open is told by their picture: landmarks lie on lowered lids as on open ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from facepipe.eyes import eye_openness
from facepipe.methods.bank import behaviour
from facepipe.types import Faces

Gather = Callable[..., tuple[Faces, NDArray[np.uint8], dict[int, NDArray[np.uint8]]]]

_OPEN = [158, 167, 212, 221, 230, 239, 257, 300, 350]  # looked at by eye
_LOWERED = [0, 4, 18, 32, 46, 430, 440, 450, 460, 470]  # lids down, or shut


def drawn(openness: float, angle: float = 0.0, size: float = 40.0) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Two eyes with white and iris, open by a share of their width, and the corners among 68 points."""
    picture = np.full((200, 200, 3), 170, np.uint8)
    points = np.zeros((68, 2))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    for side, (left, right) in ((-1, (36, 39)), (1, (42, 45))):
        centre = np.array([100, 100]) + turn @ np.array([side * size, 0])
        points[[left, right]] = [centre + turn @ np.array([x, 0]) for x in (-size / 2, size / 2)]
        axes = (round(size / 2), round(size / 2 * openness))
        spot = (round(centre[0]), round(centre[1]))
        cv2.ellipse(picture, spot, axes, np.degrees(angle), 0, 360, (240, 240, 240), -1)
        inside = np.zeros(picture.shape[:2], np.uint8)
        cv2.ellipse(inside, spot, axes, np.degrees(angle), 0, 360, 1, -1)
        iris = np.zeros_like(inside)
        cv2.circle(iris, spot, round(size / 5), 1, -1)
        picture[(inside & iris) > 0] = 40
        cv2.ellipse(picture, spot, axes, np.degrees(angle), 0, 360, (50, 40, 40), 2)
    return picture, points


@settings(max_examples=40, deadline=None)
@given(angle=st.floats(-0.6, 0.6), size=st.floats(24, 60), light=st.floats(0.4, 1.0))
def test_an_open_eye_has_more_from_side_to_side(angle: float, size: float, light: float) -> None:
    seen = []
    for openness in (0.0, 0.5):
        picture, points = drawn(openness, angle, size)
        seen.append(eye_openness((picture * light).astype(np.uint8), points))
    assert (seen[1] > seen[0] + 0.1).all()


def test_nothing_is_told_of_a_flat_picture_and_of_corners_that_coincide() -> None:
    picture, points = drawn(0.5)
    assert np.isnan(eye_openness(np.full_like(picture, 90), points)).all()
    points[36] = points[39]
    seen = eye_openness(picture, points)
    assert np.isnan(seen).tolist() == [True, False]
    points[42] = np.nan
    assert np.isnan(eye_openness(picture, points)).all()


@pytest.mark.models
def test_lowered_eyes_are_told_from_open_ones(clip_path: Callable[[str], Path], faces_of: Gather) -> None:
    faces = faces_of(clip_path("WolfgangLanger_Pexels.mp4"), sorted(_OPEN + _LOWERED))[0]
    assert np.isfinite(faces.eyes).all()
    relative = behaviour(faces)[:, -2:].mean(1) / behaviour(faces)[:, -2:].max()
    is_open = np.isin(faces.frame, _OPEN)
    assert relative[is_open].min() > relative[~is_open].max() + 0.05
    # The landmarks alone do not tell: those of the first frame, which looks down, are as far apart as any.
    lids = behaviour(faces)[:, 40:42].mean(1)
    assert lids[faces.frame == 0] > np.median(lids[is_open])


def test_eyes_that_tell_nothing_count_as_usual(clip_path: Callable[[str], Path], faces_of: Gather) -> None:
    faces = faces_of(clip_path("single_face.mp4"), range(0, 40, 8))[0]
    eyes = faces.eyes.copy()
    eyes[2] = np.nan
    some, none = (behaviour(faces.with_columns(eyes=one))[:, -2:] for one in (eyes, np.full_like(eyes, np.nan)))
    np.testing.assert_allclose(some[2], np.median(some[[0, 1, 3, 4]], axis=0))
    assert (none == none[0, 0]).all()
