"""Landmarkers: a picture and a face's box in, iBUG-68 points (and a dense mesh where there is one) out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from facepipe import weights
from facepipe.backends.opencv import read_net
from facepipe.errors import UsageError, WeightsError
from facepipe.image import Picture, warp

__all__ = [
    "FACE_OVAL",
    "LANDMARKERS",
    "MESH_TO_IBUG68",
    "Dlib68",
    "FaceMesh",
    "Fan",
    "Fit",
    "Landmarker",
    "load_landmarker",
]

LANDMARKERS = ("facemesh", "dlib68", "fan")

# The mesh vertex that lies nearest to each iBUG point, by anatomy: jaw, brows, nose, eyes, mouth.
MESH_TO_IBUG68 = np.array(
    [
        *(162, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 389),
        *(71, 63, 105, 66, 107, 336, 296, 334, 293, 301),
        *(168, 197, 5, 4, 75, 97, 2, 326, 305),
        *(33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380),
        *(61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181),
        *(78, 82, 13, 312, 308, 317, 14, 87),
    ]
)

# The outline of the mesh, clockwise as seen in the picture, from the top of the forehead.
FACE_OVAL = np.array(
    [
        *(10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377),
        *(152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109),
    ]
)


@dataclass(frozen=True, slots=True)
class Fit:
    """Landmarks of one face.

    Attributes
    ----------
    landmarks : (68, 2) float32 array
        iBUG points in frame pixels.
    mesh : (468, 3) float32 array or None
        FaceMesh points in frame pixels; z in the same scale, smaller is nearer.
    """

    landmarks: NDArray[np.float32]
    mesh: NDArray[np.float32] | None = None


class Landmarker(Protocol):
    """What every landmarker does."""

    name: str
    follows: bool
    """Whether a fit can start from the last frame's fit, without a detector."""

    def fit(self, image: Picture, box: NDArray[np.float32]) -> Fit:
        """Fit the face in `box`, ``xyxy`` pixels of the RGB picture."""
        ...

    def follow(self, image: Picture, last: Fit) -> Fit:
        """Fit the face that was at `last` one frame ago."""
        ...


class FaceMesh:
    """MediaPipe FaceMesh, 468 points (Kartynnik et al. 2019, arXiv:1907.06724), run by OpenCV.

    The net sees a square of 1.5 times the face, turned so that the eyes are level. OpenCV gives the points but not
    the net's own presence score: whoever follows a face has to look for doubt elsewhere.
    """

    name = "facemesh"
    follows = True
    _SIDE = 192
    _ROOM = 1.5
    _EYES = (33, 263)

    def __init__(self, path: Path) -> None:
        self._net = read_net(path)
        self._output = self._net.getUnconnectedOutLayersNames()[-1]

    def fit(self, image: Picture, box: NDArray[np.float32]) -> Fit:
        """Fit from a detector's box: once for the pose, once more from the square that the first fit gives."""
        centre = (box[:2] + box[2:]) / 2
        side = self._ROOM * float(max(box[2:] - box[:2]))
        return self.follow(image, self._run(image, centre, side, 0.0))

    def follow(self, image: Picture, last: Fit) -> Fit:
        """Fit from the square around the last mesh."""
        assert last.mesh is not None
        points = last.mesh[:, :2].astype(np.float64)
        across = points[self._EYES[1]] - points[self._EYES[0]]
        angle = float(np.arctan2(across[1], across[0]))
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        level = points @ turn.T
        low, high = level.min(0), level.max(0)
        return self._run(image, turn.T @ ((low + high) / 2), self._ROOM * float(max(high - low)), angle)

    def _run(self, image: Picture, centre: Any, side: float, angle: float) -> Fit:
        """One forward pass on the square at `centre`, `side` pixels wide, turned by `angle` radians."""
        scale = self._SIDE / max(side, 1.0)
        linear = scale * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        middle = (self._SIDE - 1) / 2
        matrix = np.column_stack([linear, middle - linear @ np.asarray(centre, np.float64)])
        crop = warp(image, matrix, (self._SIDE, self._SIDE))
        self._net.setInput(cv2.dnn.blobFromImage(crop, 1 / 255.0))
        out = self._net.forward(self._output).reshape(468, 3).astype(np.float64)
        # The net counts from the corner of the picture, we from the centre of its first pixel.
        points = (out[:, :2] - 0.5 - matrix[:, 2]) @ np.linalg.inv(linear).T
        mesh = np.column_stack([points, out[:, 2] / scale]).astype(np.float32)
        return Fit(mesh[MESH_TO_IBUG68, :2].copy(), mesh)


class Dlib68:
    """Regression trees of Kazemi & Sullivan 2014 (DOI 10.1109/CVPR.2014.241), 68 points, dlib's own model."""

    name = "dlib68"
    follows = False
    # dlib's detector draws other boxes than ours: measured best square for faces turned away (see models/README.md).
    _SIDE = 0.93
    _DOWN = 0.05

    def __init__(self, path: Path) -> None:
        try:
            import dlib
        except ImportError as exc:
            raise WeightsError("landmarker 'dlib68' needs dlib: pip install 'facepipe[dlib]'") from exc
        self._dlib = dlib
        self._net = dlib.shape_predictor(str(path))

    def fit(self, image: Picture, box: NDArray[np.float32]) -> Fit:
        """Fit the face in `box`, ``xyxy`` pixels of the RGB picture."""
        extent = box[2:] - box[:2]
        size = float(np.sqrt(extent[0] * extent[1]))
        x, y = (box[:2] + box[2:]) / 2 + np.array([0, self._DOWN * size])
        half = self._SIDE * size / 2
        square = self._dlib.rectangle(round(x - half), round(y - half), round(x + half), round(y + half))
        shape = self._net(np.ascontiguousarray(image), square)
        return Fit(np.array([(p.x, p.y) for p in shape.parts()], np.float32))

    def follow(self, image: Picture, last: Fit) -> Fit:
        """Fit from the box of the last points; the pipeline prefers a detector's box."""
        return self.fit(image, np.concatenate([last.landmarks.min(0), last.landmarks.max(0)]))


class Fan:
    """FAN (Bulat & Tzimiropoulos 2017, DOI 10.1109/ICCV.2017.116), 68 points, by face-alignment."""

    name = "fan"
    follows = False

    def __init__(self, path: Path, *, device: str = "cpu") -> None:
        import face_alignment
        import torch
        from face_alignment.models import FAN

        class LocalFan(face_alignment.FaceAlignment):  # type: ignore[misc, unused-ignore]
            """face-alignment with weights from our verified file instead of its own download."""

            def _load_native(self, _name: str, size: int, device: str, dtype: Any) -> Any:
                net = FAN(size)
                net.load_state_dict(torch.load(path, map_location=device, weights_only=True))
                return net.to(device, dtype=dtype).eval()

        self._net = LocalFan(
            face_alignment.LandmarksType.TWO_D,
            device=device,
            compile=False,  # minutes at the start, and no gain on a CPU
            face_detector="yunet",
            face_detector_kwargs={"path_to_detector": str(weights.path("yunet"))},
        )

    def fit(self, image: Picture, box: NDArray[np.float32]) -> Fit:
        """Fit the face in `box`, ``xyxy`` pixels of the RGB picture."""
        points = self._net.get_landmarks_from_image(np.ascontiguousarray(image), detected_faces=[box.tolist()])
        return Fit(np.asarray(points[0], np.float32))

    def follow(self, image: Picture, last: Fit) -> Fit:
        """Fit from the box of the last points; the pipeline prefers a detector's box."""
        return self.fit(image, np.concatenate([last.landmarks.min(0), last.landmarks.max(0)]))


def load_landmarker(name: str, *, device: str = "cpu") -> Landmarker:
    """The landmarker called `name`, one of `LANDMARKERS`, with its weights from the cache.

    Raises
    ------
    UsageError
        Unknown name.
    WeightsMissingError
        The weights are not on this machine; the message says how to get them.
    WeightsError
        A package that the landmarker needs is not installed.
    """
    if name == "facemesh":
        return FaceMesh(weights.path("facemesh"))
    if name == "dlib68":
        return Dlib68(weights.path("dlib68"))
    if name == "fan":
        return Fan(weights.path("fan"), device=device)
    raise UsageError(f"landmarker {name!r} is unknown; expected one of {', '.join(LANDMARKERS)}")
