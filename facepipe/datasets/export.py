"""Run folders in, a data set out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, get_args

from facepipe.config import CredentialsConfig
from facepipe.datasets.films import COMPRESSIONS, write_films
from facepipe.datasets.plan import Plan, plan_of
from facepipe.datasets.samples import write_frames, write_shards
from facepipe.errors import UsageError
from facepipe.provenance import SUMS, label, load_identity, sign_folder, statement_of, wrong_files
from facepipe.workspace import read_json, write_json

__all__ = ["FORMATS", "NAME", "SHEET", "Format", "export_dataset"]

Format = Literal["faceforensics", "deepfakebench", "webdataset"]
FORMATS: tuple[str, ...] = get_args(Format)

NAME = "facepipe"
"""Of the set in DeepfakeBench's folders."""

SHEET = "dataset.json"
"""What the set is, at its root."""

Progress = Callable[[str, int, int], None]
"""Called with a video's name, how many are done, and how many there are."""


def export_dataset(
    runs: Sequence[str | Path],
    dest: str | Path,
    format: Format = "faceforensics",  # noqa: A002  (the word of the command line)
    *,
    qualities: Sequence[str] = (),
    progress: Progress | None = None,
) -> list[str]:
    """Write the swapped videos of runs as a data set, and sign it; what is there already is kept.

    Parameters
    ----------
    runs : sequence of path
        Run folders with swapped videos. A run has one source and one target person; a video that several runs know is
        known by its hash.
    dest : path
        A folder for the data set; a new one, or that of the same export.
    format : {"faceforensics", "deepfakebench", "webdataset"}
        Layout; see `facepipe.datasets.films` and `facepipe.datasets.samples`.
    qualities : sequence of {"raw", "c23", "c40"}
        By default all for *faceforensics*, and c23 for the others; *webdataset* takes one.
    progress : callable, optional

    Returns
    -------
    list of str
        What was left out, and what the set lacks; a line each.

    Raises
    ------
    UsageError
        The call is wrong, or `dest` holds something else.
    RunFolderError
        A run has no swapped video.
    """
    wanted = tuple(qualities) or (tuple(COMPRESSIONS) if format == "faceforensics" else ("c23",))
    if format not in FORMATS:
        raise UsageError(f"format {format}: expected one of {', '.join(FORMATS)}")
    if unknown := [quality for quality in wanted if quality not in COMPRESSIONS]:
        raise UsageError(f"quality {unknown[0]}: expected some of {', '.join(COMPRESSIONS)}")
    if format == "webdataset" and len(wanted) != 1:
        raise UsageError("webdataset: expected one quality")
    plan, root = plan_of([Path(run) for run in runs]), Path(dest)
    facts = {"format": format, "qualities": list(wanted), "files": plan.files, "pairs": _pairs(plan)}
    _begin(root, facts)
    rounds = 1 if format == "faceforensics" else 2
    total, done = rounds * (len(plan.originals()) + len(plan.pairs)) + 1, 0

    def told(name: str) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(name, done, total)

    notes: list[str] = []
    if format == "webdataset":
        with TemporaryDirectory(dir=root, prefix=".films-") as films:
            write_films(plan, Path(films), wanted, told)
            notes = write_shards(plan, Path(films), root, wanted[0], told)
    elif format == "deepfakebench":
        write_films(plan, root / NAME, wanted, told)
        notes = write_frames(plan, root, NAME, wanted, told)
    else:
        write_films(plan, root, wanted, told)
        (root / "splits").mkdir(exist_ok=True)
        for part, pairs in plan.splits().items():
            write_json(root / "splits" / f"{part}.json", pairs)
    _sign(plan, root, facts, told)
    if empty := [part for part, pairs in plan.splits().items() if not pairs]:
        notes.append(f"nobody for {' and '.join(empty)}: people who meet in a swap stay together; give more runs")
    return notes


def _sign(plan: Plan, root: Path, facts: Mapping[str, Any], told: Callable[[str], None]) -> None:
    """One signature for all files, as who signed the first run would sign it; what is signed already stays so."""
    if (root / SUMS).exists() and not any(wrong_files(root)):
        return
    run = plan.pairs[0].clip.run
    identity = load_identity(CredentialsConfig.model_validate(run.settings.get("credentials", {})))
    said = statement_of(label(dataset=facts["format"], pairs=len(plan.pairs))) or {}
    sign_folder(root, said, identity)
    told(SUMS)


def _pairs(plan: Plan) -> list[dict[str, str]]:
    return [{"method": p.method, "target": p.target, "source": p.source, "split": p.split} for p in plan.pairs]


def _begin(root: Path, facts: Mapping[str, Any]) -> None:
    """Make the folder, or see that it is that of the same export."""
    sheet = root / SHEET
    if root.exists() and any(root.iterdir()) and read_json(sheet) != facts:
        raise UsageError(f"{root}: holds something else, or the export of other runs; give a new folder")
    root.mkdir(parents=True, exist_ok=True)
    write_json(sheet, facts)
