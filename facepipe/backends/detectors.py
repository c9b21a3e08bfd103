"""Face detectors: an RGB picture in, boxes and confidences out.

Measured recall and speed of each stand in ``models/README.md``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from facepipe import weights
from facepipe.backends.opencv import loading
from facepipe.errors import UsageError
from facepipe.types import Image

__all__ = ["DETECTORS", "Detections", "Detector", "Mtcnn", "Sfd", "YuNet", "load_detector"]

DETECTORS = ("yunet", "mtcnn", "sfd")


@dataclass(frozen=True, slots=True)
class Detections:
    """Faces of one picture, best first.

    Attributes
    ----------
    boxes : (N, 4) float32 array
        ``xyxy`` in pixels of the picture that was given.
    scores : (N,) float32 array
        Confidence in [0, 1].
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.scores)


class Detector(Protocol):
    """What every detector does."""

    name: str

    def detect(self, image: Image) -> Detections:
        """Find every face of an RGB picture (H, W, 3) uint8."""
        ...


def _detections(boxes: Any, scores: Any, threshold: float) -> Detections:
    """Sorted, thresholded, without boxes of no area; accepts None for "nothing found"."""
    boxes = np.zeros((0, 4)) if boxes is None else np.asarray(boxes, np.float32).reshape(-1, 4)
    scores = np.zeros(0) if scores is None else np.asarray(scores, np.float32).reshape(-1)
    good = (scores >= threshold) & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    order = np.argsort(-scores[good], kind="stable")
    return Detections(boxes[good][order].astype(np.float32), scores[good][order].astype(np.float32))


class YuNet:
    """YuNet (Wu, Peng, Yu 2023, DOI 10.1007/s11633-023-1423-y), int8, run by OpenCV.

    The picture is shrunk so that its long side is at most `max_side`; faces from about 10 px there are found.
    """

    name = "yunet"
    _NMS_IOU = 0.3
    _MOST = 5000

    def __init__(self, path: Path, *, threshold: float = 0.5, max_side: int = 640) -> None:
        self.max_side = max_side
        self.threshold = threshold
        with loading(path):
            self._net = cv2.FaceDetectorYN.create(str(path), "", (320, 320), threshold, self._NMS_IOU, self._MOST)

    def detect(self, image: Image) -> Detections:
        """Find every face of an RGB picture (H, W, 3) uint8."""
        height, width = image.shape[:2]
        scale = min(1.0, self.max_side / max(height, width))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        if scale < 1:
            image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
        self._net.setInputSize(size)
        found: Any = self._net.detect(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1]
        if found is None:
            return _detections(None, None, self.threshold)
        left_top, extent = found[:, 0:2], found[:, 2:4]
        ratio = np.array([width / size[0], height / size[1]], np.float32)
        boxes = np.concatenate([left_top * ratio, (left_top + extent) * ratio], axis=1)
        # The quantised head can exceed 1; a confidence cannot.
        return _detections(boxes, np.minimum(found[:, 14], 1.0), self.threshold)


class Mtcnn:
    """MTCNN (Zhang et al. 2016, DOI 10.1109/LSP.2016.2603342) of facenet-pytorch."""

    name = "mtcnn"

    def __init__(self, *, device: str = "cpu", threshold: float = 0.5, min_face: int = 20) -> None:
        from facenet_pytorch import MTCNN

        self.threshold = threshold
        self.min_face = min_face
        # keep_all: with it, a picture without a face is no error.
        self._net = MTCNN(keep_all=True, min_face_size=min_face, device=device, post_process=False)

    def detect(self, image: Image) -> Detections:
        """Find every face of an RGB picture (H, W, 3) uint8."""
        if min(image.shape[:2]) < self.min_face:  # facenet-pytorch raises when its pyramid has no level
            return _detections(None, None, self.threshold)
        boxes, scores = self._net.detect(np.ascontiguousarray(image))
        return _detections(boxes, None if boxes is None else scores, self.threshold)


class Sfd:
    """S3FD (Zhang et al. 2017, DOI 10.1109/ICCV.2017.30) of face-alignment."""

    name = "sfd"

    def __init__(self, path: Path, *, device: str = "cpu", threshold: float = 0.5) -> None:
        from face_alignment.detection.sfd import FaceDetector

        self.threshold = threshold
        self._net = FaceDetector(device, path_to_detector=str(path), filter_threshold=threshold)

    def detect(self, image: Image) -> Detections:
        """Find every face of an RGB picture (H, W, 3) uint8."""
        found = np.asarray(self._net.detect_from_image(image), np.float32).reshape(-1, 5)
        return _detections(found[:, :4], found[:, 4], self.threshold)


def load_detector(name: str, *, device: str = "cpu", threshold: float = 0.5, max_side: int = 640) -> Detector:
    """The detector called `name`, one of `DETECTORS`, with its weights from the cache.

    Parameters
    ----------
    name : str
        ``"yunet"`` (default of the pipeline), ``"mtcnn"`` or ``"sfd"`` (face-alignment's).
    device : str
        ``"cpu"``, ``"cuda"`` or ``"mps"``; YuNet always runs on the CPU.
    threshold : float
        Least confidence in [0, 1].
    max_side : int
        Longest side in pixels that YuNet looks at.

    Raises
    ------
    UsageError
        Unknown name.
    WeightsMissingError
        The weights are not on this machine; the message says how to get them.
    """
    if name == "yunet":
        return YuNet(weights.path("yunet"), threshold=threshold, max_side=max_side)
    if name == "mtcnn":
        return Mtcnn(device=device, threshold=threshold)
    if name == "sfd":
        return Sfd(weights.path("sfd"), device=device, threshold=threshold)
    raise UsageError(f"detector {name!r} is unknown; expected one of {', '.join(DETECTORS)}")
