"""Pictures for people: text, landmarks, boxes, masks and differences drawn into images, cells laid out in a sheet.

Convention
    - Images are RGB, uint8, and drawn into in place; text is what OpenCV's fonts have: ASCII.
    - A `View` maps frame pixels to the pixels of a cell. What is drawn over a picture is drawn after it was scaled, so
      that lines and text are as sharp in a small cell as in a large one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from facepipe.image import warp
from facepipe.types import Image

__all__ = [
    "AMBER",
    "BACKGROUND",
    "BLUE",
    "GREEN",
    "GREY",
    "LINE",
    "RED",
    "WHITE",
    "Color",
    "View",
    "blank",
    "caption",
    "difference",
    "draw_box",
    "draw_landmarks",
    "draw_mask",
    "draw_text",
    "frame_edge",
    "shared_height",
    "stack",
]

Color = tuple[int, int, int]
BACKGROUND: Color = (22, 22, 26)
WHITE: Color = (236, 236, 236)
GREY: Color = (158, 158, 164)
GREEN: Color = (90, 235, 130)
BLUE: Color = (95, 185, 255)
AMBER: Color = (255, 190, 60)
RED: Color = (255, 105, 95)

LINE = 22
"""Height of a line of text in pixels."""

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_SCALE = 0.54
_SMALLEST = 0.4  # still readable
_SHIFT = 4  # OpenCV draws to 1/16 of a pixel
_PARTS = [  # of the 68 iBUG points: first, last, closed
    (0, 16, False),
    (17, 21, False),
    (22, 26, False),
    (27, 30, False),
    (30, 35, True),
    (36, 41, True),
    (42, 47, True),
    (48, 59, True),
    (60, 67, True),
]


@dataclass(frozen=True)
class View:
    """What part of a frame a cell shows.

    Attributes
    ----------
    matrix : (2, 3) float64 array
        Frame pixels to cell pixels; a scale and a shift.
    size : (int, int)
        Height and width of the cell.
    """

    matrix: NDArray[np.float64]
    size: tuple[int, int]

    @classmethod
    def whole(cls, frame: tuple[int, int], size: tuple[int, int]) -> View:
        """A whole frame in the middle of the cell, as large as fits."""
        height, width = frame
        return cls._of(((width - 1) / 2, (height - 1) / 2), min(size[0] / height, size[1] / width), size)

    @classmethod
    def around(
        cls, box: NDArray[np.floating[Any]], frame: tuple[int, int], size: tuple[int, int], *, room: float = 1.7
    ) -> View:
        """A face with `room` times its box around it, less where the frame (height, width) has less."""
        x0, y0, x1, y1 = (float(value) for value in box)
        longest = max(x1 - x0, y1 - y0, 8.0)
        side = max(1.2 * longest, min(room * longest, *map(float, frame)))
        centre = [
            float(np.clip(middle, side / 2 - 0.5, length - 0.5 - side / 2)) if side < length else (length - 1) / 2
            for middle, length in (((x0 + x1) / 2, frame[1]), ((y0 + y1) / 2, frame[0]))
        ]
        return cls._of((centre[0], centre[1]), min(size) / side, size)

    @classmethod
    def _of(cls, centre: tuple[float, float], scale: float, size: tuple[int, int]) -> View:
        x, y = centre
        height, width = size
        shift = [(width - 1) / 2 - scale * x, (height - 1) / 2 - scale * y]
        return cls(np.array([[scale, 0, shift[0]], [0, scale, shift[1]]]), size)

    def image(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The cell cut out of a frame, or of a (H, W) mask; black beyond its edge."""
        if picture.shape[:2] == self.size and np.allclose(self.matrix, np.eye(2, 3)):
            return picture.copy()
        smooth = self.matrix[0, 0] > 1
        return np.asarray(warp(picture, self.matrix, self.size, interpolation="cubic" if smooth else "linear"))

    def points(self, points: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """(..., 2) points of the frame in the cell."""
        return points @ self.matrix[:, :2].T + self.matrix[:, 2]


def blank(height: int, width: int, color: Color = BACKGROUND) -> Image:
    """A (height, width, 3) picture of one colour."""
    return np.full((height, width, 3), color, np.uint8)


def draw_text(
    image: Image, words: str, at: tuple[int, int], *, color: Color = WHITE, most: int | None = None, bold: bool = False
) -> None:
    """Write a line of text in place.

    Parameters
    ----------
    image : (H, W, 3) uint8 array
    words : str
        What is not ASCII becomes a question mark.
    at : (int, int)
        x and y of the left upper corner of the line, which is `LINE` pixels high.
    color : Color
    most : int, optional
        Pixels that the line may be wide, by default to the image's edge: a longer one is written smaller, then cut.
    bold : bool
        Twice as thick.
    """
    words = words.encode("ascii", "replace").decode()
    room = (image.shape[1] - at[0] - 2) if most is None else most
    thick = 2 if bold else 1
    width = _width(words, _SCALE, thick)
    scale = _SCALE if width <= room else max(_SMALLEST, _SCALE * room / width)
    if _width(words, scale, thick) > room:
        while words and _width(words + "..", scale, thick) > room:
            words = words[:-1]
        words += ".."
    cv2.putText(image, words, (at[0], at[1] + LINE - 6), _FONT, scale, color, thick, cv2.LINE_AA)


def _width(words: str, scale: float, thick: int) -> int:
    return int(cv2.getTextSize(words, _FONT, scale, thick)[0][0])


def caption(image: Image, words: str, *, color: Color = WHITE) -> None:
    """Write a line at the left upper corner of a picture, on a dark ground, in place."""
    words = words.encode("ascii", "replace").decode()
    right = min(image.shape[1], _width(words, _SCALE, 1) + 10)
    image[:LINE, :right] = image[:LINE, :right] // 4
    draw_text(image, words, (5, 0), color=color)


def draw_landmarks(image: Image, points: NDArray[np.floating[Any]], *, color: Color = GREEN) -> None:
    """Draw (68, 2) iBUG points as lines and dots, or any other number of points as dots, in place."""
    if not np.isfinite(points).all():
        return
    fixed = np.rint(np.clip(points, -1e5, 1e5) * (1 << _SHIFT)).astype(np.int32)
    if len(points) == 68:
        for first, last, closed in _PARTS:
            line = fixed[first : last + 1].reshape(-1, 1, 2)
            cv2.polylines(image, [line], closed, color, 1, cv2.LINE_AA, _SHIFT)
    radius = (3 << _SHIFT) if len(points) != 68 else (1 << _SHIFT) if np.ptp(points, axis=0).max() > 90 else 0
    for x, y in fixed.tolist() if radius else ():  # in a small face the lines are enough
        cv2.circle(image, (x, y), radius, color, -1, cv2.LINE_AA, _SHIFT)


def draw_box(image: Image, box: NDArray[np.floating[Any]], *, color: Color = GREEN, words: str = "") -> None:
    """Draw a box (4,), ``xyxy``, in place, with words above it."""
    if not np.isfinite(box).all():
        return
    x0, y0, x1, y1 = np.rint(np.clip(box, -1e5, 1e5)).astype(int).tolist()
    cv2.rectangle(image, (x0, y0), (x1, y1), color, 1, cv2.LINE_AA)
    if words:
        draw_text(image, words, (max(0, x0), max(0, y0 - LINE)), color=color)


def draw_mask(image: Image, mask: NDArray[np.uint8], *, color: Color = BLUE) -> None:
    """Tint a picture by a (H, W) mask of 0 to 255, and draw its edges at the first and the middle level, in place."""
    share = (mask.astype(np.float32) * (0.3 / 255))[..., None]
    image[:] = np.rint(image * (1 - share) + np.array(color, np.float32) * share).astype(np.uint8)
    for level, line in ((0, tuple(value // 2 for value in color)), (127, color)):
        edges, _ = cv2.findContours((mask > level).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(image, edges, -1, line, 1, cv2.LINE_AA)


def difference(a: Image, b: Image, *, most: int = 64) -> Image:
    """How far two pictures are apart: black where they are equal, brightest from `most` grey levels on.

    The largest difference of the three channels counts.
    """
    levels = cv2.absdiff(a, b).max(axis=2)
    bright = np.minimum(levels.astype(np.float32) * (255 / most), 255).astype(np.uint8)
    return np.asarray(cv2.cvtColor(cv2.applyColorMap(bright, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB), np.uint8)


def frame_edge(image: Image, color: Color) -> None:
    """Draw an edge of two pixels around a picture, in place."""
    image[:2] = image[-2:] = color
    image[:, :2] = image[:, -2:] = color


def stack(pictures: Sequence[Image], *, across: bool, gap: int = 4) -> Image:
    """Pictures beside (`across`) or below each other, with a gap; shorter ones are filled up with background."""
    other = 0 if across else 1
    length = max(picture.shape[other] for picture in pictures)
    parts: list[Image] = []
    for picture in pictures:
        missing = length - picture.shape[other]
        if missing:
            height, width = (missing, picture.shape[1]) if across else (picture.shape[0], missing)
            picture = np.concatenate([picture, blank(height, width)], axis=other)
        spacer = blank(length, gap) if across else blank(gap, length)
        parts += [picture, spacer]
    return np.concatenate(parts[:-1], axis=1 if across else 0)


def shared_height(frame: tuple[int, int], most: int) -> tuple[int, int]:
    """Even height and width of a frame shown at `most` pixels of height, or at its own where that is less."""
    height, width = frame
    scale = min(1.0, most / height)
    return max(2, 2 * round(height * scale / 2)), max(2, 2 * round(width * scale / 2))
