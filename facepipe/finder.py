"""Finds faces in successive frames and follows them.

The detector looks at the first frame and at every n-th after it. Between two looks each face is followed by its
landmarks, and what was followed counts only if both looks agree on who is there and nothing was in doubt on the way,
as faces that overlap are, and frames around a cut; otherwise the detector looks at each frame of the stretch. So the
stride changes the speed and, but for faces that come and go between two looks, not the faces.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from facepipe import geometry
from facepipe.backends.detectors import Detections, Detector, load_detector
from facepipe.backends.embedders import Embedder, load_embedder
from facepipe.backends.landmarkers import Fit, Landmarker, load_landmarker
from facepipe.boxes import area, common
from facepipe.config import DetectConfig
from facepipe.cuts import CutFinder
from facepipe.errors import DegenerateLandmarksError
from facepipe.image import Picture, warp
from facepipe.video import Frame

__all__ = ["Finder", "Found", "Models", "load_models"]

_PATCH = 24
_OVERLAP = 0.02  # overlap of two boxes (IoU) from which on the detector looks at every frame


@dataclass(frozen=True, slots=True)
class Models:
    """The nets that the stage runs; loaded once, used for all clips."""

    detector: Detector
    landmarker: Landmarker
    embedder: Embedder | None


def load_models(config: DetectConfig, *, device: str = "cpu") -> Models:
    """Load what `config` names; raises `WeightsMissingError` with the way out when something is not there."""
    return Models(
        detector=load_detector(config.detector, device=device, threshold=config.threshold, max_side=config.max_side),
        landmarker=load_landmarker(config.landmarker, device=device),
        embedder=None if config.embedder == "none" else load_embedder(config.embedder, device=device),
    )


@dataclass(frozen=True, slots=True)
class Found:
    """A face in a frame: the detector's box (carried along between its looks), its score, the fit, the track."""

    box: NDArray[np.float32]
    score: float
    fit: Fit
    track: int


class Finder:
    """Faces of successive frames, each with the number of its track.

    Parameters
    ----------
    detector, landmarker
        See `facepipe.backends`.
    stride : int
        Frames from one look of the detector to the next. A landmarker that cannot follow a face gets a look at
        every frame.
    """

    def __init__(self, detector: Detector, landmarker: Landmarker, *, stride: int = 5) -> None:
        self._detector = detector
        self._landmarker = landmarker
        self._stride = stride if landmarker.follows else 1
        self._tracks: list[Found] = []
        self._patches: list[NDArray[np.float32]] = []
        self._next = 0
        self.scenes = CutFinder()
        """Has seen all frames that were drawn."""
        self.looks = 0
        """How often the detector ran."""

    def __call__(self, frames: Iterable[Frame]) -> Iterator[tuple[Frame, list[Found]]]:
        """Yield each frame with its faces, largest first. At most `stride` frames are held at a time."""
        stretch: list[Frame] = []
        changed = False
        for frame in frames:
            stretch.append(frame)
            changed |= self.scenes.see(frame.small(self.scenes.SIDE)[0])
            if len(stretch) == (self._stride if self.looks else 1):  # who is there at the start may be gone soon
                yield from self._through(stretch, changed)
                stretch, changed = [], False
        if stretch:
            yield from self._through(stretch, changed)

    def _look(self, frame: Frame) -> Detections:
        self.looks += 1
        return self._detector.detect(frame.image)

    def _through(self, stretch: list[Frame], changed: bool) -> Iterator[tuple[Frame, list[Found]]]:
        """Follow the faces through the stretch if the look at its end confirms it, else look everywhere."""
        at_end = self._look(stretch[-1])
        followed = None if changed or not self._landmarker.follows else self._follow(stretch, at_end)
        if followed is None:
            for frame in stretch:
                self._step(frame, at_end if frame is stretch[-1] else self._look(frame))
                yield frame, _by_size(self._tracks)
        else:
            for frame, found in zip(stretch, followed, strict=True):
                yield frame, _by_size(found)

    def _follow(self, stretch: list[Frame], at_end: Detections) -> list[list[Found]] | None:
        """The tracks in each frame of the stretch; None when anything is in doubt."""
        if len(at_end) != len(self._tracks):
            return None
        tracks, patches, result = self._tracks, self._patches, []
        for frame in stretch:
            if _mixed(_boxes(tracks)).any():
                return None
            tracks = [_carry(track, self._landmarker.follow(frame.pixels, track.fit)) for track in tracks]
            fresh = [_patch(frame.pixels, track.fit) for track in tracks]
            if any(_doubtful(old, new) for old, new in zip(patches, fresh, strict=True)):
                return None
            patches = fresh
            result.append(tracks)
        pairs = _match(tracks, at_end)
        if len(pairs) != len(tracks):
            return None
        tracks = [
            replace(t, box=at_end.boxes[pairs[i]], score=float(at_end.scores[pairs[i]])) for i, t in enumerate(tracks)
        ]
        self._tracks, self._patches = tracks, patches
        return [*result[:-1], tracks]

    def _step(self, frame: Frame, seen: Detections) -> None:
        """Go to a frame in which the detector has looked: follow, match, seed what is new, drop what is gone."""
        tracks = self._tracks
        if self._landmarker.follows:
            tracks = [
                track if beside else _carry(track, self._landmarker.follow(frame.pixels, track.fit))
                for track, beside in zip(tracks, _mixed(_boxes(tracks)), strict=True)
            ]
        pairs = {column: row for row, column in _match(tracks, seen).items()}
        mixed = _mixed(seen.boxes)
        fresh = []
        for i, (box, score) in enumerate(zip(seen.boxes, seen.scores, strict=True)):
            known = tracks[pairs[i]] if i in pairs else None
            if known is not None and self._landmarker.follows and not mixed[i]:
                fit = known.fit
            else:
                fit = self._landmarker.fit(frame.pixels, box)
            number = self._number() if known is None else known.track
            fresh.append(Found(box, float(score), fit, number))
        self._tracks = fresh
        self._patches = [_patch(frame.pixels, track.fit) for track in fresh]

    def _number(self) -> int:
        self._next += 1
        return self._next - 1


def _by_size(found: list[Found]) -> list[Found]:
    return sorted(found, key=lambda face: (-float(area(face.box)), face.track))


def _points(fit: Fit) -> NDArray[np.float32]:
    return fit.landmarks if fit.mesh is None else fit.mesh[:, :2]


def _carry(last: Found, fit: Fit) -> Found:
    """The track at its new fit; its box moves and grows as the landmarks do."""
    old, new = _points(last.fit), _points(fit)
    sizes = [float(np.linalg.norm(np.ptp(points, axis=0))) for points in (old, new)]
    ratio = sizes[1] / max(sizes[0], 1e-6)
    before, after = (old.min(0) + old.max(0)) / 2, (new.min(0) + new.max(0)) / 2
    box = (last.box.reshape(2, 2) - before) * ratio + after
    return Found(box.reshape(4).astype(np.float32), last.score, fit, last.track)


def _iou(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """Intersection over union of boxes (N, 4) and (M, 4): (N, M)."""
    shared = common(a[:, None], b[None])
    return np.asarray(shared / np.maximum(area(a)[:, None] + area(b)[None] - shared, 1e-9))


def _boxes(tracks: list[Found]) -> NDArray[np.float32]:
    return np.array([track.box for track in tracks], np.float32).reshape(-1, 4)


def _mixed(boxes: NDArray[np.float32]) -> NDArray[np.bool_]:
    """(N,) bool: boxes that share something with another.

    A fit that is followed there may go over to the other face, and take its box along: look instead.
    """
    return np.asarray((_iou(boxes, boxes) > _OVERLAP).sum(1) > 1)


def _match(tracks: list[Found], seen: Detections) -> dict[int, int]:
    """Track -> detection by the best total overlap; a fit whose centre has left its box is no match."""
    if not tracks or not len(seen):
        return {}
    from scipy.optimize import linear_sum_assignment  # a third of a second, at every start of the command line

    overlap = _iou(_boxes(tracks), seen.boxes)
    pairs = {}
    for row, column in zip(*linear_sum_assignment(-overlap), strict=True):
        centre = _points(tracks[row].fit).mean(0)
        box = seen.boxes[column]
        if overlap[row, column] > 0.25 and (box[:2] < centre).all() and (centre < box[2:]).all():
            pairs[int(row)] = int(column)
    return pairs


def _patch(image: Picture, fit: Fit) -> NDArray[np.float32]:
    """A small grey picture of the face, aligned and with its mean and contrast removed: (P, P) float32."""
    template = geometry.template("arcface5", _PATCH)
    try:
        matrix = geometry.umeyama(geometry.five_points(fit.landmarks), template)[:2]
    except DegenerateLandmarksError:
        return np.zeros((_PATCH, _PATCH), np.float32)
    grey = cv2.cvtColor(warp(image, matrix, (_PATCH, _PATCH)), cv2.COLOR_RGB2GRAY).astype(np.float32)
    grey -= grey.mean()
    return grey / max(float(np.linalg.norm(grey)), 1e-6)


def _doubtful(old: NDArray[np.float32], new: NDArray[np.float32], *, least: float = 0.8) -> bool:
    """Whether two successive patches of a track correlate too little to be the same face."""
    return float((old * new).sum()) < least
