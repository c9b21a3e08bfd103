"""Odd media through a whole run: what docs/media.md says of each. Every medium is made here."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image as Picture

import facepipe
from facepipe import pipeline, video
from facepipe.provenance import check
from facepipe.types import Image, VideoInfo

pytestmark = [pytest.mark.models, pytest.mark.slow]

Make = Callable[..., Path]
OVERRIDES = ("detect.embedder=none", "align.size=128", "swap.skip=[]")


def two_pictures(path: Path, images: list[Image]) -> None:
    """Two video streams: the second is black."""
    with av.open(str(path), "w") as out:
        streams: list[Any] = [out.add_stream("libx264", rate=25, options={"crf": "6"}) for _ in range(2)]
        for stream in streams:
            stream.height, stream.width, stream.pix_fmt = *images[0].shape[:2], "yuv420p"
        for image in images:
            for stream, shown in zip(streams, (image, np.zeros_like(image)), strict=True):
                out.mux(stream.encode(av.VideoFrame.from_ndarray(shown, format="rgb24")))
        for stream in streams:
            out.mux(stream.encode(None))


def transparent(path: Path, images: list[Image]) -> None:
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("png", rate=25)
        stream.height, stream.width, stream.pix_fmt = *images[0].shape[:2], "rgba"
        for image in images:
            rgba = np.dstack([image, np.full(image.shape[:2], 255, np.uint8)])
            rgba[:20, :, 3] = 0
            out.mux(stream.encode(av.VideoFrame.from_ndarray(rgba, format="rgba")))
        out.mux(stream.encode(None))


def no_frames(path: Path) -> None:
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 96, 128, "yuv420p"
        out.start_encoding()


def make_all(root: Path, images: list[Image], make: Make) -> None:
    def film(name: str, shown: list[Image] = images, **options: Any) -> Path:
        return make(root / name, images=shown, **options)

    late = [9000 + 3600 * i for i in range(len(images))]
    film("rotated.mp4", [np.ascontiguousarray(np.rot90(image, -1)) for image in images], rotation=90)
    film("variable.mp4", pts=[0, 3000, 3100, 9000, 50000, 50001], time_base=Fraction(1, 90000), audio=["aac"])
    film("silent.mov")
    film("languages.mkv", audio=["aac", "flac"])
    film("ten_bit.mkv", pixel_format="yuv420p10le")
    film("odd_size.mp4", [image[:359, :637] for image in images], pixel_format="yuv444p")
    film("wrong_suffix.avi", format="mp4")
    film("single.mp4", images[:1])
    film("late_start.mp4", pts=late, time_base=Fraction(1, 90000), audio=["aac"], audio_start=Fraction(1, 10))
    film("interlaced.mp4", options={"flags": "+ildct+ilme"})
    film("animation.gif", codec="gif", pixel_format="bgr8")
    two_pictures(root / "two_pictures.mkv", images)
    transparent(root / "alpha.mov", images)
    no_frames(root / "no_frames.mp4")
    whole = film("truncated.mkv", rate=Fraction(2), audio=["aac"], options={"g": "1"}).read_bytes()
    (root / "truncated.mkv").write_bytes(whole[: len(whole) // 2])
    pictures = [Picture.fromarray(image) for image in images]
    pictures[0].save(root / "still.webp", quality=95)
    pictures[0].save(root / "moving.webp", quality=95, save_all=True, append_images=pictures[1:])
    pictures[0].save(root / "moving_too.png", save_all=True, append_images=pictures[1:])
    (root / "gaps").mkdir()
    for number, image in zip((1, 2, 7, 10), images, strict=False):
        video.write_image(root / "gaps" / f"frame{number}.png", image)


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory, short_clips: Any, make_video: Make) -> tuple[Any, Path, Path]:
    """A run up to the swap over one of each: what came of it, the clips, the run folder."""
    root = tmp_path_factory.mktemp("odd")
    with video.open_clip(short_clips.woman / "woman.mp4", stop=6) as reader:
        images = [frame.image for frame in reader]
    (root / "clips").mkdir()
    make_all(root / "clips", images, make_video)
    config = pipeline.resolve(None, OVERRIDES, source=short_clips.man, target=root / "clips", out=root / "RUN")
    return facepipe.swap(config), root / "clips", root / "RUN"


# Frames and sound streams of the swapped video.
GOOD = {
    "rotated.mp4": (6, 0),
    "variable.mp4": (6, 1),
    "silent.mov": (6, 0),
    "languages.mkv": (6, 2),
    "ten_bit.mkv": (6, 0),
    "odd_size.mp4": (6, 0),
    "wrong_suffix.avi": (6, 0),
    "single.mp4": (1, 0),
    "late_start.mp4": (6, 1),
    "interlaced.mp4": (6, 0),
    "animation.gif": (6, 0),
    "two_pictures.mkv": (6, 0),
    "alpha.mov": (6, 0),
    "still.webp": (1, 0),
    "moving.webp": (1, 0),
    "moving_too.png": (1, 0),
    "gaps": (4, 0),
}
WARNINGS = {
    "two_pictures.mkv": "has 2 video streams, stream 0 is read",
    "interlaced.mp4": "is interlaced: frames are as stored",
    "moving.webp": "is animated: only its first picture is read",
    "moving_too.png": "is animated: only its first picture is read",
}


def watch(path: Path) -> tuple[VideoInfo, list[Image], list[Fraction]]:
    with video.open_clip(path) as reader:
        frames = [(frame.image, frame.time) for frame in reader]
        return reader.info, [image for image, _ in frames], [time for _, time in frames]


def sounds(path: Path) -> list[Fraction]:
    """Seconds from the first to the last packet of each stream of sound."""
    with av.open(str(path)) as container:
        streams = list(container.streams.audio)
        times: dict[int, list[Fraction]] = {stream.index: [] for stream in streams}
        for packet in container.demux(streams) if streams else ():
            if packet.pts is not None:
                times[packet.stream.index].append(packet.pts * packet.time_base)
        return [max(found) - min(found) for found in times.values()]


@pytest.mark.parametrize("name", GOOD)
def test_an_odd_medium_is_swapped(odd: tuple[Any, Path, Path], name: str) -> None:
    _, clips, run = odd
    (made,) = (path for path in (run / "swapped").glob(f"{Path(name).stem}.m*"))
    before, images, times = watch(clips / name)
    after, swapped, times_after = watch(made)
    assert (len(swapped), len(sounds(made))) == GOOD[name]
    assert after.size == before.size
    rounding = Fraction(1, 1000) if made.suffix == ".mkv" else 0
    for time, expected in zip(times_after, times, strict=True):
        assert abs((time - times_after[0]) - (expected - times[0])) <= rounding
    if clips.joinpath(name).is_file():
        for length, expected in zip(sounds(made), sounds(clips / name) if GOOD[name][1] else [], strict=True):
            assert abs(length - expected) <= Fraction(1, 500)
    change = np.mean([np.abs(a.astype(int) - b).mean() for a, b in zip(images, swapped, strict=True)])
    assert 0.1 < change < 25  # the face is another, the picture is upright and otherwise the same


def test_what_is_left_of_a_truncated_film_is_swapped(odd: tuple[Any, Path, Path]) -> None:
    result, clips, run = odd
    _, images, _ = watch(clips / "truncated.mkv")
    assert 1 <= len(images) < 5
    (made,) = (run / "swapped").glob("truncated.m*")
    assert len(watch(made)[1]) == len(images)
    assert any("truncated.mkv: cut short" in warning for warning in result.warnings)


def test_a_film_without_frames_fails_alone(odd: tuple[Any, Path, Path]) -> None:
    result, clips, _ = odd
    (failed,) = result.failed
    assert failed.clip == "no_frames"
    assert str(clips / "no_frames.mp4") in failed.reason


@pytest.mark.parametrize("name", WARNINGS)
def test_what_is_odd_is_told(odd: tuple[Any, Path, Path], name: str) -> None:
    assert any(f"{name}: {WARNINGS[name]}" in warning for warning in odd[0].warnings)


@pytest.mark.parametrize(
    ("name", "muxer"), [("a.avi", "mp4"), ("a.mkv", "mp4"), ("a.mp4", "matroska"), ("a.mov", "avi")]
)
def test_a_film_with_another_suffix_is_not_called_altered(
    tmp_path: Path, make_video: Make, name: str, muxer: str
) -> None:
    assert check(make_video(tmp_path / name, count=3, format=muxer)).status == "none"
