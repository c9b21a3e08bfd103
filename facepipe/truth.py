"""The truth of a blend, for research on detection: how much of each pixel was replaced, by what, and from where.

Three files a clip, in a folder of their own, that need no facepipe to be read:

- ``mask.mkv``: FFV1, grey of 16 bits, one frame a frame of the clip: the soft mask that was really used (after
  occlusion, erosion and feathering) times 65535. Above 0 wherever the frame may have been changed.
- ``face.mp4``: lossless H.264 in RGB: the face in the frame's pixels as it met the frame, after colours, blur and
  grain; black beyond the patch.
- ``frames.parquet``: one row a frame: where the patch lies, its matrix, and which source face it is made from.

With the blend *feather*, ``frame * (1 - mask) + face * mask``, rounded, is the swapped frame before it was encoded.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from facepipe.errors import MediaError, RunFolderError
from facepipe.image import blend_feather
from facepipe.types import Image, VideoInfo
from facepipe.video import Limits, open_clip, open_writer, read_planes
from facepipe.workspace import atomic_path

__all__ = ["FACE", "FILES", "Blend", "BlendedFrame", "TruthWriter", "read_truth"]

FACE = "face.mp4"
"""The video of faces, which is signed."""

FILES = ("mask.mkv", FACE, "frames.parquet")
"""What lies in the folder of a clip."""

_FULL = 65535
_GROUP = 1024  # rows that are written at once

_SCHEMA = pa.schema(
    [
        ("frame", pa.int64()),
        ("pts", pa.int64()),
        ("swapped", pa.bool_()),
        *((name, pa.int32()) for name in ("left", "top", "width", "height")),
        ("frame_to_patch", pa.list_(pa.float64(), 6)),
        ("face", pa.int64()),
        ("source_clip", pa.string()),
        ("source_frame", pa.int64()),
        ("source_face", pa.int64()),
    ]
)


@dataclass(frozen=True, slots=True)
class Blend:
    """What a frame was blended from.

    Attributes
    ----------
    rows, columns : slice
        Where in the frame the patch lies.
    mask : (h, w) float32 array
        Share of the face in each of these pixels, 0 to 1.
    face : (h, w, 3) uint8 array
        RGB.
    frame_to_patch : (2, 3) float64 array
        From pixels of the frame to those of the patch that the method made.
    target_face : int
        Number of the replaced face within its frame.
    source_clip : str or None
        Name of the source clip; None for a method that has no single source face.
    source_frame, source_face : int
        The source face that was used most; -1 likewise.
    """

    rows: slice
    columns: slice
    mask: NDArray[np.float32]
    face: Image
    frame_to_patch: NDArray[np.float64]
    target_face: int = -1
    source_clip: str | None = None
    source_frame: int = -1
    source_face: int = -1


@dataclass(frozen=True, slots=True)
class BlendedFrame:
    """A frame of a clip and its truth; `blend` is None where nothing was swapped."""

    index: int
    pts: int
    blend: Blend | None

    def over(self, frame: Image) -> Image:
        """The clip's own frame (H, W, 3) with the face in it, blended by `facepipe.image.blend_feather`."""
        result = frame.copy()
        if self.blend is not None and self.blend.mask.size:
            place = self.blend.rows, self.blend.columns
            result[place] = blend_feather(self.blend.face, frame[place], self.blend.mask)
        return result


class TruthWriter:
    """Writes the truth of one clip, frame by frame, in constant memory.

    Use it in a ``with`` statement: each file has its name only when it is complete, and an exception leaves none.

    Parameters
    ----------
    folder : Path
        Of this clip; made when missing.
    like : VideoInfo
        Of the target clip.
    metadata : dict of str to str
        The label; see `facepipe.provenance`. It is in all three files.
    preset : str
        Effort of x264.
    finish : callable, optional
        Called with the finished video of faces before it takes its final name, to sign it; see `open_writer`.
    """

    def __init__(
        self,
        folder: Path,
        like: VideoInfo,
        metadata: dict[str, str],
        *,
        preset: str = "veryfast",
        finish: Callable[[Path], None] | None = None,
    ) -> None:
        self._folder = folder
        self._like = like
        self._metadata = metadata
        self._preset = preset
        self._finish = finish
        self._open = ExitStack()
        self._rows: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        folder, like, label = self._folder, self._like, self._metadata
        folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            mask, face, table = (folder / name for name in FILES)
            self._masks = stack.enter_context(open_writer(mask, like, codec="mask16", metadata=label))
            self._faces = stack.enter_context(
                open_writer(face, like, codec="lossless", preset=self._preset, metadata=label, finish=self._finish)
            )
            part = stack.enter_context(atomic_path(table))
            schema = _SCHEMA.with_metadata({"facepipe": json.dumps(label)})
            self._table = stack.enter_context(pq.ParquetWriter(part, schema, compression="zstd"))
            self._open = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            self._open.__exit__(kind, value, traceback)
            return
        with self._open:
            self._flush()

    def write(self, index: int, pts: int, blend: Blend | None) -> None:
        """Append a frame: its number, its time, and what it was blended from (None: nothing was swapped)."""
        mask, face = np.zeros(self._like.size, np.uint16), np.zeros((*self._like.size, 3), np.uint8)
        row: dict[str, Any] = dict.fromkeys(_SCHEMA.names)
        row.update(frame=index, pts=pts, swapped=blend is not None)
        if blend is not None:
            place = blend.rows, blend.columns
            mask[place] = np.where(blend.mask > 0, np.maximum(np.rint(blend.mask * _FULL), 1), 0)
            face[place] = blend.face
            row.update(_row(blend))
        self._masks.write(mask, pts)
        self._faces.write(face, pts)
        self._rows.append(row)
        if len(self._rows) == _GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._table.write_batch(pa.RecordBatch.from_pylist(self._rows, _SCHEMA))
            self._rows = []


def _row(blend: Blend) -> dict[str, Any]:
    """Columns of the table; -1 becomes null."""
    height, width = blend.mask.shape
    return {
        "left": blend.columns.start,
        "top": blend.rows.start,
        "width": width,
        "height": height,
        "frame_to_patch": np.asarray(blend.frame_to_patch, np.float64).ravel().tolist(),
        "face": _known(blend.target_face),
        "source_clip": blend.source_clip,
        "source_frame": _known(blend.source_frame),
        "source_face": _known(blend.source_face),
    }


def _known(number: int) -> int | None:
    return None if number < 0 else number


def _number(known: int | None) -> int:
    return -1 if known is None else known


def read_truth(folder: str | Path, limits: Limits | None = None) -> Iterator[BlendedFrame]:
    """Yield the truth of every frame of a clip, in order, in constant memory.

    Parameters
    ----------
    folder : str or Path
        ``RUN/blend/<clip>``, as `TruthWriter` (with ``swap.blend_truth``) made it.
    limits : Limits, optional
        Refuse larger frames.

    Yields
    ------
    BlendedFrame

    Raises
    ------
    RunFolderError
        A file is missing or damaged, or they are not of one length.
    MediaError
        A video cannot be decoded.
    """
    mask, face, table = (Path(folder) / name for name in FILES)
    if not table.is_file():
        raise RunFolderError(f"{table}: missing; set swap.blend_truth to true and run `facepipe swap` again")
    planes = read_planes(mask, limits)
    with contextlib.closing(planes), open_clip(face, limits=limits) as faces:
        try:
            for row, plane, frame in zip(_rows(table), planes, faces, strict=True):
                yield BlendedFrame(row["frame"], row["pts"], _blend(row, plane, frame.image))
        except ValueError as exc:
            if isinstance(exc, MediaError | RunFolderError):
                raise
            raise RunFolderError(f"{folder}: its files are not of one length; delete it and swap again") from exc


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_GROUP):
                yield from batch.to_pylist()
    except (OSError, pa.ArrowException) as exc:
        raise RunFolderError(f"{path}: damaged; delete its folder and swap again") from exc


def _blend(row: dict[str, Any], plane: NDArray[np.uint16], image: Image) -> Blend | None:
    if not row["swapped"]:
        return None
    rows = slice(row["top"], row["top"] + row["height"])
    columns = slice(row["left"], row["left"] + row["width"])
    return Blend(
        rows,
        columns,
        plane[rows, columns].astype(np.float32) / np.float32(_FULL),
        image[rows, columns],
        np.array(row["frame_to_patch"], np.float64).reshape(2, 3),
        _number(row["face"]),
        row["source_clip"],
        _number(row["source_frame"]),
        _number(row["source_face"]),
    )
