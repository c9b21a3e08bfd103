"""Builds ``report.html``: facts, pictures and curves of a run put together."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from facepipe import __version__
from facepipe.errors import FacepipeError, UsageError
from facepipe.report import sections, tables
from facepipe.report.content import Content, portrait_file, source_portrait, wanted_frames
from facepipe.report.curves import POINTS, clip_curves, stretches, training_curves
from facepipe.report.html import join, page
from facepipe.report.pictures import PORTRAIT, ClipPictures, data_uri, take_pictures
from facepipe.results import ClipResults, RunResults
from facepipe.types import Image
from facepipe.video import read_image
from facepipe.workspace import Workspace, atomic_path, digest, file_sha256

__all__ = ["report_key", "write_report"]

Progress = Callable[[str, str, int, int | None], None]

_VERSION = 1  # raise it when the page changes: finished runs then get it anew
_POINTS = 60_000  # of all curves of a column together
_PREVIEW = (1100, 160_000)  # pixels of the long side, bytes
_FOREIGN = ("out", "engine", "credentials")  # what the page does not depend on
_STATES = ("scores.json", "scores.parquet", "model/history.json")


def write_report(run: str | Path, *, progress: Progress | None = None) -> Path:
    """Write ``RUN/report.html``, unless the one that is there shows the run as it is now.

    Parameters
    ----------
    run : str or Path
        A run folder, in any state.
    progress : callable, optional
        Hears of the clips: ``progress("report", clip, done, total)``.

    Returns
    -------
    Path
        The page; beside it ``report.json`` with the key of what it was made of.

    Raises
    ------
    UsageError
        There is no such folder, or it cannot be written.
    RunFolderError
        `run` is not a run folder, or one of another format.
    """
    results = RunResults.read(run)
    path, marker = results.root / "report.html", results.root / "report.json"
    workspace = Workspace(results.root, create=False)
    key = report_key(results)
    if workspace.is_done(marker, key):
        return path
    try:
        marker.unlink(missing_ok=True)
        text = _build_page(Content(results), progress or (lambda *_: None))
        with atomic_path(path) as part:
            part.write_text(text, encoding="utf-8")
        workspace.mark_done(marker, key, [path.name])
    except OSError as exc:
        raise UsageError(f"{exc.filename or path}: cannot be written: {exc.strerror or exc}") from exc
    return path


def report_key(run: RunResults) -> str:
    """Hash of all that the report shows: settings, manifest, scores, and the states of the stages."""
    root = run.root
    states = sorted(root.glob("*/*/*.json")) + sorted(root.glob("swapped/*.json"))
    files = [path for path in (*states, *(root / name for name in _STATES)) if path.is_file()]
    tables = sorted(root.glob("*/*/faces.parquet")) + sorted(root.glob("swapped/*.*"))
    clips = [*run.clips("source"), *run.clips("target")]
    return digest(
        {
            "version": [_VERSION, __version__],
            "settings": {name: value for name, value in run.settings.items() if name not in _FOREIGN},
            "manifest": run.manifest,
            "files": {path.relative_to(root).as_posix(): file_sha256(path) for path in files},
            "sizes": {path.relative_to(root).as_posix(): path.stat().st_size for path in tables if path.is_file()},
            "there": {f"{clip.side}/{clip.name}": [clip.path.exists(), _is_scored(clip)] for clip in clips},
        }
    )


def _is_scored(clip: ClipResults) -> bool | None:
    try:
        return clip.scored
    except FacepipeError:  # a table is damaged; the report will say so
        return None


def _build_page(content: Content, progress: Progress) -> str:
    """The whole page as text."""
    pictures: dict[str, ClipPictures] = {}
    progress("report", "pictures", 0, len(content.clips))
    for done, clip in enumerate(content.clips, start=1):
        videos = {} if clip.swapped is None else {"swapped": clip.swapped.video}
        pictures[clip.name] = take_pictures(clip, videos, wanted_frames(content, clip))
        content.missing += pictures[clip.name].missing
        progress("report", "pictures", done, len(content.clips))
    portraits: dict[str, str | None] = {"source": _source(content)}
    portraits |= pictures[content.clips[0].name].portrait if content.clips else {}
    cards = {(name, frame): shown for name, one in pictures.items() for frame, shown in one.cards.items()}
    times = {(name, frame): seconds for name, one in pictures.items() for frame, seconds in one.seconds.items()}
    clips = [_clip_data(content, clip, pictures[clip.name]) for clip in content.clips]
    parts = {
        "overview": ("Overview", sections.overview(content, portraits)),
        "frames": ("Frames", sections.frames() if any(one["looks"] for one in clips) else ""),
        "time": ("Over time", sections.curves() if any(one["panels"] for one in clips) else ""),
        "numbers": ("Numbers", tables.numbers(content)),
        "buckets": ("Where it fails", tables.buckets(content)),
        "worst": ("Worst frames", sections.worst(content, cards, times)),
        "failures": ("Failures", tables.failures(content)),
        "training": ("Training", sections.training(content, _preview(content))),
        "method": ("Method", tables.method(content)),
    }
    shown = {name: part for name, part in parts.items() if part[1]}
    body = join(
        [
            sections.bar([(name, title) for name, (title, _) in shown.items()]),
            sections.main([text for _, text in shown.values()]),
            sections.footer(content),
        ]
    )
    data = {"clips": clips, "training": training_curves(content.run.history)}
    return page(sections.title(content), body, data)


def _clip_data(content: Content, clip: ClipResults, pictures: ClipPictures) -> dict[str, Any]:
    """What the page's script shows of a clip."""
    most = max(60, min(POINTS, _POINTS // max(1, len(content.clips))))
    swapped, columns = clip.swapped, dict(clip.measured)
    if "seconds" not in columns and "pts" in columns:
        columns["seconds"] = columns["pts"] * float(clip.time_base)
    untouched = stretches(swapped.face < 0) if swapped is not None else []
    return {
        "name": clip.name,
        "total": clip.frames,
        "untouched": untouched,
        "looks": pictures.looks(),
        "thumbs": pictures.small(),
        **clip_curves(columns, most=most),
    }


def _source(content: Content) -> str | None:
    """The portrait of the source person."""
    try:
        found = source_portrait(content)
        if found is not None:
            clip, row = found
            return data_uri(_shrunk(np.asarray(clip.crops[row]), PORTRAIT), 30_000)
        picture = portrait_file(content)
        return None if picture is None else data_uri(_shrunk(read_image(picture), PORTRAIT), 30_000)
    except FacepipeError as exc:
        content.missing.append(str(exc))
        return None


def _preview(content: Content) -> str | None:
    """The pictures of the last validation that is in the history."""
    steps = {row.get("step") for row in content.run.history}
    files = sorted((content.run.root / "model" / "previews").glob("step-*.png"))
    known = [file for file in files if (found := re.search(r"(\d+)$", file.stem)) and int(found[1]) in steps]
    try:
        return data_uri(_shrunk(read_image(known[-1]), _PREVIEW[0]), _PREVIEW[1]) if known else None
    except FacepipeError as exc:
        content.missing.append(str(exc))
        return None


def _shrunk(image: Image, longest: int) -> Image:
    height, width = image.shape[:2]
    scale = min(1.0, longest / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return image if scale == 1 else np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
