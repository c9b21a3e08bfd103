"""Where the mark lies in a face, and what it is made of.

Convention: a *square* is (`SIDE`, `SIDE`) samples around a face; `face_square` maps pixels of a frame to it.
"""

from __future__ import annotations

import hashlib
from functools import cache
from typing import Any

import cv2 as _cv2
import numpy as np
from numpy.typing import NDArray

from facepipe import geometry
from facepipe.watermark.coding import LENGTH

__all__ = ["SIDE", "SILENT", "carriers", "face_square", "pace", "whitened"]

cv2: Any = _cv2  # its stubs differ from release to release

SIDE = 80
"""Samples on each side of the square that is marked and read."""

SILENT = 64
"""Carriers that say nothing: what a reader hears from them is noise."""

_CENTRE, _SPAN = (56.0, 77.0), 116.0  # middle and side of the square, in the 112 units of the template
_HALF = 27.0, 30.0  # half axes of the marked ellipse in samples; the rest is room for the reader's search
_BAND = 7.0, 20.0  # waves a square that the pattern is made of: longer ones show, shorter ones are lost to encoders
_KEY = b"facepipe mark 1"
_PACE = 6.0  # swings a second: slower is in the face's own movement, faster is lost to encoders
_MOST_PACE = 0.4  # of the frame rate
_LEAST = 1.0  # grey levels of detail: bare skin hides a little

Square = NDArray[np.float32]


def face_square(landmarks: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """(2, 3) matrix from pixels of the frame to samples of the face's square.

    Parameters
    ----------
    landmarks : (68, 2) or (5, 2) array
        In pixels of the frame.

    Raises
    ------
    DegenerateLandmarksError
        They lie on one spot.
    """
    template = geometry.TEMPLATES["ibug68" if len(landmarks) == 68 else "arcface5"]
    scale = SIDE / _SPAN
    middle = (SIDE - 1) / 2
    to_square = [[scale, 0, middle - scale * _CENTRE[0]], [0, scale, middle - scale * _CENTRE[1]]]
    return geometry.compose(geometry.umeyama(landmarks, template)[:2], to_square)[:2]


@cache
def carriers() -> NDArray[np.float32]:
    """(1 + `LENGTH` + `SILENT`, SIDE * SIDE) patterns of unit length, orthogonal, smooth and 0 beyond the face.

    The first synchronises, each of the next carries a sign, the last say nothing.
    """
    count = 1 + LENGTH + SILENT
    noise = np.frombuffer(hashlib.shake_256(_KEY).digest(count * SIDE * SIDE), np.uint8)
    patterns = noise.reshape(count, SIDE, SIDE) / 127.5 - 1
    waves = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE)) * SIDE
    patterns = np.fft.irfft2(np.fft.rfft2(patterns) * ((waves >= _BAND[0]) & (waves <= _BAND[1])), (SIDE, SIDE))
    flat = (patterns * _window()).reshape(count, -1)
    values, vectors = np.linalg.eigh(flat @ flat.T)  # Löwdin: the orthogonal set that is nearest, and the only one
    return np.asarray((vectors / np.sqrt(values)) @ vectors.T @ flat, np.float32)


def _window() -> NDArray[np.float64]:
    """Raised cosine over the outer third of the ellipse."""
    place = np.arange(SIDE) - (SIDE - 1) / 2
    radius = np.hypot(place[None] / _HALF[0], place[:, None] / _HALF[1])
    return np.asarray(0.5 + 0.5 * np.cos(np.pi * np.clip(3 * radius - 2, 0, 1)))


def pace(rate: float) -> float:
    """Swings of the pattern a second, for a clip of `rate` frames a second."""
    return min(_PACE, _MOST_PACE * rate)


def whitened(square: Square) -> tuple[Square, Square]:
    """The square's detail in units of what surrounds it, and that unit in grey levels; both (SIDE, SIDE)."""
    detail = cv2.GaussianBlur(square, (0, 0), 0.7) - cv2.GaussianBlur(square, (0, 0), 2.5)
    unit = np.sqrt(cv2.GaussianBlur(detail * detail, (0, 0), 4.0) + np.float32(_LEAST**2))
    return np.clip(detail / unit, -3, 3), unit
