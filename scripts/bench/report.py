"""How long a report takes, how large it is, and how much memory it needs, for clips of growing length.

A finished run's target clip, its swap and its tables are repeated until they are long enough; each report is built in
a process of its own. Without a run folder, the demo's first direction is swapped and scored first (minutes).

Usage: python scripts/bench/report.py [RUN] [--frames 500 1000 4000] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does; read when torch is loaded
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pyarrow.parquet as pq

import facepipe
from facepipe import weights
from facepipe.demo import CLIPS
from facepipe.report import write_report
from facepipe.results import RunResults
from facepipe.types import Faces
from facepipe.video import open_clip, open_writer
from facepipe.workspace import read_faces, read_json, write_faces, write_json, write_table


def repeated_video(source: Path, out: Path, frames: int, metadata: dict[str, str]) -> int:
    """Write a clip again and again until it has so many frames; how much its times grow from one round to the next."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with open_clip(source) as reader:
        times = [frame.pts for frame in reader]
        step = times[-1] - times[0] + (times[1] - times[0])
        with open_writer(out, reader.info, crf=23, preset="ultrafast", metadata=metadata) as writer:
            count = 0
            while count < frames:
                for frame in reader:
                    if count == frames:
                        break
                    writer.write(frame.image, frame.pts + step * (count // len(times)))
                    count += 1
    return step


def repeated_rows(columns: dict[str, Any], length: int, frames: int, step: int) -> dict[str, Any]:
    """A table of a clip of `length` frames, repeated; frames and times go on."""
    rounds = -(-frames // length)
    longer = {name: np.concatenate([values] * rounds) for name, values in columns.items()}
    number = np.repeat(np.arange(rounds), len(columns["frame"]))
    longer["frame"] = longer["frame"] + number * length
    longer["pts"] = longer["pts"] + number * step
    return {name: values[longer["frame"] < frames] for name, values in longer.items()}


def lengthened(run: Path, out: Path, frames: int) -> Path:
    """A copy of a run with one target clip, which has so many frames."""
    results = RunResults.read(run)
    clip = results.clips("target")[0]
    if clip.swapped is None or not clip.scored:
        raise SystemExit(f"{run}: not swapped and scored; give a finished run")
    shutil.copytree(run, out, ignore=shutil.ignore_patterns("report.*", "swapped", "masks", "target", "*.npy"))
    shutil.copytree(run / "source", out / "source", dirs_exist_ok=True)
    step = repeated_video(clip.path, out / f"{clip.name}.mp4", frames, {})
    repeated_video(clip.swapped.video, out / "swapped" / clip.swapped.video.name, frames, clip.swapped.label)
    (out / "masks").mkdir()
    shutil.copy(clip.swapped.mask, out / "masks" / clip.swapped.mask.name)  # a report does not look at masks
    folder = out / "target" / clip.name
    faces = read_faces(clip.folder / "faces.parquet")
    write_faces(folder / "faces.parquet", Faces(**repeated_rows(dict(vars(faces)), clip.frames, frames, step)))
    for name in ("detect.json", "align.json"):
        state = read_json(clip.folder / name)
        write_json(folder / name, {**state, "frames": frames, "path": str(out / f"{clip.name}.mp4")})
    for name in (f"swapped/{clip.name}.parquet", "scores.parquet"):
        table = pq.read_table(run / name)
        columns = {column: table[column].to_numpy() for column in table.column_names}
        write_table(out / name, repeated_rows(columns, clip.frames, frames, step))
    shutil.copy(run / "swapped" / f"{clip.name}.json", out / "swapped")
    for path in (out / "scores.parquet", out / "scores.json"):
        path.touch()
    text = [line for line in (out / "config.toml").read_text("utf-8").splitlines() if not line.startswith("target = ")]
    (out / "config.toml").write_text("\n".join(text) + "\n", "utf-8")
    return out


def measure(run: Path) -> dict[str, float]:
    """What this process needs for a report, and for the same one again."""
    start, work = time.perf_counter(), time.process_time()
    page = write_report(run)
    seconds, cpu = time.perf_counter() - start, time.process_time() - work
    start = time.perf_counter()
    write_report(run)
    again = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "cpu": cpu, "again": again, "MB": page.stat().st_size / 1e6, "peak_MiB": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?", help="a finished run folder; it is not changed")
    parser.add_argument("--frames", type=int, nargs="+", default=[500, 1000, 4000], help="lengths of the target clip")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.run)))
        return
    rows = []
    with tempfile.TemporaryDirectory() as name:
        run = args.run
        if run is None:
            run = Path(name) / "run"
            facepipe.run(source=weights.clip(CLIPS[0]), target=weights.clip(CLIPS[1]), out=run)
        for frames in args.frames:
            longer = lengthened(run, Path(name) / str(frames), frames)
            command = [sys.executable, __file__, str(longer), "--measure"]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            rows.append({"frames": frames, **json.loads(done.stdout)})
            shutil.rmtree(longer)
    if args.json:
        print(json.dumps(rows, indent=2))
        return
    print("frames  seconds  CPU, s  again, s  page, MB  peak, MiB")
    for row in rows:
        times = f"{row['frames']:6d}  {row['seconds']:7.2f}  {row['cpu']:6.2f}  {row['again']:8.3f}"
        print(f"{times}  {row['MB']:8.2f}  {row['peak_MiB']:9.0f}")


if __name__ == "__main__":
    main()
