"""A look into a run folder, whatever stage it has come to: reads, never writes, needs no lock and no nets."""

from __future__ import annotations

import contextlib
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from facepipe.config import LimitsConfig
from facepipe.errors import FacepipeError, MediaError, RunFolderError, UsageError
from facepipe.provenance import read_label
from facepipe.stored import DAMAGED, read_table
from facepipe.types import Faces, Flag, Side
from facepipe.video import ClipReader, Limits, find_clips, open_clip
from facepipe.workspace import Workspace, read_crops, read_faces, read_json, read_marker

__all__ = ["ClipResults", "RunResults", "Swapped", "flag_names"]

_PARTS = "to_source_", "to_target_"
_NUMBERS = pa.types.is_floating, pa.types.is_integer, pa.types.is_boolean
_MOST_FRAMES = 2**27  # a month at 50 frames a second


@dataclass(frozen=True)
class Swapped:
    """The swapped video of a target clip.

    Attributes
    ----------
    video, mask : Path
        Of the same frames as the clip.
    face : (T,) int64 array
        Number of the swapped face within each frame, -1 where nothing was swapped.
    label : dict of str to str
        The video's metadata: whoever shows its pictures passes it on.
    method : str
        How it was made.
    """

    video: Path
    mask: Path
    face: NDArray[np.int64]
    label: dict[str, str]
    method: str


@dataclass(frozen=True)
class ClipResults:
    """What a run has found in one clip and made of it.

    Attributes
    ----------
    side : {"source", "target"}
    name : str
        The clip's name in the run.
    folder : Path
        ``RUN/<side>/<clip>``.
    path : Path
        The video. It may have been moved since: `open` says so.
    frames : int
        Length of the clip.
    time_base : Fraction
        Seconds in one unit of ``pts``.
    run : RunResults
        Where it belongs to.
    """

    side: Side
    name: str
    folder: Path
    path: Path
    frames: int
    time_base: Fraction
    run: RunResults

    @cached_property
    def faces(self) -> Faces:
        """All faces, in the order of frames."""
        return read_faces(self.folder / "faces.parquet")

    @cached_property
    def outlines(self) -> Faces:
        """All faces without their points and embeddings: what is left is small, however long the clip."""
        return read_faces(self.folder / "faces.parquet", without=("landmarks", "mesh", "embedding"))

    @property
    def aligned(self) -> bool:
        """Whether the crops belong to the faces."""
        return (self.folder / "align.json").exists()

    @property
    def crops(self) -> NDArray[np.uint8]:
        """(N, S, S, 3) crops of `faces`, memory-mapped; `RunFolderError` where they are not cut yet."""
        self.check_aligned()
        crops = read_crops(self.folder / "crops.npy")
        if len(crops) != len(self.faces):
            raise RunFolderError(f"{self.folder}: {len(crops)} crops of {len(self.faces)} faces; delete it, run again")
        return crops

    def check_aligned(self) -> None:
        """Raise `RunFolderError` where stage *align* has not been here."""
        if not self.aligned:
            raise RunFolderError(f"{self.folder}: no crops yet; run `facepipe align --out {self.run.root}` first")

    def open(self, *, stop: int | None = None) -> ClipReader:
        """Open the video, up to frame `stop`.

        Raises
        ------
        MediaError
            It is not where it was, or cannot be read.
        """
        if not self.path.exists():
            raise MediaError(f"{self.path}: the clip is not there any more; put it back, or run the stages again")
        return open_clip(self.path, limits=self.run.limits, stop=stop)

    @cached_property
    def swapped(self) -> Swapped | None:
        """The swapped video, or None where there is none yet."""
        folder = self.run.root / "swapped"
        marker = folder / f"{self.name}.json"
        state = read_marker(marker) if self.side == "target" else {}
        if not state:
            return None
        with _reading(marker):
            video, mask = (folder / name for name in state["files"][:2])
            label = {str(key): str(value) for key, value in state.get("label", {}).items()}
        if not (video.exists() and mask.exists()):
            return None
        columns = _read_columns(folder / f"{self.name}.parquet", ["swapped", "face"])
        face = np.where(columns["swapped"].astype(bool), columns["face"], -1).astype(np.int64)
        method = str((read_label(video) or {}).get("method", ""))
        return Swapped(video, mask, face, label, method)

    @property
    def sources(self) -> list[tuple[int, int, int]]:
        """Clip, frame and face of the source that each swapped frame took its face from; empty where the method draws
        faces itself. The clip is its number among the aligned source clips.
        """
        path = self.run.root / "swapped" / f"{self.name}.parquet"
        if self.side != "target" or not path.exists():
            return []
        columns = _read_columns(path, ["source_clip", "source_frame", "source_face"])
        rows = zip(*(values.tolist() for values in columns.values()), strict=True)
        return [(clip, frame, face) for clip, frame, face in rows if clip >= 0]

    @property
    def scored(self) -> bool:
        """Whether ``scores.parquet`` is there and measured this swap; the swapped video may be gone since."""
        path = self.run.root / "scores.parquet"
        swap = self.run.root / "swapped" / f"{self.name}.json"
        known, made = read_marker(self.run.root / "score.json"), read_marker(swap)
        if made and isinstance(known.get("swaps"), dict):
            return path.exists() and known["swaps"].get(self.name) == made.get("key")
        # Scores of some clips alone have no marker.
        return path.exists() and swap.exists() and path.stat().st_mtime >= swap.stat().st_mtime

    @cached_property
    def measured(self) -> dict[str, NDArray[np.float64]]:
        """Columns of ``scores.parquet`` of this clip's rows, in order of frames; NaN is not measured; empty before
        `score`. What is not a number or a truth is left out.
        """
        if not self.scored:
            return {}
        path = self.run.root / "scores.parquet"
        with _reading(path):
            table = read_table(path)
            table = table.take(np.flatnonzero(table["clip"].to_numpy() == self.name))
            columns = {
                field.name: np.array(table[field.name].cast(pa.float64(), safe=False).to_numpy(), np.float64)
                for field in table.schema
                if any(is_kind(field.type) for is_kind in _NUMBERS)
            }
        order = np.argsort(columns["frame"], kind="stable") if "frame" in columns else slice(None)
        return {name: values[order] for name, values in columns.items()}

    @cached_property
    def scores(self) -> dict[int, dict[str, Any]]:
        """Row of ``scores.parquet`` of each scored frame, with ``margins`` by net; empty before `score`."""
        if not self.scored:
            return {}
        columns = _read_columns(self.run.root / "scores.parquet")
        nets = [name.removeprefix(_PARTS[0]) for name in columns if name.startswith(_PARTS[0])]
        rows: dict[int, dict[str, Any]] = {}
        for i in np.flatnonzero(columns["clip"] == self.name).tolist():
            row = {name: values[i] for name, values in columns.items()}
            both = {net: [row[part + net] for part in _PARTS] for net in nets}
            margins = {net: float(s - t) for net, (s, t) in both.items() if s is not None and t is not None}
            rows[int(row["frame"])] = {**row, "margins": {n: m for n, m in margins.items() if np.isfinite(m)}}
        return rows


@dataclass(frozen=True)
class RunResults:
    """A run folder.

    Attributes
    ----------
    root : Path
    settings : dict
        ``config.toml`` as it stands there, unchecked: other versions of facepipe may have written it.
    """

    root: Path
    settings: dict[str, Any]

    @classmethod
    def read(cls, root: str | Path) -> RunResults:
        """Look into a run folder.

        Raises
        ------
        UsageError
            There is no such folder.
        RunFolderError
            It is not a run folder, or one of another format.
        """
        root = Path(root)
        if root.is_dir() and not (root / "manifest.json").exists():
            raise RunFolderError(f"{root}: not a run folder; give one that `facepipe run --out` made")
        Workspace(root, create=False)  # refuses whatever it cannot read
        try:
            settings = tomllib.loads((root / "config.toml").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            settings = {}
        return cls(root, settings)

    @property
    def manifest(self) -> dict[str, Any]:
        """``manifest.json``; empty where it cannot be read."""
        known = read_json(self.root / "manifest.json")
        return known if isinstance(known, dict) else {}

    @property
    def scores(self) -> dict[str, Any] | None:
        """``scores.json``, or None before `score`.

        Raises
        ------
        RunFolderError
            It is there and cannot be read.
        """
        path = self.root / "scores.json"
        if not path.exists():
            return None
        known = read_json(path)
        if not isinstance(known, dict):
            raise RunFolderError(f"{path}: damaged; run `facepipe score --out {self.root}` again")
        return known

    @property
    def history(self) -> list[dict[str, Any]]:
        """Validations of the training, in order; empty where nothing was trained."""
        known = read_json(self.root / "model" / "history.json")
        return [row for row in known if isinstance(row, dict)] if isinstance(known, list) else []

    @property
    def limits(self) -> Limits:
        """How large the run allowed its clips to be."""
        try:
            known = LimitsConfig.model_validate(self.settings.get("limits", {}))
        except ValueError:  # of another facepipe
            return Limits()
        return Limits(known.max_pixels, known.max_frames)

    def clips(self, side: Side) -> list[ClipResults]:
        """The clips of one side that faces were looked for in and that can be read, in the order of the run."""
        inputs = self._inputs(side)
        names = [name for name in inputs if (self.root / side / name / "detect.json").exists()]
        names += sorted(path.parent.name for path in (self.root / side).glob("*/detect.json"))
        return [self._clip(side, name, inputs.get(name)) for name in dict.fromkeys(names)]

    def _inputs(self, side: Side) -> dict[str, Path]:
        """Where the clips are now, by the run's own settings."""
        folder = self.settings.get(side)
        if not isinstance(folder, str):
            return {}
        with contextlib.suppress(FacepipeError):
            return {clip.name: clip.path for clip in find_clips(folder)}
        return {}

    def _clip(self, side: Side, name: str, path: Path | None) -> ClipResults:
        folder = self.root / side / name
        state = read_marker(folder / "detect.json")
        try:
            known = self.root / state["path"] if "film" in state else Path(state["path"])
            where, frames, time_base = path or known, int(state["frames"]), Fraction(state["time_base"])
            if not (0 <= frames <= _MOST_FRAMES and time_base > 0):
                raise ValueError(f"{frames} frames of {time_base} s")
            return ClipResults(side, name, folder, where, frames, time_base, self)
        except (*DAMAGED, ArithmeticError) as exc:  # int of infinity, a fraction of nothing
            raise RunFolderError(f"{folder / 'detect.json'}: damaged; run again") from exc

    def chosen(self, clip: str | None = None, side: Side | None = None) -> list[ClipResults]:
        """The clips asked for: one by name (``source/NAME`` where both sides have it), or all of a side.

        Without a name these are the target clips, or the source clips where there are no others.

        Raises
        ------
        UsageError
            No clip has this name.
        RunFolderError
            No clip has been looked at yet.
        """
        sides: list[Side] = [side] if side else ["target", "source"]
        found = {f"{one}/{each.name}": each for one in sides for each in self.clips(one)}
        if not found:
            raise RunFolderError(f"{self.root}: nothing there to see yet; run `facepipe detect --out {self.root}`")
        if clip is not None:
            for name in (clip, *(f"{one}/{clip}" for one in sides)):
                if name in found:
                    return [found[name]]
            raise UsageError(f"no clip {clip!r} in {self.root}: expected one of {', '.join(found)}")
        first = next(iter(found.values())).side
        return [each for each in found.values() if each.side == first]


def flag_names(flags: int) -> tuple[str, ...]:
    """The words of the bits of `facepipe.types.Flag`, as in ``faces.parquet``."""
    return tuple(str(flag.name).lower() for flag in Flag if flags & flag)


def _read_columns(path: Path, names: list[str] | None = None) -> dict[str, NDArray[Any]]:
    with _reading(path):
        table = read_table(path, names)
        return {name: table[name].to_numpy() for name in table.column_names}


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except DAMAGED as exc:
        raise RunFolderError(f"{path}: missing or damaged; run the stage that makes it again") from exc
