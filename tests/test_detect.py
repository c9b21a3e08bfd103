"""Stage detect: rows, batches, flags for what cannot be trusted."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from facepipe import geometry
from facepipe.backends.detectors import Detections
from facepipe.backends.landmarkers import Fit
from facepipe.config import DetectConfig, LimitsConfig
from facepipe.finder import Models, load_models
from facepipe.stages.detect import detect_faces, misfit, quality_flags
from facepipe.types import Faces, Flag
from facepipe.video import Frame, open_clip

FACE = geometry.template("ibug68", 100)


def faces_of(landmarks: NDArray[Any], yaw: float = 0.0) -> Faces:
    """A table of nothing but landmarks (N, 68, 2)."""
    n = len(landmarks)
    empty = Faces.empty()
    columns = {
        name: np.zeros((n, *getattr(empty, name).shape[1:]), getattr(empty, name).dtype) for name in vars(empty)
    }
    columns["landmarks"] = np.asarray(landmarks, np.float32)
    columns["yaw"][:] = yaw
    return Faces(**columns)


class Everywhere:
    """A detector, landmarker and embedder that find two faces in each frame; the embedding tells frame and face."""

    name = "everywhere"
    follows = False
    dim = 2
    crop_size = (1, 1)
    batches: list[int]

    def __init__(self) -> None:
        self.batches = []

    def detect(self, image: Any) -> Detections:
        return Detections(
            np.array([[10, 10, 60, 60], [100, 10, 130, 40]], np.float32), np.array([0.9, 0.8], np.float32)
        )

    def fit(self, image: Any, box: Any) -> Fit:
        return Fit((FACE * (box[2] - box[0]) / 100 + box[:2]).astype(np.float32))

    follow = None

    def crop(self, image: Any, box: Any, landmarks: Any) -> Any:
        return np.full((1, 1, 3), [image[0, 0, 0], int(box[0]), 0], np.uint8)

    def embed(self, crops: Any) -> Any:
        self.batches.append(len(crops))
        return crops[:, 0, 0, :2].astype(np.float32)


@pytest.mark.parametrize("stride", [1, 7])
@pytest.mark.parametrize("count", [0, 1, 8, 9, 20])
def test_a_row_for_each_face_with_its_own_embedding(count: int, stride: int) -> None:
    fake: Any = Everywhere()
    frames: Any = (Frame(i, 7 * i, Fraction(i, 25), np.full((200, 200, 3), i, np.uint8)) for i in range(count))
    config = DetectConfig(embed_stride=stride)
    faces = detect_faces(frames, Models(fake, fake, fake), config, LimitsConfig(), (200, 200))
    embedded = (faces.frame % stride == 0) | (faces.frame < 5)
    assert len(faces) == 2 * count
    assert sum(fake.batches) == embedded.sum()
    assert max(fake.batches, default=0) <= 16
    np.testing.assert_array_equal(faces.frame, np.repeat(np.arange(count), 2))
    np.testing.assert_array_equal(faces.pts, 7 * faces.frame)
    np.testing.assert_array_equal(faces.face, np.tile([0, 1], count))
    if count:
        own = np.stack([faces.frame, faces.box[:, 0]], 1)
        np.testing.assert_array_equal(faces.embedding, np.where(embedded[:, None], own, np.nan))
        assert set(faces.track.tolist()) == {0, 1}


def test_faces_beside_others_are_all_embedded() -> None:
    fake: Any = Everywhere()
    boxes = np.array([[10, 10, 60, 60], [70, 10, 100, 40]], np.float32)
    fake.detect = lambda image: Detections(boxes, np.array([0.9, 0.8], np.float32))
    frames: Any = (Frame(i, i, Fraction(i, 25), np.full((200, 200, 3), i, np.uint8)) for i in range(12))
    config = DetectConfig(embed_stride=50)
    faces = detect_faces(frames, Models(fake, fake, fake), config, LimitsConfig(), (200, 200))
    assert sum(fake.batches) == len(faces) == 24


def test_without_an_embedder() -> None:
    fake: Any = Everywhere()
    frames: Any = [Frame(0, 0, Fraction(0), np.zeros((200, 200, 3), np.uint8))]
    faces = detect_faces(frames, Models(fake, fake, None), DetectConfig(), LimitsConfig(), (200, 200))
    assert faces.embedding.shape == (2, 0)


def test_a_real_clip(clip_path: Callable[[str], Path]) -> None:
    models = load_models(DetectConfig(embedder="sface"))
    with open_clip(clip_path("single_face.mp4"), stop=11) as reader:
        faces = detect_faces(reader, models, DetectConfig(), LimitsConfig(), reader.info.size)
    assert len(faces) == 11
    assert faces.mesh.shape == (11, 468, 3)
    assert faces.trusted.all()
    assert (np.abs(np.stack([faces.yaw, faces.pitch, faces.roll])) < 25).all()
    looked = np.isin(faces.frame, [0, 1, 2, 3, 4, 10])
    assert np.isnan(faces.embedding[~looked]).all()
    np.testing.assert_allclose(np.linalg.norm(faces.embedding[looked], axis=1), 1, atol=1e-5)
    assert (faces.embedding[looked] @ faces.embedding[0] > 0.8).all()
    assert (np.diff(faces.pts) > 0).all()


def test_turned_heads_have_the_sign_that_the_convention_says(clip_path: Callable[[str], Path]) -> None:
    """Mirroring the picture turns yaw and roll around and leaves pitch."""
    models = load_models(DetectConfig(embedder="none"))
    with open_clip(clip_path("WolfgangLanger_Pexels.mp4"), start=300, stop=301) as reader:
        (frame,) = list(reader)
    pose = []
    for image in (frame.image, np.ascontiguousarray(frame.image[:, ::-1])):
        one: Any = [Frame(0, 0, Fraction(0), image)]
        faces = detect_faces(one, models, DetectConfig(), LimitsConfig(), (360, 640))
        pose.append([float(faces.yaw[0]), float(faces.pitch[0]), float(faces.roll[0])])
    np.testing.assert_allclose(pose[1], np.array(pose[0]) * [-1, 1, -1], atol=4)


# ---------------------------------------------------------------------------------------------------------- flags


@settings(deadline=None, max_examples=50)
@given(scale=st.floats(0.2, 20), angle=st.floats(-3, 3), x=st.floats(-500, 500), y=st.floats(-500, 500))
def test_misfit_does_not_depend_on_place_size_and_turn(scale: float, angle: float, x: float, y: float) -> None:
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    expected = misfit(FACE[None].astype(np.float32))[0]
    assert misfit((FACE @ turn.T + [x, y])[None].astype(np.float32))[0] == pytest.approx(expected, rel=2e-2, abs=2e-2)
    assert expected < 4


def test_misfit_of_what_is_no_face() -> None:
    mirrored = FACE * [-1, 1]
    points = np.stack([mirrored, np.zeros((68, 2)), np.random.default_rng(0).uniform(0, 100, (68, 2))])
    values = misfit(points.astype(np.float32))
    assert values[1] == np.inf
    assert (values[[0, 2]] > LimitsConfig().max_misfit).all()


@pytest.mark.parametrize(
    ("landmarks", "yaw", "flags"),
    [
        (FACE + 50, 0, Flag(0)),
        (FACE + 50, 49, Flag(0)),
        (FACE + 50, 51, Flag.PROFILE),
        (FACE + 50, -51, Flag.PROFILE),
        (FACE * 0.2 + 50, 0, Flag.SMALL),
        (FACE - 60, 0, Flag.CUT_OFF),
        (FACE + np.array([50, 150]), 0, Flag.CUT_OFF),
        (FACE * [-1, 1] + [150, 50], 0, Flag.MISFIT),
        (FACE * 0.1 - 10, 80, Flag.SMALL | Flag.CUT_OFF | Flag.PROFILE),
    ],
)
def test_flags(landmarks: NDArray[Any], yaw: float, flags: Flag) -> None:
    found = quality_flags(faces_of(landmarks[None], yaw), (200, 200), LimitsConfig())
    assert Flag(int(found[0])) == flags


def test_limits_move_the_flags() -> None:
    faces = faces_of((FACE + 50)[None], 40)
    limits = {"max_yaw": 30.0, "min_eye_distance": 500.0, "max_misfit": 0.001}
    found = quality_flags(faces, (200, 200), LimitsConfig(**limits))  # type: ignore[arg-type]
    assert Flag(int(found[0])) == Flag.PROFILE | Flag.SMALL | Flag.MISFIT
