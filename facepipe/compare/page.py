"""A comparison as a page with the look of the report: table, slider between the runs, curves over time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facepipe.compare.paired import Comparison, Difference, Row
from facepipe.errors import UsageError
from facepipe.report import sections
from facepipe.report.content import Content, wanted_frames
from facepipe.report.curves import POINTS, clip_curves
from facepipe.report.html import Html, element, join, page
from facepipe.report.pictures import ClipPictures, take_pictures
from facepipe.report.pieces import Cell, notes, number, section, table
from facepipe.report.words import Panel
from facepipe.results import ClipResults, RunResults
from facepipe.workspace import atomic_path

__all__ = ["write_comparison"]

Progress = Callable[[str, str, int, int | None], None]

_KINDS = 6  # curves that have a look of their own
_POINTS = 40_000  # of all curves of a run and measure together


def write_comparison(comparison: Comparison, path: str | Path, *, progress: Progress | None = None) -> Path:
    """Write a comparison as a page that needs no network and no other file.

    Parameters
    ----------
    comparison : Comparison
        What is shown.
    path : str or Path
        The file.
    progress : callable, optional
        Hears of the clips: ``progress("compare", "pictures", done, total)``.

    Raises
    ------
    UsageError
        It cannot be written.
    """
    path = Path(path)
    if path.is_dir():
        raise UsageError(f"{path}: is a folder; give the name of a page, e.g. {path / 'comparison.html'}")
    text = _page(comparison, progress or (lambda *_: None))
    try:
        with atomic_path(path) as part:
            part.write_text(text, encoding="utf-8")
    except OSError as exc:
        raise UsageError(f"{path}: cannot be written: {exc.strerror or exc}") from exc
    return path


def _page(comparison: Comparison, progress: Progress) -> str:
    content = Content(comparison.runs[0])
    content.clips = [clip for clip in content.clips if clip.name in comparison.clips]
    missing: list[str] = []
    clips = []
    progress("compare", "pictures", 0, len(content.clips))
    for done, clip in enumerate(content.clips, start=1):
        pictures = _pictures(comparison, content, clip)
        missing += pictures.missing
        clips.append(_clip_data(comparison, clip, pictures, len(content.clips)))
        progress("compare", "pictures", done, len(content.clips))
    title = f"{', '.join(comparison.names[1:])} against {comparison.names[0]}"
    parts = {
        "overview": ("Overview", _overview(comparison, [*comparison.notes, *missing])),
        "differences": ("Differences", _differences(comparison)),
        "frames": ("Frames", sections.frames("Choose what stands left and right; drag the line between them.")),
        "time": ("Over time", sections.curves()),
    }
    shown = {
        name: part
        for name, part in parts.items()
        if name not in ("frames", "time") or any(clip["looks" if name == "frames" else "panels"] for clip in clips)
    }
    body = join(
        [
            sections.bar([(name, words) for name, (words, _) in shown.items()]),
            sections.main([text for _, text in shown.values()]),
            sections.footer(content),
        ]
    )
    return page(title, body, {"clips": clips, "training": {"frames": [], "panels": []}})


def _pictures(comparison: Comparison, content: Content, clip: ClipResults) -> ClipPictures:
    videos = {}
    for name, run in zip(comparison.names, comparison.runs, strict=True):
        other = _same(run, clip)
        if other.swapped is not None:
            videos[name] = other.swapped.video
    wanted = replace(wanted_frames(content, clip), cards=(), portrait=None)
    return take_pictures(clip, videos, wanted, share=2 / (1 + len(videos)))


def _same(run: RunResults, clip: ClipResults) -> ClipResults:
    return next(one for one in run.clips("target") if one.name == clip.name)


def _clip_data(comparison: Comparison, clip: ClipResults, pictures: ClipPictures, clips: int) -> dict[str, Any]:
    """What the page's script shows of a clip: as in a report, with a curve a run."""
    columns, panels = _columns(comparison, clip)
    most = max(60, min(POINTS, _POINTS // (clips * len(comparison.runs))))
    return {
        "name": clip.name,
        "total": clip.frames,
        "untouched": [],
        "looks": pictures.looks(),
        "thumbs": pictures.small(),
        **clip_curves(columns, most=most, panels=panels),
    }


def _columns(comparison: Comparison, clip: ClipResults) -> tuple[dict[str, NDArray[np.float64]], list[Panel]]:
    """The measures of all runs on all frames that any of them was measured on, and how they are shown."""
    tables = [_same(run, clip).measured for run in comparison.runs]
    frames = np.unique(np.concatenate([table["frame"] for table in tables]))
    columns: dict[str, NDArray[np.float64]] = {"frame": frames}
    times = np.full(len(frames), np.nan)
    for one in tables:
        times[np.searchsorted(frames, one["frame"])] = one["pts"] * float(clip.time_base)
    columns["seconds"] = times
    panels = []
    for row in comparison.rows:
        if row.frames != "all":
            continue
        curves = {}
        for i, (name, one) in enumerate(zip(comparison.names, tables, strict=True)):
            column, minus = (part.replace("{net}", row.net) for part in (row.measure.column, row.measure.minus))
            values = np.full(len(frames), np.nan)
            values[np.searchsorted(frames, one["frame"])] = one[column] - (one[minus] if minus else 0)
            columns[f"{row.label}@{i}"] = values * row.measure.scale
            curves[f"{row.label}@{i}"] = (name, f"run{i % _KINDS}")
        panels.append(Panel(row.label, row.measure.unit, curves, row.measure.meaning))
    return columns, panels


def _overview(comparison: Comparison, remarks: list[str]) -> Html:
    seconds = f"{comparison.blocks} block{'s' * (comparison.blocks != 1)} of one second"
    clips = f"{len(comparison.clips)} clip{'s' * (len(comparison.clips) != 1)}"
    told = f"{comparison.frames:,} frames of {clips} that all runs have scored, in {seconds}."
    facts = zip(comparison.names, comparison.methods, comparison.runs, strict=True)
    rows = [
        (
            name,
            run.root.resolve().name,
            method,
            ", ".join(run.manifest.get("inputs", {}).get("source", {})),
            ", ".join(clip.name for clip in run.clips("target")),
        )
        for name, method, run in facts
    ]
    return element(
        "section",
        element("p", "Comparison of runs", class_="kicker"),
        element("h1", " · ".join(comparison.names)),
        element("p", told, class_="standfirst"),
        element(
            "p",
            element("strong", "Synthetic media. "),
            "The faces in the swaps shown here were replaced by facepipe, for research.",
            class_="label",
        ),
        table(
            ("Run", "Folder", "Method", "Source", "Target"),
            rows,
            caption="The runs; the first is the base",
            kind="words",
        ),
        notes(remarks, "To be known"),
        id="overview",
    )


def _differences(comparison: Comparison) -> Html:
    parts = []
    for frames, caption in (("all", "On all shared frames"), ("held out", "On frames that no run has learned from")):
        rows = [row for row in comparison.rows if row.frames == frames]
        if rows:
            parts.append(_table(comparison, rows, caption))
    return section(
        "differences",
        "Differences",
        *parts,
        element(
            "p",
            "The bars show the 95 % interval of each difference, every row on its own scale; the line in the "
            "middle is no difference. Measures of one run are not independent of each other.",
            class_="small",
        ),
        lead=f"Medians over frames, and the median of the differences to {comparison.names[0]} on the same frames. "
        "Intervals draw blocks of one second again, since neighbouring frames are alike.",
    )


def _table(comparison: Comparison, rows: list[Row], caption: str) -> Html:
    head = ["Measure", comparison.names[0]]
    for name in comparison.names[1:]:
        head += [name, "Difference", "95 % interval", ""]
    lines = []
    for row in rows:
        digits = row.measure.digits
        arrow = {1: " ↑", -1: " ↓", 0: ""}[row.measure.better]
        unit = element("span", f" {row.measure.unit}", class_="unit") if row.measure.unit else ""
        line: list[Cell] = [join([row.label, arrow, unit]), (number(row.values[0], digits), row.values[0])]
        widest = max((abs(end) for one in row.differences for end in (one.low, one.high, one.value) if end), default=0)
        for value, one in zip(row.values[1:], row.differences, strict=True):
            signed = ("+" if one.value > 0 else "") + number(one.value, digits)
            line += [(number(value, digits), value), (signed, one.value), _interval(one, digits), _bar(one, widest)]
        lines.append(line)
    counts = sorted({row.n for row in rows})
    told = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
    return table(head, lines, caption=f"{caption}, {told} measured; ↑ higher is better, ↓ lower is", kind="versus")


def _interval(one: Difference, digits: int) -> Cell:
    if one.low is None or one.high is None:
        return ("—", None)
    return (f"{number(one.low, digits)} to {number(one.high, digits)}", one.low)


def _bar(one: Difference, widest: float) -> Html:
    """The interval as a bar about zero, in a colour only where it is decided."""
    words = {1: "better", -1: "worse", 0: "undecided"}[one.verdict]
    drawn = [element("line", x1="50%", x2="50%", y1=1, y2=17, class_="axis")]
    if widest and one.low is not None and one.high is not None:
        ends = {"x1": _at(one.low, widest), "x2": _at(one.high, widest)}
        drawn.append(element("line", **ends, y1=9, y2=9, class_=f"bar-line {words}"))
    if widest:
        drawn.append(element("circle", cx=_at(one.value, widest), cy=9, r=3.5, class_=f"bar-dot {words}"))
    return element("svg", *drawn, role="img", aria_label=words, class_="difference")


def _at(value: float, widest: float) -> str:
    return f"{50 + 46 * value / widest:.2f}%"
