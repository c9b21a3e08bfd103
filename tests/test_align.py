"""Stage align: every template hit, one crop a face in the order of rows, flags for what fits nothing."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from skimage.transform import SimilarityTransform

from facepipe import geometry
from facepipe.config import AlignConfig, DetectConfig, LimitsConfig
from facepipe.finder import load_models
from facepipe.stages.align import align_faces, crop_size, crop_transforms
from facepipe.stages.detect import detect_faces
from facepipe.types import Faces, Flag
from facepipe.video import Frame, open_clip

pytestmark = pytest.mark.models

TEMPLATES = ("ibug68", "ibug51", "ibug33", "arcface5", "ffhq")
FITS = ("umeyama", "procrustes", "robust")
LIMITS = LimitsConfig()


@pytest.fixture(scope="module")
def real(clip_path: Callable[[str], Path]) -> tuple[Faces, list[Any]]:
    """Faces and frames of six frames of a clip."""
    models = load_models(DetectConfig(embedder="none"))
    with open_clip(clip_path("single_face.mp4"), stop=6) as reader:
        frames = list(reader)
        return detect_faces(frames, models, DetectConfig(), LIMITS, reader.info.size), frames


def repeat(faces: Faces, rows: list[int]) -> Faces:
    return faces[np.array(rows, int)]


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("size", [112, 384])
def test_faces_lie_on_the_template(real: tuple[Faces, list[Any]], template: Any, fit: Any, size: int) -> None:
    config = AlignConfig(template=template, fit=fit, margin=0.1)
    matrices = crop_transforms(real[0].landmarks, config, size)
    assert matrices.shape == (6, 2, 3)
    points = geometry.template_points(real[0].landmarks, template)
    placed = geometry.apply(matrices, points)
    wanted = geometry.template(template, size, margin=0.1)
    assert np.linalg.norm(placed - wanted, axis=-1).mean() < 0.045 * size


def test_the_transform_is_scikit_images(real: tuple[Faces, list[Any]]) -> None:
    config = AlignConfig()
    wanted = geometry.template("ibug68", 384, margin=config.margin)
    for landmarks, matrix in zip(real[0].landmarks, crop_transforms(real[0].landmarks, config, 384), strict=True):
        witness = SimilarityTransform.from_estimate(landmarks.astype(np.float64), wanted)
        np.testing.assert_allclose(matrix, witness.params[:2], atol=1e-6)


@settings(deadline=None, max_examples=40)
@given(scale=st.floats(0.1, 30), angle=st.floats(-3.1, 3.1), x=st.floats(-1e3, 1e3), y=st.floats(-1e3, 1e3))
def test_a_moved_face_gets_the_same_crop(scale: float, angle: float, x: float, y: float) -> None:
    """Where the landmarks lie in the crop does not depend on where the face is in the frame."""
    face = geometry.template("ibug68", 100)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    moved = face @ turn.T + [x, y]
    both = np.stack([face, moved]).astype(np.float32)
    placed = geometry.apply(crop_transforms(both, AlignConfig(), 384), both)
    np.testing.assert_allclose(placed[0], placed[1], atol=0.05)


def test_rows_that_fix_no_transform_do_not_spoil_the_others(real: tuple[Faces, list[Any]]) -> None:
    landmarks = real[0].landmarks.copy()
    landmarks[1] = 5
    landmarks[3, 7] = np.nan
    matrices = crop_transforms(landmarks, AlignConfig(), 384)
    assert np.isnan(matrices[[1, 3]]).all()
    whole = crop_transforms(real[0].landmarks, AlignConfig(), 384)
    np.testing.assert_allclose(matrices[[0, 2, 4, 5]], whole[[0, 2, 4, 5]])


def test_no_faces() -> None:
    written: list[Any] = []
    faces = align_faces([], Faces.empty(), AlignConfig(), LIMITS, written.append)
    assert len(faces) == 0
    assert written == []


def test_one_crop_a_row_in_the_order_of_rows(real: tuple[Faces, list[Any]]) -> None:
    """Two faces in a frame, frames without one: crops equal OpenCV's warp of that frame by that matrix."""
    faces, frames = real
    rows = repeat(faces, [0, 0, 2, 5])
    config = AlignConfig(size=320)
    crops: list[NDArray[np.uint8]] = []
    aligned = align_faces(frames, rows, config, LIMITS, crops.append)
    assert len(crops) == len(aligned) == 4
    for crop, face in zip(crops, aligned, strict=True):
        assert crop.shape == (320, 320, 3)
        assert crop.dtype == np.uint8
        frame = frames[int(face.frame[0])].image
        witness = cv2.warpAffine(frame, face.frame_to_crop[0], (320, 320), flags=cv2.INTER_LINEAR)
        assert np.abs(crop.astype(float) - witness).mean() < 2
    np.testing.assert_array_equal(crops[0], crops[1])
    assert np.abs(crops[0].astype(float) - crops[3]).mean() > 0.5


@given(scale=st.floats(0.2, 8))
@settings(max_examples=30)
def test_crops_have_the_size_of_the_faces(real: tuple[Faces, list[Any]], scale: float) -> None:
    """A pixel of the crop is about a pixel of the frame, between the smallest crop and the largest."""
    faces = real[0].with_columns(landmarks=real[0].landmarks * np.float32(scale))
    side = crop_size(faces, AlignConfig())
    assert side % 32 == 0
    shrinks = geometry.similarity_params(crop_transforms(faces.landmarks, AlignConfig(), side)).scale
    if side < 1024:
        assert np.sort(shrinks)[1] > 1 - 1e-6  # all but the largest are not made smaller
    if side > 128:
        assert shrinks.min() < side / (side - 32)
    assert crop_size(faces, AlignConfig(size=200)) == 200


def test_a_flagged_face_does_not_size_the_crops(real: tuple[Faces, list[Any]]) -> None:
    landmarks = real[0].landmarks.copy()
    landmarks[:3] *= 5
    landmarks[3] = 7
    flags = np.where(np.arange(6) < 4, np.int32(Flag.MISFIT), np.int32(0))
    faces = real[0].with_columns(landmarks=landmarks, flags=flags)
    assert crop_size(faces, AlignConfig()) == crop_size(real[0][[4, 5]], AlignConfig())
    assert crop_size(faces[[3]], AlignConfig()) == crop_size(Faces.empty(), AlignConfig()) == 128


def test_a_large_face_keeps_its_detail(real: tuple[Faces, list[Any]]) -> None:
    """What is as fine as two pixels of the frame is in the crop, and would not be in one of 384."""
    faces, frames = real
    height, width = (3 * side for side in frames[0].image.shape[:2])
    stripes = 100 + 40 * ((np.arange(width) // 2) % 2)[None, :, None]
    striped = np.broadcast_to(stripes, (height, width, 3)).astype(np.uint8)
    frame = Frame(int(faces.frame[0]), 0, Fraction(0), striped)
    one = faces[[0]].with_columns(landmarks=faces.landmarks[:1] * 3)
    contrast = []
    for size in ("auto", 384):
        crops: list[NDArray[np.uint8]] = []
        align_faces([frame], one, AlignConfig(size=size, smooth=0), LIMITS, crops.append)
        middle = crops[0][crops[0].shape[0] // 3 : crops[0].shape[0] // 2].astype(float)
        contrast.append(np.abs(np.diff(middle, axis=1)).mean())
    whole = np.abs(np.diff(striped[0].astype(float), axis=0)).mean()
    assert contrast[0] > 0.9 * whole
    assert contrast[1] < 0.6 * whole


def test_other_columns_stay(real: tuple[Faces, list[Any]]) -> None:
    aligned = align_faces(real[1], real[0], AlignConfig(), LIMITS, lambda _: None)
    for name in set(vars(aligned)) - {"frame_to_crop", "sharpness", "eyes", "flags"}:
        np.testing.assert_array_equal(getattr(aligned, name), getattr(real[0], name))
    assert (aligned.sharpness > LIMITS.min_sharpness).all()
    assert aligned.trusted.all()


def test_a_face_that_fits_nothing_has_a_black_crop_and_a_flag(real: tuple[Faces, list[Any]]) -> None:
    landmarks = real[0].landmarks.copy()
    landmarks[2] = 7
    crops: list[NDArray[np.uint8]] = []
    faces = real[0].with_columns(landmarks=landmarks)
    aligned = align_faces(real[1], faces, AlignConfig(size=64), LIMITS, crops.append)
    assert [not crop.any() for crop in crops] == [i == 2 for i in range(6)]
    assert aligned.flags[2] & Flag.MISFIT
    assert (aligned.frame_to_crop[2] == 0).all()
    assert aligned.trusted[[0, 1, 3, 4, 5]].all()


def test_blur_is_flagged_by_the_crop_and_the_flag_is_taken_back(real: tuple[Faces, list[Any]]) -> None:
    faces, frames = real
    blurred = [
        Frame(frame.index, 0, frame.time, np.asarray(cv2.GaussianBlur(frame.image, (0, 0), 12), np.uint8))
        for frame in frames
    ]
    dull = align_faces(blurred, faces, AlignConfig(), LIMITS, lambda _: None)
    assert (dull.flags & Flag.BLURRED == Flag.BLURRED).all()
    assert (dull.sharpness < LIMITS.min_sharpness).all()
    again = align_faces(frames, dull, AlignConfig(), LIMITS, lambda _: None)
    assert again.trusted.all()
    strict = LimitsConfig(min_sharpness=1e6)
    assert not align_faces(frames, faces, AlignConfig(), strict, lambda _: None).trusted.any()


def test_aligning_twice_changes_nothing(real: tuple[Faces, list[Any]]) -> None:
    """A killed process may have written the table before its mark."""
    once = align_faces(real[1], real[0], AlignConfig(size=64), LIMITS, lambda _: None)
    twice = align_faces(real[1], once, AlignConfig(size=64), LIMITS, lambda _: None)
    for name in vars(once):
        np.testing.assert_array_equal(getattr(once, name), getattr(twice, name))


def test_a_clip_that_has_become_shorter_is_told(real: tuple[Faces, list[Any]]) -> None:
    with pytest.raises(ValueError, match="faces of frame 4 and later"):
        align_faces(real[1][:4], real[0], AlignConfig(size=64), LIMITS, lambda _: None)
