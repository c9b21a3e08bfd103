"""A folder of short clips by one process, by several workers, and by as many actors of Ray: seconds, and ratios.

The clips are cuts of the catalogue's two, written by facepipe itself: one of single_face.mp4 as the source, eight of
WolfgangLanger_Pexels.mp4 as targets; with --film that whole clip as one film in two parts. Each way starts in a
process of its own and in a fresh run folder, so that starting and loading the nets count, and all must make the same
files. The ratio is true on an idle machine only.

A process has threads of its own, which keep more than one core busy: `core` is the same process on as many cores as a
worker has for itself, so `workers` against `core` is how far twice the cores do twice the work.

Usage: python scripts/bench/folder.py [--clips 8] [--frames 300] [--workers 2] [--stage swap] [--film]
       [--ways core process workers ray] [--json]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from facepipe import weights
from facepipe.demo import CLIPS
from facepipe.video import open_clip, open_writer

WAYS = ("core", "process", "workers", "ray")
PART = 200  # frames; the film has 472, and a key frame at 250


def cut(clip: Path, out: Path, start: int, stop: int) -> None:
    """Write some frames of a clip as one of its own, times from zero."""
    out.parent.mkdir(exist_ok=True)
    with open_clip(clip, start=start, stop=stop) as reader, open_writer(out, reader.info, crf=10) as writer:
        first: int | None = None
        for frame in reader:
            first = frame.pts if first is None else first
            writer.write(frame.image, frame.pts - first)


@dataclass(frozen=True)
class Timed:
    """Seconds of a whole command, of the processor, and of its stages; and its run folder."""

    seconds: float
    busy: float
    stages: dict[str, float]
    out: Path


@contextmanager
def bound(workers: int) -> Iterator[None]:
    """Bind what is started meanwhile to as many cores as one of so many workers has."""
    if not hasattr(os, "sched_setaffinity"):
        raise SystemExit("core: this system does not bind processes to cores; leave it out of --ways")
    mine = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, mine[: max(1, len(mine) // workers)])
    try:
        yield
    finally:
        os.sched_setaffinity(0, mine)


def timed(root: Path, stage: str, way: str, workers: int) -> Timed:
    out = root / f"run-{way}"
    command = [sys.executable, "-m", "facepipe.cli", stage, "--source", str(root / "source")]
    command += ["--target", str(root / "target"), "--out", str(out), "--json"]
    command += ["--set", f"part_frames={PART}"]
    command += ["--workers", str(workers if way in ("workers", "ray") else 1)]
    command += ["--engine", "ray"] if way == "ray" else []
    start, before = time.perf_counter(), os.times()
    with bound(workers) if way == "core" else nullcontext():
        told = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    after = os.times()
    busy = after.children_user + after.children_system - before.children_user - before.children_system
    return Timed(time.perf_counter() - start, busy, told["seconds"], out)


def tables(out: Path) -> dict[str, str]:
    """Hash of each table and each file of crops of a run."""
    files = [*out.rglob("*.parquet"), *out.rglob("*.npy")]
    return {str(file.relative_to(out)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--frames", type=int, default=300, help="of each (default 300)")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--stage", default="swap", help="detect, align, swap or run (default swap)")
    parser.add_argument(
        "--ways", nargs="+", choices=WAYS, default=WAYS[:3], help="the first is what others are compared with"
    )
    parser.add_argument("--film", action="store_true", help="one film instead of clips")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        cut(weights.clip(CLIPS[0]), root / "source" / "source.mp4", 0, args.frames)
        with open_clip(weights.clip(CLIPS[1])) as reader:
            whole = sum(1 for _ in reader)
        last = whole - args.frames
        if args.film:
            cut(weights.clip(CLIPS[1]), root / "target" / "film.mp4", 0, whole)
        for i in range(0 if args.film else args.clips):
            start = round(i * last / max(1, args.clips - 1))
            cut(weights.clip(CLIPS[1]), root / "target" / f"{i}.mp4", start, start + args.frames)
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
        found = {way: timed(root, args.stage, way, args.workers) for way in args.ways}
        first, *others = [tables(one.out) for one in found.values()]
    if any(other != first for other in others):
        raise SystemExit("one way made something else than another")
    if args.json:
        rows = {way: {"seconds": one.seconds, "busy": one.busy, "stages": one.stages} for way, one in found.items()}
        print(json.dumps({"clips": args.clips, "frames": args.frames, "workers": args.workers, "load": load, **rows}))
        return
    what = f"a film of {whole} frames" if args.film else f"{args.clips} clips of {args.frames} frames"
    print(f"{what}, facepipe {args.stage}, {args.workers} workers; load: {load:.1f}")
    base = next(iter(found.values()))
    print("seconds   " + "".join(f"{way:>16s}" for way in found))
    for stage in [*base.stages, "command"]:
        seconds = [one.stages.get(stage, one.seconds) for one in found.values()]
        print(f"{stage:10s}" + "".join(f"{one:8.1f} ({seconds[0] / one:4.2f}x)" for one in seconds))
    print("processor " + "".join(f"{one.busy:8.1f}{'':8s}" for one in found.values()))


if __name__ == "__main__":
    main()
