"""Smoothing over time: exact on even motion, no delay, no drag, less noise; the smoother against two witnesses."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.interpolate import make_smoothing_spline

from facepipe import geometry
from facepipe.backends.landmarkers import MESH_TO_IBUG68
from facepipe.errors import DegenerateLandmarksError
from facepipe.metrics import jitter
from facepipe.smoothing import LEAST_ROWS, rts, segments, smooth_track
from facepipe.stages.align import steady_faces
from facepipe.types import Faces, Flag

Points = NDArray[np.float64]
FACE = geometry.mean_face68() * 40  # pixels; about 70 between the eyes
EYES = float(np.linalg.norm(FACE[36:42, :2].mean(0) - FACE[42:48, :2].mean(0)))


def moving(offset: Points, *, angle: float = 0.0) -> Points:
    """(T, 68, 2): a face that moves by `offset` (T, 2) and turns by `angle` radians in all."""
    turn = np.linspace(0, angle, len(offset))
    rotation = np.stack([np.stack([np.cos(turn), -np.sin(turn)], -1), np.stack([np.sin(turn), np.cos(turn)], -1)], -2)
    return np.asarray(FACE[:, :2] @ np.swapaxes(rotation, 1, 2) + offset[:, None])


def noisy(points: Points, deviation: float = 0.2, seed: int = 0) -> Points:
    return points + deviation * np.random.default_rng(seed).normal(size=points.shape)


def glide(start: float, frames: float, length: float, count: int = 160) -> Points:
    """(T, 2): still, a move of least jerk to the right, still."""
    u = np.clip((np.arange(count) - start) / frames, 0, 1)
    return np.stack([length * (10 * u**3 - 15 * u**4 + 6 * u**5), np.zeros(count)], -1)


def irregular(count: int, seed: int = 3) -> Points:
    return np.cumsum(np.random.default_rng(seed).choice([1.0, 1.0, 1.0, 2.0, 4.0], count))


# ------------------------------------------------------------------------------------------------ the smoother itself


def textbook(y: Points, t: Points, q: Points, r: Points) -> Points:
    """Rauch, Tung, Striebel as they wrote it, for one coordinate, from next to no knowledge."""
    x, P = np.zeros(2), 1e8 * np.eye(2)
    H = np.array([[1.0, 0.0]])
    before, after = [], []
    for k in range(len(y)):
        if k:
            h = t[k] - t[k - 1]
            F = np.array([[1, h], [0, 1]])
            Q = q[k - 1] * np.array([[h**3 / 3, h**2 / 2], [h**2 / 2, h]])
            x, P = F @ x, F @ P @ F.T + Q
        before.append((x, P))
        K = P @ H.T / (H @ P @ H.T + r[k])
        x, P = x + K[:, 0] * (y[k] - x[0]), (np.eye(2) - K @ H) @ P
        after.append((x, P))
    for k in range(len(y) - 2, -1, -1):
        F = np.array([[1, t[k + 1] - t[k]], [0, 1]])
        C = after[k][1] @ F.T @ np.linalg.inv(before[k + 1][1])
        after[k] = (after[k][0] + C @ (after[k + 1][0] - before[k + 1][0]), after[k][1])
    return np.array([x[0] for x, _ in after])


@pytest.mark.parametrize("count", [3, 4, 5, 40])
def test_it_is_the_textbooks_recursion(count: int) -> None:
    random = np.random.default_rng(count)
    y, t = random.normal(size=(count, 2, 3)), irregular(count)
    q, r = random.uniform(0.01, 3, (count - 1, 3)), random.uniform(0.1, 4, (count, 3))
    smooth = rts(y, t, q, r)
    for d in range(2):
        for g in range(3):
            np.testing.assert_allclose(smooth[:, d, g], textbook(y[:, d, g], t, q[:, g], r[:, g]), atol=2e-5)


def test_it_is_scipys_smoothing_spline() -> None:
    random = np.random.default_rng(1)
    y, t, r = random.normal(size=30), irregular(30), random.uniform(0.5, 2, 30)
    wanted = make_smoothing_spline(t, y, w=1 / r, lam=1 / 0.3)(t)
    smooth = rts(y[:, None, None], t, np.full((29, 1), 0.3), r[:, None])
    np.testing.assert_allclose(smooth[:, 0, 0], wanted, atol=1e-8)


def test_without_noise_the_values_and_without_acceleration_a_line() -> None:
    y, t = np.random.default_rng(2).normal(size=(20, 1, 1)), irregular(20)
    np.testing.assert_allclose(rts(y, t, np.ones((19, 1)), np.zeros((20, 1))), y, atol=1e-12)
    line = np.polyval(np.polyfit(t, y[:, 0, 0], 1), t)
    np.testing.assert_allclose(rts(y, t, np.zeros((19, 1)), np.ones((20, 1)))[:, 0, 0], line, atol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 9])
def test_lines_and_short_series_stay(count: int, dtype: Any) -> None:
    t = irregular(count)
    y = (3 * t - 5).reshape(-1, 1, 1).astype(dtype)
    smooth = rts(y, t, np.ones((max(count - 1, 0), 1)), np.ones((count, 1)))
    assert smooth.dtype == dtype
    np.testing.assert_allclose(smooth, y, atol=1e-5)


# --------------------------------------------------------------------------------------------------- points of a face


@settings(deadline=None, max_examples=30)
@given(
    count=st.integers(0, 40),
    speed=st.tuples(st.floats(-30, 30), st.floats(-30, 30)),
    place=st.floats(-2000, 2000),
    strength=st.floats(0, 10),
    gaps=st.booleans(),
)
def test_even_motion_is_kept(
    count: int, speed: tuple[float, float], place: float, strength: float, gaps: bool
) -> None:
    times = irregular(count) if gaps else np.arange(count) * 512.0
    offset = place + times[:, None] / 512 * np.array(speed)
    points = moving(offset)
    np.testing.assert_allclose(smooth_track(points, times, strength=strength), points, atol=1e-4)


@settings(deadline=None, max_examples=20)
@given(
    seed=st.integers(0, 10**6),
    scale=st.floats(0.1, 20),
    x=st.floats(-1000, 1000),
    y=st.floats(-1000, 1000),
    unit=st.sampled_from([1.0, 1 / 30, 1001.0]),
)
def test_it_moves_and_grows_with_the_picture(seed: int, scale: float, x: float, y: float, unit: float) -> None:
    points = noisy(moving(glide(30, 9, 60, 70), angle=0.4), seed=seed)
    moved = smooth_track(scale * points + [x, y], np.arange(70) * unit)
    np.testing.assert_allclose(moved, scale * smooth_track(points, np.arange(70)) + [x, y], atol=2e-4 * scale)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6), count=st.integers(LEAST_ROWS, 90))
def test_backwards_is_the_reverse(seed: int, count: int) -> None:
    """Zero phase."""
    times, points = irregular(count, seed), noisy(moving(glide(20, 12, 80, count), angle=1.0), seed=seed)
    variance = np.random.default_rng(seed).uniform(1, 4, count)
    ahead = smooth_track(points, times, variance=variance)
    back = smooth_track(points[::-1], -times[::-1], variance=variance[::-1])
    np.testing.assert_allclose(back[::-1], ahead, atol=1e-4)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_still_face_becomes_steady(dims: int) -> None:
    still = np.repeat(FACE[None, :, :dims], 100, axis=0)
    points = noisy(still)
    smooth = smooth_track(points, np.arange(100))
    assert np.square(smooth - still).mean() < 0.5 * np.square(points - still).mean()
    rigid = (smooth - still).mean(1)
    assert np.square(rigid).mean() < 0.25 * np.square((points - still).mean(1)).mean()
    assert jitter(smooth[..., :2]) < jitter(points[..., :2]) / 3


@pytest.mark.parametrize("frames", [4, 6, 10, 20])
def test_a_fast_move_is_neither_late_nor_cut(frames: int) -> None:
    """Half of the head's width in a few frames: half of the way at the same time, and nearly as fast."""
    true = moving(glide(80, frames, 70))
    smooth = smooth_track(noisy(true), np.arange(160))
    way = smooth.mean(1)[:, 0] - FACE[:, 0].mean()
    middle = float(np.interp(35, way[70:110], np.arange(70, 110)))
    assert abs(middle - (80 + frames / 2)) < 0.1
    assert np.diff(way).max() > 0.97 * np.diff(true.mean(1)[:, 0]).max()
    move = slice(76, 84 + frames)
    assert np.abs((smooth - true).mean(1)[move]).max() < 0.02 * EYES
    assert jitter(smooth[:70]) < jitter(noisy(true)[:70]) / 3  # and the rest of the track is none the worse for it


def test_a_step_stays_a_step() -> None:
    true = moving(np.where(np.arange(80)[:, None] < 40, 0.0, [60.0, 0.0]))
    way = smooth_track(noisy(true), np.arange(80)).mean(1)[:, 0] - FACE[:, 0].mean()
    assert abs(float(np.interp(30, way[30:50], np.arange(30, 50))) - 39.5) < 0.1
    assert way[41] - way[38] > 50


def test_a_blink_keeps_its_depth() -> None:
    """Lids close within two frames and open again while the head is still."""
    close = np.zeros(100)
    close[48:54] = [0.3, 0.9, 1, 0.8, 0.4, 0.1]
    true = np.repeat(FACE[None, :, :2], 100, axis=0)
    for upper, lower in ((37, 41), (38, 40), (43, 47), (44, 46)):
        true[:, upper] += close[:, None] * (FACE[lower, :2] - FACE[upper, :2])
    smooth = smooth_track(noisy(true, 0.1), np.arange(100))
    opening = np.linalg.norm(smooth[:, [37, 38, 43, 44]] - smooth[:, [41, 40, 47, 46]], axis=-1).mean(1)
    wanted = np.linalg.norm(true[:, [37, 38, 43, 44]] - true[:, [41, 40, 47, 46]], axis=-1).mean(1)
    assert opening.argmin() == 50
    assert np.abs(opening - wanted)[46:56].max() < 0.1 * wanted[0]


def test_more_strength_is_steadier_and_none_changes_nothing() -> None:
    points = noisy(moving(glide(80, 60, 40)))
    shakes = [jitter(smooth_track(points, np.arange(160), strength=s)) for s in (0, 0.3, 1, 3)]
    assert shakes == sorted(shakes, reverse=True)
    np.testing.assert_array_equal(smooth_track(points, np.arange(160), strength=0), points)


@pytest.mark.parametrize("count", range(LEAST_ROWS))
def test_few_rows_stay(count: int) -> None:
    points = noisy(moving(np.zeros((count, 2)) + 5))
    np.testing.assert_array_equal(smooth_track(points, np.arange(count)), points)


def test_missing_frames_neither_shift_nor_disturb() -> None:
    """The same moments, with a quarter of the frames gone: nearly the same answer, and no nearer to the raw one."""
    true = moving(glide(60, 14, 60))
    points = noisy(true)
    kept = np.flatnonzero(np.random.default_rng(5).random(160) > 0.25)
    smooth = smooth_track(points[kept], kept)
    assert np.square((smooth - true[kept]).mean(1)).mean() < 0.5 * np.square((points - true).mean(1)).mean()


def test_doubtful_rows_count_less() -> None:
    still = np.repeat(FACE[None, :, :2], 100, axis=0)
    points = noisy(still)
    bad = np.arange(40, 60)
    points[bad] += noisy(np.zeros((20, 68, 2)), 2.0, seed=4)
    variance = np.ones(100)
    told = variance.copy()
    told[bad] = 100.0
    errors = [
        np.abs((smooth_track(points, np.arange(100), variance=v) - still).mean(1)[bad]).mean()
        for v in (variance, told)
    ]
    assert errors[1] < 0.6 * errors[0], errors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"points": np.zeros((10, 68))}, "expected shapes"),
        ({"times": np.arange(9)}, "expected shapes"),
        ({"times": np.zeros(10)}, "strictly rising"),
        ({"points": np.full((10, 68, 2), np.nan)}, "finite"),
        ({"variance": np.zeros(10)}, "factors above 0"),
        ({"strength": -1.0}, "at least 0"),
    ],
)
def test_what_cannot_be_smoothed_is_told(change: dict[str, Any], message: str) -> None:
    given = {"points": moving(np.zeros((10, 2))), "times": np.arange(10), "strength": 1.0, **change}
    with pytest.raises(ValueError, match=message):
        smooth_track(given.pop("points"), given.pop("times"), **given)


def test_points_that_coincide_are_told() -> None:
    with pytest.raises(DegenerateLandmarksError):
        smooth_track(np.zeros((10, 68, 2)), np.arange(10))


# ---------------------------------------------------------------------------------------------------------------- cuts


def test_cuts_and_long_gaps_part_a_track_and_fast_moves_do_not() -> None:
    still = noisy(moving(np.zeros((40, 2))))
    assert segments(still, np.arange(40)) == [slice(0, 40)]
    assert segments(noisy(moving(glide(20, 4, 60, 60))), np.arange(60)) == [slice(0, 60)]
    cut = still + np.where(np.arange(40)[:, None, None] < 25, 0.0, [30.0, 0.0])
    assert segments(cut, np.arange(40)) == [slice(0, 25), slice(25, 40)]
    assert segments(still, np.arange(40) + 5 * (np.arange(40) >= 10)) == [slice(0, 40)]
    assert segments(still, np.arange(40) + 6 * (np.arange(40) >= 10)) == [slice(0, 10), slice(10, 40)]
    missing = np.arange(40) + 5 * (np.arange(40) >= 10)
    assert segments(moving(missing[:, None] * [6.0, 0.0]), missing) == [slice(0, 40)]  # a gap is no jump
    for count in range(3):
        assert segments(still[:count], np.arange(count)) == ([slice(0, count)] if count else [])


# ----------------------------------------------------------------------------------------------------- the stage's use


def table(points: Points, *, track: int = 0, mesh: bool = True) -> Faces:
    """Faces whose landmarks (of a mesh, or without one) are `points` (T, N, 2 or 3)."""
    n = len(points)
    empty = Faces.empty(mesh=468 if mesh else 0)
    columns = {name: np.zeros((n, *column.shape[1:]), column.dtype) for name, column in vars(empty).items()}
    faces = Faces(**columns)
    landmarks = points[:, MESH_TO_IBUG68, :2] if mesh else points
    return faces.with_columns(
        frame=np.arange(n, dtype=np.int64),
        pts=np.arange(n, dtype=np.int64) * 512,
        track=np.full(n, track, np.int32),
        score=np.full(n, 0.9, np.float32),
        landmarks=landmarks.astype(np.float32),
        mesh=points.astype(np.float32) if mesh else faces.mesh,
    )


def mesh_track(count: int = 50, seed: int = 0) -> Points:
    return noisy(np.repeat(geometry.mean_face_mesh()[None] * 40 + 200, count, axis=0), seed=seed)


def test_landmarks_stay_those_of_the_mesh_and_the_pose_follows() -> None:
    faces = table(mesh_track())
    steady = steady_faces(faces, 1.0)
    np.testing.assert_array_equal(steady.landmarks, steady.mesh[:, MESH_TO_IBUG68, :2])
    assert jitter(steady.landmarks) < jitter(faces.landmarks) / 2
    pose = geometry.head_pose(steady.mesh, geometry.mean_face_mesh())
    np.testing.assert_allclose([steady.yaw, steady.pitch, steady.roll], pose, atol=1e-4)
    for name in ("frame", "pts", "box", "flags", "frame_to_crop", "score", "track"):
        np.testing.assert_array_equal(getattr(steady, name), getattr(faces, name))
    assert steady.mesh.dtype == steady.landmarks.dtype == steady.yaw.dtype == np.float32


def test_off_is_the_same_and_so_are_no_faces() -> None:
    faces = table(mesh_track())
    assert steady_faces(faces, 0.0) is faces
    assert len(steady_faces(Faces.empty(), 1.0)) == 0


def test_tracks_do_not_know_each_other() -> None:
    one, other = table(mesh_track()), table(mesh_track(seed=1) + 300, track=1)
    both = Faces.concatenate([one, other])
    order = np.lexsort((both.track, both.frame))
    steady = steady_faces(both[order], 1.0)
    for track, alone in ((0, one), (1, other)):
        np.testing.assert_allclose(steady[steady.track == track].mesh, steady_faces(alone, 1.0).mesh, atol=1e-4)
    untracked = table(mesh_track(), track=-1)
    assert steady_faces(untracked, 1.0) is untracked


def test_rows_that_are_no_face_stay_and_spoil_nothing() -> None:
    faces = table(noisy(moving(np.full((50, 2), 200.0))), mesh=False)
    landmarks = faces.landmarks.copy()
    landmarks[10], landmarks[20, 3] = 7, np.nan
    spoilt = faces.with_columns(landmarks=landmarks)
    steady = steady_faces(spoilt, 1.0)
    np.testing.assert_array_equal(steady.landmarks[[10, 20]], landmarks[[10, 20]])
    rest = np.setdiff1d(np.arange(50), [10, 20])
    assert np.isfinite(steady.landmarks[rest]).all()
    assert np.abs(steady.landmarks[rest] - steady_faces(faces, 1.0).landmarks[rest]).max() < 0.5


def test_flagged_and_unsure_faces_count_less() -> None:
    faces = table(mesh_track())
    flags, score = faces.flags.copy(), faces.score.copy()
    flags[20:30] |= Flag.MISFIT
    score[30:40] = 0.3
    told = steady_faces(faces.with_columns(flags=flags, score=score), 1.0)
    assert np.abs(told.mesh - steady_faces(faces, 1.0).mesh)[20:40].max() > 0.02


def test_times_that_do_not_rise_fall_back_on_frames() -> None:
    faces = table(mesh_track())
    frozen = faces.with_columns(pts=np.zeros(50, np.int64))
    np.testing.assert_allclose(steady_faces(frozen, 1.0).mesh, steady_faces(faces, 1.0).mesh, atol=1e-4)
    twice = faces[np.repeat(np.arange(50), 2)]
    assert steady_faces(twice, 1.0) is twice


def test_a_long_track_takes_little_more_memory_than_its_points() -> None:
    t = np.arange(1500)
    points = (np.random.default_rng(0).normal(0, 40, (468, 3)) + np.sin(t / 9)[:, None, None]).astype(np.float32)
    tracemalloc.start()
    smooth = smooth_track(points, t)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert smooth.dtype == np.float32
    assert peak < 6 * points.nbytes
