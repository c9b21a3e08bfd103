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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facepipe import __version__, truth
from facepipe.config import SwapConfig
from facepipe.datasets.plan import Pair, Plan, Told
from facepipe.errors import RunFolderError
from facepipe.image import blend_feather
from facepipe.provenance import TAG
from facepipe.types import Image, VideoInfo
from facepipe.video import Frame, open_clip, open_writer
from facepipe.watermark import Mark

__all__ = [
    "COMPANION",
    "COMPRESSIONS",
    "MASKS",
    "alpha_of",
    "encoding",
    "film_path",
    "path_of",
    "tags_of",
    "white",
    "write_films",
]

COMPRESSIONS: Mapping[str, int | None] = {"raw": None, "c23": 23, "c40": 40}
"""Names of the qualities, and crf of libx264; None is lossless."""

MASKS = "masks"
"""What lies beside the qualities of the fakes: where anything was changed."""

COMPANION = 0
"""What the mark of an original says: not swapped."""

_PRESET = "medium"
_LIKE_SWAP = {name: SwapConfig.model_fields[name].get_default() for name in ("codec", "crf", "preset")}
_STRENGTH = SwapConfig.model_fields["mark"].get_default()


def film_path(root: Path, quality: str, target: str, *, method: str = "", source: str = "") -> Path:
    """Where a video lies below the data set's root: an original, or with a method and a source the fake."""
    if method:
        return root / "manipulated_sequences" / method / quality / "videos" / f"{target}_{source}.mp4"
    return root / "original_sequences" / "youtube" / quality / "videos" / f"{target}.mp4"


def path_of(pair: Pair, root: Path, quality: str, *, fake: bool) -> Path:
    """Where the pair's original or its fake lies; for the quality ``masks`` what was changed in the fake."""
    more = {"method": pair.method, "source": pair.source} if fake else {}
    return film_path(root, quality, pair.target, **more)


def encoding(quality: str) -> dict[str, Any]:
    """How videos of a quality are written: keywords of `facepipe.video.open_writer`."""
    crf = COMPRESSIONS[quality]
    return {"codec": "lossless"} if crf is None else {"crf": crf, "preset": _PRESET}


def alpha_of(mask: Frame) -> NDArray[np.float32]:
    """(H, W) how much of each pixel was replaced, of a frame of a swap's masks."""
    return np.asarray(mask.image[..., 0].astype(np.float32) / np.float32(255))


def white(where: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """A mask as a picture: 255 where it is true, 0 elsewhere."""
    return np.where(where, np.uint8(255), np.uint8(0))


def write_films(plan: Plan, root: Path, qualities: Sequence[str], told: Told) -> None:
    """Write all videos that are not there yet; see the module."""
    for pair, fake in plan.films():
        _write(pair, root, qualities, fake=fake)
        if fake:
            _write_mask(pair, path_of(pair, root, MASKS, fake=True))
            _link_truth(pair, root / "manipulated_sequences" / pair.method / "blend" / pair.name)
        told(pair.name if fake else pair.target)


def _write(pair: Pair, root: Path, qualities: Sequence[str], *, fake: bool) -> None:
    paths = {quality: path_of(pair, root, quality, fake=fake) for quality in qualities}
    missing = {quality: path for quality, path in paths.items() if not path.exists()}
    if not missing:
        return
    with open_clip(pair.swapped.video) as reader:
        like = reader.info
    with TemporaryDirectory() as folder, ExitStack() as stack:
        frames = _pictures(pair.swapped.video) if fake else _companion(pair, like, Path(folder) / "once.mp4")
        writers = []
        for quality, path in missing.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            tags = tags_of(pair, fake=fake)
            writers.append(stack.enter_context(open_writer(path, like, metadata=tags, **encoding(quality))))
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
    mark = Mark(COMPANION, float(like.rate), float(pair.settings.get("mark", _STRENGTH)))
    with (
        open_clip(pair.swapped.video) as swapped,
        open_clip(pair.swapped.mask) as masks,
        pair.clip.open() as reader,
        open_writer(once, like, **how) as writer,
    ):
        for frame, mask, other in zip(reader, masks, swapped, strict=True):
            writer.write(_marked(pair, mark, frame, mask), other.pts)
    yield from _pictures(once)


def _marked(pair: Pair, mark: Mark, frame: Frame, mask: Frame) -> Image:
    if pair.swapped.face[frame.index] < 0 or not mark.strength:
        return frame.image
    alpha = alpha_of(mask)
    marked = mark.into(frame.image, alpha, pair.landmarks(frame.index), float(frame.time))
    return blend_feather(marked, frame.image, alpha)


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
            writer.write(white(mask.image > 0), frame.pts)


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
