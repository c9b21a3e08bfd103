"""Actors of a Ray cluster: many machines that share a file system.

Each actor makes its nets once and does one unit after the other. What workers tell goes through an actor of its own,
the ear, a few times a second; whatever a unit told is heard before its reply. A machine that leaves the cluster is a
worker that died: its unit is done again by another one.

P. Moritz et al., "Ray: a distributed framework for emerging AI applications", OSDI 2018, 561-577.
"""

from __future__ import annotations

import os
import pickle
import re
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from facepipe.engine.pool import CORES, Do, Job, Pool, Tell, cores, limit_threads, reply_of
from facepipe.errors import EngineError, UsageError

__all__ = ["RayPool"]

_OFTEN = 0.5  # seconds from one word of a worker to the next
_LISTENING = 0.2  # seconds that the driver waits for an answer before it asks the ear
_PATIENCE = 120.0  # seconds after which a cluster without room for a single worker is told
_CONNECTING = 10.0  # seconds


class _Ear:
    """Collects what workers tell until the driver asks."""

    def __init__(self) -> None:
        self._said: list[tuple[Any, ...]] = []

    def hear(self, said: list[tuple[Any, ...]]) -> None:
        self._said += said

    def take(self) -> list[tuple[Any, ...]]:
        said, self._said = self._said, []
        return said


class _Actor:
    """Does units in a process of the cluster."""

    def __init__(self, made: bytes, threads: int, ear: Any) -> None:
        self._ear, self._said, self._last, self._lock = ear, list[tuple[Any, ...]](), 0.0, threading.Lock()
        self._heard: Any = None
        limit_threads(threads)
        self._do: Do = pickle.loads(made)(self._tell)  # noqa: S301  (from our own driver)
        limit_threads(threads)  # for what was loaded on the way

    def answer(self, unit: bytes, shared: bytes) -> bytes:
        """The pickled reply to a unit: plain pickle, as between processes, whatever Ray would do with it."""
        reply = reply_of(self._do, pickle.loads(unit), pickle.loads(shared))  # noqa: S301
        with self._lock:
            self._speak()
            if self._heard is not None:
                import ray

                ray.get(self._heard)
                self._heard = None
        return pickle.dumps(reply)

    def ready(self) -> bytes:
        return pickle.dumps(("ready", None))

    def _tell(self, *words: Any) -> None:
        with self._lock:
            self._said.append(words)
            if time.monotonic() - self._last > _OFTEN:
                self._speak()

    def _speak(self) -> None:
        """Nobody waits for the ear while frames are at work: it hears in order, so the last word is waited for."""
        if self._said:
            said, self._said = self._said, []
            self._heard = self._ear.hear.remote(said)
        self._last = time.monotonic()


class _Member:
    """An actor, and what it is at."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor
        self.ready = False
        self.unit: int | None = None
        self.answer = actor.ready.remote()
        """The reference of what it says next; None while it has nothing to do."""
        self._shared: tuple[Any, Any] = (None, None)

    def give(self, index: int, unit: Any, shared: Any) -> bool:
        """Hand over a unit; its death is heard at its answer."""
        import ray

        if self._shared[1] is None or self._shared[0] is not shared:
            self._shared = shared, ray.put(pickle.dumps(shared))
        self.answer = self.actor.answer.remote(pickle.dumps(unit), self._shared[1])
        self.unit = index
        return True


class RayPool(Pool[_Member]):
    """Actors of a Ray cluster; see `Pool`.

    Parameters
    ----------
    workers : int or None
        Most at a time. None: one for every GPU of the cluster, or for every four cores where there is none.
    make : callable
        See `Pool`.
    address : str, optional
        Of the cluster: ``auto``, ``host:port`` or ``ray://host:port``. Without one that of ``RAY_ADDRESS``, or else a
        cluster that is started on this machine and ended by `leave`.

    Raises
    ------
    UsageError
        Ray is not installed.
    EngineError
        There is no cluster at the address.
    """

    def __init__(self, workers: int | None, make: Callable[[Tell], Do], *, address: str | None = None) -> None:
        self._ray = _ray()
        address = address or os.environ.get("RAY_ADDRESS") or None
        self._owns = not self._ray.is_initialized()
        if self._owns:
            self._connect(address, workers)
        there = self._ray.cluster_resources()
        self._gpus, self._cpus = float(there.get("GPU", 0)), int(there.get("CPU", 1))
        super().__init__(workers or int(self._gpus) or max(1, self._cpus // CORES), make)
        self._ear: Any = None
        self._waiting_since = time.monotonic()

    _way_out = "facepipe has to be installed on every machine of the cluster, in the same version"

    def _connect(self, address: str | None, workers: int | None) -> None:
        more: dict[str, Any] = {} if address else {"num_cpus": max(cores(), workers or 1), "include_dashboard": False}
        try:
            _reach(address or "")
            self._ray.init(address=address or "local", log_to_driver=False, logging_level="error", **more)
        except (ConnectionError, RuntimeError, ValueError, OSError) as exc:
            raise EngineError(
                f"no Ray cluster at {address or 'this machine'} ({str(exc).splitlines()[0]}): start one with "
                "`ray start --head`, or leave the address out for one on this machine"
            ) from exc

    def _hired(self) -> _Member:
        if self._ear is None:
            self._ear = self._ray.remote(num_cpus=0, scheduling_strategy=self._here())(_Ear).remote()
        if not any(member.ready for member in self._staff):
            self._waiting_since = time.monotonic()
        threads = max(1, self._cpus // self._most)
        needs = {"num_cpus": min(threads, self._cpus), "num_gpus": min(1.0, self._gpus / self._most)}
        actor = self._ray.remote(runtime_env={"env_vars": self._variables(threads)}, **needs)(_Actor)
        return _Member(actor.remote(self._made, threads, self._ear))

    def _here(self) -> Any:
        """The driver's own machine, which leaves the cluster only together with it."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        return NodeAffinitySchedulingStrategy(self._ray.get_runtime_context().get_node_id(), soft=False)

    def _variables(self, threads: int) -> dict[str, str]:
        """The environment of an actor: what bits depend on, and the search path but for this Python's own."""
        given = {name: os.environ[name] for name in ("OPENBLAS_NUM_THREADS", "OMP_WAIT_POLICY") if name in os.environ}
        path = [part for part in sys.path if part and not part.startswith((sys.prefix, sys.base_prefix))]
        return {
            **given,
            **{name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")},
            "PYTHONPATH": os.pathsep.join(path),
        }

    def _listen(self, job: Job, tell: Tell) -> None:
        answers = {member.answer: member for member in self._staff if member.answer is not None}
        done, _ = self._ray.wait(list(answers), num_returns=1, timeout=_LISTENING)
        heard = [(answers[answer], self._said(answer)) for answer in done]
        for words in self._ray.get(self._ear.take.remote()):
            tell(*words)
        for member, said in heard:
            member.answer = None
            if isinstance(said, str):
                self._miss(member, job, said)
            else:
                self._hear(member, job, *said)
        self._complain()

    def _said(self, answer: Any) -> tuple[str, Any] | str:
        """What a worker says, or how it died."""
        try:
            said: tuple[str, Any] = pickle.loads(self._ray.get(answer))  # noqa: S301  (from our own worker)
        except self._ray.exceptions.RayError as exc:
            return _cause(str(exc))
        return said

    def _complain(self) -> None:
        if any(member.ready for member in self._staff):
            self._waiting_since = time.monotonic()
        elif time.monotonic() - self._waiting_since > _PATIENCE:
            raise EngineError(
                f"the Ray cluster ({self._cpus} CPUs, {self._gpus:g} GPUs) has had no room for a worker in "
                f"{_PATIENCE:.0f} s: see `ray status`"
            )

    def close(self) -> None:
        """End the workers, also in the middle of a unit; what they leave half-written the next call removes."""
        staff, self._staff = self._staff, []
        if not self._ray.is_initialized():
            return
        for member in staff:
            self._ray.kill(member.actor)
        if self._ear is not None:
            self._ray.kill(self._ear)
            self._ear = None

    def leave(self) -> None:
        """End the workers, and the cluster if it was started here."""
        self.close()
        if self._owns and self._ray.is_initialized():
            self._ray.shutdown()


def _reach(address: str) -> None:
    """OSError where nobody listens at ``host:port``: Ray would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=_CONNECTING).close()


def _cause(told: str) -> str:
    """Of what an actor died, out of Ray's page about it."""
    detail = told.partition("Worker exit detail: ")[2].split(". ")[0] or told.strip().splitlines()[-1]
    place = re.search(r"\bip[:=] ?([\w.:]+)", told)
    return detail.strip().rstrip(".") + (f", on {place[1]}" if place else "")


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent to anybody
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as exc:
        raise UsageError("--engine ray needs Ray: pip install 'facepipe[cluster]'") from exc
    return ray
