"""The videos of a data set, in the layout of FaceForensics++.

A. Rössler et al., "FaceForensics++", ICCV 2019. DOI 10.1109/ICCV.2019.00009

``raw`` is lossless (libx264rgb, crf 0); ``c23`` and ``c40`` are libx264 at these crf, of the same pictures.

A swapped video was decoded, composited and encoded before it comes here. Its original goes the same way: it is
decoded, gets an invisible mark of the same kind (that of no run, `COMPANION`) where the other face was put, and is
encoded once by the settings of the run. Else a detector could tell them apart by their history alone.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from facepipe import __version__, truth
from facepipe.config import SwapConfig
from facepipe.datasets.plan import Pair, Plan
from facepipe.errors import RunFolderError
from facepipe.image import blend_feather
from facepipe.provenance import TAG
from facepipe.types import Image, VideoInfo
from facepipe.video import Frame, open_clip, open_writer
from facepipe.watermark import Mark

__all__ = ["COMPANION", "COMPRESSIONS", "film_path", "tags_of", "write_films"]

COMPRESSIONS: Mapping[str, int | None] = {"raw": None, "c23": 23, "c40": 40}
"""Names of the qualities, and crf of libx264; None is lossless."""

COMPANION = 0
"""What the mark of an original says: not swapped."""

_PRESET = "medium"
_LIKE_SWAP = {name: SwapConfig.model_fields[name].get_default() for name in ("codec", "crf", "preset")}

Told = Callable[[str], None]
"""Called with the name of each video that is done."""


def film_path(root: Path, pair: Pair, *, fake: bool, quality: str) -> Path:
    """Where a video of the pair lies below the data set's root."""
    if fake:
        return root / "manipulated_sequences" / pair.method / quality / "videos" / f"{pair.name}.mp4"
    return root / "original_sequences" / "youtube" / quality / "videos" / f"{pair.target}.mp4"


def write_films(plan: Plan, root: Path, qualities: Sequence[str], told: Told) -> None:
    """Write all videos that are not there yet; see the module."""
    for pair in plan.originals():
        _write(pair, root, qualities, fake=False)
        told(pair.target)
    for pair in plan.pairs:
        _write(pair, root, qualities, fake=True)
        _write_mask(pair, root / "manipulated_sequences" / pair.method / "masks" / "videos" / f"{pair.name}.mp4")
        _link_truth(pair, root / "manipulated_sequences" / pair.method / "blend" / pair.name)
        told(pair.name)


def _write(pair: Pair, root: Path, qualities: Sequence[str], *, fake: bool) -> None:
    missing = [q for q in qualities if not film_path(root, pair, fake=fake, quality=q).exists()]
    if not missing:
        return
    with open_clip(pair.swapped.video) as reader:
        like = reader.info
    with TemporaryDirectory() as folder, ExitStack() as stack:
        frames = _pictures(pair.swapped.video) if fake else _companion(pair, like, Path(folder) / "once.mp4")
        writers = []
        for quality in missing:
            path = film_path(root, pair, fake=fake, quality=quality)
            path.parent.mkdir(parents=True, exist_ok=True)
            crf = COMPRESSIONS[quality]
            how: dict[str, Any] = {"codec": "lossless"} if crf is None else {"crf": crf, "preset": _PRESET}
            writers.append(stack.enter_context(open_writer(path, like, metadata=tags_of(pair, fake=fake), **how)))
        for image, pts in frames:
            for writer in writers:
                writer.write(image, pts)


def tags_of(pair: Pair, *, fake: bool) -> dict[str, str]:
    """The label: of one form for both."""
    comment = "Synthetic media: the face in this video was replaced" if fake else "The original of swapped videos"
    facts = {
        "software": f"facepipe {__version__}",
        "swapped": fake,
        "method": pair.swapped.method if fake else "none",
        "pair": pair.name if fake else pair.target,
    }
    return {"comment": f"{comment}, for research.", TAG: json.dumps(facts, sort_keys=True)}


def _pictures(path: Path) -> Iterator[tuple[Image, int]]:
    with open_clip(path) as reader:
        for frame in reader:
            yield frame.image, frame.pts


def _companion(pair: Pair, like: VideoInfo, once: Path) -> Iterator[tuple[Image, int]]:
    """The original's pictures after the same history as the swapped ones; see the module."""
    how = {name: pair.settings.get(name, value) for name, value in _LIKE_SWAP.items()}
    with open_clip(pair.swapped.video) as swapped:
        times = [frame.pts for frame in swapped]
    with open_writer(once, like, **how) as writer, pair.clip.open() as reader, open_clip(pair.swapped.mask) as masks:
        for pts, image in zip(times, _marked(pair, reader, masks), strict=True):
            writer.write(image, pts)
    yield from _pictures(once)


def _marked(pair: Pair, frames: Iterable[Frame], masks: Iterable[Frame]) -> Iterator[Image]:
    faces = pair.clip.faces
    row_of = {(int(f), int(n)): row for row, (f, n) in enumerate(zip(faces.frame, faces.face, strict=True))}
    strength = float(pair.settings.get("mark", 1.0))
    with open_clip(pair.swapped.video) as swapped:
        rate = float(swapped.info.rate)
    mark = Mark(COMPANION, rate, strength)
    for frame, mask in zip(frames, masks, strict=True):
        face = int(pair.swapped.face[frame.index])
        if face < 0 or not strength:
            yield frame.image
            continue
        alpha = mask.image[..., 0].astype(np.float32) / np.float32(255)
        landmarks = faces.landmarks[row_of[frame.index, face]]
        yield blend_feather(mark.into(frame.image, alpha, landmarks, float(frame.time)), frame.image, alpha)


def _write_mask(pair: Pair, path: Path) -> None:
    """Where anything was changed, white on black."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        open_clip(pair.swapped.mask) as masks,
        open_clip(pair.swapped.video) as film,
        open_writer(path, film.info, codec="lossless", metadata=tags_of(pair, fake=True)) as writer,
    ):
        for mask, frame in zip(masks, film, strict=True):
            writer.write(((mask.image > 0) * np.uint8(255)).astype(np.uint8), frame.pts)


def _link_truth(pair: Pair, folder: Path) -> None:
    """The truth of the blend, where the run has it; linked, so that nothing is there twice."""
    own = pair.clip.run.root / "blend" / pair.clip.name
    if not own.is_dir():
        return
    folder.mkdir(parents=True, exist_ok=True)
    for name in truth.FILES:
        if (folder / name).exists():
            continue
        try:
            os.link(own / name, folder / name)
        except FileNotFoundError as exc:
            raise RunFolderError(f"{own / name}: missing; run `facepipe swap` again") from exc
        except OSError:  # another file system
            shutil.copy2(own / name, folder / name)
