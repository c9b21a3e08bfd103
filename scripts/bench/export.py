"""Writing a data set against plain transcoding of the same videos.

The demo's first direction (single_face.mp4 onto WolfgangLanger_Pexels.mp4, method procrustes) is exported in the
layout of FaceForensics++: original and fake, three qualities each, and the masks. Plain transcoding is the same
encoders on the same two videos, nothing else. They take turns; medians of the clock.

Usage: python scripts/bench/export.py [--rounds 3] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does; read when torch is loaded

import facepipe
from facepipe import weights
from facepipe.datasets import export_dataset
from facepipe.datasets.films import COMPRESSIONS, encoding
from facepipe.demo import CLIPS
from facepipe.video import open_clip, open_writer


def transcoded(clips: list[Path], out: Path) -> None:
    out.mkdir()
    for number, clip in enumerate(clips):
        with open_clip(clip) as reader, ExitStack() as stack:
            writers = []
            for quality in COMPRESSIONS:
                path = out / f"{number}-{quality}.mp4"
                writers.append(stack.enter_context(open_writer(path, reader.info, **encoding(quality))))
            for frame in reader:
                for writer in writers:
                    writer.write(frame.image, frame.pts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args()
    seconds: dict[str, list[float]] = {"export": [], "transcoding": []}
    with tempfile.TemporaryDirectory() as name:
        root, source, target = Path(name), *map(weights.clip, CLIPS)
        facepipe.swap(source=source, target=target, out=root / "run")
        swapped = next((root / "run" / "swapped").glob("*.mp4"))
        for number in range(args.rounds):
            start = time.perf_counter()
            export_dataset([root / "run"], root / f"set-{number}")
            seconds["export"].append(time.perf_counter() - start)
            start = time.perf_counter()
            transcoded([target, swapped], root / f"plain-{number}")
            seconds["transcoding"].append(time.perf_counter() - start)
    medians = {what: statistics.median(times) for what, times in seconds.items()}
    ratio = medians["transcoding"] / medians["export"]
    if args.json:
        print(json.dumps({**medians, "ratio": ratio}))
        return
    print(
        f"export {medians['export']:.1f} s, plain transcoding {medians['transcoding']:.1f} s: {ratio:.2f}x its speed"
    )


if __name__ == "__main__":
    main()
