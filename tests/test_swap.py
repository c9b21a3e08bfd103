"""Stage swap on drawn frames, with a method that draws squares: order, batches, threads, files."""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facepipe.composite import Compositor, Patch
from facepipe.config import SwapConfig
from facepipe.methods.plan import Plan, Record, rows_to_swap
from facepipe.stages import swap
from facepipe.stages.swap import SwappedFrame, full_mask, swap_frames, write_swap
from facepipe.types import Faces, Flag, Image, VideoInfo
from facepipe.video import Frame, open_clip

CONFIG = SwapConfig()
SIZE = (48, 64)


class OwnError(Exception):
    """Nobody else raises it."""


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "facepipe-ahead"]


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    assert threads() == []


def picture(index: int) -> Image:
    """Bright and dark in turns, so that colours depend on the frames before."""
    rng = np.random.default_rng(index)
    return np.asarray(rng.integers(0, 100, (*SIZE, 3)) + 40 * (index % 4), np.uint8)


def frames(count: int | None) -> Iterator[Frame]:
    """So many frames, or for ever."""
    numbers = itertools.count() if count is None else range(count)
    return (Frame(i, 10 * i, Fraction(i, 10), picture(i)) for i in numbers)


def faces_in(places: Sequence[int], tracks: Sequence[int] | None = None) -> Faces:
    """A face in each of these frames."""
    n = len(places)
    return Faces(
        frame=np.array(places, np.int64),
        pts=np.array(places, np.int64) * 10,
        face=np.arange(n, dtype=np.int32) % 3,
        track=np.array(tracks if tracks is not None else [0] * n, np.int32),
        box=np.zeros((n, 4), np.float32),
        score=np.ones(n, np.float32),
        landmarks=np.zeros((n, 68, 2), np.float32),
        mesh=np.zeros((n, 0, 3), np.float32),
        frame_to_crop=np.zeros((n, 2, 3)),
        embedding=np.zeros((n, 0), np.float32),
        yaw=np.zeros(n, np.float32),
        pitch=np.zeros(n, np.float32),
        roll=np.zeros(n, np.float32),
        sharpness=np.zeros(n, np.float32),
        eyes=np.full((n, 2), np.nan, np.float32),
        flags=np.zeros(n, np.int32),
    )


@dataclass
class Squares:
    """A method whose faces are squares in the negative of what they cover."""

    faces: Faces
    batch: int = 1
    outside: frozenset[int] = frozenset()
    calls: list[list[int]] = field(default_factory=list)

    def patches(self, rows: Sequence[int], frames: Sequence[Image]) -> list[Patch | None]:
        self.calls.append(list(rows))
        return [None if row in self.outside else square(frame) for row, frame in zip(rows, frames, strict=True)]

    def record(self, row: int) -> Record:
        return Record(int(self.faces.face[row]), 7, 100 + row)


def square(frame: Image) -> Patch:
    shift = np.array([[1.0, 0, -20], [0, 1, -12]])
    return Patch(255 - frame[12:36, 20:44], np.ones((24, 24), np.float32), shift)


def one_by_one(plan: Squares, count: int) -> Iterator[tuple[Image, Record | None]]:
    """What a swap is, said without threads and batches."""
    compositor, last = Compositor(CONFIG), (-1, -1)
    rows = plan.faces.frame.tolist()
    for index in range(count):
        image = picture(index)
        row = rows.index(index) if index in rows else None
        if row is not None:
            if last != (index - 1, plan.faces.track[row]):
                compositor.reset()
            last = (index, int(plan.faces.track[row]))
        if row is None or row in plan.outside:
            yield image, None
        else:
            yield compositor(image, square(image), index)[0], plan.record(row)


def swapped(source: Iterable[Frame], plan: Plan) -> list[SwappedFrame]:
    return list(swap_frames(source, plan, CONFIG))


# -------------------------------------------------------------------------------------------------- what comes out


@settings(deadline=None, max_examples=40)
@given(
    kinds=st.lists(st.sampled_from(["none", "track 0", "track 0", "track 1", "outside"]), max_size=24),
    batch=st.integers(1, 5),
)
def test_threads_and_batches_change_nothing(kinds: list[str], batch: int) -> None:
    """Bit for bit, colours that depend on the frames before included."""
    places = [i for i, kind in enumerate(kinds) if kind != "none"]
    tracks = [int(kinds[i] == "track 1") for i in places]
    outside = frozenset(row for row, i in enumerate(places) if kinds[i] == "outside")
    plan = Squares(faces_in(places, tracks), batch, outside)
    found = swapped(frames(len(kinds)), plan)
    expected = list(one_by_one(plan, len(kinds)))
    assert [(one.index, one.pts) for one in found] == [(i, 10 * i) for i in range(len(kinds))]
    assert [one.record for one in found] == [record for _, record in expected]
    assert [one.region is None for one in found] == [record is None for _, record in expected]
    for one, (image, _) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.image, image)
    assert list(itertools.chain(*plan.calls)) == list(range(len(places)))
    assert all(1 <= len(rows) <= batch for rows in plan.calls)


def test_batches_are_full_where_they_can_be() -> None:
    plan = Squares(faces_in(range(1, 11)), 4)
    swapped(frames(12), plan)
    assert plan.calls == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_a_batch_waits_for_four_batches_of_frames_at_most() -> None:
    """A face in frames 0 and 20, and a decoder that would give up long before the next one."""

    def source() -> Iterator[Frame]:
        for frame in frames(None):
            assert frame.index < 60
            yield frame

    plan = Squares(faces_in([0, 20, 500]), 3)
    with closing(swap_frames(source(), plan, CONFIG)) as found:
        assert [one.index for one in itertools.islice(found, 20)] == list(range(20))
        assert plan.calls[0] == [0]
        assert [one.record is not None for one in itertools.islice(found, 2)] == [True, False]
    assert plan.calls == [[0], [1]]


def test_frames_wait_for_a_face_only_where_there_is_one() -> None:
    """The decoder gives no second frame before the first has come out."""
    came_out = threading.Event()

    def source() -> Iterator[Frame]:
        for frame in frames(3):
            yield frame
            assert came_out.wait(20)

    with closing(swap_frames(source(), Squares(faces_in([2]), 4), CONFIG)) as found:
        assert next(found).index == 0
        came_out.set()
        assert [one.record is not None for one in found] == [False, True]


@pytest.mark.parametrize("batch", [1, 4])
def test_memory_does_not_grow_with_the_clip(batch: int) -> None:
    """Of 200 frames no more than six batches and a few are there at a time."""
    alive, most = 0, 0

    def gone() -> None:
        nonlocal alive
        alive -= 1

    def source() -> Iterator[Frame]:
        nonlocal alive, most
        for frame in frames(200):
            weakref.finalize(frame.image, gone)
            alive += 1
            most = max(most, alive)
            yield frame

    plan = Squares(faces_in([i for i in range(200) if i < 60 or i % 7 == 0]), batch)
    for _ in swap_frames(source(), plan, CONFIG):
        pass
    assert alive <= 2  # those that this function's own names hold
    assert most <= 6 * batch + 10


def test_all_four_work_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoder, method, composite and caller meet, each inside of a frame of its own, eight times."""
    left = 8

    def met() -> None:
        nonlocal left
        left -= 1

    barrier = threading.Barrier(4, action=met, timeout=20)

    def meeting(call: Callable[..., Any], free: int) -> Callable[..., Any]:
        """`call`, which from the frame number `free` on waits for the others."""
        calls = itertools.count()

        def wrapped(*args: Any) -> Any:
            if next(calls) >= free and left:
                barrier.wait()
            return call(*args)

        return wrapped

    plan = Squares(faces_in(range(20)))
    monkeypatch.setattr(plan, "patches", meeting(plan.patches, 2))
    monkeypatch.setattr(swap, "Compositor", lambda *settings: _Composite(meeting(Compositor(*settings), 1)))
    decode, take = meeting(lambda frame: frame, 3), meeting(lambda frame: frame.index, 0)
    found = [take(frame) for frame in swap_frames(map(decode, frames(20)), plan, CONFIG)]
    assert found == list(range(20))
    assert left == 0


@dataclass
class _Composite:
    call: Callable[..., Any]

    def reset(self) -> None:
        """Nothing to forget."""

    def __call__(self, *args: Any) -> Any:
        return self.call(*args)


# -------------------------------------------------------------------------------------------------- what goes wrong


def failing(call: Callable[..., Any], error: BaseException, after: int) -> Callable[..., Any]:
    calls = itertools.count()

    def wrapped(*args: Any) -> Any:
        if next(calls) == after:
            raise error
        return call(*args)

    return wrapped


@pytest.mark.parametrize("place", ["decoder", "method", "composite", "record", "caller"])
@pytest.mark.parametrize("after", [0, 9])
def test_an_exception_anywhere_comes_as_itself_and_ends_all(
    place: str, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clip has no end, so whatever is not stopped goes on and is seen as a thread that is left."""
    error, plan = OwnError("x"), Squares(faces_in(range(100)), 2)

    def wrap(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        return failing(call, error, after) if name == place else call

    monkeypatch.setattr(plan, "patches", wrap("method", plan.patches))
    monkeypatch.setattr(plan, "record", wrap("record", plan.record))
    monkeypatch.setattr(swap, "Compositor", lambda *settings: _Composite(wrap("composite", Compositor(*settings))))
    decode, take = wrap("decoder", lambda frame: frame), wrap("caller", lambda frame: frame)
    with (
        pytest.raises(OwnError) as caught,
        closing(swap_frames(map(decode, frames(None)), plan, CONFIG)) as found,
    ):
        list(map(take, itertools.islice(found, 100)))
    assert caught.value is error
    assert threads() == []


def test_a_method_that_loses_a_face_is_told() -> None:
    class Losing(Squares):
        def patches(self, rows: Sequence[int], frames: Sequence[Image]) -> list[Patch | None]:
            return super().patches(rows, frames)[1:]

    with pytest.raises(ValueError, match="expected 3 patches from the method, got 2"):
        swapped(frames(10), Losing(faces_in(range(10)), 3))


def test_closing_early_closes_the_clip(tmp_path: Path, make_video: Callable[..., Path]) -> None:
    path = make_video(tmp_path / "in.mkv", count=40)
    with open_clip(path) as reader:
        found = swap_frames(reader, Squares(faces_in([])), CONFIG)
        assert next(found).index == 0
        assert len(threads()) == 3
        found.close()
        assert threads() == []
        assert [frame.index for frame in reader] == list(range(40))  # and the reader can start anew


# --------------------------------------------------------------------------------------------------------- the files


def write(frames: Iterable[SwappedFrame], folder: Path, **more: Any) -> dict[str, Any]:
    like = VideoInfo(folder, SIZE, Fraction(10), Fraction(1, 100))
    given: dict[str, Any] = {
        "video": folder / "out.mp4",
        "mask": folder / "mask.mkv",
        "audio_from": None,
        "metadata": {},
    }
    return write_swap(frames, SwapConfig(codec="lossless"), like=like, **{**given, "sign": lambda _: None, **more})


def test_what_is_written_is_what_was_swapped(tmp_path: Path) -> None:
    plan = Squares(faces_in([1, 2, 5]), 2, frozenset([1]))
    columns = write(swap_frames(frames(7), plan, CONFIG), tmp_path)
    assert {name: column.tolist() for name, column in columns.items()} == {
        "frame": list(range(7)),
        "pts": [0, 10, 20, 30, 40, 50, 60],
        "swapped": [False, True, False, False, False, True, False],
        "face": [-1, 0, -1, -1, -1, 2, -1],
        "source_clip": [-1, 7, -1, -1, -1, 7, -1],
        "source_frame": [-1, 100, -1, -1, -1, 102, -1],
        "source_face": [-1] * 7,
    }
    with open_clip(tmp_path / "out.mp4") as video, open_clip(tmp_path / "mask.mkv") as masks:
        for one, frame, mask in zip(swapped(frames(7), plan), video, masks, strict=True):
            np.testing.assert_array_equal(frame.image, one.image)
            np.testing.assert_array_equal(mask.image[..., 0], full_mask(one.region, SIZE))
            assert mask.image.any() == (one.record is not None)
            assert frame.time == Fraction(one.index, 10)


def test_a_video_is_signed_before_it_has_its_name(tmp_path: Path) -> None:
    """What cannot be signed leaves no file."""
    seen: list[tuple[bool, bool]] = []

    def sign(part: Path) -> None:
        seen.append((part.stat().st_size > 0, (tmp_path / "out.mp4").exists()))
        if len(seen) == 2:
            raise OwnError("x")

    write(swapped(frames(3), Squares(faces_in([1]))), tmp_path, sign=sign)
    (tmp_path / "out.mp4").unlink()
    with pytest.raises(OwnError):
        write(swapped(frames(3), Squares(faces_in([1]))), tmp_path, sign=sign)
    assert seen == [(True, False), (True, False)]
    assert not list(tmp_path.glob("out.*"))


@pytest.mark.parametrize("where", ["told", "writer"])
def test_an_exception_while_writing_leaves_no_file(where: str, tmp_path: Path) -> None:
    """Of whoever listens between the swap and the writer, and of the writer (which wants frames of one size)."""
    error = OwnError("x")

    def odd(frame: SwappedFrame) -> SwappedFrame:
        if frame.index == 5 and where == "told":
            raise error
        return SwappedFrame(5, 50, frame.image[1:], 0.2) if frame.index == 5 else frame

    with (
        pytest.raises((OwnError, ValueError), match=r"^x$|expected \(48, 64, 3\) uint8") as caught,
        closing(swap_frames(frames(None), Squares(faces_in(range(9))), CONFIG)) as found,
    ):
        write(map(odd, found), tmp_path)
    assert (caught.value is error) == (where == "told")
    assert threads() == []
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------------------------------- the choice


def test_rows_without_a_flag_to_skip_are_swapped() -> None:
    flags = np.array([0, Flag.PROFILE, Flag.BLURRED, Flag.BLURRED | Flag.SMALL, 0], np.int32)
    faces = faces_in(range(5)).with_columns(flags=flags)
    rows = np.array([True, True, True, True, False])
    assert rows_to_swap(faces, rows, SwapConfig(skip=("profile",))).tolist() == [True, False, True, True, False]
    assert rows_to_swap(faces, rows, SwapConfig(skip=("small", "profile"))).tolist() == [
        True,
        False,
        True,
        False,
        False,
    ]
    assert rows_to_swap(faces, rows, SwapConfig(skip=())).tolist() == rows.tolist()
