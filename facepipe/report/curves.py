"""Curves over the frames of a clip: the columns of ``scores.parquet``, thinned out where there are very many."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facepipe.report.words import PANELS
from facepipe.types import longest_runs

__all__ = ["POINTS", "clip_curves", "stretches", "training_curves"]

POINTS = 1500
"""Most points of a curve; of more rows, medians of neighbouring ones are shown."""

_DIGITS = 4  # significant ones

Columns = Mapping[str, NDArray[np.float64]]


def clip_curves(columns: Columns, *, most: int = POINTS, panels: Any = PANELS) -> dict[str, Any]:
    """Curves of one clip.

    Parameters
    ----------
    columns : mapping of str to (N,) float64 array
        In order of frames, NaN where nothing was measured, ``frame`` among them.
    most : int
        Points a curve.
    panels : sequence of Panel
        Which columns, and how they are shown.

    Returns
    -------
    dict
        ``frames`` and ``seconds`` of the points, ``step`` (frames in a point), ``held_out`` (first frame or None), and
        ``panels``: title, unit, meaning, curves with name, kind and values (None: not measured).
    """
    frames = columns.get("frame", np.empty(0))
    groups = np.arange(len(frames)) * min(most, len(frames)) // max(1, len(frames))
    nets = sorted(name.removeprefix("to_source_") for name in columns if name.startswith("to_source_"))
    made = []
    for panel in panels:
        for net in nets if "{net}" in panel.title else [""]:
            curves = [
                {"name": name, "kind": kind, "values": _numbers(_binned(columns[column], groups) * panel.scale)}
                for pattern, (name, kind) in panel.curves.items()
                if np.isfinite(columns.get(column := pattern.replace("{net}", net), np.empty(0))).any()
            ]
            if curves:
                title = panel.title.replace("{net}", net)
                made.append({"title": title, "unit": panel.unit, "meaning": panel.meaning, "curves": curves})
    held = columns.get("held_out", np.empty(0)) == 1
    return {
        "frames": np.rint(_binned(frames, groups)).astype(int).tolist(),
        "seconds": _numbers(_binned(columns["seconds"], groups), 6) if "seconds" in columns else [],
        "step": -(-len(frames) // most) if len(frames) else 1,
        "held_out": int(frames[held].min()) if held.any() else None,
        "panels": made,
    }


def _binned(values: NDArray[np.float64], groups: NDArray[np.intp]) -> NDArray[np.float64]:
    """Medians of the groups' known values, NaN where there is none; the groups are in rising order."""
    if not len(groups) or groups[-1] + 1 == len(groups):
        return values
    edges = np.searchsorted(groups, np.arange(groups[-1] + 2)).tolist()
    parts = [values[a:b][np.isfinite(values[a:b])] for a, b in itertools.pairwise(edges)]
    return np.array([np.median(part) if len(part) else np.nan for part in parts])


def _numbers(values: NDArray[np.float64], digits: int = _DIGITS) -> list[float | None]:
    return [float(f"{value:.{digits}g}") if np.isfinite(value) else None for value in values.tolist()]


def stretches(where: NDArray[np.bool_], most: int = 400) -> list[tuple[int, int]]:
    """First and last index of each run of truths, in order; of more than `most`, the longest."""
    return sorted(longest_runs(where)[:most])


_TRAINING: Sequence[tuple[str, str, str, dict[str, tuple[str, str]]]] = (
    (
        "Held-out faces rebuilt",
        "PSNR, dB",
        "How well each person's faces that were never trained on are redrawn.",
        {"psnr_source": ("source", "source"), "psnr_target": ("target", "target")},
    ),
    (
        "Held-out faces rebuilt",
        "SSIM",
        "The same as structural similarity.",
        {"ssim_source": ("source", "source"), "ssim_target": ("target", "target")},
    ),
    (
        "Swaps to their twins",
        "PSNR, dB",
        "How near a swap comes to the other person's face that does the same.",
        {"twin_source": ("source swapped", "source"), "twin_target": ("target swapped", "target")},
    ),
    (
        "The target swapped: whom it looks like",
        "cosine, irv1",
        "To the source, who is shown, and to the target, who leaks through.",
        {"shown_target": ("shown", "source"), "leak_target": ("leak", "target")},
    ),
    (
        "The source swapped: whom it looks like",
        "cosine, irv1",
        "To the target, who is shown, and to the source, who leaks through.",
        {"shown_source": ("shown", "target"), "leak_source": ("leak", "source")},
    ),
    (
        "What the best net is chosen by",
        "dB",
        "Mean PSNR, and 10 dB for each unit of margin.",
        {"quality": ("quality", "one")},
    ),
)


def training_curves(history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Curves over the validations of a training, as `clip_curves` gives them; ``frames`` are steps."""
    rows = [row for row in history if isinstance(row.get("step"), int)]
    made = []
    for title, unit, meaning, wanted in _TRAINING:
        curves = [
            {"name": name, "kind": kind, "values": _numbers(np.array([_real(row.get(key)) for row in rows]))}
            for key, (name, kind) in wanted.items()
            if any(np.isfinite(_real(row.get(key))) for row in rows)
        ]
        if curves:
            made.append({"title": title, "unit": unit, "meaning": meaning, "curves": curves})
    return {
        "frames": [row["step"] for row in rows],
        "seconds": [
            round(_real(row.get("seconds")), 1) if np.isfinite(_real(row.get("seconds"))) else None for row in rows
        ],
        "step": 1,
        "held_out": None,
        "panels": made,
    }


def _real(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")
