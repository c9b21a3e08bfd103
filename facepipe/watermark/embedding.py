"""Puts the mark into a face."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2 as _cv2
import numpy as np
from numpy.typing import NDArray

from facepipe import geometry
from facepipe.image import warp
from facepipe.types import Image
from facepipe.watermark.coding import LENGTH, PAYLOAD_BITS, encode
from facepipe.watermark.pattern import SIDE, carriers, face_square, pace, whitened

__all__ = ["Mark", "payload_of"]

cv2: Any = _cv2  # its stubs differ from release to release

_LEVEL, _SYNC = 3.5, 6.0  # of the pattern, in units of the face's detail; and how much more the first carrier has
_MOST = 2.0  # grey levels of detail: more at eyes and lips would make the landmarks of whoever looks shake
_PEAK = 8.0  # grey levels


def payload_of(run: str) -> int:
    """The number that stands for a run: the first 32 bits of its id, which is hexadecimal."""
    return int(run[: PAYLOAD_BITS // 4], 16)


@dataclass(frozen=True)
class Mark:
    """The mark of a clip.

    Attributes
    ----------
    payload : int
        A number of 32 bits.
    rate : float
        Frames a second of the clip.
    strength : float
        1 is the default; the change of the pixels is proportional to it. 0 is no mark.
    """

    payload: int
    rate: float
    strength: float = 1.0

    @cached_property
    def _pattern(self) -> NDArray[np.float32]:
        signs = np.concatenate([[_SYNC], encode(self.payload)]).astype(np.float32)
        return np.asarray((_LEVEL * self.strength * signs @ carriers()[: 1 + LENGTH]).reshape(SIDE, SIDE), np.float32)

    def into(
        self,
        face: Image,
        mask: NDArray[np.float32],
        landmarks: NDArray[np.floating[Any]],
        seconds: float,
    ) -> Image:
        """A face with the mark in it, before it is blended into its frame.

        Parameters
        ----------
        face : (h, w, 3) uint8 array
            RGB.
        mask : (h, w) float32 array
            Where the face will be seen, 0 to 1; nothing is changed where it is 0.
        landmarks : (68, 2) or (5, 2) array
            Of the replaced face, in pixels of `face`.
        seconds : float
            The frame's time.

        Returns
        -------
        (h, w, 3) uint8 array
            All three channels change by the same.
        """
        if not self.strength:
            return face
        to_square = face_square(landmarks)
        small = warp(cv2.cvtColor(face, cv2.COLOR_RGB2GRAY), to_square, (SIDE, SIDE), border="replicate")
        _, unit = whitened(small.astype(np.float32))
        swing = math.cos(2 * math.pi * pace(self.rate) * seconds)
        pattern = np.clip(swing * self._pattern * np.minimum(unit, _MOST), -_PEAK, _PEAK)
        change = warp(pattern.astype(np.float32), geometry.invert(to_square), face.shape[:2])
        change[mask <= 0] = 0
        return np.asarray(cv2.add(face, cv2.merge([change] * 3), dtype=cv2.CV_8U), np.uint8)
