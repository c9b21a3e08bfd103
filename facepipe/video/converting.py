"""From decoded frames to the RGB of a clip: whole, smaller, or a part."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from facepipe.image.lazy import Box, Wanted
from facepipe.types import Image
from facepipe.video.color import Coding, to_rgb
from facepipe.video.source import reading
from facepipe.video.timing import Turn

__all__ = ["Converter", "Decoded"]

_PLANAR = ("yuv420p", "yuvj420p")
_ROOM = 10  # pixels beside a part that its chroma is interpolated with; two would do
_STEP = 64  # sizes of parts are multiples: few sizes, each with a context of its own
_SIZES = 12  # that are kept
_MOST = 0.7  # of a picture's pixels; a part that is larger is not worth it


class Converter:
    """What all frames of one iteration share. One thread converts at a time.

    Parameters
    ----------
    path : Path
        Of the clip, for messages.
    turn : Turn
        From pixels as stored to pixels as displayed.
    size : (int, int)
        Height and width of the clip as displayed; frames of other sizes are scaled to it.
    """

    def __init__(self, path: Path, turn: Turn, size: tuple[int, int]) -> None:
        self.size = size
        self.wanted = Wanted()
        self._path = path
        self._turn = turn
        self._lock = Lock()
        self._reformatters: dict[tuple[int, int], VideoReformatter] = {}
        self._stages: dict[tuple[int, int], av.VideoFrame] = {}

    def rgb(self, frame: av.VideoFrame, coding: Coding, size: tuple[int, int]) -> Image:
        """Pixels at `size` (height, width as displayed)."""
        with self._lock, reading(self._path):
            stored = self._turn.size(size)
            return self._turn.apply(to_rgb(frame, coding, stored, self._reformatter(stored)))

    def part(self, frame: av.VideoFrame, coding: Coding, box: Box) -> tuple[Image, Box]:
        """Pixels of a box that has all of `box`, the same as in the whole picture, and that box."""
        height, width = self.size
        stage = h, w = _stage(box[3] - box[1], height), _stage(box[2] - box[0], width)
        if not self._divisible(frame) or h * w > _MOST * height * width:
            return self.rgb(frame, coding, self.size), (0, 0, width, height)
        x, y = (
            min(max(start - _ROOM, 0) // 2 * 2, n - m)
            for start, n, m in zip(box, (width, height), (w, h), strict=False)
        )
        with self._lock, reading(self._path):
            if stage not in self._stages:
                # Scaled, only to have what else belongs to a frame: where its chroma lies.
                self._stages[stage] = VideoReformatter().reformat(frame, width=w, height=h)
            for number, (into, whole) in enumerate(zip(self._stages[stage].planes, frame.planes, strict=True)):
                s = 2 if number else 1
                _pixels(into)[: h // s, : w // s] = _pixels(whole)[y // s : (y + h) // s, x // s : (x + w) // s]
            pixels = to_rgb(self._stages[stage], coding, stage, self._reformatter(stage))
        left, top = (_ROOM - 2 if start else 0 for start in (x, y))
        right, bottom = (m - (_ROOM - 2 if start + m < n else 0) for start, m, n in ((x, w, width), (y, h, height)))
        return pixels[top:bottom, left:right], (x + left, y + top, x + right, y + bottom)

    def _divisible(self, frame: av.VideoFrame) -> bool:
        """Whether parts can be cut from its planes; from others the whole is converted."""
        even = frame.height % 2 == frame.width % 2 == 0
        plain = self._turn == Turn() and (frame.height, frame.width) == self.size
        return even and plain and frame.format.name in _PLANAR

    def _reformatter(self, size: tuple[int, int]) -> VideoReformatter:
        if len(self._reformatters) >= _SIZES and size not in self._reformatters:
            self._reformatters.clear()
            self._stages.clear()
        return self._reformatters.setdefault(size, VideoReformatter())


def _stage(extent: int, most: int) -> int:
    """Pixels of an axis that are converted for a part of `extent`."""
    return min(most, -(-(extent + 2 * _ROOM) // _STEP) * _STEP)


def _pixels(plane: av.video.plane.VideoPlane) -> NDArray[np.uint8]:
    memory: Any = plane
    return np.frombuffer(memory, np.uint8).reshape(-1, plane.line_size)


@dataclass(frozen=True, slots=True)
class Decoded:
    """A decoded frame and what is needed to turn it into RGB."""

    frame: av.VideoFrame
    coding: Coding
    converter: Converter

    def rgb(self, size: tuple[int, int]) -> Image:
        """Pixels at `size` (height, width as displayed)."""
        return self.converter.rgb(self.frame, self.coding, size)

    def part(self, box: Box) -> tuple[Image, Box]:
        """Pixels of a box that has all of `box`, and that box."""
        return self.converter.part(self.frame, self.coding, box)
