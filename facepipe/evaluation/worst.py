"""Which frames a person should look at, by a badness that is stated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facepipe.evaluation.rows import Rows

__all__ = ["LOST", "badness", "worst_frames"]

LOST = "not found again"
"""Why a frame is bad in which the swapped face was not found."""

_APART = 1.0  # seconds between two frames that are listed
_LOST = 1e6  # badness of such a frame: before all others
_LEAST = 8  # frames without which there is no spread
_LEAST_CHANGE = {"flow_error": 1e-5, "edge_flicker": 0.5}  # what no eye sees, added to both sides of a ratio
_TO_DEVIATION = 1.4826  # of a normal distribution, from the median absolute deviation


def badness(rows: Rows, nets: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.str_]]:
    """(N,) how bad each frame is, and why.

    The largest of its deviations from the median of all rows to the bad side, each in units of the rows' spread
    (1.4826 times the median absolute deviation): a low margin by each net, a high pose or expression difference, a low
    PSNR outside of the mask, a high ratio of flow error and of edge flicker to the target's own. At least 0; lost
    faces come first.
    """
    worse = {f"margin.{net}": -rows.margin(net) for net in nets}
    worse |= {"pose": rows.column("pose_l2"), "expression": rows.column("expression")}
    worse["outside_psnr"] = -rows.column("outside_psnr")
    for name, least in _LEAST_CHANGE.items():
        swapped, target = (np.log(rows.column(f"{name}_{of}") + least) for of in ("swapped", "target"))
        worse[name] = swapped - target
    names = np.array([*worse, LOST])
    found = np.stack([*(_deviation(values) for values in worse.values()), np.zeros(len(rows))])
    found[-1, rows.column("found") == 0] = _LOST
    return found.max(axis=0), names[found.argmax(axis=0)]


def _deviation(values: NDArray[np.float64]) -> NDArray[np.float64]:
    known = np.isfinite(values)
    if known.sum() < _LEAST:
        return np.zeros(len(values))
    centre = np.median(values[known])
    spread = _TO_DEVIATION * np.median(np.abs(values[known] - centre))
    if spread <= 0:
        return np.zeros(len(values))
    return np.asarray(np.maximum(np.nan_to_num((values - centre) / spread, nan=0.0), 0))


def worst_frames(rows: Rows, nets: Sequence[str], most: int) -> list[dict[str, Any]]:
    """The section ``worst`` of ``scores.json``: worst first, no two within a second of a clip."""
    values, why = badness(rows, nets)
    seconds, frames, pts = (rows.column(name) for name in ("seconds", "frame", "pts"))
    names = list(rows.clips)
    chosen: list[int] = []
    for row in np.argsort(-values, kind="stable").tolist():
        if len(chosen) == most or values[row] <= 0:
            break
        near = (rows.clip[chosen] == rows.clip[row]) & (np.abs(seconds[chosen] - seconds[row]) < _APART)
        if not near.any():
            chosen.append(row)
    shown = [f"{part}_{net}" for net in nets for part in ("to_source", "to_target")]
    shown += ["pose_l2", "expression", "outside_psnr", "flow_error_swapped", "edge_flicker_swapped"]
    columns = {name: rows.column(name) for name in shown}
    return [
        {
            "clip": names[rows.clip[row]],
            "frame": int(frames[row]),
            "pts": int(pts[row]),
            "seconds": float(seconds[row]),
            "badness": float(values[row]),
            "why": str(why[row]),
            "values": {name: float(part[row]) for name, part in columns.items() if np.isfinite(part[row])},
        }
        for row in chosen
    ]
