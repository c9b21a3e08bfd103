"""Cuts: where a clip changes from one scene to another.

Two pictures of one scene share their layout or their colours; across a cut they share neither. So two frames are as
far apart as the sum of both differences, and a cut is where every frame shortly before is far from every frame
shortly after, and much farther than the frames around are from each other: neither a flash, after which the scene
comes back, nor a fast move, in which every frame is far from the next.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from facepipe.types import Image

__all__ = ["CutFinder"]

_PIXELS = (96, 54)  # width and height of the picture whose colours count
_THUMB = (32, 18)
_LEVELS = 6  # of each colour in the histogram
_NOISE = 16.0  # variance of a thumbnail, in squared grey levels, below which it has no layout
_REACH = 3  # frames before and after that are compared: flashes are shorter
_AROUND = 6  # steps on each side that tell how fast the scene itself moves
_FAR = 0.5  # 0 to 3; real cuts have 1.4 and more, the fastest frames of a scene 0.1
_PEAK = 2.5  # a cut is so many times farther than the mean step around


@dataclass(frozen=True, slots=True)
class _Look:
    thumb: NDArray[np.float32]
    colours: NDArray[np.float32]


def _look(image: Image) -> _Look:
    """Layout and colours of a picture."""
    small = cv2.resize(image, _PIXELS, interpolation=cv2.INTER_NEAREST)
    grey = cv2.cvtColor(cv2.resize(small, _THUMB, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
    thumb = grey.astype(np.float32)
    levels = small.astype(np.int32) * _LEVELS // 256
    cell = (levels[..., 0] * _LEVELS + levels[..., 1]) * _LEVELS + levels[..., 2]
    colours = np.bincount(cell.ravel(), minlength=_LEVELS**3).astype(np.float32)
    return _Look(thumb - thumb.mean(), colours / colours.sum())


def _distance(a: _Look, b: _Look) -> float:
    """What the layouts lack to agree (structural term of SSIM, 0 to 2) plus what the colours differ (0 to 1)."""
    common = 2 * float((a.thumb * b.thumb).mean()) + _NOISE
    layout = 1 - common / (float((a.thumb**2).mean() + (b.thumb**2).mean()) + _NOISE)
    return layout + float(np.abs(a.colours - b.colours).sum()) / 2


class CutFinder:
    """Looks at the frames of a clip one by one and tells where the cuts were."""

    SIDE = max(_PIXELS)
    """Pixels of a picture's long side that it needs."""

    def __init__(self) -> None:
        self._last: deque[_Look] = deque(maxlen=2 * _REACH - 1)
        self._steps: list[float] = []
        self._apart: list[float] = []

    def see(self, image: Image) -> bool:
        """Look at the next frame, RGB, shrunk or not; whether it is as far from the one before as after a cut."""
        now, own = _look(image), len(self._apart)
        self._apart.append(np.inf)
        self._steps.append(0.0)
        for back, before in enumerate(reversed(self._last), start=1):
            distance = _distance(before, now)
            if back == 1:
                self._steps[own] = distance
            # The places of a cut that have `before` within reach on one side and `now` on the other.
            for place in range(max(own - back, own - _REACH) + 1, min(own, own - back + _REACH) + 1):
                self._apart[place] = min(self._apart[place], distance)
        self._last.append(now)
        return self._steps[own] > _FAR

    def cuts(self) -> list[int]:
        """Numbers of the frames, counted from the first one seen, with which a new scene begins; rising."""
        steps, found = np.array(self._steps), []
        for place in range(1, len(steps)):
            apart = self._apart[place]
            if apart > _FAR:
                around = np.concatenate(
                    [steps[max(1, place - _AROUND) : place], steps[place + 1 : place + 1 + _AROUND]]
                )
                if apart > _PEAK * (around.mean() if len(around) else 0.0):
                    found.append(place)
        return found
