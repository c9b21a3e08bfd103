"""Jitter, identity over time, flow-warped error and flicker: closed forms and what must not count."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial import procrustes

from facepipe.errors import DegenerateLandmarksError
from facepipe.geometry import apply, mean_face68
from facepipe.metrics import (
    cosine_matrix,
    edge_flicker,
    flow_warped_error,
    flow_warped_errors,
    identity_variance,
    interocular_distance,
    jitter,
    residual_jitter,
    similarity_jitter,
)

Array = NDArray[Any]
FACE = mean_face68()[:, :2] * 60 + 200


def similarity(angle: float, scale: float, x: float, y: float) -> Array:
    c, s = scale * math.cos(angle), scale * math.sin(angle)
    return np.array([[c, -s, x], [s, c, y]])


# ------------------------------------------------------------------------------------------------------------- jitter


def test_interocular_distance() -> None:
    left, right = FACE[36:42].mean(axis=0), FACE[42:48].mean(axis=0)
    assert interocular_distance(FACE) == pytest.approx(math.dist(left, right))
    five = np.array([left, right, [0, 0], [1, 1], [2, 2]])
    assert interocular_distance(five) == pytest.approx(math.dist(left, right))
    np.testing.assert_allclose(
        interocular_distance(np.stack([FACE, 3 * FACE])), np.array([1, 3]) * math.dist(left, right)
    )


def test_even_movement_does_not_shake() -> None:
    track = FACE + np.arange(10)[:, None, None] * np.array([3.0, -2.0])
    assert jitter(track) == pytest.approx(0, abs=1e-12)


def test_jitter_of_a_point_that_alternates() -> None:
    """Two pixels to and fro: a second difference of four each time."""
    track = np.tile(FACE, (9, 1, 1))
    track[1::2, :, 0] += 2
    assert jitter(track) == pytest.approx(4 / interocular_distance(FACE))
    assert jitter(track, scale=1) == pytest.approx(4)
    assert jitter(track[:, :3], scale=[2] * 9) == pytest.approx(2)


def test_jitter_of_noise() -> None:
    """Second differences of white noise have variance 6, and the length in the plane is Rayleigh's."""
    track = np.random.default_rng(0).normal(size=(3000, 68, 2))
    assert jitter(track, scale=1) == pytest.approx(math.sqrt(6) * math.sqrt(math.pi / 2), rel=0.01)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), scale=st.floats(0.1, 10))
def test_jitter_has_no_unit(seed: int, scale: float) -> None:
    track = FACE + np.random.default_rng(seed).normal(size=(6, 68, 2))
    assert jitter(track * scale) == pytest.approx(jitter(track), rel=1e-9)
    assert residual_jitter(track * scale) == pytest.approx(residual_jitter(track), rel=1e-7)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000))
def test_movement_of_the_whole_face_leaves_no_residual(seed: int) -> None:
    random = np.random.default_rng(seed)
    track = np.stack([apply(similarity(*random.uniform([-1, 0.5, -50, -50], [1, 2, 50, 50])), FACE) for _ in range(5)])
    assert residual_jitter(track) == pytest.approx(0, abs=1e-9)
    assert jitter(track) > 0


def test_residual_equals_scipy_procrustes() -> None:
    track = FACE + np.random.default_rng(0).normal(size=(2, 68, 2))
    # scipy's disparity is that of sets of unit size: put back the size of the second.
    _, _, disparity = procrustes(track[1], track[0])
    size = ((track[1] - track[1].mean(axis=0)) ** 2).sum()
    expected = 100 * math.sqrt(disparity * size / 68) / np.median(interocular_distance(track))
    assert residual_jitter(track) == pytest.approx(expected, rel=1e-9)


def test_residual_is_a_median_in_per_cent() -> None:
    track = np.tile(FACE, (11, 1, 1))
    track[5, 30] += 40  # one bad frame spoils two of ten steps
    assert residual_jitter(track) == pytest.approx(0, abs=1e-9)
    noisy = FACE + np.random.default_rng(0).normal(scale=0.5, size=(200, 68, 2))
    # Two noises of 0.5 a coordinate, in two dimensions, less the 4 parameters of the fit.
    expected = 100 * 0.5 * math.sqrt(2 * (2 * 68 - 4) / 68) / interocular_distance(FACE)
    assert residual_jitter(noisy) == pytest.approx(expected, rel=0.02)


def test_similarity_jitter() -> None:
    """Crops whose frame position alternates by two pixels: four pixels of a side of 128 in the frame."""
    track = np.stack([similarity(0.3, 2, 10, 20)] * 7)
    assert similarity_jitter(track, size=256) == pytest.approx(0, abs=1e-12)
    shift = 2 * similarity(0.3, 2, 0, 0)[:, 0]  # two pixels along the frame's x
    track[1::2, :, 2] += shift
    assert similarity_jitter(track, size=256) == pytest.approx(4 / 128)
    square = np.concatenate([track, np.tile([[[0, 0, 1.0]]], (7, 1, 1))], axis=1)
    assert similarity_jitter(square, size=256) == pytest.approx(4 / 128)


def test_identity_variance() -> None:
    rows = np.random.default_rng(0).standard_normal((9, 16))
    assert identity_variance(rows) == pytest.approx(float((1 - cosine_matrix(rows, rows)).mean()))
    assert identity_variance(np.outer([1, 2, 5], rows[0])) == pytest.approx(0, abs=1e-12)
    assert identity_variance([[1.0, 0], [-3, 0]]) == 1
    assert identity_variance(rows * 1e-200) == pytest.approx(identity_variance(rows))


# ------------------------------------------------------------------------------------------------------------- pixels


def texture(height: int = 120, width: int = 160, seed: int = 0) -> Array:
    """A smooth random picture, larger than a frame by 20 pixels a side."""
    noise = np.random.default_rng(seed).normal(size=(height + 40, width + 40, 3))
    smooth = cv2.GaussianBlur(noise, (0, 0), 3)
    return np.asarray(np.clip(128 + smooth * 400, 0, 255), np.uint8)


def pan(speed: int, count: int = 5) -> list[Array]:
    picture = texture()
    return [picture[20:140, 20 + speed * t : 180 + speed * t].copy() for t in range(count)]


def test_movement_is_no_error() -> None:
    still, moving = flow_warped_error(pan(0)), flow_warped_error(pan(3))
    apart = float(np.mean([(a / 255.0 - b / 255.0) ** 2 for a, b in itertools.pairwise(pan(3))]))
    assert still == 0
    assert moving < apart / 20


def test_flicker_is_an_error() -> None:
    """Brightness that alternates by 10 of 255 against the flow of the clean clip."""
    clean = pan(2)
    flickering = [np.clip(frame.astype(int) + 10 * (t % 2), 0, 255).astype(np.uint8) for t, frame in enumerate(clean)]
    error = flow_warped_error(flickering, reference=clean)
    assert error == pytest.approx((10 / 255) ** 2 + flow_warped_error(clean), rel=0.15)


def test_errors_of_both_videos_along_one_flow() -> None:
    clean = pan(2)
    flickering = [np.clip(frame.astype(int) + 10 * (t % 2), 0, 255).astype(np.uint8) for t, frame in enumerate(clean)]
    mask = np.zeros(clean[0].shape[:2])
    mask[:, 60:] = 1
    for masks in (None, [mask] * 5):
        expected = (
            flow_warped_error(flickering, reference=clean, masks=masks),
            flow_warped_error(clean, masks=masks),
        )
        assert flow_warped_errors(flickering, clean, masks=masks) == pytest.approx(expected)


def test_masks_choose_what_counts() -> None:
    clean = pan(0)
    noisy = [frame.copy() for frame in clean]
    for frame in noisy[::2]:
        frame[:, :40] = 255 - frame[:, :40]
    mask = np.zeros(clean[0].shape[:2])
    mask[:, 60:] = 1
    assert flow_warped_error(noisy, reference=clean, masks=[mask] * 5) == 0
    assert flow_warped_error(noisy, reference=clean) > 1e-3


def test_edge_flicker() -> None:
    clean = pan(2)
    mask = np.zeros(clean[0].shape[:2], np.float32)
    mask[30:90, 40:120] = 1
    masks = [mask] * 5
    assert edge_flicker(clean, masks, reference=clean) == 0
    assert edge_flicker(clean, masks) > 1
    still = [clean[0]] * 5
    assert edge_flicker(still, masks) == 0
    deep = [frame.copy() for frame in still]
    edge = [frame.copy() for frame in still]
    for t in range(5):
        deep[t][50:70, 60:100] = 200 * (t % 2)  # inside, away from the edge
        edge[t][:, 36:44] = 100 + 20 * (t % 2)
    assert edge_flicker(deep, masks) == 0
    assert edge_flicker(edge, masks) > 0.5


def test_edge_flicker_of_the_whole_band() -> None:
    frames = [np.full((60, 60, 3), 100 + 7 * (t % 2), np.uint8) for t in range(4)]
    mask = np.zeros((60, 60))
    mask[20:40, 20:40] = 0.9
    assert edge_flicker(frames, [mask] * 4) == pytest.approx(7, rel=1e-5)
    assert edge_flicker(iter(frames), iter([mask] * 4), reference=iter(frames)) == 0


@pytest.mark.models
def test_distorted_carphone_changes_more_than_it_moves(clip_path: Callable[[str], Path]) -> None:
    def frames(name: str) -> list[Array]:
        with av.open(str(clip_path(name))) as container:
            return [
                frame.to_ndarray(format="rgb24")
                for _, frame in zip(range(12), container.decode(video=0), strict=False)
            ]

    clean, distorted = frames("carphone_pristine.mp4"), frames("carphone_distorted.mp4")
    error = flow_warped_error(clean)
    apart = float(np.mean([(a / 255.0 - b / 255.0) ** 2 for a, b in itertools.pairwise(clean)]))
    assert error < apart / 2
    assert flow_warped_error(distorted, reference=clean) > error


# ----------------------------------------------------------------------------------------------------------- refusals

TRACK = np.tile(FACE, (4, 1, 1))
FRAMES = pan(0)
MASK = np.ones(FRAMES[0].shape[:2])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: jitter(TRACK[:2]), r"points: expected shape \(T, N, 2\) with T >= 3, got \(2, 68, 2\)"),
        (lambda: jitter(TRACK[:, :7]), r"expected shape \(..., 68, 2\) or \(..., 5, 2\), got \(4, 7, 2\)"),
        (lambda: jitter(TRACK * 0), "scale: expected a positive length, got 0.0; do the eyes coincide"),
        (lambda: jitter(TRACK, scale=-1), "scale: expected a positive length"),
        (lambda: jitter(np.where(TRACK > 1, math.nan, TRACK)), r"points: expected finite values, got nan at index"),
        (lambda: residual_jitter(TRACK[:1]), "with T >= 2"),
        (lambda: similarity_jitter(np.zeros((4, 2, 2)), size=9), r"expected shape \(T, 2, 3\) with T >= 3"),
        (lambda: similarity_jitter(np.zeros((4, 2, 3)), size=9), "can be inverted, got a singular one at 0"),
        (lambda: identity_variance(np.zeros((3, 4))), "not all zero"),
        (lambda: identity_variance(np.zeros((0, 4))), "at least 1 row"),
        (lambda: flow_warped_error(FRAMES[:1]), "at least 2 frames"),
        (lambda: flow_warped_error(FRAMES, reference=FRAMES[:3]), "shorter"),
        (lambda: flow_warped_error([f.astype(float) for f in FRAMES]), "frame 0: expected uint8 RGB.*got float64"),
        (lambda: flow_warped_error([FRAMES[0], FRAMES[1][1:]]), r"frame 1: expected uint8 RGB of one size"),
        (lambda: flow_warped_error(FRAMES, masks=[MASK * 0] * 5), "common pixel under the mask"),
        (lambda: flow_warped_error([f[:15] for f in FRAMES]), r"at least 16 pixels a side, got \(15, 160\)"),
        (lambda: edge_flicker(FRAMES, [MASK] * 5), "got no edge at all"),
        (lambda: edge_flicker(FRAMES, [MASK[1:]] * 5), r"mask 0: expected \(120, 160\) finite weights"),
        (lambda: edge_flicker(FRAMES, [MASK] * 5, width=0), "width: expected more than 0"),
    ],
)
def test_refuses(call: Callable[[], float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_points_that_fix_no_transform() -> None:
    track = np.array([[[0.0, 0], [1, 0], [2, 0], [3, 0], [4, 0]]] * 2)
    track[0] = [1.0, 1]
    with pytest.raises((DegenerateLandmarksError, ValueError)):
        residual_jitter(track)
