"""Frames per second of reading and writing a clip, beside OpenCV's in the same run.

Usage: python scripts/bench/video.py CLIP [--repeat 3] [--frames 300] [--side 320] [--json]

Each task runs `repeat` times, the tasks in turn, and the best run of each counts: a busy machine makes runs slower,
never faster. OpenCV's wheel cannot encode H.264, so its writer makes MPEG-4 part 2.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2

from facepipe import video


def read_nothing(clip: Path, frames: int, _side: int) -> int:
    return sum(1 for _ in video.open_clip(clip, stop=frames))


def read_small(clip: Path, frames: int, side: int) -> int:
    return sum(1 for frame in video.open_clip(clip, stop=frames) if frame.small(side)[0].size)


def read_rgb(clip: Path, frames: int, _side: int) -> int:
    return sum(1 for frame in video.open_clip(clip, stop=frames) if frame.image.size)


def read_and_write(clip: Path, frames: int, _side: int) -> int:
    with (
        tempfile.TemporaryDirectory() as folder,
        video.open_clip(clip, stop=frames) as reader,
        video.open_writer(Path(folder) / "out.mp4", reader.info, audio_from=clip) as writer,
    ):
        for frame in reader:
            writer.write(frame.image, frame.pts)
    return writer.frames


def opencv_grab(clip: Path, frames: int, _side: int) -> int:
    capture, count = cv2.VideoCapture(str(clip)), 0
    while count < frames and capture.grab():
        count += 1
    return count


def opencv_small(clip: Path, frames: int, side: int) -> int:
    capture, count = cv2.VideoCapture(str(clip)), 0
    while count < frames and (frame := capture.read()[1]) is not None:
        scale = side / max(frame.shape[:2])
        cv2.resize(frame, (0, 0), fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        count += 1
    return count


def opencv_read(clip: Path, frames: int, _side: int) -> int:
    capture, count = cv2.VideoCapture(str(clip)), 0
    while count < frames and capture.read()[0]:
        count += 1
    return count


def opencv_read_and_write(clip: Path, frames: int, _side: int) -> int:
    capture, count = cv2.VideoCapture(str(clip)), 0
    size = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
    with tempfile.TemporaryDirectory() as folder:
        writer = cv2.VideoWriter(str(Path(folder) / "out.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 25.0, size)
        while count < frames and (frame := capture.read()[1]) is not None:
            writer.write(frame)
            count += 1
        writer.release()
    return count


TASKS: dict[str, Callable[[Path, int, int], int]] = {
    "facepipe: decode only": read_nothing,
    "facepipe: decode, small plane": read_small,
    "facepipe: decode, full RGB": read_rgb,
    "facepipe: decode, RGB, H.264 with audio": read_and_write,
    "opencv: decode only": opencv_grab,
    "opencv: decode, BGR, resized": opencv_small,
    "opencv: decode, full BGR": opencv_read,
    "opencv: decode, BGR, MPEG-4 without audio": opencv_read_and_write,
}


def measure(clip: Path, *, frames: int, side: int, repeat: int) -> dict[str, dict[str, float]]:
    """Frames and best frames per second of every task."""
    best: dict[str, float] = dict.fromkeys(TASKS, float("inf"))
    counts: dict[str, int] = {}
    for _ in range(repeat):
        for name, task in TASKS.items():
            start = time.perf_counter()
            counts[name] = task(clip, frames, side)
            best[name] = min(best[name], time.perf_counter() - start)
    return {name: {"frames": counts[name], "fps": round(counts[name] / best[name], 1)} for name in TASKS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", type=Path)
    parser.add_argument("--frames", type=int, default=300, help="read at most so many (default 300)")
    parser.add_argument("--side", type=int, default=320, help="long side of the small plane (default 320)")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each task (default 3)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    info = video.probe(arguments.clip)
    results = measure(arguments.clip, frames=arguments.frames, side=arguments.side, repeat=arguments.repeat)
    if arguments.json:
        print(json.dumps({"clip": arguments.clip.name, "size": info.size, "results": results}, indent=2))
        return
    print(f"{arguments.clip.name}, {info.size[1]}x{info.size[0]} {info.pixel_format}")
    for name, row in results.items():
        print(f"{name:44s} {row['fps']:8.1f} frames/s  ({row['frames']:.0f} frames)")


if __name__ == "__main__":
    main()
