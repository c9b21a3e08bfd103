"""Stage *detect*: every face of every frame, with landmarks, pose, track and embedding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from facepipe import geometry
from facepipe.backends.embedders import Embedder
from facepipe.boxes import area, common
from facepipe.config import DetectConfig, LimitsConfig
from facepipe.finder import Finder, Found, Models
from facepipe.gaps import fill_gaps
from facepipe.tracks import link_tracks, near, neighbourhood
from facepipe.types import Faces, Flag, Image
from facepipe.video import Frame

__all__ = ["detect_faces", "misfit", "quality_flags"]

_BATCH = 16
_FIRST = 5  # faces of a track that are embedded one after the other
_OWN = 0.82  # of the landmarks' extent lies in the face's box; 0.85 and more where they are right, else 0.47 to 0.8


def detect_faces(
    frames: Iterable[Frame],
    models: Models,
    config: DetectConfig,
    limits: LimitsConfig,
    size: tuple[int, int],
) -> Faces:
    """Find, follow, embed and flag the faces of a clip.

    Parameters
    ----------
    frames : iterable of Frame
        In order of display; only `config.stride` of them are held at a time.
    models : Models
        See `facepipe.finder.load_models`.
    config, limits
        Settings.
    size : (int, int)
        Height and width of the frames.

    Returns
    -------
    Faces
        ``frame_to_crop`` and ``sharpness`` are left to stage *align* (zeros). Tracks are one person's each and end at
        cuts; short gaps of them are filled, see `facepipe.tracks` and `facepipe.gaps`.
    """
    rows: list[_Row] = []
    times: dict[int, int] = {}
    looks = None if models.embedder is None else _Looks(models.embedder, config.embed_stride)
    finder = Finder(models.detector, models.landmarker, stride=config.stride)
    for frame, found in finder(frames):
        times[frame.index] = frame.pts
        if looks is not None:
            looks.see(frame, found, len(rows))
        rows += [_Row(frame.index, frame.pts, number, face) for number, face in enumerate(found)]
    faces = _table(rows, None if looks is None else looks.table(len(rows)))
    if not len(faces):
        return faces
    faces = faces.with_columns(flags=quality_flags(faces, size, limits))
    shown = list(times)
    faces = faces.with_columns(
        track=link_tracks(faces, [shown[i] for i in finder.scenes.cuts()], memory=config.memory)
    )
    return _described(fill_gaps(faces, times, config.fill), size, limits)


class _Looks:
    """Embeds in batches what is needed to tell who faces are.

    A face that is followed and alone stays who it is: a few of a track tell as much as all, and embedding is most of
    the stage's work. Where another face is near, each counts.
    """

    def __init__(self, embedder: Embedder, stride: int) -> None:
        self._embedder = embedder
        self._stride = stride
        self._seen: Counter[int] = Counter()  # faces of each of the finder's tracks that were embedded
        self._crops: list[Image] = []
        self._rows: list[int] = []
        self._done: list[NDArray[np.float32]] = []

    def see(self, frame: Frame, found: list[Found], first: int) -> None:
        """Embed those of a frame's faces that need it; the first of them has the row `first` of the table."""
        beside = near(np.stack([face.box for face in found])) if len(found) > 1 else np.zeros(len(found), bool)
        for row, (face, crowded) in enumerate(zip(found, beside, strict=True), first):
            if frame.index % self._stride == 0 or crowded or self._seen[face.track] < _FIRST:
                self._seen[face.track] += 1
                self._rows.append(row)
                self._crops.append(self._embedder.crop(frame.image, face.box, face.fit.landmarks))
                if len(self._crops) == _BATCH:
                    self._embed()

    def _embed(self) -> None:
        self._done.append(self._embedder.embed(np.stack(self._crops)))
        self._crops = []

    def table(self, count: int) -> NDArray[np.float32]:
        """(N, D) of all rows; NaN for those that were not embedded."""
        if self._crops:
            self._embed()
        found = np.full((count, self._embedder.dim), np.nan, np.float32)
        if self._done:
            found[self._rows] = np.concatenate(self._done)
        return found


def _described(faces: Faces, size: tuple[int, int], limits: LimitsConfig) -> Faces:
    """The faces with pose and flags of those that were filled in."""
    rows = np.flatnonzero(faces.flags & Flag.FILLED)
    if not rows.size:
        return faces
    pose = {name: getattr(faces, name).copy() for name in ("yaw", "pitch", "roll")}
    for name, values in zip(pose, geometry.face_pose(faces.landmarks[rows], faces.mesh[rows]), strict=True):
        pose[name][rows] = values
    faces = faces.with_columns(**pose)
    flags = faces.flags.copy()
    flags[rows] |= quality_flags(faces, size, limits)[rows]
    return faces.with_columns(flags=flags)


@dataclass(frozen=True, slots=True)
class _Row:
    """A face without its picture, so that a clip's pictures are not kept."""

    frame: int
    pts: int
    number: int
    found: Found


def _table(rows: list[_Row], embeddings: NDArray[np.float32] | None) -> Faces:
    """Columns of the rows; pose by the mesh in three dimensions, else by the 68 points."""
    if not rows:
        return Faces.empty()
    fits = [row.found.fit for row in rows]
    landmarks = np.stack([fit.landmarks for fit in fits])
    meshes = [fit.mesh for fit in fits if fit.mesh is not None]
    mesh = np.stack(meshes) if len(meshes) == len(fits) else np.empty((len(rows), 0, 3), np.float32)
    yaw, pitch, roll = geometry.face_pose(landmarks, mesh)
    n, f32, i32 = len(rows), np.float32, np.int32
    return Faces(
        frame=np.array([row.frame for row in rows], np.int64),
        pts=np.array([row.pts for row in rows], np.int64),
        face=np.array([row.number for row in rows], i32),
        track=np.array([row.found.track for row in rows], i32),
        box=np.stack([row.found.box for row in rows]).astype(f32),
        score=np.array([row.found.score for row in rows], f32),
        landmarks=landmarks,
        mesh=mesh,
        frame_to_crop=np.zeros((n, 2, 3)),
        embedding=np.empty((n, 0), f32) if embeddings is None else embeddings,
        yaw=yaw.astype(f32),
        pitch=pitch.astype(f32),
        roll=roll.astype(f32),
        sharpness=np.zeros(n, f32),
        flags=np.zeros(n, i32),
    )


def misfit(landmarks: NDArray[np.float32]) -> NDArray[np.float64]:
    """Root-mean-square residual (...,) of the five points to the ArcFace template, in pixels of its 112.

    Large for extreme poses and for landmarks that do not lie on a face; infinite for points that fix no transform.
    """
    five = geometry.five_points(landmarks)
    template = geometry.TEMPLATES["arcface5"]
    placed = geometry.apply(geometry.fit_each(five, template), five)
    residual = np.sqrt(((placed - template) ** 2).sum(-1).mean(-1))
    return np.asarray(np.where(np.isnan(residual), np.inf, residual))


def quality_flags(faces: Faces, size: tuple[int, int], limits: LimitsConfig) -> NDArray[np.int32]:
    """(N,) bits of `Flag` for what can be told from landmarks and boxes alone (all but blur)."""
    five = geometry.five_points(faces.landmarks)
    eyes = np.linalg.norm(five[:, 1] - five[:, 0], axis=-1)
    height, width = size
    low, high = faces.landmarks.min(1), faces.landmarks.max(1)
    room = 0.03 * (high - low).max(-1, keepdims=True)
    outside = ((low < -room) | (high > np.array([width - 1, height - 1]) + room)).any(-1)
    flags = np.zeros(len(faces), np.int32)
    # The distance between the eyes shrinks with the cosine of yaw; judge the size of the face, not its pose.
    flags[eyes / np.maximum(np.cos(np.radians(faces.yaw)), 0.3) < limits.min_eye_distance] |= Flag.SMALL
    flags[np.abs(faces.yaw) > limits.max_yaw] |= Flag.PROFILE
    flags[outside] |= Flag.CUT_OFF
    flags[(misfit(faces.landmarks) > limits.max_misfit) | _slipped(faces)] |= Flag.MISFIT
    return flags


def _slipped(faces: Faces) -> NDArray[np.bool_]:
    """(N,) bool: half-hidden faces whose landmarks lie on the face in front."""
    extent = np.concatenate([faces.landmarks.min(1), faces.landmarks.max(1)], axis=1)
    return neighbourhood(faces)[1] & (common(extent, faces.box) < _OWN * area(extent))
