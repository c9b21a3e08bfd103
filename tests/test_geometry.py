"""Geometry: known transforms come back, foreign witnesses agree, and what fixes no transform is refused."""

from __future__ import annotations

import doctest
import itertools
from typing import Any

import cv2
import hypothesis.strategies as st
import numpy as np
import pytest
import scipy.spatial
import skimage.transform
from hypothesis import given, settings
from numpy.typing import NDArray

from facepipe import geometry
from facepipe.errors import ConfigError, DegenerateLandmarksError

Points = NDArray[np.float64]

quick = settings(deadline=None, max_examples=40)
seeds = st.integers(0, 2**32 - 1)


def random_rotation(rng: np.random.Generator, dimensions: int) -> Points:
    Q, R = np.linalg.qr(rng.normal(size=(dimensions, dimensions)))
    Q = Q * np.sign(np.diag(R))
    if np.linalg.det(Q) < 0:
        Q[:, 0] = -Q[:, 0]
    return Q


def random_similarity(rng: np.random.Generator, dimensions: int) -> Points:
    matrix = np.eye(dimensions + 1)
    matrix[:-1, :-1] = rng.uniform(0.1, 10) * random_rotation(rng, dimensions)
    matrix[:-1, -1] = rng.uniform(-1000, 1000, dimensions)
    return matrix


def residual(matrix: Points, src: Points, dst: Points) -> float:
    return float(((geometry.apply(matrix, src) - dst) ** 2).sum())


# ------------------------------------------------------------------------------------------------------- umeyama


@quick
@given(seeds, st.sampled_from([2, 3, 5]), st.integers(6, 40))
def test_a_known_similarity_comes_back(seed: int, dimensions: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    src = rng.normal(size=(n, dimensions)) * 50
    truth = random_similarity(rng, dimensions)
    assert np.allclose(geometry.umeyama(src, geometry.apply(truth, src)), truth, rtol=1e-9, atol=1e-8)


@quick
@given(seeds, st.sampled_from(["umeyama", "procrustes", "robust"]))
def test_every_fit_finds_a_known_similarity(seed: int, fit: geometry.SimilarityFit) -> None:
    rng = np.random.default_rng(seed)
    src = rng.normal(size=(3, 20, 2)) * 50
    truth = np.stack([random_similarity(rng, 2) for _ in src])
    assert np.allclose(geometry.fit_similarity(src, geometry.apply(truth, src), fit=fit), truth, rtol=1e-6, atol=1e-5)


@quick
@given(seeds)
def test_the_procrustes_fit_keeps_the_size_that_noise_takes_from_least_squares(seed: int) -> None:
    rng = np.random.default_rng(seed)
    src = rng.normal(size=(40, 2))
    dst = 3 * src + rng.normal(size=src.shape)
    scales = [
        geometry.similarity_params(geometry.fit_similarity(src, dst, fit=f)).scale for f in ("umeyama", "procrustes")
    ]
    sizes = [np.linalg.norm(p - p.mean(0)) for p in (src, dst)]
    assert scales[1] == pytest.approx(sizes[1] / sizes[0])
    assert scales[0] < scales[1]
    back = geometry.fit_similarity(dst, src, fit="procrustes")  # it does not matter which shape is laid on which
    assert geometry.similarity_params(back).scale == pytest.approx(1 / scales[1])


@quick
@given(seeds)
def test_a_few_wild_points_move_the_robust_fit_less(seed: int) -> None:
    rng = np.random.default_rng(seed)
    src = rng.normal(size=(40, 2)) * 20
    truth = random_similarity(rng, 2)
    dst = geometry.apply(truth, src) + rng.normal(size=src.shape) * 0.01
    clean = dst.copy()
    dst[:5] += 50 + rng.uniform(size=(5, 2)) * 100
    errors = [residual(geometry.fit_similarity(src, dst, fit=f), src, clean) for f in ("umeyama", "robust")]
    assert errors[1] < 0.01 * errors[0]


def test_the_example_in_the_documentation_runs() -> None:
    result = doctest.testmod(geometry)
    assert result.attempted > 0
    assert result.failed == 0


def test_rigid_motion_keeps_the_size() -> None:
    rng = np.random.default_rng(0)
    src = rng.normal(size=(10, 3))
    R = random_rotation(rng, 3)
    matrix = geometry.umeyama(src, 3 * src @ R.T + 1, with_scale=False)
    assert np.allclose(matrix[:3, :3], R)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_agrees_with_scikit_image_on_noisy_points(dimensions: int) -> None:
    rng = np.random.default_rng(1)
    src = rng.normal(300, 50, (30, 68, dimensions))
    dst = src @ random_rotation(rng, dimensions) * 0.4 + rng.normal(size=src.shape)
    ours = geometry.umeyama(src, dst)
    cls: Any = skimage.transform.SimilarityTransform
    for matrix, a, b in zip(ours, src, dst, strict=True):
        if hasattr(cls, "from_estimate"):
            theirs = cls.from_estimate(a, b).params
        else:
            fit = cls(dimensionality=dimensions)
            assert fit.estimate(a, b)
            theirs = fit.params
        assert np.abs(matrix - theirs).max() < 1e-9


def test_agrees_with_opencv_on_noisy_points() -> None:
    rng = np.random.default_rng(2)
    src = rng.normal(100, 30, (68, 2))
    dst = geometry.apply(random_similarity(rng, 2), src) + rng.normal(size=(68, 2)) * 0.1
    theirs, _ = cv2.estimateAffinePartial2D(src, dst, method=cv2.RANSAC, ransacReprojThreshold=1e6, refineIters=50)
    assert np.abs(geometry.umeyama(src, dst)[:2] - theirs).max() < 1e-3


@quick
@given(seeds)
def test_the_planar_closed_form_is_the_svd(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cov = rng.normal(size=(20, 2, 2))
    R, trace, gap = geometry._rotation_planar(cov)
    R_svd, trace_svd, gap_svd = geometry._rotation_svd(cov, reflection=False)
    assert np.allclose(R, R_svd, atol=1e-9)
    assert np.allclose(trace, trace_svd)
    assert np.allclose(gap, gap_svd)


@quick
@given(seeds, st.sampled_from([2, 3]))
def test_no_small_change_of_the_result_fits_better(seed: int, dimensions: int) -> None:
    rng = np.random.default_rng(seed)
    src, dst = rng.normal(size=(2, 12, dimensions))
    matrix = geometry.umeyama(src, dst)
    best = residual(matrix, src, dst)
    for _ in range(10):
        angle = rng.normal(size=(dimensions, dimensions)) * 1e-3
        turn, _ = np.linalg.qr(np.eye(dimensions) + angle - angle.T)
        turn *= np.sign(np.diag(turn))
        other = matrix.copy()
        other[:-1, :-1] = turn @ other[:-1, :-1] * (1 + 1e-3 * rng.normal())
        other[:-1, -1] += 1e-3 * rng.normal(size=dimensions)
        assert residual(other, src, dst) >= best - 1e-12


@quick
@given(seeds, st.sampled_from([2, 3]))
def test_mirrored_points_get_the_best_proper_rotation_and_its_own_scale(seed: int, dimensions: int) -> None:
    rng = np.random.default_rng(seed)
    src = rng.normal(size=(20, dimensions)) * np.arange(1, dimensions + 1)
    dst = src * np.r_[-np.ones(1), np.ones(dimensions - 1)]
    matrix = geometry.umeyama(src, dst)
    A = matrix[:-1, :-1]
    assert np.linalg.det(A) > 0
    a, b = src - src.mean(0), dst - dst.mean(0)
    R = A / np.linalg.det(A) ** (1 / dimensions)
    best_scale = (b * (a @ R.T)).sum() / (a**2).sum()
    assert np.isclose(np.linalg.det(A) ** (1 / dimensions), best_scale)


@quick
@given(seeds)
def test_weight_zero_is_the_same_as_leaving_the_point_out(seed: int) -> None:
    rng = np.random.default_rng(seed)
    src, dst = rng.normal(size=(2, 4, 15, 2))
    weights = rng.uniform(0.1, 1, 15)
    weights[10:] = 0
    kept = geometry.umeyama(src[:, :10], dst[:, :10], weights=weights[:10])
    assert np.allclose(geometry.umeyama(src, dst, weights=weights), kept)
    src[:, 12] = np.nan
    assert np.allclose(geometry.umeyama(src, dst, weights=weights), kept)


def test_whole_weights_count_as_repeated_points() -> None:
    src, dst = np.random.default_rng(3).normal(size=(2, 6, 3))
    weights = np.array([1, 2, 3, 1, 1, 4])
    repeated = geometry.umeyama(src.repeat(weights, 0), dst.repeat(weights, 0))
    assert np.allclose(geometry.umeyama(src, dst, weights=weights), repeated)


def test_one_call_equals_a_loop_and_broadcasts() -> None:
    rng = np.random.default_rng(4)
    src, dst = rng.normal(size=(7, 2)) + 4, rng.normal(size=(3, 300, 7, 2))
    weights = rng.uniform(0, 1, (3, 1, 7))
    together = geometry.umeyama(src, dst, weights=weights)
    assert together.shape == (3, 300, 3, 3)
    for index in [(0, 0), (1, 255), (1, 256), (2, 299)]:
        assert np.array_equal(geometry.umeyama(src, dst[index], weights=weights[index[0], 0]), together[index])
    assert geometry.umeyama(src, dst[:0]).shape == (0, 300, 3, 3)


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.float32])
def test_other_number_types_are_promoted(dtype: type) -> None:
    src: NDArray[Any] = np.array([[0, 0], [10, 0], [0, 20], [5, 5]], dtype)
    matrix = geometry.umeyama(src, src[:, ::-1] * np.array([1, 1], dtype) + np.array([3, 0], dtype))
    assert matrix.dtype == np.float64
    exact = geometry.umeyama(src.astype(float), src[:, ::-1].astype(float) + np.array([3, 0]))
    assert np.allclose(matrix, exact)


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_points_on_a_line(offset: float) -> None:
    line = np.arange(5)[:, None] * np.array([1.0, 2.0]) + offset
    turned = line @ [[0, 1], [-1, 0]]
    assert np.allclose(geometry.apply(geometry.umeyama(line, turned), line), turned)
    line3 = np.arange(5)[:, None] * np.array([1.0, 2.0, -1.0]) + offset
    with pytest.raises(DegenerateLandmarksError, match="no single rotation"):
        geometry.umeyama(line3, line3)
    plane = np.c_[np.random.default_rng(5).normal(size=(6, 2)), np.zeros(6)] + offset
    assert np.allclose(geometry.umeyama(plane, plane), np.eye(4), atol=1e-3 if offset else 1e-9)


SQUARE = np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]])


@pytest.mark.parametrize(
    ("src", "dst", "weights", "message"),
    [
        (np.ones((4, 2)), SQUARE, None, "all points of src that have weight coincide"),
        (SQUARE, np.full((4, 2), 1e6), None, "all points of dst that have weight coincide"),
        (SQUARE, SQUARE, [1, 0, 0, 0], "all points of src that have weight coincide"),
        (SQUARE, SQUARE * [1, np.nan], None, "a coordinate is not finite"),
        (np.where(SQUARE > 0, np.inf, 0), SQUARE, None, "a coordinate is not finite"),
        (SQUARE * 1e200, SQUARE, None, "a coordinate is not finite"),
        (SQUARE, SQUARE, [0, 0, 0, 0], "all weights are zero"),
        (SQUARE, SQUARE, [1, 1, 1, -1], "weights are negative or not finite"),
        (SQUARE, SQUARE, [1, 1, 1, np.nan], "weights are negative or not finite"),
        (SQUARE, SQUARE, [1, 1, 1], r"weights are expected to be \(\.\.\., 4\), but got \(3,\)"),
        (SQUARE, SQUARE[:3], None, r"but got \(4, 2\) and \(3, 2\)"),
        (SQUARE[0], SQUARE[0], None, r"but got \(2,\) and \(2,\)"),
        (SQUARE[:1], SQUARE[:1], None, "at least two points"),
        (np.zeros((2, 4, 2)), np.zeros((3, 4, 2)), None, "do not broadcast"),
        (SQUARE, SQUARE * [-1, 1], None, "mirrored shape without a direction"),
    ],
)
def test_what_fixes_no_transform_is_refused(src: Points, dst: Points, weights: list[float], message: str) -> None:
    with pytest.raises(DegenerateLandmarksError, match=message) as caught:
        geometry.umeyama(src, dst, weights=weights)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("fit", ["umeyama", "procrustes", "robust"])
def test_each_set_of_a_batch_is_fitted_but_for_the_bad(fit: geometry.SimilarityFit) -> None:
    src = np.random.default_rng(0).normal(size=(2, 3, 5, 2))
    src[0, 1], src[1, 2, 3] = 7, np.nan
    dst = src[0, 0]
    found = geometry.fit_each(src, dst, fit=fit)
    bad = np.isnan(found).any((-2, -1))
    assert np.argwhere(bad).tolist() == [[0, 1], [1, 2]]
    for index in np.argwhere(~bad).tolist():
        one = geometry.fit_similarity(src[tuple(index)], dst, fit=fit)
        np.testing.assert_array_equal(found[tuple(index)], one)
    np.testing.assert_array_equal(geometry.fit_each(src[~bad], dst, fit=fit), found[~bad])
    assert np.isnan(geometry.fit_each(src[0, 1], dst, fit=fit)).all()


def test_the_bad_set_of_a_batch_is_named() -> None:
    src = np.random.default_rng(6).normal(size=(4, 5, 6, 2))
    dst = src.copy()
    dst[2, 3] = 1
    with pytest.raises(DegenerateLandmarksError, match=r"^set \(2, 3\) of \(4, 5\): all points of dst"):
        geometry.umeyama(src, dst)
    dst[1, 0, 0, 0] = np.nan
    with pytest.raises(DegenerateLandmarksError, match=r"^set 0 of \(5,\): a coordinate"):
        geometry.umeyama(src[1], dst[1])


# ---------------------------------------------------------------------------------------------------- procrustes


@quick
@given(seeds, st.sampled_from([2, 3]))
def test_disparity_is_scipys(seed: int, dimensions: int) -> None:
    a, b = np.random.default_rng(seed).normal(size=(2, 9, dimensions))
    ours = geometry.procrustes(a, b, reflection=True)
    mtx1, mtx2, disparity = scipy.spatial.procrustes(a, b)
    assert np.isclose(ours.disparity, disparity)
    size = np.linalg.norm(a - a.mean(0))
    assert np.allclose((ours.aligned - a.mean(0)) / size, mtx2)
    assert np.allclose((a - a.mean(0)) / size, mtx1)
    assert np.allclose(geometry.apply(ours.transform, b), ours.aligned)


@quick
@given(seeds)
def test_reflection_and_scaling_only_help(seed: int) -> None:
    a, b = np.random.default_rng(seed).normal(size=(2, 9, 3))
    free = geometry.procrustes(a, b, reflection=True).disparity
    proper = geometry.procrustes(a, b).disparity
    rigid = geometry.procrustes(a, b, scaling=False)
    assert free <= proper + 1e-12
    assert proper <= rigid.disparity + 1e-12
    assert np.isclose(proper, geometry.procrustes(b, a).disparity)
    assert np.isclose(np.linalg.det(rigid.transform[:3, :3]), 1)


def test_a_mirrored_copy_matches_only_with_reflection() -> None:
    a = np.random.default_rng(7).normal(size=(9, 3))
    b = a * [-2, 2, 2] + 5
    assert geometry.procrustes(a, b, reflection=True).disparity < 1e-20
    assert geometry.procrustes(a, b).disparity > 0.01


def test_procrustes_takes_no_batch() -> None:
    with pytest.raises(DegenerateLandmarksError, match=r"expected to be \(N, D\)"):
        geometry.procrustes(np.zeros((2, 4, 2)), np.zeros((2, 4, 2)))


@quick
@given(seeds, st.sampled_from([2, 3]), st.booleans())
def test_transformed_copies_have_no_residual(seed: int, dimensions: int, scaling: bool) -> None:
    rng = np.random.default_rng(seed)
    shape = rng.normal(size=(12, dimensions)) * 40
    moves = np.stack([random_similarity(rng, dimensions) for _ in range(6)])
    if not scaling:
        moves[:, :-1, :-1] /= np.linalg.det(moves[:, :-1, :-1])[:, None, None] ** (1 / dimensions)
    copies = geometry.apply(moves, shape)
    result = geometry.generalized_procrustes(copies, scaling=scaling)
    assert result.converged
    assert result.residual < 1e-16
    assert np.allclose(geometry.apply(result.transforms, copies), result.aligned)
    assert np.allclose(result.mean.mean(0), 0, atol=1e-9 * np.abs(result.mean).max())
    assert geometry.procrustes(shape, result.mean).disparity < 1e-16
    sizes = np.sqrt(((copies - copies.mean(1, keepdims=True)) ** 2).sum((1, 2)))
    assert np.isclose(np.linalg.norm(result.mean), sizes.mean())


def test_more_rounds_never_fit_worse_and_the_mean_is_a_fixed_point() -> None:
    rng = np.random.default_rng(8)
    shape = rng.normal(size=(20, 2)) * 30
    noisy = geometry.apply(np.stack([random_similarity(rng, 2) for _ in range(15)]), shape)
    noisy += rng.normal(size=noisy.shape) * 3
    residuals = [geometry.generalized_procrustes(noisy, iterations=n).residual for n in range(1, 8)]
    assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(residuals))
    result = geometry.generalized_procrustes(noisy)
    average = result.aligned.mean(0)
    assert result.converged
    assert np.allclose(average / np.linalg.norm(average), result.mean / np.linalg.norm(result.mean), atol=1e-8)


def test_a_coincident_shape_is_named() -> None:
    shapes = np.random.default_rng(9).normal(size=(4, 6, 2))
    shapes[2] = 3
    with pytest.raises(DegenerateLandmarksError, match=r"set 2 of \(4,\)"):
        geometry.generalized_procrustes(shapes)
    with pytest.raises(ConfigError, match="iterations"):
        geometry.generalized_procrustes(shapes, iterations=0)
    with pytest.raises(DegenerateLandmarksError, match="K > 0"):
        geometry.generalized_procrustes(np.zeros((0, 6, 2)))


# ----------------------------------------------------------------------------------------------------- templates


def test_templates_are_read_only_float64_with_eyes_and_mouth_inside_of_their_crop() -> None:
    names = {"arcface5", "ibug68", "ibug51", "ibug33", "ffhq"}
    assert set(geometry.TEMPLATES) == names == set(geometry.TEMPLATE_SIZE)
    for name, points in geometry.TEMPLATES.items():
        assert points.dtype == np.float64
        assert points.shape == ({"ibug68": 68, "ibug51": 51, "ibug33": 33}.get(name, 5), 2)
        inner = geometry.five_points(points) if name == "ibug68" else points  # the chin may lie below the crop
        assert 0 < inner.min() <= inner.max() < geometry.TEMPLATE_SIZE[name]
        with pytest.raises(ValueError, match="read-only"):
            points[0, 0] = 1


def test_ibug68_lies_in_arcfaces_frame() -> None:
    five = geometry.five_points(geometry.TEMPLATES["ibug68"])
    fit = geometry.similarity_params(geometry.umeyama(five, geometry.TEMPLATES["arcface5"]))
    assert abs(fit.scale - 1) < 0.1
    assert abs(fit.angle_deg) < 1
    assert np.abs(five - geometry.TEMPLATES["arcface5"]).mean() < 4


@pytest.mark.parametrize("name", geometry.TEMPLATES)
def test_the_mean_face_lies_on_each_template(name: str) -> None:
    mean = geometry.TEMPLATES["ibug68"]
    points, wanted = geometry.template_points(np.stack([mean, mean]), name), geometry.TEMPLATES[name]
    assert points.shape == (2, *wanted.shape)
    assert residual(geometry.umeyama(points[0], wanted), points[0], wanted) / len(wanted) < 0.005 * np.ptp(wanted) ** 2
    with pytest.raises(DegenerateLandmarksError, match="68"):
        geometry.template_points(mean[:40], name)


def test_the_parts_of_the_mean_face_are_those_without_the_jaw_and_the_lips() -> None:
    mean = geometry.TEMPLATES["ibug68"]
    np.testing.assert_array_equal(geometry.TEMPLATES["ibug51"], mean[17:])
    np.testing.assert_array_equal(geometry.TEMPLATES["ibug33"], mean[[*range(17, 49), 54]])


@quick
@given(st.floats(0.1, 10), st.floats(0.1, 10))
def test_scaling_keeps_the_edges(one: float, other: float) -> None:
    edges = np.array([[-0.5, -0.5], [99.5, 49.5]])
    assert np.allclose(geometry.apply(geometry.scaling(one), edges), (edges + 0.5) * one - 0.5)
    both = geometry.compose(geometry.scaling(one), geometry.scaling(other))
    assert np.allclose(both, geometry.scaling(one * other))


def test_template_scales_by_the_half_pixel_rule() -> None:
    base = geometry.TEMPLATES["arcface5"]
    assert np.allclose(geometry.template("arcface5", 112), base)
    assert np.allclose(geometry.template("arcface5", 224), (base + 0.5) * 2 - 0.5)
    wide = geometry.template("arcface5", 224, margin=0.5)  # the square doubles, and so does the crop
    assert np.allclose(wide, base + 56)
    for size in (64, 256):  # the middle of the square stays in the middle
        plain, padded = (geometry.template("ffhq", size, margin=m) - (size - 1) / 2 for m in (0, 0.25))
        assert np.allclose(padded * 1.5, plain)


@pytest.mark.parametrize(("name", "size", "margin"), [("nose", 112, 0), ("ffhq", 0, 0), ("ffhq", 64, -0.5)])
def test_template_refuses(name: str, size: int, margin: float) -> None:
    with pytest.raises(ConfigError, match=r"expected|not known"):
        geometry.template(name, size, margin=margin)


# ------------------------------------------------------------------------------------------------- landmark sets


def test_five_points_of_68() -> None:
    p = np.arange(2 * 68 * 2, dtype=float).reshape(2, 68, 2)
    five = geometry.five_points(p)
    assert five.shape == (2, 5, 2)
    assert np.allclose(five[0], [p[0, 36:42].mean(0), p[0, 42:48].mean(0), p[0, 30], p[0, 48], p[0, 54]])
    assert np.array_equal(geometry.five_points(five), five)
    with pytest.raises(DegenerateLandmarksError, match="68"):
        geometry.five_points(np.zeros((67, 2)))


def test_ffhq_quad_by_hand_and_by_symmetry() -> None:
    level = np.array([[-1.0, 0], [1, 0], [0, 1], [-1, 2], [1, 2]])  # eyes 2 apart, mouth 2 below: side 2 * 4
    corners = np.array([[-4.0, -4], [-4, 4], [4, 4], [4, -4]]) + np.array([0, 0.2])
    assert np.allclose(geometry.ffhq_quad(level), corners)
    move = random_similarity(np.random.default_rng(10), 2)
    assert np.allclose(geometry.ffhq_quad(geometry.apply(move, level)), geometry.apply(move, corners))
    with pytest.raises(DegenerateLandmarksError, match=r"set 1 of \(2,\): eyes and mouth"):
        geometry.ffhq_quad(np.stack([level, np.zeros((5, 2))]))


def test_the_ffhq_template_fits_its_own_quad() -> None:
    quad = geometry.ffhq_quad(geometry.TEMPLATES["ffhq"])
    assert np.abs(quad - np.array([[0, 0], [0, 512], [512, 512], [512, 0]])).max() < 10


# ------------------------------------------------------------------------------------------------------ matrices


@quick
@given(seeds, st.sampled_from([2, 3]), st.booleans())
def test_inverse_and_composition(seed: int, dimensions: int, square: bool) -> None:
    rng = np.random.default_rng(seed)
    a, b = (random_similarity(rng, dimensions)[: None if square else dimensions] for _ in range(2))
    p = rng.normal(size=(4, 6, dimensions))
    assert geometry.invert(a).shape == a.shape
    assert np.allclose(geometry.apply(geometry.invert(a), geometry.apply(a, p)), p)
    assert np.allclose(geometry.apply(geometry.compose(a, b), p), geometry.apply(b, geometry.apply(a, p)))
    assert geometry.compose(a, b).shape == a.shape
    assert np.allclose(geometry.invert(geometry.invert(a)), a)


def test_matrices_broadcast_and_mix() -> None:
    rng = np.random.default_rng(11)
    many = np.stack([random_similarity(rng, 2) for _ in range(4)])
    p = rng.normal(size=(4, 5, 2))
    loop = np.stack([(m[:2, :2] @ q.T).T + m[:2, 2] for m, q in zip(many, p, strict=True)])
    assert np.allclose(geometry.apply(many, p), loop)
    assert geometry.compose(many, many[0, :2]).shape == (4, 2, 3)
    assert np.array_equal(geometry.compose(many), many)


@pytest.mark.parametrize("bad", [np.zeros((2, 2)) + 1, np.zeros((3, 2)), np.zeros(3)])
def test_what_is_no_matrix_of_the_plane(bad: Points) -> None:
    with pytest.raises(ValueError, match=r"matrix|points"):
        geometry.apply(bad, np.zeros((4, 2)))


def test_a_singular_matrix_has_no_inverse() -> None:
    with pytest.raises(DegenerateLandmarksError, match="no inverse"):
        geometry.invert(np.zeros((2, 3)))
    with pytest.raises(DegenerateLandmarksError, match="no inverse"):
        geometry.invert(np.full((2, 3), np.nan))


def test_similarity_params_are_clockwise_in_the_image() -> None:
    angle = np.radians(30)
    matrix = np.array([[2 * np.cos(angle), -2 * np.sin(angle), 5], [2 * np.sin(angle), 2 * np.cos(angle), 6]])
    scale, degrees, translation = geometry.similarity_params(matrix)
    assert np.isclose(scale, 2)
    assert np.isclose(degrees, 30)  # +x goes towards +y, which is down
    assert np.allclose(translation, [5, 6])


# ----------------------------------------------------------------------------------------------------- head pose

angles = st.floats(-180, 180)


@quick
@given(angles, st.floats(-89, 89), angles)
def test_euler_angles_and_rotations_are_inverses(yaw: float, pitch: float, roll: float) -> None:
    R = geometry.euler_to_rotation(yaw, pitch, roll)
    assert np.allclose(R @ R.T, np.eye(3))
    assert np.isclose(np.linalg.det(R), 1)
    back = geometry.rotation_to_euler(R)
    assert np.allclose(geometry.euler_to_rotation(*back), R, atol=1e-12)
    turns = (np.array(back) - [yaw, pitch, roll] + 180) % 360 - 180
    assert np.abs(turns).max() < 1e-6


def test_signs_of_the_angles() -> None:
    nose, crown = np.array([0.0, 0, -1]), np.array([0.0, -1, 0])
    right = geometry.euler_to_rotation(30, 0, 0) @ nose
    up = geometry.euler_to_rotation(0, 30, 0) @ nose
    tilted = geometry.euler_to_rotation(0, 0, 30) @ crown
    assert right[0] > 0.4  # towards the image's right
    assert up[1] < -0.4  # y points down
    assert tilted[0] > 0.4  # clockwise: the crown goes right


@quick
@given(seeds, st.floats(-80, 80), st.floats(-50, 50), st.floats(-170, 170), st.booleans())
def test_head_pose_of_a_turned_model(seed: int, yaw: float, pitch: float, roll: float, flat: bool) -> None:
    rng = np.random.default_rng(seed)
    model = rng.normal(size=(68, 3)) * [1, 1.2, 0.6]
    seen = model @ geometry.euler_to_rotation(yaw, pitch, roll).T * rng.uniform(1, 300) + rng.normal(size=3) * 500
    pose = geometry.head_pose(seen[:, :2] if flat else seen, model)
    assert np.allclose(pose, (yaw, pitch, roll), atol=1e-6)


def test_turning_the_picture_changes_roll_alone() -> None:
    model = geometry.mean_face68()
    seen = (model @ geometry.euler_to_rotation(40, -20, 5).T)[:, :2]
    seen = seen + np.random.default_rng(12).normal(size=seen.shape) * 0.02
    turn = geometry.euler_to_rotation(0, 0, 25)[:2, :2]
    before, after = (np.array(geometry.head_pose(p, model)) for p in (seen, seen @ turn.T))
    assert np.allclose(after - before, [0, 0, 25])


def test_a_batch_of_poses_is_a_loop_of_poses() -> None:
    model = geometry.mean_face68()
    batch = np.random.default_rng(13).normal(size=(3, 2, 68, 2)) * 0.05 + model[:, :2]
    together = np.stack(geometry.head_pose(batch, model))
    assert together.shape == (3, 3, 2)
    assert np.allclose(together[:, 1, 0], geometry.head_pose(batch[1, 0], model))
    assert np.abs(together).max() < 15


def test_poses_that_are_not_fixed_are_refused() -> None:
    model = geometry.mean_face68()
    seen = np.array(model[:, :2])
    with pytest.raises(DegenerateLandmarksError, match="model is flat"):
        geometry.head_pose(seen, model * [1, 1, 0])
    with pytest.raises(DegenerateLandmarksError, match="on a line"):
        geometry.head_pose(seen * [1, 0], model)
    with pytest.raises(DegenerateLandmarksError, match=r"set 1 of \(2,\): a coordinate is not finite"):
        geometry.head_pose(np.stack([seen, seen * np.nan]), model)
    with pytest.raises(DegenerateLandmarksError, match=r"got \(5, 2\) and \(68, 3\)"):
        geometry.head_pose(seen[:5], model)


def test_the_mean_face_looks_at_the_camera() -> None:
    face = geometry.mean_face68()
    eyes = geometry.five_points(face)
    assert np.isclose(np.linalg.norm(eyes[1] - eyes[0]), 1, atol=1e-3)
    assert face[36, 0] < face[45, 0]  # x to the image's right
    assert face[27, 1] < face[8, 1]  # y down
    assert face[30, 2] < face[[0, 16], 2].min()  # the nose is nearer than the ears
    with pytest.raises(ValueError, match="read-only"):
        face[0] = 0
