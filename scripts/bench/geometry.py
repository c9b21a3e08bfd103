"""Umeyama's fit on many sets of points in one call, against a loop over scikit-image; both results must be equal."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import skimage.transform
from numpy.typing import NDArray

from facepipe import geometry

reference: Any = skimage.transform

Points = NDArray[np.float64]


def best_milliseconds(work: Callable[[], object], repeats: int) -> float:
    """Shortest time of one call: the one that other programs disturbed least."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times) * 1e3


def shapes(sets: int, points: int, dimensions: int) -> tuple[Points, Points]:
    """Random shapes of about 100 pixels, and copies that are turned, scaled, moved and disturbed by one pixel."""
    rng = np.random.default_rng(0)
    src = rng.normal(300.0, 50.0, (sets, points, dimensions))
    turns = np.linalg.qr(rng.normal(size=(sets, dimensions, dimensions)))[0]
    turns[..., -1] *= np.linalg.det(turns)[:, None]
    scale = rng.uniform(0.5, 2.0, (sets, 1, 1))
    dst = scale * src @ np.swapaxes(turns, -1, -2) + rng.uniform(-200.0, 200.0, (sets, 1, dimensions))
    return src, dst + rng.normal(size=dst.shape)


def scikit_image(src: Points, dst: Points) -> Points:
    """The same fits, one after the other."""
    cls = reference.SimilarityTransform
    if hasattr(cls, "from_estimate"):  # 0.26 and later
        return np.stack([cls.from_estimate(a, b).params for a, b in zip(src, dst, strict=True)])
    fits = [cls(dimensionality=src.shape[-1]) for _ in src]
    for fit, a, b in zip(fits, src, dst, strict=True):
        fit.estimate(a, b)
    return np.stack([fit.params for fit in fits])


def measure(sets: int, points: int, dimensions: int, repeats: int) -> dict[str, float]:
    src, dst = shapes(sets, points, dimensions)
    difference = float(np.abs(geometry.umeyama(src, dst) - scikit_image(src, dst)).max())
    ours = best_milliseconds(lambda: geometry.umeyama(src, dst), repeats)
    theirs = best_milliseconds(lambda: scikit_image(src, dst), 2)
    return {
        "sets": sets,
        "points": points,
        "dimensions": dimensions,
        "ours_ms": ours,
        "skimage_ms": theirs,
        "ratio": theirs / ours,
        "max_difference": difference,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", type=int, default=10_000)
    parser.add_argument("--points", type=int, default=68)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args()
    rows = [measure(args.sets, args.points, dimensions, args.repeats) for dimensions in (2, 3)]
    if args.json:
        print(json.dumps(rows, indent=2))
    else:
        print(f"{args.sets} sets of {args.points} points")
        print("dimensions  ours ms  scikit-image ms  ratio  largest difference")
        for row in rows:
            print(
                f"{row['dimensions']:10d}  {row['ours_ms']:7.1f}  {row['skimage_ms']:15.0f}  {row['ratio']:5.0f}"
                f"  {row['max_difference']:18.1e}"
            )
    return int(any(row["max_difference"] > 1e-9 for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
