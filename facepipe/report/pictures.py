"""The pictures of a page: a bounded number of frames, each decoded once, each within its share of bytes."""

from __future__ import annotations

import base64
import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from facepipe.drawing import View
from facepipe.errors import MediaError
from facepipe.results import ClipResults
from facepipe.types import Image
from facepipe.video import Frame, open_clip

__all__ = ["PORTRAIT", "ClipPictures", "Wanted", "data_uri", "take_pictures"]

PORTRAIT = 320
"""Side of a portrait in pixels."""

Box = NDArray[np.floating[Any]]

_QUALITIES = (84, 74, 62, 48, 32)
_LOOK = 960  # pixels of the long side of a frame that is looked at
_CLOSE = (420, 420)
_THUMB = 132
_CARD = 216
_BYTES = {"whole": 90_000, "face": 40_000, "thumb": 9_000, "card": 22_000, "portrait": 30_000}
_ROOM = 1.7  # of the face's box
_CLOSE_ROOM = 2.4
_SMALLEST = 16


def data_uri(image: Image, most: int) -> str:
    """A picture as WebP in a ``data:`` address, of at most `most` bytes before base64.

    The quality falls until it fits; then the size does.
    """
    picture = image
    while True:
        for quality in _QUALITIES:
            parameters = [cv2.IMWRITE_WEBP_QUALITY, quality]
            done, coded = cv2.imencode(".webp", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), parameters)
            if not done:
                raise MediaError(
                    f"a picture of {picture.shape[1]}x{picture.shape[0]} pixels cannot be written as WebP"
                )
            if len(coded) <= most or min(picture.shape[:2]) <= _SMALLEST:
                return "data:image/webp;base64," + base64.b64encode(coded.tobytes()).decode()
        size = max(1, picture.shape[1] // 2), max(1, picture.shape[0] // 2)
        picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)


@dataclass(frozen=True)
class Wanted:
    """Which frames of a clip are shown, and how.

    Attributes
    ----------
    looks : collection of int
        Large enough to be looked at: the frame, and the face close up.
    thumbs : collection of int
        Small, beside the curves.
    cards : collection of int
        The face, in the gallery of worst frames.
    portrait : int or None
        The frame that shows the face best.
    boxes : mapping of int to (4,) array
        Where the face is in a frame, ``xyxy``; a frame without one is shown whole.
    """

    looks: Collection[int]
    thumbs: Collection[int]
    cards: Collection[int]
    portrait: int | None
    boxes: Mapping[int, Box]

    @property
    def frames(self) -> frozenset[int]:
        """All of them."""
        alone = () if self.portrait is None else (self.portrait,)
        return frozenset((*self.looks, *self.thumbs, *self.cards, *alone))


@dataclass
class ClipPictures:
    """Addresses of a clip's pictures: by frame, then by ``target`` and ``swapped`` (or a method's name)."""

    wholes: dict[int, dict[str, str]] = field(default_factory=dict)
    faces: dict[int, dict[str, str]] = field(default_factory=dict)
    thumbs: dict[int, dict[str, str]] = field(default_factory=dict)
    cards: dict[int, dict[str, str]] = field(default_factory=dict)
    portrait: dict[str, str] = field(default_factory=dict)
    seconds: dict[int, float] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    def looks(self) -> list[dict[str, Any]]:
        """The frames that can be looked at, for the page's script."""
        return [
            {**self._when(frame), "whole": self.wholes[frame], "face": self.faces.get(frame, {})}
            for frame in sorted(self.wholes)
        ]

    def small(self) -> list[dict[str, Any]]:
        """The small pictures, for the page's script."""
        return [{**self._when(frame), "images": self.thumbs[frame]} for frame in sorted(self.thumbs)]

    def _when(self, frame: int) -> dict[str, Any]:
        return {"frame": frame, "seconds": round(self.seconds[frame], 3)}


def take_pictures(
    clip: ClipResults, videos: Mapping[str, Path], wanted: Wanted, *, share: float = 1.0
) -> ClipPictures:
    """Take all pictures of a clip in one pass over it and the videos made of it.

    A video that is not there, or breaks off, is named in `ClipPictures.missing`; the others are shown all the same.

    Parameters
    ----------
    clip : ClipResults
        The target's clip: the pictures called ``target``.
    videos : mapping of str to Path
        Videos of the same frames, by the name of their pictures.
    wanted : Wanted
        Which frames.
    share : float
        Of the usual number of bytes a picture may have.
    """
    found = ClipPictures()
    if not wanted.frames:
        return found
    stop = max(wanted.frames) + 1
    with ExitStack() as stack:
        readers: dict[str, Iterator[Frame]] = {}
        sides: dict[str, int] = {}
        for name, path in {"target": clip.path, **videos}.items():
            try:
                reader = (
                    clip.open(stop=stop) if name == "target" else open_clip(path, limits=clip.run.limits, stop=stop)
                )
                readers[name] = iter(stack.enter_context(reader))
                sides[name] = max(reader.info.size)
            except MediaError as exc:
                found.missing.append(str(exc))
        while readers:
            frames: dict[str, Frame] = {}
            for name in list(readers):
                try:
                    frames[name] = next(readers[name])
                except StopIteration:
                    del readers[name]
                except MediaError as exc:
                    found.missing.append(str(exc))
                    del readers[name]
            shown = next(iter(frames.values()), None)
            if shown is not None and shown.index in wanted.frames:
                found.seconds[shown.index] = float(shown.time)
                for name, frame in frames.items():
                    _add(found, name, frame, sides[name], wanted, share)
    return found


def _add(found: ClipPictures, name: str, frame: Frame, longest: int, wanted: Wanted, share: float) -> None:
    """Take what is wanted of a frame, whose long side is `longest` pixels."""
    index, box = frame.index, wanted.boxes.get(frame.index)
    most = {kind: max(1500, int(size * share)) for kind, size in _BYTES.items()}
    if index in wanted.looks:
        whole, _ = frame.small(_LOOK)
        found.wholes.setdefault(index, {})[name] = data_uri(whole, most["whole"])
        if box is not None:
            close = _around(box, frame.image, _CLOSE, _CLOSE_ROOM)
            found.faces.setdefault(index, {})[name] = data_uri(close, most["face"])
    if index in wanted.thumbs:
        found.thumbs.setdefault(index, {})[name] = data_uri(_cut(frame, longest, box, _THUMB), most["thumb"])
    if index in wanted.cards:
        found.cards.setdefault(index, {})[name] = data_uri(_cut(frame, longest, box, _CARD), most["card"])
    if index == wanted.portrait:
        found.portrait[name] = data_uri(_cut(frame, longest, box, PORTRAIT), most["portrait"])


def _cut(frame: Frame, longest: int, box: Box | None, side: int) -> Image:
    """A square around the face, from a frame no larger than that needs; the whole frame without a face."""
    if box is None:
        small, _ = frame.small(side)
        return View.whole(small.shape[:2], (side, side)).image(small)
    face = max(float(box[2] - box[0]), float(box[3] - box[1]), 8.0)
    needed = min(1.0, side / (_ROOM * face))
    small, scale = frame.small(max(64, math.ceil(needed * longest)))
    return _around((box + 0.5) * scale - 0.5, small, (side, side), _ROOM)


def _around(box: Box, image: Image, size: tuple[int, int], room: float) -> Image:
    """A face with room around it; of one larger than the frame is high or wide, as much as the frame has."""
    middle = (box[:2] + box[2:]) / 2
    half = (
        min(1.0, min(image.shape[:2]) / (1.2 * max(float((box[2:] - box[:2]).max()), 8.0))) * (box[2:] - box[:2]) / 2
    )
    fitting = np.concatenate([middle - half, middle + half])
    return View.around(fitting, image.shape[:2], size, room=room).image(image)
