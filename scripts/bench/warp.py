"""Warp a face crop out of a 1280 x 720 frame and paste it back: how long, and how much of it outside OpenCV.

Time inside OpenCV is measured by replacing the modules' ``cv2`` with one whose functions carry timers; a share is that
of one and the same call, and the timers' own cost counts as outside. "In place" pastes into the frame itself, without
copying it first. scikit-image's ``warp`` with its Gaussian anti-aliasing does the same crop for comparison.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import skimage.filters
import skimage.transform

from facepipe import geometry, image
from facepipe.image import _pixels, warping

reference: Any = skimage


class TimedModule:
    """A module whose functions add up the time spent in them."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self.seconds = 0.0

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._module, name)
        if not callable(member):
            return member

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return member(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - start

        return timed


def milliseconds(work: Callable[[], object], repeats: int) -> float:
    """Median time of one call."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return float(np.median(times) * 1e3)


def outside_share(work: Callable[[], object], repeats: int) -> float:
    """Median share of one call's time that is not spent in OpenCV's functions."""
    shares = []
    for _ in range(repeats):
        timed = TimedModule(cv2)
        for module in (warping, _pixels):
            vars(module)["cv2"] = timed
        start = time.perf_counter()
        try:
            work()
        finally:
            for module in (warping, _pixels):
                vars(module)["cv2"] = cv2
        shares.append(1 - timed.seconds / (time.perf_counter() - start))
    return float(np.median(shares))


def face_matrix(scale: float, crop: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Turned by ten degrees, the middle of the frame in the middle of the crop."""
    angle = np.radians(10.0)
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    linear = np.array([[c, -s], [s, c]])
    return np.column_stack([linear, (crop - 1) / 2 - linear @ [640, 360]])


def measure(scale: float, crop: int, repeats: int) -> dict[str, float]:
    """One row: a face that is `scale` times as large in the crop as in the frame."""
    noise = np.random.default_rng(0).integers(0, 256, (720, 1280, 3), dtype=np.uint8)
    frame = np.asarray(cv2.GaussianBlur(noise, (0, 0), 2.0))
    matrix = face_matrix(scale, crop)
    mask = image.soften(np.ones((crop, crop), np.float32), erode=4, feather=16)
    cut = image.warp(frame, matrix, (crop, crop), border="replicate")

    def both() -> None:
        image.warp(frame, matrix, (crop, crop), border="replicate")
        image.paste(frame, cut, matrix, mask)

    scratch = frame.copy()

    def in_place() -> None:
        image.warp(frame, matrix, (crop, crop), border="replicate")
        image.paste_into(scratch, cut, matrix, mask)

    def theirs() -> None:
        smooth = frame
        if scale < 1:
            smooth = reference.filters.gaussian(frame, (1 / scale - 1) / 2, channel_axis=-1, preserve_range=True)
        back = reference.transform.AffineTransform(np.vstack([geometry.invert(matrix), [0, 0, 1]]))
        reference.transform.warp(smooth, back, output_shape=(crop, crop), order=1, mode="edge", preserve_range=True)

    ours = milliseconds(lambda: image.warp(frame, matrix, (crop, crop), border="replicate"), repeats)
    other = milliseconds(theirs, max(3, repeats // 20))
    return {
        "scale": scale,
        "warp_paste_ms": milliseconds(both, repeats),
        "outside_share": outside_share(both, repeats),
        "in_place_ms": milliseconds(in_place, repeats),
        "in_place_outside_share": outside_share(in_place, repeats),
        "warp_ms": ours,
        "skimage_warp_ms": other,
        "ratio": other / ours,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crop", type=int, default=256, help="side of the crop in pixels")
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1, help="OpenCV's threads")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args()
    cv2.setNumThreads(args.threads)
    rows = [measure(scale, args.crop, args.repeats) for scale in (2.0, 1.0, 0.7, 0.4)]
    if args.json:
        print(json.dumps({"crop": args.crop, "threads": args.threads, "rows": rows}, indent=2))
        return
    print(f"{args.crop} x {args.crop} crop of a 1280 x 720 frame, {args.threads} OpenCV thread(s), medians")
    print("scale  warp+paste ms  outside  in place ms  outside  warp ms  scikit-image ms  ratio")
    for row in rows:
        times = f"{row['warp_paste_ms']:13.2f}  {row['outside_share']:7.1%}"
        times += f"  {row['in_place_ms']:11.2f}  {row['in_place_outside_share']:7.1%}"
        others = f"{row['warp_ms']:7.2f}  {row['skimage_warp_ms']:15.1f}"
        print(f"{row['scale']:5.1f}  {times}  {others}  {row['ratio']:5.0f}")


if __name__ == "__main__":
    main()
