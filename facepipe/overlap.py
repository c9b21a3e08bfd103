"""Work that overlaps: iterators that run in threads of their own, a few items ahead, in order, and end together.

Decoding, OpenCV, torch and encoding release Python's lock, so stages in threads use several cores. A stage is an
iterator over the one before it; `ahead` runs it in a thread::

    with ahead(frames, 4) as decoded, ahead(map(work, decoded), 4) as done:
        for item in done:
            ...
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Event, Semaphore, Thread
from typing import TypeVar

__all__ = ["ahead"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _End:
    """What a thread leaves behind its last item: the exception that ended it, if one did."""

    error: BaseException | None


@contextmanager
def ahead(items: Iterable[T], bound: int) -> Iterator[Iterator[T]]:
    """Iterate `items` in a thread of its own.

    The thread alone starts, advances and closes the iteration, so `items` may be what only one thread can use. What
    belongs to a thread (torch's grad mode does) is the new thread's own there, not the caller's.

    An exception in `items` is raised, the same object, to whoever takes the items, after those that came before it.
    Leaving the context lets the thread finish the item that it is making, closes the iteration and waits for the
    thread's end; what was not taken by then is dropped, be it an exception. Of two `ahead` in one ``with`` the later
    may iterate over the earlier.

    Parameters
    ----------
    items : iterable
        What to iterate. An iterator with a ``close`` method, such as a generator, is closed at the end.
    bound : int
        How many items the thread may have begun that were not taken yet; at least 1.

    Yields
    ------
    iterator
        The items, in order; use it from one thread.

    Raises
    ------
    ValueError
        A bound below 1.
    """
    if bound < 1:
        raise ValueError(f"expected a bound of at least 1, got {bound}")
    free, made, stop = Semaphore(bound), SimpleQueue[T | _End](), Event()
    # A daemon: a context that is never left, in a forgotten generator, does not keep the process from ending.
    thread = Thread(target=_work, args=(items, free, made, stop), name="facepipe-ahead", daemon=True)
    try:
        thread.start()
        yield _taken(free, made)
    finally:
        stop.set()
        free.release()  # wakes the thread where it waits for room
        if thread.is_alive():
            thread.join()


def _work(items: Iterable[T], free: Semaphore, made: SimpleQueue[T | _End], stop: Event) -> None:
    """Put all items, and an `_End` whatever happens: nobody waits for ever."""
    try:
        iterator = iter(items)
        try:
            while free.acquire() and not stop.is_set():
                made.put(next(iterator))
        except StopIteration:
            pass
        finally:
            if hasattr(iterator, "close"):
                iterator.close()
    except BaseException as exc:  # whatever it is, it is the caller's
        made.put(_End(exc))
    else:
        made.put(_End(None))


def _taken(free: Semaphore, made: SimpleQueue[T | _End]) -> Iterator[T]:
    while not isinstance(item := made.get(), _End):
        free.release()
        yield item
    if item.error is not None:
        try:
            raise item.error
        finally:
            del item  # else the exception and its traceback hold each other
