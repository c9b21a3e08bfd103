"""Detectors on real pictures: counts, boxes that agree with each other, scales, pictures without a face.

S3FD's own weights are in no package: a file of random weights of its architecture stands in for the download, and
face-alignment's own detector is the witness.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from facepipe import weights
from facepipe.backends import detectors
from facepipe.backends.detectors import DETECTORS, Detections, Detector, Mtcnn, Sfd, YuNet, load_detector
from facepipe.errors import UsageError, WeightsHashError, WeightsMissingError
from facepipe.video import open_clip, read_image

pytestmark = pytest.mark.models

Picture = NDArray[np.uint8]


@pytest.fixture(scope="module", params=["yunet", "mtcnn"])
def detector(request: pytest.FixtureRequest) -> Detector:
    return load_detector(request.param, threshold=0.6)


@pytest.fixture(scope="module")
def frames(clip_path: Callable[[str], Path]) -> dict[str, Picture]:
    """One frame of each clip with a face."""
    found = {}
    for name in ("single_face.mp4", "WolfgangLanger_Pexels.mp4", "face_noface.mov", "carphone_pristine.mp4"):
        with open_clip(clip_path(name), stop=1) as reader:
            found[name] = next(iter(reader)).image
    return found


@pytest.fixture(scope="module")
def group(clip_path: Callable[[str], Path]) -> Picture:
    return read_image(clip_path("multi_face.jpg"))


def overlap(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Intersection over union of two boxes, by painting them."""
    pictures = [np.zeros((1100, 1100), bool) for _ in "ab"]
    for picture, (x0, y0, x1, y1) in zip(pictures, (a.round().astype(int), b.round().astype(int)), strict=True):
        picture[max(y0, 0) : y1, max(x0, 0) : x1] = True
    return float((pictures[0] & pictures[1]).sum() / (pictures[0] | pictures[1]).sum())


def check(found: Detections, threshold: float) -> None:
    """What holds for the output of every detector."""
    assert found.boxes.shape == (len(found), 4)
    assert found.boxes.dtype == found.scores.dtype == np.float32
    assert ((found.scores >= threshold) & (found.scores <= 1)).all()
    assert (np.diff(found.scores) <= 0).all()
    assert (found.boxes[:, 2:] > found.boxes[:, :2]).all()


def test_one_face_in_each_clip(detector: Detector, frames: dict[str, Picture]) -> None:
    for name, frame in frames.items():
        found = detector.detect(frame)
        check(found, 0.6)
        assert len(found) == 1, name


def test_every_face_of_a_group(detector: Detector, group: Picture) -> None:
    found = detector.detect(group)
    check(found, 0.6)
    assert len(found) == 5
    for i in range(5):
        assert all(overlap(found.boxes[i], found.boxes[j]) < 0.1 for j in range(i))


def test_the_detectors_agree(group: Picture) -> None:
    yunet, mtcnn = (load_detector(name).detect(group).boxes for name in ("yunet", "mtcnn"))
    for box in yunet:
        assert max(overlap(box, other) for other in mtcnn) > 0.5


@pytest.mark.parametrize("size", [(1, 1), (7, 500), (40, 40), (360, 640)])
def test_nothing_in_pictures_without_a_face(detector: Detector, size: tuple[int, int]) -> None:
    for picture in (np.zeros((*size, 3), np.uint8), np.full((*size, 3), 255, np.uint8)):
        found = detector.detect(picture)
        check(found, 0.6)
        assert len(found) == 0


def test_a_detector_may_be_used_for_pictures_of_any_size_in_turn(
    detector: Detector, frames: dict[str, Picture], group: Picture
) -> None:
    first = detector.detect(group)
    for frame in frames.values():
        detector.detect(frame)
    again = detector.detect(group)
    np.testing.assert_array_equal(again.boxes, first.boxes)


def test_pictures_are_left_alone(detector: Detector, group: Picture) -> None:
    before = group.copy()
    detector.detect(group)
    np.testing.assert_array_equal(group, before)
    read_only = group.copy()
    read_only.flags.writeable = False
    check(detector.detect(read_only), 0.6)


def test_yunet_gives_boxes_in_pixels_of_the_picture_it_was_given(frames: dict[str, Picture]) -> None:
    frame = frames["single_face.mp4"]
    detector = load_detector("yunet", threshold=0.6, max_side=640)
    small = detector.detect(frame).boxes[0]
    large = np.asarray(cv2.resize(frame, None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC), np.uint8)
    assert overlap(detector.detect(large).boxes[0] / 3, small) > 0.9
    padded = np.pad(frame, ((50, 0), (120, 0), (0, 0)))
    assert overlap(detector.detect(padded).boxes[0] - [120, 50, 120, 50], small) > 0.85


def test_a_higher_threshold_finds_a_part_of_the_same(group: Picture) -> None:
    all_of_them = load_detector("yunet", threshold=0.3).detect(group)
    sure = load_detector("yunet", threshold=0.935).detect(group)
    assert 0 < len(sure) < len(all_of_them)
    for box in sure.boxes:
        assert (all_of_them.boxes == box).all(1).any()


def test_channel_order_is_rgb(frames: dict[str, Picture]) -> None:
    """OpenCV's own call on BGR is the witness."""
    frame = frames["single_face.mp4"]
    net = cv2.FaceDetectorYN.create(str(weights.path("yunet")), "", frame.shape[1::-1], 0.6, 0.3, 5000)
    expected = net.detect(np.ascontiguousarray(frame[..., ::-1]))[1]
    found = load_detector("yunet", threshold=0.6).detect(frame)
    np.testing.assert_allclose(found.boxes[0, :2], expected[0, :2], atol=1e-3)
    np.testing.assert_allclose(found.scores[0], expected[0, 14], atol=1e-6)


def test_detections_drop_what_is_no_box() -> None:
    boxes = [[0, 0, 5, 5], [5, 5, 5, 9], [0, 0, 4, 4], [9, 9, 1, 1], [0, 0, 3, 3]]
    found = detectors._detections(boxes, [0.7, 0.99, 0.9, 0.99, 0.4], 0.5)
    np.testing.assert_array_equal(found.boxes, [[0, 0, 4, 4], [0, 0, 5, 5]])
    assert len(detectors._detections(None, None, 0.5)) == 0


def test_by_name() -> None:
    assert isinstance(load_detector("yunet"), YuNet)
    assert isinstance(load_detector("mtcnn"), Mtcnn)
    with pytest.raises(UsageError, match="'haar' is unknown; expected one of yunet, mtcnn, sfd"):
        load_detector("haar")


def test_missing_and_wrong_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = tmp_path / "yunet.onnx"
    wrong.write_bytes(weights.path("yunet").read_bytes()[:-1])
    monkeypatch.setenv("FACEPIPE_WEIGHTS_YUNET", str(wrong))
    with pytest.raises(WeightsHashError, match=str(wrong)):
        load_detector("yunet")
    monkeypatch.delenv("FACEPIPE_WEIGHTS_YUNET")
    monkeypatch.setenv("FACEPIPE_CACHE", str(tmp_path / "empty"))
    for name in set(DETECTORS) - {"mtcnn"}:
        with pytest.raises(WeightsMissingError, match=f"facepipe models pull {name}"):
            load_detector(name)


# ----------------------------------------------------------------------------------------------------------- S3FD


@pytest.fixture(scope="module")
def s3fd_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of the right architecture."""
    import torch
    from face_alignment.detection.sfd.net_s3fd import s3fd

    torch.manual_seed(3)
    net = s3fd()
    path = tmp_path_factory.mktemp("s3fd") / "s3fd.pth"
    torch.save(net.state_dict(), path)
    return path


def test_sfd_equals_face_alignments_own_detector(
    s3fd_file: Path, frames: dict[str, Picture], monkeypatch: pytest.MonkeyPatch
) -> None:
    from face_alignment.detection.sfd import FaceDetector

    monkeypatch.setattr(weights, "path", lambda name: {"sfd": s3fd_file}[name])
    detector = load_detector("sfd", threshold=0.5)
    assert isinstance(detector, Sfd)
    small = np.ascontiguousarray(frames["carphone_pristine.mp4"][40:104, 60:124])
    found = detector.detect(small)
    expected = np.asarray(
        FaceDetector("cpu", path_to_detector=str(s3fd_file), filter_threshold=0.5).detect_from_image(small)
    )
    assert len(found) > 0
    check(found, 0.5)
    order = np.argsort(-expected[:, 4], kind="stable")
    np.testing.assert_allclose(found.boxes, expected[order][:, :4], rtol=1e-6)
    np.testing.assert_allclose(found.scores, expected[order][:, 4], rtol=1e-6)


def test_sfd_without_a_face(s3fd_file: Path, tmp_path: Path) -> None:
    import torch

    state = torch.load(s3fd_file, weights_only=True)
    for key in state:
        if "conf" in key and key.endswith("bias"):
            state[key] = torch.tensor([50.0] * (len(state[key]) - 1) + [-50.0])
    silent = tmp_path / "silent.pth"
    torch.save(state, silent)
    found = Sfd(silent).detect(np.zeros((64, 64, 3), np.uint8))
    check(found, 0.5)
    assert len(found) == 0
