"""What the invisible mark costs, and what it outlives.

The demo's first direction (single_face.mp4 onto WolfgangLanger_Pexels.mp4, method procrustes) is swapped without loss,
with the mark and without it, in turns: processor's seconds of the swap, and PSNR between the two inside of the mask.
The marked film is then encoded anew, made half as large, cropped, cut; each is read as `facepipe verify` does it, from
the first ten seconds on, and at last whole. Bit errors are those of its 96 signs, before the code mends them. Clips
without a mark are read too: none may be found.

With --library the same 32 bits are put into whole frames by invisible-watermark (`pip install invisible-watermark`;
method dwtDctSvd, its most robust one without a net) and read by a vote of all frames, beside ours.

Usage: python scripts/bench/mark.py [--strength 1] [--library] [--json]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does; read when torch is loaded

import av
import cv2
import numpy as np
from numpy.typing import NDArray

import facepipe
from facepipe import weights
from facepipe.config import DetectConfig
from facepipe.demo import CLIPS
from facepipe.finder import Models, load_models
from facepipe.provenance import read_label
from facepipe.video import open_clip, open_writer
from facepipe.watermark import payload_of, read_mark
from facepipe.watermark.coding import LENGTH, encode
from facepipe.watermark.reading import readers_of

Picture = NDArray[np.uint8]
UNMARKED = (*CLIPS, "face_noface.mov", "noface_face.mov", "carphone_pristine.mp4", "carphone_distorted.mp4")


def halved(image: Picture) -> Picture:
    half: Any = cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    return np.asarray(half, np.uint8)


def cropped(image: Picture) -> Picture:
    """Without a tenth of its height and width."""
    height, width = image.shape[:2]
    y, x = round(height * 0.05), round(width * 0.05)
    return np.ascontiguousarray(image[y : height - y, x : width - x])


def same(image: Picture) -> Picture:
    return image


WAYS: dict[str, tuple[int, Callable[[Picture], Picture], int | None]] = {
    "H.264 crf 18": (18, same, None),
    "H.264 crf 23": (23, same, None),
    "crf 23, half size": (23, halved, None),
    "crf 23, cropped 10 %": (23, cropped, None),
    "crf 23, half size and cropped": (23, lambda image: halved(cropped(image)), None),
    "crf 23, first 4 s": (23, same, 100),
    "H.264 crf 28": (28, same, None),
    "H.264 crf 32": (32, same, None),
    "H.264 crf 36": (36, same, None),
    "H.264 crf 40": (40, same, None),
}


def encoded(clip: Path, out: Path, crf: int, change: Callable[[Picture], Picture], stop: int | None) -> Path:
    """As anybody's x264 does it by default."""
    with open_clip(clip, stop=stop) as reader, av.open(str(out), "w") as container:
        stream: Any = container.add_stream("libx264", rate=reader.info.rate, options={"crf": str(crf)})
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = reader.info.time_base
        for frame in reader:
            picture = av.VideoFrame.from_ndarray(change(frame.image), format="rgb24")
            if not stream.codec_context.is_open:
                stream.height, stream.width = picture.height, picture.width
            picture.pts, picture.time_base = frame.pts, reader.info.time_base
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return out


def bit_errors(clip: Path, models: Models, payload: int) -> float:
    """Share of the wrong signs, of the whole clip's loudest track."""
    with open_clip(clip) as reader:
        tracks = list(readers_of(reader, models))[-1]
    heard = max((one.heard() for one in tracks.values()), key=lambda one: one[1])[0]
    return float((heard * encode(payload) < 0).mean())


def by_library(clip: Path, out: Path, payload: int) -> float:
    """The clip with the library's mark in every frame, without loss; the processor's milliseconds of a frame."""
    from imwatermark import WatermarkEncoder  # type: ignore[import-not-found, unused-ignore]

    encoder = WatermarkEncoder()
    encoder.set_watermark("bits", [payload >> i & 1 for i in range(32)])
    spent, count = 0.0, 0
    with open_clip(clip) as reader, open_writer(out, reader.info, codec="lossless") as writer:
        for frame in reader:
            start = time.process_time()
            marked = encoder.encode(np.ascontiguousarray(frame.image[..., ::-1]), "dwtDctSvd")
            spent, count = spent + time.process_time() - start, count + 1
            writer.write(np.ascontiguousarray(marked[..., ::-1]), frame.pts)
    return 1000 * spent / count


def library_errors(clip: Path, payload: int) -> float | None:
    """Share of the library's 32 bits that a vote of all frames gets wrong; None for frames that it refuses."""
    from imwatermark import WatermarkDecoder  # type: ignore[import-not-found, unused-ignore]

    decoder, votes = WatermarkDecoder("bits", 32), np.zeros(32)
    with open_clip(clip) as reader:
        if math.prod(reader.info.size) < 256 * 256:
            return None
        for frame in reader:
            votes += np.asarray(decoder.decode(np.ascontiguousarray(frame.image[..., ::-1]), "dwtDctSvd"), float) - 0.5
    return float(np.mean((votes > 0) != [bool(payload >> i & 1) for i in range(32)]))


def swapped(out: Path, strength: float) -> tuple[Path, float]:
    """The swapped film, and the processor's seconds of its swap."""
    for marker in (out / "swapped").glob("*.json"):
        marker.unlink()
    start = time.process_time()
    result = facepipe.swap(out=out, swap={"mark": strength, "codec": "lossless"})
    if result.failed:
        raise SystemExit(result.failed[0].reason)
    return next((out / "swapped").glob("*.mp4")), time.process_time() - start


def psnr_inside(a: Path, b: Path, mask: Path) -> float:
    total = count = 0.0
    with open_clip(a) as one, open_clip(b) as other, open_clip(mask) as masks:
        for x, y, m in zip(one, other, masks, strict=True):
            inside = m.image[..., 0] > 127
            total += float(((x.image[inside].astype(float) - y.image[inside]) ** 2).sum())
            count += 3 * inside.sum()
    return 10 * math.log10(255**2 * count / total)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strength", type=float, default=1.0)
    parser.add_argument("--library", action="store_true", help="invisible-watermark beside ours")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args()
    models = load_models(DetectConfig(embedder="none"))
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        out = root / "run"
        facepipe.align(source=weights.clip(CLIPS[0]), target=weights.clip(CLIPS[1]), out=out)
        seconds: dict[float, list[float]] = {0.0: [], args.strength: []}
        kept = {}
        for _ in range(3):
            for strength, times in seconds.items():
                film, spent = swapped(out, strength)
                times.append(spent)
                kept[strength] = root / f"{strength}.mp4"
                kept[strength].write_bytes(film.read_bytes())
        marked = kept[args.strength]
        label = read_label(film)
        assert label is not None
        payload = payload_of(label["run"])
        cost = sorted(seconds[args.strength])[1] / sorted(seconds[0.0])[1] - 1
        psnr = psnr_inside(kept[0.0], marked, next((out / "masks").glob("*.mkv")))
        rows: list[dict[str, Any]] = []
        other = root / "other.mp4"
        library: dict[str, float] = {}
        if args.library:
            library["ms"] = by_library(kept[0.0], other, payload)
            library["psnr"] = psnr_inside(kept[0.0], other, next((out / "masks").glob("*.mkv")))
        for way, (crf, change, stop) in WAYS.items():
            clip = encoded(marked, root / "anew.mp4", crf, change, stop)
            found = read_mark(clip, models)
            rows.append(
                {
                    "way": way,
                    "bit_errors": bit_errors(clip, models, payload),
                    "read": found is not None and found.payload == payload,
                    "loudness": None if found is None else found.loudness,
                }
            )
            if args.library:
                again = encoded(other, root / "anew.mp4", crf, change, stop)
                rows[-1]["library"] = library_errors(again, payload)
        alarms = [clip for clip in UNMARKED if read_mark(weights.clip(clip), models) is not None]
    if args.json:
        print(
            json.dumps(
                {"cost": cost, "psnr": psnr, "rows": rows, "false_alarms": alarms, "library": library}, indent=2
            )
        )
        return
    inside, more = f"{psnr:.1f} dB inside of the mask", f"{100 * cost:.1f} % more processor's time of the swap"
    print(f"strength {args.strength:g}: {inside}, {more}")
    if library:
        print(f"invisible-watermark: {library['psnr']:.1f} dB inside of the mask, {library['ms']:.1f} ms a frame")
    print(f"{'encoded anew as':30s}  bit errors of {LENGTH}  read  loudness")
    for row in rows:
        loud = "-" if row["loudness"] is None else f"{row['loudness']:.1f}"
        print(
            f"{row['way']:30s}  {row['bit_errors']:16.3f}  {'yes' if row['read'] else 'no':>4s}  {loud:>8s}"
            + _told(row)
        )
    print(f"false alarms on {len(UNMARKED)} clips without a mark: {len(alarms)}")


def _told(row: dict[str, Any]) -> str:
    if "library" not in row:
        return ""
    return "  library: " + ("refused" if row["library"] is None else f"{row['library']:.3f} of 32")


if __name__ == "__main__":
    main()
