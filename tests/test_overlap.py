"""Iterators in threads: order, bound, exceptions as themselves, early ends, no thread left behind."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facepipe.overlap import ahead


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "facepipe-ahead"]


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    assert threads() == []
    yield
    assert threads() == []


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until, "it did not come to that"
        time.sleep(0.001)


class Source:
    """Counts up, for ever or to `stop`; tells how far it is, in which threads, and whether it was closed."""

    def __init__(self, stop: int | None = None, *, error: BaseException | None = None) -> None:
        self.begun = 0
        self.closed = False
        self.idents: set[int] = set()
        self._stop = stop
        self._error = error

    def __iter__(self) -> Iterator[int]:
        try:
            while self.begun != self._stop:
                self.begun += 1
                self.idents.add(threading.get_ident())
                yield self.begun - 1
            if self._error is not None:
                raise self._error
        finally:
            self.closed = True
            self.idents.add(threading.get_ident())


class OwnError(Exception):
    """Nobody else raises it."""


# ------------------------------------------------------------------------------------------------- order and bound


@settings(deadline=None, max_examples=30)
@given(items=st.lists(st.none() | st.integers()), bounds=st.tuples(st.integers(1, 5), st.integers(1, 5)))
def test_all_items_in_order_through_two_threads(items: list[Any], bounds: tuple[int, int]) -> None:
    with ahead(items, bounds[0]) as first, ahead(map(repr, first), bounds[1]) as second:
        assert list(second) == [repr(item) for item in items]
        assert list(second) == []  # and it stays at its end


@pytest.mark.parametrize("bound", [1, 3])
def test_the_thread_runs_ahead_by_the_bound_and_no_more(bound: int) -> None:
    source = Source()
    with ahead(source, bound) as items:
        for taken in range(4):
            wait_for(lambda taken=taken: source.begun == taken + bound)  # type: ignore[misc]
            time.sleep(0.02)
            assert source.begun == taken + bound
            assert next(items) == taken


def test_a_bound_below_one() -> None:
    with pytest.raises(ValueError, match="expected a bound of at least 1, got 0"), ahead([1], 0):
        pytest.fail("entered")


def test_two_stages_work_at_the_same_time() -> None:
    """Each waits for the other inside of an item: one after the other they would never meet."""
    meeting = threading.Barrier(2, timeout=10)

    def met(item: int) -> int:
        meeting.wait()
        return item

    def meeting_too() -> Iterator[int]:
        for item in range(5):
            if item:
                meeting.wait()
            yield item
        meeting.wait()

    with ahead(meeting_too(), 1) as first, ahead(map(met, first), 1) as second:
        assert list(second) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("taken", [0, 2, 5])
def test_one_thread_alone_touches_the_source(taken: int) -> None:
    """Also where it is closed early, and where it is read to its end."""
    source = Source(5)
    with ahead(source, 2) as items:
        assert [item for _, item in zip(range(taken), items, strict=False)] == list(range(taken))
        wait_for(lambda: bool(source.idents))
    assert source.closed
    assert len(source.idents) == 1
    assert threading.get_ident() not in source.idents


# ------------------------------------------------------------------------------------------------------ exceptions


@pytest.mark.parametrize("error", [OwnError("x"), SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
@pytest.mark.parametrize("after", [0, 3])
def test_an_exception_comes_as_itself_after_the_items_before_it(error: BaseException, after: int) -> None:
    seen: list[int] = []
    with pytest.raises(type(error)) as caught, ahead(Source(after, error=error), 2) as items:
        seen.extend(items)
    assert seen == list(range(after))
    assert caught.value is error


def test_an_exception_before_the_first_item_and_in_the_close() -> None:
    class Broken:
        def __iter__(self) -> Iterator[int]:
            raise OwnError("at the start")

    def closing_badly() -> Iterator[int]:
        try:
            yield 1
        finally:
            raise OwnError("at the end")

    for source, message in ((Broken(), "at the start"), (closing_badly(), "at the end")):
        with pytest.raises(OwnError, match=message), ahead(source, 2) as items:
            list(items)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_an_exception_anywhere_in_a_chain_ends_all_of_it(stage: int) -> None:
    """Stage 3 is the caller. The sources have no end, so a thread that is not stopped would stay."""
    source, error = Source(), OwnError("x")

    def work(own: int) -> Callable[[int], int]:
        def one(item: int) -> int:
            if own == stage and item == 20:
                raise error
            return item

        return one

    with (
        pytest.raises(OwnError) as caught,
        ahead(map(work(0), source), 2) as a,
        ahead(map(work(1), a), 3) as b,
        ahead(map(work(2), b), 1) as c,
    ):
        deque(map(work(3), c), maxlen=0)
    assert caught.value is error
    assert threads() == []


def test_an_exception_that_was_dealt_with_holds_nothing() -> None:
    """Neither a cycle of its own nor one through the thread keeps the pictures that were in work alive."""

    class Picture:
        pass

    seen: list[weakref.ref[Picture]] = []

    def pictures() -> Iterator[Picture]:
        for _ in range(3):
            picture = Picture()
            seen.append(weakref.ref(picture))
            yield picture
        raise OwnError

    gc.collect()
    gc.disable()
    try:
        try:
            with ahead(pictures(), 2) as items:
                for _ in items:
                    pass
        except OwnError:
            del items, _
        assert len(seen) == 3
        assert [picture() for picture in seen] == [None] * 3
    finally:
        gc.enable()


# ------------------------------------------------------------------------------------------------------ early ends


@pytest.mark.parametrize("wait", [True, False])
def test_leaving_early_closes_the_source_and_waits_for_the_thread(wait: bool) -> None:
    """Whether the thread is waiting for room, or in the middle of its work."""
    source = Source()
    generator = iter(source)  # held, so that nobody but `ahead` closes it
    with ahead(generator, 2) as items, ahead(items, 2) as again:
        assert next(again) == 0
        if wait:
            wait_for(lambda: source.begun == 5)
            time.sleep(0.02)
        assert len(threads()) == 2
    assert threads() == []
    assert source.closed
    before = source.begun
    assert len(list(again)) <= 3  # what was made already; it does not hang
    assert source.begun == before


def test_leaving_without_taking_anything() -> None:
    source = Source()
    with ahead(source, 1):
        pass
    assert source.begun <= 1
    with ahead(iter([]), 1):
        pass


def test_ctrl_c_while_waiting() -> None:
    """The main thread waits for an item that takes its time; the interrupt comes at once, and leaves no thread."""
    main = threading.main_thread().ident
    assert main is not None
    go_on = threading.Event()

    def slow() -> Iterator[int]:
        yield 0
        time.sleep(0.3)  # until the main thread waits: one on its way there sees a signal when the next item comes
        signal.pthread_kill(main, signal.SIGINT)
        go_on.wait(60)  # without the interrupt nobody ever sets it
        yield 1

    def interrupted() -> None:
        with ahead(slow(), 1) as items:
            try:
                for _ in items:
                    pass
            finally:
                go_on.set()

    # Tests that were started in the background ignore Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    start = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            interrupted()
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - start < 30


def test_a_context_that_is_never_left_does_not_keep_the_process() -> None:
    code = (
        "import itertools\n"
        "from facepipe.overlap import ahead\n"
        "kept = ahead(itertools.count(), 2)\n"
        "print(next(kept.__enter__()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")
