"""The run folder: where each result lies, whether it is still valid, and writes that are whole or absent.

Every result has a *key*: a hash of the content of its inputs, of the settings that matter to it and of the version of
the code that makes it. The key is written last. A stage whose key is there has nothing to do; a process killed
before leaves no key, and the work is done again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
import secrets
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from facepipe import __version__
from facepipe.errors import RunFolderBusyError, RunFolderError, UsageError
from facepipe.stored import DAMAGED, read_array, read_table
from facepipe.types import FIXED_SHAPES, Faces, Flag, Image, Side
from facepipe.video.clips import Clip

__all__ = [
    "FORMAT",
    "CropWriter",
    "Workspace",
    "atomic_path",
    "digest",
    "file_sha256",
    "read_crops",
    "read_faces",
    "read_json",
    "read_marker",
    "write_faces",
    "write_json",
    "write_marker",
    "write_table",
]

FORMAT = 1
"""Version of the run folder's layout; a folder of another one is refused."""

_STARTING = 30.0  # seconds that a shard waits for others that start at the same time


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; it takes the final name only when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Several machines may write the same file at the same time, and containers have processes of the same numbers.
    part = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_json(path: Path, data: Any) -> None:
    """Write JSON atomically; NaN and infinity are refused, since JSON has neither."""
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False, default=str)
    # Names of files may hold bytes that are no text; Python has them as lone surrogates, which UTF-8 cannot hold.
    text = re.sub("[\ud800-\udfff]", lambda found: ascii(found[0])[1:-1], text)
    with atomic_path(path) as part:
        part.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read JSON, or None when the file is missing or not JSON (a crash left it so)."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def write_marker(path: Path, data: dict[str, Any]) -> None:
    """Write a JSON object that tells whether it is still what was written."""
    write_json(path, {**data, "digest": digest(data)})


def read_marker(path: Path) -> dict[str, Any]:
    """What `write_marker` wrote; empty when the file is missing, damaged, or was changed since."""
    state = read_json(path)
    if not isinstance(state, dict):
        return {}
    told = state.pop("digest", None)
    return state if told == digest(state) else {}


def digest(data: Any) -> str:
    """First 32 hex digits of the SHA-256 of `data` in canonical JSON."""
    text = json.dumps(data, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def write_table(path: Path, columns: dict[str, Any]) -> None:
    """Write columns (arrays, lists or Arrow arrays) as Parquet, atomically."""
    with atomic_path(path) as part:
        pq.write_table(pa.table(columns), part, compression="zstd")


def write_faces(path: Path, faces: Faces) -> None:
    """Write a table of faces as Parquet: one row a face, arrays as fixed-size lists, flags as words.

    Shapes of the points are in the schema's metadata, so the file reads back without knowing the backend.
    """
    columns: dict[str, Any] = {}
    for name in Faces.__dataclass_fields__:
        array = getattr(faces, name)
        if name == "flags":
            words = [[flag.name.lower() for flag in Flag if value & flag and flag.name] for value in array.tolist()]
            columns[name] = pa.array(words, pa.list_(pa.string()))
        elif array.ndim == 1:
            columns[name] = pa.array(array)
        else:
            width = int(np.prod(array.shape[1:]))
            flat = pa.array(np.ascontiguousarray(array).reshape(-1))
            columns[name] = pa.FixedSizeListArray.from_arrays(flat, width) if width else pa.nulls(len(array))
    table = pa.table(columns)
    shapes = {name: getattr(faces, name).shape[1:] for name in ("landmarks", "mesh", "embedding")}
    table = table.replace_schema_metadata({"facepipe": json.dumps({"format": FORMAT, "shapes": shapes})})
    with atomic_path(path) as part:
        pq.write_table(table, part, compression="zstd")


def read_faces(path: Path, *, without: Collection[str] = ()) -> Faces:
    """Read what `write_faces` wrote.

    Parameters
    ----------
    path : Path
        The table.
    without : collection of {"landmarks", "mesh", "embedding"}
        What is not needed: it is not read, and has no points or numbers in the result.

    Raises
    ------
    RunFolderError
        The file is missing, damaged or of another version.
    """
    try:
        table = read_table(path, [name for name in Faces.__dataclass_fields__ if name not in without])
        meta = json.loads((table.schema.metadata or {})[b"facepipe"])
        shapes = {**FIXED_SHAPES, **{name: tuple(shape) for name, shape in meta["shapes"].items()}}
        shapes.update({name: (0, *shapes[name][1:]) for name in without})
        if min(length for shape in shapes.values() for length in shape) < 0:
            raise ValueError(f"expected shapes, got {shapes}")
        columns: dict[str, Any] = {}
        for name, field in Faces.empty().__dict__.items():
            if name in without:
                columns[name] = np.empty((len(table), *shapes[name]), field.dtype)
                continue
            column = table.column(name).combine_chunks()
            if name == "flags":
                columns[name] = np.array(
                    [sum(Flag[w.upper()] for w in words) for words in column.to_pylist()], np.int32
                )
            elif name in shapes:
                if all(shapes[name]) and column.null_count:
                    raise ValueError(f"expected {name} without gaps")
                values = _numbers(column.flatten(), field.dtype) if all(shapes[name]) else np.empty(0, field.dtype)
                columns[name] = values.reshape(len(table), *shapes[name])
            else:
                columns[name] = _numbers(column, field.dtype)
        return _checked(Faces(**columns))
    except FileNotFoundError as exc:
        raise RunFolderError(f"{path}: missing; run `facepipe detect` on this run folder first") from exc
    except DAMAGED as exc:
        raise RunFolderError(f"{path}: not a facepipe table of faces, or damaged; delete it and run again") from exc


def _numbers(column: Any, dtype: np.dtype[Any]) -> NDArray[Any]:
    """A column as numbers of a type that holds them all; nulls and what does not fit are refused."""
    if column.null_count:
        raise ValueError(f"expected {dtype} without gaps")
    return np.array(column.cast(pa.from_numpy_dtype(dtype)).to_numpy(), dtype)


def _checked(faces: Faces) -> Faces:
    """The table, unless it says what no stage says."""
    if len(faces) and (faces.frame[0] < 0 or np.any(np.diff(faces.frame) < 0) or faces.face.min() < 0):
        raise ValueError("expected faces in the order of their frames")
    for name in ("box", "landmarks", "mesh", "frame_to_crop"):
        if not np.isfinite(getattr(faces, name)).all():
            raise ValueError(f"expected numbers in {name}")
    return faces


class CropWriter:
    """Appends crops to a ``.npy`` file of a length that is not known beforehand.

    The header of a ``.npy`` file leaves room for the first axis to grow, so it is written twice: first for none,
    at the end for all.
    """

    def __init__(self, path: Path, size: int) -> None:
        self._count = 0
        self._size = size
        self._file = path.open("wb")
        self._header()

    def _header(self) -> None:
        shape = (self._count, self._size, self._size, 3)
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)  # type: ignore[no-untyped-call, unused-ignore]

    def append(self, crop: Image) -> None:
        """Add one (size, size, 3) uint8 crop."""
        if crop.shape != (self._size, self._size, 3) or crop.dtype != np.uint8:
            raise ValueError(f"expected a uint8 crop of {self._size} px, got {crop.dtype} {crop.shape}")
        self._file.write(np.ascontiguousarray(crop).data)
        self._count += 1

    def __enter__(self) -> CropWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.seek(0)
        self._header()
        self._file.close()


def read_crops(path: Path) -> NDArray[np.uint8]:
    """Crops (N, S, S, 3) uint8, memory-mapped: nothing is read before it is used.

    Raises
    ------
    RunFolderError
        The file is missing or damaged.
    """
    try:
        crops = read_array(path)
        if crops.ndim != 4 or crops.shape[3] != 3 or crops.dtype != np.uint8 or not crops.flags.c_contiguous:
            raise ValueError(f"expected crops (N, S, S, 3) uint8, got {crops.shape} {crops.dtype}")
    except FileNotFoundError as exc:
        raise RunFolderError(f"{path}: missing; run `facepipe align` on this run folder first") from exc
    except (OSError, ValueError) as exc:
        raise RunFolderError(f"{path}: damaged; delete it and run again") from exc
    return crops


class Workspace:
    """A run folder, held by this process alone while the context is open; or by several, each a shard of the work.

    Locks are the operating system's: they are gone when their process is, however it ended.

    Parameters
    ----------
    root : Path
        The folder; made when missing.
    create : bool
        Whether a missing folder may be made (the stages that only read say no).
    shard : str, optional
        ``i/n`` when this process shares the folder with the other shards.
    keeps_hashes : bool
        Whether hashes of inputs are written to the folder; a worker leaves that to its driver, see `fresh_hashes`.
    """

    def __init__(
        self, root: Path, *, create: bool = True, shard: str | None = None, keeps_hashes: bool = True
    ) -> None:
        self.root = Path(root)
        self.shard = shard
        self._keeps_hashes = keeps_hashes
        manifest = self.root / "manifest.json"
        if not self.root.exists() and not create:
            raise UsageError(f"{root}: no such run folder; `facepipe run --out {root}` makes one")
        if self.root.exists() and not self.root.is_dir():
            raise UsageError(f"{root}: is a file; expected a run folder")
        known = read_json(manifest)
        if manifest.exists() and (not isinstance(known, dict) or known.get("format") != FORMAT):
            found = known.get("format") if isinstance(known, dict) else "unreadable"
            raise RunFolderError(
                f"{root}: run folder of format {found}, this facepipe ({__version__}) reads format {FORMAT}; "
                "choose another --out, or make it again"
            )
        if not manifest.exists() and self.root.is_dir() and any(_visible(self.root)):
            raise RunFolderError(f"{root}: not empty and not a run folder; choose another --out")
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise UsageError(f"{root}: cannot be made: {exc.strerror}") from exc
        self.manifest_path = manifest
        self._lock: filelock.BaseFileLock = filelock.FileLock(self.root / ".lock")
        self._hashes = _known_hashes(self.root / "inputs.json")
        self.fresh_hashes: dict[str, Any] = {}
        """What `file_hash` learned and nobody took yet, for `learn_hashes` of another process's workspace."""

    def __enter__(self) -> Workspace:
        whole = self._take(".lock", self._lock, timeout=0 if self.shard is None else _STARTING)
        try:
            if self.shard is None:
                self._refuse_shards()
                for part in self.root.rglob("*.part"):  # what a killed process left
                    part.unlink(missing_ok=True)
            else:  # the whole folder is taken only to see that nobody else has it
                name = f".shard-{self.shard.replace('/', '-of-')}"
                self._lock = self._take(name, filelock.FileLock(self.root / name), timeout=0)
            if not self.manifest_path.exists():
                write_json(self.manifest_path, {"format": FORMAT, "facepipe": __version__})
        except BaseException:
            whole.release()
            raise
        if self.shard is not None:
            whole.release(force=True)
        write_json(self._holder, {"pid": os.getpid(), "host": platform.node()})
        return self

    def __exit__(self, *exc: object) -> None:
        self._holder.unlink(missing_ok=True)
        self._lock.release()

    @property
    def _holder(self) -> Path:
        """Who holds the lock; true while the lock is held, and else what a killed process left."""
        return self._holder_of(Path(self._lock.lock_file).name)

    def _holder_of(self, lock: str) -> Path:
        return self.root / (".holder.json" if lock == ".lock" else f"{lock}.json")

    def _take(self, name: str, lock: filelock.BaseFileLock, *, timeout: float) -> filelock.BaseFileLock:
        try:
            lock.acquire(timeout=timeout)
        except filelock.Timeout as exc:
            holder = read_json(self._holder_of(name))
            known = isinstance(holder, dict) and {"pid", "host"} <= holder.keys()
            who = f" (process {holder['pid']} on {holder['host']})" if known else ""
            what = "this run folder" if name == ".lock" else f"shard {name.removeprefix('.shard-')} of this run folder"
            raise RunFolderBusyError(f"{self.root}: another facepipe works in {what}{who}; wait for it") from exc
        except OSError as exc:
            raise UsageError(f"{self.root}: cannot be written: {exc.strerror}") from exc
        return lock

    def _refuse_shards(self) -> None:
        for path in sorted(self.root.glob(".shard-*")):
            if path.suffix != ".json":
                self._take(path.name, filelock.FileLock(path), timeout=0).release()

    @contextlib.contextmanager
    def clip_lock(self, side: Side, name: str, *, patient: bool = True) -> Iterator[bool]:
        """Hold a clip, so that no other process works on its files; yields whether it is held.

        Shards hold the clips that they are at. So does a worker, whose driver may be killed a moment before it ends
        itself.

        Parameters
        ----------
        side, name
            Which clip.
        patient : bool
            Whether to wait for a process that holds it; without, False is yielded.
        """
        folder = self.root / ".locks"
        folder.mkdir(exist_ok=True)
        lock = filelock.FileLock(folder / f".{side}-{name}")
        try:
            lock.acquire(timeout=-1 if patient else 0)
        except filelock.Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def clip_folder(self, side: Side, name: str) -> Path:
        """``RUN/source/<clip>`` or ``RUN/target/<clip>``."""
        return self.root / side / name

    @property
    def swapped(self) -> Path:
        """Folder of the swapped videos."""
        return self.root / "swapped"

    def place_of(self, clip: Clip) -> dict[str, str]:
        """Where a clip is: its ``path``; of a part of a film that within the run folder, and the ``film``."""
        if clip.film is None:
            return {"path": str(clip.path)}
        return {"path": clip.path.relative_to(self.root).as_posix(), "film": str(clip.film.path)}

    def file_hash(self, path: Path) -> str:
        """SHA-256 of a file, or of all images of a folder; remembered as long as size and time stay the same."""
        files = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.is_file())
        stat = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        stamp, name = digest(stat), str(path.resolve())
        known = self._hashes.get(name)
        if known and known["stamp"] == stamp:
            return str(known["sha256"])
        sha256 = file_sha256(path) if path.is_file() else digest([(file.name, file_sha256(file)) for file in files])
        self.learn_hashes({name: {"stamp": stamp, "sha256": sha256}})
        return sha256

    def learn_hashes(self, hashes: dict[str, Any]) -> None:
        """Remember what was learned here or by a worker."""
        if not hashes:
            return
        self._hashes |= hashes
        if not self._keeps_hashes:
            self.fresh_hashes |= hashes
            return
        path = self.root / "inputs.json"
        if self.shard is not None:  # what shards write between these two lines is forgotten, and hashed again
            self._hashes = {**_known_hashes(path), **self._hashes}
        write_marker(path, dict(sorted(self._hashes.items())))

    def is_done(self, marker: Path, key: str) -> bool:
        """Whether the result that `marker` stands for was made with `key` and its files are still there."""
        state = read_marker(marker)
        if state.get("key") != key:
            return False
        files = state.get("files")
        return isinstance(files, list) and all((marker.parent / str(name)).exists() for name in files)

    def mark_done(self, marker: Path, key: str, files: list[str], **facts: Any) -> None:
        """Write the marker: the last act of a stage on a clip. `facts` are kept for the report."""
        write_marker(marker, {"key": key, "files": files, **facts})

    def once(self, marker: Path, key: str, files: list[str], work: Callable[[], dict[str, Any]]) -> bool:
        """Do `work` and mark it done, unless it is done already; returns whether it was done now."""
        if self.is_done(marker, key):
            return False
        marker.unlink(missing_ok=True)
        self.mark_done(marker, key, files, **work())
        return True


def _known_hashes(path: Path) -> dict[str, Any]:
    """What `Workspace.learn_hashes` wrote; entries of another kind are forgotten."""
    known = read_json(path)
    entries = known.items() if isinstance(known, dict) else ()
    return {name: entry for name, entry in entries if isinstance(entry, dict) and {"stamp", "sha256"} <= entry.keys()}


def _visible(folder: Path) -> Iterator[Path]:
    return (path for path in folder.iterdir() if not path.name.startswith("."))


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
