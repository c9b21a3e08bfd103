"""What a person sees in the terminal: progress and tables."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

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
    from facepipe.imagesets import FolderScores
    from facepipe.pipeline import Outcome, Result
    from facepipe.weights import Status

__all__ = ["FrameProgress", "folder_table", "models_table", "outcome_table", "people_table", "scores_table"]


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f} {task.fields['unit']}/s", style="dim")


def _unit(stage: str) -> str:
    return "steps" if stage == "train" else "frames"


class FrameProgress:
    """A bar for the clip at work in a terminal, a line a clip in a log file.

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
            transient=False,
        )
        self._current: tuple[str, str] | None = None
        self._task = TaskID(0)
        self._start = 0.0

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bars.stop()

    def __call__(self, stage: str, clip: str, done: int, promised: int | None) -> None:
        """Show that `done` frames of a clip are through a stage."""
        if self._current != (stage, clip):
            self._current = (stage, clip)
            self._start = time.perf_counter()
            self._task = self._bars.add_task(escape(clip), stage=stage, unit=_unit(stage), total=promised)
        total = promised if promised is None or promised >= done else None  # headers promise too little at times
        self._bars.update(self._task, completed=done, total=total)
        if done == promised and not (self._console.is_terminal or self._quiet):
            rate = done / max(time.perf_counter() - self._start, 1e-9)
            self._console.print(
                f"{stage:<6} {clip}: {done} {_unit(stage)}, {rate:.1f} {_unit(stage)}/s", markup=False, highlight=False
            )

    def describe(self, text: str) -> None:
        """Print what else there is to tell, above the bars."""
        if not self._quiet:
            self._console.print(text, markup=False, highlight=False)


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
        table.add_row(text, *values)

    for net in scores["identity"]:
        for key, words in _IDENTITY_ROWS.items():
            row(f"{net}: {words}", [_number(part["identity"][net][key], 3) for part in parts.values()])
    row(
        "outside the mask: PSNR, dB",
        [_number(part["outside"]["psnr"], 1, none="identical") for part in parts.values()],
    )
    row("outside the mask: SSIM", [_number(part["outside"]["ssim"], 4) for part in parts.values()])
    row("same-identity swap: PSNR, dB", [_number(part["same_identity"]["psnr"], 1) for part in parts.values()])
    row("same-identity swap: SSIM", [_number(part["same_identity"]["ssim"], 3) for part in parts.values()])
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
