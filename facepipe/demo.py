"""The demo: two small real clips, each person swapped into the other's clip, by several methods, all scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from facepipe import pipeline, weights
from facepipe.types import Image
from facepipe.video import open_clip, write_image

__all__ = ["CLIPS", "Method", "contact_sheet", "run_demo"]

Method = Literal["procrustes", "eigenface", "gan"]

_BESIDE: Mapping[Method, tuple[Method, ...]] = {
    "procrustes": (),
    "eigenface": ("eigenface",),
    "gan": ("eigenface", "gan"),
}

CLIPS = ("single_face.mp4", "WolfgangLanger_Pexels.mp4")


def run_demo(
    out: Path,
    *,
    method: Method = "gan",
    minutes: float = 3.0,
    progress: pipeline.Progress | None = None,
) -> tuple[list[pipeline.Result], list[Path]]:
    """Swap each of `CLIPS` onto the other without training, and the first onto the second with a trained net too.

    Parameters
    ----------
    out : Path
        Gets a run folder for each direction and method.
    method : {"gan", "eigenface", "procrustes"}
        ``procrustes`` leaves out all else; ``eigenface`` and ``gan`` are made beside it.
    minutes : float
        Of training, for ``gan``.
    progress : callable, optional
        See `facepipe.pipeline.Progress`.

    Returns
    -------
    results : list of Result
        One a run.
    pictures : list of Path
        A contact sheet and a swapped video for each.

    Raises
    ------
    WeightsMissingError
        Weights or clips are not in the cache and could not be fetched.
    """
    weights.pull_all([*weights.default_names(), *CLIPS])
    runs: list[tuple[str, str, Method]] = [(*CLIPS, "procrustes"), (*CLIPS[::-1], "procrustes")]
    runs += [(*CLIPS, other) for other in _BESIDE[method]]
    results, pictures = [], []
    for source, target, how in runs:
        name = f"{Path(source).stem}-onto-{Path(target).stem}" + ("" if how == "procrustes" else f"-{how}")
        result = pipeline.run(
            source=weights.clip(source),
            target=weights.clip(target),
            out=out / name,
            swap={"method": how},
            train={"minutes": minutes, "validate_every": 200},
            progress=progress,
        )
        results.append(result)
        swapped = out / name / "swapped" / f"{Path(target).stem}.mp4"
        sheet = out / f"{name}.png"
        write_image(sheet, contact_sheet(weights.clip(target), swapped))
        pictures += [sheet, swapped]
    return results, pictures


def contact_sheet(target: Path, swapped: Path, *, frames: int = 8, columns: int = 2, height: int = 240) -> Image:
    """Evenly spaced frames as pairs: target on the left, swap on the right.

    Parameters
    ----------
    target, swapped : Path
        Clips of the same frames.
    frames : int
        How many pairs.
    columns : int
        Pairs in a row.
    height : int
        Of each picture, in pixels.

    Returns
    -------
    (H, W, 3) uint8 array
    """
    with open_clip(target) as reader:
        count = sum(1 for _ in reader)
    chosen = frozenset(np.unique(np.linspace(0, count - 1, frames + 2)[1:-1].round().astype(int)).tolist())
    pairs = [
        np.concatenate(pair, axis=1)
        for pair in zip(*(_thumbnails(clip, chosen, height) for clip in (target, swapped)), strict=True)
    ]
    blank = np.full_like(pairs[0], 255)
    pairs += [blank] * (-len(pairs) % columns)
    gap = np.full((height, 8, 3), 255, np.uint8)
    rows = [_joined(pairs[i : i + columns], gap) for i in range(0, len(pairs), columns)]
    return np.concatenate(rows, axis=0)


def _thumbnails(clip: Path, chosen: frozenset[int], height: int) -> list[Image]:
    with open_clip(clip) as reader:
        width = round(reader.info.size[1] * height / reader.info.size[0])
        return [
            np.asarray(cv2.resize(frame.image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
            for frame in reader
            if frame.index in chosen
        ]


def _joined(pairs: Sequence[Image], gap: Image) -> Image:
    parts = [part for pair in pairs for part in (pair, gap)]
    return np.concatenate(parts[:-1], axis=1)
