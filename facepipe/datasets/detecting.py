"""How detectable are the fakes of a data set, and does anything but the face give them away.

A detector learns on the people of *train* and *val* and is asked about those of *test*, who are others. It is asked
twice: about whole pictures, and with the face covered in real and fake alike, where nothing was swapped. The second
answer has to be chance; if it is not, the data set has a shortcut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from facepipe import metrics
from facepipe.datasets.samples import REAL, beside
from facepipe.errors import UsageError
from facepipe.stored import DAMAGED, read_array
from facepipe.types import Image
from facepipe.video import read_image
from facepipe.workspace import read_json

__all__ = ["Detectability", "Detector", "detect_fakes", "small_detector"]

Pictures = NDArray[np.uint8]
Scores = NDArray[np.float64]

Detector = Callable[[Pictures, NDArray[np.int64]], Callable[[Pictures], Scores]]
"""Learns from pictures (N, 256, 256, 3) and labels (N,), 1 for fake, and gives what scores others: higher is faker."""

_RINGS = 64  # of the spectrum
_SHRINK = 1.0  # ridge penalty of standardised features, per feature
_LEAST = 5  # videos of a kind, for an interval
_COVER = 1.25  # of the landmarks' hull: what is swapped lies within


@dataclass(frozen=True, slots=True)
class Detectability:
    """What a detector achieves on people whom it never saw.

    Attributes
    ----------
    quality : str
        Compression of the videos that it learned from and was asked about.
    auc : float
        Area under the curve over pictures; .5 is chance.
    interval : (float, float) or None
        95 %, by resampling videos (`facepipe.metrics.bootstrap`); None with fewer than five real and five fake ones.
    covered : float
        The same with faces covered: chance, unless there is a shortcut.
    covered_interval : (float, float) or None
    videos, pictures : int
        That were asked about.
    """

    quality: str
    auc: float
    interval: tuple[float, float] | None
    covered: float
    covered_interval: tuple[float, float] | None
    videos: int
    pictures: int

    @property
    def shortcut(self) -> bool:
        """Whether more than the face gives fakes away."""
        return self.covered_interval is not None and self.covered_interval[0] > 0.5


@dataclass(frozen=True)
class _Asked:
    """Pictures, their labels and videos, and the same pictures with faces covered."""

    pictures: Pictures
    covered: Pictures
    labels: NDArray[np.int64]
    videos: NDArray[np.str_]


def small_detector(pictures: Pictures, labels: NDArray[np.int64]) -> Callable[[Pictures], Scores]:
    """A linear detector on the spectrum and on features of a small net; a minute for a thousand pictures.

    The spectrum's rings are those of R. Durall et al., "Unmasking DeepFakes with simple features", 2019,
    arXiv:1911.00686; the net is MobileNetV2 of ImageNet. Ridge regression on the labels (Hoerl and Kennard 1970, DOI
    10.1080/00401706.1970.10488634).
    """
    from facepipe.backends.features import load_features

    net = load_features("mobilenetv2")

    def features(some: Pictures) -> NDArray[np.float64]:
        return np.concatenate([_spectra(some), net(some).values.astype(np.float64)], axis=1)

    x, y = features(pictures), np.where(labels == 1, 1.0, -1.0)
    mean, scale = x.mean(0), x.std(0) + 1e-6
    x = (x - mean) / scale
    weights = np.where(labels == 1, 0.5 / max(1, (labels == 1).sum()), 0.5 / max(1, (labels != 1).sum())) * len(y)
    centre = np.average(y, weights=weights)
    # The dual form: there are fewer pictures than features.
    dual = np.linalg.solve(x @ x.T + np.diag(_SHRINK * x.shape[1] / weights), y - centre)
    return lambda some: (features(some) - mean) / scale @ (x.T @ dual)


def _spectra(pictures: Pictures) -> NDArray[np.float64]:
    """(N, _RINGS) mean log power of the grey picture on rings of equal width."""
    side = pictures.shape[1]
    window = np.outer(np.hanning(side), np.hanning(side))
    radius = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side))
    ring = np.minimum((radius * 2 * _RINGS).astype(int), _RINGS - 1).ravel()
    count = np.bincount(ring, minlength=_RINGS)
    rows = []
    for picture in pictures:
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float64)
        power = np.log(np.abs(np.fft.rfft2((grey - grey.mean()) * window)) ** 2 + 1.0)
        rows.append(np.bincount(ring, weights=power.ravel(), minlength=_RINGS) / count)
    return np.stack(rows)


def detect_fakes(dest: str | Path, detector: Detector = small_detector) -> list[Detectability]:
    """Train a detector on a part of a data set and ask it about the people of another, for each compression.

    Parameters
    ----------
    dest : path
        What `export_dataset` wrote in the format *deepfakebench*.
    detector : callable
        See `Detector`; yours, or `small_detector`.

    Returns
    -------
    list of Detectability
        One for each quality.

    Raises
    ------
    UsageError
        It is no such data set, or there is nobody to learn from or to ask about.
    """
    root = Path(dest)
    sheets = [read_json(path) for path in sorted((root / "dataset_json").glob("*.json"))]
    if len(sheets) != 1 or not isinstance(sheets[0], dict):
        raise UsageError(f"{root}: expected what `facepipe export --format deepfakebench` made")
    with _reading(root):
        (kinds,) = sheets[0].values()
        qualities = sorted({quality for parts in kinds.values() for part in parts.values() for quality in part})
    return [_asked_about(root, kinds, quality, detector) for quality in qualities]


def _asked_about(root: Path, kinds: dict[str, Any], quality: str, detector: Detector) -> Detectability:
    with _reading(root):
        learned = _collected(root, kinds, quality, ("train", "val"))
        asked = _collected(root, kinds, quality, ("test",))
    for what, some in (("train and val", learned), ("test", asked)):
        if set(some.labels.tolist()) != {0, 1}:
            raise UsageError(f"{root}: real and fake of other people are needed in {what}; export more runs of others")
    results = []
    for seen, wanted in ((learned.pictures, asked.pictures), (learned.covered, asked.covered)):
        scores = detector(seen, learned.labels)(wanted)
        results.append((_auc(scores, asked.labels), _interval(scores, asked)))
    (auc, interval), (covered, covered_interval) = results
    videos = len(set(asked.videos.tolist()))
    return Detectability(quality, auc, interval, covered, covered_interval, videos, len(asked.labels))


def _collected(root: Path, kinds: dict[str, Any], quality: str, parts: tuple[str, ...]) -> _Asked:
    pictures, covered, labels, videos = [], [], [], []
    for kind, video, name in _names(kinds, quality, parts):
        image = read_image(root / name)
        points = read_array(beside(root, name)[1])
        pictures.append(image)
        covered.append(_covered(image, points))
        labels.append(int(kind != REAL))
        videos.append(f"{kind}/{video}")
    empty = np.empty((0, 1, 1, 3), np.uint8)
    return _Asked(
        np.stack(pictures) if pictures else empty,
        np.stack(covered) if covered else empty,
        np.array(labels, np.int64),
        np.array(videos, np.str_),
    )


@contextmanager
def _reading(root: Path) -> Iterator[None]:
    try:
        yield
    except DAMAGED as exc:
        raise UsageError(f"{root}: is damaged ({exc}); `facepipe export --check` tells of all") from exc


def _names(kinds: dict[str, Any], quality: str, parts: tuple[str, ...]) -> Iterator[tuple[str, str, str]]:
    """Kind, video and path below the root of each picture."""
    for kind, by_part in kinds.items():
        for part in parts:
            for video, entry in by_part.get(part, {}).get(quality, {}).items():
                yield from ((kind, video, name) for name in entry["frames"])


def _covered(image: Image, points: NDArray[np.int64]) -> Image:
    """Grey where a face may have been swapped: the landmarks' hull, raised over the forehead and widened."""
    hull = points.astype(np.float64)
    hull = np.concatenate([hull, hull[17:27] - [0, float(np.ptp(hull[:, 1])) / 2]])
    middle = (hull.min(0) + hull.max(0)) / 2
    hull = middle + _COVER * (hull - middle)
    result = image.copy()
    cv2.fillConvexPoly(result, cv2.convexHull(np.rint(hull).astype(np.int32)), (127, 127, 127))
    return result


def _auc(scores: Scores, labels: NDArray[np.int64]) -> float:
    return metrics.verification(scores, labels == 1).auc


def _interval(scores: Scores, asked: _Asked) -> tuple[float, float] | None:
    """Over videos, real and fake drawn apart: pictures of one are alike."""
    rows = {name: np.flatnonzero(asked.videos == name) for name in dict.fromkeys(asked.videos.tolist())}
    kinds = [[own for own in rows.values() if asked.labels[own[0]] == kind] for kind in (0, 1)]
    if min(map(len, kinds)) < _LEAST:
        return None

    def auc(*chosen: NDArray[np.int64]) -> float:
        some = np.concatenate([own.ravel() for own in chosen])
        return _auc(scores[some], asked.labels[some])

    found = metrics.bootstrap(auc, *(np.stack(own) for own in kinds))
    return found.low, found.high
