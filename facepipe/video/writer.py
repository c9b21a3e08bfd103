"""Writing clips: exact times, right colours, untouched audio, whole files or none."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import av
import numpy as np
from av.container import OutputContainer
from av.video.reformatter import ColorRange, VideoReformatter
from numpy.typing import NDArray

from facepipe.errors import MediaError, UsageError
from facepipe.types import VideoInfo
from facepipe.video.color import SPACES, Coding, from_rgb
from facepipe.video.muxing import MUXERS, AudioCopy, complete, open_output, writing

__all__ = ["ClipWriter", "open_writer"]

_THREADS = 4  # fixed, because the bits that x264 makes depend on it and must not depend on the machine
# x264's macroblock tree reads memory that nobody wrote: with it, the same frames become other bits now and then
# (set MALLOC_PERTURB_ to see it). Without it a file of the same crf is 15 to 30 % larger, and .4 to .9 dB better.
_STEADY = "mbtree=0"
_SPACE_NUMBERS = {name: number for number, name in SPACES.items()}


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
        self._audio = AudioCopy(audio_from, path) if audio_from is not None else None
        self._container: OutputContainer | None = None
        try:
            with writing(path):
                self._container = open_output(self._part, path, like.time_base, self._audio, metadata)
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
        with writing(self.path):
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
            with writing(self.path):
                self._mux(self._container, self._stream.encode(None))
                if self._audio is not None:
                    self._audio.copy(self._container, until=None)
                self._container.close()
            times = np.array(self._times, np.int64)
            complete(self._part, self.path, times, self._like.time_base, self._audio, self._finish)
        except BaseException:
            self.abort()
            raise
        self._container = None
        self._close_audio()

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
    if path.suffix.lower() not in MUXERS:
        raise UsageError(f"{path}: cannot write '{path.suffix}' videos, expected one of {' '.join(MUXERS)}")
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
