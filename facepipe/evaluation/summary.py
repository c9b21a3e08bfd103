"""The numbers of ``scores.json``: medians with intervals, for all clips together and for each; and what is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from facepipe import metrics
from facepipe.evaluation.buckets import bucket_section
from facepipe.evaluation.describe import describe
from facepipe.evaluation.distribution import compare_sets, join_features
from facepipe.evaluation.identity import identity_section
from facepipe.evaluation.protocols import PROTOCOLS, Protocol
from facepipe.evaluation.records import ClipScores, Originals, Shake
from facepipe.evaluation.rows import IntervalJson, Rows, interval, median
from facepipe.evaluation.worst import worst_frames

if TYPE_CHECKING:  # loads torch
    from facepipe.backends.features import FeatureNet, Features

__all__ = ["VERSION", "Context", "summarize"]

VERSION = 2
"""Of the shape of ``scores.json``; see docs/evaluation.md."""

_NO_GAZE = (
    "the landmarks have no irises: FaceMesh of 468 points and the 68 points know the lids, not where the eye looks"
)
_NOT_ASKED = "the protocol {name} does not ask for it"
_NOT_REBUILT = "no frame could be rebuilt: score.reconstruct_frames is 0, or too few faces are without a flag"
_IDENTICAL = "the pixels outside of the mask are identical: the PSNR is infinite"


@dataclass(frozen=True)
class Context:
    """What the summary must know beside the scores.

    Attributes
    ----------
    nets : sequence of str
        Identity nets.
    protocol : Protocol
        What was asked for.
    originals : Originals
        The people as they are in their own clips.
    features : FeatureNet or None
        Net of the distances between sets of faces.
    missing : dict from name to reason
        What is known to be missing beforehand, such as weights.
    worst : int
        Frames to list.
    share : float or None
        Held-out share of each clip, where the method learns from target clips.
    """

    nets: Sequence[str]
    protocol: Protocol = PROTOCOLS["facepipe"]
    originals: Originals = field(default_factory=lambda: Originals({}, {}))
    features: FeatureNet | None = None
    missing: Mapping[str, str] = field(default_factory=dict)
    worst: int = 12
    share: float | None = None


def summarize(clips: Mapping[str, ClipScores], context: Context) -> dict[str, Any]:
    """Everything of ``scores.json`` that comes from the scores.

    Similarities are cosines. ``margin`` is the median over frames of similarity to the source minus similarity to the
    target; ``floor`` the median similarity to unrelated people. Jitter is in per cent of the inter-ocular distance.
    """
    whole = _sections(clips, context)
    # One clip is the whole: its intervals are not drawn again.
    parts = {name: whole if len(clips) == 1 else _sections({name: one}, context) for name, one in clips.items()}
    rows = Rows(clips)
    return {
        "version": VERSION,
        "protocol": describe(context.protocol, context.nets, context.features, whole),
        **whole,
        "worst": worst_frames(rows, context.nets, context.worst) if len(rows) else [],
        "clips": parts,
    }


def _sections(clips: Mapping[str, ClipScores], context: Context) -> dict[str, Any]:
    """The sections that stand for the whole run and for each clip."""
    rows, parts = Rows(clips), context.protocol.parts
    missing = dict(context.missing)
    missing |= {
        name: _NOT_ASKED.format(name=context.protocol.name)
        for part, names in _SECTIONS.items()
        if part not in parts
        for name in names
    }
    counts = [scores.counts for scores in clips.values()]
    sections: dict[str, Any] = {
        "frames": {name: sum(count[name] for count in counts) for name in (counts[0] if counts else ())},
        "failures": _failures(clips),
        "identity": _identity(rows, context, missing),
        "outside": _outside(rows, missing),
        "same_identity": _same_identity(clips, missing),
        "held_out": _held_out(rows, context, missing),
        "image": _image(rows, clips, context, missing),
        "pose": _pose(rows, missing),
        "expression": _one(rows, "expression", missing, "l2", unit="inter-ocular distances"),
        "gaze": None,
        "jitter": _jitter(clips, missing),
        "time": _time(rows, context, missing),
        "buckets": {},
    }
    missing["gaze"] = _NO_GAZE
    if "buckets" in parts and len(rows):
        sections["buckets"], more = bucket_section(rows, context.nets)
        missing |= more
    return {**sections, "missing": missing}


_SECTIONS: Mapping[str, tuple[str, ...]] = {
    "identity": ("identity",),
    "outside": ("outside",),
    "reconstruction": ("same_identity", "image.reconstruction"),
    "sharpness": ("image.sharpness",),
    "distribution": ("image.distribution",),
    "pose": ("pose",),
    "expression": ("expression",),
    "jitter": ("jitter",),
    "time": ("time",),
    "buckets": ("buckets",),
}


def _because(missing: dict[str, str], name: str, reason: str) -> None:
    """A reason, unless a more general one is known."""
    if not any(name == known or name.startswith(known + ".") for known in missing):
        missing[name] = reason


def _failures(clips: Mapping[str, ClipScores], most: int = 20) -> list[dict[str, Any]]:
    """The longest stretches without a face, skipped, and lost."""
    found: list[dict[str, Any]] = [
        {"clip": clip, "kind": kind, "first": first, "last": last}
        for clip, scores in clips.items()
        for kind, stretches in scores.stretches.items()
        for first, last in stretches
    ]
    return sorted(found, key=lambda one: int(one["first"]) - int(one["last"]))[:most]


def _identity(rows: Rows, context: Context, missing: dict[str, str]) -> dict[str, Any]:
    section = {}
    for net in context.nets:
        section[net], absent = identity_section(rows, net, context.originals, gallery=context.protocol.gallery)
        if section[net]["n"] == 0:
            _because(missing, f"identity.{net}", "no swapped face was found and embedded")
        for name in sorted(absent):
            _because(missing, f"identity.{net}.{name}", "no unrelated people or too few originals for this net")
    return section


def _outside(rows: Rows, missing: dict[str, str]) -> dict[str, Any]:
    values = {name: rows.interval(f"outside_{name}") for name in ("psnr", "ssim")}
    if values["psnr"] is None:
        identical = values["ssim"] is not None and values["ssim"]["value"] == 1
        _because(missing, "outside.psnr", _IDENTICAL if identical else "no pixel lies outside of a mask")
    if values["ssim"] is None:
        _because(missing, "outside.ssim", "no pixel lies outside of a mask")
    return {**{name: _value(one) for name, one in values.items()}, "intervals": values}


def _value(one: IntervalJson | None) -> float | None:
    return None if one is None else one["value"]


def _same_identity(clips: Mapping[str, ClipScores], missing: dict[str, str]) -> dict[str, Any]:
    rebuilt = [pair for scores in clips.values() for pair in scores.rebuilt]
    if not rebuilt:
        _because(missing, "same_identity", _NOT_REBUILT)
    values = np.array(rebuilt, np.float64).reshape(-1, 2)
    return {"psnr": median(values[:, 0]), "ssim": median(values[:, 1]), "n": len(rebuilt)}


def _held_out(rows: Rows, context: Context, missing: dict[str, str]) -> dict[str, Any] | None:
    """The main numbers on the frames that the method never learned from."""
    where = rows.column("held_out") == 1
    if not where.any():
        learned = any(scores.held_out_from is not None for scores in rows.clips.values())
        reason = "no held-out frame was swapped and measured" if learned else "the method learns from no target frame"
        _because(missing, "held_out", reason)
        return None
    return {
        "share": context.share,
        "n": int(where.sum()),
        "from": {clip: one.held_out_from for clip, one in rows.clips.items() if one.held_out_from is not None},
        "identity": {
            net: {
                "to_source": rows.median(f"to_source_{net}", where),
                "to_target": rows.median(f"to_target_{net}", where),
                "margin": median(rows.margin(net)[where]),
                "n": int(np.isfinite(rows.margin(net)[where]).sum()),
            }
            for net in context.nets
        },
        "outside": {name: rows.median(f"outside_{name}", where) for name in ("psnr", "ssim")},
        "pose": rows.interval("pose_l2", where),
        "expression": rows.interval("expression", where),
    }


def _image(rows: Rows, clips: Mapping[str, ClipScores], context: Context, missing: dict[str, str]) -> dict[str, Any]:
    sharpness = rows.pair("sharpness")
    if sharpness["swapped"] is None:
        _because(missing, "image.sharpness", "no mask is large enough")
    distribution = None
    if context.features is not None:
        sets = {kind: _features(clips, kind) for kind in ("swapped", "target")}
        source = context.originals.features
        distribution, more = compare_sets(context.features, sets["swapped"], sets["target"], source)
        missing |= more
    else:
        _because(missing, "image.distribution", "no feature net was given (score.features)")
    return {"reconstruction": _reconstruction(clips, missing), "sharpness": sharpness, "distribution": distribution}


def _reconstruction(clips: Mapping[str, ClipScores], missing: dict[str, str]) -> dict[str, Any]:
    """The same-identity swap with intervals; its frames are far apart, so each is a block of its own."""
    values = np.array([pair for scores in clips.values() for pair in scores.rebuilt], np.float64).reshape(-1, 2)
    if not len(values):
        _because(missing, "image.reconstruction", _NOT_REBUILT)
    alone = np.arange(len(values))
    return {name: interval(values[:, i], blocks=alone) for i, name in enumerate(("psnr", "ssim"))}


def _features(clips: Mapping[str, ClipScores], kind: str) -> Features | None:
    parts = [scores.features[kind] for scores in clips.values() if kind in scores.features]
    return join_features(parts) if parts else None


def _pose(rows: Rows, missing: dict[str, str]) -> dict[str, Any]:
    section: dict[str, Any] = {name: rows.interval(f"pose_{name}") for name in ("l2", "angle", "yaw", "pitch", "roll")}
    if section["l2"] is None:
        _because(missing, "pose", "no swapped face was found")
    missing["pose.logits_l2"] = "needs a pose net's logits (Hopenet); the catalogue has none"
    return {**section, "unit": "degrees"}


def _one(rows: Rows, column: str, missing: dict[str, str], name: str, *, unit: str) -> dict[str, Any]:
    value = rows.interval(column)
    if value is None:
        _because(missing, column, "fewer than two frames in which the face was found and looks to the front")
    return {name: value, "unit": unit}


def _time(rows: Rows, context: Context, missing: dict[str, str]) -> dict[str, Any]:
    section: dict[str, Any] = {name: rows.pair(name) for name in ("flow_error", "edge_flicker")}
    for name, values in section.items():
        if values["swapped"] is None:
            _because(missing, f"time.{name}", "no two successive frames with a mask that is large enough")
    if "time" not in context.protocol.parts:
        return {**section, "identity_variance": {}}
    section["identity_variance"] = {net: _variance(rows, context, net) for net in context.nets}
    for net, values in section["identity_variance"].items():
        for kind in (kind for kind, value in values.items() if value is None):
            _because(missing, f"time.identity_variance.{net}.{kind}", "fewer than two embedded faces")
    return section


def _variance(rows: Rows, context: Context, net: str) -> dict[str, float | None]:
    """How much identity wanders within a clip: the clips' mean, weighed by their embedded faces."""
    swapped = [scores.embeddings[net].values for scores in rows.clips.values() if net in scores.embeddings]
    targets = [context.originals.targets.get(clip, {}).get(net) for clip in rows.clips]
    kinds = {"swapped": swapped, "target": [rows for rows in targets if rows is not None]}
    return {kind: _weighted([(_wander(part), len(part)) for part in parts]) for kind, parts in kinds.items()}


def _wander(embeddings: NDArray[np.float32]) -> float | None:
    """Identity variance, with the factor that makes it comparable between numbers of frames."""
    n = len(embeddings)
    return None if n < 2 else float(metrics.identity_variance(embeddings) * n / (n - 1))


def _jitter(clips: Mapping[str, ClipScores], missing: dict[str, str]) -> dict[str, dict[str, float | None]]:
    section = {}
    for kind in ("swapped", "target"):
        parts = [scores.jitter.get(kind, Shake(None, None, 0)) for scores in clips.values()]
        section[kind] = {
            "second_difference": _weighted([(part.second_difference, part.frames) for part in parts]),
            "residual": _weighted([(part.residual, part.frames) for part in parts]),
        }
        if section[kind]["residual"] is None:
            _because(missing, f"jitter.{kind}", "no three successive frames in which the face was found")
    return section


def _weighted(parts: Sequence[tuple[float | None, int]]) -> float | None:
    known = [(value, n) for value, n in parts if value is not None]
    return float(np.average([v for v, _ in known], weights=[n for _, n in known])) if known else None
