"""Detection, 68 landmarks and aligned crops of a real clip: frames per second beside what people use for it.

Ours is the finder with the default detector and landmarker and the crops of stage align in the same pass, without
embeddings. Beside it stand facenet-pytorch's MTCNN called on each frame as its README does (crops of 160 px, no 68
landmarks) and face_recognition's `face_landmarks` (no crops). All read the same frames from the file, decoding
included: ours by PyAV, the others by OpenCV. The ways take turns, and the median run of each counts.

Usage: python scripts/bench/detect.py [--frames 240] [--repeat 3] [--threads 2] [--json]
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does; read when torch is loaded

import cv2
import numpy as np
import torch
from facenet_pytorch import MTCNN
from numpy.typing import NDArray
from PIL import Image

from facepipe import weights
from facepipe.config import AlignConfig, DetectConfig
from facepipe.errors import WeightsError
from facepipe.finder import Finder, load_models
from facepipe.image import warp
from facepipe.stages.align import crop_transforms
from facepipe.video import open_clip

CLIP = "WolfgangLanger_Pexels.mp4"
SIDE = 384  # of the crops, pixels
Pixels = NDArray[np.uint8]


@dataclass
class Work:
    """What one way did in one run."""

    frames: int = 0
    with_face: int = 0
    landmarks: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    """Of the largest face, by frame; only ours fills it in."""


Way = Callable[[Path, int], Work]


def facepipe_way(stride: int) -> Way:
    config, align = DetectConfig(stride=stride, embedder="none"), AlignConfig()
    models = load_models(config)

    def run(clip: Path, frames: int) -> Work:
        work = Work()
        with open_clip(clip, stop=frames) as reader:
            for frame, found in Finder(models.detector, models.landmarker, stride=stride)(reader):
                work.frames += 1
                if not found:
                    continue
                matrices = crop_transforms(np.stack([face.fit.landmarks for face in found]), align, SIDE)
                crops = [warp(frame.image, matrix, (SIDE, SIDE)) for matrix in matrices]
                work.with_face += bool(crops)
                work.landmarks[frame.index] = found[0].fit.landmarks
        return work

    return run


def opencv_frames(clip: Path, frames: int) -> Iterator[Pixels]:
    """RGB frames as most people read them."""
    capture = cv2.VideoCapture(str(clip))
    for _ in range(frames):
        there, frame = capture.read()
        if not there:
            break
        yield np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), np.uint8)
    capture.release()


def mtcnn_way() -> Way:
    net: Any = MTCNN(image_size=160)

    def run(clip: Path, frames: int) -> Work:
        work = Work()
        for frame in opencv_frames(clip, frames):
            work.frames += 1
            work.with_face += net(Image.fromarray(frame)) is not None
        return work

    return run


def face_recognition_way() -> tuple[str, Way]:
    """face_recognition itself, or the calls of dlib that it makes: without pkg_resources it ends the interpreter."""
    landmarks, name = None, "face_recognition landmarks"
    if importlib.util.find_spec("face_recognition") is not None:
        with contextlib.suppress(ImportError, SystemExit), contextlib.redirect_stdout(io.StringIO()):
            landmarks = importlib.import_module("face_recognition").face_landmarks
    if landmarks is None:
        landmarks, name = dlib_landmarks(), "face_recognition's calls of dlib"

    def run(clip: Path, frames: int) -> Work:
        work = Work()
        for frame in opencv_frames(clip, frames):
            work.frames += 1
            work.with_face += bool(landmarks(frame))
        return work

    return name, run


def dlib_landmarks() -> Callable[[Pixels], list[Any]]:
    """What `face_recognition.face_landmarks` does: HOG detector, picture doubled once, 68 points of each face."""
    import dlib

    detector = dlib.get_frontal_face_detector()
    predictor = dlib.shape_predictor(str(weights.path("dlib68")))

    def run(frame: Pixels) -> list[Any]:
        shapes = [predictor(frame, box) for box in detector(frame, 1)]
        return [[(p.x, p.y) for p in shape.parts()] for shape in shapes]

    return run


def ways() -> tuple[dict[str, Way], list[str]]:
    """The ways by name, and why one is missing."""
    found: dict[str, Way] = {
        "facepipe": facepipe_way(DetectConfig().stride),
        "facepipe, detector on every frame": facepipe_way(1),
        "facenet-pytorch MTCNN": mtcnn_way(),
    }
    try:
        name, way = face_recognition_way()
    except (ImportError, WeightsError) as exc:
        return found, [f"face_recognition's landmarks left out: {exc}"]
    notes = ["face_recognition cannot be imported: the same calls of dlib are made"] if "dlib" in name else []
    return {**found, name: way}, notes


def measure(clip: Path, *, frames: int, repeat: int) -> dict[str, Any]:
    tasks, notes = ways()
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    done: dict[str, Work] = {}
    for task in tasks.values():  # the first calls of a net are slower
        task(clip, 3)
    for _ in range(repeat):
        for name, task in tasks.items():
            start = time.perf_counter()
            done[name] = task(clip, frames)
            seconds[name].append(time.perf_counter() - start)
    fps = {name: done[name].frames / statistics.median(seconds[name]) for name in tasks}
    ours = next(iter(fps.values()))
    rows = [
        {
            "way": name,
            "frames": work.frames,
            "with_face": work.with_face,
            "fps": fps[name],
            "ours_is_faster_by": ours / fps[name],
        }
        for name, work in done.items()
    ]
    strided, every = (done[name].landmarks for name in list(tasks)[:2])
    return {"rows": rows, "stride_difference_percent": difference(strided, every), "notes": notes}


def difference(one: dict[int, NDArray[np.float32]], other: dict[int, NDArray[np.float32]]) -> float:
    """Median over frames of the mean distance of the landmarks, in per cent of the distance between the outer eyes."""
    both = sorted(one.keys() & other.keys())
    a, b = (np.stack([points[frame] for frame in both]) for points in (one, other))
    eyes = np.linalg.norm(b[:, 45] - b[:, 36], axis=-1)
    return float(np.median(100 * np.linalg.norm(a - b, axis=-1).mean(1) / eyes))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=240, help="the first so many of the clip (default 240 of 472)")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each way (default 3)")
    parser.add_argument("--threads", type=int, default=2, help="for OpenCV and torch alike (default 2)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args()
    cv2.setNumThreads(args.threads)
    torch.set_num_threads(args.threads)
    result = measure(weights.clip(CLIP), frames=args.frames, repeat=args.repeat)
    rows = result["rows"]
    if args.json:
        print(json.dumps({"clip": CLIP, "threads": args.threads, **result}, indent=2))
    else:
        print(f"{CLIP}, first {rows[0]['frames']} frames, {args.threads} thread(s), medians of {args.repeat}")
        print("                                    frames/s  facepipe is faster by  frames with a face")
        for row in rows:
            print(f"{row['way']:36s}{row['fps']:8.1f}  {row['ours_is_faster_by']:20.1f}x  {row['with_face']:18d}")
        print(f"landmarks with and without stride differ by {result['stride_difference_percent']:.2f} % of the eyes'")
        print("distance (median frame)", *result["notes"], sep="\n")
    return int(len({row["frames"] for row in rows}) != 1)


if __name__ == "__main__":
    raise SystemExit(main())
