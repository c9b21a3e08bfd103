"""Frames in, frames out: what comes back is what went in, and what is broken says so."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from facepipe import video
from facepipe.errors import MediaError, MediaLimitError, UsageError
from facepipe.types import VideoInfo
from facepipe.video import Limits, clips, color, converting, muxing, source, stills, timing
from facepipe.video import reader as reader_module

Image = NDArray[np.uint8]
Make = Callable[..., Path]


def read(path: Path, **options: Any) -> tuple[VideoInfo, list[Image], list[Fraction], list[str]]:
    with video.open_clip(path, **options) as reader:
        frames = [(f.image, f.time) for f in reader]
        return reader.info, [f for f, _ in frames], [t for _, t in frames], list(reader.warnings)


def error(a: list[Image], b: list[Image]) -> float:
    return float(np.mean([np.abs(x.astype(int) - y).mean() for x, y in zip(a, b, strict=True)]))


def copy(source: Path, target: Path, **options: Any) -> None:
    with video.open_clip(source) as reader, video.open_writer(target, reader.info, **options) as writer:
        for frame in reader:
            writer.write(frame.image, frame.pts)


def audio_packets(path: Path) -> dict[int, list[tuple[Fraction, str]]]:
    """Time and hash of every audio packet, by audio stream."""
    found: dict[int, list[tuple[Fraction, str]]] = {}
    with av.open(str(path)) as container:
        order = {s.index: i for i, s in enumerate(container.streams.audio)}
        for packet in container.demux(list(container.streams)):
            if packet.pts is not None and packet.stream.index in order:
                data = bytes(packet)
                # In transport streams AAC has a 7-byte header (ADTS), which no other container wants.
                data = data[7:] if container.format.name == "mpegts" else data
                entry = packet.pts * packet.time_base, hashlib.sha256(data).hexdigest()
                found.setdefault(order[packet.stream.index], []).append(entry)
    return found


SPACES = {"bt601": "smpte170m", "bt709": "bt709", "bt2020": "bt2020nc"}


# Reading


@pytest.mark.parametrize("space", ["bt601", "bt709", "bt2020"])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le"])
def test_colours_come_back(
    tmp_path: Path, make_video: Make, card: Any, space: str, full: bool, pixel_format: str
) -> None:
    made = make_video(tmp_path / "a.mp4", space=space, full=full, pixel_format=pixel_format, count=2)
    info, images, _, warnings = read(made)
    assert error(images, [card(96, 128, i) for i in range(2)]) < 1.7  # 4:2:0 alone costs 1.6 at the patches' edges
    assert np.abs(images[0][4:20, 4:28].astype(int)).max() <= 2, "black"
    assert np.abs(images[0][4:20, 36:60].astype(int) - 255).max() <= 2, "white"
    assert np.abs(images[0][4:20, 68:92].astype(int) - (200, 40, 40)).max() <= 4, "red"
    assert (info.color_space, info.color_range) == (SPACES[space], "pc" if full else "tv")
    assert warnings == []


@pytest.mark.parametrize(("size", "space"), [((480, 640), "bt601"), ((720, 1280), "bt709")])
def test_untagged_colours_follow_the_height(
    tmp_path: Path, make_video: Make, card: Any, size: tuple[int, int], space: str
) -> None:
    info, images, _, _ = read(make_video(tmp_path / "a.mp4", size=size, space=space, tagged=False, count=1))
    assert (info.color_space, info.color_range) == ("", "")
    assert error(images, [card(*size)]) < 0.7


def test_conversion_has_no_bias(card: Any) -> None:
    # The formula in floating point is the witness (ITU-R BT.601-7, 2.5; limited range).
    rng = np.random.default_rng(0)
    y, u, v = rng.integers(60, 190, (64, 64)), rng.integers(110, 146, (64, 64)), rng.integers(110, 146, (64, 64))
    frame = av.VideoFrame.from_ndarray(np.stack([y, u, v]).astype(np.uint8), format="yuv444p")
    coding = color.Coding.of(space="smpte170m", color_range="tv", pixel_format="yuv444p", height=64)
    got = color.to_rgb(frame, coding, (64, 64), av.video.reformatter.VideoReformatter())
    luma, blue, red = (y - 16) * 255 / 219, (u - 128) * 255 / 224, (v - 128) * 255 / 224
    expected = np.stack([luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue], -1)
    assert np.abs(got - expected).max() <= 1.0
    assert np.abs((got - expected).mean(axis=(0, 1))).max() < 0.05


@pytest.mark.parametrize("full", [False, True])
def test_grey_video_has_its_full_contrast(tmp_path: Path, full: bool) -> None:
    ramp = np.tile(np.arange(256, dtype=np.uint8), (16, 1))
    stored = ramp if full else np.rint(16 + ramp * (219 / 255)).astype(np.uint8)
    with av.open(str(tmp_path / "a.mkv"), "w") as out:
        stream: Any = out.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = 16, 256, "gray"
        stream.codec_context.color_range = 2 if full else 1
        out.mux(stream.encode(av.VideoFrame.from_ndarray(stored, format="gray")))
        out.mux(stream.encode(None))
    _, images, _, _ = read(tmp_path / "a.mkv")
    assert np.abs(images[0].astype(int) - ramp[..., None]).max() <= (0 if full else 1)


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("mirrored", [False, True])
def test_rotation_is_applied(tmp_path: Path, make_video: Make, card: Any, rotation: int, mirrored: bool) -> None:
    made = make_video(tmp_path / "a.mp4", rotation=rotation, mirrored=mirrored, count=1)
    with video.open_clip(made) as reader:
        frame = next(iter(reader))
        small, scale = frame.small(64)
    expected = np.rot90(card(96, 128), rotation // 90)
    expected = expected[:, ::-1] if mirrored else expected
    assert frame.image.shape == expected.shape == (*reader.info.size, 3)
    assert frame.image.flags.c_contiguous
    assert error([frame.image], [expected]) < 1.7
    assert scale == 0.5
    halved: Image = np.asarray(
        cv2.resize(expected.copy(), (0, 0), fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), np.uint8
    )
    assert error([small], [halved]) < 3
    if not mirrored:
        assert reader.info.rotation == rotation
        witness = cv2.VideoCapture(str(made)).read()[1][..., ::-1]  # OpenCV turns by itself
        assert witness.shape == frame.image.shape
        assert error([np.asarray(witness, np.uint8)], [frame.image]) < 3


def test_variable_frame_rate_and_a_late_start(tmp_path: Path, make_video: Make, number_of: Any) -> None:
    pts = [9000, 12000, 12100, 20000, 50000, 50001]
    made = make_video(tmp_path / "a.mp4", count=6, pts=pts, time_base=Fraction(1, 90000))
    info, images, times, warnings = read(made)
    assert [t - times[0] for t in times] == [Fraction(p - pts[0], 90000) for p in pts]
    assert [number_of(i) for i in images] == list(range(6))
    assert all(isinstance(t, Fraction) for t in times)
    assert warnings == []
    assert info.frames_promised == 6


def test_a_stream_without_times_gets_them_from_its_rate(tmp_path: Path, make_video: Make, number_of: Any) -> None:
    _, images, times, warnings = read(make_video(tmp_path / "a.h264", count=8))
    assert [number_of(i) for i in images] == list(range(8))
    assert times == [Fraction(i, 25) for i in range(8)]
    assert any("8 frames have no time" in w for w in warnings)


@given(st.lists(st.none() | st.integers(-1000, 1000), max_size=60))
@settings(deadline=None, max_examples=100)
def test_the_clock_only_goes_forward(pts: list[int | None]) -> None:
    clock = timing.Clock(VideoInfo(Path("a"), (1, 1), Fraction(25), Fraction(1, 100)))
    ticks = [clock.tick(p) for p in pts]
    assert all(b > a for a, b in itertools.pairwise(ticks))
    if None not in pts and all(b > a for a, b in itertools.pairwise(pts)):  # type: ignore[operator]
        assert ticks == pts
        assert list(clock.warnings()) == []


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("single.mp4", {"count": 1}),
        ("odd.mp4", {"size": (97, 129), "pixel_format": "yuv444p"}),
        ("odd.avi", {"size": (97, 129), "codec": "mpeg4"}),
        ("ten.mkv", {"pixel_format": "yuv420p10le"}),
        ("film.ts", {"codec": "mpeg2video"}),
        ("film.mpg", {"codec": "mpeg2video"}),
        ("film.webm", {"codec": "libvpx-vp9"}),
        ("alpha.mkv", {"codec": "ffv1", "pixel_format": "yuva420p"}),
        ("quiet.mov", {"codec": "prores_ks", "pixel_format": "yuv422p10le"}),
        ("jpeg.avi", {"codec": "mjpeg", "pixel_format": "yuvj420p", "full": True}),
        ("wrong.avi", {"format": "mp4"}),
        ("loud.mp4", {"audio": ["aac", "aac"]}),
    ],
)
def test_odd_media_are_read(
    tmp_path: Path, make_video: Make, card: Any, number_of: Any, name: str, options: dict[str, Any]
) -> None:
    info, images, times, warnings = read(make_video(tmp_path / name, **options))
    size, count = options.get("size", (96, 128)), options.get("count", 10)
    assert info.size == size
    assert [number_of(i) for i in images] == list(range(count))
    assert error(images, [card(*size, i) for i in range(count)]) < 4
    assert [t - times[0] for t in times] == [Fraction(i, 25) for i in range(count)]
    assert warnings == []
    assert info.has_audio is bool(options.get("audio"))


@pytest.mark.parametrize(
    ("options", "warning"),
    [
        ({"tags": {"color_trc": 16}}, r"is HDR \(PQ\)"),
        ({"tags": {"sample_aspect_ratio": Fraction(4, 3)}}, "has pixels of shape 4/3"),
        ({"options": {"flags": "+ildct+ilme"}}, "is interlaced"),
    ],
)
def test_what_is_not_converted_is_said(
    tmp_path: Path, make_video: Make, card: Any, options: dict[str, Any], warning: str
) -> None:
    info, images, _, warnings = read(make_video(tmp_path / "a.mp4", count=3, **options))
    assert info.size == (96, 128)
    assert error(images, [card(96, 128, i) for i in range(3)]) < 2
    assert len(warnings) == 1
    assert re.search(warning, warnings[0])


def test_an_animated_webp_is_its_first_picture(tmp_path: Path) -> None:
    path = tmp_path / "a.webp"
    pictures = [PIL.Image.fromarray(np.full((40, 60, 3), 40 * i, np.uint8)) for i in range(1, 4)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=40, lossless=True)
    _, images, _, warnings = read(path)
    assert [image[0, 0, 0] for image in images] == [40]
    assert warnings == [f"{path}: is animated: only its first picture is read; convert it to a video"]


@pytest.mark.parametrize("default", [0, 1])
def test_of_several_video_streams_the_default_is_read(tmp_path: Path, default: int) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as out:
        streams: list[Any] = [out.add_stream("libx264", rate=25, options={"crf": "0"}) for _ in range(2)]
        for number, stream in enumerate(streams):
            stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
            stream.disposition = av.stream.Disposition.default if number == default else av.stream.Disposition(0)
        for number, stream in enumerate(streams):
            grey = np.full((48, 64, 3), 60 + 100 * number, np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
            out.mux(stream.encode(None))
    _, images, _, warnings = read(path)
    assert [abs(int(image[0, 0, 0]) - 60 - 100 * default) < 3 for image in images] == [True]
    assert warnings == [f"{path}: has 2 video streams, stream {default} is read"]


def test_gif(tmp_path: Path, make_video: Make, number_of: Any) -> None:
    made = make_video(tmp_path / "a.gif", codec="gif", pixel_format="bgr8", count=5)
    info, images, times, _ = read(made)
    assert info.size == (96, 128)
    assert times == [Fraction(i, 25) for i in range(5)]
    assert len({number_of(i) for i in images}) > 1
    assert images[0][4, 4].tolist() == [0, 0, 0]


def test_transparent_video_is_on_black(tmp_path: Path) -> None:
    rgba = np.full((32, 32, 4), 200, np.uint8)
    rgba[:, :10, 3], rgba[:, 10:20, 3], rgba[:, 20:, 3] = 0, 128, 255
    with av.open(str(tmp_path / "a.mov"), "w") as out:
        stream: Any = out.add_stream("png", rate=25)
        stream.height, stream.width, stream.pix_fmt = 32, 32, "rgba"
        out.mux(stream.encode(av.VideoFrame.from_ndarray(rgba, format="rgba")))
        out.mux(stream.encode(None))
    _, images, _, _ = read(tmp_path / "a.mov")
    assert [images[0][0, x, 0] for x in (5, 15, 25)] == [0, 100, 200]


def test_a_frame_is_converted_only_when_looked_at(
    tmp_path: Path, make_video: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def counted(*args: Any) -> Image:
        calls.append(1)
        return color.to_rgb(*args)

    monkeypatch.setattr(converting, "to_rgb", counted)
    with video.open_clip(make_video(tmp_path / "a.mp4")) as reader:
        frames = list(reader)
    assert calls == []
    assert frames[3].image is frames[3].image
    assert len(calls) == 1


KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "full range": {"full": True, "pixel_format": "yuvj420p"},
    "bt709": {"space": "bt709"},
    "turned": {"rotation": 90},
    "odd": {"size": (181, 241), "pixel_format": "yuv444p"},
    "422": {"pixel_format": "yuv422p"},
    "10 bit": {"pixel_format": "yuv420p10le"},
}


@pytest.fixture(scope="session")
def kinds(tmp_path_factory: pytest.TempPathFactory, make_video: Make, clip_path: Callable[[str], Path]) -> list[Path]:
    folder = tmp_path_factory.mktemp("kinds")
    made = [
        make_video(folder / f"{name}.mp4", **({"size": (180, 240), "count": 2} | options))
        for name, options in KINDS.items()
    ]
    return [*made, *(clip_path(name) for name in ("noface_face.mov", "single_face.mp4", "carphone_pristine.mp4"))]


@settings(max_examples=60, deadline=None)
@given(data=st.data(), spans=st.lists(st.tuples(*[st.floats(0, 1)] * 4), min_size=1, max_size=3))
def test_parts_of_a_frame_are_those_of_the_whole(
    kinds: list[Path], data: st.DataObject, spans: list[tuple[float, ...]]
) -> None:
    made = data.draw(st.sampled_from(kinds))
    with video.open_clip(made, stop=1) as reader:
        (frame,) = reader
        (other,) = reader
    height, width = reader.info.size
    for left, top, right, bottom in spans:
        (x0, x1), (y0, y1) = (
            sorted((int(left * width), int(right * width))),
            sorted((int(top * height), int(bottom * height))),
        )
        part = frame.pixels[y0 : y1 + 1, x0 : x1 + 1]
        assert part.shape == (min(y1 + 1, height) - y0, min(x1 + 1, width) - x0, 3)
        np.testing.assert_array_equal(part, other.image[y0 : y1 + 1, x0 : x1 + 1])
    np.testing.assert_array_equal(frame.image, other.image)


def test_a_lazy_picture_can_be_used_as_an_array(clip_path: Callable[[str], Path]) -> None:
    with video.open_clip(clip_path("noface_face.mov"), stop=1) as reader:
        (frame,) = reader
        (other,) = reader
    assert frame.pixels.shape == other.image.shape
    assert frame.pixels.dtype == np.uint8
    for place in (np.s_[..., ::-1], np.s_[5], np.s_[::2, 10:20], np.s_[3:9, 4:7, 0], np.s_[-9:, :-7]):
        np.testing.assert_array_equal(frame.pixels[place], other.image[place])
    np.testing.assert_array_equal(np.ascontiguousarray(frame.pixels), other.image)


def test_only_what_is_looked_at_is_converted(
    clip_path: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[tuple[int, int]] = []

    def noted(frame: Any, coding: Any, size: tuple[int, int], reformatter: Any) -> Image:
        sizes.append(size)
        return color.to_rgb(frame, coding, size, reformatter)

    monkeypatch.setattr(converting, "to_rgb", noted)
    with video.open_clip(clip_path("noface_face.mov"), stop=4) as reader:
        frames = video.with_pixels(reader)
        first = next(frames)  # nothing is known yet
        assert sizes == [(540, 960)]
        _ = first.pixels[100:200, 300:400]
        assert sizes == [(540, 960)]
        second = next(frames)
        assert sizes[1:] == [(192, 192)]
        _ = second.pixels[90:210, 290:410]  # a little further is ready too
        assert sizes[1:] == [(192, 192)]
        _ = second.pixels[0:10, 0:10]
        assert sizes[2:] == [(320, 512)]  # one piece that has both
        _ = second.image, second.image, second.pixels[500:520, 900:950]
        assert sizes[3:] == [(540, 960)]


def test_small_is_a_low_pass_and_never_enlarges(tmp_path: Path, make_video: Make) -> None:
    board = np.repeat(((np.indices((96, 128)).sum(0) % 2) * 255)[..., None], 3, axis=2).astype(np.uint8)
    made = make_video(tmp_path / "a.mkv", images=[board], codec="ffv1", pixel_format="yuv444p")
    frame = next(iter(video.open_clip(made)))
    small, scale = frame.small(32)
    assert small.shape == (24, 32, 3)
    assert scale == 0.25
    assert np.abs(small.astype(int) - 127).max() <= 3
    same, scale = frame.small(1000)
    assert scale == 1.0
    assert np.array_equal(same, frame.image)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        frame.small(0)


def test_start_and_stop(tmp_path: Path, make_video: Make, number_of: Any) -> None:
    made = make_video(tmp_path / "a.mp4", count=12)
    with video.open_clip(made, start=4, stop=7) as reader:
        for _ in range(2):  # each iteration starts anew
            frames = list(reader)
            assert [f.index for f in frames] == [4, 5, 6] == [number_of(f.image) for f in frames]
            assert [f.time for f in frames] == [Fraction(i, 25) for i in (4, 5, 6)]
    assert list(video.open_clip(made, start=12)) == []
    with pytest.raises(UsageError, match="0 <= start <= stop"):
        video.open_clip(made, start=3, stop=2)


def test_an_abandoned_iteration_closes_its_file(tmp_path: Path, make_video: Make) -> None:
    made = make_video(tmp_path / "a.mp4", count=30)

    def is_open() -> bool:
        links = (os.path.join("/proc/self/fd", fd) for fd in os.listdir("/proc/self/fd"))
        return any(os.path.realpath(link) == str(made) for link in links)

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("needs /proc")
    with video.open_clip(made) as reader:
        for frame in reader:
            if frame.index == 3:
                break
        assert is_open()
    assert not is_open()


def test_threads_do_not_change_the_result(tmp_path: Path, make_video: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_video(tmp_path / "a.mp4", count=30)
    _, images, times, _ = read(made)
    original = source.video_stream

    def single(*args: Any) -> Any:
        stream = original(*args)
        stream.thread_type, stream.thread_count = "NONE", 1
        return stream

    monkeypatch.setattr(reader_module, "video_stream", single)
    _, alone, times_alone, _ = read(made)
    assert times == times_alone
    assert all(np.array_equal(a, b) for a, b in zip(images, alone, strict=True))


# Broken files


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.mp4", b"", "the file is empty"),
        ("text.mp4", b"not a video\n" * 50, "is a text file"),
        ("playlist.mp4", b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nother.mp4\n", "is a text file"),
        ("list.mp4", b"ffconcat version 1.0\nfile other.mp4\n", "is a text file"),
        ("garbage.mp4", np.random.default_rng(0).bytes(40_000), "is broken or not a video"),
        ("short.mkv", b"\x1a\x45\xdf\xa3", "is broken or not a video|cannot be read"),
        ("empty.png", b"", "the file is empty"),
        ("text.png", b"not an image", "is not an image of a known kind"),
        ("short.png", b"\x89PNG\r\n\x1a\n\0\0", "is an image with a broken header, or cut off"),
    ],
)
def test_files_that_are_no_media(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MediaError, match=reason) as caught:
        video.probe(tmp_path / name)
    assert str(caught.value).startswith(f"{tmp_path / name}: ")
    assert "\n" not in str(caught.value)


def test_paths_that_cannot_be_read(tmp_path: Path, make_video: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MediaError, match=r"nothing\.mp4: no such file"):
        video.probe(tmp_path / "nothing.mp4")
    with pytest.raises(MediaError, match="a folder without images"):
        video.probe(tmp_path)
    with pytest.raises(MediaError, match="no such file"):
        video.probe("http://127.0.0.1/a.mp4")
    made = make_video(tmp_path / "a.mp4", count=1)

    def refuse(*args: Any, **options: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(made))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(MediaError, match="no permission to read it"):
        video.probe(made)


@pytest.mark.parametrize("cover", [False, True])
def test_audio_only(tmp_path: Path, cover: bool) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as out:
        stream = out.add_stream("aac", rate=48000)
        if cover:
            art: Any = out.add_stream("mjpeg", rate=1)
            art.height, art.width, art.pix_fmt = 32, 32, "yuvj420p"
            art.disposition = av.stream.Disposition.attached_pic
            out.mux(art.encode(av.VideoFrame(32, 32, "yuvj420p")))
            out.mux(art.encode(None))
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
        frame.sample_rate = 48000
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    with pytest.raises(MediaError, match="has no video stream"):
        video.probe(tmp_path / "a.mp4")


def test_missing_moov(tmp_path: Path, make_video: Make) -> None:
    data = make_video(tmp_path / "a.mp4").read_bytes()
    (tmp_path / "b.mp4").write_bytes(data[: data.index(b"moov") - 4])
    with pytest.raises(MediaError, match=r"b\.mp4: has no index \(moov box\)"):
        video.probe(tmp_path / "b.mp4")


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
def test_a_cut_file_gives_its_frames_and_a_warning(
    tmp_path: Path, make_video: Make, number_of: Any, name: str
) -> None:
    options = {"codec": "mpeg4"} if name == "a.avi" else {"options": {"g": "5"}}
    made = make_video(tmp_path / name, count=60, size=(240, 320), muxer={"movflags": "faststart"}, **options)
    data = made.read_bytes()
    made.write_bytes(data[: len(data) * 6 // 10])
    with video.open_clip(made) as reader:
        good = [number_of(f.image) for f in reader if not f.corrupt]
    assert 15 < len(good) < 50
    assert all(abs(g - i % 30) <= 1 for i, g in enumerate(good))
    assert any("cut short" in w for w in reader.warnings), reader.warnings
    assert str(made) in reader.warnings[0]


def test_damaged_frames_are_flagged(tmp_path: Path, make_video: Make) -> None:
    made = make_video(tmp_path / "a.mp4", count=60, size=(240, 320), options={"g": "10"})
    data = bytearray(made.read_bytes())
    rng = np.random.default_rng(1)
    for at in rng.integers(len(data) // 6, len(data) * 3 // 4, 40):
        data[at] ^= 1 << rng.integers(8)
    made.write_bytes(data)
    with video.open_clip(made) as reader:
        flags = [f.corrupt for f in reader]
    assert 0 < sum(flags) < 60
    assert any(f"{sum(flags)} of {len(flags)} frames are corrupt" in w for w in reader.warnings)


@pytest.mark.models
def test_frames_hidden_by_an_edit_list_are_not_missing(clip_path: Callable[[str], Path]) -> None:
    info, images, _, warnings = read(clip_path("no_face.mp4"))
    assert (info.frames_promised, len(images)) == (98, 95)  # three lie before the clip's beginning
    assert warnings == []


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mp4", {"audio": ["aac"]}),
        ("a.mkv", {}),
        ("a.avi", {"codec": "mpeg4"}),
        ("a.gif", {"codec": "gif", "pixel_format": "bgr8"}),
        ("a.png", None),
        ("a.jpg", None),
    ],
)
def test_damage_anywhere_is_survived(
    tmp_path: Path, make_video: Make, card: Any, name: str, options: dict[str, Any] | None
) -> None:
    path = tmp_path / name
    if options is None:
        video.write_image(path, card(96, 128))
    else:
        make_video(path, count=4, **options)
    data, rng = path.read_bytes(), np.random.default_rng(7)
    outcomes = set()
    for trial in range(30):
        damaged = bytearray(data)
        reach = len(data) if trial % 2 else min(len(data), 800)  # every other time the header only
        for at in rng.integers(0, reach, rng.integers(1, 30)):
            damaged[at] = rng.integers(256)
        path.write_bytes(damaged[: rng.integers(1, len(data))] if trial % 5 == 0 else damaged)
        try:
            info, images, times, _ = read(path, limits=Limits(max_pixels=4_000_000, max_frames=50))
        except MediaError as exc:
            outcomes.add(str(exc).startswith(f"{path}: "))
        else:
            outcomes.add(all(i.shape == (*info.size, 3) for i in images))
            outcomes.add(all(a < b for a, b in itertools.pairwise(times)))
    assert outcomes == {True}


def test_size_change_in_the_middle(tmp_path: Path, make_video: Make, number_of: Any) -> None:
    first = make_video(tmp_path / "a.h264", count=4, size=(96, 128)).read_bytes()
    second = make_video(tmp_path / "b.h264", count=4, size=(192, 256)).read_bytes()
    (tmp_path / "c.h264").write_bytes(first + second)
    _, images, _, warnings = read(tmp_path / "c.h264")
    assert [i.shape for i in images] == [(96, 128, 3)] * 8
    assert [number_of(i) for i in images] == [0, 1, 2, 3] * 2
    assert any("4 of 8 frames had another size" in w for w in warnings)
    with pytest.raises(MediaLimitError, match="256x192 has 49152 pixels, allowed are 20000"):
        read(tmp_path / "c.h264", limits=Limits(max_pixels=20_000))


# Limits


def test_limits_on_video(tmp_path: Path, make_video: Make) -> None:
    made = make_video(tmp_path / "a.mp4", count=6)
    with pytest.raises(MediaLimitError, match=r"a\.mp4: a frame of 128x96 has 12288 pixels, allowed are 12287"):
        video.probe(made, limits=Limits(max_pixels=12287))
    assert len(read(made, limits=Limits(max_pixels=12288, max_frames=6))[1]) == 6
    with pytest.raises(MediaLimitError, match="more than 5 frames"):
        read(made, limits=Limits(max_frames=5))
    assert len(read(made, limits=Limits(max_frames=5), stop=5)[1]) == 5


def test_a_bomb_is_refused_by_its_header(tmp_path: Path, make_video: Make) -> None:
    made = make_video(tmp_path / "a.mov", codec="mjpeg", pixel_format="yuvj420p", full=True, count=2)
    data = bytearray(made.read_bytes())
    at = data.index(b"stsd") + 44  # width and height of the sample entry (ISO/IEC 14496-12, 12.1.3)
    assert struct.unpack_from(">HH", data, at) == (128, 96)
    struct.pack_into(">HH", data, at, 60_000, 60_000)
    made.write_bytes(data)
    with pytest.raises(MediaLimitError, match=r"a\.mov: a frame of 60000x60000"):
        video.probe(made, limits=Limits(max_pixels=10_000))
    raw = make_video(tmp_path / "a.mjpeg", codec="mjpeg", pixel_format="yuvj420p", full=True, count=2)
    with pytest.raises(MediaError, match="larger than 10000 pixels"):
        video.probe(raw, limits=Limits(max_pixels=10_000))
    header = (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 100_000, 100_000) + b"\x08\x02\0\0\0" + b"\0" * 4
    )
    (tmp_path / "b.png").write_bytes(header)
    for call in (video.probe, video.read_image):
        with pytest.raises(MediaLimitError, match=r"b\.png: a frame of 100000x100000"):
            call(tmp_path / "b.png")


# Stills


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".tiff"])
@pytest.mark.parametrize("size", [(1, 1), (37, 501), (300, 20)])
def test_the_size_in_the_header(suffix: str, size: tuple[int, int], tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    for channels in (1, 3) if suffix == ".jpg" else (1, 3, 4):
        image = np.full((*size, channels), 90, np.uint8)
        assert cv2.imwrite(str(path), image)
        assert stills.stored_size(path, path.read_bytes()) == size
        assert video.read_image(path).shape == (*size, 3)


def test_lossy_webp(tmp_path: Path, card: Any) -> None:
    path = tmp_path / "a.webp"
    assert cv2.imwrite(str(path), card(60, 80)[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, 95])
    info, images, times, _ = read(path)
    assert (info.size, times) == ((60, 80), [Fraction(0)])
    assert error(images, [card(60, 80)]) < 6


@given(
    st.binary(max_size=200), st.sampled_from([b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"RIFF", b"II*\0", b""])
)
@settings(deadline=None, max_examples=200)
def test_any_header_is_a_size_or_an_error(data: bytes, start: bytes) -> None:
    try:
        height, width = stills.stored_size(Path("a"), start + data)
    except MediaError as exc:
        message = str(exc)
    else:
        message = "a: a size" if height > 0 < width else f"{width}x{height}"
    assert message.startswith("a: ")


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_write_and_read_an_image(tmp_path: Path, card: Any, suffix: str) -> None:
    image = card(50, 70, 3)
    video.write_image(tmp_path / f"ä b{suffix}", image)
    back = video.read_image(tmp_path / f"ä b{suffix}")
    assert np.array_equal(back, image) if suffix == ".png" else error([back], [image]) < 4
    assert [p.name for p in tmp_path.iterdir()] == [f"ä b{suffix}"]
    with pytest.raises(MediaLimitError, match="70x50 has 3500 pixels"):
        video.read_image(tmp_path / f"ä b{suffix}", Limits(max_pixels=3499))
    with pytest.raises(UsageError, match=r"cannot write '\.xyz' images"):
        video.write_image(tmp_path / "a.xyz", image)
    with pytest.raises(ValueError, match=r"got \(5,\)"):
        video.write_image(tmp_path / "a.png", np.zeros(5, np.uint8))


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_an_image_keeps_its_tags(tmp_path: Path, card: Any, suffix: str) -> None:
    path, tags = tmp_path / f"a{suffix}", {"facepipe": '{"swapped": true}', "comment": "a = b; ü"}
    video.write_image(path, card(50, 70, 3), tags=tags)
    assert video.read_tags(path) == {**tags, "comment": "a = b; \\xfc"}
    plain = tmp_path / f"b{suffix}"
    video.write_image(plain, card(50, 70, 3))
    assert video.read_tags(plain) == {}
    np.testing.assert_array_equal(video.read_image(path), video.read_image(plain))
    with PIL.Image.open(path) as seen:
        assert seen.size == (70, 50)
    data = path.read_bytes()
    for stop in range(10, 120, 7):
        path.write_bytes(data[:stop])
        with contextlib.suppress(MediaError):
            video.read_tags(path)


def test_a_failed_image_leaves_nothing(tmp_path: Path, card: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(MediaError, match=r"a\.png: cannot be written: No space left"):
        video.write_image(tmp_path / "a.png", card(8, 8))
    assert list(tmp_path.iterdir()) == []


def test_grey_sixteen_bit_and_transparent_stills(tmp_path: Path) -> None:
    ramp = np.tile(np.arange(256, dtype=np.uint16), (4, 1))
    cv2.imwrite(str(tmp_path / "grey.png"), ramp.astype(np.uint8))
    cv2.imwrite(str(tmp_path / "deep.png"), ramp * 257)
    cv2.imwrite(str(tmp_path / "deep.tiff"), ramp * 257)
    for name in ("grey.png", "deep.png", "deep.tiff"):
        image = video.read_image(tmp_path / name)
        assert image.dtype == np.uint8
        assert np.abs(image.astype(int) - ramp[..., None].astype(int)).max() <= 1, name
    for depth in (np.uint8, np.uint16):
        most = np.iinfo(depth).max
        bgra = np.full((4, 3, 4), most, depth)
        bgra[..., 0] = 0  # no blue
        bgra[:, 0, 3], bgra[:, 1, 3] = 0, most // 2 + 1
        cv2.imwrite(str(tmp_path / "alpha.png"), bgra)
        image = video.read_image(tmp_path / "alpha.png")
        assert image[0].tolist() == [[0, 0, 0], [128, 128, 0], [255, 255, 0]]


def test_exif_orientation(tmp_path: Path, card: Any) -> None:
    path = tmp_path / "a.jpg"
    video.write_image(path, card(40, 60))
    plain, data = video.read_image(path), path.read_bytes()
    tiff = b"MM\0*\0\0\0\x08" + struct.pack(">HHHIHH", 1, 0x0112, 3, 1, 6, 0) + b"\0\0\0\0"  # 6: turn clockwise
    segment = b"Exif\0\0" + tiff
    path.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + data[2:])
    assert np.array_equal(video.read_image(path), np.rot90(plain, -1))


def test_a_cut_jpeg(tmp_path: Path, card: Any) -> None:
    video.write_image(tmp_path / "a.jpg", card(200, 200))
    data = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(data[:300])
    with pytest.raises(MediaError, match=r"a\.jpg: is (a broken image|an image cut off)"):
        video.read_image(tmp_path / "a.jpg")


def test_a_folder_of_images(tmp_path: Path, card: Any, number_of: Any) -> None:
    for number in (10, 2, 1, 7):  # gaps, and 10 after 7
        video.write_image(tmp_path / f"frame{number}.png", card(96, 128, number))
    with video.open_clip(tmp_path) as reader:
        frames = list(reader)
    assert [number_of(f.image) for f in frames] == [1, 2, 7, 10]
    assert [f.pts for f in frames] == [0, 1, 2, 3]
    assert [f.time for f in frames] == [Fraction(i, 25) for i in range(4)]
    assert reader.info.rate == 25
    assert frames[0].small(64)[0].shape == (48, 64, 3)
    assert [f.index for f in video.open_clip(tmp_path, start=1, stop=3)] == [1, 2]
    video.write_image(tmp_path / "frame8.png", card(96, 120))
    with pytest.raises(MediaError, match=r"frame8\.png: expected 128x96 like the first image of the clip, got 120x96"):
        list(video.open_clip(tmp_path))


# Finding clips


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def test_find_clips(tmp_path: Path) -> None:
    touch(tmp_path, "clip10.mp4", "clip2.MOV", "a/b/deep.webm", "still.JPG", "notes.txt", ".hidden.mp4", "x.mp4.part")
    touch(tmp_path, "frames/1.png", "frames/2.png", "mixed/v.mkv", "mixed/s.png", "empty/readme.md")
    found = video.find_clips(tmp_path)
    assert [(str(c.path.relative_to(tmp_path)), c.name, c.kind) for c in found] == [
        ("a/b/deep.webm", "a__b__deep", "video"),
        ("clip2.MOV", "clip2", "video"),
        ("clip10.mp4", "clip10", "video"),
        ("frames", "frames", "images"),
        ("mixed/s.png", "mixed__s", "images"),
        ("mixed/v.mkv", "mixed__v", "video"),
        ("still.JPG", "still", "images"),
    ]
    single = video.find_clips(tmp_path / "clip10.mp4")
    assert [(c.name, c.kind) for c in single] == [("clip10", "video")]


def test_a_folder_of_images_is_one_clip(tmp_path: Path) -> None:
    touch(tmp_path / "set one", "1.png", "2.png", "more/1.jpg")
    found = video.find_clips(tmp_path / "set one")
    assert [(c.name, c.kind) for c in found] == [("set_one", "images"), ("more", "images")]


def test_nothing_to_find(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nothere: no such folder"):
        video.find_clips(tmp_path / "nothere")
    touch(tmp_path, "a.txt")
    with pytest.raises(UsageError, match=rf"{tmp_path}: no clip in this folder.*\.mp4") as caught:
        video.find_clips(tmp_path)
    assert caught.value.exit_code == 2


def test_linked_folders_are_not_entered(tmp_path: Path) -> None:
    touch(tmp_path, "outside/a.mp4", "inside/b.mp4")
    (tmp_path / "inside" / "out").symlink_to(tmp_path / "outside")
    (tmp_path / "inside" / "loop").symlink_to(tmp_path / "inside")
    (tmp_path / "inside" / "c.mp4").symlink_to(tmp_path / "outside" / "a.mp4")
    assert [c.name for c in video.find_clips(tmp_path / "inside")] == ["b", "c"]
    (tmp_path / "link").symlink_to(tmp_path / "inside")
    assert len(video.find_clips(tmp_path / "link")) == 2


NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=60)


@given(st.lists(st.lists(NAMES, min_size=1, max_size=3), min_size=1, max_size=8, unique_by=tuple))
@settings(deadline=None, max_examples=100)
def test_names_are_unique_and_safe(paths: list[list[str]]) -> None:
    wanted = {Path(*p).with_name(Path(*p).name + s) for p in paths for s in (".mp4", ".mov") if Path(*p).name}
    names = clips._unique_names(sorted(wanted))
    assert len({n.casefold() for n in names}) == len(wanted)
    for name in names:
        assert 0 < len(name) <= 140
        assert not set(name) & set('/\\:*?"<>|\0\n ')
        assert not name.startswith(".")
        assert name.split(".")[0].casefold() not in ("con", "nul", "aux", "com1")


def test_names_with_and_without_neighbours(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "a.mov", "A.avi", "b.mp4", "CON.mp4", "über maß.mp4")
    assert {c.path.name: c.name for c in video.find_clips(tmp_path)} == {
        "a.mp4": "a_mp4",
        "a.mov": "a_mov",
        "A.avi": "A_avi",
        "b.mp4": "b",
        "CON.mp4": "_CON",
        "über maß.mp4": "über_maß",
    }


@given(st.integers(0, 10**6), st.integers(0, 10**6))
@settings(deadline=None, max_examples=50)
def test_natural_order_is_by_number(a: int, b: int) -> None:
    assert (clips.natural_key(f"x{a}y") < clips.natural_key(f"x{b}y")) == (a < b)
    assert sorted(["b", "a10", "a2b", "a2", "A1"], key=clips.natural_key) == ["A1", "a2", "a2b", "a10", "b"]


# Writing


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize("space", ["bt601", "bt709", "bt2020"])
@pytest.mark.parametrize("full", [False, True])
def test_a_copy_has_the_colours_of_its_input(
    tmp_path: Path, make_video: Make, suffix: str, space: str, full: bool
) -> None:
    made = make_video(tmp_path / "a.mp4", size=(192, 256), space=space, full=full, count=4)
    copy(made, tmp_path / f"b{suffix}", crf=10)
    info, images, times, warnings = read(tmp_path / f"b{suffix}")
    before, originals, times_before, _ = read(made)
    assert error(images, originals) < 1.5
    shift = np.mean([a.astype(float) - b for a, b in zip(images, originals, strict=True)], axis=(0, 1, 2))
    assert np.abs(shift).max() < 0.4
    assert np.abs(images[0][4:40, 4:60].astype(int)).max() <= 2, "black"
    assert np.abs(images[0][4:40, 68:124].astype(int) - 255).max() <= 2, "white"
    assert (info.color_space, info.color_range) == (before.color_space, "tv") == (SPACES[space], "tv")
    assert times == times_before
    assert warnings == []


@pytest.mark.parametrize("pixel_format", ["yuv422p", "yuv444p", "yuv420p10le"])
def test_a_copy_of_other_pixel_formats(tmp_path: Path, make_video: Make, pixel_format: str) -> None:
    made = make_video(tmp_path / "a.mkv", size=(192, 256), pixel_format=pixel_format, count=3)
    copy(made, tmp_path / "b.mp4", crf=10)
    assert error(read(tmp_path / "b.mp4")[1], read(made)[1]) < 1.5


@pytest.mark.parametrize("size", [(97, 129), (96, 129), (97, 128)])
def test_odd_sizes_are_kept(tmp_path: Path, make_video: Make, size: tuple[int, int]) -> None:
    made = make_video(tmp_path / "a.mkv", size=size, pixel_format="yuv444p", count=3)
    copy(made, tmp_path / "b.mp4", crf=10)
    info, images, _, _ = read(tmp_path / "b.mp4")
    assert info.size == size
    assert error(images, read(made)[1]) < 1.0


def test_writing_from_stills_and_rotated_clips(tmp_path: Path, make_video: Make, card: Any) -> None:
    made = make_video(tmp_path / "a.mp4", rotation=90, count=3)
    copy(made, tmp_path / "b.mp4", crf=10)
    info, images, _, _ = read(tmp_path / "b.mp4")
    assert (info.size, info.rotation) == ((128, 96), 0)
    assert error(images, read(made)[1]) < 1.5
    (tmp_path / "frames").mkdir()
    for number in range(2):
        video.write_image(tmp_path / "frames" / f"{number}.png", card(96, 128, number))
    copy(tmp_path / "frames", tmp_path / "c.mp4", crf=10)
    assert read(tmp_path / "c.mp4")[2] == [Fraction(0), Fraction(1, 25)]


@pytest.mark.parametrize(("name", "codec"), [("b.mp4", "lossless"), ("b.mkv", "lossless"), ("b.mkv", "mask")])
def test_bit_exact(tmp_path: Path, name: str, codec: Any) -> None:
    rng = np.random.default_rng(0)
    shape = (50, 71) if codec == "mask" else (50, 71, 3)
    images = [rng.integers(0, 256, shape, dtype=np.uint8) for _ in range(5)]
    like = VideoInfo(tmp_path, (50, 71), Fraction(30000, 1001), Fraction(1, 1000))
    with video.open_writer(tmp_path / name, like, codec=codec) as writer:
        for index, image in enumerate(images):
            writer.write(image, 33 * index)
    _, back, times, _ = read(tmp_path / name)
    assert times == [Fraction(33 * i, 1000) for i in range(5)]
    expected = [np.repeat(i[..., None], 3, axis=2) if codec == "mask" else i for i in images]
    assert all(np.array_equal(a, b) for a, b in zip(back, expected, strict=True))


@given(
    st.lists(st.integers(1, 10**5), min_size=1, max_size=12), st.integers(0, 10**6), st.sampled_from([90000, 12288])
)
@settings(deadline=None, max_examples=15)
def test_times_survive_exactly(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int], first: int, scale: int
) -> None:
    path = tmp_path_factory.mktemp("times") / "a.mp4"
    pts = [first + sum(steps[:i]) for i in range(len(steps) + 1)]
    like = VideoInfo(path, (32, 32), Fraction(25), Fraction(1, scale))
    with video.open_writer(path, like) as writer:
        for index, time in enumerate(pts):
            writer.write(np.full((32, 32, 3), index * 10, np.uint8), time)
    info, _, times, warnings = read(path)
    assert info.time_base == Fraction(1, scale)
    assert times == [Fraction(p, scale) for p in pts]
    assert warnings == []


@pytest.mark.models
@pytest.mark.parametrize("name", ["face_noface.mov", "single_face.mp4"])
def test_a_copy_of_a_real_clip(tmp_path: Path, clip_path: Callable[[str], Path], name: str) -> None:
    source = clip_path(name)
    copy(source, tmp_path / "b.mp4", crf=10, preset="ultrafast", audio_from=source, metadata={"facepipe": "x"})
    info, images, times, warnings = read(tmp_path / "b.mp4")
    before, originals, times_before, _ = read(source)
    assert times == times_before
    assert warnings == []
    assert info.time_base == before.time_base
    assert error(images, originals) < 1.5
    shift = np.mean([a.astype(float).mean() - b.mean() for a, b in zip(images, originals, strict=True)])
    assert abs(shift) < 0.1
    assert audio_packets(tmp_path / "b.mp4") == audio_packets(source)


@pytest.mark.parametrize(
    ("codecs", "suffix"), [(["aac"], ".mp4"), (["aac", "libmp3lame"], ".mp4"), (["aac", "flac"], ".mkv"), ([], ".mp4")]
)
def test_audio_is_copied_untouched(tmp_path: Path, make_video: Make, codecs: list[str], suffix: str) -> None:
    made = make_video(tmp_path / f"a{suffix}", audio=codecs, count=50)
    copy(made, tmp_path / f"b{suffix}", audio_from=made)
    expected, got = audio_packets(made), audio_packets(tmp_path / f"b{suffix}")
    assert got == expected
    assert len(got) == len(codecs)
    assert read(tmp_path / f"b{suffix}")[2] == read(made)[2]


@pytest.mark.parametrize(
    ("video_start", "audio_start"), [(0, Fraction(1, 2)), (18000, Fraction(0)), (9000, Fraction(1))]
)
@pytest.mark.parametrize("source", [".mp4", ".mkv", ".ts"])
@pytest.mark.parametrize("target", [".mp4", ".mkv"])
def test_sound_and_picture_stay_together(
    tmp_path: Path, make_video: Make, video_start: int, audio_start: Fraction, source: str, target: str
) -> None:
    pts = [video_start + 3600 * i for i in range(25)]
    base = Fraction(1, 90000)
    made = make_video(
        tmp_path / f"a{source}", count=25, pts=pts, time_base=base, audio=["aac"], audio_start=audio_start
    )
    copy(made, tmp_path / f"b{target}", audio_from=made)
    before, after = audio_packets(made)[0], audio_packets(tmp_path / f"b{target}")[0]
    assert [h for _, h in after] == [h for _, h in before]
    offset_before = before[0][0] - read(made)[2][0]
    offset_after = after[0][0] - read(tmp_path / f"b{target}")[2][0]
    rounding = Fraction(1, 48000) if target == ".mp4" else Fraction(1, 1000)
    assert abs(offset_after - offset_before) <= rounding


def test_audio_that_the_container_cannot_hold(tmp_path: Path, make_video: Make) -> None:
    made = make_video(tmp_path / "a.mkv", audio=["wavpack"])
    with pytest.raises(
        MediaError, match=r"b\.mp4: this container cannot hold the audio.*wavpack.*write to a \.mkv file"
    ):
        video.open_writer(tmp_path / "b.mp4", video.probe(made), audio_from=made)
    assert not list(tmp_path.glob("b.*"))
    copy(made, tmp_path / "b.mkv", audio_from=made)
    assert [h for _, h in audio_packets(tmp_path / "b.mkv")[0]] == [h for _, h in audio_packets(made)[0]]


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_metadata_survives(tmp_path: Path, make_video: Make, suffix: str) -> None:
    tags = {"facepipe_synthetic": "yes; swapped", "comment": "größe = 1", "com.example.key": "a\nb"}
    made = make_video(tmp_path / "a.mp4", count=1)
    copy(made, tmp_path / f"b{suffix}", metadata=tags)
    got = video.read_metadata(tmp_path / f"b{suffix}")
    assert {k: got.get(k) for k in tags} == tags
    with pytest.raises(MediaError, match="no such file"):
        video.read_metadata(tmp_path / "nothing.mp4")


def test_writing_is_all_or_nothing(tmp_path: Path, make_video: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_video(tmp_path / "a.mp4")
    (tmp_path / "b.mp4").write_bytes(b"the old one")
    like = video.probe(made)
    with (  # noqa: PT012
        pytest.raises(KeyError),
        video.open_writer(tmp_path / "b.mp4", like, audio_from=made) as writer,
    ):
        writer.write(np.zeros((96, 128, 3), np.uint8), 0)
        assert (tmp_path / "b.mp4.part").exists()
        raise KeyError
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mp4", "b.mp4"]
    assert (tmp_path / "b.mp4").read_bytes() == b"the old one"
    with pytest.raises(MediaError, match=r"c\.mp4: no frame was written"), video.open_writer(tmp_path / "c.mp4", like):
        pass
    with pytest.raises(MediaError, match=r"no/c\.mp4: cannot be written"):
        video.open_writer(tmp_path / "no" / "c.mp4", like)

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MediaError, match=r"c\.mp4: cannot be written: No space left"):
        copy(made, tmp_path / "c.mp4")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mp4", "b.mp4"]


def test_a_file_with_other_times_gets_no_name(
    tmp_path: Path, make_video: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    mux = video.ClipWriter._mux

    def late(self: video.ClipWriter, container: Any, packets: list[Any]) -> None:
        for packet in packets:
            if packet.pts * packet.time_base == Fraction(9, 25):
                packet.pts += int(Fraction(1, 5) / packet.time_base)
        mux(self, container, packets)

    monkeypatch.setattr(video.ClipWriter, "_mux", late)
    with pytest.raises(MediaError, match=r"b\.mp4: its frames have other times than were written"):
        copy(make_video(tmp_path / "a.mp4"), tmp_path / "b.mp4")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4"]


def test_a_file_that_lost_sound_gets_no_name(
    tmp_path: Path, make_video: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = muxing._Span(packets=1000, last=Fraction(9))
    monkeypatch.setattr(muxing.AudioCopy, "copied", [more])
    source = make_video(tmp_path / "a.mp4", audio=["aac"])
    with pytest.raises(MediaError, match=r"b\.mp4: its sound lasts 0\.\d+ s, not 9\.000"):
        copy(source, tmp_path / "b.mp4", audio_from=source)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4"]


def test_a_full_disk(tmp_path: Path) -> None:
    like = VideoInfo(tmp_path, (64, 64), Fraction(25), Fraction(1, 25))
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    (tmp_path / "b.mkv.part").symlink_to("/dev/full")
    rng = np.random.default_rng(0)
    with (  # noqa: PT012
        pytest.raises(MediaError, match=r"b\.mkv: cannot be written: No space left"),
        video.open_writer(tmp_path / "b.mkv", like, codec="lossless") as writer,
    ):
        for index in range(60):
            writer.write(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8), index)
    assert list(tmp_path.iterdir()) == []


def test_wrong_calls_of_the_writer(tmp_path: Path) -> None:
    like = VideoInfo(tmp_path, (64, 64), Fraction(25), Fraction(1, 25))
    image = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(UsageError, match=r"cannot write '\.xyz' videos"):
        video.open_writer(tmp_path / "a.xyz", like)
    with pytest.raises(UsageError, match=r"masks are written to \.mkv"):
        video.open_writer(tmp_path / "a.mp4", like, codec="mask")
    with video.open_writer(tmp_path / "a.mp4", like) as writer:
        writer.write(image, 5)
        with pytest.raises(ValueError, match="expected a pts after 5, got 5"):
            writer.write(image, 5)
        with pytest.raises(ValueError, match=r"expected \(64, 64, 3\) uint8, got \(64, 64\) uint8"):
            writer.write(image[..., 0], 6)
        with pytest.raises(ValueError, match="float64"):
            writer.write(image.astype(float), 6)
    assert writer.frames == 1
    with pytest.raises(ValueError, match="closed"):
        writer.write(image, 7)


def test_the_same_frames_make_the_same_file(tmp_path: Path, make_video: Make) -> None:
    made = make_video(tmp_path / "a.mp4", audio=["aac"], count=30)
    for name in ("b.mp4", "c.mp4"):
        copy(made, tmp_path / name, audio_from=made, metadata={"k": "v"})
    assert (tmp_path / "b.mp4").read_bytes() == (tmp_path / "c.mp4").read_bytes()


WRITE = """
import sys
from fractions import Fraction
import numpy as np
from pathlib import Path
from facepipe.types import VideoInfo
from facepipe.video import open_writer
out, like = Path(sys.argv[1]), VideoInfo(Path("a"), (144, 176), Fraction(25), Fraction(1, 25))
texture = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8).repeat(4, 0).repeat(4, 1)
with open_writer(out, like, crf=23, preset="medium") as writer:
    for frame in range(30):
        writer.write(texture[frame : frame + 144, 2 * frame : 2 * frame + 176], pts=frame)
"""


def test_memory_that_nobody_wrote_is_not_in_the_file(tmp_path: Path) -> None:
    # x264's macroblock tree made other bits of the same frames now and then; glibc can fill fresh memory with a byte.
    for fill in ("0", "1", "85", "200"):
        out = tmp_path / f"{fill}.mp4"
        subprocess.run([sys.executable, "-c", WRITE, out], check=True, env={**os.environ, "MALLOC_PERTURB_": fill})
    assert len({out.read_bytes() for out in tmp_path.iterdir()}) == 1


def test_the_front_door() -> None:
    assert video.__all__ == sorted(video.__all__, key=lambda n: (not n.isupper(), n.islower(), n))
    assert all(hasattr(video, name) for name in video.__all__)
