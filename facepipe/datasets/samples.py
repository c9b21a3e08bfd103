"""Aligned pictures of faces with their masks, by the recipe of DeepfakeBench, and as shards of WebDataset.

Z. Yan et al., "DeepfakeBench: a comprehensive benchmark of deepfake detection", NeurIPS 2023, arXiv:2307.01426: 32
evenly spaced frames a video; a similarity transform of five points to ArcFace's template, in 256 pixels with a margin
of 1.3. A fake and its original are cut by the same landmarks.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from facepipe import geometry
from facepipe.datasets.films import alpha_of, path_of, tags_of, white
from facepipe.datasets.plan import SPLITS, Pair, Plan, Told
from facepipe.image import warp
from facepipe.types import Image, evenly_spaced
from facepipe.video import open_clip, write_image
from facepipe.workspace import atomic_path, write_json

__all__ = [
    "COUNT",
    "REAL",
    "SIDE",
    "NotEnoughFacesError",
    "Sample",
    "beside",
    "crop_matrix",
    "samples_of",
    "write_frames",
    "write_shards",
]

REAL = "FF-real"
"""Name of the originals in DeepfakeBench's JSON."""

COUNT, SIDE = 32, 256
"""Frames of a video, and side of a picture in pixels."""

_SCALE = 1.3
_TEMPLATE = ((38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041))
_POINTS = [37, 44, 30, 49, 55]  # of the 68: an upper lid of each eye, the nose, beside the corners of the mouth
_SHARD = 512  # samples


class NotEnoughFacesError(Exception):
    """A video has fewer swapped frames than are needed."""


@dataclass(frozen=True)
class Sample:
    """A face of a video.

    Attributes
    ----------
    frame : int
        Number of the frame in its video.
    image : (SIDE, SIDE, 3) uint8 array
        RGB.
    landmarks : (68, 2) int64 array
        In pixels of the image.
    alpha : (SIDE, SIDE) float32 array
        How much of each pixel was replaced; all 0 for an original.
    frame_to_crop : (2, 3) float64 array
    """

    frame: int
    image: Image
    landmarks: NDArray[np.int64]
    alpha: NDArray[np.float32]
    frame_to_crop: NDArray[np.float64]


def crop_matrix(landmarks: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """(2, 3) from pixels of a frame to those of the picture, for (68, 2) landmarks."""
    target = (np.array(_TEMPLATE) / 112 + (_SCALE - 1) / 2) * (SIDE / _SCALE)
    return np.asarray(geometry.umeyama(landmarks[_POINTS], target)[:2])


def samples_of(pair: Pair, film: Path, *, fake: bool) -> Iterator[Sample]:
    """The samples of a video of the pair, original or swapped."""
    there = np.flatnonzero(pair.swapped.face >= 0)
    if len(there) < COUNT:
        raise NotEnoughFacesError(f"{pair.name}: {len(there)} swapped frames, {COUNT} are needed")
    chosen = {int(frame) for frame in there[evenly_spaced(len(there), COUNT)]}
    with open_clip(film, stop=max(chosen) + 1) as frames, open_clip(pair.swapped.mask, stop=max(chosen) + 1) as masks:
        for frame, mask in zip(frames, masks, strict=True):
            if frame.index not in chosen:
                continue
            landmarks = pair.landmarks(frame.index)
            matrix = crop_matrix(landmarks)
            alpha = alpha_of(mask) * fake
            yield Sample(
                frame.index,
                warp(frame.image, matrix, (SIDE, SIDE)),
                np.rint(geometry.apply(matrix, landmarks)).astype(np.int64),
                warp(alpha, matrix, (SIDE, SIDE)),
                matrix,
            )


def write_frames(plan: Plan, root: Path, name: str, qualities: Sequence[str], told: Told) -> list[str]:
    """Pictures, landmarks and masks beside the videos in ``root/name``, and ``root/dataset_json/name.json``.

    Returns
    -------
    list of str
        What was left out, a line each.
    """
    notes: list[str] = []
    known: dict[str, Any] = {}
    for pair, fake in plan.films():
        kind = pair.method if fake else REAL
        for quality in qualities:
            film = path_of(pair, root / name, quality, fake=fake)
            try:
                paths = _write_pictures(pair, film, fake=fake)
            except NotEnoughFacesError as exc:
                notes.append(str(exc))
                continue
            entry = {"label": kind, "frames": [f"./{path.relative_to(root).as_posix()}" for path in paths]}
            parts = known.setdefault(kind, {part: {} for part in ("train", "val", "test")})
            parts[pair.split].setdefault(quality, {})[film.stem] = entry
        told(pair.name if fake else pair.target)
    (root / "dataset_json").mkdir(exist_ok=True)
    write_json(root / "dataset_json" / f"{name}.json", {name: known})
    return sorted(set(notes))


def _write_pictures(pair: Pair, film: Path, *, fake: bool) -> list[Path]:
    """Paths of the pictures of a video; nothing is done where all of them are there."""
    quality = film.parents[1]
    folder = quality / "frames" / film.stem
    done = folder / ".done"
    if not done.exists():
        for sample in samples_of(pair, film, fake=fake):
            name = f"frames/{film.stem}/{sample.frame:03d}.png"
            picture, (mask, points) = quality / name, beside(quality, name)
            for path in (picture, mask, points):
                path.parent.mkdir(parents=True, exist_ok=True)
            write_image(picture, sample.image, tags=tags_of(pair, fake=fake))
            write_image(mask, white(sample.alpha > 0.5))
            with atomic_path(points) as part, part.open("wb") as file:
                np.save(file, sample.landmarks)
        done.touch()
    return sorted(folder.glob("*.png"), key=lambda path: int(path.stem))


def beside(root: Path, name: str) -> tuple[Path, Path]:
    """The mask and the landmarks of the picture `name`, a path below `root` that holds ``frames`` once."""
    return root / name.replace("frames", "masks"), root / name.replace("frames", "landmarks").replace(".png", ".npy")


def write_shards(plan: Plan, films: Path, root: Path, quality: str, told: Told) -> list[str]:
    """Shards ``root/{train,val,test}-000000.tar`` with a sample a face; as `write_frames`.

    A sample is ``KEY.png``, ``KEY.mask.png`` (16 bits, alpha times 65535), ``KEY.matrix.npy``, ``KEY.landmarks.npy``
    and ``KEY.json`` (``label``, 1 for fake; ``video``, ``method``, ``frame``, ``quality``).
    """
    root.mkdir(parents=True, exist_ok=True)
    notes: list[str] = []
    for part in SPLITS:
        shards = _Shards(root, part)
        for pair, fake in [(pair, fake) for pair, fake in plan.films() if pair.split == part]:
            film = path_of(pair, films, quality, fake=fake)
            facts = {
                "label": int(fake),
                "video": film.stem,
                "method": pair.method if fake else "none",
                "quality": quality,
            }
            try:
                for sample in samples_of(pair, film, fake=fake):
                    shards.add(f"{film.stem}-{facts['method']}-{sample.frame:06d}", _members(sample, facts))
            except NotEnoughFacesError as exc:
                notes.append(str(exc))
            told(film.stem)
        shards.close()
    return sorted(set(notes))


def _members(sample: Sample, facts: dict[str, Any]) -> dict[str, bytes]:
    deep = np.rint(sample.alpha * 65535).astype(np.uint16)
    return {
        "png": cv2.imencode(".png", sample.image[..., ::-1])[1].tobytes(),
        "mask.png": cv2.imencode(".png", deep)[1].tobytes(),
        "matrix.npy": _saved(sample.frame_to_crop),
        "landmarks.npy": _saved(sample.landmarks),
        "json": json.dumps({**facts, "frame": sample.frame}, sort_keys=True).encode(),
    }


def _saved(array: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


class _Shards:
    """Tar files of so many samples, the same bytes each time."""

    def __init__(self, root: Path, part: str) -> None:
        self._root, self._part, self._held = root, part, list[tuple[str, dict[str, bytes]]]()
        self._number = 0

    def add(self, key: str, members: dict[str, bytes]) -> None:
        self._held.append((key, members))
        if len(self._held) == _SHARD:
            self._write()

    def close(self) -> None:
        if self._held:
            self._write()

    def _write(self) -> None:
        with atomic_path(self._root / f"{self._part}-{self._number:06d}.tar") as path, tarfile.open(path, "w") as tar:
            for key, members in self._held:
                for suffix, data in members.items():
                    entry = tarfile.TarInfo(f"{key}.{suffix}")
                    entry.size = len(data)
                    tar.addfile(entry, io.BytesIO(data))
        self._held, self._number = [], self._number + 1
