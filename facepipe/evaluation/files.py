"""``scores.json`` and ``scores.parquet``: written from the scores, read back with a look at their version."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from facepipe.errors import RunFolderError
from facepipe.evaluation.records import ClipScores
from facepipe.evaluation.rows import Rows
from facepipe.evaluation.summary import VERSION
from facepipe.evaluation.worst import badness
from facepipe.workspace import read_json, write_table

__all__ = ["can_read", "read_scores", "write_rows"]

_TRUTHS = ("found", "held_out")
_WHOLE = ("frame", "pts", "face", "track")


def read_scores(root: Path) -> dict[str, Any]:
    """``scores.json`` of a run folder.

    Raises
    ------
    RunFolderError
        It is missing, damaged, or of another version than this facepipe reads.
    """
    path = root / "scores.json"
    scores = read_json(path)
    way_out = f"run `facepipe score --out {root}`"
    if not isinstance(scores, dict):
        raise RunFolderError(f"{path}: {'damaged' if path.exists() else 'no scores yet'}; {way_out}")
    found = scores.get("version", 1)
    if found != VERSION:
        raise RunFolderError(f"{path}: scores of version {found}, this facepipe reads version {VERSION}; {way_out}")
    return scores


def can_read(root: Path) -> bool:
    """Whether `read_scores` would succeed."""
    with contextlib.suppress(RunFolderError):
        return bool(read_scores(root))
    return False


def write_rows(path: Path, clips: Mapping[str, ClipScores], nets: Sequence[str]) -> None:
    """Write ``scores.parquet``: a row a measured frame, null where a number does not exist."""
    rows = Rows(clips)
    names = sorted({name for scores in clips.values() for name in scores.columns})
    columns: dict[str, Any] = {"clip": [clip for clip, scores in clips.items() for _ in range(len(scores))]}
    for name in names:
        columns[name] = _arrow(name, rows.column(name))
    if len(rows):
        columns["badness"] = pa.array(badness(rows, nets)[0])
    write_table(path, columns)


def _arrow(name: str, values: NDArray[np.float64]) -> Any:
    known = np.isfinite(values)
    if name in _TRUTHS:
        return pa.array((values == 1).astype(bool), mask=~known)
    if name in _WHOLE:
        return pa.array(values.astype(np.int64), mask=~known)
    return pa.array(values, mask=~known)
