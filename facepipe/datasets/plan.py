"""What belongs into a data set: videos with their numbers, swaps as pairs of them, and who is in which part."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from facepipe.errors import RunFolderError, UsageError
from facepipe.results import ClipResults, RunResults, Swapped

__all__ = ["SPLITS", "Pair", "Plan", "Split", "Told", "plan_of"]

Split = Literal["train", "val", "test"]
SPLITS: Mapping[Split, float] = {"train": 0.72, "test": 0.14, "val": 0.14}
"""Parts of the pairs, as FaceForensics++ has them (720, 140 and 140 of 1000)."""

Told = Callable[[str], None]
"""Called with the name of each video that is done."""


@dataclass(frozen=True)
class Pair:
    """A swapped video and the one that it was made of.

    Attributes
    ----------
    target, source : str
        Numbers of the videos, as three digits or more.
    method : str
        Name of the method in the data set.
    clip : ClipResults
        The target clip in its run.
    swapped : Swapped
        Its swapped video.
    split : Split
    """

    target: str
    source: str
    method: str
    clip: ClipResults
    swapped: Swapped
    split: Split

    @property
    def name(self) -> str:
        """``<target>_<source>``."""
        return f"{self.target}_{self.source}"

    @property
    def settings(self) -> dict[str, Any]:
        """How it was swapped, as far as its run still knows."""
        return dict(self.clip.run.settings.get("swap", {}))

    @cached_property
    def _rows(self) -> dict[tuple[int, int], int]:
        """Row of each face in the clip's table, by frame and number."""
        faces = self.clip.faces
        return {key: row for row, key in enumerate(zip(faces.frame.tolist(), faces.face.tolist(), strict=True))}

    def landmarks(self, frame: int) -> NDArray[Any]:
        """Landmarks of the face that was replaced in a frame, in pixels of the frame."""
        return np.asarray(self.clip.faces.landmarks[self._rows[frame, int(self.swapped.face[frame])]])


@dataclass(frozen=True)
class Plan:
    """A data set before it is written.

    Attributes
    ----------
    pairs : list of Pair
        In the order of their names.
    files : dict of str to str
        File name and hash of each number, ``name sha256``.
    """

    pairs: list[Pair]
    files: dict[str, str]

    def originals(self) -> list[Pair]:
        """One pair for each video that was swapped, in the order of numbers."""
        return list({pair.target: pair for pair in sorted(self.pairs, key=lambda one: one.name)}.values())

    def films(self) -> list[tuple[Pair, bool]]:
        """All videos, as a pair and whether its fake is meant: the originals first."""
        return [*((pair, False) for pair in self.originals()), *((pair, True) for pair in self.pairs)]

    def splits(self) -> dict[Split, list[tuple[str, str]]]:
        """(target, source) of each part."""
        return {part: sorted({(p.target, p.source) for p in self.pairs if p.split == part}) for part in SPLITS}


def plan_of(runs: Sequence[Path]) -> Plan:
    """What the run folders hold together.

    Raises
    ------
    UsageError
        A folder is no run, or two runs swapped one video by one method onto one source.
    RunFolderError
        A run has no swapped video.
    """
    found = [RunResults.read(run) for run in runs]
    files: dict[str, str] = {}  # hash -> name
    people = _People()
    made: list[tuple[RunResults, ClipResults, Swapped, str, str]] = []
    for run in found:
        inputs = run.manifest.get("inputs", {})
        names = {side: _hashes(inputs.get(side, {})) for side in ("source", "target")}
        for known in names.values():
            files |= {sha: name for name, sha in known.items()}
            people.join(known.values())
        swapped = [(clip, clip.swapped) for clip in run.clips("target")]
        there = [(clip, one) for clip, one in swapped if one is not None and clip.name in names["target"]]
        if not there or not names["source"]:
            raise RunFolderError(f"{run.root}: no swapped video; run `facepipe swap --out {run.root}` first")
        source = min(names["source"].items())[1]
        people.meet(source, next(iter(names["target"].values())))
        made += [(run, clip, one, names["target"][clip.name], source) for clip, one in there]
    number = {sha: f"{i:03d}" for i, (_, sha) in enumerate(sorted((name, sha) for sha, name in files.items()))}
    groups = people.groups([(target, source) for *_, target, source in made])
    pairs = [
        Pair(number[target], number[source], _method_name(one.method), clip, one, groups[target])
        for _, clip, one, target, source in made
    ]
    _refuse_doubles(pairs)
    told = {number[sha]: f"{name} {sha}" for sha, name in files.items()}
    return Plan(sorted(pairs, key=lambda pair: (pair.method, pair.name)), dict(sorted(told.items())))


def _hashes(inputs: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(facts["sha256"]) for name, facts in inputs.items()}


def _method_name(method: str) -> str:
    return f"facepipe-{method or 'unknown'}"


def _refuse_doubles(pairs: Sequence[Pair]) -> None:
    known: dict[tuple[str, str], Path] = {}
    for pair in pairs:
        key = (pair.method, pair.name)
        if key in known:
            both = f"{known[key]} and {pair.clip.run.root}"
            raise UsageError(f"{both}: {pair.clip.name} was swapped by {pair.method} in both; give one of them")
        known[key] = pair.clip.run.root


class _People:
    """Who is one person, and who meets whom, as sets that grow together (disjoint sets: Galler and Fisher 1964)."""

    def __init__(self) -> None:
        self._above: dict[str, str] = {}

    def _top(self, one: str) -> str:
        while (above := self._above.setdefault(one, one)) != one:
            one = above
        return one

    def meet(self, one: str, other: str) -> None:
        low, high = sorted((self._top(one), self._top(other)))
        self._above[high] = low

    def join(self, several: Iterable[str]) -> None:
        first, *others = several
        for other in others:
            self.meet(first, other)

    def groups(self, pairs: Sequence[tuple[str, str]]) -> dict[str, Split]:
        """The part of each target: those who meet are together, the largest groups go where most is missing.

        Few groups fill one part after the other: train, test, val.
        """
        sizes: dict[str, int] = {}
        for target, _ in pairs:
            sizes[self._top(target)] = sizes.get(self._top(target), 0) + 1
        filled = dict.fromkeys(SPLITS, 0)
        part: dict[str, Split] = {}
        for done, (top, size) in enumerate(sorted(sizes.items(), key=lambda one: (-one[1], one[0]))):
            empty = [split for split in SPLITS if not filled[split]]
            wanting = max(SPLITS, key=lambda split: SPLITS[split] * len(pairs) - filled[split])
            part[top] = empty[0] if len(sizes) - done <= len(empty) else wanting
            filled[part[top]] += size
        return {target: part[self._top(target)] for target, _ in pairs}
