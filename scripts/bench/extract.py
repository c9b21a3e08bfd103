"""Everything that is taken out of a clip, in frames per second: decode, detect, mesh, track, embed, smooth, crops.

A real clip is scaled to 960x540 by the project's own writer. Whole is what stages detect and align do to it with the
default settings, its two passes of decoding included; it stands beside decoding alone (one pass, to RGB), the same
with the detector on every frame, the same with every face embedded too, and both without embeddings, where the stride
shows. The ways take turns, and the median run of each counts: by the clock, and in processor's time, which other
programs change less. The parts are those of one run of the default way on one thread, in processor's time.

The stride may change the speed and not the faces: on every real clip the faces of both are compared, frame by frame.

Usage: python scripts/bench/extract.py [--frames 120] [--repeat 3] [--threads 2] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does; read when torch is loaded

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from facepipe import weights
from facepipe.config import AlignConfig, DetectConfig, LimitsConfig
from facepipe.cuts import CutFinder
from facepipe.finder import Models, load_models
from facepipe.overlap import ahead
from facepipe.stages.align import align_faces, steady_faces
from facepipe.stages.detect import detect_faces
from facepipe.tracks import link_tracks
from facepipe.types import Faces
from facepipe.video import open_clip, open_writer, with_pixels

CLIP = "WolfgangLanger_Pexels.mp4"
SIZE = (540, 960)
AGREEING = (CLIP, "single_face.mp4", "face_noface.mov", "noface_face.mov", "carphone_pristine.mp4")
EVERY = "detector on every frame"
AHEAD = 3  # as the pipeline has it
ALL = "detector and embedding on every frame"


def scaled(path: Path, out: Path, frames: int) -> Path:
    """The first frames of a clip at `SIZE`."""
    with open_clip(path, stop=frames) as reader:
        info = replace(reader.info, size=SIZE)
        with open_writer(out, info, crf=16) as writer:
            for frame in reader:
                picture = cv2.resize(frame.image, SIZE[::-1], interpolation=cv2.INTER_CUBIC)
                writer.write(np.asarray(picture, np.uint8), frame.pts)
    return out


def decode(clip: Path) -> int:
    with open_clip(clip) as reader:
        return sum(frame.image.ndim == 3 for frame in reader)


def decode_only(clip: Path) -> int:
    with open_clip(clip) as reader:
        return sum(1 for _ in reader)


def detect(clip: Path, models: Models, config: DetectConfig) -> Faces:
    with open_clip(clip) as reader, ahead(with_pixels(reader), AHEAD) as frames:
        return detect_faces(frames, models, config, LimitsConfig(), reader.info.size)


def extract(clip: Path, models: Models, config: DetectConfig) -> Faces:
    """What stages detect and align do, but for the files."""
    faces = detect(clip, models, config)
    with open_clip(clip) as reader, ahead(with_pixels(reader), AHEAD) as frames:
        return align_faces(frames, faces, AlignConfig(), LimitsConfig(), lambda _: None)


class Watch:
    """Processor's seconds that calls take, by name; of the calling thread, or of all threads."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def over(self, name: str, work: Callable[..., Any], *, whole: bool = False) -> Callable[..., Any]:
        clock = time.process_time if whole else time.thread_time

        def timed(*args: Any, **more: Any) -> Any:
            start = clock()
            try:
                return work(*args, **more)
            finally:
                self.seconds[name] = self.seconds.get(name, 0.0) + clock() - start

        return timed


class Watched:
    """A net of which some calls are timed."""

    def __init__(self, net: Any, watch: Watch, names: dict[str, str]) -> None:
        self._net = net
        for call, name in names.items():
            setattr(self, call, watch.over(name, getattr(net, call)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._net, name)


def parts(clip: Path, models: Models, config: DetectConfig) -> dict[str, float]:
    """Milliseconds a frame of each part of one run."""
    watch = Watch()
    watched: Any = Models(
        Watched(models.detector, watch, {"detect": "detector"}),
        Watched(models.landmarker, watch, {"fit": "mesh", "follow": "mesh"}),
        Watched(models.embedder, watch, {"crop": "embedding", "embed": "embedding"}),
    )
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    count = watch.over("decoding, twice", lambda: (decode_only(clip), decode_only(clip))[0], whole=True)()
    faces = watch.over("whole", extract, whole=True)(clip, watched, config)
    raw = detect(clip, models, replace_embedder(config))
    watch.over("linking tracks", link_tracks)(faces)
    watch.over("smoothing", steady_faces)(raw, AlignConfig().smooth)
    scenes = CutFinder()
    with open_clip(clip) as reader:
        for frame in reader:
            watch.over("cuts", lambda frame: scenes.see(frame.small(scenes.SIDE)[0]))(frame)
    told = sum(seconds for name, seconds in watch.seconds.items() if name != "whole")
    watch.seconds["colours, crops and the rest"] = watch.seconds["whole"] - told
    return {name: 1000 * seconds / count for name, seconds in watch.seconds.items()}


def replace_embedder(config: DetectConfig) -> DetectConfig:
    return config.model_copy(update={"embedder": "none"})


def measure(clip: Path, *, repeat: int) -> dict[str, Any]:
    default = DetectConfig()
    models, bare = load_models(default), load_models(replace_embedder(default))
    every = {"stride": 1}
    ways: dict[str, Callable[[], Any]] = {
        "decoding alone": lambda: decode(clip),
        "whole extraction": lambda: extract(clip, models, default),
        f"whole extraction, {EVERY}": lambda: extract(clip, models, default.model_copy(update=every)),
        f"whole extraction, {ALL}": lambda: extract(
            clip, models, default.model_copy(update={**every, "embed_stride": 1})
        ),
        "detection, no embedding": lambda: detect(clip, bare, replace_embedder(default)),
        f"detection, no embedding, {EVERY}": lambda: detect(
            clip, bare, replace_embedder(default).model_copy(update=every)
        ),
    }
    frames = decode(clip)
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(repeat):
        for name, way in ways.items():
            start = time.perf_counter(), time.process_time()
            way()
            seconds[name].append((time.perf_counter() - start[0], time.process_time() - start[1]))
    fps = {name: frames / statistics.median(clock for clock, _ in one) for name, one in seconds.items()}
    busy = {name: 1000 / frames * statistics.median(own for _, own in one) for name, one in seconds.items()}
    alone, whole, found = fps["decoding alone"], fps["whole extraction"], fps["detection, no embedding"]
    return {
        "frames": frames,
        "detector": default.detector,
        "landmarker": default.landmarker,
        "embedder": default.embedder,
        "stride": default.stride,
        "embed_stride": default.embed_stride,
        "rows": [
            {"way": name, "fps": one, "of_decoding_alone": one / alone, "processor_ms": busy[name]}
            for name, one in fps.items()
        ],
        "faster_by": {
            "detection, the detector's stride": found / fps[f"detection, no embedding, {EVERY}"],
            "whole, the detector's stride": whole / fps[f"whole extraction, {EVERY}"],
            "whole, both strides": whole / fps[f"whole extraction, {ALL}"],
        },
        "parts_ms": parts(clip, models, default),
        "agreement": list(agreement(bare)),
    }


def agreement(models: Models) -> Iterator[dict[str, Any]]:
    """How far the faces found with the default stride are those found with the detector on every frame."""
    config = replace_embedder(DetectConfig())
    for name in AGREEING:
        clip = weights.clip(name)
        some, all_ = (detect(clip, models, config.model_copy(update=more)) for more in ({}, {"stride": 1}))
        missed, extra, apart = compared(some, all_)
        yield {
            "clip": name,
            "faces": len(all_),
            "missed": missed,
            "extra": extra,
            "landmarks_percent": {"median": float(np.median(apart)), "most": float(apart.max())},
            "tracks": [len(np.unique(one.track)) for one in (some, all_)],
        }


def compared(some: Faces, all_: Faces) -> tuple[int, int, NDArray[np.float64]]:
    """Faces of `all_` that are missing in `some`, those beyond, and the distances of the landmarks of the others, in
    per cent of the distance between the outer eyes; of two faces in a frame, the largest is compared with the largest.
    """
    keys = [
        {(int(f), int(k)): row for row, (f, k) in enumerate(zip(one.frame, one.face, strict=True))}
        for one in (some, all_)
    ]
    both = sorted(keys[0].keys() & keys[1].keys())
    a = some.landmarks[[keys[0][key] for key in both]]
    b = all_.landmarks[[keys[1][key] for key in both]]
    eyes = np.linalg.norm(b[:, 45] - b[:, 36], axis=-1)
    apart = 100 * np.linalg.norm(a - b, axis=-1).mean(1) / eyes
    return len(keys[1].keys() - keys[0].keys()), len(keys[0].keys() - keys[1].keys()), apart.astype(np.float64)


def show(result: dict[str, Any], threads: int, repeat: int) -> None:
    print(f"{CLIP} at {SIZE[1]}x{SIZE[0]}, {result['frames']} frames, {threads} thread(s), medians of {repeat}")
    print(
        f"detector {result['detector']} at every {result['stride']}th frame, landmarks {result['landmarker']}, "
        f"embedding {result['embedder']} of every {result['embed_stride']}th"
    )
    print(f"{'':59s} frames/s  of decoding alone  processor's ms a frame")
    for row in result["rows"]:
        print(f"{row['way']:59s}{row['fps']:9.1f}  {row['of_decoding_alone']:19.1%}{row['processor_ms']:24.1f}")
    print("faster by " + ", ".join(f"{ratio:.1f}x ({name})" for name, ratio in result["faster_by"].items()))
    print("\nprocessor's ms a frame, by part")
    for name, ms in result["parts_ms"].items():
        print(f"{name:28s}{ms:8.2f}")
    print("\nfaces with the stride against those of the detector on every frame")
    print("                            faces  missed  extra  landmarks apart, % of the eyes' distance  tracks")
    for row in result["agreement"]:
        apart = row["landmarks_percent"]
        print(
            f"{row['clip']:28s}{row['faces']:5d}{row['missed']:8d}{row['extra']:7d}  "
            f"median {apart['median']:.2f}, most {apart['most']:.2f}{'':18s}{row['tracks'][0]} and {row['tracks'][1]}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=120, help="the first so many of the clip (default 120 of 472)")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each way (default 3)")
    parser.add_argument("--threads", type=int, default=2, help="for OpenCV and torch alike (default 2)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    args = parser.parse_args()
    cv2.setNumThreads(args.threads)
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        clip = scaled(weights.clip(CLIP), Path(folder) / "scaled.mp4", args.frames)
        result = measure(clip, repeat=args.repeat)
    if args.json:
        print(json.dumps({"clip": CLIP, "size": SIZE, "threads": args.threads, **result}, indent=2))
    else:
        show(result, args.threads, args.repeat)
    return int(any(row["missed"] or row["extra"] for row in result["agreement"]))


if __name__ == "__main__":
    raise SystemExit(main())
