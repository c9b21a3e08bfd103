"""Stage *score*: what a swap did, measured on the video that was written.

Every frame of the swapped video is looked at afresh: faces are found in it, embedded with nets of which at least one
had no part in making it, and compared with the source, with the target and with people who have nothing to do with
either. Outside of the mask the swapped video is compared with the target pixel by pixel. A real swap has no ground
truth; how well the method draws faces is measured on the same-identity swap, where there is one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facepipe import metrics
from facepipe.backends.detectors import Detector
from facepipe.backends.embedders import Embedder
from facepipe.backends.landmarkers import Landmarker
from facepipe.finder import Finder, Found
from facepipe.people import mean_embedding
from facepipe.types import Faces, Image, evenly_spaced
from facepipe.video import Frame

__all__ = ["ClipScores", "Judge", "Triple", "embed_rows", "reference_people", "score_clip", "summarize"]

_BATCH = 16
_SAMPLES = 32  # faces of a person that its mean embedding is made from


@cache
def reference_people() -> Mapping[str, NDArray[np.float32]]:
    """Embeddings (N, D) by net of people who take no part in any run: the floor of similarity.

    Made by ``scripts/make_reference_people`` from stills and a clip of the catalogue; holds embeddings, no pictures.
    """
    file = resources.files("facepipe").joinpath("data", "reference_people.npz")
    with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


@dataclass(frozen=True, slots=True)
class Judge:
    """An identity net and what it knows of the two people of a swap.

    Attributes
    ----------
    embedder : Embedder
        The net.
    source, target : (D,) float32 array
        Mean embeddings of the source person and of the person who was replaced, from the original clips.
    """

    embedder: Embedder
    source: NDArray[np.float32]
    target: NDArray[np.float32]

    @property
    def strangers(self) -> NDArray[np.float32]:
        """Embeddings of unrelated people; whoever is the source or the target person is left out."""
        people = reference_people()[self.embedder.name]
        own = np.stack([self.source, self.target])
        return np.asarray(people[(people @ own.T).max(axis=1) < 0.5])


def embed_rows(frames: Iterable[Frame], faces: Faces, embedder: Embedder) -> NDArray[np.float32]:
    """Mean embedding (D,) of a person by `embedder`, over at most 32 of the faces, evenly spaced.

    Parameters
    ----------
    frames : iterable of Frame
        The clip that the faces are from.
    faces : Faces
        The person's faces, best without flags.
    """
    chosen = faces[evenly_spaced(len(faces), _SAMPLES)]
    row_of = {int(frame): row for row, frame in enumerate(chosen.frame)}
    last, crops = max(row_of, default=-1), []
    for frame in frames:
        if frame.index in row_of:
            row = row_of[frame.index]
            crops.append(embedder.crop(frame.image, chosen.box[row], chosen.landmarks[row]))
        if frame.index >= last:
            break
    return mean_embedding(embedder.embed(np.stack(crops)))


@dataclass(slots=True)
class ClipScores:
    """Scores of one clip.

    Attributes
    ----------
    columns : dict of str to list
        A row a frame and swapped face; None where a number does not exist.
    landmarks : dict of str to list
        For ``swapped`` and ``target``: (frame, (68, 2) array) of each scored face, for the jitter.
    rebuilt : list of (psnr, ssim)
        Of the same-identity swap, inside its mask.
    counts : dict of str to int
        ``total, swapped, skipped, flagged, no_face, lost`` frames.
    """

    columns: dict[str, list[Any]] = field(default_factory=dict)
    landmarks: dict[str, list[tuple[int, NDArray[np.float32]]]] = field(default_factory=dict)
    rebuilt: list[tuple[float, float]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)


class _IdentityColumns:
    """Embeds faces in batches and appends their similarities to columns."""

    def __init__(self, judges: Sequence[Judge], columns: dict[str, list[Any]]) -> None:
        self._judges = judges
        self._columns = columns
        self._crops: list[list[Image]] = [[] for _ in judges]

    def add(self, image: Image, face: Found) -> None:
        for judge, crops in zip(self._judges, self._crops, strict=True):
            crops.append(judge.embedder.crop(image, face.box, face.fit.landmarks))
            if len(crops) == _BATCH:
                self._embed(judge, crops)

    def miss(self) -> None:
        """A face that was not found again has no similarity."""
        self.flush()
        for judge in self._judges:
            for kind in ("to_source", "to_target", "to_strangers"):
                self._columns.setdefault(f"{kind}_{judge.embedder.name}", []).append(None)

    def flush(self) -> None:
        for judge, crops in zip(self._judges, self._crops, strict=True):
            self._embed(judge, crops)

    def _embed(self, judge: Judge, crops: list[Image]) -> None:
        if not crops:
            return
        embeddings = judge.embedder.embed(np.stack(crops))
        crops.clear()
        strangers = judge.strangers
        values = {
            "to_source": metrics.cosine_similarity(embeddings, judge.source).tolist(),
            "to_target": metrics.cosine_similarity(embeddings, judge.target).tolist(),
            "to_strangers": metrics.cosine_matrix(embeddings, strangers).mean(axis=1).tolist()
            if len(strangers)
            else [None] * len(embeddings),
        }
        for kind, similarities in values.items():
            self._columns.setdefault(f"{kind}_{judge.embedder.name}", []).extend(similarities)


@dataclass(frozen=True)
class Triple:
    """The three videos that are scored together, frame by frame."""

    target: Iterable[Frame]
    swapped: Iterable[Frame]
    masks: Iterable[Frame]


def score_clip(
    videos: Triple,
    faces: Faces,
    swapped_frames: NDArray[np.bool_],
    judges: Sequence[Judge],
    finder: tuple[Detector, Landmarker, int],
    *,
    rebuild: Callable[[Frame], tuple[Image, Image, NDArray[np.float32]] | None] | None = None,
    rebuild_frames: frozenset[int] = frozenset(),
) -> ClipScores:
    """Score one swapped clip in a single pass, in memory that does not grow with its length in pixels.

    Parameters
    ----------
    videos : Triple
        Target, swapped video and mask video, of the same frames.
    faces : Faces
        The target person's faces, flagged ones included, one a frame at most.
    swapped_frames : (T,) bool array
        Which frames of the clip were swapped.
    judges : sequence of Judge
        Identity nets.
    finder : (Detector, Landmarker, int)
        How faces are found in the swapped video: detector, landmarker, stride.
    rebuild : callable, optional
        Same-identity swap of a target frame: truth and rebuilt picture of the face's region and its mask, or None.
    rebuild_frames : set of int
        Frames on which `rebuild` is called.
    """
    scores = ClipScores(landmarks={"swapped": [], "target": []})
    identity = _IdentityColumns(judges, scores.columns)
    row_of = {int(frame): row for row, frame in enumerate(faces.frame)}
    detector, landmarker, stride = finder
    found = Finder(detector, landmarker, stride=stride)(videos.swapped)
    for target, (swapped, seen), mask in zip(videos.target, found, videos.masks, strict=True):
        if rebuild is not None and target.index in rebuild_frames:
            _score_rebuilt(scores, rebuild(target))
        if not swapped_frames[target.index]:
            continue
        row = row_of[target.index]
        face = _same_face(seen, faces.box[row])
        _append(scores.columns, _outside(target.image, swapped.image, mask.image[..., 0]))
        _append(scores.columns, {"frame": target.index, "pts": target.pts, "face": int(faces.face[row])})
        _append(scores.columns, {"yaw": float(faces.yaw[row]), "found": face is not None})
        if face is None:
            identity.miss()
            continue
        identity.add(swapped.image, face)
        scores.landmarks["swapped"].append((target.index, face.fit.landmarks))
        scores.landmarks["target"].append((target.index, faces.landmarks[row]))
    identity.flush()
    scores.counts = _counts(faces, swapped_frames, scores.columns)
    return scores


def _append(columns: dict[str, list[Any]], values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        columns.setdefault(name, []).append(value)


def _same_face(seen: Sequence[Found], box: NDArray[np.float32]) -> Found | None:
    """The face found in the swapped frame whose centre is nearest to the target's, if it lies within its box."""
    centre = (box[:2] + box[2:]) / 2
    best, nearest = None, float(np.linalg.norm(box[2:] - box[:2])) / 4
    for face in seen:
        distance = float(np.linalg.norm((face.box[:2] + face.box[2:]) / 2 - centre))
        if distance < nearest:
            best, nearest = face, distance
    return best


def _outside(target: Image, swapped: Image, mask: NDArray[np.uint8]) -> dict[str, float | None]:
    """PSNR and SSIM of the pixels outside of the mask; PSNR is None when they are identical."""
    weights = (mask == 0).astype(np.float32)
    if not weights.any():
        return {"outside_psnr": None, "outside_ssim": None}
    psnr = metrics.psnr(target, swapped, data_range=255, mask=weights)
    ssim = metrics.ssim(target, swapped, data_range=255, mask=weights)
    return {"outside_psnr": psnr if math.isfinite(psnr) else None, "outside_ssim": ssim}


def _score_rebuilt(scores: ClipScores, result: tuple[Image, Image, NDArray[np.float32]] | None) -> None:
    if result is None:
        return
    truth, rebuilt, mask = result
    if min(mask.shape) < 16 or not mask.any():
        return
    psnr = metrics.psnr(truth, rebuilt, data_range=255, mask=mask)
    scores.rebuilt.append((psnr, metrics.ssim(truth, rebuilt, data_range=255, mask=mask)))


def _counts(faces: Faces, swapped: NDArray[np.bool_], columns: Mapping[str, list[Any]]) -> dict[str, int]:
    with_face = len(np.unique(faces.frame))
    done = int(swapped.sum())
    return {
        "total": len(swapped),
        "swapped": done,
        "skipped": with_face - done,
        "flagged": int((~faces.trusted).sum()),
        "no_face": len(swapped) - with_face,
        "lost": done - sum(columns.get("found", [])),
    }


def _median(values: Iterable[Any]) -> float | None:
    numbers = [value for value in values if value is not None]
    return float(np.median(numbers)) if numbers else None


def _jitter(points: Sequence[tuple[int, NDArray[np.float32]]]) -> dict[str, float | None]:
    """Jitter over all runs of successive frames, each weighed by its length."""
    frames = np.array([frame for frame, _ in points])
    runs = np.split(np.arange(len(points)), np.flatnonzero(np.diff(frames) != 1) + 1) if len(points) else []
    tracks = [np.stack([points[i][1] for i in run]) for run in runs if len(run) >= 3]
    if not tracks:
        return {"second_difference": None, "residual": None}
    weights = [len(track) for track in tracks]
    return {
        "second_difference": float(np.average([100 * metrics.jitter(t) for t in tracks], weights=weights)),
        "residual": float(np.average([metrics.residual_jitter(t) for t in tracks], weights=weights)),
    }


def summarize(clips: Mapping[str, ClipScores], nets: Sequence[str]) -> dict[str, Any]:
    """The numbers of ``scores.json``: medians over all frames of all clips, and the same for each clip.

    Similarities are cosines. ``margin`` is the median over frames of similarity to the source minus similarity to the
    target; ``floor`` the median similarity to unrelated people. Jitter is in per cent of the inter-ocular distance.
    """
    whole = _summary(list(clips.values()), nets)
    return {**whole, "clips": {name: _summary([scores], nets) for name, scores in clips.items()}}


def _summary(clips: Sequence[ClipScores], nets: Sequence[str]) -> dict[str, Any]:
    def column(name: str) -> list[Any]:
        return [value for clip in clips for value in clip.columns.get(name, [])]

    identity = {}
    for net in nets:
        to_source, to_target = column(f"to_source_{net}"), column(f"to_target_{net}")
        both = zip(to_source, to_target, strict=True)
        identity[net] = {
            "to_source": _median(to_source),
            "to_target": _median(to_target),
            "margin": _median(s - t for s, t in both if s is not None and t is not None),
            "floor": _median(column(f"to_strangers_{net}")),
            "n": sum(value is not None for value in to_source),
        }
    rebuilt = [pair for clip in clips for pair in clip.rebuilt]
    jitter = {}
    for kind in ("swapped", "target"):
        parts = [(_jitter(clip.landmarks[kind]), len(clip.landmarks[kind])) for clip in clips]
        jitter[kind] = {
            name: _weighted([(part[name], n) for part, n in parts]) for name in ("second_difference", "residual")
        }
    counts = [clip.counts for clip in clips]
    return {
        "identity": identity,
        "outside": {"psnr": _median(column("outside_psnr")), "ssim": _median(column("outside_ssim"))},
        "same_identity": {
            "psnr": _median(psnr for psnr, _ in rebuilt),
            "ssim": _median(ssim for _, ssim in rebuilt),
            "n": len(rebuilt),
        },
        "jitter": jitter,
        "frames": {name: sum(count[name] for count in counts) for name in (counts[0] if counts else ())},
    }


def _weighted(parts: Sequence[tuple[float | None, int]]) -> float | None:
    known = [(value, n) for value, n in parts if value is not None]
    return float(np.average([v for v, _ in known], weights=[n for _, n in known])) if known else None
