"""What a report shows of a run, gathered from its folder: plain facts, no pictures and no HTML."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facepipe.errors import FacepipeError, RunFolderError
from facepipe.gallery import best_faces
from facepipe.people import person_rows
from facepipe.report.pictures import Wanted
from facepipe.results import ClipResults, RunResults, flag_names
from facepipe.trouble import note, worst_frames
from facepipe.types import Faces, evenly_spaced, longest_runs
from facepipe.workspace import read_faces

__all__ = ["Content", "Failure", "Worst", "portrait_file", "source_portrait", "wanted_frames"]

_LOOKS = 14
_THUMBS = 240
_CARDS = 12


@dataclass(frozen=True, slots=True)
class Failure:
    """Frames of a clip that are not as they should be, for one reason."""

    clip: str
    reason: str
    frames: int
    total: int
    where: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Worst:
    """A frame that a person should look at, and why."""

    clip: str
    frame: int
    seconds: float | None
    why: str
    badness: float | None
    values: Mapping[str, float]


class Content:
    """The facts of a run that the report shows.

    Parameters
    ----------
    run : RunResults
        The run.

    Attributes
    ----------
    clips : list of ClipResults
        The target clips.
    sources : list of ClipResults
        The source clips.
    scores : dict
        ``scores.json``, empty where there is none.
    missing : list of str
        What the report cannot show, and why.
    """

    def __init__(self, run: RunResults) -> None:
        self.run = run
        self.missing: list[str] = []
        self.clips = self._known(run.clips("target"))
        self.sources = self._known(run.clips("source"))
        self.scores = self._scores()
        if not self.clips:
            self.missing.append("no target clip has been looked at yet: `facepipe run` goes on from here")
        self.missing += [
            f"target clip {clip.name}: " + self._unswapped(clip) for clip in self.clips if clip.swapped is None
        ]

    def _known(self, clips: Sequence[ClipResults]) -> list[ClipResults]:
        """Those whose table of faces can be read."""
        known = []
        for clip in clips:
            try:
                _ = clip.outlines, clip.swapped, clip.measured
                known.append(clip)
            except (FacepipeError, KeyError, TypeError) as exc:
                self.missing.append(str(exc))
        return known

    def _unswapped(self, clip: ClipResults) -> str:
        if (self.run.root / "swapped" / f"{clip.name}.json").exists():
            return "its swapped video or its masks are not there any more"
        return "it is not swapped yet"

    def _scores(self) -> dict[str, Any]:
        try:
            known = self.run.scores
        except RunFolderError as exc:
            self.missing.append(str(exc))
            return {}
        if known is None:
            self.missing.append("nothing is scored yet: `facepipe score` measures the swapped videos")
            return {}
        if self.clips and not any(clip.scored for clip in self.clips):
            self.missing.append("the scores are older than the swap: `facepipe score` measures it again")
            return {}
        if "version" not in known:
            self.missing.append("the scores are of an older facepipe: `facepipe score` adds what it did not measure")
        return known

    # What was made from what

    @property
    def method(self) -> str:
        """How the swap was made."""
        label = next((clip.swapped.method for clip in self.clips if clip.swapped is not None), "")
        return label or str(self.scores.get("method") or self.settings("swap").get("method", "unknown"))

    def settings(self, section: str) -> dict[str, Any]:
        """A section of ``config.toml``."""
        return _dict(self.run.settings.get(section))

    @property
    def label(self) -> str:
        """What the swapped videos say of themselves."""
        labels = (clip.swapped.label for clip in self.clips if clip.swapped is not None)
        return next((label["comment"] for label in labels if "comment" in label), "")

    def inputs(self, side: str) -> dict[str, dict[str, Any]]:
        """Clips of a side with path and sha256, as in the manifest."""
        clips = _dict(_dict(self.run.manifest.get("inputs")).get(side))
        return {name: facts for name, facts in clips.items() if isinstance(facts, dict)}

    def ledger(self, side: str) -> dict[str, str]:
        """Who is seen, where the pictures come from, under which licence, with whose consent."""
        known = _dict(self._ledger.get(side))
        return {name: str(known.get(name, "")).strip() for name in ("person", "origin", "licence", "consent")}

    @property
    def weights(self) -> dict[str, dict[str, str]]:
        """Origin, licence and SHA-256 of the nets' weights, by name."""
        hashes, entries = _dict(self.run.manifest.get("weights")), _dict(self._ledger.get("weights"))
        found = {}
        for name in sorted({*hashes, *entries}):
            entry = _dict(entries.get(name))
            facts = {key: str(entry.get(key, "")).strip() for key in ("origin", "licence")}
            found[str(name)] = {**facts, "sha256": str(hashes.get(name, ""))}
        return found

    @property
    def _ledger(self) -> dict[str, Any]:
        return _dict(self.run.manifest.get("ledger") or self.settings("ledger"))

    @property
    def failed(self) -> list[dict[str, Any]]:
        """Clips that failed in a stage: stage, side, clip, reason."""
        known = self.run.manifest.get("failed", [])
        return [one for one in known if isinstance(one, dict)] if isinstance(known, list) else []

    # Frames

    @cached_property
    def failures(self) -> list[Failure]:
        """Frames that were not swapped, or not found again, by clip and reason."""
        skip = [str(word) for word in self.settings("swap").get("skip", ("profile", "misfit"))]
        return [failure for clip in self.clips for failure in _failures(clip, skip)]

    @cached_property
    def worst(self) -> list[Worst]:
        """The frames to look at, worst first: as the scores say, or by lost frames, margins and flags without them."""
        known = self.scores.get("worst")
        names = {clip.name for clip in self.clips}
        if isinstance(known, list) and known:
            return [_worst(one) for one in known[:_CARDS] if isinstance(one, dict) and one.get("clip") in names]
        most = max(1, _CARDS // max(1, len(self.clips)))
        found = []
        for clip in self.clips:
            notes = note(clip)
            for frame, why in worst_frames(notes, most).items():
                margins = {f"margin.{net}": value for net, value in notes[frame].margins.items()}
                found.append(Worst(clip.name, frame, None, why, None, margins))
        return found[:_CARDS]

    def clip(self, name: str) -> ClipResults | None:
        """The target clip of a name."""
        return next((clip for clip in self.clips if clip.name == name), None)


def _dict(known: Any) -> dict[str, Any]:
    """What is expected to be a mapping; empty where a file says otherwise."""
    return known if isinstance(known, dict) else {}


def _worst(one: Mapping[str, Any]) -> Worst:
    values = one.get("values", {})
    known = {str(key): float(value) for key, value in values.items() if isinstance(value, int | float)}
    seconds, bad = one.get("seconds"), one.get("badness")
    return Worst(
        str(one["clip"]),
        int(one.get("frame", -1)),
        float(seconds) if isinstance(seconds, int | float) else None,
        str(one.get("why", "")),
        float(bad) if isinstance(bad, int | float) else None,
        known,
    )


def _failures(clip: ClipResults, skip: Sequence[str]) -> list[Failure]:
    """The frames of a clip by what went wrong; the runs of frames of each, longest first."""
    table, swapped = clip.outlines, clip.swapped
    frames, first = np.unique(table.frame, return_index=True)  # rows of a frame are in falling order of size
    row_of = dict(zip(frames.tolist(), first.tolist(), strict=True))
    reasons: dict[str, list[int]] = {}
    for frame in range(clip.frames):
        row = row_of.get(frame)
        if row is None:
            reasons.setdefault("no face found", []).append(frame)
        elif swapped is not None and (frame >= len(swapped.face) or swapped.face[frame] < 0):
            flags = [word.replace("_", " ") for word in flag_names(int(table.flags[row])) if word in skip]
            why = f"not swapped: {' and '.join(flags)}" if flags else "not swapped: another person, or no match"
            reasons.setdefault(why, []).append(frame)
    measured = clip.measured
    if "found" in measured:
        lost = measured["frame"][measured["found"] == 0].astype(int).tolist()
        reasons.update({"swapped, and the face was not found again": lost} if lost else {})
    return [Failure(clip.name, why, len(rows), clip.frames, _runs(rows)) for why, rows in reasons.items()]


def _runs(frames: Sequence[int], most: int = 3) -> tuple[tuple[int, int], ...]:
    """First and last of the longest runs of successive frames."""
    return tuple(longest_runs(np.bincount(frames) > 0)[:most])


# ------------------------------------------------------------------------------------------------ which frames to show


def wanted_frames(content: Content, clip: ClipResults) -> Wanted:
    """The frames of a clip that get a picture: evenly spaced ones and the worst; bounded over all clips together.

    The portrait is taken of the first clip.
    """
    number, clips = content.clips.index(clip), len(content.clips)
    swapped = clip.swapped
    usable = np.flatnonzero(swapped.face >= 0) if swapped is not None else np.unique(clip.outlines.frame)
    usable = usable[usable < clip.frames] if len(usable) else np.arange(clip.frames)
    looks = usable[_some(len(usable), _LOOKS, number, clips)]
    measured = clip.measured.get("frame", np.empty(0)).astype(int)
    pool = measured if len(measured) else np.arange(clip.frames)
    thumbs = pool[_some(len(pool), _THUMBS, number, clips)]
    cards = [one.frame for one in content.worst if one.clip == clip.name]
    rows = _rows(clip, {*looks.tolist(), *thumbs.tolist(), *cards})
    portrait = _portrait(clip) if number == 0 else None
    if portrait is not None:
        rows[int(clip.outlines.frame[portrait])] = portrait
    boxes = {frame: clip.outlines.box[row] for frame, row in rows.items()}
    alone = None if portrait is None else int(clip.outlines.frame[portrait])
    return Wanted(looks.tolist(), thumbs.tolist(), cards, alone, boxes)


def _some(count: int, most: int, number: int, clips: int) -> NDArray[np.int64]:
    """Which of `count` frames of the clip of a number are shown, where all clips together show `most`."""
    share = most // clips if clips <= most else int(number in evenly_spaced(clips, most))
    return evenly_spaced(count, share) if count and share else np.empty(0, np.int64)


def _rows(clip: ClipResults, frames: set[int]) -> dict[int, int]:
    """Row of the swapped face of each frame, else of its largest."""
    table, swapped = clip.outlines, clip.swapped
    rows: dict[int, int] = {}
    for row in np.flatnonzero(np.isin(table.frame, list(frames))).tolist():
        frame, face = int(table.frame[row]), int(table.face[row])
        own = swapped is not None and frame < len(swapped.face) and swapped.face[frame] == face
        if own or frame not in rows:
            rows[frame] = row
    return rows


def _portrait(clip: ClipResults) -> int | None:
    """The row of the best face of those that are replaced."""
    if not len(clip.outlines):
        return None
    swapped = clip.swapped
    rows = np.arange(len(clip.outlines))
    if swapped is not None and (swapped.face >= 0).any():
        known = clip.outlines.frame < len(swapped.face)
        own = np.zeros(len(rows), bool)
        own[known] = swapped.face[clip.outlines.frame[known]] == clip.outlines.face[known]
        rows = np.flatnonzero(own)
    return int(rows[best_faces(clip.outlines[rows], None)[0]])


def source_portrait(content: Content) -> tuple[ClipResults, int] | None:
    """Clip and row of the best picture of the source person; None where no crop shows that person for sure."""
    clips = [clip for clip in content.sources if clip.aligned and len(clip.outlines)]
    chosen = _used_rows(content, clips)
    if chosen is None:
        if content.settings("swap").get("source_person") is not None:
            return None  # the picture itself is shown
        tables = [_embedded(clip) for clip in clips]
        similarity = float(content.settings("swap").get("person_similarity", 0.4))
        chosen = [np.flatnonzero(rows) for rows in person_rows(tables, similarity=similarity)] if tables else []
    where = [(clip, row) for clip, rows in zip(clips, chosen, strict=True) for row in rows.tolist()]
    if not where:
        return None
    table = Faces.concatenate([clip.outlines[rows] for clip, rows in zip(clips, chosen, strict=True) if len(rows)])
    return where[int(best_faces(table, None)[0])]


def _embedded(clip: ClipResults) -> Faces:
    return read_faces(clip.folder / "faces.parquet", without=("landmarks", "mesh"))


def _used_rows(content: Content, clips: Sequence[ClipResults]) -> list[NDArray[np.intp]] | None:
    """Rows of each source clip that the swap has taken faces from; None where the method draws them itself."""
    used: Counter[tuple[int, int, int]] = Counter()
    for clip in content.clips:
        used.update(clip.sources)
    if not used:
        return None
    aligned = [clip.name for clip in content.run.clips("source") if clip.aligned]
    rows = []
    for clip in clips:
        own = aligned.index(clip.name)
        faces = {(frame, face) for i, frame, face in used if i == own}
        pairs = zip(clip.outlines.frame.tolist(), clip.outlines.face.tolist(), strict=True)
        rows.append(np.array([row for row, pair in enumerate(pairs) if pair in faces], np.intp))
    return rows


def portrait_file(content: Content) -> Path | None:
    """The picture that named the source person, where there is one."""
    name = content.settings("swap").get("source_person")
    return Path(str(name)) if name is not None and Path(str(name)).is_file() else None
