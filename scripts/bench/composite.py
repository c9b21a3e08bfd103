"""The composite by colour transfer and blend: time, the step at the mask's edge, pumping, sharpness and grain.

The faces are those that a finished run (`--run`, only read: it is worked on in a copy) lays into its frames, or else a
drawn one. "plain" is the patch as it is with a hard mask over the same pixels. Columns:

- ms: of one face, by the processor's clock (one thread).
- edge: colour distance (CIE 1976, Lab) between the three pixels inside of the mask's edge and the three outside, each
  averaged along the edge over about a fortieth of its length; and how many times smaller than plain's.
- across: the same with the first three pixels that are the swapped face's alone (mask above .98) as the inside. The
  frame as it was has its own distance there, in the row "target".
- pumping: deviation over time of the change of the face's mean colour from a frame to the next (Lab).
- sharp, grain: deviation of the Laplacian, and noise (Immerkær), both as a share of the target's under the mask.

Usage: python scripts/bench/composite.py [--run RUN] [--frames 60] [--space lab] [--pictures DIR] [--json]
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

import facepipe
from facepipe import image
from facepipe.composite import Compositor, Moment, Patch, Region
from facepipe.config import SwapConfig, load
from facepipe.stages import swap as stage

Picture = NDArray[np.uint8]
Composite = Callable[[Picture, Patch, int], tuple[Picture, Region]]

BAND = 3
"""Pixels of each band."""


class _EnoughError(Exception):
    """All that was asked for is there."""


def patches_of(run: Path, count: int) -> list[tuple[Picture, Patch]]:
    """The first frames of a run that are swapped, and their patches, which a stand-in for the compositor keeps."""
    kept: list[tuple[Picture, Patch]] = []

    class Keep(Compositor):
        def __call__(
            self, frame: Picture, patch: Patch, index: int = 0, moment: Moment | None = None
        ) -> tuple[Picture, Region]:
            kept.append((frame, patch))
            if len(kept) == count:
                raise _EnoughError
            return super().__call__(frame, patch, index, moment)

    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "run"
        shutil.copytree(run, copy, ignore=shutil.ignore_patterns("swapped", "masks", ".lock"))
        vars(stage)["Compositor"] = Keep
        try:
            result = facepipe.swap(load(copy / "config.toml").model_copy(update={"out": copy}))
        finally:
            vars(stage)["Compositor"] = Compositor
    if not kept:
        raise SystemExit(f"{run}: no face was swapped: {[one.reason for one in result.failed]}")
    return kept


def drawn(count: int) -> list[tuple[Picture, Patch]]:
    """A soft picture that drifts, with grain and a light that wavers, and a face of other colours for it."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:360, :640].astype(np.float32)
    matrix = np.array([[1.0, 0, -220], [0, 1, -60]])
    cut = (slice(60, 300), slice(220, 420))
    mask = (np.hypot((x[cut] - 320) / 85, (y[cut] - 180) / 105) < 1).astype(np.float32)
    found = []
    for i in range(count):
        parts = [np.sin((x + i) / a) + np.cos((y - i) / b) for a, b in ((31, 43), (57, 29), (23, 61))]
        scene = np.stack(parts, -1) * 20 + (170, 130, 110)
        light = 1 + 0.03 * np.sin(i / 5)
        frame = np.clip(scene * light + random.normal(0, 2, scene.shape), 0, 255).astype(np.uint8)
        face = np.clip(scene[cut] * (0.7, 0.8, 0.95) + (10, 5, 20), 0, 255).astype(np.uint8)
        found.append((frame, Patch(face, mask, matrix)))
    return found


def lab(picture: Picture) -> NDArray[np.float32]:
    return np.asarray(cv2.cvtColor(picture.astype(np.float32) / np.float32(255), cv2.COLOR_RGB2Lab), np.float32)


def step_between(values: NDArray[np.float32], inner: NDArray[np.bool_], outer: NDArray[np.bool_], reach: int) -> float:
    """Mean distance of the two bands' colours, each averaged over a window, where a window has both."""
    window = (2 * reach + 1, 2 * reach + 1)

    def averaged(band: NDArray[np.bool_]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        weight = band.astype(np.float32)
        total = cv2.boxFilter(values * weight[..., None], -1, window, normalize=False)
        mass = cv2.boxFilter(weight, -1, window, normalize=False)
        return np.asarray(total / np.maximum(mass, 1)[..., None], np.float32), np.asarray(mass, np.float32)

    (a, mass_a), (b, mass_b) = averaged(inner), averaged(outer)
    there = inner & (mass_a > reach) & (mass_b > reach)
    return float(np.linalg.norm(a - b, axis=-1)[there].mean()) if there.any() else float("nan")


def bands(region: Region, size: tuple[int, int]) -> tuple[NDArray[np.float32], list[NDArray[np.bool_]]]:
    """The mask in the frame; the bands inside of its edge, inside of its feather, and outside."""
    mask = np.zeros(size, np.float32)
    mask[region.rows, region.columns] = region.mask
    cores = [mask > 0, mask > 0.98]
    inner = [core & (cv2.distanceTransform(core.view(np.uint8), cv2.DIST_L2, 5) < BAND + 0.5) for core in cores]
    out = (cv2.distanceTransform((~cores[0]).view(np.uint8), cv2.DIST_L2, 5) < BAND + 0.5) & ~cores[0]
    return mask, [*inner, out]


def plain(frame: Picture, patch: Patch, index: int) -> tuple[Picture, Region]:
    """The patch as it is, wherever the composite would change anything."""
    _, region = Compositor(SwapConfig(color="none", blend="feather"))(frame, patch, index)
    hard = Region(region.rows, region.columns, (region.mask > 0).astype(np.float32), region.face)
    height, width = hard.mask.shape
    to_region = np.array([[1.0, 0, -hard.columns.start], [0, 1, -hard.rows.start]])
    matrix = np.linalg.inv(np.vstack([patch.frame_to_patch, [0, 0, 1]]))
    face = image.warp(patch.image, to_region @ matrix, (height, width), border="replicate")
    result = frame.copy()
    result[hard.rows, hard.columns] = image.blend_feather(face, frame[hard.rows, hard.columns], hard.mask)
    return result, region


def untouched(frame: Picture, patch: Patch, index: int) -> tuple[Picture, Region]:
    return frame, Compositor(SwapConfig(color="none", blend="feather"))(frame, patch, index)[1]


def measure(faces: list[tuple[Picture, Patch]], composite: Composite) -> tuple[dict[str, float], Picture]:
    """The numbers of one method, and the last frame."""
    columns: dict[str, list[Any]] = {name: [] for name in ("ms", "edge", "across", "mean", "sharp", "grain")}
    for i, (frame, patch) in enumerate(faces):
        start = time.thread_time()
        result, region = composite(frame, patch, i)
        columns["ms"].append((time.thread_time() - start) * 1e3)
        mask, (edge, feathered, out) = bands(region, frame.shape[:2])
        if not np.array_equal(result[mask == 0], frame[mask == 0]):
            raise SystemExit("a pixel outside of the mask was changed")
        values, core = lab(result), mask > 0.98
        reach = max(4, int(np.sqrt(mask.sum()) * np.pi / 80))
        columns["edge"].append(step_between(values, edge, out, reach))
        columns["across"].append(step_between(values, feathered, out, 2 * reach))
        columns["mean"].append(values[core].mean(0))
        weight = core.astype(np.float32)
        columns["sharp"].append(image.sharpness(result, weight) / image.sharpness(frame, weight))
        columns["grain"].append(image.texture(result, weight).grain / image.texture(frame, weight).grain)
    change = np.diff(np.array(columns.pop("mean")), axis=0)
    row = {name: float(np.mean(values)) for name, values in columns.items()}
    row["ms"] = float(np.median(columns["ms"]))
    return row | {"pumping": float(np.sqrt(change.var(0).sum()))}, result


def methods(space: Any) -> Iterator[tuple[str, SwapConfig]]:
    choices = {name: get_args(field.annotation) for name, field in SwapConfig.model_fields.items()}
    for color in choices["color"]:
        for blend in choices["blend"]:
            config = SwapConfig(color=color, blend=blend, color_space=space, grain=False)
            yield f"{color} {blend}", config
    yield "default", SwapConfig()
    yield "default, grain", SwapConfig(grain=True)
    yield "default, no grain", SwapConfig(grain=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="a finished run folder; default: drawn faces")
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--space", choices=("lab", "linear", "rgb"), default="lab", help="swap.color_space")
    parser.add_argument("--pictures", type=Path, help="write the last frame of each method here")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    faces = patches_of(args.run, args.frames) if args.run else drawn(args.frames)
    every: list[tuple[str, Composite]] = [("target", untouched), ("plain", plain)]
    every += [(name, Compositor(config)) for name, config in methods(args.space)]
    rows = {}
    for name, composite in every:
        rows[name], last = measure(faces, composite)
        if args.pictures:
            args.pictures.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(args.pictures / f"{name.replace(' ', '-')}.png"), last[..., ::-1])
    if args.json:
        print(json.dumps({"run": str(args.run), "space": args.space, "frames": len(faces), "rows": rows}, indent=2))
        return
    print(f"{args.run.name if args.run else 'drawn faces'}, {len(faces)} frames, colours in {args.space}")
    print("colour and blend        ms   edge  ratio  across  ratio  pumping  sharp  grain")
    base = rows["plain"]
    for name, row in rows.items():
        edge, across = (f"{row[key]:5.2f}  {base[key] / row[key]:5.1f}" for key in ("edge", "across"))
        texture = f"{row['pumping']:7.3f}  {row['sharp']:5.2f}  {row['grain']:5.2f}"
        print(f"{name:20s}  {row['ms']:4.1f}  {edge}   {across}  {texture}")


if __name__ == "__main__":
    main()
