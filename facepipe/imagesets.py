"""Scores of one folder of images against another: what ``facepipe score --pred DIR --ref DIR`` prints.

Two kinds of metrics: *paired* ones compare images of the same name; *set* ones compare the two folders as wholes, by
the features of a net, and need no common names.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facepipe import metrics as m
from facepipe.backends.features import FeatureNet, Features, load_features
from facepipe.errors import ConfigError, MediaError, UsageError
from facepipe.metrics import Interval
from facepipe.types import Image
from facepipe.video import read_image

__all__ = [
    "PAIRED_METRICS",
    "SET_METRICS",
    "FolderScores",
    "match_by_name",
    "score_folders",
]

PAIRED_METRICS = ("mse", "psnr", "ssim", "ms_ssim", "identity")
"""``identity`` is the cosine similarity of FaceNet embeddings of the whole images, which should be face crops."""

SET_METRICS = ("frechet", "kernel", "class_score", "precision", "recall", "density", "coverage", "fid", "kid", "is")
"""The last three are `frechet`, `kernel` and `class_score` on Inception's features, and have those names only there.
``class_score`` (``is``) rates the pred folder alone."""

_INCEPTION_NAMES = {"fid": "frechet", "kid": "kernel", "is": "class_score"}
_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
_LEAST_FOR_INTERVAL = 20  # images: half of them still have the neighbours that coverage wants
_SHOWN = 3  # names listed in a message


@dataclass(frozen=True)
class FolderScores:
    """What `score_folders` found.

    Attributes
    ----------
    pred, ref : int
        Number of images in each folder.
    pairs : int
        Number of pairs compared; 0 without paired metrics.
    scores : dict
        From the metric's name to its value with a 95 % interval: for paired metrics the median over the pairs, and
        its bootstrap; for set metrics by `facepipe.metrics.half_sampling`, NaN for sets too small.
    images : dict
        From the paired metric's name to the value of each image by its name.
    features : dict
        From the set metric's name to the net and resize that made the features.
    notes : tuple of str
        What a reader must know beside the numbers, such as too few images.
    """

    pred: int
    ref: int
    pairs: int
    scores: dict[str, Interval]
    images: dict[str, dict[str, float]]
    features: dict[str, str]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The same as plain types for JSON; None for infinity (the PSNR of identical images) and for NaN."""
        plain: dict[str, Any] = _finite(asdict(self))
        return plain


def score_folders(
    pred: Path,
    ref: Path,
    *,
    metrics: Sequence[str] = ("psnr", "ssim"),
    features: str = "mobilenetv2",
    weights: Path | None = None,
    device: str = "cpu",
    resamples: int = 50,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> FolderScores:
    """Score the images of a folder against those of another.

    Parameters
    ----------
    pred, ref : Path
        Folders of 8-bit images, searched with their subfolders. Paired metrics want the same names (without suffix)
        in both, and pairs of the same size.
    metrics : sequence of str
        Of `PAIRED_METRICS` and `SET_METRICS`.
    features : str
        The net of set metrics other than fid, kid and is; see `facepipe.backends.features`.
    weights : Path, optional
        Weights file of Inception, for those three.
    device : str
        Where the nets run.
    resamples : int
        Draws of the bootstrap.
    seed : int
        Of the bootstrap.
    progress : callable, optional
        Called with the number of images or pairs that were just worked on.

    Returns
    -------
    FolderScores

    Raises
    ------
    ConfigError
        Unknown metrics, or none.
    UsageError
        A folder that is not there.
    MediaError
        No images, names or sizes that do not match, files that cannot be read.
    WeightsError
        Weights of a net that is needed are not there.
    """
    wanted = _known_metrics(metrics)
    tell = progress or (lambda _count: None)
    files = _image_files(pred), _image_files(ref)
    images: dict[str, dict[str, float]] = {}
    scores: dict[str, Interval] = {}
    labels: dict[str, str] = {}
    notes: list[str] = []
    paired = [name for name in wanted if name in PAIRED_METRICS]
    pairs = match_by_name(pred, ref) if paired else []
    if paired:
        images = _paired_scores(pairs, paired, device, tell)
        for name, values in images.items():
            scores[name] = m.bootstrap(_median, list(values.values()), resamples=resamples, seed=seed)
    for net_name, group in _by_net(wanted, features).items():
        net = load_features(net_name, device=device, path=weights if net_name == "inception" else None)
        sets = [_features(net, list(each.values()), tell) for each in files]
        for name in group:
            scores[name] = _set_score(_INCEPTION_NAMES.get(name, name), *sets, resamples=resamples, seed=seed)
            labels[name] = net.label
        notes += _sample_notes(group, net, *(len(each) for each in files))
    ordered = {name: scores[name] for name in wanted}
    return FolderScores(len(files[0]), len(files[1]), len(pairs), ordered, images, labels, tuple(notes))


def match_by_name(pred: Path, ref: Path) -> list[tuple[str, Path, Path]]:
    """Files of two folders that have the same name.

    Parameters
    ----------
    pred, ref : Path
        Folders. A name is the path below the folder without its suffix: ``a/01.png`` matches ``a/01.jpg``.

    Returns
    -------
    list of (str, Path, Path)
        Name and the two files, in order of names; every file of both folders is in it.

    Raises
    ------
    UsageError
        A folder that is not there.
    MediaError
        A folder without images, a name twice in one folder, a name in one folder only.
    """
    first, second = _image_files(pred), _image_files(ref)
    only = [sorted(first.keys() - second.keys()), sorted(second.keys() - first.keys())]
    if any(only):
        found = "; ".join(
            f"{_listed(names)} only in {where}" for names, where in zip(only, (pred, ref), strict=True) if names
        )
        raise MediaError(
            f"expected the same image names in both folders, got {found}; remove or rename them, "
            "or ask only for metrics of whole sets"
        )
    return [(name, first[name], second[name]) for name in sorted(first)]


def _known_metrics(names: Sequence[str]) -> list[str]:
    known = (*PAIRED_METRICS, *SET_METRICS)
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise ConfigError(f"metrics: expected some of {', '.join(known)}, got {', '.join(unknown) or 'none'}")
    return list(dict.fromkeys(names))


def _image_files(folder: Path) -> dict[str, Path]:
    """From names to files, in order of names."""
    if not folder.is_dir():
        raise UsageError(f"{folder}: expected a folder of images, got {'a file' if folder.exists() else 'nothing'}")
    files: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.suffix.lower() not in _SUFFIXES or any(part.startswith(".") for part in relative.parts):
            continue
        name = relative.with_suffix("").as_posix()
        if name in files:
            raise MediaError(f"{folder}: expected one image named {name}, got {files[name].name} and {path.name}")
        files[name] = path
    if not files:
        raise MediaError(f"{folder}: expected images ({', '.join(sorted(_SUFFIXES))}), got none")
    return files


def _paired_scores(
    pairs: Iterable[tuple[str, Path, Path]], names: list[str], device: str, tell: Callable[[int], None]
) -> dict[str, dict[str, float]]:
    facenet = load_features("facenet", device=device) if "identity" in names else None
    scores: dict[str, dict[str, float]] = {name: {} for name in names}
    for key, *paths in pairs:
        first, second = (read_image(path, deep="refuse") for path in paths)
        if first.shape != second.shape:
            raise MediaError(f"{paths[0]}: expected the size of {paths[1]}, {second.shape[:2]}, got {first.shape[:2]}")
        for name in names:
            try:
                scores[name][key] = _paired_score(name, first, second, facenet)
            except ValueError as exc:
                raise MediaError(f"{paths[0]}: {name}: {exc}") from exc
        tell(1)
    return scores


def _paired_score(name: str, a: Image, b: Image, facenet: FeatureNet | None) -> float:
    if name == "mse":
        return m.mse(a, b)
    if facenet is not None and name == "identity":
        return float(m.cosine_similarity(*facenet(np.stack([a, b])).values))
    return {"psnr": m.psnr, "ssim": m.ssim, "ms_ssim": m.ms_ssim}[name](a, b, data_range=255)


def _by_net(names: list[str], features: str) -> dict[str, list[str]]:
    """The set metrics among `names`, by the net that they need."""
    groups: dict[str, list[str]] = {}
    for name in names:
        if name in SET_METRICS:
            groups.setdefault("inception" if name in _INCEPTION_NAMES else features, []).append(name)
    return groups


def _features(net: FeatureNet, paths: list[Path], tell: Callable[[int], None]) -> Features:
    """Features of image files, in their order; neighbours of one size go through the net together."""
    parts = []
    for batch in _batches(paths, 16):
        parts.append(net(batch))
        tell(len(batch))
    probabilities = [p.probabilities for p in parts if p.probabilities is not None]
    values = np.concatenate([p.values for p in parts])
    return Features(values, np.concatenate(probabilities) if probabilities else None)


def _batches(paths: list[Path], size: int) -> Iterator[Image]:
    waiting: list[Image] = []
    for path in paths:
        image = read_image(path, deep="refuse")
        if waiting and (len(waiting) == size or waiting[0].shape != image.shape):
            yield np.stack(waiting)
            waiting = []
        waiting.append(image)
    if waiting:
        yield np.stack(waiting)


def _set_score(name: str, pred: Features, ref: Features, *, resamples: int, seed: int) -> Interval:
    if name == "class_score":
        if pred.probabilities is None:
            raise ConfigError("class_score: expected features of a net with classes (mobilenetv2), got facenet")
        return _with_interval(_class_score, pred.probabilities, resamples=resamples, seed=seed)
    statistic = {"frechet": m.frechet_distance_of_features, "kernel": m.kernel_distance}.get(name) or _manifold_score(
        name
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", m.FewSamplesWarning)  # it stands in the notes, once
            return _with_interval(statistic, pred.values, ref.values, resamples=resamples, seed=seed)
    except ValueError as exc:
        raise MediaError(f"{name}: {exc} (pred {len(pred.values)} images, ref {len(ref.values)})") from exc


def _with_interval(statistic: Callable[..., float], *sets: NDArray[Any], resamples: int, seed: int) -> Interval:
    """With an interval of NaN where the sets are too small for one."""
    if min(map(len, sets)) < _LEAST_FOR_INTERVAL:
        return Interval(float(statistic(*sets)), math.nan, math.nan, 0.95)
    return m.half_sampling(statistic, *sets, resamples=resamples, seed=seed)


def _class_score(probabilities: NDArray[Any]) -> float:
    return m.inception_score(probabilities, splits=1)[0]


def _manifold_score(name: str) -> Callable[[NDArray[Any], NDArray[Any]], float]:
    return lambda pred, ref: float(getattr(m.manifold_scores(ref, pred), name))


def _median(values: NDArray[Any]) -> float:
    # Interpolating between two infinities (identical images have that PSNR) would give NaN.
    return float(np.quantile(values, 0.5, method="inverted_cdf"))


def _sample_notes(names: list[str], net: FeatureNet, pred: int, ref: int) -> list[str]:
    notes = []
    if min(pred, ref) < net.dim and {"frechet", "fid"} & set(names):
        notes.append(
            f"{min(pred, ref)} images for features of {net.dim} dimensions: the Fréchet distance is too large; "
            "compare it only with numbers of the same sample size"
        )
    if min(pred, ref) < _LEAST_FOR_INTERVAL:
        notes.append(f"{min(pred, ref)} images are too few for a confidence interval of {', '.join(names)}")
    return notes


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
