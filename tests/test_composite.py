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
from facepipe.image import blend_poisson, sharpness, texture

Picture = NDArray[np.uint8]
COLORS: tuple[Any, ...] = ("covariance", "reinhard", "histogram", "sliced", "none")
SPACES: tuple[Any, ...] = ("lab", "linear", "rgb")
BLENDS: tuple[Any, ...] = ("multiband", "feather", "poisson")


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
    space=st.sampled_from(SPACES),
    blend=st.sampled_from(BLENDS),
    grain=st.booleans(),
    feather=st.sampled_from([0.0, 0.12, 0.5]),
)
def test_pixels_outside_the_mask_are_bit_identical(
    left: int,
    top: int,
    scale: float,
    angle: float,
    by_shift: bool,
    color: Any,
    space: Any,
    blend: Any,
    grain: bool,
    feather: float,
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
    result, region = Compositor(SwapConfig(color=color, color_space=space, blend=blend, grain=grain, feather=feather))(
        frame, patch
    )
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
    result, region = Compositor(SwapConfig(color="none", blend="feather", grain=False))(frame, patch)
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


@pytest.mark.parametrize("color", ["covariance", "reinhard", "histogram", "sliced"])
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


@pytest.mark.parametrize("color", ["covariance", "reinhard", "histogram", "sliced"])
def test_colours_are_steady_from_frame_to_frame_and_forgotten_after_a_cut(color: Any) -> None:
    dark, light = tinted(frame_of(150, 200), 0.3, (0, 0, 0)), tinted(frame_of(150, 200), 0.5, (120, 120, 120))
    patch = patch_at(shift(60, 35), (91, 71), (95, 80), (30, 38))
    config = SwapConfig(color=color, grain=False)
    fresh = Compositor(config)(light, patch)[0]
    compositor = Compositor(config)
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


# ---------------------------------------------------------------------------------------- equal, small and rough


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("color", COLORS)
def test_a_face_that_is_the_background_leaves_every_bit(color: Any, space: Any, blend: Any) -> None:
    frame = np.random.default_rng(1).integers(0, 256, (150, 200, 3), dtype=np.uint8)
    like = patch_at(shift(60, 35), (91, 71), (95, 80), (30, 38))
    patch = Patch(np.ascontiguousarray(frame[35:126, 60:131]), like.mask, like.frame_to_patch)
    compositor = Compositor(SwapConfig(color=color, color_space=space, blend=blend, grain=True))
    for index in range(3):
        result, region = compositor(frame, patch, index)
        assert region.mask.max() == 1
        np.testing.assert_array_equal(result, frame)


@settings(deadline=None, max_examples=60)
@given(
    top=st.integers(-4, 27),
    left=st.integers(-4, 37),
    size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    color=st.sampled_from(COLORS),
    blend=st.sampled_from(BLENDS),
    grain=st.booleans(),
)
def test_masks_of_a_few_pixels_and_at_the_border(
    top: int, left: int, size: tuple[int, int], color: Any, blend: Any, grain: bool
) -> None:
    frame = frame_of(30, 40)
    patch = Patch(frame_of(*size, phase=1.0), np.ones(size, np.float32), shift(left, top))
    compositor = Compositor(SwapConfig(color=color, blend=blend, grain=grain, feather=0.0))
    for index in range(2):
        result, region = compositor(frame, patch, index)
        assert result.dtype == np.uint8
        outside = whole_mask(region, (30, 40)) == 0
        np.testing.assert_array_equal(result[outside], frame[outside])


def rough(frame: Picture, seed: int, sigma: float) -> Picture:
    noise = np.random.default_rng(seed).normal(0, sigma, (*frame.shape[:2], 1))
    return np.asarray(np.clip(frame + noise, 0, 255), np.uint8)


def test_the_face_gets_the_grain_of_the_frame() -> None:
    patch = patch_at(shift(60, 35), (91, 71), (95, 80), (30, 38))
    frames = [rough(frame_of(150, 200), i, 4.0) for i in range(6)]
    compositors = [Compositor(SwapConfig(grain=grain)) for grain in (True, False)]
    for index, frame in enumerate(frames):
        (with_grain, region), (without, _) = (one(frame, patch, index) for one in compositors)
        inside = (whole_mask(region, frame.shape[:2]) > 0.98).astype(np.float32)
        wanted = texture(frame, inside).grain
        assert abs(texture(with_grain, inside).grain - wanted) < 0.15 * wanted
        assert texture(without, inside).grain < 0.3 * wanted


def test_grain_is_a_function_of_seed_and_frame() -> None:
    patch = patch_at(shift(60, 35), (91, 71), (95, 80), (30, 38))
    frame = rough(frame_of(150, 200), 0, 4.0)
    one, again, next_frame, other = (
        Compositor(SwapConfig(), seed)(frame, patch, index)[0] for seed, index in ((3, 7), (3, 7), (3, 8), (4, 7))
    )
    np.testing.assert_array_equal(one, again)
    assert (one != next_frame).any()
    assert (one != other).any()


def test_the_face_is_blurred_as_the_frame_is_but_never_sharpened() -> None:
    y, x = np.mgrid[:150, :200].astype(float)
    stripes = np.clip(127 + 90 * np.sign(np.sin(x / 2.3) * np.sin(y / 2.7)), 0, 255)[..., None].repeat(3, 2)
    sharp, soft = stripes.astype(np.uint8), np.asarray(cv2.GaussianBlur(stripes, (0, 0), 1.5)).astype(np.uint8)
    mask = patch_at(shift(60, 35), (91, 71), (95, 80), (30, 38)).mask
    cut = (slice(35, 126), slice(60, 131))

    def result(frame: Picture, face: Picture, grain: bool) -> float:
        patch = Patch(np.ascontiguousarray(face[cut]), mask, shift(60, 35))
        picture, region = Compositor(SwapConfig(color="none", grain=grain))(frame, patch)
        return sharpness(picture, (whole_mask(region, (150, 200)) > 0.98).astype(np.float32))

    assert result(soft, sharp, True) < 0.6 * result(soft, sharp, False)
    assert result(sharp, soft, True) <= 1.02 * result(sharp, soft, False)


def test_what_flickers_beside_the_face_does_not_pump_it() -> None:
    """Poisson's shift follows the border at once, the composite's only slowly."""
    patch = patch_at(shift(60, 35), (91, 71), (95, 80), (30, 38))
    means: dict[str, list[float]] = {"ours": [], "at once": []}
    compositor = Compositor(SwapConfig(color="none", blend="poisson", grain=False))
    for index in range(12):
        frame = frame_of(150, 200)
        frame[:, :80] = np.clip(frame[:, :80].astype(int) + 25 * (-1) ** index, 0, 255)
        result, region = compositor(frame, patch, index)
        core = whole_mask(region, frame.shape[:2]) > 0.98
        means["ours"].append(float(result[core].mean()))
        place = (region.rows, region.columns)
        pure = blend_poisson(patch.image, frame[place], region.mask)
        means["at once"].append(float(pure[core[place]].mean()))
    assert np.std(np.diff(means["ours"][4:])) < 0.4 * np.std(np.diff(means["at once"][4:]))
