"""What a call of a stage says: of each clip, of all, and while it works."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from facepipe.types import Side

__all__ = ["Listener", "Outcome", "Progress", "Result", "Stage"]

Stage = Literal["detect", "align", "train", "swap", "score"]
Progress = Callable[[str, str, int, int | None], None]
"""Called as ``progress(stage, clip, frames_done, frames_promised)``; the last may be None, and may be wrong."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one clip in one stage.

    Attributes
    ----------
    stage, side, clip : str
        Where.
    status : {"done", "kept", "failed"}
        Done now, done before and still valid, or failed.
    reason : str
        Why it failed; one line.
    frames : int
        Frames worked on now.
    seconds : float
        How long it took now.
    """

    stage: Stage
    side: Side
    clip: str
    status: Literal["done", "kept", "failed"]
    reason: str = ""
    frames: int = 0
    seconds: float = 0.0


@dataclass
class Result:
    """What a call did.

    Attributes
    ----------
    out : Path
        The run folder.
    outcomes : list of Outcome
        One a clip and stage, in order.
    scores : dict or None
        Content of ``scores.json`` after `score` and `run`.
    warnings : list of str
        What is odd about the inputs.
    seconds : dict of str to float
        By stage: time by the clock, which is less than the sum of its outcomes' where several workers did it.
    report : Path or None
        ``report.html`` after `run`.
    """

    out: Path
    outcomes: list[Outcome] = field(default_factory=list)
    scores: dict[str, Any] | None = None
    warnings: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    report: Path | None = None

    @property
    def failed(self) -> list[Outcome]:
        """The outcomes that failed."""
        return [outcome for outcome in self.outcomes if outcome.status == "failed"]


class Listener:
    """The caller's `Progress`, which may fail: that is not a clip's fault, and ends the call."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.failed = False
        if hasattr(progress, "describe"):
            self.describe = progress.describe

    def __call__(self, stage: str, clip: str, done: int, promised: int | None) -> None:
        """See `Progress`."""
        try:
            self._progress(stage, clip, done, promised)
        except BaseException:
            self.failed = True
            raise
