"""Kill -9 at any moment, start the same command again: the result is that of an undisturbed run, to the byte."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.models

Contents = Callable[[Path], dict[str, str]]
Quick = tuple[str, ...]


def command(quick: Quick, run: Any, out: Path) -> list[str]:
    given = ["run", "--source", str(run.source), "--target", str(run.target), "--out", str(out)]
    return [*given, *(word for item in quick for word in ("--set", item))]


def start(arguments: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "facepipe.cli", *arguments, "-q"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def kill(process: subprocess.Popen[bytes]) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def kill_when(process: subprocess.Popen[bytes], folder: Path, pattern: str) -> bool:
    """Kill -9 as soon as a file appears; False when the process ended before."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        if any(folder.glob(pattern)):
            kill(process)
            return True
        if process.poll() is not None:
            return False
        time.sleep(0.002)
    kill(process)
    pytest.fail(f"{pattern} did not appear")


def finish(arguments: list[str]) -> None:
    process = start(arguments)
    assert process.wait(timeout=240) == 0


def assert_like_undisturbed(out: Path, finished: Path, contents: Contents) -> None:
    assert contents(out) == contents(finished)
    assert not list(out.rglob("*.part"))
    assert not (out / ".holder.json").exists()


@pytest.mark.slow
def test_kill_9_in_the_middle_of_a_write_and_resume(
    quick_run: Any, quick: Quick, tmp_path: Path, contents: Contents
) -> None:
    """Killed while the video is half written, and again between a result and its mark."""
    out = tmp_path / "RUN"
    arguments = command(quick, quick_run, out)
    assert kill_when(start(arguments), out, "swapped/*.mp4.part")
    assert not (out / "swapped" / "woman.mp4").exists()
    assert kill_when(start(arguments), out, "swapped/woman.mp4")
    finish(arguments)
    assert_like_undisturbed(out, quick_run.out, contents)


POINTS = [
    ".lock",
    "manifest.json",
    "source/man/.faces.parquet.*.part",
    "source/man/faces.parquet",
    "source/man/detect.json",
    "target/woman/faces.parquet",
    "source/man/.crops.npy.*.part",
    "source/man/crops.npy",
    "target/woman/align.json",
    "masks/woman.mkv.part",
    "swapped/*.signed.part",
    "swapped/woman.json",
    "scores.parquet",
    "scores.json",
    "score.json",
]


@pytest.mark.slow
def test_kill_9_at_every_file_in_turn(quick_run: Any, quick: Quick, tmp_path: Path, contents: Contents) -> None:
    """One folder, killed and started again at each point; the last start finishes what all of them left."""
    out = tmp_path / "RUN"
    arguments = command(quick, quick_run, out)
    hits = [kill_when(start(arguments), out, point) for point in POINTS if not any(out.glob(point))]
    assert sum(hits) >= 8
    finish(arguments)
    assert_like_undisturbed(out, quick_run.out, contents)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_kill_9_at_random_times(quick_run: Any, quick: Quick, tmp_path: Path, contents: Contents, seed: int) -> None:
    out = tmp_path / "RUN"
    arguments = command(quick, quick_run, out)
    rng = random.Random(seed)
    for _ in range(5):
        process = start(arguments)
        time.sleep(rng.uniform(1.0, 6.0))
        kill(process)
    finish(arguments)
    assert_like_undisturbed(out, quick_run.out, contents)


@pytest.mark.slow
def test_kill_9_of_the_default_run(run_folder: Any, tmp_path: Path, contents: Contents) -> None:
    """With the large identity net: embeddings and scores are the same to the byte."""
    out = tmp_path / "RUN"
    arguments = ["run", "--source", str(run_folder.clips.man), "--target", str(run_folder.clips.woman)]
    arguments += ["--out", str(out), "--set", "score.reconstruct_frames=4", "--set", "score.reconstruct_gap=0.1"]
    assert kill_when(start(arguments), out, "source/man/detect.json")
    assert kill_when(start(arguments), out, "swapped/woman.json")
    finish(arguments)
    assert_like_undisturbed(out, run_folder.out, contents)


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on(quick_run: Any, quick: Quick, tmp_path: Path, contents: Contents) -> None:
    out = tmp_path / "RUN"
    arguments = command(quick, quick_run, out)
    process = subprocess.Popen(
        [sys.executable, "-m", "facepipe.cli", *arguments, "-q"],
        stderr=subprocess.PIPE,
        text=True,
        # A test run started in the background ignores Ctrl-C, and its children would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL) and None,
    )
    while not any(out.glob("swapped/*.mp4.part")):
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in told
    assert "the same command goes on from here" in told
    assert not list(out.rglob("*.part"))
    assert not (out / "swapped" / "woman.mp4").exists()
    finish(arguments)
    assert_like_undisturbed(out, quick_run.out, contents)
