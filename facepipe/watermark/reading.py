"""Finds the mark again, without the original."""

from __future__ import annotations

import cmath
import math
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2 as _cv2
import numpy as np
from numpy.typing import NDArray

from facepipe.errors import DegenerateLandmarksError
from facepipe.finder import Finder, Models
from facepipe.image import warp
from facepipe.video import ClipReader, Limits, open_clip
from facepipe.watermark.coding import LENGTH, decode
from facepipe.watermark.pattern import SIDE, carriers, face_square, pace, whitened

__all__ = ["FoundMark", "MarkReader", "read_mark", "readers_of"]

cv2: Any = _cv2  # its stubs differ from release to release

_TURNS, _SCALES, _SHIFTS = (-2.0, 0.0, 2.0), (0.97, 1.0, 1.03), range(-3, 4)  # degrees, factor, samples
_CERTAIN = 4.5  # loudness of the first carrier over the silent ones: by chance once in 100,000 clips, search included
_STRIDE = 8  # frames from one look of the detector to the next
_EVERY = 10.0  # seconds of a clip after which it is tried to read the mark
_ENOUGH = 120.0  # seconds of a clip after which there is none

Complex = NDArray[np.complex128]


@dataclass(frozen=True, slots=True)
class FoundMark:
    """A mark that was read.

    Attributes
    ----------
    payload : int
        The number.
    loudness : float
        Of the mark over what is heard by chance; it is believed from 4.5 on.
    frames : int
        Faces that it was read from.
    """

    payload: int
    loudness: float
    frames: int

    @property
    def run(self) -> str:
        """First eight digits of the id of the run that made it."""
        return f"{self.payload:08x}"


class MarkReader:
    """Collects the faces of one track, in memory that does not grow with their number.

    Parameters
    ----------
    rate : float
        Frames a second of the clip.
    """

    def __init__(self, rate: float) -> None:
        self._pace = pace(rate)
        self._sum = np.zeros((SIDE, SIDE), np.complex128)
        self._plain = np.zeros((SIDE, SIDE))
        self._swings = 0j
        self.frames = 0

    def add(self, grey: NDArray[np.float32], landmarks: NDArray[np.floating[Any]], seconds: float) -> None:
        """Look at a face.

        Parameters
        ----------
        grey : (H, W) float32 array
            The frame, 0 to 255.
        landmarks : (68, 2) or (5, 2) array
            In pixels; a face whose points coincide is left out.
        seconds : float
            The frame's time.
        """
        try:
            to_square = face_square(landmarks)
        except DegenerateLandmarksError:
            return
        detail, _ = whitened(warp(grey, to_square, (SIDE, SIDE), border="replicate"))
        swing = cmath.exp(-2j * math.pi * self._pace * seconds)
        self._sum += swing * detail
        self._plain += detail
        self._swings += swing
        self.frames += 1

    def found(self) -> FoundMark | None:
        """The mark, or None where there is none, or it cannot be read."""
        signs, loudness = self.heard()
        payload = decode(signs) if loudness > _CERTAIN else None
        return None if payload is None else FoundMark(payload, loudness, self.frames)

    def heard(self) -> tuple[NDArray[np.float64], float]:
        """What is said by each of the `coding.LENGTH` signs, and how loud the mark is over chance."""
        if not self.frames:
            return np.zeros(LENGTH), 0.0
        heard = max(self._places(), key=_loudness)
        return (heard[1 : 1 + LENGTH] * np.conj(heard[0])).real, _loudness(heard)  # the phase is the first carrier's

    def _places(self) -> Iterator[Complex]:
        """What the carriers say wherever the pattern may lie: landmarks are not found twice at the same place."""
        swinging = (self._sum - self._plain / self.frames * self._swings) / self.frames
        for turn in _TURNS:
            for scale in _SCALES:
                matrix = cv2.getRotationMatrix2D(((SIDE - 1) / 2,) * 2, turn, scale)
                turned = cv2.warpAffine(swinging.real, matrix, (SIDE, SIDE)) + 1j * cv2.warpAffine(
                    swinging.imag, matrix, (SIDE, SIDE)
                )
                shifted = [np.roll(turned, (y, x), (0, 1)).ravel() for y in _SHIFTS for x in _SHIFTS]
                yield from np.stack(shifted) @ carriers().T


def _loudness(heard: Complex) -> float:
    """Of the first carrier, in root mean squares of the silent ones."""
    noise = float(np.sqrt((np.abs(heard[1 + LENGTH :]) ** 2).mean()))
    return float(abs(heard[0])) / max(noise, 1e-12)


def read_mark(path: Path, models: Models, *, limits: Limits | None = None) -> FoundMark | None:
    """The mark of a video, without its original: the first two minutes are looked at, until it is certain.

    Parameters
    ----------
    path : Path
        The video.
    models : Models
        Detector and landmarker; see `facepipe.finder.load_models`.
    limits : Limits, optional
        See `facepipe.video.open_clip`.

    Raises
    ------
    MediaError
        It cannot be read.
    """
    with open_clip(path, limits=limits) as reader, closing(readers_of(reader, models)) as moments:
        for readers in moments:
            if (found := _loudest(readers)) is not None:
                return found
    return None


def readers_of(clip: ClipReader, models: Models) -> Generator[dict[int, MarkReader], None, None]:
    """The readers of a clip's tracks by number: every ten seconds of it, and at its end or after two minutes."""
    rate, readers = float(clip.info.rate), dict[int, MarkReader]()
    first = told = None
    for frame, faces in Finder(models.detector, models.landmarker, stride=_STRIDE)(clip):
        seconds = float(frame.time)
        first = seconds if first is None else first
        told = seconds if told is None else told
        if faces:
            grey: Any = cv2.cvtColor(frame.image, cv2.COLOR_RGB2GRAY).astype(np.float32)
            for face in faces:
                readers.setdefault(face.track, MarkReader(rate)).add(grey, face.fit.landmarks, seconds)
        if seconds - told > _EVERY:
            told = seconds
            yield readers
        if seconds - first > _ENOUGH:
            break
    yield readers


def _loudest(readers: dict[int, MarkReader]) -> FoundMark | None:
    """The surest mark of all tracks."""
    found = [mark for reader in readers.values() if (mark := reader.found()) is not None]
    return max(found, key=lambda mark: mark.loudness, default=None)
