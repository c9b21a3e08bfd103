"""Images: exact positions at every scale, no aliasing, nothing outside of a mask, colours as asked for."""

from __future__ import annotations

from typing import Any

import cv2
import hypothesis.strategies as st
import numpy as np
import pytest
import scipy.interpolate
import scipy.ndimage
import scipy.spatial
import skimage.color
import skimage.data
import skimage.exposure
import skimage.transform
from hypothesis import given, settings
from numpy.typing import NDArray

from facepipe import geometry, image
from facepipe.errors import DegenerateLandmarksError
from facepipe.image import color, meshes

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

quick = settings(deadline=None, max_examples=25)
seeds = st.integers(0, 2**32 - 1)


def similarity(scale: float, degrees: float, source: tuple[float, float], crop: tuple[float, float]) -> Any:
    """(2, 3): the point `source` goes to the point `crop`."""
    angle = np.radians(degrees)
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    linear = np.array([[c, -s], [s, c]])
    return np.column_stack([linear, np.array(crop) - linear @ np.array(source)])


def ramp(height: int, width: int) -> Floats:
    """Channels x, y and x + y."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    return np.stack([x, y, x + y], axis=-1)


def places(matrix: Any, height: int, width: int) -> NDArray[np.float64]:
    """Where in the image each pixel of a crop comes from, (height, width, 2)."""
    v, u = np.mgrid[:height, :width]
    centres = np.stack([u, v], axis=-1).reshape(-1, 2)
    return geometry.apply(geometry.invert(matrix), centres).reshape(height, width, 2)


def smooth(seed: int, height: int, width: int, sigma: float = 4.0) -> Bytes:
    """A random picture without fine detail."""
    noise = np.random.default_rng(seed).normal(size=(height, width, 3)).astype(np.float32)
    blurred = np.asarray(cv2.GaussianBlur(noise, (0, 0), sigma))
    return np.asarray(np.clip(127 + 30 * blurred / blurred.std(), 0, 255), np.uint8)


def photograph() -> Bytes:
    astronaut: Any = skimage.data.astronaut
    return np.asarray(astronaut())


def wave(size: int, cycles: float) -> Floats:
    """A plane wave of `cycles` per pixel, 0 … 255."""
    y, x = np.mgrid[:size, :size]
    return np.asarray(127.5 + 127.5 * np.sin(2 * np.pi * cycles * (0.8 * x + 0.6 * y)), np.float32)


# ---------------------------------------------------------------------------------------------------------- warp


@pytest.mark.parametrize("scale", [4.0, 1.7, 1.0, 0.95, 0.8, 0.6, 0.5, 0.41, 0.3, 0.25, 0.17, 0.125, 0.09])
def test_ramps_stay_where_they_are_at_every_scale(scale: float) -> None:
    size = 61
    n = int(size / scale * 1.6) + 40
    picture = ramp(n, n + 7)
    matrix = similarity(scale, 17, (n / 2 + 0.37, n / 2 - 1.2), (30.2, 29.7))
    crop = image.warp(picture, matrix, (size, size))
    error = np.abs(crop[..., :2] - places(matrix, size, size)).max()
    assert error * min(scale, 1) < 0.02  # pixels of the crop; of the image when enlarging


@pytest.mark.parametrize(("interpolation", "limit"), [("linear", 0.02), ("cubic", 0.06), ("lanczos", 0.06)])
def test_interpolations_place_ramps(interpolation: Any, limit: float) -> None:
    matrix = similarity(1.3, -8, (50, 60), (20, 21))
    crop = image.warp(ramp(120, 130), matrix, (40, 50), interpolation=interpolation)
    assert np.abs(crop[..., :2] - places(matrix, 40, 50)).max() < limit


@pytest.mark.parametrize("scale", [0.5, 0.37, 0.25, 0.18, 0.125])
def test_detail_that_the_crop_cannot_show_is_gone_and_the_rest_is_not(scale: float) -> None:
    n = 900
    size = int(n * scale * 0.6)
    matrix = similarity(scale, 11, (n / 2, n / 2), (size / 2, size / 2))

    def passed(cycles_per_crop_pixel: float) -> float:
        crop = image.warp(wave(n, cycles_per_crop_pixel * scale), matrix, (size, size))
        return float(crop.std() / (127.5 / np.sqrt(2)))

    plain = cv2.warpAffine(wave(n, 0.75 * scale), matrix, (size, size))
    assert plain.std() / 90 > 0.6  # what OpenCV alone would let through
    assert passed(0.75) < 0.15
    assert passed(0.9) < 0.06
    assert passed(0.1) > 0.94
    assert passed(0.2) > 0.8


def test_checkerboard_shrinks_to_grey() -> None:
    y, x = np.mgrid[:640, :640]
    board = (((x + y) % 2) * 255).astype(np.uint8)
    for scale in (0.45, 0.3, 0.125):
        crop = image.warp(board, similarity(scale, 3, (320, 320), (32, 32)), (64, 64))
        assert np.abs(crop.astype(float) - 127.5).max() < 3


def test_shrinking_aliases_less_than_scikit_image() -> None:
    n, size, scale = 1024, 128, 0.125
    y, x = np.mgrid[:n, :n] - (n - 1) / 2
    plate = (127.5 + 127.5 * np.cos(np.pi * (x**2 + y**2) / (2 * n))).astype(np.float32)  # to 0.5 cycles a pixel
    ours = image.warp(plate, similarity(scale, 0, (511.5, 511.5), (63.5, 63.5)), (size, size))
    resize: Any = skimage.transform.resize
    theirs = resize(plate, (size, size), anti_aliasing=True, preserve_range=True)
    v, u = np.mgrid[:size, :size] - (size - 1) / 2
    beyond = np.hypot(u, v) / 128 / scale * 0.5 > 0.6  # crop pixels where the wave is finer than the crop can show
    assert ours[beyond].std() < theirs[beyond].std() + 0.1
    assert ours[beyond].std() < 9


def test_a_shrunk_photograph_is_the_area_mean() -> None:
    photo = photograph()
    crop = image.warp(photo, similarity(0.125, 0, (255.5, 255.5), (31.5, 31.5)), (64, 64), border="replicate")
    truth = photo.reshape(64, 8, 64, 8, 3).mean((1, 3))
    truth = scipy.ndimage.gaussian_filter(truth, (0.5, 0.5, 0), mode="nearest")
    assert np.abs(crop - truth).mean() < 2


@quick
@given(seeds, st.sampled_from(["constant", "replicate"]), st.floats(1.0, 3.0))
def test_only_the_needed_part_is_read_and_that_changes_nothing(seed: int, border: Any, scale: float) -> None:
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 256, (90, 110, 3), dtype=np.uint8)
    matrix = similarity(scale, rng.uniform(-180, 180), tuple(rng.uniform(-20, 120, 2)), (15, 20))
    mode = {"constant": cv2.BORDER_CONSTANT, "replicate": cv2.BORDER_REPLICATE}[border]
    whole = cv2.warpAffine(picture, matrix, (30, 40), borderMode=mode, borderValue=(9, 9, 9))
    ours = image.warp(picture, matrix, (40, 30), border=border, value=9)
    assert np.abs(ours.astype(int) - whole).max() <= 1


def test_reflection_reaches_far_inside() -> None:
    picture = smooth(0, 40, 60)
    matrix = np.array([[1.0, 0, 35], [0, 1, 30]])
    padded = np.pad(picture, ((30, 30), (35, 35), (0, 0)), mode="reflect")
    assert np.array_equal(image.warp(picture, matrix, (100, 130), border="reflect"), padded)


@pytest.mark.parametrize("shape", [(140, 150), (140, 150, 1), (140, 150, 2), (140, 150, 3), (140, 150, 4)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("scale", [1.0, 0.11])
def test_shape_and_type_are_kept(shape: tuple[int, ...], dtype: type, scale: float) -> None:
    picture: NDArray[Any] = np.full(shape, 77, dtype)
    crop = image.warp(picture, similarity(scale, 5, (75, 70), (3.5, 3)), (7, 8))
    assert crop.shape == (7, 8, *shape[2:])
    assert crop.dtype == dtype
    assert np.abs(crop - 77.0).max() < 1e-3


def test_a_crop_beyond_the_image_is_border() -> None:
    picture = smooth(1, 50, 50)
    far = np.array([[1.0, 0, 500], [0, 1, 0]])
    assert (image.warp(picture, far, (10, 10), value=33) == 33).all()
    away = np.array([[1.0, 0, -500], [0, 1, -20]])
    assert (image.warp(picture, away, (10, 10), border="replicate") == picture[20:30, 49][:, None]).all()


def test_labels_are_never_mixed() -> None:
    labels = (np.indices((200, 200)).sum(0) % 7 * 30).astype(np.uint8)
    crop = image.warp(labels, similarity(0.2, 9, (100, 100), (15, 15)), (31, 31), interpolation="nearest")
    assert set(np.unique(crop)) <= set(np.unique(labels))


@pytest.mark.parametrize(
    ("picture", "matrix", "size", "options", "message"),
    [
        (np.zeros((4, 4)), np.eye(3), (2, 2), {}, "expected an array of uint8 or float32, but got float64"),
        ([[1]], np.eye(3), (2, 2), {}, "but got list"),
        (np.zeros((4, 4, 5), np.uint8), np.eye(3), (2, 2), {}, r"got \(4, 4, 5\)"),
        (np.zeros((0, 4), np.uint8), np.eye(3), (2, 2), {}, r"got \(0, 4\)"),
        (np.zeros((4, 4), np.uint8), np.eye(2), (2, 2), {}, r"shape \(2, 3\) or \(3, 3\), but got \(2, 2\)"),
        (np.zeros((4, 4), np.uint8), np.zeros((2, 3)), (2, 2), {}, "has an inverse"),
        (np.zeros((4, 4), np.uint8), np.full((2, 3), np.nan), (2, 2), {}, "finite"),
        (np.zeros((4, 4), np.uint8), np.eye(3), (0, 2), {}, r"\(height, width\)"),
        (np.zeros((4, 4), np.uint8), np.eye(3), (2, 2), {"border": "wrap"}, "border: expected one of constant"),
        (np.zeros((4, 4), np.uint8), np.eye(3), (2, 2), {"interpolation": "area"}, "interpolation: expected one of"),
    ],
)
def test_warp_refuses(picture: Any, matrix: Any, size: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        image.warp(picture, matrix, size, **options)


# --------------------------------------------------------------------------------------------------------- paste


@pytest.mark.parametrize("scale", [3.0, 1.5, 1.0, 0.8, 0.5])
def test_warp_then_paste_gives_the_inside_back(scale: float) -> None:
    frame = smooth(2, 300, 400, sigma=max(8.0, 5 / scale))
    matrix = similarity(scale, 12, (200, 150), (64, 64))
    mask = image.soften(np.ones((128, 128), np.float32), erode=3, feather=6)
    crop = image.warp(frame, matrix, (128, 128), border="replicate")
    back = image.paste(frame, crop, matrix, mask)
    assert np.abs(back.astype(int) - frame).max() <= 2


@quick
@given(seeds, st.floats(0.2, 4.0), st.sampled_from([np.uint8, np.float32]))
def test_nothing_outside_of_the_mask_changes_by_a_bit(seed: int, scale: float, dtype: type) -> None:
    rng = np.random.default_rng(seed)
    frame: NDArray[Any] = rng.integers(0, 256, (120, 160, 3), dtype=np.uint8).astype(dtype)
    before = frame.copy()
    matrix = similarity(scale, rng.uniform(-180, 180), tuple(rng.uniform(-10, 170, 2)), (20, 20))
    mask = image.polygon_mask(rng.uniform(0, 40, (3, 2)), (40, 40))
    crop: NDArray[Any] = (255 - rng.integers(0, 100, (40, 40, 3), dtype=np.uint8)).astype(dtype)
    result = image.paste(frame, crop, matrix, mask)
    share = image.warp(mask, geometry.invert(matrix), (120, 160))
    # OpenCV rounds places to 1/32 pixel, of the whole frame here and of the part in `paste`: a pixel may differ.
    clear = cv2.dilate((share > 0).view(np.uint8), np.ones((3, 3), np.uint8)) == 0
    assert np.array_equal(result[clear], frame[clear])
    # And the share is 0 farther from the mask than interpolation and, when shrinking, the low-pass reach.
    v, u = np.mgrid[:120, :160]
    in_crop = geometry.apply(matrix, np.stack([u, v], axis=-1).reshape(-1, 2))
    covered = np.argwhere(mask > 0)[:, ::-1]
    if len(covered):
        distance, _ = scipy.spatial.cKDTree(covered).query(in_crop)
        assert (share.ravel()[distance > 1.5 + 3.5 * max(scale, 1)] == 0).all()
    assert np.array_equal(frame, before)
    again = image.paste_into(before, crop, matrix, mask)
    assert again is before
    assert np.array_equal(again, result)


def test_where_the_mask_is_one_the_crop_shows() -> None:
    frame, crop = np.zeros((60, 60, 3), np.uint8), np.full((20, 20, 3), 200, np.uint8)
    matrix = np.array([[1.0, 0, -10], [0, 1, -15]])
    mask = np.zeros((20, 20), np.float32)
    mask[5:15, 5:15] = 1
    expected = frame.copy()
    expected[20:30, 15:25] = 200
    assert np.array_equal(image.paste(frame, crop, matrix, mask), expected)
    assert np.array_equal(image.paste(frame, crop, matrix, mask * 0), frame)
    assert np.array_equal(image.paste(frame, crop, matrix - [[0, 0, 200], [0, 0, 0]], mask), frame)


def test_pasting_a_larger_crop_does_not_alias() -> None:
    frame = np.full((100, 100), 50, np.uint8)
    y, x = np.mgrid[:400, :400]
    board = (((x + y) % 2) * 255).astype(np.uint8)
    back = image.paste(frame, board, similarity(8, 0, (50, 50), (200, 200)), np.ones((400, 400), np.float32))
    assert np.abs(back[30:70, 30:70].astype(float) - 127.5).max() < 3


def test_grey_frames_and_views_can_be_pasted_into() -> None:
    frame = np.zeros((50, 70), np.float32)
    view = frame[::-1, ::-1]
    image.paste_into(view, np.ones((10, 10), np.float32), np.eye(3), np.ones((10, 10), np.float32))
    assert (frame[40:, 60:] == 1).all()
    assert frame.sum() == 100


@pytest.mark.parametrize(
    ("crop", "mask", "message"),
    [
        (np.zeros((8, 8, 3), np.float32), np.zeros((8, 8), np.float32), "crop: expected the frame's uint8"),
        (np.zeros((8, 8), np.uint8), np.zeros((8, 8), np.float32), "channels"),
        (np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9), np.float32), r"shape \(8, 8\), but got \(8, 9\)"),
        (np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8), "divide by 255"),
    ],
)
def test_paste_refuses(crop: Any, mask: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        image.paste(np.zeros((20, 20, 3), np.uint8), crop, np.eye(3), mask)


# --------------------------------------------------------------------------------------------------------- masks


@quick
@given(seeds)
def test_a_polygon_covers_its_area(seed: int) -> None:
    angles = np.sort(np.random.default_rng(seed).uniform(0, 2 * np.pi, 12))
    p = np.column_stack([50 + 40 * np.cos(angles), 45 + 30 * np.sin(angles)])
    x, y = p.T
    area = abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2
    perimeter = np.linalg.norm(p - np.roll(p, 1, axis=0), axis=1).sum()
    mask = image.polygon_mask(p, (90, 100))
    assert mask.dtype == np.float32
    assert 0 <= mask.min() <= mask.max() <= 1
    assert abs(mask.sum() - area) < 0.02 * perimeter + 0.2
    shuffled = np.random.default_rng(seed).permutation(p)
    assert np.abs(image.hull_mask(shuffled, (90, 100)) - mask).max() < 0.3


def test_masks_are_placed_by_pixel_centres() -> None:
    mask = image.polygon_mask([(9.5, 4.5), (19.5, 4.5), (19.5, 14.5), (9.5, 14.5)], (20, 30))
    expected = np.zeros((20, 30), np.float32)
    expected[5:15, 10:20] = 1
    assert np.array_equal(mask, expected)
    shifted = image.polygon_mask([(9.75, 4.25), (19.75, 4.25), (19.75, 14.25), (9.75, 14.25)], (20, 30))
    assert np.allclose(shifted[4, 9:21], 0.25 * np.array([0, 0.75, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0.25]))
    hole = image.polygon_mask([(0, 0), (18, 0), (18, 18), (9, 2), (0, 18)], (20, 30))
    assert hole[15, 9] == 0  # not convex
    assert hole[8, 2] == 1
    assert image.polygon_mask([(-50, -50), (90, -50), (90, 90), (-50, 90)], (20, 30)).min() == 1


@pytest.mark.parametrize("points", [[(0, 0), (1, 1)], [(0, 0), (1, 1), (np.nan, 3)], [(0, 0, 0)] * 4])
def test_what_is_no_polygon(points: Any) -> None:
    for function in (image.polygon_mask, image.hull_mask):
        with pytest.raises(DegenerateLandmarksError, match="three or more finite points"):
            function(points, (10, 10))


@quick
@given(seeds, st.floats(0, 8), st.floats(0, 15))
def test_softening_stays_inside_and_follows_the_distance(seed: int, erode: float, feather: float) -> None:
    mask = image.hull_mask(np.random.default_rng(seed).uniform(-10, 90, (8, 2)), (80, 80))
    soft = image.soften(mask, erode=erode, feather=feather)
    depth = scipy.ndimage.distance_transform_edt(np.pad(mask >= 0.5, 1))[1:-1, 1:-1] - 0.5
    assert soft.dtype == np.float32
    assert (soft[mask < 0.5] == 0).all()
    assert (soft[depth <= erode - 1e-3] == 0).all()
    assert (soft[depth >= erode + feather + 1e-3] == 1).all()
    order = np.argsort(depth.ravel())
    assert (np.diff(soft.ravel()[order]) >= -1e-4).all()


def test_softening_counts_the_edge_of_the_picture_as_border() -> None:
    soft = image.soften(np.ones((40, 40), bool), feather=10)
    assert soft[0].max() < 0.02
    assert soft[20, 20] == 1
    assert np.array_equal(soft, soft[::-1])
    with pytest.raises(ValueError, match="0 or more"):
        image.soften(np.ones((4, 4), np.float32), erode=-1)


# -------------------------------------------------------------------------------------------------------- colour


def two_pictures(seed: int) -> tuple[Bytes, Bytes]:
    rng = np.random.default_rng(seed)
    mix = np.array([[1, 0.3, 0], [0.2, 0.8, 0.1], [0, 0.4, 0.9]])
    a = 120 + 18 * rng.normal(size=(60, 70, 3)) @ mix
    b = np.array([150, 110, 90]) + 12 * rng.normal(size=(50, 40, 3)) @ mix.T
    return np.clip(a, 0, 255).astype(np.uint8), np.clip(b, 0, 255).astype(np.uint8)


def test_lab_is_scikit_images() -> None:
    picture, _ = two_pictures(0)
    stats = image.color_stats(picture)
    theirs = skimage.color.rgb2lab(picture).reshape(-1, 3)
    assert np.allclose(stats.mean, theirs.mean(0), atol=0.2)
    assert np.allclose(stats.covariance, np.cov(theirs.T, ddof=0), rtol=0.02, atol=0.2)


@pytest.mark.parametrize("space", ["lab", "linear", "rgb"])
@pytest.mark.parametrize("method", ["reinhard", "covariance"])
def test_the_result_has_the_statistics_of_the_reference(space: Any, method: Any) -> None:
    picture, reference = two_pictures(1)
    got = image.color_stats(image.match_color(picture, reference, method=method, space=space), space=space)
    wanted = image.color_stats(reference, space=space)
    assert np.abs(got.mean - wanted.mean).max() < 1
    assert np.allclose(np.diag(got.covariance), np.diag(wanted.covariance), rtol=0.08, atol=0.5)
    if method == "covariance":
        assert np.abs(got.covariance - wanted.covariance).max() < 0.08 * wanted.covariance.max()


def test_only_pixels_in_the_masks_count() -> None:
    picture, reference = two_pictures(2)
    dirty, dirty_reference = picture.copy(), reference.copy()
    dirty[:20], dirty_reference[:, 30:] = 255, 0
    mask, reference_mask = np.ones((60, 70), np.float32), np.ones((50, 40), bool)
    mask[:20], reference_mask[:, 30:] = 0, False
    for method in ("reinhard", "covariance", "histogram"):
        ours = image.match_color(
            dirty, dirty_reference, method=method, mask=mask, reference_mask=reference_mask.astype(np.float32)
        )
        clean = image.match_color(picture[20:], reference[:, :30], method=method)
        assert np.abs(ours[20:].astype(int) - clean).max() <= 1


def test_the_monge_kantorovich_map_is_symmetric_and_exact() -> None:
    rng = np.random.default_rng(3)
    u, v = (image.ColorStats(rng.normal(size=3) * 50, m @ m.T * 40) for m in rng.normal(size=(2, 3, 3)))
    affine = image.transfer_map(u, v, method="covariance", max_gain=1e6)
    A = affine[:, :3]
    flat = 0.25 * np.eye(3)
    assert np.allclose(A, A.T)
    assert np.linalg.eigvalsh(A).min() > 0
    assert np.allclose(A @ (u.covariance + flat) @ A.T, v.covariance + flat)
    assert np.allclose(A @ u.mean + affine[:, 3], v.mean)


@pytest.mark.parametrize("method", ["reinhard", "covariance", "histogram", "sliced"])
@pytest.mark.parametrize("space", ["lab", "linear", "rgb"])
def test_flat_and_grey_regions_give_no_wild_colours(method: Any, space: Any) -> None:
    flat = np.full((20, 20, 3), 90, np.uint8)
    grey = np.repeat(np.random.default_rng(4).integers(60, 200, (20, 20, 1), dtype=np.uint8), 3, axis=2)
    picture, _ = two_pictures(4)
    for a, b in [(flat, flat), (flat, picture), (picture, flat), (grey, picture), (picture, grey), (grey, flat)]:
        result = image.match_color(a, b, method=method, space=space)
        assert result.dtype == np.uint8
        middle = result.reshape(-1, 3).mean(0) - b.reshape(-1, 3).mean(0)
        assert np.abs(middle).max() < 12
    assert np.abs(image.match_color(flat, flat, method=method, space=space).astype(int) - 90).max() <= 1
    gains = np.linalg.eigvalsh(
        image.transfer_map(image.color_stats(flat), image.color_stats(picture), method="covariance", max_gain=2)[:, :3]
    )
    assert 0.5 - 1e-9 <= gains.min() <= gains.max() <= 2 + 1e-9


def test_histogram_matching_is_scikit_images() -> None:
    picture, reference = two_pictures(5)
    ours = image.match_color(picture, reference, method="histogram", space="rgb")
    theirs = skimage.exposure.match_histograms(picture, reference, channel_axis=-1)
    assert np.abs(ours.astype(int) - theirs.astype(int)).mean() < 1


def test_identity_maps_and_types() -> None:
    picture, reference = two_pictures(6)
    assert np.array_equal(image.match_color(picture, reference, method="none"), picture)
    stats = image.color_stats(picture)
    same = image.apply_color(picture, image.transfer_map(stats, stats))
    assert np.abs(same.astype(int) - picture).max() <= 1
    floats = image.match_color(picture.astype(np.float32), reference)
    assert floats.dtype == np.float32
    assert 0 <= floats.min() <= floats.max() <= 255
    assert np.abs(floats - image.match_color(picture, reference)).max() <= 0.51
    doubled = image.apply_color(picture, np.eye(3, 4) * 2, space="rgb")
    assert np.array_equal(doubled, np.minimum(picture.astype(int) * 2, 255))


METHODS: tuple[Any, ...] = ("reinhard", "covariance", "histogram", "sliced", "none")
SPACES: tuple[Any, ...] = ("lab", "linear", "rgb")


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("method", METHODS)
def test_equal_colours_stay_to_the_bit(method: Any, space: Any) -> None:
    picture, reference = two_pictures(8)
    assert np.array_equal(image.match_color(picture, picture, method=method, space=space), picture)
    same = image.color_map(picture, picture, method=method, space=space)
    other = image.color_map(picture, reference, method=method, space=space)
    assert np.array_equal(image.apply_color_map(picture, same.mixed(same, 0.3)), picture)
    whole = image.apply_color_map(picture, same.mixed(other, 1.0))
    assert np.abs(whole.astype(int) - image.apply_color_map(picture, other)).max() <= 1


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("method", METHODS[:-1])
def test_mixed_maps_are_between(method: Any, space: Any) -> None:
    picture, reference = (smooth(s, 60, 60).astype(np.float32) * g + 60 for s, g in ((1, 0.5), (2, 0.3)))
    maps = [image.color_map(picture, one, method=method, space=space) for one in (picture, reference)]
    ends = [color._to_space(image.apply_color_map(picture, one), space) for one in maps]
    middle = color._to_space(image.apply_color_map(picture, maps[0].mixed(maps[1], 0.25)), space)
    inside = (image.apply_color_map(picture, maps[1]) > 1).all(-1) & (
        image.apply_color_map(picture, maps[1]) < 254
    ).all(-1)
    assert np.abs(middle - (0.75 * ends[0] + 0.25 * ends[1]))[inside].max() < 0.5  # OpenCV's Lab, there and back
    with pytest.raises(ValueError, match="same space and method"):
        maps[0].mixed(
            image.color_map(picture, reference, method=method, space="rgb" if space == "lab" else "lab"), 0.5
        )


def test_linear_light_is_scikit_images() -> None:
    grey = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    luminance = skimage.color.rgb2xyz(grey)[..., 1] * 255
    for picture in (grey, grey.astype(np.float32)):
        light = color._to_space(picture, "linear")
        assert np.abs(light[..., 0] - luminance).max() < 0.01
        assert np.abs(color._from_space(light, "linear", np.dtype(np.float32)) - grey).max() < 0.01
    assert np.array_equal(color._from_space(color._to_space(grey, "linear"), "linear", np.dtype(np.uint8)), grey)


@quick
@given(seeds)
def test_sliced_transport_moves_one_cloud_onto_another(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(700, 3)) @ rng.normal(size=(3, 3)) * 10
    target = np.exp(rng.normal(size=(700, 3)) / 2) @ rng.normal(size=(3, 3)) * 10 + rng.normal(size=3) * 50
    moved = image.sliced_transport(points, target, rounds=20)
    directions = rng.normal(size=(3, 30))
    directions /= np.linalg.norm(directions, axis=0)
    gaps = [
        np.abs(np.sort(a @ directions, axis=0) - np.sort(target @ directions, axis=0)).mean() for a in (points, moved)
    ]
    assert gaps[1] < 0.1 * gaps[0] + 0.1
    assert np.array_equal(moved, image.sliced_transport(points, target[::-1], rounds=20))  # no randomness, no order
    assert np.allclose(image.sliced_transport(points, points), points)
    assert np.array_equal(image.sliced_transport(points, target, rounds=0), points)


@quick
@given(seeds)
def test_sliced_transport_of_gaussians_is_the_covariances_map(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points, target = (
        rng.normal(size=(4000, 3)) * rng.uniform(3, 9, 3) @ np.linalg.qr(rng.normal(size=(3, 3)))[0]
        + rng.normal(size=3)
        for _ in range(2)
    )
    stats = [image.ColorStats(p.mean(0), np.cov(p.T, ddof=0)) for p in (points, target)]
    affine = image.transfer_map(stats[0], stats[1], method="covariance", max_gain=1e3)
    linear = points @ affine[:, :3].T + affine[:, 3]
    moved = image.sliced_transport(points, target, rounds=20)
    way = np.linalg.norm(linear - points, axis=1).mean()
    assert np.linalg.norm(moved - linear, axis=1).mean() < 0.5 * way + 0.5  # a transport, but not quite the shortest
    assert np.abs(np.cov(moved.T) - np.cov(target.T)).max() < 0.05 * np.cov(target.T).max()


def test_the_sliced_map_of_gaussians_is_the_covariances_and_of_others_nearer() -> None:
    picture, reference = two_pictures(9)
    ours, linear = (image.match_color(picture, reference, method=m).astype(int) for m in ("sliced", "covariance"))
    assert np.abs(ours - linear).mean() < 1.5
    bent = (255 * (picture / 255.0) ** 2.5).astype(np.uint8)

    def gap(method: Any) -> float:
        got, want = (
            color._to_space(p, "lab").reshape(-1, 3) for p in (image.match_color(picture, bent, method=method), bent)
        )
        return float(np.abs(np.sort(got, axis=0) - np.sort(want, axis=0)).mean())

    assert gap("sliced") < 0.75 * gap("covariance")


@pytest.mark.parametrize(("points", "target"), [((5, 3), (4, 3)), ((5, 2), (5, 2)), ((0, 3), (0, 3)), ((3,), (3,))])
def test_sliced_transport_refuses(points: Any, target: Any) -> None:
    with pytest.raises(ValueError, match=r"two \(N, 3\) arrays"):
        image.sliced_transport(np.zeros(points), np.zeros(target))


def test_colour_refuses() -> None:
    picture, reference = two_pictures(7)
    with pytest.raises(ValueError, match="method: expected one of reinhard"):
        image.match_color(picture, reference, method="best")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="space: expected one of lab, linear, rgb"):
        image.color_stats(picture, space="hsv")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one pixel"):
        image.color_stats(picture, np.zeros((60, 70), np.float32))
    with pytest.raises(ValueError, match="expected RGB"):
        image.color_stats(picture[..., 0])
    with pytest.raises(ValueError, match=r"expected shape \(3, 4\)"):
        image.apply_color(picture, np.eye(3))
    with pytest.raises(ValueError, match="max_gain"):
        image.match_color(picture, reference, max_gain=0.5)


# -------------------------------------------------------------------------------------------------------- blends


@quick
@given(seeds, st.sampled_from([np.uint8, np.float32]), st.sampled_from([(61, 83, 3), (60, 80), (60, 81, 1)]))
def test_blends_keep_every_bit_where_the_mask_is_zero(seed: int, dtype: type, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(seed)
    fg: NDArray[Any] = rng.integers(0, 256, shape, dtype=np.uint8).astype(dtype)
    bg: NDArray[Any] = rng.integers(0, 256, shape, dtype=np.uint8).astype(dtype)
    mask = image.soften(image.hull_mask(rng.uniform(0, 80, (6, 2)), (shape[0], shape[1])), feather=5)
    for result in (blend(fg, bg, mask) for blend in (image.blend_feather, image.blend_multiband, image.blend_poisson)):
        assert result.shape == bg.shape
        assert result.dtype == dtype
        assert np.array_equal(result[mask == 0], bg[mask == 0])
    feathered = image.blend_feather(fg, bg, mask).astype(float)
    share = mask.reshape(*mask.shape, *[1] * (len(shape) - 2))
    assert np.abs(feathered - (bg + share * (fg.astype(float) - bg))).max() <= (0.51 if dtype == np.uint8 else 1e-3)


def test_blends_of_equal_pictures_and_full_masks() -> None:
    a, b = smooth(8, 64, 96), smooth(9, 64, 96)
    ones = np.ones((64, 96), np.float32)
    for blend in (image.blend_feather, image.blend_multiband, image.blend_poisson):
        assert np.array_equal(blend(a, a, image.soften(ones, feather=8)), a)
        assert np.array_equal(blend(a, b, ones), a)
        assert np.array_equal(blend(a, b, ones * 0), b)
    soft = image.soften(ones, feather=20)
    inner = soft >= 0.25
    single = image.blend_multiband(a, b, soft, levels=0)
    assert np.abs(single[inner].astype(int) - image.blend_feather(a, b, soft)[inner]).max() <= 1


def test_multiband_spreads_shading_wider_than_detail() -> None:
    bg, fg = np.full((128, 128), 100, np.float32), np.full((128, 128), 160, np.float32)
    mask = image.soften(image.polygon_mask([(30, 30), (97, 30), (97, 97), (30, 97)], (128, 128)), feather=3)
    shading = (image.blend_multiband(fg, bg, mask)[64] - 100) / 60
    assert 0.5 < shading[36] < 0.95  # 6 pixels inside, where the mask is 1 already
    assert shading[64] > 0.95
    y, x = np.mgrid[:128, :128]
    fine = (100 + 20.0 * ((x + y) % 2)).astype(np.float32)
    detail = image.blend_multiband(fine, bg, mask)
    contrast = np.abs(np.diff(detail[64]))
    assert contrast[36:92].min() > 19  # detail is whole at once


def dense_membrane(fg: NDArray[Any], bg: NDArray[Any], inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Pérez et al. 2003, eq. (7) with (11), as written there and solved as a dense system; (H, W) pictures."""
    places = [tuple(p) for p in np.argwhere(inside)]
    number = {place: i for i, place in enumerate(places)}
    system, right = np.zeros((len(places), len(places))), np.zeros(len(places))
    for i, (y, x) in enumerate(places):
        for q in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            if not (0 <= q[0] < fg.shape[0] and 0 <= q[1] < fg.shape[1]):
                continue
            system[i, i] += 1
            right[i] += float(fg[y, x]) - float(fg[q])
            if q in number:
                system[i, number[q]] -= 1
            else:
                right[i] += float(bg[q])
    result = bg.astype(np.float64)
    result[inside] = np.linalg.solve(system, right)
    return result


@quick
@given(seeds, st.integers(1, 14), st.integers(1, 14), st.floats(0.02, 0.98))
def test_poisson_is_the_dense_solution(seed: int, height: int, width: int, share: float) -> None:
    """Masks of any form: scattered, of one pixel, at the border, of several pieces."""
    rng = np.random.default_rng(seed)
    fg, bg = rng.uniform(0, 255, (2, height, width)).astype(np.float32)
    inside = np.asarray(cv2.blur(rng.uniform(size=(height, width)), (3, 3)) < share)
    mask = inside.astype(np.float32)
    ours = image.blend_poisson(fg, bg, mask, tolerance=1e-3)
    if inside.all():
        assert np.allclose(ours, fg, atol=1e-3)  # nothing to meet
    else:
        assert np.abs(ours - dense_membrane(fg, bg, inside)).max() < 0.05
    assert np.array_equal(ours[~inside], bg[~inside])


@pytest.mark.parametrize("shape", [(240, 200, 3), (131, 187), (100, 100, 1)])
def test_poisson_solves_its_equation(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(3)
    fg, bg = rng.uniform(0, 255, (2, *shape)).astype(np.float32)
    inside = image.hull_mask(rng.uniform(0, shape[:2], (9, 2))[:, ::-1], (shape[0], shape[1])) > 0
    inside[:5], inside[:, -5:] = False, False
    inside[40:60, 40:44] = False  # a hole
    result = image.blend_poisson(fg, bg, inside.astype(np.float32), tolerance=1e-3)
    for picture in (result, fg):
        assert np.isfinite(picture).all()
    residual = np.abs(sum(np.roll(result - fg, s, a) for s in (1, -1) for a in (0, 1)) - 4 * (result - fg))
    core = scipy.ndimage.binary_erosion(inside)
    assert residual[core].max() < 0.02
    near = inside & ~core  # there the neighbours outside are bg
    shifted = np.where(inside.reshape(*inside.shape, *[1] * (len(shape) - 2)), result - fg, bg - fg)
    residual = np.abs(sum(np.roll(shifted, s, a) for s in (1, -1) for a in (0, 1)) - 4 * shifted)
    assert residual[near].max() < 0.02


def test_poisson_is_opencvs_seamless_clone() -> None:
    """Which shrinks the mask, to where its guidance changes from one picture to the other; by about two pixels."""
    fg, bg = (smooth(seed, 120, 140, 8) // 2 + np.uint8(50 + 20 * seed) for seed in (1, 2))
    mask = np.zeros((120, 140), np.uint8)
    mask[30:90, 40:101] = 255
    theirs = cv2.seamlessClone(fg, bg, mask.copy(), (70, 60), cv2.NORMAL_CLONE).astype(int)
    shrunk = np.zeros((120, 140), np.float32)
    shrunk[32:88, 42:99] = 1
    ours = image.blend_poisson(fg, bg, shrunk).astype(int)
    core = (slice(35, 85), slice(45, 96))
    assert np.abs(ours - theirs)[core].mean() < 1.2
    assert np.abs(ours - fg)[core].mean() > 10


def test_poisson_undoes_an_offset_and_keeps_detail() -> None:
    bg = photograph()[100:300, 150:350].astype(np.float32)
    mask = image.soften(image.polygon_mask([(30, 30), (170, 40), (160, 160), (40, 170)], (200, 200)), feather=10)
    shifted = (bg + np.array([40, -20, 10])).astype(np.float32)
    assert np.abs(image.blend_poisson(shifted, bg, mask) - bg).max() < 0.2


def test_a_limit_keeps_what_is_beside_the_face_from_darkening_it() -> None:
    fg, bg = np.full((90, 90), 150, np.float32), np.full((90, 90), 140, np.float32)
    bg[:, 55:] = 10  # hair
    mask = np.zeros((90, 90), np.float32)
    mask[20:70, 20:56] = 1
    free, held = (image.poisson_shift(fg, bg, mask, limit=limit) for limit in (None, 20.0))
    assert free[45, 50] < -60
    assert -31 < held[45, 50] < -10
    assert np.abs(held[20:70, 20] + 10).max() < 2  # followed where it may be
    assert (held[mask == 0] == 0).all()


def test_blends_refuse() -> None:
    a = np.zeros((8, 8, 3), np.uint8)
    mask = np.zeros((8, 8), np.float32)
    with pytest.raises(ValueError, match="expected to be alike"):
        image.blend_feather(a, a[:4], mask)
    with pytest.raises(ValueError, match="levels"):
        image.blend_multiband(a, a, mask, levels=-1)
    with pytest.raises(ValueError, match="tolerance > 0"):
        image.blend_poisson(a, a, mask, tolerance=0)
    with pytest.raises(ValueError, match="limit >= 0"):
        image.poisson_shift(a, a, mask, limit=-1)


# ------------------------------------------------------------------------------------- piecewise and smooth maps


def grid_mesh(n: int, side: float) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    p = np.stack(np.meshgrid(*[np.linspace(0, side, n)] * 2), -1).reshape(-1, 2)
    return p, image.delaunay(p)


@quick
@given(seeds)
def test_an_affine_mesh_is_an_affine_warp_without_cracks(seed: int) -> None:
    rng = np.random.default_rng(seed)
    src, triangles = grid_mesh(9, 99)
    inner = ((src > 0) & (src < 99)).all(1)
    src[inner] += rng.uniform(-3, 3, (int(inner.sum()), 2))
    linear = np.array([[0.9, 0.2], [-0.15, 1.1]]) + rng.uniform(-0.1, 0.1, (2, 2))
    matrix = np.column_stack([linear, rng.uniform(0, 15, 2)])
    dst = geometry.apply(matrix, src)
    moved, coverage = image.piecewise_warp(ramp(100, 100), src, dst, triangles, (130, 140))
    place = places(matrix, 130, 140)
    inside = ((place >= 0) & (place <= 99)).all(-1)
    assert coverage[inside].all()  # no pixel between two triangles is left out
    assert not coverage[((place < -0.01) | (place > 99.01)).any(-1)].any()
    assert np.abs(moved[coverage, :2] - np.clip(place[coverage], 0, 99)).max() < 0.03
    assert (moved[~coverage] == 0).all()


def test_each_triangle_shows_its_own_part() -> None:
    rng = np.random.default_rng(10)
    src, triangles = grid_mesh(6, 80)
    dst = src + rng.uniform(-5, 5, src.shape)
    picture = smooth(10, 81, 81).astype(np.float32)
    ours, coverage = image.piecewise_warp(picture, src, dst, triangles, (81, 81))
    for a, b, c in triangles:
        corners = np.stack([dst[a], dst[b], dst[c]])
        middle = corners.mean(0)
        x, y = np.rint(middle).astype(int)
        weights = np.linalg.solve(np.vstack([corners.T, np.ones(3)]), [x, y, 1])
        if weights.min() < 0.05 or not (0 <= x < 81 and 0 <= y < 81):
            continue
        sx, sy = weights @ src[[a, b, c]]
        expected = [scipy.ndimage.map_coordinates(picture[..., k], [[sy], [sx]], order=1)[0] for k in range(3)]
        assert coverage[y, x]
        assert np.abs(ours[y, x] - expected).max() < 0.1


def test_the_nearer_triangle_wins_and_the_far_side_is_left_out() -> None:
    p = np.array([[0, 0], [20, 0], [0, 20], [0, 0], [20, 0], [0, 20.0]])
    picture = np.zeros((21, 60), np.uint8)
    src = p.copy()
    src[3:, 0] += 30
    picture[:, :25], picture[:, 25:] = 100, 200
    triangles = np.array([[0, 1, 2], [3, 4, 5]])
    for depth, value in [([0, 0, 0, 1, 1, 1], 100), ([1, 1, 1, 0, 0, 0], 200), (None, 200)]:
        moved, coverage = image.piecewise_warp(picture, src, p, triangles, (21, 21), depth=depth)
        assert set(np.unique(moved[coverage])) == {value}
    turned, coverage = image.piecewise_warp(picture, src, p * [-1, 1] + [20, 0], triangles, (21, 21))
    assert not coverage.any()
    assert not turned.any()
    nothing, coverage = image.piecewise_warp(picture, src, p, np.zeros((0, 3), int), (5, 6))
    assert nothing.shape == coverage.shape == (5, 6)


def test_triangles_beyond_the_picture_are_cut() -> None:
    p = np.array([[-500.0, -400], [700, -300], [100, 900]])
    moved, coverage = image.piecewise_warp(ramp(50, 50), p, p, [[0, 1, 2]], (50, 50))
    assert coverage.all()
    assert np.abs(moved - ramp(50, 50)).max() < 0.01


@pytest.mark.parametrize(
    ("src", "dst", "triangles", "depth", "message"),
    [
        (np.zeros((3, 2)), np.zeros((4, 2)), [[0, 1, 2]], None, r"got \(3, 2\) and \(4, 2\)"),
        (np.full((3, 2), np.nan), np.zeros((3, 2)), [[0, 1, 2]], None, "finite"),
        (np.zeros((3, 2)), np.zeros((3, 2)), [[0, 1, 3]], None, "indices of 3 points"),
        (np.zeros((3, 2)), np.zeros((3, 2)), [[0, 1, 2]], [1, 2], r"depth: expected shape \(3,\)"),
    ],
)
def test_piecewise_warp_refuses(src: Any, dst: Any, triangles: Any, depth: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        image.piecewise_warp(ramp(8, 8), src, dst, triangles, (8, 8), depth=depth)


def test_delaunay_covers_the_hull_and_refuses_lines() -> None:
    p = np.random.default_rng(11).uniform(0, 100, (40, 2))
    triangles = image.delaunay(p)
    assert triangles.dtype == np.int32
    areas = meshes._doubled_area(p[triangles])
    assert (np.sign(areas) == np.sign(areas[0])).all()
    hull = cv2.contourArea(cv2.convexHull(p.astype(np.float32)))
    assert np.isclose(np.abs(areas).sum() / 2, hull)
    with pytest.raises(DegenerateLandmarksError, match="cannot be triangulated"):
        image.delaunay(np.arange(10).reshape(5, 2))


def test_smooth_map_goes_through_its_points_as_scipys_spline_does() -> None:
    rng = np.random.default_rng(12)
    p = np.stack(np.meshgrid(range(10, 120, 20), range(10, 120, 20)), -1).reshape(-1, 2) + rng.integers(-5, 6, (36, 2))
    move = rng.normal(size=p.shape) * 3
    v, u = np.mgrid[:120, :130]
    centres = np.stack([u, v], axis=-1)
    spline = scipy.interpolate.RBFInterpolator(p.astype(float), move, kernel="thin_plate_spline")
    theirs = centres + spline(centres.reshape(-1, 2).astype(float)).reshape(120, 130, 2)
    for grid, limit in [(1, 1e-3), (4, 0.2), (8, 0.7)]:
        dense = image.smooth_map(p, move, (120, 130), grid=grid)
        assert dense.shape == (120, 130, 2)
        assert dense.dtype == np.float32
        assert np.abs(dense - theirs).max() < limit
        assert np.abs(dense[p[:, 1], p[:, 0]] - (p + move)).max() < limit


def test_smooth_map_is_exact_for_affine_moves_and_smooths() -> None:
    rng = np.random.default_rng(13)
    p = rng.uniform(0, 60, (12, 2))
    matrix = np.array([[1.1, 0.1, 3], [-0.2, 0.9, -4]])
    dense = image.smooth_map(p, geometry.apply(matrix, p) - p, (50, 70))
    v, u = np.mgrid[:50, :70]
    expected = geometry.apply(matrix, np.stack([u, v], -1).reshape(-1, 2)).reshape(50, 70, 2)
    assert np.abs(dense - expected).max() < 1e-3
    noise = rng.normal(size=p.shape)
    rough, calm = (image.smooth_map(p, noise, (60, 60), smoothing=s) for s in (0.0, 100.0))
    bend = [float(np.abs(np.diff(m, 2, axis=0)).mean()) for m in (rough, calm)]
    assert bend[1] < bend[0] / 2


@pytest.mark.parametrize(
    "points", [[(0, 0), (1, 1), (2, 2), (3, 3)], [(0, 0), (0, 0), (1, 0), (0, 1)], [(0, 0), (1, 1)]]
)
def test_smooth_map_refuses(points: Any) -> None:
    with pytest.raises(DegenerateLandmarksError, match="points"):
        image.smooth_map(points, np.zeros((len(points), 2)), (10, 10))


# ------------------------------------------------------------------------------------------------------- measure


def test_sharpness() -> None:
    photo = photograph()[100:300, 150:350]
    values = [image.sharpness(np.asarray(cv2.GaussianBlur(photo, (0, 0), s))) for s in (0.5, 1, 2, 4)]
    assert values == sorted(values, reverse=True)
    assert image.sharpness(np.full((20, 20, 3), 90, np.uint8)) == 0
    grey = skimage.color.rgb2gray(photo) * 255
    rows = scipy.ndimage.laplace(grey, mode="mirror")
    luma = np.rint(photo @ [0.299, 0.587, 0.114])
    assert np.isclose(image.sharpness(photo), scipy.ndimage.laplace(luma, mode="mirror").std(), rtol=0.01)
    assert np.isclose(image.sharpness(photo), rows.std(), rtol=0.15)
    half = np.zeros((200, 200), np.float32)
    half[:, :100] = 1
    flat = photo.copy()
    flat[:, 100:] = 0
    assert np.isclose(image.sharpness(flat, half[:, ::-1] * (np.arange(200) > 102)), 0)


@pytest.mark.parametrize("sigma", [0.0, 1.0, 3.0, 8.0])
def test_noise_is_measured(sigma: float) -> None:
    rng = np.random.default_rng(14)
    clean = np.asarray(cv2.GaussianBlur(photograph()[100:300, 150:350], (0, 0), 3)).astype(np.float32)
    noisy = clean + rng.normal(0, sigma, (200, 200, 1)).astype(np.float32)
    mask = np.ones((200, 200), np.float32)
    assert abs(image.texture(noisy, mask).grain - sigma) < 0.06 * sigma + 0.2  # some is the picture's own texture
    left = np.where(np.arange(200)[None, :, None] < 100, noisy, 0)
    assert (
        abs(image.texture(left, (np.arange(200) < 97) * mask).grain - sigma) < 0.06 * sigma + 0.2
    )  # some is the picture's own texture


def test_a_sharp_picture_is_blurred_to_match_and_a_soft_one_left() -> None:
    photo = photograph()[60:260, 130:330]
    mask = np.ones((200, 200), np.float32)
    for sigma in (0.8, 1.2, 1.8):
        soft = np.asarray(cv2.GaussianBlur(photo, (0, 0), sigma))
        own, wanted = image.texture(photo, mask), image.texture(soft, mask)
        matched = image.match_blur(photo, own, wanted)
        assert 0.75 < image.sharpness(matched) / image.sharpness(soft) < 1.35
        assert image.match_blur(soft, wanted, own) is soft  # never sharpened
    assert image.match_blur(photo, own, own) is photo
    limited = image.match_blur(photo, own, image.Texture(-9.0, 0.0), most=1.0)
    assert image.sharpness(limited) > image.sharpness(np.asarray(cv2.GaussianBlur(photo, (0, 0), 1.3)))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("shape", [(150, 160, 3), (150, 160)])
def test_grain_is_added_as_much_as_is_missing(dtype: type, shape: tuple[int, ...]) -> None:
    clean: NDArray[Any] = np.full(shape, 120, dtype)
    mask = np.ones(shape[:2], np.float32)
    own, wanted = image.texture(clean, mask), image.Texture(0.0, 2.5)
    grainy = image.add_grain(clean, own, wanted, seed=(1, 2))
    assert grainy.dtype == dtype
    assert abs(image.texture(grainy, mask).grain - 2.5) < 0.15
    assert abs(grainy.mean() - 120) < 0.2
    assert np.array_equal(grainy, image.add_grain(clean, own, wanted, seed=(1, 2)))
    assert not np.array_equal(grainy, image.add_grain(clean, own, wanted, seed=(1, 3)))
    assert image.add_grain(clean, wanted, wanted, seed=(1,)) is clean
    assert image.add_grain(clean, wanted, own, seed=(1,)) is clean


def test_textures_mix_and_small_regions_have_none() -> None:
    a, b = image.Texture(-0.2, 2.0), image.Texture(-0.6, 4.0)
    mixed = a.mixed(b, 0.25)
    assert np.allclose([mixed.detail, mixed.grain], [-0.3, 2.5])
    spot = np.zeros((50, 60), np.float32)
    spot[10:14, 10:14] = 1
    assert image.texture(smooth(1, 50, 60), spot) == image.Texture(0.0, 0.0)
