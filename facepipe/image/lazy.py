"""A picture that is converted only where it is looked at: of a large frame with a small face that is little."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from facepipe.types import Image

__all__ = ["Box", "LazyImage", "Picture", "Wanted"]

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in whole pixels; right and bottom are the first beyond."""

_AHEAD = 8  # what is converted before it is asked for is larger than the last on each side by a share of 1 in so many


class Wanted:
    """What was looked at in the last pictures of a clip: the next one's are likely to be there."""

    box: Box | None = None


class LazyImage:
    """An RGB picture whose pixels are converted when they are looked at.

    ``picture[y0:y1, x0:x1]`` converts a part; `whole`, `numpy.asarray` and any other index convert all of it. The
    pixels are the same.

    Parameters
    ----------
    size : (int, int)
        Height and width.
    convert : callable
        Takes the box that is needed; returns the pixels of a box that has all of it, (h, w, 3) uint8, and that box.
    wanted : Wanted
        Of the clip; takes note of what is looked at here.
    """

    __slots__ = ("_box", "_convert", "_looked_at", "_part", "_wanted", "shape")

    dtype = np.dtype(np.uint8)
    ndim = 3

    def __init__(self, size: tuple[int, int], convert: Callable[[Box], tuple[Image, Box]], wanted: Wanted) -> None:
        self.shape = (*size, 3)
        self._convert = convert
        self._wanted = wanted
        self._looked_at: Box | None = None
        self._part: Image | None = None
        self._box: Box | None = None

    def __getitem__(self, place: Any) -> Any:
        if not (isinstance(place, tuple) and len(place) == 2 and all(isinstance(one, slice) for one in place)):
            return self.whole()[place]
        rows, columns = place
        if rows.step not in (None, 1) or columns.step not in (None, 1):
            return self.whole()[place]
        (top, bottom, _), (left, right, _) = rows.indices(self.shape[0]), columns.indices(self.shape[1])
        box = left, top, right, bottom
        self._looked_at = self._wanted.box = _union(self._looked_at, box)
        return self._at(box)

    def whole(self) -> Image:
        """All pixels, (H, W, 3) uint8, contiguous; converted once and kept."""
        return self._at((0, 0, self.shape[1], self.shape[0]))

    def prepare(self) -> None:
        """Convert what is likely to be looked at: around what was in the last pictures, else all."""
        box = self._wanted.box
        if box is None:
            self.whole()
            return
        left, top, right, bottom = box
        x, y = (right - left) // _AHEAD, (bottom - top) // _AHEAD
        height, width, _ = self.shape
        self._at((max(left - x, 0), max(top - y, 0), min(right + x, width), min(bottom + y, height)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return np.array(self.whole(), dtype, copy=copy)

    def _at(self, box: Box) -> Image:
        if self._part is None or self._box is None or _union(self._box, box) != self._box:
            self._part, self._box = self._convert(_union(self._box, box))
        if box == self._box:
            return self._part
        x, y = self._box[:2]
        left, top, right, bottom = box
        return self._part[top - y : bottom - y, left - x : right - x]


Picture = Image | LazyImage
"""(H, W, 3) uint8 RGB, to cut out of."""


def _union(one: Box | None, other: Box) -> Box:
    if one is None:
        return other
    return min(one[0], other[0]), min(one[1], other[1]), max(one[2], other[2]), max(one[3], other[3])
