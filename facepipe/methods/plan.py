"""What every swap method offers: faces chosen before a frame is decoded, and their patches in batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from facepipe.composite import Patch
from facepipe.config import SwapConfig
from facepipe.types import Faces, Flag, Image

__all__ = ["Plan", "Record", "reference_faces", "rows_to_swap"]


@dataclass(frozen=True, slots=True)
class Record:
    """What was done to a face, for the table beside the video.

    Attributes
    ----------
    face : int
        Number of the target's face within its frame.
    source_clip, source_frame, source_face : int
        The source face that was used most; -1 for a method that has no single one.
    """

    face: int
    source_clip: int = -1
    source_frame: int = -1
    source_face: int = -1


class Plan(Protocol):
    """The swap of one clip by one method, decided before a frame is decoded.

    While a clip is swapped, `patches` is called from one thread and `record` from another; neither is the main
    thread. `record` therefore only reads, and `patches` sets whatever belongs to a thread (``torch.inference_mode``)
    itself.
    """

    @property
    def faces(self) -> Faces:
        """The target person's faces that are swapped, one a frame at most, in the order of frames.

        A face for which the method has no source is not among them.
        """
        ...

    @property
    def batch(self) -> int:
        """How many faces `patches` likes to get at once; it may get fewer."""
        ...

    def patches(self, rows: Sequence[int], frames: Sequence[Image]) -> list[Patch | None]:
        """The swapped faces before they meet their frames.

        Parameters
        ----------
        rows : sequence of int
            N rows of `faces`, in rising order.
        frames : sequence of (H, W, 3) uint8 arrays
            The frame of each, which stays as it is.

        Returns
        -------
        list of Patch or None
            One a row; None where the face lies outside of its frame or cannot be made.
        """
        ...

    def record(self, row: int) -> Record:
        """What is done to a row of `faces`."""
        ...


def rows_to_swap(faces: Faces, rows: NDArray[np.bool_], config: SwapConfig) -> NDArray[np.bool_]:
    """(N,) bool: those of the target person's `rows` that have no flag of ``config.skip``."""
    barring = sum(Flag[name.upper()] for name in config.skip)
    return np.asarray(rows & ((faces.flags & barring) == 0))


def reference_faces(faces: Faces, rows: NDArray[np.bool_], swapped: Faces) -> Faces:
    """What a person's habits and proportions are measured on: all unflagged ones of `rows`, or what is swapped."""
    known = rows & faces.trusted
    return faces[known] if known.any() else swapped
