"""Stage *score*: what a swap did, measured on the video that was written.

Every frame of the swapped video is looked at afresh: faces are found in it, embedded with nets of which at least one
had no part in making it, and compared with the source, with the target and with people who have nothing to do with
either. Outside of the mask the swapped video is compared with the target pixel by pixel. A real swap has no ground
truth; how well the method draws faces is measured on the same-identity swap, where there is one.

One pass over the three videos, in memory that does not grow with their pixels. Decoding, finding, measuring and the
nets work at the same time, each on frames of its own, in order. What the numbers mean together is summarized by
`facepipe.evaluation`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray

from facepipe import metrics
from facepipe.backends.detectors import Detector
from facepipe.backends.embedders import Embedder
from facepipe.backends.landmarkers import Landmarker
from facepipe.errors import DegenerateLandmarksError, MediaError
from facepipe.evaluation.frames import Measure, Nets, Settings, Shown, Wanted
from facepipe.evaluation.measures import Moment, rebuilt
from facepipe.evaluation.originals import Judge
from facepipe.evaluation.protocols import Protocol
from facepipe.evaluation.records import ClipScores, Shake
from facepipe.finder import Finder, Found
from facepipe.overlap import ahead
from facepipe.types import Faces, Image, longest_runs
from facepipe.video import Frame

__all__ = ["Rebuilt", "Settings", "Triple", "score_clip"]

_AHEAD = 2  # frames that wait between two threads
_WAITING = 96  # measured frames that wait for the nets: without pictures but for a few crops
_REBUILT = 1 << 20  # rebuilt faces that wait as two numbers each
_STEEPEST = 70.0  # degrees: a face turned further shows no expression that can be compared

_KINDS = ("the target", "the swapped video", "the mask")

Rebuilt = tuple[Image, Image, NDArray[np.float32]]
"""A face's region as it is, as it was drawn, and the mask of what was drawn."""


@dataclass(frozen=True)
class Triple:
    """The three videos that are scored together, frame by frame; `name` is the swapped one's in error messages."""

    target: Iterable[Frame]
    swapped: Iterable[Frame]
    masks: Iterable[Frame]
    name: str = "the swapped video"

    def __iter__(self) -> Iterator[tuple[Frame, Frame, Frame]]:
        """The frames of all three; MediaError where they do not fit each other."""
        way_out = "it was changed after the swap: delete it and run again"
        for number, frames in enumerate(zip_longest(self.target, self.swapped, self.masks)):
            missing = [kind for kind, frame in zip(_KINDS, frames, strict=True) if frame is None]
            if missing:
                raise MediaError(f"{self.name}: frame {number} is missing in {' and '.join(missing)}; {way_out}")
            yield frames


def score_clip(
    videos: Triple,
    faces: Faces,
    swapped_frames: NDArray[np.bool_],
    embedders: Sequence[Embedder],
    judges: Callable[[], Sequence[Judge]],
    finder: tuple[Detector, Landmarker, int],
    *,
    same_identity: Iterable[Rebuilt] = (),
    settings: Settings | None = None,
) -> ClipScores:
    """Score one swapped clip in a single pass, in memory that does not grow with its length in pixels.

    Parameters
    ----------
    videos : Triple
        Target, swapped video and mask video, of the same frames.
    faces : Faces
        The target person's faces, flagged ones included, one a frame at most. Landmarks and pose are compared with
        those found in the swapped video, which are not smoothed: give raw ones.
    swapped_frames : (T,) bool array
        Which frames of the clip were swapped.
    embedders : sequence of Embedder
        Identity nets.
    judges : callable
        Gives one for each of them. Called when frames are on their way: it may embed faces itself.
    finder : (Detector, Landmarker, int)
        How faces are found in the swapped video: detector, landmarker, stride.
    same_identity : iterable of (truth, rebuilt, mask), optional
        Of some frames: the face's region as it is and as the same-identity swap draws it, and the mask of what was
        drawn. Iterated in a thread of its own.
    settings : Settings, optional
        What is measured; everything that needs no feature net by default.

    Raises
    ------
    MediaError
        Frames of different size, videos of different length.
    """
    settings = settings or Settings()
    wanted = Wanted.of(swapped_frames, settings)
    scores = ClipScores.of_length(len(wanted.rows))
    scores.held_out_from = settings.held_out_from
    points = _Points.of_length(len(scores))
    identity = "identity" in settings.protocol.parts
    measure = Measure(faces, embedders if identity else [], settings, wanted)
    reader = _Reader(videos, wanted)
    with (
        ahead(_quality(same_identity), _REBUILT) as rebuilt_too,
        ahead(reader.shown(), _AHEAD) as shown,
        ahead(_found(shown, finder, wanted, settings.protocol), _AHEAD) as found,
        ahead(map(measure, found), _WAITING) as measured,
    ):
        nets = Nets(judges() if identity else [], settings, scores, wanted)
        for one in measured:
            if (row := wanted.rows.get(one.index)) is not None:
                scores.put(row, one.values)
                if one.points is not None:
                    points.swapped[row], points.target[row] = one.points
                nets.add(row, one)
        nets.finish()
        scores.rebuilt = [pair for pair in rebuilt_too if pair is not None]
    scores.cut(sum(frame < reader.count for frame in wanted.rows))
    scores.jitter = {
        "swapped": _shake(points.swapped[: len(scores)], scores.column("frame")),
        "target": _shake(points.target[: len(scores)], scores.column("frame")),
    }
    if "expression" in settings.protocol.parts:
        _add_expression(scores, points)
    scores.counts = _counts(faces, swapped_frames, scores, whole=settings.protocol.frames is None)
    scores.stretches = _stretches(faces, swapped_frames, scores)
    return scores


class _Reader:
    """Decodes the three videos side by side; converts the pixels of those frames only that are looked at."""

    def __init__(self, videos: Triple, wanted: Wanted) -> None:
        self._videos = videos
        self._wanted = wanted
        self.count = 0

    def shown(self) -> Iterator[Shown]:
        """Every frame in order; those that are measured with their pixels."""
        last: Moment | None = None
        for target, swapped, mask in self._videos:
            one = Shown(target.index, target.pts, float(target.time), swapped=swapped)
            if target.index in self._wanted.rows:
                one.moment = Moment(target.image, swapped.image, np.ascontiguousarray(mask.image[..., 0]))
                self._check_sizes(one.moment)
                one.before = last if target.index in self._wanted.heavy else None
            last = one.moment
            self.count = target.index + 1
            yield one

    def _check_sizes(self, moment: Moment) -> None:
        shapes = (moment.target.shape, moment.swapped.shape, moment.mask.shape)
        target, swapped, mask = (f"{shape[1]}x{shape[0]}" for shape in shapes)
        if not target == swapped == mask:
            raise MediaError(
                f"{self._videos.name}: is {swapped} with a mask of {mask}, and the target is {target}; it was changed "
                "after the swap: delete it and run again"
            )


def _quality(pictures: Iterable[Rebuilt]) -> Iterator[tuple[float, float] | None]:
    """PSNR and SSIM of each rebuilt face."""
    return (rebuilt(*one) for one in pictures)


def _found(
    shown: Iterable[Shown], finder: tuple[Detector, Landmarker, int], wanted: Wanted, protocol: Protocol
) -> Iterator[tuple[Shown, Sequence[Found]]]:
    """Every frame with the faces of its swapped picture.

    Where a protocol looks at a few frames only, each is searched on its own: nothing can be followed between them.
    """
    detector, landmarker, stride = finder
    if protocol.frames is not None:
        for one in shown:
            here = [one.swapped] if one.swapped is not None and one.index in wanted.rows else []
            found = next(Finder(detector, landmarker, stride=1)(here), None)
            one.swapped = None
            yield one, [] if found is None else found[1]
        return
    waiting: deque[Shown] = deque()

    def frames() -> Iterator[Frame]:
        for one in shown:
            waiting.append(one)
            assert one.swapped is not None
            yield one.swapped

    for _, found_here in Finder(detector, landmarker, stride=stride)(frames()):
        one = waiting.popleft()
        one.swapped = None
        yield one, found_here


@dataclass(frozen=True, slots=True)
class _Points:
    """Landmarks of both videos: (N, 68, 2) float32, a row a measured frame; NaN where the face was not found again."""

    swapped: NDArray[np.float32]
    target: NDArray[np.float32]

    @classmethod
    def of_length(cls, rows: int) -> _Points:
        return cls(*(np.full((rows, 68, 2), np.nan, np.float32) for _ in range(2)))


def _shake(points: NDArray[np.float32], frames: NDArray[np.float64]) -> Shake:
    """Jitter over all runs of successive frames, each weighed by its length."""
    seen = np.flatnonzero(np.isfinite(points).all((1, 2)))
    runs = np.split(seen, np.flatnonzero(np.diff(frames[seen]) != 1) + 1) if len(seen) else []
    tracks = [points[run] for run in runs if len(run) >= 3]
    if not tracks:
        return Shake(None, None, len(seen))
    weights = [len(track) for track in tracks]
    return Shake(
        float(np.average([100 * metrics.jitter(track) for track in tracks], weights=weights)),
        float(np.average([metrics.residual_jitter(track) for track in tracks], weights=weights)),
        len(seen),
    )


def _add_expression(scores: ClipScores, points: _Points) -> None:
    """Column ``expression``: over the frames of each track, since every face's own shape is taken off first."""
    found = scores.columns["found"].astype(bool) & (np.abs(scores.column("yaw")) < _STEEPEST)
    for track in np.unique(scores.columns["track"][found]):
        rows = np.flatnonzero(found & (scores.columns["track"] == track))
        if len(rows) < 2:
            continue
        try:
            errors = metrics.expression_errors(points.swapped[rows], points.target[rows])
        except (ValueError, DegenerateLandmarksError):  # a fit that is no face: the detector was wrong
            continue
        for row, error in zip(rows.tolist(), errors.tolist(), strict=True):
            scores.put(row, {"expression": error})


def _counts(faces: Faces, swapped: NDArray[np.bool_], scores: ClipScores, *, whole: bool) -> dict[str, int]:
    with_face = len(np.unique(faces.frame))
    done = int(swapped.sum())
    counts = {
        "total": len(swapped),
        "swapped": done,
        "skipped": with_face - done,
        "flagged": int((~faces.trusted).sum()),
        "no_face": len(swapped) - with_face,
        "lost": int((~scores.columns["found"].astype(bool)).sum()),
    }
    return counts if whole else {**counts, "scored": len(scores)}


def _stretches(faces: Faces, swapped: NDArray[np.bool_], scores: ClipScores) -> dict[str, list[tuple[int, int]]]:
    """Where each kind of failure is: first and last frame, longest first."""
    face, lost = np.zeros(len(swapped), bool), np.zeros(len(swapped), bool)
    face[faces.frame] = True
    lost[scores.columns["frame"][~scores.columns["found"].astype(bool)]] = True
    kinds = {"no_face": ~face, "skipped": face & ~swapped, "lost": lost}
    return {kind: longest_runs(odd) for kind, odd in kinds.items()}
