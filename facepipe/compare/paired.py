"""Paired differences: every run is compared with the first on the same frames of the same clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facepipe.errors import RunFolderError, UsageError
from facepipe.evaluation.rows import BLOCK_SECONDS, LEAST_BLOCKS, interval
from facepipe.report.words import PAIRED, Paired
from facepipe.results import ClipResults, RunResults

__all__ = ["LEAST_BLOCKS", "Comparison", "Difference", "Row", "compare_runs"]

_RESAMPLES = 400
_LONG = 24  # letters of a name that a column has no room for

Columns = Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class Difference:
    """A run minus the first one.

    Attributes
    ----------
    value : float
        Median over frames of the difference of a frame.
    low, high : float or None
        Its 95 % interval; None with fewer than `LEAST_BLOCKS` blocks.
    verdict : {1, 0, -1}
        Better, undecided (the interval holds zero, there is none, or neither way is better), worse.
    """

    value: float
    low: float | None
    high: float | None
    verdict: int


@dataclass(frozen=True, slots=True)
class Row:
    """A measure of all runs.

    Attributes
    ----------
    measure : Paired
        What it is.
    net : str
        Identity net, or nothing.
    frames : {"all", "held out"}
        All shared frames, or those that no run has learned from.
    n : int
        Frames on which all runs were measured.
    values : tuple of float
        Median of each run on them.
    differences : tuple of Difference
        Of each run but the first.
    """

    measure: Paired
    net: str
    frames: str
    n: int
    values: tuple[float, ...]
    differences: tuple[Difference, ...]

    @property
    def label(self) -> str:
        """With the net, where there is one."""
        return f"{self.measure.label}, {self.net}" if self.net else self.measure.label


@dataclass(frozen=True, slots=True)
class Comparison:
    """Some runs on the frames that they share.

    Attributes
    ----------
    runs : tuple of RunResults
        The first is the base.
    names : tuple of str
        Of the runs, all different.
    clips : tuple of str
        Target clips that all runs have scored.
    frames, blocks : int
        Shared frames; blocks of a second that they lie in.
    rows : tuple of Row
        The measures.
    notes : tuple of str
        What must be known to read them.
    """

    runs: tuple[RunResults, ...]
    names: tuple[str, ...]
    clips: tuple[str, ...]
    frames: int
    blocks: int
    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    @property
    def methods(self) -> tuple[str, ...]:
        """How each run swapped."""
        return tuple(str((run.scores or {}).get("method", "unknown")) for run in self.runs)


def compare_runs(folders: Sequence[str | Path]) -> Comparison:
    """Compare scored runs frame by frame with the first of them.

    Frames are paired by clip (name and content) and number. Intervals draw blocks of one second of one clip, since
    neighbouring frames are alike.

    Parameters
    ----------
    folders : sequence of str or Path
        At least two run folders.

    Raises
    ------
    UsageError
        Fewer than two runs, one given twice, or no clip that they share.
    RunFolderError
        A run is not scored, or by another version or protocol than the first.
    """
    if len(folders) < 2:
        raise UsageError(f"compare: expected at least two run folders, got {len(folders)}")
    paths = [Path(folder).resolve() for folder in folders]
    twice = next((path for i, path in enumerate(paths) if path in paths[:i]), None)
    if twice is not None:
        raise UsageError(f"{twice}: given twice; a run has no difference to itself")
    runs = [RunResults.read(folder) for folder in folders]
    scores = [_scores_of(run) for run in runs]
    _check_alike(runs, scores)
    clips = _shared_clips(runs)
    table = _joined(runs, clips)
    nets = [net for net in scores[0].get("identity", {}) if all(net in one.get("identity", {}) for one in scores)]
    blocks = table.blocks()
    rows = _rows(table, blocks, nets, "all", np.ones(len(blocks), bool))
    fresh = table.held_out()
    if fresh is not None and fresh.any():
        rows += _rows(table, blocks, nets, "held out", fresh)
    names = _names(paths, [str(one.get("method", "")) for one in scores])
    return Comparison(
        tuple(runs),
        names,
        tuple(clips),
        len(blocks),
        len(np.unique(blocks)),
        tuple(rows),
        tuple(_notes(runs, names, scores, clips, fresh)),
    )


def _scores_of(run: RunResults) -> dict[str, Any]:
    known = run.scores
    if known is None:
        raise RunFolderError(f"{run.root}: no scores yet; run `facepipe score --out {run.root}`")
    if not any(clip.scored for clip in run.clips("target")):
        raise RunFolderError(f"{run.root}: the scores are older than the swap; run `facepipe score --out {run.root}`")
    return known


def _check_alike(runs: Sequence[RunResults], scores: Sequence[Mapping[str, Any]]) -> None:
    """Numbers of different versions or protocols are not comparable."""
    facts = [(one.get("version", 1), _protocol(one)) for one in scores]
    (oldest, old), newest = min(zip(facts, runs, strict=True), key=lambda one: one[0][0]), max(facts)
    if oldest[0] != newest[0]:
        raise RunFolderError(
            f"{old.root}: scores of version {oldest[0]}, another run has version {newest[0]}: these cannot be "
            f"compared; run `facepipe score --out {old.root}`"
        )
    for run, (_, protocol) in zip(runs, facts, strict=True):
        if protocol != facts[0][1]:
            raise RunFolderError(
                f"{run.root}: measured by protocol {protocol!r}, and {runs[0].root} by {facts[0][1]!r}: these cannot "
                f"be compared; run `facepipe score --protocol {facts[0][1]} --out {run.root}`"
            )


def _protocol(scores: Mapping[str, Any]) -> str:
    known = scores.get("protocol")
    return str(known.get("name", "")) if isinstance(known, Mapping) else ""


def _shared_clips(runs: Sequence[RunResults]) -> dict[str, list[ClipResults]]:
    """The scored target clips that all runs have, by name and content."""
    tables = [{clip.name: clip for clip in run.clips("target") if clip.scored} for run in runs]
    hashes = [run.manifest.get("inputs", {}).get("target", {}) for run in runs]

    def same(name: str) -> bool:
        known = {facts[name]["sha256"] for facts in hashes if "sha256" in facts.get(name, {})}
        return len(known) < 2

    shared = [name for name in tables[0] if all(name in table for table in tables) and same(name)]
    if not shared:
        told = "; ".join(
            f"{run.root} has {', '.join(table) or 'none'}" for run, table in zip(runs, tables, strict=True)
        )
        raise UsageError(f"compare: these runs share no scored target clip, by name and content: {told}")
    return {name: [table[name] for table in tables] for name in shared}


@dataclass(frozen=True)
class _Joined:
    """The rows that all runs share: a table of columns for each run, and clip and second of each row."""

    tables: list[dict[str, NDArray[np.float64]]]
    clip: NDArray[np.int64]
    seconds: NDArray[np.float64]

    def blocks(self) -> NDArray[np.int64]:
        _, number = np.unique(np.stack([self.clip, self.seconds // BLOCK_SECONDS]), axis=1, return_inverse=True)
        return np.asarray(number.reshape(-1), np.int64)

    def held_out(self) -> NDArray[np.bool_] | None:
        """Rows that no run has learned from; None where no run learns from the target's frames."""
        known = [table["held_out"] for table in self.tables if np.isfinite(table.get("held_out", np.empty(0))).any()]
        return np.all([column == 1 for column in known], axis=0) if known else None

    def values(self, measure: Paired, net: str) -> NDArray[np.float64] | None:
        """(runs, rows) of a measure; None where a run has it not."""
        column, minus = (name.replace("{net}", net) for name in (measure.column, measure.minus))
        if not all(column in table and (not minus or minus in table) for table in self.tables):
            return None
        found = np.stack([table[column] - (table[minus] if minus else 0) for table in self.tables])
        return np.asarray(found * measure.scale)


def _joined(runs: Sequence[RunResults], clips: Mapping[str, list[ClipResults]]) -> _Joined:
    tables: list[list[Columns]] = [[] for _ in runs]
    numbers, times = [], []
    for number, several in enumerate(clips.values()):
        columns = [clip.measured for clip in several]
        shared = columns[0]["frame"]
        for one in columns[1:]:
            shared = np.intersect1d(shared, one["frame"])
        for table, one in zip(tables, columns, strict=True):
            rows = np.searchsorted(one["frame"], shared)
            table.append({name: values[rows] for name, values in one.items()})
        numbers.append(np.full(len(shared), number))
        times.append(tables[0][-1]["pts"] * float(several[0].time_base))
    if not sum(len(part) for part in numbers):
        raise UsageError(f"compare: no frame of {', '.join(clips)} was measured in all of these runs")
    joined = [_concatenated(parts) for parts in tables]
    return _Joined(joined, np.concatenate(numbers), np.concatenate(times))


def _concatenated(parts: Sequence[Columns]) -> dict[str, NDArray[np.float64]]:
    names = [name for name in parts[0] if all(name in part for part in parts)]
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


def _rows(
    table: _Joined, blocks: NDArray[np.int64], nets: Sequence[str], frames: str, where: NDArray[np.bool_]
) -> list[Row]:
    by_net = [measure for measure in PAIRED if "{net}" in measure.column]
    turns = [(measure, net) for net in nets for measure in by_net]
    turns += [(measure, "") for measure in PAIRED if "{net}" not in measure.column]
    rows = []
    for measure, net in turns:
        values = table.values(measure, net)
        if values is None:
            continue
        known = where & np.isfinite(values).all(axis=0)
        if known.any():
            rows.append(_row(measure, net, frames, values[:, known], blocks[known]))
    return rows


def _row(measure: Paired, net: str, frames: str, values: NDArray[np.float64], blocks: NDArray[np.int64]) -> Row:
    differences = tuple(_difference(one - values[0], blocks, measure.better) for one in values[1:])
    medians = tuple(float(value) for value in np.median(values, axis=1))
    return Row(measure, net, frames, values.shape[1], medians, differences)


def _difference(differences: NDArray[np.float64], blocks: NDArray[np.int64], better: int) -> Difference:
    found = interval(differences, blocks=blocks, resamples=_RESAMPLES)
    assert found is not None, "expected finite differences"
    low, high = found["low"], found["high"]
    sign = 0 if low is None else 1 if low > 0 else -1 if high < 0 else 0
    return Difference(found["value"], low, high, sign * better)


def _names(paths: Sequence[Path], methods: Sequence[str]) -> tuple[str, ...]:
    """The folders' names, with as much of what is above them as tells them apart; where those are long, the methods,
    if they tell the runs apart.
    """
    if max(len(path.name) for path in paths) > _LONG and all(methods) and len(set(methods)) == len(paths):
        return tuple(methods)
    depth = 1
    while len({path.parts[-depth:] for path in paths}) < len(paths):
        depth += 1
    return tuple("/".join(path.parts[-depth:]) for path in paths)


def _notes(
    runs: Sequence[RunResults],
    names: Sequence[str],
    scores: Sequence[Mapping[str, Any]],
    clips: Mapping[str, Any],
    fresh: NDArray[np.bool_] | None,
) -> list[str]:
    notes = []
    sources = [
        {facts.get("sha256") for facts in run.manifest.get("inputs", {}).get("source", {}).values()} for run in runs
    ]
    if any(one != sources[0] for one in sources):
        notes.append(
            "the runs have different source clips: similarity to the source is to different people or pictures"
        )
    for run, name in zip(runs, names, strict=True):
        left = [clip.name for clip in run.clips("target") if clip.name not in clips]
        if left:
            notes.append(f"{name}: not in all runs, so left out: {', '.join(left)}")
    nets = [sorted(one.get("identity", {})) for one in scores]
    if any(one != nets[0] for one in nets):
        notes.append("the runs were judged by different identity nets: only those of all runs are compared")
    if fresh is not None and not fresh.any():
        notes.append("a run has learned from all of the shared frames: its numbers flatter it")
    elif fresh is not None:
        notes.append(f"a run has learned from {int((~fresh).sum())} of the {len(fresh)} shared frames; see held out")
    return notes
