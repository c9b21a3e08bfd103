"""What writing a video and joining some have in common: containers, sound that is copied, a look at what was made."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import OutputContainer
from numpy.typing import NDArray

from facepipe.errors import ContainerError, MediaError
from facepipe.video.source import Limits, open_input, reading
from facepipe.video.stills import publish

__all__ = ["MUXERS", "AudioCopy", "complete", "open_output", "writing"]

MUXERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
"""The kinds of file that are written, by suffix."""

_ROUNDING = Fraction(1, 500)  # seconds: Matroska counts milliseconds


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Translate whatever a muxer or the file system raises into `MediaError`."""
    try:
        yield
    except (av.error.FFmpegError, OSError) as exc:
        raise MediaError(f"{path}: cannot be written: {getattr(exc, 'strerror', None) or exc}") from exc


def open_output(
    part: Path, path: Path, time_base: Fraction, audio: AudioCopy | None, metadata: Mapping[str, str]
) -> OutputContainer:
    """The container of a file that will be `path`, for video whose times are in units of `time_base`."""
    muxer = MUXERS[path.suffix.lower()]
    options = {"fflags": "+bitexact"}  # else Matroska files begin with a random number, and never are alike
    if muxer != "matroska":
        scale = time_base.denominator
        whole = math.lcm(scale, *(audio.scales if audio is not None else ()))
        options = {
            "movflags": "use_metadata_tags+faststart",
            "video_track_timescale": str(scale),
            # Start offsets are stored in these units: with the default of 1/1000 s they would be rounded.
            "movie_timescale": str(whole if whole < 2**31 else scale),
        }
    container = av.open(f"file:{part}", "w", format=muxer, container_options=options)
    container.metadata.update(metadata)
    return container


@dataclass
class _Span:
    """How many packets a stream has, and from when to when, in seconds."""

    packets: int = 0
    first: Fraction = Fraction(0)
    last: Fraction = Fraction(0)

    def add(self, time: Fraction) -> None:
        self.first = min(self.first, time) if self.packets else time
        self.last = max(self.last, time) if self.packets else time
        self.packets += 1

    @property
    def length(self) -> Fraction:
        return self.last - self.first


class AudioCopy:
    """The audio packets of a file, copied unchanged next to the video packets of the same time."""

    def __init__(self, source: Path, target: Path) -> None:
        self._source = source
        self._target = target
        with reading(source):
            self._container = open_input(source, Limits())
        self._streams = list(self._container.streams.audio)
        self._out: dict[int, Any] = {}
        self._packets = iter(self._container.demux(self._streams)) if self._streams else iter(())
        self._next: Any = None
        self._copied = {stream.index: _Span() for stream in self._streams}

    @property
    def copied(self) -> list[_Span]:
        """What was copied of each stream."""
        return list(self._copied.values())

    @property
    def scales(self) -> list[int]:
        """Denominators of the time bases."""
        return [s.time_base.denominator for s in self._streams if s.time_base is not None]

    def add_to(self, container: OutputContainer) -> None:
        """Make an output stream for each audio stream."""
        for stream in self._streams:
            name = stream.codec_context.name if stream.codec_context is not None else "unknown"
            try:
                out = container.add_stream_from_template(stream)
            except ValueError as exc:
                raise ContainerError(
                    f"{self._target}: this container cannot hold the audio of {self._source} ({name}); "
                    "write to a .mkv file"
                ) from exc
            out.metadata.update(stream.metadata)
            self._out[stream.index] = out

    def copy(self, container: OutputContainer, until: Fraction | None) -> None:
        """Copy packets up to a time in seconds, or all that are left."""
        while True:
            if self._next is None:
                with reading(self._source):
                    self._next = next(self._packets, None)
            packet = self._next
            if packet is None:
                return
            if packet.dts is not None:  # None: the empty packet that ends a stream
                if until is not None and packet.dts * packet.time_base > until:
                    return
                if packet.size and packet.pts is not None:
                    self._copied[packet.stream.index].add(packet.pts * packet.time_base)
                packet.stream = self._out[packet.stream.index]
                container.mux(packet)
            self._next = None

    def close(self) -> None:
        """Close the source."""
        self._container.close()


def complete(
    part: Path,
    path: Path,
    wanted: NDArray[np.int64],
    time_base: Fraction,
    audio: AudioCopy | None = None,
    finish: Callable[[Path], None] | None = None,
) -> None:
    """Give a written file its name, once it was seen to hold what was written.

    Parameters
    ----------
    part, path : Path
        The file, closed, and what it will be called.
    wanted : (N,) int64 array
        Times of the frames in units of `time_base`, in the order of display.
    audio : AudioCopy, optional
        What was copied.
    finish : callable, optional
        Called with the file before it has its name.

    Raises
    ------
    MediaError
        Its frames, their times or its sound are others than were written.
    """
    with writing(path):
        _check(part, path, wanted, time_base, audio)
        if finish is not None:
            finish(part)
        publish(part, path)


def _check(part: Path, path: Path, wanted: NDArray[np.int64], time_base: Fraction, audio: AudioCopy | None) -> None:
    with av.open(f"file:{part}") as made:
        found = [_Span() for _ in made.streams]
        film, times = made.streams.video[0], array("q")
        for packet in made.demux():
            if packet.size and packet.pts is not None:
                found[packet.stream.index].add(packet.pts * packet.time_base)
                if packet.stream.index == film.index:
                    times.append(packet.pts)
        del found[film.index]
        base = film.time_base or time_base
    if len(times) != len(wanted):
        raise MediaError(f"{path}: holds {len(times)} of the {len(wanted)} frames written; run again")
    if _farthest(times, base, wanted, time_base) > _rounding(base, time_base):
        raise MediaError(f"{path}: its frames have other times than were written; write to a .mp4 file")
    for sound, copied in zip(found, [] if audio is None else audio.copied, strict=True):
        if sound.packets != copied.packets or abs(sound.length - copied.length) > _ROUNDING:
            lasts = f"{float(sound.length):.3f} s, not {float(copied.length):.3f}"
            raise MediaError(f"{path}: its sound lasts {lasts}; run again")


def _farthest(times: array[int], base: Fraction, wanted: NDArray[np.int64], wanted_base: Fraction) -> float:
    """By how many seconds at most times differ from those wanted, each counted from the first."""
    got = np.sort(np.array(times))
    return float(np.abs((got - got[0]) * float(base) - (wanted - wanted[0]) * float(wanted_base)).max())


def _rounding(base: Fraction, wanted: Fraction) -> float:
    """Seconds by which a container's unit of time moves times: both may be rounded where it is the coarser one."""
    return float(wanted / 2) if base <= wanted else 1.01 * float(base)
