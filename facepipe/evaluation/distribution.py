"""Distances between sets of faces, swapped and real, by the features of a net that never saw either."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from facepipe import geometry, metrics
from facepipe.image import warp
from facepipe.types import Image

if TYPE_CHECKING:  # loads torch
    from facepipe.backends.features import FeatureNet, Features

__all__ = ["LEAST_FACES", "compare_sets", "face_picture", "join_features"]

LEAST_FACES = 40
"""Faces of each set without which no distance is told."""

_SIDE = 384  # of all pictures that are compared, whatever the side of the crops: features see the scale

_HALVES = 60  # of the sets, for the intervals


def face_picture(image: Image, image_to_crop: NDArray[np.float64], crop_side: int) -> Image:
    """(384, 384, 3) uint8: an aligned face as the feature net gets it.

    Parameters
    ----------
    image : (H, W, 3) uint8 array
        A frame or an aligned crop.
    image_to_crop : (2, 3) float64 array
        ``frame_to_crop`` for a frame.
    crop_side : int
        Side of that aligned crop in pixels.
    """
    return warp(image, geometry.compose(image_to_crop, geometry.scaling(_SIDE / crop_side)), (_SIDE, _SIDE))


def join_features(parts: Sequence[Features]) -> Features:
    """Features of several batches as one set."""
    from facepipe.backends.features import Features

    known = [part.probabilities for part in parts if part.probabilities is not None]
    return Features(np.concatenate([part.values for part in parts]), np.concatenate(known) if known else None)


def compare_sets(
    net: FeatureNet, swapped: Features | None, target: Features | None, source: Features | None
) -> tuple[dict[str, Any] | None, dict[str, str]]:
    """The section ``image.distribution`` of ``scores.json``.

    Parameters
    ----------
    net : FeatureNet
        That made the features.
    swapped, target, source : Features or None
        Of swapped faces, of the target's own faces on the same frames, of the source person's own faces.

    Returns
    -------
    section : dict or None
        None when there are too few faces for anything.
    missing : dict from name to reason
        What could not be told. A Fréchet distance of fewer faces than features has a singular covariance and is not
        told at all; the kernel distance has no such bias.
    """
    sets = {"swapped": swapped, "target": target, "source": source}
    sizes = {name: 0 if one is None else len(one.values) for name, one in sets.items()}
    missing: dict[str, str] = {}
    if sizes["swapped"] < LEAST_FACES:
        reason = f"{sizes['swapped']} swapped faces were sampled, {LEAST_FACES} are needed"
        return None, {"image.distribution": reason}
    section: dict[str, Any] = {"net": net.label, "samples": sizes}
    for name in ("target", "source"):
        section[f"to_{name}"] = _distances(net, name, sets, missing)
    section["class_score"] = {name: _class_score(name, sets[name], missing) for name in ("swapped", "target")}
    return section, missing


def _distances(
    net: FeatureNet, name: str, sets: dict[str, Features | None], missing: dict[str, str]
) -> dict[str, Any]:
    where = f"image.distribution.to_{name}"
    swapped, other = sets["swapped"], sets[name]
    least = min(0 if one is None else len(one.values) for one in (swapped, other))
    values: dict[str, Any] = {"frechet": None, "kernel": None}
    if least < LEAST_FACES or swapped is None or other is None:
        missing[where] = f"{least} faces of one set, {LEAST_FACES} are needed"
        return values
    pair = swapped.values, other.values
    if least > net.dim:
        values["frechet"] = _halved(metrics.frechet_distance_of_features, *pair)
    else:
        missing[f"{where}.frechet"] = f"{least} faces for {net.dim} features: more faces than features are needed"
    values["kernel"] = _halved(metrics.kernel_distance, *pair)
    return values


def _class_score(name: str, features: Features | None, missing: dict[str, str]) -> dict[str, Any] | None:
    where = f"image.distribution.class_score.{name}"
    if features is None or features.probabilities is None:
        missing[where] = "the feature net has no classes" if features is not None else "no faces were sampled"
        return None
    if len(features.probabilities) < LEAST_FACES:
        missing[where] = f"{len(features.probabilities)} faces, {LEAST_FACES} are needed"
        return None
    return _halved(lambda rows: metrics.inception_score(rows, splits=1)[0], features.probabilities)


def _halved(statistic: Callable[..., float], *sets: Any) -> dict[str, Any]:
    found = metrics.half_sampling(statistic, *sets, resamples=_HALVES)
    ends = [end if math.isfinite(end) else None for end in (found.low, found.high)]
    return {"value": found.value, "low": ends[0], "high": ends[1], "n": min(map(len, sets))}
