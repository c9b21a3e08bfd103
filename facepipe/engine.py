"""The same work on several processes of this machine: each loads its nets once and does one clip after the other.

The driver talks to each worker over a pipe of that worker's own. There is no lock and no queue that workers share, so
that one which is killed in the middle of a word takes nobody with it: the driver sees the end of its pipe, and knows
the unit that it was at. A worker ends when its driver does, however that ends.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any, NoReturn

from facepipe.errors import EngineError

__all__ = ["Died", "Do", "Pool", "Tell", "cores"]

Tell = Callable[..., None]
"""What a worker calls to be heard in the driver while it works; the arguments are pickled."""

Do = Callable[[Any, Any], Any]
"""What does a unit: called as ``do(unit, shared)`` in a worker; what it returns is pickled."""

_ENDING = 10.0  # seconds that a worker gets to remove its half-written files
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # not OpenBLAS: its bits depend on them, and it takes the driver's


@dataclass(frozen=True, slots=True)
class Died:
    """The reply to a unit whose worker died twice; `how` says of what."""

    how: str


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# ------------------------------------------------------------------------------------------------- in the worker


def _serve(connection: Connection, made: bytes, threads: int) -> None:
    """Do units until the driver closes the pipe. `made` is the pickled maker: unpickling it may import OpenMP."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's; it ends its workers
    signal.signal(signal.SIGTERM, _leave)
    threading.Thread(target=_end_with_driver, daemon=True).start()
    _limit_threads(threads)
    speak = threading.Lock()  # stages report their progress from threads of their own

    def send(*message: Any) -> None:
        with speak:
            connection.send(message)

    do: Do = pickle.loads(made)(lambda *words: send("tell", words))  # noqa: S301  (from our own parent)
    _limit_threads(threads)
    send("ready", None)
    shared = None
    try:
        while True:
            kind, value = connection.recv()
            if kind == "shared":
                shared = value
            else:
                _answer(send, do, value, shared)
    except (EOFError, OSError):  # the driver has ended, or needs no more
        return


def _answer(send: Tell, do: Do, unit: Any, shared: Any) -> None:
    try:
        kind, reply = "done", do(unit, shared)
    except Exception as exc:
        kind, reply = "raised", _portable(exc)
    send(kind, reply)


def _portable(exc: Exception) -> Exception:
    """The exception, or one that says as much where it does not survive pickling."""
    try:
        if type(pickle.loads(pickle.dumps(exc))) is type(exc):  # noqa: S301
            return exc
    except Exception:  # noqa: S110  (whatever __reduce__ or __init__ raises)
        pass
    return RuntimeError("".join(traceback.format_exception(exc)))


def _leave(number: int, _frame: object) -> NoReturn:
    """End by an exception, so that half-written files are removed on the way."""
    raise SystemExit(128 + number)


def _end_with_driver() -> None:
    """Nothing may be written any more when the driver is gone: its successor writes the same files."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _limit_threads(threads: int) -> None:
    """For libraries that are not loaded yet, and for those that are: a main module may have imported them."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # workers share cores: none may spin for another
    for name in _THREADS:
        given = os.environ.get(name, "")
        os.environ[name] = str(min(threads, int(given)) if given.isdecimal() and int(given) else threads)
    if "cv2" in sys.modules:
        # With 2 threads or any more OpenCV's filters give the same bits; with 1 they change from call to call.
        sys.modules["cv2"].setNumThreads(max(2, threads))
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


# ------------------------------------------------------------------------------------------------- in the driver


class _Worker:
    """A process, our end of its pipe, and what it is at."""

    def __init__(self, made: bytes, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, there = context.Pipe()
        self.process = context.Process(target=_serve, args=(there, made, threads), name="facepipe-worker", daemon=True)
        self.process.start()
        there.close()  # else its death would not end the pipe
        self.ready = False
        self.unit: int | None = None
        self.knows: object = None

    def give(self, index: int, unit: Any, shared: Any) -> bool:
        """Hand over a unit; False when the worker is dead already."""
        try:
            if self.knows is not shared:
                self.connection.send(("shared", shared))
                self.knows = shared
            self.connection.send(("unit", unit))
        except OSError:
            return False
        self.unit = index
        return True

    def end(self, *, until: float) -> None:
        """Wait for the process to end by itself, and end it at a time of the monotonic clock."""
        self.process.join(max(0.0, until - time.monotonic()))
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


@dataclass
class _Job:
    """The state of one `Pool.each`."""

    waiting: deque[int]
    alone: deque[int] = field(default_factory=deque)
    """Units whose worker died: each is done once more while no other one is."""
    replies: dict[int, Any] = field(default_factory=dict)
    tried: set[int] = field(default_factory=set)


class Pool:
    """Worker processes that do units of work; started when there is some, ended by `close`.

    Parameters
    ----------
    workers : int
        Most processes at a time. Each has an equal share of the cores for its threads.
    make : callable
        Called once in each worker as ``make(tell)``; what it returns does the units. It is pickled, so it is a
        function of a module, or a `functools.partial` of one.
    """

    def __init__(self, workers: int, make: Callable[[Tell], Do]) -> None:
        if workers < 1:
            raise ValueError(f"expected at least 1 worker, got {workers}")
        self._most = workers
        self._made = pickle.dumps(make)
        self._staff: list[_Worker] = []
        self._false_starts = 0

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def each(
        self, units: Sequence[Any], shared: Any, tell: Tell, *, costs: Sequence[float] | None = None
    ) -> Generator[Any, None, None]:
        """Do units, and yield the replies in the order of the units, each as soon as those before it are there.

        A unit whose worker dies is done once more, alone, after all others; if it kills that worker too, its reply
        is a `Died`.

        Parameters
        ----------
        units : sequence
            Each is pickled for its worker.
        shared : object
            What all units need; each worker gets it once.
        tell : callable
            Called here with whatever workers tell.
        costs : sequence of float, optional
            How long units are likely to take: long ones are begun first, so that none is left over at the end.

        Raises
        ------
        EngineError
            Workers cannot be started.
        Exception
            Whatever a unit or `tell` raises. The workers have ended then.
        """
        order = sorted(range(len(units)), key=lambda i: 0.0 if costs is None else -costs[i])
        job = _Job(deque(order))
        try:
            for index in range(len(units)):
                while index not in job.replies:
                    self._hand_out(job, units, shared)
                    self._listen(job, tell)
                yield job.replies.pop(index)
        except BaseException:
            self.close()
            raise

    def _hand_out(self, job: _Job, units: Sequence[Any], shared: Any) -> None:
        """Give idle workers something to do, and start as many as there is work for."""
        free = [worker for worker in self._staff if worker.ready and worker.unit is None]
        while free and (queue := self._queue(job)):
            worker, index = free.pop(), queue.popleft()
            if not worker.give(index, units[index], shared):
                queue.appendleft(index)  # its death is heard at its pipe
        busy = sum(worker.unit is not None for worker in self._staff)
        wanted = min(self._most, busy + len(job.waiting) or 1)
        while len(self._staff) < wanted:
            self._staff.append(_Worker(self._made, max(1, cores() // self._most)))

    def _queue(self, job: _Job) -> deque[int]:
        """Where the next unit comes from; empty when there is none to give out now."""
        busy = any(worker.unit is not None for worker in self._staff)
        return job.waiting if job.waiting or busy else job.alone

    def _listen(self, job: _Job, tell: Tell) -> None:
        """Wait for workers to speak or to die, and hear each of these once."""
        heard = wait([worker.connection for worker in self._staff])
        for worker in [worker for worker in self._staff if worker.connection in heard]:
            try:
                kind, value = worker.connection.recv()
            except (EOFError, OSError, pickle.UnpicklingError):
                self._bury(worker, job)
                continue
            if kind == "tell":
                tell(*value)
            elif kind == "ready":
                worker.ready, self._false_starts = True, 0
            elif kind == "raised":
                raise value
            else:
                assert worker.unit is not None
                job.replies[worker.unit] = value
                worker.unit = None

    def _bury(self, worker: _Worker, job: _Job) -> None:
        self._staff.remove(worker)
        worker.connection.close()
        worker.end(until=time.monotonic() + _ENDING)
        how, index = _cause(worker.process.exitcode), worker.unit
        if not worker.ready:
            self._false_starts += 1
            if self._false_starts > 1:
                raise EngineError(
                    f"worker processes cannot be started ({how}): a script that calls facepipe with several workers "
                    "does so below `if __name__ == '__main__':`; --workers 1 needs none"
                )
        elif index is not None and index in job.tried:
            job.replies[index] = Died(how)
        elif index is not None:
            job.tried.add(index)
            job.alone.append(index)

    def close(self) -> None:
        """End the workers, also in the middle of a unit; half-written files are removed by them."""
        staff, self._staff = self._staff, []
        for worker in staff:
            worker.connection.close()
            if worker.unit is not None or not worker.ready:
                worker.process.terminate()
        until = time.monotonic() + _ENDING
        for worker in staff:
            worker.end(until=until)


def _cause(exitcode: int | None) -> str:
    if exitcode is None or exitcode >= 0:
        return f"exit code {exitcode}"
    try:
        return f"killed by {signal.Signals(-exitcode).name}"
    except ValueError:
        return f"killed by signal {-exitcode}"
