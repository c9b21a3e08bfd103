"""Times that only grow, clips that end early, and pictures that lie on their side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np

from facepipe.types import Image, VideoInfo

__all__ = ["Clock", "Tally", "Turn"]


class Clock:
    """Makes the times of a clip strictly increasing, by a fixed rule.

    A missing time becomes the one before plus one frame; a time that is not later than the one before becomes the
    one before plus one unit. All others stay as they are.
    """

    def __init__(self, info: VideoInfo) -> None:
        self._step = max(1, round(1 / (info.rate * info.time_base)))
        self.last: int | None = None
        self._missing = 0
        self._backward = 0

    def tick(self, pts: int | None) -> int:
        """The time to use for the next frame, whose own one is `pts`."""
        if pts is None:
            self._missing += 1
            pts = 0 if self.last is None else self.last + self._step
        elif self.last is not None and pts <= self.last:
            self._backward += 1
            pts = self.last + 1
        self.last = pts
        return pts

    def warnings(self) -> Iterator[str]:
        """What had to be changed so far."""
        if self._missing:
            yield f"{self._missing} frames have no time, it was made from the frame rate"
        if self._backward:
            yield f"{self._backward} frames are not later than the one before, their times were moved"


@dataclass
class Tally:
    """What came out of a container.

    Attributes
    ----------
    packets, hidden, bad : int
        Packets found; those of them that the file itself leaves out (edit lists); those that cannot be decoded.
    broken : str
        Why reading stopped before the end, if it did.
    """

    packets: int = 0
    hidden: int = 0
    bad: int = 0
    broken: str = ""

    def warnings(self, stream: av.VideoStream, info: VideoInfo, count: int, last: int | None) -> Iterator[str]:
        """Say where the `count` decoded frames are fewer, or end earlier, than promised (headers may lie)."""
        if self.bad:
            yield f"{self.bad} of {self.packets} packets cannot be decoded"
        if self.broken:
            yield f"cut short: reading stopped after {count} frames: {self.broken}"
        elif self.packets < info.frames_promised:
            yield f"cut short: the header promises {info.frames_promised} frames, {count} were decoded"
        else:
            yield from _missing_end(stream, info, last)


def _missing_end(stream: av.VideoStream, info: VideoInfo, last: int | None) -> Iterator[str]:
    duration = _duration(stream)
    if duration is None or last is None:
        return
    ends = last * info.time_base + 1 / info.rate
    begins = 0 if stream.duration is None else stream.start_time or 0  # Matroska tells when a stream ends
    promised = begins * info.time_base + duration
    if promised - ends > max(Fraction(1, 2), 2 / info.rate):
        yield f"cut short: the header promises {float(promised):.3f} s, the frames end at {float(ends):.3f} s"


def _duration(stream: av.VideoStream) -> Fraction | None:
    """Seconds of the video stream by its header; Matroska keeps them in a tag, ``00:00:04.960000000``."""
    if stream.duration is not None and stream.time_base is not None:
        return Fraction(stream.duration * stream.time_base)
    tag = next((v for k, v in stream.metadata.items() if k.upper().startswith("DURATION")), "")
    try:
        hours, minutes, seconds = tag.split(":")
        return int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)
    except ValueError:
        return None


@dataclass(frozen=True)
class Turn:
    """How the stored picture becomes the displayed one: swap the axes, then flip.

    All eight ways in which a display matrix can place a picture on its axes are such a triple.
    """

    transpose: bool = False
    flip_x: bool = False
    flip_y: bool = False
    odd: bool = False
    """The matrix asks for something else (an angle between); nothing is done then."""

    @classmethod
    def of(cls, frame: av.VideoFrame) -> Turn:
        """From the display matrix of a frame: ``x' = a x + c y``, ``y' = b x + d y`` (ISO/IEC 14496-12, 6.2.2)."""
        side: Any = next((s for s in list[Any](frame.side_data) if s.type.name == "DISPLAYMATRIX"), None)
        if side is None:
            return cls()
        a, b, _, c, d, *_ = np.frombuffer(bytes(side), np.int32)
        if b == c == 0 and a and d:
            return cls(False, bool(a < 0), bool(d < 0))
        if a == d == 0 and b and c:
            return cls(True, bool(c < 0), bool(b < 0))
        return cls(odd=True)

    @property
    def rotation(self) -> int:
        """Degrees counter-clockwise; for a mirrored picture those of the turn that is left."""
        if self.transpose:
            return 270 if self.flip_x else 90
        return 180 if self.flip_y else 0

    def size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Size displayed from size stored, and the other way round."""
        return size[::-1] if self.transpose else size

    def apply(self, image: Image) -> Image:
        """The displayed picture, contiguous."""
        if self.transpose:
            image = image.transpose(1, 0, 2)
        if self.flip_x:
            image = image[:, ::-1]
        if self.flip_y:
            image = image[::-1]
        return np.ascontiguousarray(image)
