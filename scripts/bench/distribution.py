"""Fréchet distance against scipy's sqrtm, streaming statistics against keeping all; results must agree."""

from __future__ import annotations

import argparse
import json
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from facepipe.metrics import FeatureStatistics, frechet_distance

Array = NDArray[np.float32]
Moments = tuple[NDArray[np.float64], NDArray[np.float64]]


def best_seconds(work: Callable[[], object], repeats: int) -> float:
    """Shortest time of one call: the one that other programs disturbed least."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def peak_megabytes(work: Callable[[], object]) -> float:
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 1e6


def features(rows: int, dimension: int, seed: int) -> Array:
    """Correlated features whose variances fall off like those of a net."""
    random = np.random.default_rng(seed)
    mix = np.random.default_rng(99).standard_normal((dimension, dimension)) / np.sqrt(dimension)
    scale = np.arange(1, dimension + 1) ** -0.5
    return np.asarray((random.standard_normal((rows, dimension)) * scale) @ mix + 0.05 * seed, np.float32)


def by_sqrtm(first: Moments, second: Moments) -> float:
    root = np.real(linalg.sqrtm(first[1] @ second[1]))
    return float(((first[0] - second[0]) ** 2).sum() + np.trace(first[1] + second[1] - 2 * root))


def kept(x: Array, batch: int) -> Moments:
    parts = [x[i : i + batch].copy() for i in range(0, len(x), batch)]
    rows = np.concatenate(parts).astype(np.float64)
    return rows.mean(axis=0), np.cov(rows, rowvar=False)


def streamed(x: Array, batch: int) -> Moments:
    statistics = FeatureStatistics()
    for i in range(0, len(x), batch):
        statistics.update(x[i : i + batch])
    return statistics.mean, statistics.covariance


def measure(rows: int, dimension: int, batch: int, repeats: int) -> dict[str, Any]:
    x, y = features(rows, dimension, 0), features(rows, dimension, 1)
    first, second = streamed(x, batch), streamed(y, batch)
    exact = kept(x, batch)
    ours, theirs = frechet_distance(*first, *second), by_sqrtm(first, second)
    return {
        "rows": rows,
        "dimension": dimension,
        "frechet_s": best_seconds(lambda: frechet_distance(*first, *second), repeats),
        "sqrtm_s": best_seconds(lambda: by_sqrtm(first, second), 1),
        "frechet_relative_difference": abs(ours - theirs) / theirs,
        "streamed_s": best_seconds(lambda: streamed(x, batch), repeats),
        "kept_s": best_seconds(lambda: kept(x, batch), repeats),
        "streamed_mb": peak_megabytes(lambda: streamed(x, batch)),
        "kept_mb": peak_megabytes(lambda: kept(x, batch)),
        "covariance_relative_difference": float(np.abs(first[1] - exact[1]).max() / np.abs(exact[1]).max()),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--dimension", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args()
    row = measure(args.rows, args.dimension, args.batch, args.repeats)
    if args.json:
        print(json.dumps(row, indent=2))
    else:
        print(f"{args.rows} features of {args.dimension} dimensions in batches of {args.batch}")
        print(f"Fréchet distance   {row['frechet_s']:6.2f} s   sqrtm {row['sqrtm_s']:6.2f} s", end="   ")
        print(f"{row['sqrtm_s'] / row['frechet_s']:.1f}x, difference {row['frechet_relative_difference']:.1e}")
        print(f"statistics         {row['streamed_s']:6.2f} s   kept  {row['kept_s']:6.2f} s", end="   ")
        print(f"difference {row['covariance_relative_difference']:.1e}")
        print(f"                   {row['streamed_mb']:6.0f} MB  kept  {row['kept_mb']:6.0f} MB")
    agree = row["frechet_relative_difference"] < 1e-6 and row["covariance_relative_difference"] < 1e-10
    return int(not agree)


if __name__ == "__main__":
    raise SystemExit(main())
