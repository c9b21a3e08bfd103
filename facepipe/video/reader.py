"""Reading a clip frame by frame in constant memory, with exact times."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import cv2
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from facepipe.errors import MediaError, UsageError
from facepipe.image.lazy import LazyImage, Picture
from facepipe.types import Image, VideoInfo
from facepipe.video.clips import Clip, images_of, to_clip
from facepipe.video.color import RANGES, SPACES, Coding
from facepipe.video.converting import Converter, Decoded
from facepipe.video.source import Limits, open_input, reading, video_stream
from facepipe.video.stills import is_animated, read_image
from facepipe.video.timing import Clock, Tally, Turn

__all__ = ["ClipReader", "Frame", "open_clip", "probe", "with_pixels"]

_IMAGE_RATE = Fraction(25)
_HDR = {16: "PQ", 18: "HLG"}  # AVColorTransferCharacteristic


class Frame:
    """One frame of a clip; pixels are converted when they are first looked at.

    Attributes
    ----------
    index : int
        Number in order of display, from 0.
    pts : int
        Time in units of the clip's ``time_base``.
    time : Fraction
        Time in seconds.
    corrupt : bool
        The decoder met errors and filled in what was missing.
    pixels : (H, W, 3) uint8 array or LazyImage
        What `facepipe.image.warp` takes to cut out of: the picture, converted only where it is cut.
    """

    __slots__ = ("_source", "corrupt", "index", "pixels", "pts", "time")

    def __init__(
        self, index: int, pts: int, time: Fraction, source: Image | Decoded, *, corrupt: bool = False
    ) -> None:
        self.index = index
        self.pts = pts
        self.time = time
        self.corrupt = corrupt
        self._source = None if isinstance(source, np.ndarray) else source
        self.pixels: Picture = (
            source
            if isinstance(source, np.ndarray)
            else LazyImage(source.converter.size, source.part, source.converter.wanted)
        )

    @property
    def image(self) -> Image:
        """(H, W, 3) uint8 array, RGB, turned for display, contiguous; converted once and kept.

        The array is the caller's: it may be changed, but then later accesses see the change.
        """
        return self.pixels if isinstance(self.pixels, np.ndarray) else self.pixels.whole()

    def small(self, max_side: int) -> tuple[Image, float]:
        """A copy whose long side is at most `max_side`, shrunk with a low-pass, never enlarged.

        It is made from the decoder's own planes, which costs far less than `image`.

        Parameters
        ----------
        max_side : int
            Length of the long side in pixels.

        Returns
        -------
        image : (h, w, 3) uint8 array
            RGB, turned for display.
        scale : float
            Its size by that of the frame (of the long side; the short one is rounded to whole pixels), so
            ``p_frame = (p_small + 0.5) / scale - 0.5``.
        """
        if max_side < 1:
            raise ValueError(f"expected a max_side of at least 1, got {max_side}")
        height, width = self.pixels.shape[:2]
        scale = min(1.0, max_side / max(height, width))
        size = max(1, round(height * scale)), max(1, round(width * scale))
        if self._source is not None:
            return self._source.rgb(size), scale
        if scale == 1.0:
            return self.image.copy(), scale
        return np.asarray(cv2.resize(self.image, size[::-1], interpolation=cv2.INTER_AREA), np.uint8), scale


class ClipReader:
    """The frames of one clip; made by `open_clip`.

    Iterate to get every `Frame`; each iteration starts anew, and starting one ends the one before. Leaving the
    context closes the file.

    Attributes
    ----------
    info : VideoInfo
        What the first frame and the header say.
    warnings : list of str
        What is odd about the clip; complete after an iteration that reached the end.
    """

    def __init__(self, clip: Clip, *, limits: Limits, start: int = 0, stop: int | None = None) -> None:
        if start < 0 or (stop is not None and stop < start):
            raise UsageError(f"{clip.path}: expected 0 <= start <= stop, got start={start}, stop={stop}")
        self.clip = clip
        self.warnings: list[str] = []
        self._limits = limits
        self._start = start
        self._stop = stop
        self._turn = Turn()
        self._running: Iterator[Frame] | None = None
        self.info = self._probe_images() if clip.kind == "images" else self._probe_video()
        self._first_warnings = list(self.warnings)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End a running iteration and close its file."""
        running, self._running = self._running, None
        if running is not None:
            running.close()  # type: ignore[attr-defined]

    def __iter__(self) -> Iterator[Frame]:
        self.close()
        self.warnings[:] = self._first_warnings
        self._running = self._images() if self.clip.kind == "images" else self._video()
        return self._running

    def _warn(self, text: str) -> None:
        self.warnings.append(f"{self.clip.path}: {text}")

    # Stills

    def _paths(self) -> list[Path]:
        return images_of(self.clip.path) if self.clip.path.is_dir() else [self.clip.path]

    def _probe_images(self) -> VideoInfo:
        paths = self._paths()
        if not paths:
            raise MediaError(f"{self.clip.path}: is a folder without images")
        image = read_image(paths[0], self._limits)
        return VideoInfo(
            path=self.clip.path,
            size=(image.shape[0], image.shape[1]),
            rate=_IMAGE_RATE,
            time_base=1 / _IMAGE_RATE,
            frames_promised=len(paths),
            pixel_format="rgb24",
        )

    def _images(self) -> Iterator[Frame]:
        for index, path in enumerate(self._paths()):
            if self._stop is not None and index >= self._stop:
                return
            self._limits.check_count(self.clip.path, index + 1)
            if index < self._start:
                continue
            image = read_image(path, self._limits)
            if image.shape[:2] != self.info.size:
                raise MediaError(
                    f"{path}: expected {self.info.size[1]}x{self.info.size[0]} like the first image of the clip, "
                    f"got {image.shape[1]}x{image.shape[0]}; make all images of a folder the same size"
                )
            if is_animated(path):
                self.warnings.append(f"{path}: is animated: only its first picture is read; convert it to a video")
            yield Frame(index, index, index * self.info.time_base, image)

    # Video

    def _open(self) -> tuple[InputContainer, VideoStream]:
        container = open_input(self.clip.path, self._limits)
        try:
            return container, video_stream(container, self.clip.path, self._limits)
        except BaseException:
            container.close()
            raise

    def _probe_video(self) -> VideoInfo:
        path = self.clip.path
        with reading(path):
            container, stream = self._open()
            with container:
                frame = next(self._decoded(container, stream, Tally()), None)
                if frame is None:
                    most = self._limits.max_pixels
                    raise MediaError(f"{path}: no frame can be decoded: it is broken, or larger than {most} pixels")
                self._turn = Turn.of(frame)
                self._note(stream, frame, container)
                time_base = stream.time_base
                assert time_base is not None
                return VideoInfo(
                    path=path,
                    size=self._turn.size((frame.height, frame.width)),
                    rate=Fraction(stream.average_rate or stream.guessed_rate or _IMAGE_RATE),
                    time_base=Fraction(time_base),
                    rotation=self._turn.rotation,
                    has_audio=bool(container.streams.audio),
                    frames_promised=max(0, stream.frames),
                    pixel_format=frame.format.name,
                    color_space=SPACES.get(frame.colorspace, ""),
                    color_range=RANGES.get(frame.color_range, ""),
                )

    def _note(self, stream: VideoStream, frame: av.VideoFrame, container: InputContainer) -> None:
        """Warn of what the header shows and the frames do not."""
        if len(container.streams.video) > 1:
            self._warn(f"has {len(container.streams.video)} video streams, stream {stream.index} is read")
        if frame.color_trc in _HDR:
            self._warn(f"is HDR ({_HDR[frame.color_trc]}): colours are not tone-mapped")
        if stream.sample_aspect_ratio not in (None, 0, 1):
            self._warn(f"has pixels of shape {stream.sample_aspect_ratio}: frames are as stored, not stretched")
        if self._turn.odd:
            self._warn("asks for a turn by other than quarters: it is not turned")
        if frame.interlaced_frame:
            self._warn("is interlaced: frames are as stored")

    def _decoded(self, container: InputContainer, stream: VideoStream, tally: Tally) -> Iterator[av.VideoFrame]:
        """Every frame that can be had; what cannot is counted."""
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets, None)
            except av.error.FFmpegError as exc:
                tally.broken, packet = str(exc.strerror), None
            if packet is not None and packet.size:
                tally.packets += 1
                tally.hidden += packet.is_discard
            try:
                frames = stream.decode(packet)
            except av.error.EOFError:  # flushed already
                return
            except av.error.FFmpegError:
                self._limits.check_size(self.clip.path, stream.codec_context.height, stream.codec_context.width)
                tally.bad += 1
                frames = []
            yield from frames
            if packet is None:
                return

    def _video(self) -> Iterator[Frame]:
        path, info = self.clip.path, self.info
        if self._stop == 0:
            return
        converter = Converter(path, self._turn, info.size)
        clock, tally = Clock(info), Tally()
        count = corrupt = resized = 0
        with reading(path):
            container, stream = self._open()
            with container:
                for frame in self._decoded(container, stream, tally):
                    self._limits.check_count(path, count + 1)
                    self._limits.check_size(path, frame.height, frame.width)
                    resized += self._turn.size((frame.height, frame.width)) != info.size
                    corrupt += frame.is_corrupt
                    pts = clock.tick(frame.pts)
                    if count >= self._start:
                        source = Decoded(frame, _coding(frame), converter)
                        yield Frame(count, pts, pts * info.time_base, source, corrupt=frame.is_corrupt)
                    count += 1
                    if count == self._stop:
                        return
                for text in (*clock.warnings(), *tally.warnings(stream, info, count, clock.last)):
                    self._warn(text)
        if corrupt:
            self._warn(f"{corrupt} of {count} frames are corrupt")
        if resized:
            self._warn(f"{resized} of {count} frames had another size and were scaled to that of the first")


def _coding(frame: av.VideoFrame) -> Coding:
    return Coding.of(
        space=SPACES.get(frame.colorspace, ""),
        color_range=RANGES.get(frame.color_range, ""),
        pixel_format=frame.format.name,
        height=frame.height,
    )


def with_pixels(frames: Iterable[Frame]) -> Iterator[Frame]:
    """The frames, converted where the last ones were looked at: for the thread that decodes."""
    for frame in frames:
        if isinstance(frame.pixels, LazyImage):
            frame.pixels.prepare()
        yield frame


def open_clip(
    clip: str | Path | Clip, *, limits: Limits | None = None, start: int = 0, stop: int | None = None
) -> ClipReader:
    """Open a clip for reading.

    Parameters
    ----------
    clip : str, Path or Clip
        A video file, a still image, or a folder of still images.
    limits : Limits, optional
        Refuse what is larger.
    start, stop : int, optional
        Give frames ``start <= index < stop`` only; those before are decoded (so times are exact) but not converted.

    Returns
    -------
    ClipReader
        Iterate over it for frames; use it in a ``with`` statement.

    Raises
    ------
    MediaError
        It cannot be read; the message names the file and the reason. May also come while iterating.
    MediaLimitError
        It is larger than `limits` allow. May also come while iterating.
    """
    return ClipReader(to_clip(clip), limits=limits or Limits(), start=start, stop=stop)


def probe(clip: str | Path | Clip, *, limits: Limits | None = None) -> VideoInfo:
    """What is known of a clip from its header and its first frame; raises what `open_clip` raises."""
    with open_clip(clip, limits=limits) as reader:
        return reader.info
