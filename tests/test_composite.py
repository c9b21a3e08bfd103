"""The composite: nothing outside the mask is touched, placed by shift or by a general similarity alike, colours."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from facepipe import geometry
from facepipe.composite import Compositor, Patch, Region
from facepipe.config import SwapConfig

Picture = NDArray[np.uint8]
COLORS: tuple[Any, ...] = ("covariance", "reinhard", "histogram", "none")
BLENDS: tuple[Any, ...] = ("multiband", "feather")


def waves(x: NDArray[Any], y: NDArray[Any], phase: float = 0.0) -> Picture:
    """A smooth coloured picture, defined on the plane."""
    parts = [np.sin(x / a + phase) + np.cos(y / b - phase) for a, b in ((17, 23), (29, 13), (11, 31))]
    return np.asarray(np.rint(127 + 50 * np.stack(parts, -1)), np.uint8)


def frame_of(height: int, width: int, phase: float = 2.0) -> Picture:
    y, x = np.mgrid[:height, :width].astype(float)
    return waves(x, y, phase)


def ellipse(x: NDArray[Any], y: NDArray[Any], centre: tuple[float, float], axes: tuple[float, float]) -> Any:
    """A soft ellipse on the plane."""
    r = np.hypot((x - centre[0]) / axes[0], (y - centre[1]) / axes[1])
    return np.clip((1 - r) * min(axes) / 2 + 0.5, 0, 1).astype(np.float32)


def patch_at(
    frame_to_patch: Any, size: tuple[int, int], centre: tuple[float, float], axes: tuple[float, float]
) -> Patch:
    """The same scene of the frame's plane, seen through `frame_to_patch`."""
    matrix = np.asarray(frame_to_patch, np.float64)
    y, x = np.mgrid[: size[0], : size[1]].astype(float)
    points = geometry.apply(geometry.invert(matrix), np.stack([x.ravel(), y.ravel()], 1))
    px, py = points[:, 0].reshape(size), points[:, 1].reshape(size)
    return Patch(waves(px, py), ellipse(px, py, centre, axes), matrix)


def shift(left: int, top: int) -> NDArray[np.float64]:
    return np.array([[1.0, 0, -left], [0, 1, -top]])


def whole_mask(region: Region, size: tuple[int, int]) -> NDArray[np.float32]:
    mask = np.zeros(size, np.float32)
    mask[region.rows, region.columns] = region.mask
    return mask


# ---------------------------------------------------------------------------------------------------------- outside


@settings(deadline=None, max_examples=60)
@given(
    left=st.integers(-60, 190),
    top=st.integers(-60, 140),
    scale=st.floats(0.4, 3),
    angle=st.floats(-3.2, 3.2),
    by_shift=st.booleans(),
    color=st.sampled_from(COLORS),
    blend=st.sampled_from(BLENDS),
    feather=st.sampled_from([0.0, 0.12, 0.5]),
)
def test_pixels_outside_the_mask_are_bit_identical(
    left: int, top: int, scale: float, angle: float, by_shift: bool, color: Any, blend: Any, feather: float
) -> None:
    frame = frame_of(150, 200)
    before = frame.copy()
    if by_shift:
        patch = patch_at(shift(left, top), (70, 60), (left + 30, top + 35), (24, 30))
    else:
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        middle = np.array([left + 30.0, top + 35.0])
        matrix = np.column_stack([turn, np.array([100.0, 100.0]) - turn @ middle])
        patch = patch_at(matrix, (200, 200), (float(middle[0]), float(middle[1])), (24, 30))
    result, region = Compositor(SwapConfig(color=color, blend=blend, feather=feather))(frame, patch)
    np.testing.assert_array_equal(frame, before)  # the caller's frame stays
    assert result.shape == frame.shape
    assert result.dtype == np.uint8
    assert region.mask.shape == (region.rows.stop - region.rows.start, region.columns.stop - region.columns.start)
    assert region.mask.size == 0 or (region.mask.min() >= 0 and region.mask.max() <= 1)
    outside = whole_mask(region, frame.shape[:2]) == 0
    np.testing.assert_array_equal(result[outside], frame[outside])


@pytest.mark.parametrize("place", [(-500, 20), (20, -500), (1000, 20), (20, 1000), (-60, 0), (200, 0)])
def test_a_patch_beside_the_frame_changes_nothing(place: tuple[int, int]) -> None:
    frame = frame_of(150, 200)
    for matrix in (shift(*place), shift(*place) * 2.0):  # 60 and 30 pixels wide
        patch = Patch(frame_of(60, 60), np.ones((60, 60), np.float32), matrix)
        if matrix[0, 0] == 1 or abs(place[0]) + abs(place[1]) > 400:  # a resampled edge is softer by a pixel
            result, region = Compositor(SwapConfig())(frame, patch)
            np.testing.assert_array_equal(result, frame)
            assert not whole_mask(region, frame.shape[:2]).any()


@pytest.mark.parametrize("color", COLORS)
def test_an_empty_mask_changes_nothing(color: Any) -> None:
    frame = frame_of(150, 200)
    patch = Patch(frame_of(60, 60), np.zeros((60, 60), np.float32), shift(10, 10))
    np.testing.assert_array_equal(Compositor(SwapConfig(color=color))(frame, patch)[0], frame)


# ----------------------------------------------------------------------------------------------------------- placing


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize(("scale", "angle"), [(1.0, 0.3), (2.0, 0.0), (1.7, -1.1), (1.0, np.pi)])
def test_by_shift_and_by_a_similarity_agree(blend: Any, scale: float, angle: float) -> None:
    """The same scene given as a cut of the frame's grid and as a turned, larger picture: within two grey levels."""
    frame, centre, axes = frame_of(150, 200), (95.0, 80.0), (30.0, 38.0)
    config = SwapConfig(color="none", blend=blend, feather=0.08)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    half = int(60 * scale)
    matrix = np.column_stack([turn, np.array([half, half]) - turn @ np.array(centre)])
    direct, one = Compositor(config)(frame, patch_at(shift(60, 35), (91, 71), centre, axes))
    turned, other = Compositor(config)(frame, patch_at(matrix, (2 * half + 1, 2 * half + 1), centre, axes))
    masks = [whole_mask(region, frame.shape[:2]) for region in (one, other)]
    assert np.abs(masks[0] - masks[1]).max() < 0.2
    assert np.abs(masks[0] - masks[1]).mean() < 0.003
    difference = np.abs(direct.astype(float) - turned)
    assert difference[masks[0] > 0].mean() < 1
    assert np.quantile(difference, 0.999) <= 4


def test_the_face_is_the_patchs_and_the_rest_the_frames() -> None:
    frame, centre = frame_of(150, 200), (95.0, 80.0)
    patch = patch_at(shift(60, 35), (91, 71), centre, (30, 38))
    result, region = Compositor(SwapConfig(color="none", blend="feather"))(frame, patch)
    sure = whole_mask(region, frame.shape[:2]) == 1
    assert sure.sum() > 500
    y, x = np.mgrid[:150, :200].astype(float)
    np.testing.assert_array_equal(result[sure], waves(x, y)[sure])
    assert (whole_mask(region, frame.shape[:2]) <= np.ceil(ellipse(x, y, centre, (31, 39)))).all()  # never grows


def test_a_wider_feather_is_a_softer_edge() -> None:
    frame = frame_of(150, 200)
    patch = patch_at(shift(60, 35), (91, 71), (95, 80), (30, 38))
    soft = [
        float(((region.mask > 0.02) & (region.mask < 0.98)).sum())
        for region in (Compositor(SwapConfig(feather=f))(frame, patch)[1] for f in (0.0, 0.1, 0.3))
    ]
    assert soft[0] < soft[1] < soft[2]


def test_a_face_like_the_background_leaves_the_frame_nearly_as_it_is() -> None:
    frame = frame_of(150, 200, phase=0.0)
    patch = patch_at(shift(60, 35), (91, 71), (95, 80), (30, 38))
    for color in COLORS:
        for blend in BLENDS:
            result, _ = Compositor(SwapConfig(color=color, blend=blend))(frame, patch)
            assert np.abs(result.astype(int) - frame).max() <= 3, (color, blend)


# ---------------------------------------------------------------------------------------------------------- colours


def tinted(frame: Picture, gain: float, offset: tuple[float, float, float]) -> Picture:
    return np.asarray(np.clip(frame.astype(float) * gain + offset, 0, 255), np.uint8)


@pytest.mark.parametrize("color", ["covariance", "reinhard", "histogram"])
def test_the_face_takes_the_colours_of_what_it_covers(color: Any) -> None:
    frame = tinted(frame_of(150, 200), 0.5, (60, 20, 0))
    patch = patch_at(shift(60, 35), (91, 71), (95, 80), (30, 38))

    def distance(method: Any) -> float:
        result, region = Compositor(SwapConfig(color=method))(frame, patch)
        inside = whole_mask(region, frame.shape[:2]) > 0.9
        lab = [cv2.cvtColor(picture, cv2.COLOR_RGB2LAB)[inside].astype(float) for picture in (result, frame)]
        spread = [np.concatenate([part.mean(0), part.std(0)]) for part in lab]
        return float(np.abs(spread[0] - spread[1]).mean())

    assert distance(color) < 0.25 * distance("none")


def test_colours_are_steady_from_frame_to_frame_and_forgotten_after_a_cut() -> None:
    dark, light = tinted(frame_of(150, 200), 0.3, (0, 0, 0)), tinted(frame_of(150, 200), 0.5, (120, 120, 120))
    patch = patch_at(shift(60, 35), (91, 71), (95, 80), (30, 38))
    fresh = Compositor(SwapConfig())(light, patch)[0]
    compositor = Compositor(SwapConfig())
    compositor(dark, patch)
    after_dark = compositor(light, patch)[0]
    compositor.reset()
    after_cut = compositor(light, patch)[0]
    np.testing.assert_array_equal(after_cut, fresh)
    middle = (slice(60, 100), slice(80, 110))
    assert after_dark[middle].mean() < fresh[middle].mean() - 20
    for _ in range(30):
        settled = compositor(light, patch)[0]
    assert np.abs(settled.astype(int) - fresh).max() <= 1
