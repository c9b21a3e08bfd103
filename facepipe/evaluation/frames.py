"""What is done with each frame of a clip that is scored: which measures, on its pixels, and by the nets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from facepipe import geometry, metrics
from facepipe.backends.embedders import Embedder
from facepipe.errors import DegenerateLandmarksError
from facepipe.evaluation.distribution import face_picture, join_features
from facepipe.evaluation.measures import Moment, light, occluded_share, outside, over_time, sharpness_of
from facepipe.evaluation.originals import Judge
from facepipe.evaluation.protocols import PROTOCOLS, Protocol
from facepipe.evaluation.records import ClipScores, Embedded
from facepipe.finder import Found
from facepipe.types import Faces, Image, evenly_spaced
from facepipe.video import Frame

if TYPE_CHECKING:  # loads torch, which a run with nothing to do needs not
    from facepipe.backends.features import FeatureNet, Features

__all__ = ["Measure", "Nets", "Settings", "Shown", "Wanted"]

_BATCH = 16


@dataclass(frozen=True)
class Settings:
    """What is measured of a clip.

    Attributes
    ----------
    protocol : Protocol
        Measures and frames.
    features : FeatureNet or None
        Net of the distances between sets of faces.
    samples : int
        Faces of the clip that it sees, at most.
    kept : int
        Embeddings of the clip that are kept, at most: what retrieval and verification see.
    crop_side : int
        Side of the aligned crop that ``frame_to_crop`` leads to, in pixels.
    held_out_from : int or None
        First frame that the method never learned from, where it learned from others of the clip.
    occlusion : bool
        Whether the mask leaves out what is in front of the face.
    """

    protocol: Protocol = PROTOCOLS["facepipe"]
    features: FeatureNet | None = None
    samples: int = 0
    kept: int = 512
    crop_side: int = 384
    held_out_from: int | None = None
    occlusion: bool = True


@dataclass(frozen=True)
class Wanted:
    """Which frames of a clip get what.

    Attributes
    ----------
    rows : dict from frame to row
        The frames that are measured.
    heavy, rare : frozenset of int
        Those on which heavy and rare measures are made; see `Protocol`.
    embedded, sampled : frozenset of int
        Those whose embeddings are kept, and those that the feature net sees.
    """

    rows: Mapping[int, int]
    heavy: frozenset[int]
    rare: frozenset[int]
    embedded: frozenset[int]
    sampled: frozenset[int]

    @classmethod
    def of(cls, swapped: NDArray[np.bool_], settings: Settings) -> Wanted:
        """For a clip of which `swapped`, (T,), were swapped."""
        frames = settings.protocol.frames_of(len(swapped), swapped)
        heavy, rare = settings.protocol.heavy_of(frames), settings.protocol.rare_of(frames)
        kept = heavy[evenly_spaced(len(heavy), settings.kept)]
        sampled = rare[evenly_spaced(len(rare), settings.samples)]
        return cls(
            {int(frame): row for row, frame in enumerate(frames)},
            *(frozenset(part.tolist()) for part in (heavy, rare, kept, sampled)),
        )


@dataclass
class Shown:
    """A frame on its way through the threads."""

    index: int
    pts: int
    seconds: float
    moment: Moment | None = None
    before: Moment | None = None
    swapped: Frame | None = None
    values: dict[str, Any] = field(default_factory=dict)
    points: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None
    crops: list[Image] = field(default_factory=list)
    faces: list[Image] = field(default_factory=list)


class Measure:
    """Everything of a frame that needs its pixels and no net; leaves crops for the nets and lets the pixels go."""

    def __init__(self, faces: Faces, embedders: Sequence[Embedder], settings: Settings, wanted: Wanted) -> None:
        self._faces = faces
        self._row_of = {int(frame): row for row, frame in enumerate(faces.frame)}
        self._embedders = embedders
        self._settings = settings
        self._wanted = wanted

    def __call__(self, item: tuple[Shown, Sequence[Found]]) -> Shown:
        """The frame with its values and crops; its pictures are let go."""
        one, seen = item
        if one.moment is None:
            return one
        row = self._row_of[one.index]
        face = _same_face(seen, self._faces.box[row])
        one.values = {**self._place(one, row, face), **self._pixels(one, self._faces.landmarks[row])}
        if face is not None:
            one.values |= self._pose(face, row)
            one.points = face.fit.landmarks, self._faces.landmarks[row]
            self._cut(one, face, row)
        one.moment = one.before = None
        return one

    def _place(self, one: Shown, row: int, face: Found | None) -> dict[str, Any]:
        faces = self._faces
        learned = self._settings.held_out_from
        return {
            "frame": one.index,
            "pts": one.pts,
            "seconds": one.seconds,
            "face": int(faces.face[row]),
            "track": int(faces.track[row]),
            "found": face is not None,
            "held_out": None if learned is None else one.index >= learned,
            "yaw": float(faces.yaw[row]),
            "pitch": float(faces.pitch[row]),
            "roll": float(faces.roll[row]),
            "size": float(metrics.interocular_distance(faces.landmarks[row])),
            "blur": float(faces.sharpness[row]) or None,
        }

    def _pixels(self, one: Shown, landmarks: NDArray[np.float32]) -> dict[str, Any]:
        assert one.moment is not None
        parts, values = self._settings.protocol.parts, dict[str, Any]()
        if "outside" in parts:
            values |= outside(one.moment, ssim=one.index in self._wanted.rare)
        if "sharpness" in parts:
            values |= sharpness_of(one.moment)
        if "buckets" in parts:
            values |= light(one.moment.target, landmarks)
            values["occlusion"] = occluded_share(one.moment.mask, landmarks) if self._settings.occlusion else None
        if "time" in parts and one.before is not None:
            values |= over_time(one.before, one.moment)
        return values

    def _pose(self, face: Found, row: int) -> dict[str, Any]:
        """How far the swapped face's pose is from the target's."""
        if "pose" not in self._settings.protocol.parts:
            return {}
        mesh = np.empty((1, 0, 3)) if face.fit.mesh is None else face.fit.mesh[None]
        try:
            swapped = np.concatenate(geometry.face_pose(face.fit.landmarks[None], mesh))
        except DegenerateLandmarksError:
            return {}
        target = np.array([self._faces.yaw[row], self._faces.pitch[row], self._faces.roll[row]], np.float64)
        apart = metrics.angle_error(swapped, target)
        names = ("pose_yaw", "pose_pitch", "pose_roll")
        return {
            **dict(zip(names, apart.tolist(), strict=True)),
            "pose_l2": float(np.linalg.norm(apart)),
            "pose_angle": float(metrics.pose_error(swapped, target)),
        }

    def _cut(self, one: Shown, face: Found, row: int) -> None:
        """Cut out what the nets shall see."""
        assert one.moment is not None
        if one.index in self._wanted.heavy:
            landmarks = face.fit.landmarks
            one.crops = [net.crop(one.moment.swapped, face.box, landmarks) for net in self._embedders]
        matrix = self._faces.frame_to_crop[row]
        if one.index in self._wanted.sampled and matrix.any():
            pair = (one.moment.swapped, one.moment.target)
            one.faces = [face_picture(image, matrix, self._settings.crop_side) for image in pair]


def _same_face(seen: Sequence[Found], box: NDArray[np.float32]) -> Found | None:
    """The face found in the swapped frame whose centre is nearest to the target's, if it lies within its box."""
    centre = (box[:2] + box[2:]) / 2
    best, nearest = None, float(np.linalg.norm(box[2:] - box[:2])) / 4
    for face in seen:
        distance = float(np.linalg.norm((face.box[:2] + face.box[2:]) / 2 - centre))
        if distance < nearest:
            best, nearest = face, distance
    return best


class Nets:
    """Runs the identity and feature nets on crops, in batches, and writes what they say into the scores."""

    def __init__(self, judges: Sequence[Judge], settings: Settings, scores: ClipScores, wanted: Wanted) -> None:
        self._judges = judges
        self._strangers = [judge.strangers for judge in judges]
        self._settings = settings
        self._scores = scores
        self._wanted = wanted
        self._waiting: list[tuple[int, bool, list[Image]]] = []
        self._faces: list[list[Image]] = []
        self._features: dict[str, list[Features]] = {"swapped": [], "target": []}
        self._kept: dict[str, list[tuple[int, NDArray[np.float32]]]] = {judge.embedder.name: [] for judge in judges}

    def add(self, row: int, one: Shown) -> None:
        """Take the crops of a frame; its row of the scores is written when a batch is full."""
        if one.crops:
            self._waiting.append((row, one.index in self._wanted.embedded, one.crops))
        if one.faces:
            self._faces.append(one.faces)
        if len(self._waiting) == _BATCH:
            self._embed()
        if len(self._faces) == _BATCH:
            self._describe()

    def finish(self) -> None:
        """Run what still waits, and hand over what was kept."""
        self._embed()
        self._describe()
        for net, kept in self._kept.items():
            if kept:
                rows, values = zip(*kept, strict=True)
                self._scores.embeddings[net] = Embedded(np.array(rows, np.int64), np.stack(values))
        for kind, parts in self._features.items():
            if parts:
                self._scores.features[kind] = join_features(parts)

    def _embed(self) -> None:
        if not self._waiting:
            return
        for i, (judge, strangers) in enumerate(zip(self._judges, self._strangers, strict=True)):
            net = judge.embedder.name
            embeddings = judge.embedder.embed(np.stack([crops[i] for _, _, crops in self._waiting]))
            similarities = {
                "to_source": metrics.cosine_similarity(embeddings, judge.source),
                "to_target": metrics.cosine_similarity(embeddings, judge.target),
            }
            if len(strangers):
                similarities["to_strangers"] = metrics.cosine_matrix(embeddings, strangers).mean(axis=1)
            for k, (row, kept, _) in enumerate(self._waiting):
                self._scores.put(row, {f"{kind}_{net}": float(values[k]) for kind, values in similarities.items()})
                if kept:
                    self._kept[net].append((row, embeddings[k]))
        self._waiting = []

    def _describe(self) -> None:
        if self._settings.features is not None and self._faces:
            for k, kind in enumerate(self._features):
                self._features[kind].append(self._settings.features(np.stack([faces[k] for faces in self._faces])))
        self._faces = []
