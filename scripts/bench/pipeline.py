"""Frames per second of each stage of a real swap, swapping against scoring, and how long starting takes.

The swap is the demo's first direction, single_face.mp4 onto WolfgangLanger_Pexels.mp4, in a fresh run folder: times
are those of the run's own outcomes. A stage's first clip also pays for loading its nets. Then the clip is swapped and
scored again in turns in this process: medians, and the processor's seconds beside the clock's, since other load on the
machine shows in the one and not in the other. Starting is timed in processes of their own, each the median of some: a
bare Python, `import facepipe`, `facepipe --help`, and `facepipe run` once more on the finished folder, which has
nothing to do.

Usage: python scripts/bench/pipeline.py [--source CLIP] [--target CLIP] [--threads 2] [--rounds 3] [--repeat 5]
       [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does; read when torch is loaded
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import cv2
import torch

import facepipe
from facepipe import weights
from facepipe.demo import CLIPS


def stages(source: Path, target: Path, out: Path) -> list[dict[str, Any]]:
    """A row for each clip and stage of a whole run, and one for all of it."""
    start = time.perf_counter()
    result = facepipe.run(source=source, target=target, out=out)
    seconds = time.perf_counter() - start
    if result.failed:
        raise SystemExit(result.failed[0].reason)
    rows = [
        {"stage": o.stage, "clip": o.clip, "frames": o.frames, "seconds": o.seconds, "fps": o.frames / o.seconds}
        for o in result.outcomes
    ]
    frames = next(o.frames for o in result.outcomes if o.stage == "swap")
    whole = {"stage": "all", "clip": target.stem, "frames": frames, "seconds": seconds, "fps": frames / seconds}
    return [*rows, whole]


def in_turns(out: Path, rounds: int) -> list[dict[str, Any]]:
    """Swapping and scoring the run's clips anew, one after the other, some times: a row each with medians."""
    calls = {"swap": facepipe.swap, "score": facepipe.score}
    found: dict[str, list[tuple[float, float, int]]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            for marker in [*(out / "swapped").glob("*.json"), out / "score.json"]:
                if name == "swap" or marker.name == "score.json":
                    marker.unlink(missing_ok=True)
            clock, processor = time.perf_counter(), time.process_time()
            result = call(out=out)
            spent = time.perf_counter() - clock, time.process_time() - processor
            if result.failed:
                raise SystemExit(result.failed[0].reason)
            found[name].append((*spent, sum(o.frames for o in result.outcomes if o.stage == name)))
    return [
        {
            "stage": name,
            "frames": rows[0][2],
            "seconds": statistics.median(row[0] for row in rows),
            "processor_seconds": statistics.median(row[1] for row in rows),
            "fps": statistics.median(row[2] / row[0] for row in rows),
        }
        for name, rows in found.items()
    ]


def process_seconds(command: list[str], repeat: int) -> float:
    """Median time of a command from its start to its end; the first call only warms the file cache."""
    times = []
    for _ in range(repeat + 1):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def starts(source: Path, target: Path, out: Path, repeat: int) -> dict[str, float]:
    """Seconds by what is started."""
    cli = [sys.executable, "-m", "facepipe.cli"]
    again = [*cli, "run", "--source", str(source), "--target", str(target), "--out", str(out), "--json"]
    told = json.loads(subprocess.run(again, check=True, capture_output=True).stdout)
    if redone := [outcome for outcome in told["outcomes"] if outcome["status"] != "kept"]:
        raise SystemExit(f"the second run did something: {redone}")
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "import facepipe": [sys.executable, "-c", "import facepipe"],
        "facepipe --help": [*cli, "--help"],
        "facepipe run, nothing to do": again,
    }
    return {name: process_seconds(command, repeat) for name, command in commands.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, help=f"default {CLIPS[0]} of the catalogue")
    parser.add_argument("--target", type=Path, help=f"default {CLIPS[1]} of the catalogue")
    parser.add_argument("--threads", type=int, default=2, help="for OpenCV and torch alike (default 2)")
    parser.add_argument("--rounds", type=int, default=3, help="of swapping and scoring in turns (default 3)")
    parser.add_argument("--repeat", type=int, default=5, help="processes of each start (default 5)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args()
    cv2.setNumThreads(args.threads)
    torch.set_num_threads(args.threads)
    source, target = args.source or weights.clip(CLIPS[0]), args.target or weights.clip(CLIPS[1])
    with tempfile.TemporaryDirectory() as name:
        rows = stages(source, target, Path(name) / "run")
        turns = in_turns(Path(name) / "run", args.rounds) if args.rounds else []
        started = starts(source, target, Path(name) / "run", args.repeat)
    if args.json:
        told = {"threads": args.threads, "stages": rows, "in_turns": turns, "start_seconds": started}
        print(json.dumps(told, indent=2))
        return
    print(f"{source.name} onto {target.name}, {args.threads} thread(s)")
    print("stage   clip                       frames  seconds  frames/s")
    for row in rows:
        print(f"{row['stage']:6s}  {row['clip']:25s}  {row['frames']:6d}  {row['seconds']:7.1f}  {row['fps']:8.1f}")
    if turns:
        print(f"\nin turns, nets loaded, median of {args.rounds}   frames  seconds  processor  frames/s")
        for row in turns:
            numbers = f"{row['frames']:6d}  {row['seconds']:7.1f}  {row['processor_seconds']:9.1f}  {row['fps']:8.1f}"
            print(f"{row['stage']:37s}  {numbers}")
    print(f"\nprocess from start to end, median of {args.repeat}")
    for what, seconds in started.items():
        print(f"{what:28s}  {seconds:6.2f} s")


if __name__ == "__main__":
    main()
