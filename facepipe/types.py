"""What flows through the pipeline, and the conventions that all of it keeps.

Convention
    - Points are ``(x, y)`` in pixels and the centre of a pixel is an integer (OpenCV's rule). Resizing by a
      factor ``s`` therefore maps ``p`` to ``(p + 0.5) * s - 0.5``.
    - Boxes are ``xyxy``: left, top, right, bottom. Sizes are ``(height, width)``.
    - Matrices are named by direction: ``frame_to_crop`` has shape (2, 3), is float64, and maps frame pixels to
      crop pixels.
    - Images at the border of a stage are RGB, HWC, uint8. Tensors are BCHW float32 in [-1, 1].
    - Times are `fractions.Fraction` seconds: exact. ``pts`` counts units of the stream's ``time_base``.
    - Angles are degrees. Yaw is positive when the face turns to the image's right, pitch when it looks up, roll when
      it tilts clockwise as seen in the image.

Words
    *source* gives the identity; *target* gives frame, pose and light; *landmarks*, *template* (canonical
    landmarks), *crop*, *warp* / *paste*, *mask*, *embedding*, *track*, *swap*, *composite*.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "FIXED_SHAPES",
    "HINTS",
    "OTHER",
    "SIDES",
    "Array",
    "Faces",
    "Flag",
    "Image",
    "Side",
    "VideoInfo",
    "evenly_spaced",
    "longest_runs",
]

Array = NDArray[np.floating[Any]]
"""Any floating array; the shape stands in the docstring."""

Image = NDArray[np.uint8]
"""RGB, (H, W, 3), uint8 at stage borders; masks are (H, W) float32 in [0, 1]."""


Side = Literal["source", "target"]
"""Which of the two people: the one who gives the identity, or the one whose face is replaced."""

SIDES: tuple[Side, Side] = ("source", "target")
OTHER: Mapping[Side, Side] = {"source": "target", "target": "source"}
"""Whose face is put on whom."""

HINTS = 49
"""Numbers that tell a net the pose and the expression of a face."""


class Flag(enum.IntFlag):
    """Why a face should not be trusted blindly. A face without a flag is fit for every use."""

    PROFILE = 1
    """Turned away by more than the limit: half of the landmarks are guesses."""
    BLURRED = 2
    """Too little detail in the crop."""
    CUT_OFF = 4
    """Part of the face lies outside of the frame."""
    MISFIT = 8
    """The landmarks do not look like a face: large residual to the template. Or they lie on another face in front; or,
    of a filled one, what is there does not look like the face."""
    SMALL = 16
    """Fewer pixels between the eyes than the limit."""
    FILLED = 32
    """Not found in this frame: interpolated between the frames before and after, for the swap alone."""


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What is known of a clip before its frames are decoded.

    Nothing here is used to allocate or to loop: headers lie (`frames_promised` most of all).

    Attributes
    ----------
    path : Path
        The file or the folder of images.
    size : (int, int)
        Height and width as displayed, i.e. after `rotation`.
    rate : Fraction
        Average frames per second.
    time_base : Fraction
        Seconds in one unit of ``pts``.
    rotation : int
        Degrees counter-clockwise by which the stored picture is turned for display: 0, 90, 180 or 270.
        Frames are given turned.
    has_audio : bool
        Whether there is at least one audio stream.
    frames_promised : int
        Number of frames that the header claims; 0 when it does not say.
    pixel_format, color_space, color_range : str
        As the codec reports them, e.g. ``yuv420p``, ``bt709``, ``tv``.
    """

    path: Path
    size: tuple[int, int]
    rate: Fraction
    time_base: Fraction
    rotation: int = 0
    has_audio: bool = False
    frames_promised: int = 0
    pixel_format: str = ""
    color_space: str = ""
    color_range: str = ""


FIXED_SHAPES: Mapping[str, tuple[int, ...]] = {"box": (4,), "frame_to_crop": (2, 3), "eyes": (2,)}
"""What a row of `Faces` holds of a column, for those that are the same in every table and more than a number."""


@dataclass(frozen=True)
class Faces:
    """A table of faces: every attribute is an array whose first axis has one entry a face.

    Rows are ordered by frame, then by `face`. Index with a mask, a slice or an integer array to get another
    `Faces`; iterate to get one-row tables.

    Attributes
    ----------
    frame : (N,) int64 array
        Number of the frame in order of display, from 0.
    pts : (N,) int64 array
        Time of the frame in units of the clip's ``time_base``.
    face : (N,) int32 array
        Number of the face within its frame, from 0, by falling size of the box.
    track : (N,) int32 array
        Number of the track within its clip; -1 when not tracked.
    box : (N, 4) float32 array
        ``xyxy`` in frame pixels.
    score : (N,) float32 array
        The detector's confidence in [0, 1]; NaN of a face that was filled in.
    landmarks : (N, 68, 2) or (N, 5, 2) float32 array
        iBUG points in frame pixels (or eyes, nose, corners of the mouth where the backend has five).
    mesh : (N, 468, 3) or (N, 0, 3) float32 array
        FaceMesh points in frame pixels, z in the same scale, smaller is nearer; empty without a mesh.
    frame_to_crop : (N, 2, 3) float64 array
        Similarity transform from the frame into the aligned crop.
    embedding : (N, D) float32 array
        Identity embedding of unit length; D is 0 when not embedded. A row of NaN: this face was not embedded.
    yaw, pitch, roll : (N,) float32 array
        Head pose in degrees.
    sharpness : (N,) float32 array
        Standard deviation of the Laplacian in the aligned crop; grey levels.
    eyes : (N, 2) float32 array
        How open the eyes look, see `facepipe.eyes`; left in the picture first, NaN where nothing can be told.
    flags : (N,) int32 array
        Bits of `Flag`.
    """

    frame: NDArray[np.int64]
    pts: NDArray[np.int64]
    face: NDArray[np.int32]
    track: NDArray[np.int32]
    box: NDArray[np.float32]
    score: NDArray[np.float32]
    landmarks: NDArray[np.float32]
    mesh: NDArray[np.float32]
    frame_to_crop: NDArray[np.float64]
    embedding: NDArray[np.float32]
    yaw: NDArray[np.float32]
    pitch: NDArray[np.float32]
    roll: NDArray[np.float32]
    sharpness: NDArray[np.float32]
    eyes: NDArray[np.float32]
    flags: NDArray[np.int32]

    def __post_init__(self) -> None:
        n = len(self.frame)
        for field in fields(self):
            array = getattr(self, field.name)
            expected = (n, *FIXED_SHAPES.get(field.name, array.shape[1:]))
            if array.shape != expected:
                raise ValueError(f"Faces.{field.name}: expected shape {expected}, got {array.shape}")

    @classmethod
    def empty(cls, *, landmarks: int = 68, mesh: int = 0, embedding: int = 0) -> Self:
        """A table without rows."""
        f32, i32 = np.float32, np.int32
        return cls(
            frame=np.empty(0, np.int64),
            pts=np.empty(0, np.int64),
            face=np.empty(0, i32),
            track=np.empty(0, i32),
            box=np.empty((0, 4), f32),
            score=np.empty(0, f32),
            landmarks=np.empty((0, landmarks, 2), f32),
            mesh=np.empty((0, mesh, 3), f32),
            frame_to_crop=np.empty((0, 2, 3), np.float64),
            embedding=np.empty((0, embedding), f32),
            yaw=np.empty(0, f32),
            pitch=np.empty(0, f32),
            roll=np.empty(0, f32),
            sharpness=np.empty(0, f32),
            eyes=np.empty((0, 2), f32),
            flags=np.empty(0, i32),
        )

    @classmethod
    def concatenate(cls, tables: list[Self]) -> Self:
        """All rows of `tables`, in order; at least one table is needed."""
        return cls(**{f.name: np.concatenate([getattr(t, f.name) for t in tables]) for f in fields(cls)})

    def __len__(self) -> int:
        return len(self.frame)

    def __getitem__(self, index: Any) -> Self:
        rows = np.arange(len(self))[index]
        rows = np.atleast_1d(rows)
        return type(self)(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def __iter__(self) -> Iterator[Self]:
        return (self[i : i + 1] for i in range(len(self)))

    def with_columns(self, **columns: NDArray[Any]) -> Self:
        """The same table with some columns replaced."""
        return replace(self, **columns)

    @property
    def trusted(self) -> NDArray[np.bool_]:
        """(N,) bool: faces without a flag."""
        return np.asarray(self.flags == 0)


def evenly_spaced(count: int, most: int) -> NDArray[np.int64]:
    """Rising indices below `count`: all of them when there are at most `most`, else that many, evenly spaced."""
    return np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(np.int64))


def longest_runs(where: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """First and last index of each run of truths: longest first, those of one length in order."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], where, [False]]).astype(np.int8)))
    runs = zip(edges[::2].tolist(), (edges[1::2] - 1).tolist(), strict=True)
    return sorted(runs, key=lambda run: (run[0] - run[1], run[0]))
