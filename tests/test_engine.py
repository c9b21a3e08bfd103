"""Work on several processes: the same bytes as in one, whoever is killed, in whatever moment."""

from __future__ import annotations

import importlib
import itertools
import json
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from facepipe import cli, engine, memory, pipeline, workspace
from facepipe.config import EngineConfig, build
from facepipe.engine import Died, LocalPool, Pool, RayPool, processes
from facepipe.engine import pool as pool_module
from facepipe.errors import ConfigError, EngineError, MediaError, RunFolderBusyError, UsageError
from facepipe.pipeline import running
from facepipe.workspace import Workspace

Contents = Callable[[Path], dict[str, str]]
Quick = tuple[str, ...]

# What workers do in these tests: a module of its own, which they can import.
UNITS = '''
import os, signal, time
from pathlib import Path
from facepipe.pipeline import running

class Strange(Exception):
    def __init__(self, one, two):
        super().__init__(one)

def make(tell):
    made = os.getpid()
    def do(unit, shared):
        match unit:
            case ("square", x):
                return x * x
            case ("who",):
                time.sleep(0.2)
                return made, shared, os.environ["OMP_NUM_THREADS"], os.environ["OMP_WAIT_POLICY"]
            case ("environment", name):
                time.sleep(0.05)
                return os.environ.get(name)
            case ("tell", x):
                tell("said", x)
                return x
            case ("sleep", seconds):
                time.sleep(seconds)
                return seconds
            case ("raise",):
                raise KeyError("from a unit")
            case ("strange",):
                raise Strange("does not", "survive pickling")
            case ("die",):
                os.kill(os.getpid(), signal.SIGKILL)
            case ("die once", path):
                if not Path(path).exists():
                    Path(path).touch()
                    os.kill(os.getpid(), signal.SIGKILL)
                return "survived"
            case ("span", path):
                start = time.time()
                time.sleep(0.2)
                return start, time.time()
            case ("span, die once", path):
                if not Path(path).exists():
                    Path(path).touch()
                    os.kill(os.getpid(), signal.SIGKILL)
                start = time.time()
                time.sleep(0.2)
                return start, time.time()
    return do

def broken(tell):
    raise SystemExit(3)

class Killing(running.Worker):
    """Dies of the clip ``w1`` in stage align: each time, or once where the file is not there yet."""
    def __call__(self, unit, shared):
        mark = os.environ.get("TEST_DIE_ONCE")
        if (unit.stage, unit.clip.name) == ("align", "w1") and not (mark and Path(mark).exists()):
            if mark:
                Path(mark).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(unit, shared)
'''


@pytest.fixture(scope="module")
def units(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The module UNITS; workers find it because they get the driver's search path."""
    folder = tmp_path_factory.mktemp("units")
    (folder / "units_of_test_engine.py").write_text(UNITS)
    sys.path.insert(0, str(folder))
    yield importlib.import_module("units_of_test_engine")
    sys.path.remove(str(folder))


def silent(*_: Any) -> None:
    pass


WHERE = ["local", pytest.param("ray", marks=pytest.mark.slow)]


def pool_of(where: str, make: Any) -> Pool[Any]:
    return LocalPool(2, make) if where == "local" else RayPool(2, make)


@pytest.fixture(params=WHERE)
def pool(request: pytest.FixtureRequest, units: ModuleType) -> Iterator[Pool[Any]]:
    with pool_of(request.param, units.make) as made:
        yield made


@pytest.fixture
def assert_no_workers() -> Callable[[], None]:
    """``assert_no_workers()``: no process is there that was not before the test."""
    before = {child.pid for child in multiprocessing.active_children()}

    def check() -> None:
        assert {child.pid for child in multiprocessing.active_children()} <= before

    return check


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent to notice does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(what: Callable[[], bool], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.002)


# --------------------------------------------------------------------------------------------------------- the pool


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(-99, 99), st.floats(0, 10)), max_size=12))
def test_replies_come_in_the_order_of_the_units_whatever_they_cost(
    pool: Pool[Any], items: list[tuple[int, float]]
) -> None:
    numbers, costs = [x for x, _ in items], [cost for _, cost in items]
    replies = list(pool.each([("square", x) for x in numbers], None, silent, costs=costs))
    assert replies == [x * x for x in numbers]


def test_workers_have_a_gpu_each_and_share_when_there_are_more_of_them(units: ModuleType) -> None:
    with LocalPool(5, units.make, gpus=["2", "5"]) as pool:
        for _ in range(5):
            pool._staff.append(pool._hired())
        assert [worker.gpu for worker in pool._staff] == ["2", "5", "2", "5", "2"]
    with LocalPool(2, units.make, gpus=["2", "5"]) as pool:
        told = list(pool.each([("environment", "CUDA_VISIBLE_DEVICES")] * 40, None, silent))
    assert set(told) == {"2", "5"}


def test_free_memory_goes_back_to_the_system() -> None:
    """Of many threads, as stages have them; in a process of its own, since what pytest keeps is not ours."""
    script = """
import threading, numpy as np
from facepipe.memory import give_back
def own():
    return int(next(l for l in open("/proc/self/status") if l.startswith("RssAnon")).split()[1]) / 1024
kept = []
def work():
    held = [np.ones(12_000) for _ in range(200)]  # below what glibc maps by itself
    kept.append(np.ones(8_000))  # what lies below the last block is not returned unasked
threads = [threading.Thread(target=work) for _ in range(16)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
before = own()
give_back()
print(before - own(), own())
"""
    if memory._glibc() is None:
        pytest.skip("needs glibc")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    returned, left = map(float, done.stdout.split())
    assert returned > 20  # MB; some 150 were kept
    assert left < 60


def test_the_command_line_fills_the_machine_and_python_stays_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    assert running._count(EngineConfig(), "auto") == 1
    assert running._count(EngineConfig(workers="auto"), "auto") == 3
    assert running._count(EngineConfig(workers=5), "auto") == 5
    assert running._count(EngineConfig(workers="auto"), "cpu") == max(1, engine.cores() // 4)
    asked: list[Any] = []

    def ask(config: Any, **more: Any) -> None:
        asked.append(config.engine.workers)
        raise ZeroDivisionError

    monkeypatch.setattr(pipeline, "detect", ask)
    for more in ([], ["--workers", "2"]):
        with pytest.raises(ZeroDivisionError):
            cli.main(["detect", "-q", "--source", "a", "--target", "b", "--out", "c", *more])
    assert asked == ["auto", 2]


@pytest.mark.parametrize(
    ("device", "told", "expected"),
    [
        ("auto", "0,3", ["0", "3"]),
        ("cuda", " 1 ", ["1"]),
        ("auto", "", []),
        ("auto", "-1", []),
        ("auto", None, ["0", "1"]),
        ("cuda:1", None, []),
        ("cpu", None, []),
    ],
)
def test_gpus_are_those_that_may_be_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, told: str | None, expected: list[str]
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if told is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", told)
    for name in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(pool_module, "_NVIDIA", tmp_path)
    assert engine.gpus(device) == expected
    monkeypatch.setattr(pool_module, "cores", lambda: 9)
    assert engine.fitting(device) == (len(expected) or 2)


def test_workers_are_made_once_and_share_the_cores(pool: Pool[Any]) -> None:
    for shared in ("a", "b"):
        replies = list(pool.each([("who",)] * 40, {"stage": shared}, silent))  # enough for both to be started
        pids, told, threads, policies = zip(*replies, strict=True)
        assert len(set(pids)) == 2
        assert os.getpid() not in pids
        assert list(told) == [{"stage": shared}] * 40
        assert {int(number) for number in threads} <= set(range(1, max(1, engine.cores() // 2) + 1))
        assert set(policies) == {"PASSIVE"}
    assert {pid for pid, *_ in pool.each([("who",)] * 6, None, silent)} == set(pids)


def test_what_workers_tell_is_heard_in_the_callers_thread(pool: Pool[Any]) -> None:
    heard: list[tuple[Any, threading.Thread]] = []
    units = [("tell", x) for x in range(5)]
    replies = list(pool.each(units, None, lambda *words: heard.append((words, threading.current_thread()))))
    assert replies == list(range(5))
    assert sorted(words for words, _ in heard) == [("said", x) for x in range(5)]
    assert {thread for _, thread in heard} == {threading.current_thread()}


def test_a_unit_whose_worker_is_killed_is_done_again_and_alone(pool: Pool[Any], tmp_path: Path) -> None:
    units = [("span, die once", str(tmp_path / "one")), *[("span", "")] * 5, ("square", 3)]
    first, *others, last = pool.each(units, None, silent, costs=[9, 1, 1, 1, 1, 1, 1])
    assert last == 9
    assert all(end <= first[0] for _, end in others)


def test_a_unit_that_kills_twice_is_told_and_the_rest_goes_on(pool: Pool[Any]) -> None:
    units = [("square", 2), ("die",), ("square", 3), ("die",), ("square", 4)]
    first, killed, second, again, third = pool.each(units, None, silent)
    assert [first, second, third] == [4, 9, 16]
    for one in (killed, again):
        assert isinstance(one, Died)
        assert re.fullmatch(r"killed by SIGKILL|Worker unexpectedly exits.*", one.how)
    assert list(pool.each([("square", 5)], None, silent)) == [25]


@pytest.mark.parametrize("where", WHERE)
def test_whoever_is_killed_every_unit_is_done(units: ModuleType, where: str) -> None:
    """Idle or at work: what the process that dies was at is done by another."""
    with pool_of(where, units.make) as pool:
        job = pool.each([("who",)] * 30, None, silent)
        seen = []
        for count, reply in enumerate(job):
            seen.append(reply)
            if count in (3, 11):
                os.kill(reply[0], signal.SIGKILL)
        assert len(seen) == 30
        assert not [reply for reply in seen if isinstance(reply, Died)]
        assert len({reply[0] for reply in seen}) > 2


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize(("unit", "error"), [(("raise",), KeyError), (("strange",), RuntimeError)])
def test_an_exception_of_a_unit_is_the_callers(
    units: ModuleType, unit: Any, error: type[Exception], where: str, assert_no_workers: Callable[[], None]
) -> None:
    with pool_of(where, units.make) as pool:
        with pytest.raises(error, match=r"from a unit|does not") as caught:
            list(pool.each([("sleep", 30), unit], None, silent))
        assert error is KeyError or "Strange" in str(caught.value)
        assert_no_workers()
        assert list(pool.each([("square", 2)], None, silent)) == [4]
    assert_no_workers()


def test_a_callback_that_raises_ends_the_workers(units: ModuleType, assert_no_workers: Callable[[], None]) -> None:
    stop = ZeroDivisionError("in the callback")

    def listen(*_: Any) -> None:
        raise stop

    start = time.monotonic()
    with LocalPool(2, units.make) as pool, pytest.raises(ZeroDivisionError) as caught:
        list(pool.each([("sleep", 60), ("tell", 1)], None, listen))
    assert caught.value is stop
    assert time.monotonic() - start < 40
    assert_no_workers()


def test_workers_that_cannot_start_are_told_not_waited_for(
    units: ModuleType, assert_no_workers: Callable[[], None]
) -> None:
    with LocalPool(2, units.broken) as pool, pytest.raises(EngineError, match=r"exit code 3.*__main__.*--workers 1"):
        list(pool.each([("square", 2)], None, silent))
    assert_no_workers()


def test_a_script_without_a_main_guard_is_told_so(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from facepipe.engine import LocalPool\n"
        "def make(tell):\n    return lambda unit, shared: unit\n"
        "print(list(LocalPool(2, make).each([1, 2], None, print)))\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1
    assert "below `if __name__ == '__main__':`" in done.stderr.splitlines()[-1]


def test_workers_end_when_their_driver_is_killed(units: ModuleType, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys\nsys.path.insert(0, {str(Path(units.__file__ or '').parent)!r})\n"
        "import units_of_test_engine as units\nfrom facepipe.engine import LocalPool\n"
        "if __name__ == '__main__':\n"
        "    pool = LocalPool(2, units.make)\n"
        "    print(*{reply[0] for reply in pool.each([('who',)] * 40, None, print)}, flush=True)\n"
        "    list(pool.each([('sleep', 600)] * 2, None, print))\n"
    )
    driver = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    with driver.stdout:
        pids = [int(word) for word in driver.stdout.readline().split()]
        assert len(pids) == 2
        assert all(is_alive(pid) for pid in pids)
        driver.kill()
        driver.wait()
    wait_for(lambda: not any(is_alive(pid) for pid in pids))


def test_without_ray_its_package_is_named(units: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"pip install 'facepipe\[cluster\]'"):
        RayPool(2, units.make)


def test_a_cluster_that_is_not_there_is_told(units: ModuleType) -> None:
    with pytest.raises(EngineError, match=r"^no Ray cluster at 127\.0\.0\.1:1 .*ray start --head"):
        RayPool(2, units.make, address="127.0.0.1:1")


@pytest.mark.slow
def test_a_machine_that_leaves_the_cluster(units: ModuleType, tmp_path: Path) -> None:
    """What its worker was at is done by the one that stays."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        machine = cluster.add_node(num_cpus=1)
        with RayPool(2, units.make, address=cluster.address) as pool:
            job = pool.each([("sleep", 0.3)] * 12, None, silent)
            replies = [next(job) for _ in range(4)]
            cluster.remove_node(machine, allow_graceful=False)
            replies += list(job)
        assert replies == [0.3] * 12
    finally:
        cluster.shutdown()  # type: ignore[no-untyped-call]


def test_a_pool_of_none_is_refused(units: ModuleType) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        LocalPool(0, units.make)


# ------------------------------------------------------------------------------------------------ folders of clips


@dataclass(frozen=True)
class Folder:
    """Clips of two people, one file that is none, and what one process makes of them under the overrides."""

    source: Path
    target: Path
    out: Path
    result: Any
    overrides: Quick

    def config(self, out: Path, **how: Any) -> Any:
        return pipeline.resolve(None, self.overrides, source=self.source, target=self.target, out=out, engine=how)

    def command(self, out: Path, *options: str, stage: str = "run") -> list[str]:
        given = [stage, "--source", str(self.source), "--target", str(self.target), "--out", str(out), *options]
        words = [word for item in self.overrides for word in ("--set", item)]
        return [sys.executable, "-m", "facepipe.cli", *given, *words]

    def start(self, out: Path, *options: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self.command(out, "-q", *options), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def finish(self, out: Path, *options: str) -> None:
        assert self.start(out, *options).wait(timeout=280) == 1  # one clip is none


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory, cut_clip: Callable[..., Path]) -> Path:
    """Short slices: two of a man, four of a woman, and a text file."""
    root = tmp_path_factory.mktemp("folder")
    for number in range(2):
        cut_clip("single_face.mp4", root / "men" / f"m{number}.mp4", 8 + 12 * number, 18 + 12 * number)
    for number in range(4):
        start = 240 + 14 * number
        cut_clip("WolfgangLanger_Pexels.mp4", root / "women" / f"w{number}.mp4", start, start + 8 + number)
    (root / "women" / "text.mp4").write_text("no video")
    return root


@pytest.fixture(scope="module")
def folder(clips: Path, quick: Quick, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """An undisturbed run in one process."""
    out = tmp_path_factory.mktemp("one") / "RUN"
    config = pipeline.resolve(None, quick, source=clips / "men", target=clips / "women", out=out)
    return Folder(clips / "men", clips / "women", out, pipeline.run(config), quick)


def facts(result: Any) -> list[tuple[str, ...]]:
    return [(o.stage, o.side, o.clip, o.status, o.reason, str(o.frames)) for o in result.outcomes]


def assert_like_undisturbed(out: Path, folder: Folder, contents: Contents) -> None:
    assert contents(out) == contents(folder.out)
    assert not list(out.rglob("*.part"))
    assert not (out / ".holder.json").exists()


@pytest.mark.models
def test_two_workers_make_what_one_process_makes(
    folder: Folder, tmp_path: Path, contents: Contents, assert_no_workers: Callable[[], None]
) -> None:
    """To the byte: files, outcomes, warnings, and every frame is told."""
    told: list[tuple[str, str, int, int | None]] = []
    result = pipeline.run(folder.config(tmp_path / "RUN", workers=2), progress=lambda *words: told.append(words))
    assert facts(result) == facts(folder.result)
    assert result.warnings == folder.result.warnings
    assert result.scores == folder.result.scores
    assert_like_undisturbed(tmp_path / "RUN", folder, contents)
    for stage, number in itertools.product(("detect", "align", "swap", "score"), range(4)):
        counts = [done for s, clip, done, _ in told if (s, clip) == (stage, f"w{number}")]
        assert counts == sorted(counts)
        assert set(counts) == set(range(9 + number))
    assert list(result.seconds) == ["detect", "align", "swap", "score"]
    assert_no_workers()


@pytest.mark.models
@pytest.mark.slow
def test_ray_makes_what_one_process_makes(folder: Folder, tmp_path: Path, contents: Contents) -> None:
    told: list[tuple[str, str, int, int | None]] = []
    how = {"kind": "ray", "workers": 2}
    result = pipeline.run(folder.config(tmp_path / "RUN", **how), progress=lambda *words: told.append(words))
    assert facts(result) == facts(folder.result)
    assert result.scores == folder.result.scores
    assert_like_undisturbed(tmp_path / "RUN", folder, contents)
    for stage, number in itertools.product(("detect", "align", "swap", "score"), range(4)):
        assert {done for s, clip, done, _ in told if (s, clip) == (stage, f"w{number}")} == set(range(9 + number))


@pytest.mark.models
@pytest.mark.slow
def test_two_workers_with_the_large_nets(clips: Path, tmp_path: Path, contents: Contents) -> None:
    """The last bits of torch's nets depend on its threads, of which one process has more than a worker."""
    made = []
    for workers in (1, 2):
        out = tmp_path / str(workers)
        score = {"reconstruct_frames": 2, "reconstruct_gap": 0.1}
        common: Any = {"source": clips / "men", "target": clips / "women", "out": out, "score": score}
        result = pipeline.run(engine={"workers": workers}, **common)
        assert len(result.failed) == 1
        made.append(contents(out))
    assert made[0] == made[1]


@pytest.mark.models
def test_nothing_to_do_starts_no_process(
    quick_run: Any, quick: Quick, monkeypatch: pytest.MonkeyPatch, contents: Contents
) -> None:
    monkeypatch.setattr(processes, "_Worker", lambda *_: pytest.fail("a process was started"))
    monkeypatch.setattr(running, "RayPool", lambda *_, **__: pytest.fail("a cluster was looked for"))
    before = contents(quick_run.out)
    common = {"source": quick_run.source, "target": quick_run.target, "out": quick_run.out}
    engines: tuple[dict[str, Any], ...] = ({"workers": 8}, {"kind": "ray"})
    for engine_config in engines:
        result = pipeline.run(pipeline.resolve(None, quick, engine=engine_config, **common))
        assert {outcome.status for outcome in result.outcomes} == {"kept"}
        assert contents(quick_run.out) == before


@pytest.mark.models
@pytest.mark.parametrize("once", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_clip_that_kills_its_worker(
    folder: Folder,
    units: ModuleType,
    tmp_path: Path,
    contents: Contents,
    monkeypatch: pytest.MonkeyPatch,
    once: bool,
) -> None:
    """Once: nobody sees anything of it. Each time: this clip failed, with the reason, and the others are done."""
    out = tmp_path / "RUN"
    with monkeypatch.context() as patch:
        patch.setattr(running, "Worker", units.Killing)
        if once:
            patch.setenv("TEST_DIE_ONCE", str(tmp_path / "died"))
        result = pipeline.run(folder.config(out, workers=2))
    if once:
        assert facts(result) == facts(folder.result)
        assert_like_undisturbed(out, folder, contents)
        return
    text, died = result.failed
    assert (text.clip, text.stage) == ("text", "detect")
    assert (died.clip, died.stage, died.side) == ("w1", "align", "target")
    assert str(folder.target / "w1.mp4") in died.reason
    assert "killed by SIGKILL" in died.reason
    assert "\n" not in died.reason
    done = {o.clip for o in result.outcomes if (o.stage, o.status) == ("score", "done")}
    assert done == {"w0", "w2", "w3"}
    assert [entry["clip"] for entry in workspace.read_json(out / "manifest.json")["failed"]] == ["text", "w1"]
    pipeline.run(folder.config(out, workers=2))
    assert_like_undisturbed(out, folder, contents)


@pytest.mark.models
@pytest.mark.parametrize("workers", [1, 2])
def test_a_progress_that_raises_ends_the_run_with_its_error(
    folder: Folder, tmp_path: Path, workers: int, assert_no_workers: Callable[[], None]
) -> None:
    stop = OSError(28, "the log's disk is full")

    def listen(stage: str, _clip: str, done: int, _promised: int | None) -> None:
        if (stage, done) == ("align", 3):
            raise stop

    out = tmp_path / "RUN"
    with pytest.raises(OSError, match="disk is full") as caught:
        pipeline.swap(folder.config(out, workers=workers), progress=listen)
    assert caught.value is stop
    assert_no_workers()
    assert not list(out.rglob("*.part"))
    assert not (out / "errors").exists()
    with Workspace(out):  # the folder is free again
        pass


def test_a_file_with_fewer_frames_than_were_written_gets_no_name(
    tmp_path: Path, make_video: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from facepipe.video import open_clip, open_writer
    from facepipe.video.writer import ClipWriter

    clip = make_video(tmp_path / "clip.mp4", count=6)
    real, calls = ClipWriter._mux, itertools.count()

    def lose_one(self: ClipWriter, container: Any, packets: list[Any]) -> None:
        real(self, container, packets[1:] if next(calls) == 3 else packets)

    monkeypatch.setattr(ClipWriter, "_mux", lose_one)
    with open_clip(clip) as reader:
        writer = open_writer(tmp_path / "copy.mkv", reader.info, codec="mask")
        for frame in reader:
            writer.write(frame.image[..., 0], frame.pts)
    with pytest.raises(MediaError, match=r"copy\.mkv: holds 5 of the 6 frames"):
        writer.close()
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


# ---------------------------------------------------------------------------------------------------------- shards


@pytest.mark.parametrize(
    ("shard", "why"), [("0/3", "1/3 to 3/3"), ("4/3", "1/3 to 3/3"), ("1", "e.g. 1/8"), ("a/b", "e.g. 1/8")]
)
def test_a_shard_that_is_none_is_refused(shard: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        build({}, [f'engine.shard="{shard}"'])


@given(st.integers(1, 9), st.integers(0, 30))
def test_every_clip_belongs_to_one_shard(count: int, clips: int) -> None:
    parts = [EngineConfig(shard=f"{i}/{count}").part for i in range(1, count + 1)]
    dealt = [clip for part in parts if part for clip in range(clips)[part[0] :: part[1]]]
    assert sorted(dealt) == list(range(clips))


def test_a_run_folder_does_not_remember_how_the_work_was_done(folder: Folder, tmp_path: Path) -> None:
    config = folder.config(tmp_path / "RUN", workers=3, shard="2/4")
    assert running.with_whole_paths(config).engine == EngineConfig()


def test_shards_share_a_folder_that_nobody_else_gets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace, "_STARTING", 0.1)
    root = tmp_path / "RUN"
    with Workspace(root, shard="1/2"), Workspace(root, shard="2/2"):
        for other in (Workspace(root), Workspace(root, shard="2/2")):
            with pytest.raises(RunFolderBusyError, match=rf"shard [12]-of-2 .*process {os.getpid()}"):
                other.__enter__()
    with Workspace(root), pytest.raises(RunFolderBusyError, match=f"this run folder .process {os.getpid()}"):
        Workspace(root, shard="1/2").__enter__()
    assert not list(root.glob(".*.json"))


def test_a_clip_is_held_by_one(tmp_path: Path) -> None:
    one, other = Workspace(tmp_path / "RUN", shard="1/2"), Workspace(tmp_path / "RUN", shard="2/2")
    with one, other, one.clip_lock("source", "a") as mine:
        assert mine
        with other.clip_lock("source", "a", patient=False) as theirs, other.clip_lock("target", "a") as another:
            assert (theirs, another) == (False, True)


@pytest.mark.parametrize("stage", ["run", "train", "score"])
def test_a_shard_neither_trains_nor_scores(folder: Folder, tmp_path: Path, stage: str) -> None:
    with pytest.raises(UsageError, match="without --shard"):
        getattr(pipeline, stage)(folder.config(tmp_path / "RUN", shard="1/2"))
    assert not (tmp_path / "RUN").exists()


@pytest.mark.models
@pytest.mark.slow
def test_shards_at_the_same_time_then_the_whole(folder: Folder, tmp_path: Path, contents: Contents) -> None:
    """Every clip is done by one of them; the call without --shard has only the scores to do."""
    out = tmp_path / "RUN"
    shards = [
        subprocess.Popen(
            folder.command(out, "--json", "--shard", f"{i}/2", stage="swap"),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        for i in (1, 2)
    ]
    told = [json.loads(shard.communicate(timeout=280)[0]) for shard in shards]
    done = sorted((o["stage"], o["clip"]) for one in told for o in one["outcomes"] if o["status"] == "done")
    clips = ["w0", "w1", "w2", "w3"]
    assert done == sorted(itertools.product(("detect", "align"), ["m0", "m1", *clips])) + [("swap", c) for c in clips]
    result = pipeline.run(folder.config(out))
    assert {o.status for o in result.outcomes if o.stage != "score"} == {"kept", "failed"}
    assert_like_undisturbed(out, folder, contents)


# ---------------------------------------------------------------------------------------------------------- faults


def children_of(process: subprocess.Popen[bytes]) -> list[int]:
    """Worker processes of a driver: its children that run Python's spawn."""
    try:
        words = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    except OSError:
        return []
    workers = []
    for word in words:
        try:
            line = Path(f"/proc/{word}/cmdline").read_bytes()
        except OSError:
            continue
        if b"spawn_main" in line:
            workers.append(int(word))
    return workers


linux = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the workers in /proc")


@linux
@pytest.mark.models
@pytest.mark.slow
def test_kill_9_of_the_driver_ends_the_workers_and_the_command_goes_on(
    folder: Folder, tmp_path: Path, contents: Contents
) -> None:
    out = tmp_path / "RUN"
    driver = folder.start(out, "--workers", "2")
    wait_for(lambda: any(out.glob("target/*/.*.part")) or any(out.glob("swapped/*.part")), 200)
    workers = children_of(driver)
    driver.kill()
    driver.wait()
    assert len(workers) == 2
    folder.finish(out, "--workers", "2")
    assert not any(is_alive(pid) for pid in workers)
    assert_like_undisturbed(out, folder, contents)


@linux
@pytest.mark.models
@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("seed", range(4))
def test_kill_9_at_twenty_random_moments(folder: Folder, tmp_path: Path, contents: Contents, seed: int) -> None:
    """Five of each seed: a worker twice as often as the driver. Then the same command makes the same bytes."""
    out = tmp_path / "RUN"
    rng = random.Random(seed)
    driver, kills = folder.start(out, "--workers", "2"), 0
    while kills < 5:
        time.sleep(rng.uniform(0.5, 5))
        if driver.poll() is not None:
            driver = folder.start(out, "--workers", "2")
            continue
        workers = children_of(driver)
        if rng.random() < 1 / 3 or not workers:
            driver.kill()
            driver.wait()
        else:
            os.kill(rng.choice(workers), signal.SIGKILL)
        kills += 1
    driver.wait(timeout=280)
    folder.finish(out, "--workers", "2")
    assert_like_undisturbed(out, folder, contents)


@linux
@pytest.mark.models
def test_ctrl_c_ends_the_workers_and_leaves_no_half_of_a_file(folder: Folder, tmp_path: Path) -> None:
    out = tmp_path / "RUN"
    driver = subprocess.Popen(
        folder.command(out, "-q", "--workers", "2"),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        # A test run started in the background ignores Ctrl-C, and its children would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL) and None,
    )
    wait_for(lambda: any(out.rglob("*.part")) and len(children_of(driver)) == 2, 200)
    workers = children_of(driver)
    for pid in (*workers, driver.pid):  # a terminal sends it to all of them
        os.kill(pid, signal.SIGINT)
    _, told = driver.communicate(timeout=60)
    assert driver.returncode == 130
    assert b"Traceback" not in told
    assert b"the same command goes on from here" in told
    assert not any(is_alive(pid) for pid in workers)
    assert not list(out.rglob("*.part"))


# ------------------------------------------------------------------------------------------------ what is told


@pytest.mark.models
def test_log_json_is_a_line_an_event(folder: Folder, tmp_path: Path) -> None:
    command = folder.command(tmp_path / "RUN", "--log-json", "--workers", "2", stage="align")
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 1
    events = [json.loads(line) for line in done.stderr.splitlines()]
    last = {(e["stage"], e["clip"]): e for e in events if e["event"] == "progress"}
    assert set(last) == set(itertools.product(("detect", "align"), ("m0", "m1", "w0", "w1", "w2", "w3")))
    assert all(event["done"] == event["total"] for event in last.values())
    assert all(event["seconds"] >= 0 for event in last.values())
    assert last["align", "w2"]["done"] == 10
    outcomes = [event for event in events if event["event"] == "outcome"]
    assert [one["clip"] for one in outcomes if one["status"] == "failed"] == ["text"]
    assert events[-1]["event"] == "end"
    assert events[-1]["failed"] == 1


def test_log_json_of_a_wrong_call(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "facepipe.cli", "detect", "--log-json", "--out", str(tmp_path / "RUN")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    (event,) = [json.loads(line) for line in done.stderr.splitlines()]
    assert (event["event"], event["exit_code"]) == ("error", 2)
    assert "--source" in event["reason"]


@pytest.mark.models
def test_the_stage_table_tells_clips_and_time(folder: Folder) -> None:
    from rich.console import Console

    from facepipe.console import stage_table

    console = Console(width=120)
    with console.capture() as capture:
        console.print(stage_table(folder.result))
    rows = {words[0]: words[1:] for words in (line.split() for line in capture.get().splitlines())}
    assert list(rows) == ["stage", "detect", "align", "swap", "score"]
    assert rows["detect"][:4] == ["6", "0", "1", "58"]
    assert rows["swap"][:4] == ["4", "0", "0", "38"]
    shares = [float(rows[stage][-1].rstrip("%")) for stage in ("detect", "align", "swap", "score")]
    assert 97 <= sum(shares) <= 103


@pytest.mark.parametrize("command", [["--help"], ["run", "--help"], ["score", "--help"]])
def test_help_tells_workers_and_exit_codes(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "facepipe.cli", *command],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "200"},
    )
    text = " ".join(done.stdout.replace("│", " ").split())
    assert "Exit codes: 0 all done; 1 some clip failed" in text
    assert len(command) == 1 or "each in a process with its own nets; results are the same" in text
