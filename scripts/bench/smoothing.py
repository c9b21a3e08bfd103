"""How steady and how prompt the aligned crop is: dlib's 68 points a frame, tracked FaceMesh, and FaceMesh smoothed.

Shake is the mean second difference of the crop's place in the frame, in per cent of its side; still are the half of
the frames in which the raw face moves least, fast the tenth in which it moves most. Real acceleration is in it too, so
less is not always better. Two witnesses keep it honest:

- The pixels: successive crops are compared by their grey values. What the landmarks take for movement of the head, or
  miss of it, is left over in the crop as movement of the picture (one step of Lucas & Kanade 1981 for shift, turn and
  zoom inside the face), in per cent of the side. Smoothing that drags would raise it.
- The delay between the smoothed and the raw velocity of the crop on fast stretches, in frames, by the shift at which
  they agree best; and the regression of one on the other: 1 is a move in full. The same regression for how far lids
  and lips are open shows whether blinks and speech survive.

Time is the processor's, of the smoothing as a share of stages detect (with embedding, as is the default) and align.

Usage: python scripts/bench/smoothing.py [--clip NAME ...] [--threads 2] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does; read when torch is loaded

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from facepipe import geometry, metrics, weights
from facepipe.config import AlignConfig, DetectConfig, LimitsConfig
from facepipe.errors import WeightsError
from facepipe.finder import load_models
from facepipe.image import warp
from facepipe.stages.align import align_faces, crop_transforms, steady_faces
from facepipe.stages.detect import detect_faces
from facepipe.types import Faces
from facepipe.video import Frame, open_clip

CLIPS = (
    *("single_face.mp4", "WolfgangLanger_Pexels.mp4", "face_noface.mov", "noface_face.mov"),
    *("carphone_pristine.mp4", "carphone_distorted.mp4"),
)
AIMS = {"dlib68": 3.0, "raw": 1.5}
ALIGN, SIDE = AlignConfig(), 192
Floats = NDArray[np.float64]


@dataclass
class Seen:
    """A clip's frames and the longest track in it."""

    frames: list[Frame]
    faces: Faces
    seconds: float
    """Of stage detect."""


def detected(clip: str, landmarker: str, embedder: str) -> Seen:
    config = DetectConfig.model_validate({"landmarker": landmarker, "embedder": embedder})
    models = load_models(config)
    with open_clip(weights.clip(clip)) as reader:
        frames = list(reader)
        detect_faces(frames[:2], models, config, LimitsConfig(), reader.info.size)  # first calls are slower
        start = time.process_time()
        faces = detect_faces(frames, models, config, LimitsConfig(), reader.info.size)
        seconds = time.process_time() - start
    numbers, counts = np.unique(faces.track, return_counts=True)
    return Seen(frames, faces[faces.track == numbers[counts.argmax()]], seconds)


def places(landmarks: NDArray[np.float32]) -> Floats:
    """Corners of the crop in the frame over the crop's side there, (T, 4, 2)."""
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * SIDE - 0.5
    matrices = crop_transforms(landmarks, ALIGN, SIDE)
    side = SIDE / np.median(geometry.similarity_params(matrices).scale)
    return np.asarray(geometry.apply(geometry.invert(matrices), corners) / side)


def shake(landmarks: NDArray[np.float32], chosen: NDArray[np.bool_] | None = None) -> float:
    """`metrics.similarity_jitter` in per cent, or the same about chosen frames only."""
    if chosen is None:
        return 100 * metrics.similarity_jitter(crop_transforms(landmarks, ALIGN, SIDE), size=SIDE)
    length = np.linalg.norm(np.diff(places(landmarks), n=2, axis=0), axis=-1).mean(1)
    return 100 * float(length[chosen[1:-1]].mean())


def left_over(seen: Seen, faces: Faces) -> float:
    """Movement of the picture in the crop from frame to frame, mean, in per cent of the crop's side."""
    hull = cv2.convexHull(geometry.template("ibug68", SIDE, margin=ALIGN.margin)[:48].astype(np.float32))
    inside = cv2.fillConvexPoly(np.zeros((SIDE, SIDE), np.uint8), hull.astype(np.int32), 1).astype(bool)
    y, x = (np.nonzero(inside)[axis] / (SIDE / 4) - 2 for axis in (0, 1))
    by_index = {frame.index: frame.image for frame in seen.frames}
    last, lengths = None, []
    for number, matrix in zip(faces.frame.tolist(), crop_transforms(faces.landmarks, ALIGN, SIDE), strict=True):
        crop = cv2.cvtColor(warp(by_index[number], matrix, (SIDE, SIDE)), cv2.COLOR_RGB2GRAY)
        grey = np.asarray(cv2.GaussianBlur(crop.astype(np.float32), (0, 0), 1), np.float32)
        if last is not None:
            mean = (grey + last) / 2
            gx, gy = (cv2.Sobel(mean, cv2.CV_32F, i, 1 - i, scale=1 / 8)[inside] for i in (1, 0))
            columns = np.stack([gx, gy, gx * x + gy * y, gy * x - gx * y], axis=1)
            lengths.append(np.linalg.norm(np.linalg.lstsq(columns, (grey - last)[inside], rcond=None)[0]))
        last = grey
    return 100 * float(np.mean(lengths)) / SIDE


def delay(raw: Floats, smooth: Floats, fast: NDArray[np.bool_]) -> float:
    """Frames by which the velocity of `smooth` (T, K) trails that of `raw`, about `fast`.

    The shift that fits best, by a parabola through the squared differences at -2, 0 and 2 frames: a product alone
    would lean to where the move becomes faster. Velocities are over three frames, so that noise does not count.
    """
    a, b = (x[3:] - x[:-3] for x in (raw, smooth))
    reach = 2
    chosen = fast[1:-2][reach:-reach, None]
    at = [(chosen * (a[reach:-reach] - b[reach + k : len(b) - reach + k]) ** 2).sum() for k in (-reach, 0, reach)]
    return float(reach * (at[0] - at[2]) / (2 * (at[0] - 2 * at[1] + at[2])))


def share_kept(raw: Floats, smooth: Floats, fast: NDArray[np.bool_]) -> float:
    """Slope of the smoothed change over three frames on the raw one, where `fast`; over one it would be on noise."""
    a, b = (x[3:] - x[:-3] for x in (raw, smooth))
    chosen = fast[1:-2]
    return float((a[chosen] * b[chosen]).sum() / (a[chosen] ** 2).sum())


def opening(landmarks: NDArray[np.float32], pairs: tuple[tuple[int, int], ...]) -> Floats:
    """(T, 1): mean distance of points, in inter-ocular distances."""
    gap = np.mean([np.linalg.norm(landmarks[:, i] - landmarks[:, j], axis=-1) for i, j in pairs], axis=0)
    return np.asarray(gap / np.median(metrics.interocular_distance(landmarks)))[:, None].astype(np.float64)


LIDS = ((37, 41), (38, 40), (43, 47), (44, 46))
LIPS = ((61, 67), (62, 66), (63, 65))


def fastest(values: Floats, share: float = 0.1) -> NDArray[np.bool_]:
    """(T,) bool: frames about which `values` (T, K) change most, over three frames."""
    speed = np.linalg.norm(values[3:] - values[:-3], axis=-1)
    speed = np.pad(speed, (1, 2), mode="edge")
    return np.asarray(speed >= np.quantile(speed, 1 - share))


def smoothing_seconds(faces: Faces) -> float:
    times = []
    for _ in range(5):
        start = time.process_time()
        steady_faces(faces, 1.0)
        times.append(time.process_time() - start)
    return float(np.median(times))


def measure(clip: str) -> tuple[list[dict[str, Any]], dict[str, Any], list[str]]:
    """A row a way, what is told of the smoothing alone, and why a way is missing."""
    notes = []
    raw = detected(clip, "facemesh", "irv1")
    start = time.process_time()
    align_faces(raw.frames, raw.faces, AlignConfig(smooth=0), LimitsConfig(), lambda _: None)
    seconds = raw.seconds + time.process_time() - start
    steady = steady_faces(raw.faces, AlignConfig().smooth)
    tables = {"raw": raw.faces, "smoothed": steady}
    try:
        dlib = detected(clip, "dlib68", "none").faces
        tables = {"dlib68": dlib[np.isin(dlib.frame, raw.faces.frame)], **tables}
    except WeightsError as exc:
        notes.append(f"dlib68 left out: {exc}")
    way = places(raw.faces.landmarks).reshape(len(raw.faces), -1)
    fast, still = fastest(way), ~fastest(way, 0.5)
    smooth_way = places(steady.landmarks).reshape(len(steady), -1)
    whole = shake(steady.landmarks)
    rows = []
    for name, faces in tables.items():
        same = len(faces) == len(raw.faces)
        rows.append(
            {
                "clip": clip,
                "way": name,
                "shake": shake(faces.landmarks),
                "still": shake(faces.landmarks, still) if same else None,
                "fast": shake(faces.landmarks, fast) if same else None,
                "left_over": left_over(raw, faces),
                "times_smoothed": shake(faces.landmarks) / whole,
                "aim": AIMS.get(name),
            }
        )
    lids, lids_after, lips, lips_after = (
        opening(faces.landmarks, pairs) for pairs in (LIDS, LIPS) for faces in (raw.faces, steady)
    )
    facts = {
        "clip": clip,
        "delay_frames": delay(way, smooth_way, fast),
        "kept_move": share_kept(way, smooth_way, fast),
        "kept_lids": share_kept(lids, lids_after, fastest(lids)),
        "kept_lips": share_kept(lips, lips_after, fastest(lips)),
        "microseconds_a_face": 1e6 * smoothing_seconds(raw.faces) / len(raw.faces),
        "percent_of_detect_and_align": 100 * smoothing_seconds(raw.faces) / seconds,
    }
    return rows, facts, notes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", action="append", choices=CLIPS, help="default: all")
    parser.add_argument("--threads", type=int, default=2, help="for OpenCV and torch alike (default 2)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args()
    cv2.setNumThreads(args.threads)
    torch.set_num_threads(args.threads)
    parts = [measure(clip) for clip in args.clip or CLIPS]
    rows = [row for part in parts for row in part[0]]
    facts = [part[1] for part in parts]
    notes = sorted({note for part in parts for note in part[2]})
    if args.json:
        print(json.dumps({"threads": args.threads, "rows": rows, "smoothing": facts, "notes": notes}, indent=2))
        return 0
    print("shake of the crop, % of its side             all   still    fast  over smoothed    aim  left in the pixels")
    for row in rows:
        parts_ = [f"{row[key]:8.3f}" if row[key] is not None else "       -" for key in ("still", "fast")]
        aim = f"{row['aim']:5.1f}x" if row["aim"] else "      "
        print(
            f"{row['clip']:26s}{row['way']:12s}{row['shake']:10.3f}{''.join(parts_)}{row['times_smoothed']:14.2f}x"
            f" {aim}  {row['left_over']:18.3f}"
        )
    print(
        "\nsmoothing                 delay, frames   kept of fast moves  of lids  of lips   µs/face  % of detect+align"
    )
    for fact in facts:
        print(
            f"{fact['clip']:26s}{fact['delay_frames']:14.3f}{fact['kept_move']:21.3f}{fact['kept_lids']:9.3f}"
            f"{fact['kept_lips']:9.3f}{fact['microseconds_a_face']:10.0f}{fact['percent_of_detect_and_align']:19.2f}"
        )
    print(*notes, sep="\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
