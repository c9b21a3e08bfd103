"""Labels and the mark together: what a file still says of itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

from facepipe.errors import MediaError
from facepipe.finder import Models
from facepipe.provenance import Verdict, check
from facepipe.watermark.reading import read_mark

__all__ = ["verify"]


def verify(
    path: Path,
    models: Callable[[], Models | None],
    *,
    trust: bytes | None = None,
    mark: Literal["always", "lost"] = "lost",
) -> Verdict:
    """Read a video's label, and the mark in its pictures.

    Parameters
    ----------
    path : Path
        The video.
    models : callable
        Gives detector and landmarker, where faces have to be found; with None the mark is not looked for.
    trust : bytes, optional
        See `facepipe.provenance.check`.
    mark : {"always", "lost"}
        Look for the mark in every file, or where the credentials are not intact.

    Returns
    -------
    Verdict
        With a mark a file without a label is ``marked``.
    """
    verdict = check(path, trust=trust)
    if verdict.status == "unreadable" or (mark == "lost" and verdict.status == "intact"):
        return verdict
    finding = models()
    if finding is None:
        return verdict
    try:
        found = read_mark(path, finding)
    except MediaError:  # cut off: what the label says stands
        return verdict
    if found is None:
        return verdict
    status = "marked" if verdict.status == "none" else verdict.status
    said = str((verdict.label or {}).get("run", ""))
    other = said and not said.startswith(found.run)
    problems = [f"the mark in its faces is of another run, {found.run}"] if other else []
    return replace(verdict, status=status, mark=found.run, problems=[*verdict.problems, *problems])
