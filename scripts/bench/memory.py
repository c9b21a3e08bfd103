"""Peak memory of `facepipe run` on a short film and on one ten times as long: they should be the same.

Both are a slice of a real clip, played forwards and backwards as often as it takes; the source is the slice both
times. A film of an hour against one of a minute are ``--frames 60 --times 30 1800`` (an hour and a half on two cores).
Each run is a process of its own. Its peak is what the kernel counted (`ru_maxrss`). On Linux the memory that belongs
to the process alone is sampled too: the peak counts the pages of mapped files (libraries, crops) as well, which the
kernel takes back whenever it needs them.

Usage: python scripts/bench/memory.py [--frames 30] [--times 1 10] [--clip single_face.mp4] [--height 1080]
    [--set KEY=VALUE] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from facepipe import weights
from facepipe.video import open_clip, open_writer

UNIT = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes


def write_played(clip: Path, out: Path, *, frames: int, times: int, height: int | None) -> None:
    """The first frames of a clip, forwards and backwards in turn, so that nothing jumps.

    Only the first two turns of an even number are coded; their packets are copied as often as it takes.
    """
    with open_clip(clip, stop=frames) as reader:
        info, pictures = reader.info, [frame.image for frame in reader]
    if height is not None:
        width = 2 * round(height * info.size[1] / info.size[0] / 2)
        shape = (width, height)
        pictures = [np.asarray(cv2.resize(one, shape, interpolation=cv2.INTER_CUBIC), np.uint8) for one in pictures]
        info = replace(info, size=(height, width))
    step = max(1, round(1 / (info.rate * info.time_base)))
    turns = times if times % 2 else 2
    coded = out.with_stem(f"{out.stem}_turns")
    with open_writer(coded, info) as writer:
        for turn in range(turns):
            for picture in pictures[:: -1 if turn % 2 else 1]:
                writer.write(picture, writer.frames * step)
    span = turns * len(pictures) * step * info.time_base  # of the turns, in seconds
    with av.open(str(out), "w") as film:
        copy: Any = None
        for again in range(times // turns):
            with av.open(str(coded)) as source:
                for packet in source.demux(video=0):
                    if packet.pts is None or packet.dts is None or packet.time_base is None:
                        continue
                    copy = copy or film.add_stream_from_template(packet.stream)
                    shift = int(again * span / packet.time_base)
                    packet.stream, packet.pts, packet.dts = copy, packet.pts + shift, packet.dts + shift
                    film.mux(packet)
    coded.unlink()


def own_memory(process: int) -> int:
    """Bytes that are the process's own, not a file's; 0 where the system does not tell."""
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), 0)


def run(source: Path, target: Path, out: Path, settings: list[str]) -> dict[str, float]:
    """One `facepipe run` in a process of its own.

    `wait4` tells the usage of that child only. A child starts with its parent's peak, so this process has to stay
    smaller than a run: it loads no nets.
    """
    command = [sys.executable, "-m", "facepipe.cli", "run", "--quiet", "--json"]
    command += ["--source", str(source), "--target", str(target), "--out", str(out)]
    command += [part for setting in settings for part in ("--set", setting)]
    start, own = time.perf_counter(), 0
    with (out.parent / f"{out.name}.log").open("w+") as log:
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)
        while not (ended := os.wait4(child.pid, os.WNOHANG))[0]:
            own = max(own, own_memory(child.pid))
            time.sleep(0.02)
        child.returncode = os.waitstatus_to_exitcode(ended[1])
        log.seek(0)
        if child.returncode:
            raise SystemExit(f"facepipe run ended with {child.returncode}: {log.read()[-2000:]}")
    return {
        "seconds": time.perf_counter() - start,
        "peak_mb": ended[2].ru_maxrss * UNIT / 1e6,
        "own_mb": own / 1e6,
        "tables_mb": sum(file.stat().st_size for file in out.rglob("faces.parquet")) / 1e6,
    }


def measure(
    clip: Path, *, frames: int, times: list[int], height: int | None, settings: list[str]
) -> list[dict[str, Any]]:
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "source.mp4"
        write_played(clip, source, frames=frames, times=1, height=height)
        for count in times:
            target = folder / f"played_{count}.mp4"
            write_played(clip, target, frames=frames, times=count, height=height)
            rows.append({"frames": frames * count, **run(source, target, folder / f"run_{count}", settings)})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", default="single_face.mp4", help="a clip of the catalogue (default single_face.mp4)")
    parser.add_argument("--frames", type=int, default=30, help="length of the slice (default 30)")
    parser.add_argument(
        "--times", type=int, nargs=2, default=[1, 10], help="how often the two films play it (default 1 10)"
    )
    parser.add_argument("--height", type=int, help="scale the films to this height (default: as the clip)")
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="SECTION.KEY=VALUE")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args()
    rows = measure(
        weights.clip(args.clip), frames=args.frames, times=args.times, height=args.height, settings=args.settings
    )
    short, long = rows
    growth = {name: long[name] - short[name] for name in ("peak_mb", "own_mb")}
    ratio = {name: long[name] / max(short[name], 1e-9) for name in growth}
    if args.json:
        print(json.dumps({"clip": args.clip, "rows": rows, "growth": growth, "ratio": ratio}, indent=2))
        return
    print(f"facepipe run (detect, align, swap, score) on {args.clip}, first {args.frames} frames")
    print("frames  peak MB  own MB  faces.parquet MB  seconds")
    for row in rows:
        print(
            f"{row['frames']:6d}  {row['peak_mb']:7.0f}  {row['own_mb']:6.0f}  {row['tables_mb']:16.2f}"
            f"  {row['seconds']:7.1f}"
        )
    print(f"{'more':6s}  {growth['peak_mb']:7.0f}  {growth['own_mb']:6.0f}")
    print(f"{'ratio':6s}  {ratio['peak_mb']:7.2f}  {ratio['own_mb']:6.2f}")


if __name__ == "__main__":
    main()
