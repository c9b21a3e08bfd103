"""Writing clips: exact times, right colours, untouched audio, whole files or none."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import av
import numpy as np
from av.container import OutputContainer
from av.video.reformatter import ColorRange, VideoReformatter
from numpy.typing import NDArray

from facepipe.errors import ContainerError, MediaError, UsageError
from facepipe.types import VideoInfo
from facepipe.video.color import SPACES, Coding, from_rgb
from facepipe.video.source import Limits, open_input, reading
from facepipe.video.stills import publish

__all__ = ["ClipWriter", "open_writer"]

_MUXERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
_THREADS = 4  # fixed, because the bits that x264 makes depend on it and must not depend on the machine
# x264's macroblock tree reads memory that nobody wrote: with it, the same frames become other bits now and then
# (set MALLOC_PERTURB_ to see it). Without it a file of the same crf is 15 to 30 % larger, and .4 to .9 dB better.
_STEADY = "mbtree=0"
_ROUNDING = Fraction(1, 500)  # seconds: Matroska counts milliseconds
_SPACE_NUMBERS = {name: number for number, name in SPACES.items()}


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except (av.error.FFmpegError, OSError) as exc:
        raise MediaError(f"{path}: cannot be written: {getattr(exc, 'strerror', None) or exc}") from exc


class ClipWriter:
    """Takes frames and makes a video file of them; made by `open_writer`.

    The file has its final name only when it is complete. Leaving the context by an exception leaves nothing.

    Attributes
    ----------
    path : Path
        The final name.
    """

    def __init__(
        self,
        path: Path,
        like: VideoInfo,
        *,
        codec: Literal["h264", "lossless", "mask", "mask16"],
        crf: int,
        preset: str,
        metadata: dict[str, str],
        audio_from: Path | None,
        finish: Callable[[Path], None] | None,
    ) -> None:
        self.path = path
        self._finish = finish
        self._like = like
        # Limited range for every input: swscale makes full-range chroma half a level too small (measured).
        self._coding = Coding.of(
            space=like.color_space, color_range="tv", pixel_format=like.pixel_format, height=like.size[0]
        )
        self._format = _pixel_format(codec, like.size)
        self._reformatter = VideoReformatter()
        self._times = array("q")
        self._part = path.with_name(f"{path.name}.part")
        self._audio = _AudioCopy(audio_from, path) if audio_from is not None else None
        self._container: OutputContainer | None = None
        try:
            with _writing(path):
                self._container = self._open(metadata)
                self._stream = self._add_video(self._container, codec, crf, preset)
                if self._audio is not None:
                    self._audio.add_to(self._container)
                self._container.start_encoding()
        except ValueError as exc:
            self.abort()
            if isinstance(exc, MediaError):  # it says already what is wrong
                raise
            raise MediaError(f"{path}: cannot be written: {exc}") from exc
        except BaseException:
            self.abort()
            raise

    def _open(self, metadata: dict[str, str]) -> OutputContainer:
        muxer = _MUXERS[self.path.suffix.lower()]
        options = {"fflags": "+bitexact"}  # else Matroska files begin with a random number, and never are alike
        if muxer != "matroska":
            scale = self._like.time_base.denominator
            whole = math.lcm(scale, *(self._audio.scales if self._audio is not None else ()))
            options = {
                "movflags": "use_metadata_tags+faststart",
                "video_track_timescale": str(scale),
                # Start offsets are stored in these units: with the default of 1/1000 s they would be rounded.
                "movie_timescale": str(whole if whole < 2**31 else scale),
            }
        container = av.open(f"file:{self._part}", "w", format=muxer, container_options=options)
        container.metadata.update(metadata)
        return container

    def _add_video(self, container: OutputContainer, codec: str, crf: int, preset: str) -> Any:
        name = {"h264": "libx264", "lossless": "libx264rgb"}.get(codec, "ffv1")
        x264 = {"crf": str(crf if codec == "h264" else 0), "preset": preset, "x264-params": _STEADY}
        options = x264 if name != "ffv1" else {}
        stream: Any = container.add_stream(name, rate=self._like.rate.limit_denominator(10**6), options=options)
        stream.height, stream.width = self._like.size
        stream.pix_fmt = self._format
        context = stream.codec_context
        context.time_base = self._like.time_base
        context.thread_count = _THREADS
        if name == "ffv1":
            context.color_range = int(ColorRange.JPEG)
        if codec == "h264":
            context.colorspace = _SPACE_NUMBERS[self._coding.space]
            context.color_range = int(self._coding.range)
            if self._coding.space == "bt709":
                context.color_primaries = context.color_trc = 1
        return stream

    @property
    def frames(self) -> int:
        """Frames written so far."""
        return len(self._times)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def write(self, image: NDArray[np.uint8] | NDArray[np.uint16], pts: int) -> None:
        """Append a frame.

        Parameters
        ----------
        image : (H, W, 3) uint8 array
            RGB of the size of `like`; for ``codec="mask"`` a (H, W) plane, for ``"mask16"`` one of uint16.
        pts : int
            Its time in units of the ``time_base`` of `like`, later than the one before.

        Raises
        ------
        ValueError
            Another shape or type, or a time that does not grow.
        MediaError
            The file cannot be written.
        """
        shape = self._like.size if self._format.startswith("gray") else (*self._like.size, 3)
        dtype = np.dtype(np.uint16 if self._format == "gray16le" else np.uint8)
        if image.shape != shape or image.dtype != dtype:
            raise ValueError(f"{self.path}: expected {shape} {dtype}, got {image.shape} {image.dtype}")
        if self._times and pts <= self._times[-1]:
            raise ValueError(f"{self.path}: expected a pts after {self._times[-1]}, got {pts}")
        if self._container is None:
            raise ValueError(f"{self.path}: the writer is closed")
        whole: Any = np.ascontiguousarray(image)
        frame = from_rgb(whole, self._coding, self._format, self._reformatter)
        frame.pts = int(pts)
        frame.time_base = self._like.time_base
        with _writing(self.path):
            self._mux(self._container, self._stream.encode(frame))
        self._times.append(int(pts))

    def _mux(self, container: OutputContainer, packets: list[Any]) -> None:
        for packet in packets:
            if self._audio is not None and packet.dts is not None:
                self._audio.copy(container, until=packet.dts * packet.time_base)
            container.mux(packet)

    def close(self) -> None:
        """Finish the file and give it its name; nothing happens when it is closed already."""
        if self._container is None:
            return
        try:
            if not self.frames:
                raise MediaError(f"{self.path}: no frame was written")
            with _writing(self.path):
                self._mux(self._container, self._stream.encode(None))
                if self._audio is not None:
                    self._audio.copy(self._container, until=None)
                self._container.close()
                self._check()
                if self._finish is not None:
                    self._finish(self._part)
                publish(self._part, self.path)
        except BaseException:
            self.abort()
            raise
        self._container = None
        self._close_audio()

    def _check(self) -> None:
        """A file whose frames, times or sound are others than were written gets no name."""
        with av.open(f"file:{self._part}") as made:
            found = [_Span() for _ in made.streams]
            film, times = made.streams.video[0], array("q")
            for packet in made.demux():
                if packet.size and packet.pts is not None:
                    found[packet.stream.index].add(packet.pts * packet.time_base)
                    if packet.stream.index == film.index:
                        times.append(packet.pts)
            del found[film.index]
            base = film.time_base or self._like.time_base
        if len(times) != self.frames:
            raise MediaError(f"{self.path}: holds {len(times)} of the {self.frames} frames written; run again")
        if _farthest(times, base, self._times, self._like.time_base) > _rounding(base, self._like.time_base):
            raise MediaError(f"{self.path}: its frames have other times than were written; write to a .mp4 file")
        for sound, copied in zip(found, [] if self._audio is None else self._audio.copied, strict=True):
            if sound.packets != copied.packets or abs(sound.length - copied.length) > _ROUNDING:
                lasts = f"{float(sound.length):.3f} s, not {float(copied.length):.3f}"
                raise MediaError(f"{self.path}: its sound lasts {lasts}; run again")

    def abort(self) -> None:
        """Give up: close and remove the partial file."""
        container, self._container = self._container, None
        self._close_audio()
        if container is not None:
            with suppress(av.error.FFmpegError, OSError, ValueError):  # whoever aborts knows the reason
                container.close()
        self._part.unlink(missing_ok=True)

    def _close_audio(self) -> None:
        if self._audio is not None:
            self._audio.close()


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


class _AudioCopy:
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


def _farthest(times: array[int], base: Fraction, wanted: array[int], wanted_base: Fraction) -> float:
    """By how many seconds at most times differ from those wanted, each counted from the first."""
    got, expected = np.sort(np.array(times)), np.array(wanted)
    return float(np.abs((got - got[0]) * float(base) - (expected - expected[0]) * float(wanted_base)).max())


def _rounding(base: Fraction, wanted: Fraction) -> float:
    """Seconds by which a container's unit of time moves times: both may be rounded where it is the coarser one."""
    return float(wanted / 2) if base <= wanted else 1.01 * float(base)


def _pixel_format(codec: str, size: tuple[int, int]) -> str:
    if codec in ("mask", "mask16"):
        return "gray" if codec == "mask" else "gray16le"
    if codec == "lossless":
        return "rgb24"
    # 4:2:0 halves both sides; x264 takes odd ones as 4:4:4 only, which keeps the size exactly.
    return "yuv420p" if size[0] % 2 == size[1] % 2 == 0 else "yuv444p"


def open_writer(
    path: str | Path,
    like: VideoInfo,
    *,
    codec: Literal["h264", "lossless", "mask", "mask16"] = "h264",
    crf: int = 16,
    preset: str = "fast",
    metadata: dict[str, str] | None = None,
    audio_from: str | Path | None = None,
    finish: Callable[[Path], None] | None = None,
) -> ClipWriter:
    """Open a video file for writing.

    Parameters
    ----------
    path : str or Path
        The file to make, ``.mp4``, ``.m4v``, ``.mov`` or ``.mkv``. Times are kept exactly, but for Matroska: it
        counts whole milliseconds and none below zero (sound that starts before zero shifts sound and picture).
    like : VideoInfo
        Size, time base, rate and colour matrix to write, usually those of the input.
    codec : {"h264", "lossless", "mask", "mask16"}
        ``h264`` is 8 bit 4:2:0 (4:4:4 where a side is odd) in the matrix of `like` and in limited range, tagged so
        (full-range input is converted); ``lossless`` is RGB H.264, bit-exact; ``mask`` is grey FFV1, bit-exact, for
        ``.mkv``; ``mask16`` the same with 16 bits a pixel, which `read_planes` reads.
    crf : int
        Quality of ``h264``, 0 to 51; less is better and larger.
    preset : str
        Effort of x264, ``ultrafast`` to ``veryslow``.
    metadata : dict of str to str, optional
        Tags of the container; `read_metadata` reads them back.
    audio_from : str or Path, optional
        Copy every audio stream of this file, packet by packet, with its times.
    finish : callable, optional
        Called with the complete file before that has its final name; what it leaves there gets the name. Where it
        raises, there is no file.

    Returns
    -------
    ClipWriter
        Use it in a ``with`` statement.

    Raises
    ------
    UsageError
        Another suffix.
    ContainerError
        This kind of file cannot hold the audio; ``.mkv`` can.
    MediaError
        The file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in _MUXERS:
        raise UsageError(f"{path}: cannot write '{path.suffix}' videos, expected one of {' '.join(_MUXERS)}")
    if codec in ("mask", "mask16") and path.suffix.lower() != ".mkv":
        raise UsageError(f"{path}: masks are written to .mkv files, got '{path.suffix}'")
    return ClipWriter(
        path,
        like,
        codec=codec,
        crf=crf,
        preset=preset,
        metadata=dict(metadata or {}),
        audio_from=Path(audio_from) if audio_from is not None else None,
        finish=finish,
    )
