"""Long films: cut into parts before the work, so that one film fills all workers, and joined after it.

A part is a clip like any other: it is looked at, swapped and scored by itself, in as much memory as a short clip
takes. What goes beyond it is known by `Clip.film`: who the target person is, whose hash the label tells, the run's id.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from facepipe.config import Config
from facepipe.errors import MediaError
from facepipe.pipeline.outcome import Progress
from facepipe.types import Side
from facepipe.video import Clip, Limits, find_cuts, split_film
from facepipe.video.muxing import MUXERS
from facepipe.video.source import open_input, reading
from facepipe.workspace import Workspace, digest, read_marker

__all__ = ["PARTS", "cut_films", "films_of"]

PARTS = "parts"
"""Folder of a run that holds the parts of long films."""

_VERSION = 1


def films_of(clips: Sequence[Clip]) -> dict[Clip, list[Clip]]:
    """The films among some clips, each with its parts in order."""
    found: dict[Clip, list[Clip]] = {}
    for clip in clips:
        if clip.film is not None:
            found.setdefault(clip.film, []).append(clip)
    return found


def cut_films(
    clips: Sequence[Clip], side: Side, config: Config, workspace: Workspace, progress: Progress
) -> list[Clip]:
    """The clips, with parts in the place of long films; see `Config.part_frames`.

    A film that cannot be cut, or cannot be read, stays as it is: the stages say what is wrong with it.
    """
    return [part for clip in clips for part in _parts_of(clip, side, config, workspace, progress) or [clip]]


def _parts_of(clip: Clip, side: Side, config: Config, workspace: Workspace, progress: Progress) -> list[Clip]:
    most = config.part_frames
    folder = workspace.root / PARTS / side
    marker = folder / f"{clip.name}.json"
    if clip.kind != "video" or not most or (not marker.exists() and _is_short(clip, side, workspace, 2 * most)):
        return []
    limits = Limits(max_pixels=config.limits.max_pixels, max_frames=config.limits.max_frames)
    try:
        sha256 = workspace.file_hash(clip.path)
        key = digest({"version": _VERSION, "film": sha256, "frames": most})
        with workspace.clip_lock(side, clip.name):
            if not workspace.is_done(marker, key):
                cuts = find_cuts(clip.path, most, limits)
                names = _names(clip, len(cuts.starts)) if len(cuts.starts) > 1 else []
                folder.mkdir(parents=True, exist_ok=True)
                if names:
                    outs = [folder / name for name in names]
                    progress("cut", clip.name, 0, None)
                    split_film(clip.path, cuts, outs, told=lambda done: progress("cut", clip.name, done, None))
                    progress("cut", clip.name, cuts.starts[-1], cuts.starts[-1])
                workspace.mark_done(marker, key, names, film=sha256, starts=cuts.starts)
    except (MediaError, OSError):
        return []
    files = [folder / str(name) for name in read_marker(marker).get("files", [])]
    return [Clip(path, path.stem, "video", clip) for path in files]


def _is_short(clip: Clip, side: Side, workspace: Workspace, frames: int) -> bool:
    """Whether a film is known to be too short for parts: asked before its packets are counted."""
    known = read_marker(workspace.clip_folder(side, clip.name) / "detect.json")
    count: Any = known.get("frames") if known.get("path") == str(clip.path) else _promised(clip.path)
    return isinstance(count, int) and 0 < count < frames


def _promised(path: Path) -> int:
    try:
        with reading(path), open_input(path, Limits()) as container:
            return container.streams.video[0].frames if container.streams.video else 0
    except MediaError:
        return 0


def _names(clip: Clip, count: int) -> list[str]:
    suffix = clip.path.suffix.lower() if clip.path.suffix.lower() in MUXERS else ".mkv"
    return [f"{clip.name}~{number:03d}{suffix}" for number in range(count)]
