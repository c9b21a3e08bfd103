"""Landmarkers on real frames: the mesh against dlib's 68 points, following, turning; FAN through face-alignment.

FAN's own weights are in no package: a file of random weights of its architecture stands in for the download, and
face-alignment loading the same file by its own way is the witness.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from facepipe import geometry, weights
from facepipe.backends.detectors import Detector, load_detector
from facepipe.backends.landmarkers import (
    FACE_OVAL,
    LANDMARKERS,
    MESH_TO_IBUG68,
    Landmarker,
    load_landmarker,
)
from facepipe.errors import UsageError, WeightsMissingError
from facepipe.video import open_clip

pytestmark = pytest.mark.models

Picture = NDArray[np.uint8]

# Mean distance of the mesh's points to dlib's, in distances between the outer corners of the eyes, measured .02-.04 on
# frames without a hand in front. Along the jaw the two schemes place their points apart by definition.
INNER_TOLERANCE = 0.06
JAW_TOLERANCE = 0.15
FRAMES = {
    "single_face.mp4": (0, 40),
    "WolfgangLanger_Pexels.mp4": (0, 300),
    "face_noface.mov": (0, 60),
    "carphone_pristine.mp4": (0, 40),
}
REGIONS = {"brows": (17, 27), "nose": (27, 36), "eyes": (36, 48), "mouth": (48, 68)}


@pytest.fixture(scope="module")
def detector() -> Detector:
    return load_detector("yunet")


@pytest.fixture(scope="module")
def mesh() -> Landmarker:
    return load_landmarker("facemesh")


@pytest.fixture(scope="module")
def dlib68() -> Landmarker:
    return load_landmarker("dlib68")


@pytest.fixture(scope="module")
def faces(clip_path: Callable[[str], Path], detector: Detector) -> list[tuple[str, Picture, NDArray[np.float32]]]:
    """Clip, frame and box of frames of three people."""
    found = []
    for name, wanted in FRAMES.items():
        with open_clip(clip_path(name), stop=wanted[-1] + 1) as reader:
            images = [frame.image for frame in reader if frame.index in wanted]
        found += [(name, image, detector.detect(image).boxes[0]) for image in images]
    return found


def eye_distance(points: NDArray[Any]) -> float:
    return float(np.linalg.norm(points[45] - points[36]))


def test_the_map_to_68_points_agrees_with_dlib(
    faces: list[tuple[str, Picture, NDArray[np.float32]]], mesh: Landmarker, dlib68: Landmarker
) -> None:
    errors = []
    for _, frame, box in faces:
        ours, witness = mesh.fit(frame, box).landmarks, dlib68.fit(frame, box).landmarks
        errors.append(np.linalg.norm(ours - witness, axis=1) / eye_distance(witness))
    mean = np.mean(errors, axis=0)
    for name, (start, stop) in REGIONS.items():
        tolerance = INNER_TOLERANCE if name != "brows" else 0.09  # dlib's brows lie on the hairs, the mesh's above
        assert mean[start:stop].mean() < tolerance, name
    assert mean[:17].mean() < JAW_TOLERANCE
    assert mean.max() < 0.25  # no point of the map is another point of the face


def test_shapes_and_types(
    faces: list[tuple[str, Picture, NDArray[np.float32]]], mesh: Landmarker, dlib68: Landmarker
) -> None:
    _, frame, box = faces[0]
    fit = mesh.fit(frame, box)
    assert fit.landmarks.shape == (68, 2)
    assert fit.mesh is not None
    assert fit.mesh.shape == (468, 3)
    assert fit.landmarks.dtype == fit.mesh.dtype == np.float32
    np.testing.assert_array_equal(fit.landmarks, fit.mesh[MESH_TO_IBUG68, :2])
    other = dlib68.fit(frame, box)
    assert other.landmarks.shape == (68, 2)
    assert other.mesh is None
    assert (mesh.follows, dlib68.follows) == (True, False)


def test_points_lie_in_the_box_and_in_anatomical_order(
    faces: list[tuple[str, Picture, NDArray[np.float32]]], mesh: Landmarker, dlib68: Landmarker
) -> None:
    for _, frame, box in faces:
        for landmarker in (mesh, dlib68):
            p = landmarker.fit(frame, box).landmarks
            room = 0.25 * (box[2:] - box[:2])
            assert ((p > box[:2] - room) & (p < box[2:] + room)).all()
            assert p[36, 0] < p[39, 0] < p[42, 0] < p[45, 0]  # eyes, from the left of the image
            assert p[17:27, 1].mean() < p[36:48, 1].mean() < p[33, 1] < p[48:68, 1].mean() < p[8, 1]


def test_depth_is_smaller_where_it_is_nearer(
    faces: list[tuple[str, Picture, NDArray[np.float32]]], mesh: Landmarker
) -> None:
    for _, frame, box in faces:
        points = mesh.fit(frame, box).mesh
        assert points is not None
        assert points[4, 2] < points[[234, 454], 2].min() - 0.2 * eye_distance(points[MESH_TO_IBUG68, :2])


def test_the_oval_goes_around_all_points(
    faces: list[tuple[str, Picture, NDArray[np.float32]]], mesh: Landmarker
) -> None:
    assert len(set(FACE_OVAL.tolist())) == len(FACE_OVAL) == 36
    _, frame, box = faces[0]
    points = mesh.fit(frame, box).mesh
    assert points is not None
    outline = points[FACE_OVAL, :2]
    x, y = outline.T
    assert (x * np.roll(y, -1) - y * np.roll(x, -1)).sum() > 0  # clockwise as seen, y down
    assert y.argmin() in (0, 1, len(y) - 1)
    spare = 0.03 * eye_distance(points[MESH_TO_IBUG68, :2])
    for point in points[:, :2]:
        assert cv2.pointPolygonTest(outline, (float(point[0]), float(point[1])), True) > -spare


def test_following_stays_on_the_face(clip_path: Callable[[str], Path], detector: Detector, mesh: Landmarker) -> None:
    """Followed for 40 frames the points are where a fresh look finds them."""
    with open_clip(clip_path("single_face.mp4"), stop=40) as reader:
        frames = [frame.image for frame in reader]
    fit = mesh.fit(frames[0], detector.detect(frames[0]).boxes[0])
    for frame in frames[1:]:
        fit = mesh.follow(frame, fit)
    fresh = mesh.fit(frames[-1], detector.detect(frames[-1]).boxes[0])
    assert np.linalg.norm(fit.landmarks - fresh.landmarks, axis=1).mean() < 0.03 * eye_distance(fresh.landmarks)


@pytest.mark.parametrize("degrees", [-30, 20, 45])
def test_a_turned_face(
    faces: list[tuple[str, Picture, NDArray[np.float32]]], mesh: Landmarker, degrees: float
) -> None:
    """The points of the turned picture are the turned points."""
    _, frame, box = faces[0]
    upright = mesh.fit(frame, box)
    centre = (box[:2] + box[2:]) / 2
    turn = cv2.getRotationMatrix2D((float(centre[0]), float(centre[1])), degrees, 1.0)
    turned = np.asarray(cv2.warpAffine(frame, turn, frame.shape[1::-1], flags=cv2.INTER_CUBIC), np.uint8)
    expected = geometry.apply(turn, upright.landmarks)
    found = mesh.follow(turned, mesh.fit(turned, box)).landmarks
    assert np.linalg.norm(found - expected, axis=1).mean() < 0.06 * eye_distance(expected)


def test_faces_at_the_edge_and_beyond_give_finite_points(
    faces: list[tuple[str, Picture, NDArray[np.float32]]], mesh: Landmarker, dlib68: Landmarker
) -> None:
    _, frame, box = faces[0]
    half = np.ascontiguousarray(frame[:, : int((box[0] + box[2]) / 2)])
    outside = box + np.float32(5000)
    for landmarker in (mesh, dlib68):
        for one in (box, outside):
            assert np.isfinite(landmarker.fit(half, one).landmarks).all()


def test_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("facemesh", "dlib68"):
        assert load_landmarker(name).name == name
    with pytest.raises(UsageError, match="'aam' is unknown; expected one of facemesh, dlib68, fan"):
        load_landmarker("aam")
    monkeypatch.setenv("FACEPIPE_CACHE", str(tmp_path / "empty"))
    for name in LANDMARKERS:
        with pytest.raises(WeightsMissingError, match=f"facepipe models pull {name}"):
            load_landmarker(name)


# ------------------------------------------------------------------------------------------------------------ FAN


@pytest.fixture(scope="module")
def fan_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from face_alignment.models import FAN

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("fan") / "fan.pth"
    torch.save(FAN(4).state_dict(), path)
    return path


@pytest.mark.slow
def test_fan_equals_face_alignment_with_the_same_file(
    fan_file: Path,
    faces: list[tuple[str, Picture, NDArray[np.float32]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import face_alignment
    import face_alignment.api

    real = weights.path
    monkeypatch.setattr(weights, "path", lambda name: fan_file if name == "fan" else real(name))
    landmarker = load_landmarker("fan")
    assert (landmarker.name, landmarker.follows) == ("fan", False)
    _, frame, box = faces[0]
    found = landmarker.fit(frame, box)
    assert found.landmarks.shape == (68, 2)
    assert found.landmarks.dtype == np.float32
    assert found.mesh is None

    checkpoints = tmp_path / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    shutil.copy(fan_file, checkpoints / "stand-in.pth")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setitem(face_alignment.api.models_urls, "2DFAN-4", "https://invalid.invalid/stand-in.pth")
    witness = face_alignment.FaceAlignment(
        face_alignment.LandmarksType.TWO_D,
        device="cpu",
        compile=False,
        face_detector="yunet",
        face_detector_kwargs={"path_to_detector": str(real("yunet"))},
    )
    expected = witness.get_landmarks_from_image(frame, detected_faces=[box.tolist()])
    np.testing.assert_allclose(found.landmarks, expected[0], atol=1e-3)
    again = landmarker.follow(frame, found)
    assert np.isfinite(again.landmarks).all()
