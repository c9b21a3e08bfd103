"""Scores by what the target's face is like: where a method fails, and on how many frames that is known."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facepipe.evaluation.measures import SKIN_TONES
from facepipe.evaluation.rows import Rows, median

__all__ = ["KINDS", "bucket_section"]

KINDS: Mapping[str, tuple[float, ...]] = {
    "yaw": (15, 30, 45),
    "size": (24, 48, 96),
    "blur": (4, 8, 16),
    "brightness": (30, 50, 70),
    "skin": tuple(least for least, _ in reversed(SKIN_TONES)),
    "occlusion": (0.05, 0.2),
}
"""Inner edges of the buckets: degrees to either side, inter-ocular pixels, grey levels of the Laplacian in the aligned
crop, L*, degrees of ITA, share of the inner face. Fixed, so that runs can be compared."""

_REASONS = {
    "occlusion": "swap.occlusion was off: the mask does not tell what is in front of the face",
    "blur": "the faces' sharpness is not in the table: stage align has not measured it",
}
_UNITS = {"yaw": "°", "size": " px", "blur": "", "brightness": " L*", "skin": "°", "occlusion": ""}


def bucket_section(rows: Rows, nets: Sequence[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """The section ``buckets`` of ``scores.json``, and what is missing of it.

    Every kind that was measured has all of its buckets, empty ones with n = 0: what was not seen is known as well.
    """
    section, missing = {}, {}
    for kind, edges in KINDS.items():
        values = np.abs(rows.column(kind)) if kind == "yaw" else rows.column(kind)
        if not np.isfinite(values).any():
            missing[f"buckets.{kind}"] = _REASONS.get(kind, "no frame of which this is known")
            continue
        ends = [None, *edges, None]
        section[kind] = [_bucket(rows, nets, kind, values, *pair) for pair in itertools.pairwise(ends)]
    return section, missing


def _bucket(
    rows: Rows,
    nets: Sequence[str],
    kind: str,
    values: NDArray[np.float64],
    low: float | None,
    high: float | None,
) -> dict[str, Any]:
    where = np.isfinite(values)
    where &= (values >= low) if low is not None else True
    where &= (values < high) if high is not None else True
    scores = {"margin." + net: median(rows.margin(net)[where]) for net in nets}
    scores |= {"to_source." + net: rows.median(f"to_source_{net}", where) for net in nets}
    scores |= {"pose": rows.median("pose_l2", where), "expression": rows.median("expression", where)}
    scores |= {"outside_psnr": rows.median("outside_psnr", where)}
    lost = int((rows.column("found")[where] == 0).sum())
    label = _label(kind, low, high)
    return {"label": label, "low": low, "high": high, "n": int(where.sum()), "lost": lost, "values": scores}


def _label(kind: str, low: float | None, high: float | None) -> str:
    if kind == "skin":
        return next((name for least, name in SKIN_TONES if low is not None and low >= least), "dark")
    unit = _UNITS[kind]
    if kind == "occlusion":
        shown = [None if end is None else f"{100 * end:g} %" for end in (low, high)]
    else:
        shown = [None if end is None else f"{end:g}{unit}" for end in (low, high)]
    if shown[0] is None:
        return f"below {shown[1]}"
    return f"{shown[0]} and more" if shown[1] is None else f"{shown[0]} to {shown[1]}"
