"""What the engines have in common: units are handed out to workers, and their replies come back in order."""

from __future__ import annotations

import os
import pickle
import sys
import traceback
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from facepipe.errors import EngineError

__all__ = [
    "CORES",
    "Died",
    "Do",
    "Job",
    "Pool",
    "Staff",
    "Tell",
    "cores",
    "fitting",
    "gpus",
    "limit_threads",
    "portable",
    "reply_of",
]

Tell = Callable[..., None]
"""What a worker calls to be heard in the driver while it works; the arguments are pickled."""

Do = Callable[[Any, Any], Any]
"""What does a unit: called as ``do(unit, shared)`` in a worker; what it returns is pickled."""

CORES = 4
"""Of a machine without a GPU, for a worker, where nobody says how many workers there shall be."""

_NVIDIA = Path("/proc/driver/nvidia/gpus")
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # not OpenBLAS: its bits depend on them, and it takes the driver's


@dataclass(frozen=True, slots=True)
class Died:
    """The reply to a unit whose worker died twice; `how` says of what."""

    how: str


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus(device: str) -> list[str]:
    """The numbers of this machine's CUDA devices that workers share, where `device` leaves that open.

    They are told by the system, since torch takes seconds to load.
    """
    if device not in ("auto", "cuda"):
        return []
    told = os.environ.get("CUDA_VISIBLE_DEVICES")
    if told is not None:
        return [one.strip() for one in told.split(",") if one.strip() not in ("", "-1", "NoDevFiles")]
    return [str(number) for number, _ in enumerate(_NVIDIA.glob("*"))]


def fitting(device: str) -> int:
    """How many workers this machine is good for: one a GPU, or for every four cores."""
    return len(gpus(device)) or max(1, cores() // CORES)


# ------------------------------------------------------------------------------------------------- in the worker


def limit_threads(threads: int) -> None:
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


def reply_of(do: Do, unit: Any, shared: Any) -> tuple[str, Any]:
    """``done`` and what a unit comes to, or ``raised`` and its exception."""
    try:
        return "done", do(unit, shared)
    except Exception as exc:
        return "raised", portable(exc)


def portable(exc: Exception) -> Exception:
    """The exception, or one that says as much where it does not survive pickling."""
    try:
        if type(pickle.loads(pickle.dumps(exc))) is type(exc):  # noqa: S301
            return exc
    except Exception:  # noqa: S110  (whatever __reduce__ or __init__ raises)
        pass
    return RuntimeError("".join(traceback.format_exception(exc)))


# ------------------------------------------------------------------------------------------------- in the driver


class Staff(Protocol):
    """A worker as its driver sees it.

    Attributes
    ----------
    ready : bool
        Whether it has made what does the units.
    unit : int or None
        Number of the unit that it is at.
    """

    ready: bool
    unit: int | None

    def give(self, index: int, unit: Any, shared: Any) -> bool:
        """Hand over a unit; False when the worker is dead already."""
        ...


@dataclass
class Job:
    """The state of one `Pool.each`."""

    waiting: deque[int]
    alone: deque[int] = field(default_factory=deque)
    """Units whose worker died: each is done once more while no other one is."""
    replies: dict[int, Any] = field(default_factory=dict)
    tried: set[int] = field(default_factory=set)


Worker = TypeVar("Worker", bound=Staff)


class Pool(ABC, Generic[Worker]):
    """Workers that do units of work; started when there is some, ended by `close`.

    Parameters
    ----------
    workers : int
        Most at a time.
    make : callable
        Called once in each worker as ``make(tell)``; what it returns does the units. It is pickled, so it is a
        function of a module, or a `functools.partial` of one.
    """

    _way_out: str
    """What to do where workers cannot be started."""

    def __init__(self, workers: int, make: Callable[[Tell], Do]) -> None:
        if workers < 1:
            raise ValueError(f"expected at least 1 worker, got {workers}")
        self._most = workers
        self._made = pickle.dumps(make)
        self._staff: list[Worker] = []
        self._false_starts = 0

    def __enter__(self) -> Pool[Worker]:
        return self

    def __exit__(self, *exc: object) -> None:
        self.leave()

    def leave(self) -> None:
        """End the workers for good, and what was started for them."""
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
        job = Job(deque(order))
        try:
            for index in range(len(units)):
                while index not in job.replies:
                    self._hand_out(job, units, shared)
                    self._listen(job, tell)
                yield job.replies.pop(index)
        except BaseException:
            self.close()
            raise

    def _hand_out(self, job: Job, units: Sequence[Any], shared: Any) -> None:
        """Give idle workers something to do, and start as many as there is work for."""
        free = [worker for worker in self._staff if worker.ready and worker.unit is None]
        while free and (queue := self._queue(job)):
            worker, index = free.pop(), queue.popleft()
            if not worker.give(index, units[index], shared):
                queue.appendleft(index)  # its death is heard at its pipe
        busy = sum(worker.unit is not None for worker in self._staff)
        wanted = min(self._most, busy + len(job.waiting) or 1)
        while len(self._staff) < wanted:
            self._staff.append(self._hired())

    def _queue(self, job: Job) -> deque[int]:
        """Where the next unit comes from; empty when there is none to give out now."""
        busy = any(worker.unit is not None for worker in self._staff)
        return job.waiting if job.waiting or busy else job.alone

    @abstractmethod
    def _hired(self) -> Worker:
        """A new worker, that has yet to become ready."""

    @abstractmethod
    def _listen(self, job: Job, tell: Tell) -> None:
        """Wait for workers to speak or to die, and hear each of these once."""

    def _hear(self, worker: Worker, job: Job, kind: str, value: Any) -> None:
        """What a worker says of itself (``ready``) or of its unit (``done``, ``raised``)."""
        if kind == "ready":
            worker.ready, self._false_starts = True, 0
        elif kind == "raised":
            raise value
        else:
            assert worker.unit is not None
            job.replies[worker.unit] = value
            worker.unit = None

    def _miss(self, worker: Worker, job: Job, how: str) -> None:
        """Do without a worker that died."""
        self._staff.remove(worker)
        if not worker.ready:
            self._false_starts += 1
            if self._false_starts > 1:
                raise EngineError(f"workers cannot be started ({how}): {self._way_out}")
        elif worker.unit is not None and worker.unit in job.tried:
            job.replies[worker.unit] = Died(how)
        elif worker.unit is not None:
            job.tried.add(worker.unit)
            job.alone.append(worker.unit)

    @abstractmethod
    def close(self) -> None:
        """End the workers, also in the middle of a unit; `each` starts new ones."""
