"""PSNR and SSIM of 1080p frames against scikit-image and torchmetrics on the same threads; results must agree."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import skimage.metrics
import torch
from numpy.typing import NDArray
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from facepipe import metrics

Work = Callable[[], Any]

reference: Any = skimage.metrics
PUBLISHED = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}


def best_milliseconds(work: Callable[[], object], repeats: int) -> float:
    """Shortest time of one call: the one that other programs disturbed least."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times) * 1e3


def frames(height: int, width: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A smooth picture with detail, and the same with noise of 8 grey levels."""
    random = np.random.default_rng(0)
    noise = cv2.GaussianBlur(random.normal(size=(height, width, 3)), (0, 0), 2)
    picture = 128 + 300 * noise
    pair = (np.clip(x, 0, 255).astype(np.uint8) for x in (picture, picture + random.normal(0, 8, picture.shape)))
    return next(pair), next(pair)


def measure(repeats: int) -> list[dict[str, Any]]:
    a, b = frames(1080, 1920)
    x, y = (torch.from_numpy(image).permute(2, 0, 1)[None].float().contiguous() for image in (a, b))
    rows: list[tuple[str, Work, Work, Work | None]] = [
        (
            "psnr",
            lambda: metrics.psnr(a, b, data_range=255),
            lambda: reference.peak_signal_noise_ratio(a, b, data_range=255),
            lambda: peak_signal_noise_ratio(x, y, data_range=255.0),
        ),
        (
            "ssim gaussian",
            lambda: metrics.ssim(a, b, data_range=255),
            lambda: reference.structural_similarity(a, b, data_range=255, channel_axis=2, **PUBLISHED),
            lambda: structural_similarity_index_measure(x, y, data_range=255.0),
        ),
        (
            "ssim uniform 7",
            lambda: metrics.ssim(a, b, data_range=255, window="uniform"),
            lambda: reference.structural_similarity(a, b, data_range=255, channel_axis=2),
            None,
        ),
    ]
    results = []
    for name, ours, skimages, torchs in rows:
        row: dict[str, Any] = {"metric": name, "difference_to_skimage": abs(float(ours()) - float(skimages()))}
        row["ours_ms"] = best_milliseconds(ours, repeats)
        row["skimage_ms"] = best_milliseconds(skimages, max(2, repeats // 4))
        row["torchmetrics_ms"] = None if torchs is None else best_milliseconds(torchs, max(2, repeats // 4))
        results.append(row)
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1, help="for OpenCV and torch alike")
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args()
    cv2.setNumThreads(args.threads)
    torch.set_num_threads(args.threads)
    rows = measure(args.repeats)
    if args.json:
        print(json.dumps(rows, indent=2))
    else:
        print(f"1080p RGB uint8, {args.threads} thread(s)")
        print("metric           ours ms  scikit-image ms  torchmetrics ms  difference to scikit-image")
        for row in rows:
            theirs = "-" if row["torchmetrics_ms"] is None else f"{row['torchmetrics_ms']:.1f}"
            print(
                f"{row['metric']:15s}  {row['ours_ms']:7.1f}  {row['skimage_ms']:15.1f}  {theirs:>15s}"
                f"  {row['difference_to_skimage']:.1e}"
            )
    return int(any(row["difference_to_skimage"] > 1e-6 for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
