"""Stage *detect*: every face of every frame, with landmarks, pose, track and embedding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

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
_BLOCK = 256  # faces that are kept one by one before they go into a table
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
        ``frame_to_crop``, ``sharpness`` and ``eyes`` are left to stage *align* (zeros, NaN). Tracks are one person's
        each and end at cuts; short gaps of them are filled, see `facepipe.tracks` and `facepipe.gaps`.
    """
    rows = _Rows()
    times: dict[int, int] = {}
    looks = None if models.embedder is None else _Looks(models.embedder, config.embed_stride)
    finder = Finder(models.detector, models.landmarker, stride=config.stride)
    for frame, found in finder(frames):
        times[frame.index] = frame.pts
        if looks is not None:
            looks.see(frame, found, len(rows))
        rows.add(frame, found)
    faces = rows.table()
    if not len(faces):
        return faces
    if looks is not None:
        faces = faces.with_columns(embedding=looks.table(len(faces)))
    faces = _described(faces, slice(None), size, limits)
    shown = list(times)
    faces = faces.with_columns(
        track=link_tracks(faces, [shown[i] for i in finder.scenes.cuts()], memory=config.memory)
    )
    faces = fill_gaps(faces, times, config.fill)
    filled = np.flatnonzero(faces.flags & Flag.FILLED)
    return _described(faces, filled, size, limits) if filled.size else faces


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
                self._crops.append(self._embedder.crop(frame.pixels, face.box, face.fit.landmarks))
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


class _Rows:
    """The faces of a clip so far, without the pictures.

    Hundreds at a time go into one table: as many small arrays, each made between two pictures, would pin the memory of
    all pictures that there ever were.
    """

    def __init__(self) -> None:
        self._blocks: list[Faces] = []
        self._fresh: list[tuple[int, int, int, Found]] = []  # frame, pts, number in the frame, face

    def __len__(self) -> int:
        return sum(map(len, self._blocks)) + len(self._fresh)

    def add(self, frame: Frame, found: list[Found]) -> None:
        """Put a frame's faces below those of the frames before."""
        self._fresh += [(frame.index, frame.pts, number, face) for number, face in enumerate(found)]
        if len(self._fresh) >= _BLOCK:
            self._blocks.append(_table(self._fresh))
            self._fresh = []

    def table(self) -> Faces:
        """All of them, without pose, embeddings, tracks of people, and flags."""
        blocks = [*self._blocks, _table(self._fresh)] if self._fresh else self._blocks
        return Faces.concatenate(blocks) if blocks else Faces.empty()


def _table(rows: list[tuple[int, int, int, Found]]) -> Faces:
    """What the finder told of some faces; zeros where it tells nothing."""
    frame, pts, number, found = zip(*rows, strict=True)
    meshes = [face.fit.mesh for face in found if face.fit.mesh is not None]
    n, f32, i32 = len(rows), np.float32, np.int32
    return Faces(
        frame=np.array(frame, np.int64),
        pts=np.array(pts, np.int64),
        face=np.array(number, i32),
        track=np.array([face.track for face in found], i32),
        box=np.stack([face.box for face in found]).astype(f32),
        score=np.array([face.score for face in found], f32),
        landmarks=np.stack([face.fit.landmarks for face in found]),
        mesh=np.stack(meshes) if len(meshes) == n else np.empty((n, 0, 3), f32),
        frame_to_crop=np.zeros((n, 2, 3)),
        embedding=np.empty((n, 0), f32),
        yaw=np.zeros(n, f32),
        pitch=np.zeros(n, f32),
        roll=np.zeros(n, f32),
        sharpness=np.zeros(n, f32),
        eyes=np.full((n, 2), np.nan, f32),
        flags=np.zeros(n, i32),
    )


def _described(faces: Faces, rows: slice | NDArray[np.intp], size: tuple[int, int], limits: LimitsConfig) -> Faces:
    """The faces with pose and flags of some rows; pose by the mesh in three dimensions, else by the 68 points."""
    pose = {name: getattr(faces, name).copy() for name in ("yaw", "pitch", "roll")}
    for name, values in zip(pose, geometry.face_pose(faces.landmarks[rows], faces.mesh[rows]), strict=True):
        pose[name][rows] = values
    faces = faces.with_columns(**pose)
    flags = faces.flags.copy()
    flags[rows] |= quality_flags(faces, size, limits)[rows]
    return faces.with_columns(flags=flags)


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
