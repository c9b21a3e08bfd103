"""Opening files that strangers send: limits, safe demuxing, and errors that name the file and the reason."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from facepipe.errors import MediaError, MediaLimitError

__all__ = ["Limits", "check_file", "open_input", "promised_size", "read_metadata", "reading", "video_stream"]

# Demuxers that read one file and nothing else. Playlists (hls, dash, concat, sdp, image sequences) are left out:
# a text file named .mp4 could make them open any path or address.
_DEMUXERS = (
    "apng,asf,avi,av1,dv,flv,gif,h264,hevc,ivf,m4v,matroska,webm,mjpeg,mov,mp4,m4a,3gp,3g2,mj2,mpeg,mpegts,mpegvideo,"
    "mxf,nut,obu,ogg,rm,vc1,wtv,yuv4mpegpipe,aac,ac3,aiff,amr,flac,mp3,wav"
)


@dataclass(frozen=True)
class Limits:
    """How large a file may be before it is refused with `MediaLimitError`.

    Attributes
    ----------
    max_pixels : int
        Width times height of one frame; checked against the header before anything of that size is allocated, and
        again for every decoded frame.
    max_frames : int or None
        Frames of one clip that may be read; None for any number.
    """

    max_pixels: int = 64_000_000
    max_frames: int | None = None

    def check_size(self, path: Path, height: int, width: int) -> None:
        """Raise `MediaLimitError` where a frame of this size is larger than allowed."""
        if width * height > self.max_pixels:
            raise MediaLimitError(
                f"{path}: a frame of {width}x{height} has {width * height} pixels, allowed are {self.max_pixels}; "
                "shrink it, or raise Limits.max_pixels"
            )

    def check_count(self, path: Path, count: int) -> None:
        """Raise `MediaLimitError` where `count` frames are more than allowed."""
        if self.max_frames is not None and count > self.max_frames:
            raise MediaLimitError(
                f"{path}: has more than {self.max_frames} frames; cut it, or raise Limits.max_frames"
            )


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Translate whatever a decoder or the file system raises into `MediaError`."""
    try:
        yield
    except FileNotFoundError as exc:
        raise MediaError(f"{path}: no such file") from exc
    except PermissionError as exc:
        raise MediaError(f"{path}: no permission to read it") from exc
    except (av.error.InvalidDataError, av.error.ArgumentError) as exc:  # the latter: a demuxer that is left out
        raise MediaError(f"{path}: {_why_invalid(path)}") from exc
    except av.error.EOFError as exc:
        raise MediaError(f"{path}: ends within its header: the recording or the copy was cut off") from exc
    except (av.error.FFmpegError, OSError) as exc:
        raise MediaError(f"{path}: cannot be read: {getattr(exc, 'strerror', None) or exc}") from exc


def check_file(path: Path) -> None:
    """Raise `MediaError` unless `path` is a file with something in it that may be read."""
    with reading(path):
        if path.is_dir():
            raise MediaError(f"{path}: is a folder, expected a file")
        with path.open("rb") as file:
            if not file.read(1):
                raise MediaError(f"{path}: the file is empty")


def open_input(path: Path, limits: Limits, **more: str) -> InputContainer:
    """Open a container for reading, local files and plain containers only. Call it inside `reading`."""
    check_file(path)
    options = {
        "format_whitelist": _DEMUXERS,
        "protocol_whitelist": "file",
        "max_pixels": str(limits.max_pixels),  # for the frames that are decoded to find the streams' parameters
        **more,
    }
    # "file:" keeps names like "http://x" or "a:b.mp4" from being taken for another protocol.
    return av.open(f"file:{path}", options=options, metadata_errors="replace")


def promised_size(path: Path, stream: int) -> tuple[int, int]:
    """Height and width that a container states for a stream, found without any decoder; zeros where it does not."""
    with open_input(path, Limits(), codec_whitelist="none") as container:
        context = container.streams[stream].codec_context
        assert isinstance(context, av.VideoCodecContext)
        return context.height, context.width


def video_stream(container: InputContainer, path: Path, limits: Limits) -> VideoStream:
    """The stream to read, ready to decode; checked against the limits by its header."""
    streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not streams:
        raise MediaError(f"{path}: has no video stream")
    stream = next((s for s in streams if s.disposition & av.stream.Disposition.default), streams[0])
    if stream.codec_context is None:
        raise MediaError(f"{path}: its video is coded in a way that cannot be decoded here")
    size = stream.codec_context.height, stream.codec_context.width
    # Where the size is more than `max_pixels` the first look at the file leaves it at zero.
    limits.check_size(path, *(size if all(size) else promised_size(path, stream.index)))
    stream.codec_context.options = {
        "max_pixels": str(limits.max_pixels)
    }  # the decoder's own guard, before it allocates
    stream.thread_type = "AUTO"
    return stream


def read_metadata(path: str | Path) -> dict[str, str]:
    """The tags of a container, keys in lower case (Matroska stores them in upper case).

    Parameters
    ----------
    path : str or Path
        A video file.

    Returns
    -------
    dict of str to str
        All tags, including those that the container itself keeps, such as ``major_brand`` or ``encoder``.

    Raises
    ------
    MediaError
        The file cannot be read.
    """
    path = Path(path)
    with reading(path), open_input(path, Limits()) as container:
        return {key.lower(): value for key, value in container.metadata.items()}


def _why_invalid(path: Path) -> str:
    """What is wrong with a file that no demuxer takes."""
    with path.open("rb") as file:
        start = file.read(4096)
    if start[4:8] == b"ftyp" and b"moov" not in _boxes(path):
        return "has no index (moov box): the recording or the copy was cut off; record, export or copy it again"
    if start.isascii() and not any(byte < 9 for byte in start):
        return "is a text file, expected a video"
    return "is broken or not a video that can be decoded"


def _boxes(path: Path) -> set[bytes]:
    """Types of the top-level boxes of an ISO media file (ISO/IEC 14496-12, 4.2)."""
    found = set()
    with path.open("rb") as file:
        position = 0
        while len(head := file.read(16)) >= 8:
            size = int.from_bytes(head[:4])
            if size == 1:
                size = int.from_bytes(head[8:16])
            found.add(head[4:8])
            if size < 8:  # 0: up to the end of the file
                break
            position += size
            file.seek(position)
    return found
