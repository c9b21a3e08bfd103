"""What a person sees in the terminal: progress and tables."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:  # these load torch, which a table does not need
    from facepipe.compare import Comparison, Difference
    from facepipe.imagesets import FolderScores
    from facepipe.pipeline import Outcome, Result
    from facepipe.weights import Status

__all__ = [
    "FrameProgress",
    "JsonProgress",
    "comparison_table",
    "folder_table",
    "models_table",
    "outcome_table",
    "people_table",
    "scores_table",
    "stage_table",
]


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f} {task.fields['unit']}/s", style="dim")


def _unit(stage: str) -> str:
    return {"train": "steps", "report": "clips", "compare": "clips", "export": "videos"}.get(stage, "frames")


class FrameProgress:
    """A bar for each clip at work in a terminal, and a line for each that is done; in a log file the lines alone.

    Use as a context manager; the object itself is the pipeline's `progress` callable.
    """

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self._console = console
        self._quiet = quiet
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("[bold]{task.fields[stage]:<6}[/] {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
            console=console,
            disable=quiet or not console.is_terminal,
            transient=True,  # the lines above stay
        )
        self._at: dict[tuple[str, str], tuple[TaskID, float]] = {}  # clips at work, and when they began

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bars.stop()

    def __call__(self, stage: str, clip: str, done: int, promised: int | None) -> None:
        """Show that `done` frames of a clip are through a stage."""
        if (stage, clip) not in self._at:
            bar = self._bars.add_task(escape(clip), stage=stage, unit=_unit(stage), total=promised)
            self._at[stage, clip] = bar, time.perf_counter()
        bar, start = self._at[stage, clip]
        total = promised if promised is None or promised >= done else None  # headers promise too little at times
        self._bars.update(bar, completed=done, total=total)
        if done != promised:
            return
        self._bars.remove_task(bar)  # a folder has more clips than a terminal has lines
        del self._at[stage, clip]
        if not self._quiet:
            rate = done / max(time.perf_counter() - start, 1e-9)
            self._console.print(
                f"{stage:<6} {clip}: {done} {_unit(stage)}, {rate:.1f} {_unit(stage)}/s", markup=False, highlight=False
            )

    def describe(self, text: str) -> None:
        """Print what else there is to tell, above the bars."""
        if not self._quiet:
            self._console.print(text, markup=False, highlight=False)


class JsonProgress:
    """One line of JSON an event, for programs that watch a run; of a clip the first, the last, and one a second.

    The object itself is the pipeline's `progress` callable. Its events are ``progress`` with ``stage, clip, done,
    total, seconds``: frames (steps of a training), how many are promised or null, time since the clip's start.
    """

    def __init__(self, stream: TextIO, *, every: float = 1.0) -> None:
        self._stream = stream
        self._every = every
        self._began: dict[tuple[str, str], float] = {}
        self._told: dict[tuple[str, str], float] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def __call__(self, stage: str, clip: str, done: int, promised: int | None) -> None:
        """Tell that `done` frames of a clip are through a stage, if it is time to."""
        now, key = time.perf_counter(), (stage, clip)
        start = self._began.setdefault(key, now)
        if done and done != promised and now - self._told.get(key, now) < self._every:
            return
        self._told[key] = now
        self.event("progress", stage=stage, clip=clip, done=done, total=promised, seconds=round(now - start, 3))
        if done == promised:
            del self._began[key], self._told[key]

    def describe(self, text: str) -> None:
        """Tell what else there is to tell."""
        self.event("note", text=text)

    def outcomes(self, result: Result) -> None:
        """Tell what became of each clip, and of all."""
        for one in result.outcomes:
            self.event("outcome", **{name: getattr(one, name) for name in one.__dataclass_fields__})
        for warning in result.warnings:
            self.describe(warning)
        self.event("end", failed=len(result.failed), seconds=result.seconds)

    def event(self, name: str, **facts: Any) -> None:
        """Write one line."""
        self._stream.write(json.dumps({"event": name, **facts}, ensure_ascii=False) + "\n")
        self._stream.flush()


def stage_table(result: Result) -> Table:
    """One row a stage: clips done, kept and failed, and where the time went."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("stage", "done", "kept", "failed", "frames", "seconds", "frames/s", "of the time"):
        table.add_column(name, justify="left" if name == "stage" else "right")
    whole = sum(result.seconds.values())
    for stage, seconds in result.seconds.items():
        mine = [one for one in result.outcomes if one.stage == stage]
        counts = [str(sum(one.status == status for one in mine)) for status in ("done", "kept", "failed")]
        frames = sum(one.frames for one in mine)
        rate = f"{frames / seconds:.1f}" if frames and seconds else "-"
        share = f"{seconds / whole:.0%}" if whole else "-"
        table.add_row(stage, *counts, str(frames), f"{seconds:.1f}", rate, share)
    return table


def outcome_table(result: Result) -> Table:
    """One row a clip: which stages were done, kept or failed, and why."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("", "clip", "stages", "seconds", "reason"):
        table.add_column(name, justify="right" if name == "seconds" else "left", overflow="fold")
    clips: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in result.outcomes:
        clips.setdefault((outcome.side, outcome.clip), []).append(outcome)
    colors = {"done": "green", "kept": "dim", "failed": "red"}
    for (side, clip), outcomes in clips.items():
        stages = " ".join(f"[{colors[o.status]}]{o.stage}[/]" for o in outcomes)
        reason = next((o.reason for o in outcomes if o.reason), "")
        table.add_row(side, escape(clip), stages, f"{sum(o.seconds for o in outcomes):.1f}", escape(reason))
    return table


def _number(value: float | None, digits: int, *, none: str = "-") -> str:
    return none if value is None else f"{value:.{digits}f}"


def _interval(value: dict[str, Any] | None, digits: int, scale: float = 1.0) -> str:
    return _number(None if value is None else scale * value["value"], digits)


def scores_table(scores: dict[str, Any]) -> Table:
    """The headline numbers of ``scores.json``: one column a clip, and one for all."""
    parts = dict(scores["clips"])
    if len(parts) != 1:
        parts["all"] = scores
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("median over frames")
    for name in parts:
        table.add_column(escape(name), justify="right", overflow="fold")

    def row(text: str, values: Sequence[str]) -> None:
        if any(value != "-" for value in values):  # what the protocol does not ask for has no row
            table.add_row(text, *values)

    asked = scores["protocol"]["measures"]
    for net in scores["identity"]:
        for key, words in _IDENTITY_ROWS.items():
            row(f"{net}: {words}", [_number(part["identity"][net][key], 3) for part in parts.values()])
    none = "identical" if "outside.psnr" in asked else "-"
    row("outside the mask: PSNR, dB", [_number(part["outside"]["psnr"], 1, none=none) for part in parts.values()])
    row("outside the mask: SSIM", [_number(part["outside"]["ssim"], 4) for part in parts.values()])
    row("same-identity swap: PSNR, dB", [_number(part["same_identity"]["psnr"], 1) for part in parts.values()])
    row("same-identity swap: SSIM", [_number(part["same_identity"]["ssim"], 3) for part in parts.values()])
    row("pose: L2 to the target, degrees", [_interval(part["pose"]["l2"], 1) for part in parts.values()])
    row("expression: L2, % of eye distance", [_interval(part["expression"]["l2"], 1, 100) for part in parts.values()])
    for kind in ("swapped", "target"):
        jitters = [part["jitter"][kind]["residual"] for part in parts.values()]
        row(f"jitter, {kind}, % of eye distance", [_number(value, 2) for value in jitters])
    for key in ("total", "swapped", "skipped", "no_face", "lost"):
        row(f"frames: {key}", [str(part["frames"].get(key, 0)) for part in parts.values()])
    return table


def people_table(people: Sequence[dict[str, Any]]) -> Table:
    """One row a person: see `facepipe.gallery.Album.summary`."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("", "person", "faces", "flagged", "clips", "frames", "yaw: 5, 50, 95 %", "sharp", "px"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    for one in people:
        yaw = one["yaw"]
        numbers = [str(n) for n in (one["person"], one["faces"], one["flagged"], len(one["clips"]), one["frames"])]
        turn = "  ".join(f"{yaw[name]:.0f}" for name in ("low", "median", "high"))
        table.add_row(one["side"], *numbers, turn, _number(one["sharpness"], 1), f"{one['size']:.0f}")
    return table


def folder_table(scores: FolderScores) -> Table:
    """Scores of two folders of images, with their intervals."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(f"{scores.pred} images against {scores.ref}")
    for name in ("value", "95 % interval"):
        table.add_column(name, justify="right")
    for name, interval in scores.scores.items():
        known = interval.low == interval.low
        label = f"{name} ({scores.features[name]})" if name in scores.features else name
        spread = f"{interval.low:.4g} to {interval.high:.4g}" if known else "-"
        table.add_row(escape(label), f"{interval.value:.4g}", spread)
    return table


def comparison_table(comparison: Comparison) -> Table:
    """A line for each measure and run: its median, and its paired difference to the first run with the interval."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(f"median over {comparison.frames} shared frames", overflow="fold")
    table.add_column("n", justify="right")
    table.add_column("run", overflow="fold")
    for name in ("value", "difference, 95 %"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in comparison.rows:
        digits = row.measure.digits
        words = escape(row.label if row.frames == "all" else f"held out: {row.label}")
        for i, (name, value) in enumerate(zip(comparison.names, row.values, strict=True)):
            told = _difference(row.differences[i - 1], digits) if i else ""
            table.add_row("" if i else words, "" if i else str(row.n), escape(name), _number(value, digits), told)
    return table


def _difference(one: Difference, digits: int) -> str:
    ends = "" if one.low is None or one.high is None else f" ({one.low:+.{digits}f} to {one.high:+.{digits}f})"
    color = {1: "green", -1: "red", 0: "dim"}[one.verdict]
    return f"[{color}]{one.value:+.{digits}f}{ends}[/]"


_IDENTITY_ROWS = {
    "to_source": "cosine to source",
    "to_target": "cosine to target (leak)",
    "margin": "margin",
    "floor": "floor (unrelated people)",
}


def models_table(rows: Sequence[Status]) -> Table:
    """The catalogue: what is there and where the rest would come from."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("", "name", "kind", "MB", "licence", "source"):
        table.add_column(name, justify="right" if name == "MB" else "left", overflow="fold")
    for entry in rows:
        mark = "[green]there[/]" if entry.present else "[dim]-[/]"
        name = f"[bold]{escape(entry.name)}[/]" if entry.default else escape(entry.name)
        size = f"{entry.bytes / 1e6:.1f}" if entry.bytes else "?"
        table.add_row(mark, name, entry.kind, size, escape(entry.licence), escape(entry.source))
    return table
