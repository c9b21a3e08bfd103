"""Worker processes of this machine.

The driver talks to each worker over a pipe of that worker's own. There is no lock and no queue that workers share, so
that one which is killed in the middle of a word takes nobody with it: the driver sees the end of its pipe, and knows
the unit that it was at. A worker ends when its driver does, however that ends.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, NoReturn

from facepipe.engine.pool import Do, Job, Pool, Tell, cores, limit_threads, reply_of
from facepipe.memory import share_arenas

__all__ = ["LocalPool"]

_ENDING = 10.0  # seconds that a worker gets to remove its half-written files


# ------------------------------------------------------------------------------------------------- in the worker


def _serve(connection: Connection, made: bytes, threads: int, gpu: str | None) -> None:
    """Do units until the driver closes the pipe. `made` is the pickled maker: unpickling it may import OpenMP."""
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu  # read when torch first asks for a device
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's; it ends its workers
    signal.signal(signal.SIGTERM, _leave)
    share_arenas()
    threading.Thread(target=_end_with_driver, daemon=True).start()
    limit_threads(threads)
    speak = threading.Lock()  # stages report their progress from threads of their own

    def send(*message: Any) -> None:
        with speak:
            connection.send(message)

    do: Do = pickle.loads(made)(lambda *words: send("tell", words))  # noqa: S301  (from our own parent)
    limit_threads(threads)
    send("ready", None)
    shared = None
    try:
        while True:
            kind, value = connection.recv()
            if kind == "shared":
                shared = value
            else:
                send(*reply_of(do, value, shared))
    except (EOFError, OSError):  # the driver has ended, or needs no more
        return


def _leave(number: int, _frame: object) -> NoReturn:
    """End by an exception, so that half-written files are removed on the way."""
    raise SystemExit(128 + number)


def _end_with_driver() -> None:
    """Nothing may be written any more when the driver is gone: its successor writes the same files."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


# ------------------------------------------------------------------------------------------------- in the driver


class _Worker:
    """A process, our end of its pipe, and what it is at."""

    def __init__(self, made: bytes, threads: int, gpu: str | None) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, there = context.Pipe()
        self.process = context.Process(
            target=_serve, args=(there, made, threads, gpu), name="facepipe-worker", daemon=True
        )
        self.process.start()
        self.gpu = gpu
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


class LocalPool(Pool[_Worker]):
    """Processes of this machine, each with an equal share of the cores for its threads; see `Pool`.

    Parameters
    ----------
    workers, make
        See `Pool`.
    gpus : sequence of str
        Numbers of CUDA devices; each worker sees one of them, the one that fewest others have.
    """

    _way_out = (
        "a script that calls facepipe with several workers does so below `if __name__ == '__main__':`; --workers 1 "
        "needs none"
    )

    def __init__(self, workers: int, make: Callable[[Tell], Do], gpus: Sequence[str] = ()) -> None:
        super().__init__(workers, make)
        self._gpus = list(gpus)

    def _hired(self) -> _Worker:
        taken = Counter(worker.gpu for worker in self._staff)
        gpu = min(self._gpus, key=lambda one: taken[one], default=None)
        return _Worker(self._made, max(1, cores() // self._most), gpu)

    def _listen(self, job: Job, tell: Tell) -> None:
        heard = wait([worker.connection for worker in self._staff])
        for worker in [worker for worker in self._staff if worker.connection in heard]:
            try:
                kind, value = worker.connection.recv()
            except (EOFError, OSError, pickle.UnpicklingError):
                worker.connection.close()
                worker.end(until=time.monotonic() + _ENDING)
                self._miss(worker, job, _cause(worker.process.exitcode))
                continue
            if kind == "tell":
                tell(*value)
            else:
                self._hear(worker, job, kind, value)

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
