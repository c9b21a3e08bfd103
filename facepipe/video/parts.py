"""Long films in parts: cut at key frames without decoding, and joined again packet by packet.

A part is a file of its own with the film's packets and times as they are, and without its sound. A film is cut only
before key frames that nothing reaches across (closed groups of pictures), so that each part decodes to the very frames
that the film does, whichever way it is read.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

from facepipe.errors import MediaError
from facepipe.types import VideoInfo
from facepipe.video.muxing import MUXERS, AudioCopy, complete, open_output, writing
from facepipe.video.source import Limits, open_input, reading, video_stream

__all__ = ["Cuts", "find_cuts", "join_parts", "split_film"]

_ROOM = 0.25  # of a part's length by which a cut may be moved to a key frame ...
_SCENES = 0.5  # ... and to one where the scene seems to change: there nobody sees that a part ends


@dataclass(frozen=True, slots=True)
class _Index:
    """The packets of a video stream in the order of decoding: times, and which begin a closed group of pictures."""

    pts: NDArray[np.int64]
    closed: NDArray[np.bool_]
    keys: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Cuts:
    """Where a film is cut.

    Attributes
    ----------
    starts : list of int
        Numbers of the frames that parts begin with, in order of display; the first is 0.
    order : (N,) int64 array
        Times of all frames, in the order of decoding.
    """

    starts: list[int]
    order: NDArray[np.int64]


def find_cuts(path: Path, frames: int, limits: Limits | None = None) -> Cuts:
    """Where to cut a film.

    Parts have about `frames` frames. A cut goes where the encoder broke its rhythm of key frames, as it does where the
    scene changes, or else where it is nearest to even. A film that is less than twice as long has one part, and so has
    one that cannot be cut: without times, with hidden frames, or with groups of pictures that are not closed.

    Raises
    ------
    MediaError
        It cannot be read.
    """
    with reading(path), open_input(path, limits or Limits()) as container:
        index = _scan(container, video_stream(container, path, limits or Limits()))
    if index is None:
        return Cuts([0], np.empty(0, np.int64))
    count = len(index.pts)
    if not frames or count < 2 * frames:
        return Cuts([0], index.pts)
    number = np.argsort(np.argsort(index.pts, kind="stable"), kind="stable")
    at, keys = number[index.closed], np.sort(number[index.keys])
    rhythm = np.diff(keys, prepend=keys[0])  # how long each key frame waited
    usual = int(np.quantile(rhythm, 0.9)) if len(rhythm) > 1 else 0
    early = rhythm[np.searchsorted(keys, at)] < usual
    starts = [0]
    for ideal in np.linspace(0, count, round(count / frames) + 1)[1:-1]:
        away, after = np.abs(at - ideal), at - starts[-1]
        scenes = early & (away < _SCENES * frames) & (after > _ROOM * frames)
        good = scenes if scenes.any() else (away < _ROOM * frames) & (after > 0)
        if good.any():
            starts.append(int(at[good][away[good].argmin()]))
    return Cuts(starts, index.pts)


def _scan(container: InputContainer, stream: VideoStream) -> _Index | None:
    """The packets of a stream; None where their times do not tell the frames."""
    pts, key = array("q"), array("b")
    for packet in container.demux(stream):
        if not packet.size:
            continue
        if packet.pts is None or packet.is_discard or packet.is_corrupt:
            return None
        pts.append(packet.pts)
        key.append(packet.is_keyframe)
    times, keys = np.array(pts, np.int64), np.array(key, bool)
    if not len(times) or len(np.unique(times)) != len(times) or not keys[0]:
        return None
    before = np.maximum.accumulate(np.concatenate([[np.iinfo(np.int64).min], times[:-1]]))
    after = np.minimum.accumulate(times[::-1])[::-1]
    return _Index(times, keys & (before < times) & (after >= times), keys)


def split_film(path: Path, cuts: Cuts, outs: Sequence[Path], *, told: Callable[[int], None] = lambda _: None) -> None:
    """Write the parts of a film, packet by packet.

    Parameters
    ----------
    path : Path
        The film.
    cuts : Cuts
        See `find_cuts`.
    outs : sequence of Path
        A file for each part; of the film's own kind where that is one of `MUXERS`, else ``.mkv``.
    told : callable
        Called with the number of packets done, now and then.

    Raises
    ------
    MediaError
        The film cannot be read, or a part cannot be written or holds other frames than it should.
    """
    times = np.sort(cuts.order)
    dts = _decoding_times(cuts.order, times)  # Matroska does not keep them
    bounds = [*times[np.array(cuts.starts)].tolist(), int(times[-1]) + 1]
    with reading(path), open_input(path, Limits()) as container:
        stream = video_stream(container, path, Limits())
        time_base = Fraction(stream.time_base or 1)
        packets = (packet for packet in container.demux(stream) if packet.size)
        packet, done = next(packets, None), 0
        for out, low, high in zip(outs, bounds, bounds[1:], strict=False):
            part = out.with_name(f"{out.name}.part")
            try:
                with writing(out), open_output(part, out, time_base, None, {}) as target:
                    copy = target.add_stream_from_template(stream)
                    while packet is not None and packet.pts < high:
                        packet.stream, packet.dts = copy, int(dts[done])
                        target.mux(packet)
                        packet, done = next(packets, None), done + 1
                        if done % 1000 == 0:
                            told(done)
                complete(part, out, times[(times >= low) & (times < high)], time_base)
            finally:
                part.unlink(missing_ok=True)


def join_parts(
    parts: Sequence[Path],
    out: Path,
    like: VideoInfo,
    *,
    metadata: Mapping[str, str] | None = None,
    audio_from: Path | None = None,
    finish: Callable[[Path], None] | None = None,
) -> None:
    """Join videos that `facepipe.video.open_writer` wrote of the parts of a film, packet by packet.

    Parameters
    ----------
    parts : sequence of Path
        In order; of one codec, with the times that they have in the film.
    out : Path
        The file to make; ``.mp4``, ``.m4v``, ``.mov`` or ``.mkv``.
    like : VideoInfo
        Of the film.
    metadata, audio_from, finish
        As for `facepipe.video.open_writer`.

    Raises
    ------
    ContainerError
        This kind of file cannot hold the audio; ``.mkv`` can.
    MediaError
        A part cannot be read, parts do not fit together, or the file cannot be written.
    """
    assert out.suffix.lower() in MUXERS
    part = out.with_name(f"{out.name}.part")
    with ExitStack() as stack:
        stack.callback(part.unlink, missing_ok=True)
        audio = None if audio_from is None else stack.enter_context(closing(AudioCopy(audio_from, out)))
        order = np.concatenate([[packet.pts for packet in _packets(one, like.time_base)] for one in parts])
        times = np.sort(order)
        if len(np.unique(times)) != len(times):
            raise MediaError(f"{out}: its parts overlap in time; delete {parts[0].parent} and run again")
        dts = _decoding_times(order, times)
        with writing(out), open_output(part, out, like.time_base, audio, metadata or {}) as target:
            copy: Any = None
            known: bytes | None = None
            count = 0
            for one in parts:
                for packet in _packets(one, like.time_base):
                    extra = packet.stream.codec_context.extradata
                    if copy is not None and extra != known:
                        raise MediaError(f"{one}: is coded otherwise than {parts[0]}; delete both and run again")
                    if copy is None:
                        known = extra
                        copy = target.add_stream_from_template(packet.stream)
                        if audio is not None:
                            audio.add_to(target)
                    packet.stream, packet.dts = copy, int(dts[count])
                    if audio is not None:
                        audio.copy(target, until=packet.dts * like.time_base)
                    target.mux(packet)
                    count += 1
            if audio is not None:
                audio.copy(target, until=None)
        complete(part, out, times, like.time_base, audio, finish)


def _packets(path: Path, time_base: Fraction) -> Iterator[Any]:
    """The video packets of a file of one video stream, their times in units of `time_base`."""
    with reading(path), open_input(path, Limits()) as container:
        stream = video_stream(container, path, Limits())
        for packet in container.demux(stream):
            if packet.size:
                assert packet.pts is not None
                scaled = packet.pts * Fraction(packet.time_base) / time_base
                if scaled.denominator != 1:
                    raise MediaError(f"{path}: has times between those of its film; delete it and run again")
                packet.pts, packet.time_base = int(scaled), time_base
                yield packet


def _decoding_times(order: NDArray[np.int64], times: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rising times of decoding for packets with the times of display `order`; `times` are the same, sorted.

    They are the times of display some frames earlier: as few as let no packet be shown before it is decoded.
    """
    late = 0
    while late < len(times) - 1 and (times[: len(times) - late] > order[late:]).any():
        late += 1
    step = int(times[1] - times[0]) if len(times) > 1 else 1
    lead = times[0] - step * np.arange(late, 0, -1)
    return np.concatenate([lead, times[: len(times) - late]])
