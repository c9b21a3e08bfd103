"""A folder of short clips by one process and by several workers: seconds, and how many times faster.

The clips are cuts of the catalogue's two, written by facepipe itself: one of single_face.mp4 as the source, eight of
WolfgangLanger_Pexels.mp4 as targets. Each way starts in a process of its own and in a fresh run folder, so that
starting and loading the nets count, and both must make the same files. The ratio is true on an idle machine only.

Usage: python scripts/bench/folder.py [--clips 8] [--frames 40] [--workers 2] [--stage swap] [--json]
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
from pathlib import Path

from facepipe import weights
from facepipe.demo import CLIPS
from facepipe.video import open_clip, open_writer


def cut(clip: Path, out: Path, start: int, stop: int) -> None:
    """Write some frames of a clip as one of its own, times from zero."""
    out.parent.mkdir(exist_ok=True)
    with open_clip(clip, start=start, stop=stop) as reader, open_writer(out, reader.info, crf=10) as writer:
        first: int | None = None
        for frame in reader:
            first = frame.pts if first is None else first
            writer.write(frame.image, frame.pts - first)


def timed(root: Path, stage: str, workers: int) -> tuple[float, dict[str, float], Path]:
    """Seconds of the whole command, those of its stages, and the run folder."""
    out = root / f"run-{workers}"
    command = [sys.executable, "-m", "facepipe.cli", stage, "--source", str(root / "source")]
    command += ["--target", str(root / "target"), "--out", str(out), "--workers", str(workers), "--json"]
    start = time.perf_counter()
    told = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return time.perf_counter() - start, told["seconds"], out


def tables(out: Path) -> dict[str, str]:
    """Hash of each table and each file of crops of a run."""
    files = [*out.rglob("*.parquet"), *out.rglob("*.npy")]
    return {str(file.relative_to(out)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--frames", type=int, default=40, help="of each (default 40)")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--stage", default="swap", help="detect, align, swap or run (default swap)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        cut(weights.clip(CLIPS[0]), root / "source" / "source.mp4", 0, args.frames)
        for i in range(args.clips):
            cut(weights.clip(CLIPS[1]), root / "target" / f"{i}.mp4", 20 * i, 20 * i + args.frames)
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
        one, several = (timed(root, args.stage, workers) for workers in (1, args.workers))
        if tables(one[2]) != tables(several[2]):
            raise SystemExit("the workers made something else than one process")
    ratio = one[0] / several[0]
    if args.json:
        rows = {"1": one[:2], str(args.workers): several[:2]}
        print(json.dumps({"clips": args.clips, "frames": args.frames, "seconds": rows, "ratio": ratio, "load": load}))
        return
    print(f"{args.clips} clips of {args.frames} frames, facepipe {args.stage}; load before: {load:.1f}")
    print(f"stage     1 process  {args.workers} workers  ratio")
    for stage, seconds in one[1].items():
        print(f"{stage:8s}  {seconds:9.1f}  {several[1][stage]:9.1f}  {seconds / several[1][stage]:5.2f}")
    print(f"command   {one[0]:9.1f}  {several[0]:9.1f}  {ratio:5.2f}")


if __name__ == "__main__":
    main()
