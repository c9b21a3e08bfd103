"""What is measured, on which frames: small presets, each with a name that stands beside its numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from facepipe.config import ProtocolName
from facepipe.errors import UsageError, WeightsMissingError
from facepipe.types import evenly_spaced

__all__ = ["PARTS", "PROTOCOLS", "Often", "Protocol", "choose_protocol", "heavy_step"]

PARTS = (
    "identity",
    "outside",
    "reconstruction",
    "sharpness",
    "distribution",
    "pose",
    "expression",
    "jitter",
    "time",
    "buckets",
)
"""What a protocol can ask for; each is a section of ``scores.json`` or belongs to one."""

_HEAVY = 60  # frames of a clip that get the heavy measures at least, where it has so many ...
_STEP = 6  # ... and of more frames than that every so many-th at least
_RARE = 40


Often = Literal["all", "heavy", "rare"]
"""How many of a clip's frames a measure is made on; see `Protocol.frames_text`."""


@dataclass(frozen=True, slots=True)
class Protocol:
    """A way to measure.

    Attributes
    ----------
    name : str
        As in ``facepipe score --protocol NAME``.
    text : str
        One or two sentences for whoever reads the numbers.
    parts : frozenset of str
        Of `PARTS`.
    frames : int or None
        How many evenly spaced frames of each clip are looked at; None: all that were swapped.
    gallery : int
        Frames of each original in the gallery of the retrieval, at most.
    """

    name: str
    text: str
    parts: frozenset[str]
    frames: int | None = None
    gallery: int = 32

    def frames_of(self, total: int, swapped: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Numbers of the frames of a clip that are measured.

        Parameters
        ----------
        total : int
            Length of the clip.
        swapped : (total,) bool array
            Which of them were swapped: no other is measured.
        """
        if self.frames is None:
            return np.flatnonzero(swapped)
        spaced = evenly_spaced(total, self.frames)
        return spaced[swapped[spaced]]

    def heavy_of(self, frames: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of `frames` on which heavy measures are made as well."""
        return frames if self.frames is not None else frames[:: heavy_step(len(frames))]

    def rare_of(self, frames: NDArray[np.int64]) -> NDArray[np.int64]:
        """At most 40 of `frames`, evenly spaced, for what is dear and hardly varies."""
        heavy = self.heavy_of(frames)
        return heavy[evenly_spaced(len(heavy), _RARE)]

    def frames_text(self, often: Often) -> str:
        """On which frames a measure stands, in words."""
        if self.frames is not None:
            return f"{self.frames} evenly spaced frames a clip, as far as they were swapped"
        if often == "rare":
            return f"at most {_RARE} swapped frames a clip, evenly spaced"
        if often == "all":
            return "every swapped frame"
        return f"every n-th swapped frame of a clip, n from 1 to {_STEP}: at least {_HEAVY} frames, where there are"


def heavy_step(count: int) -> int:
    """Of `count` swapped frames of a clip every n-th gets the heavy measures; this is n."""
    return min(_STEP, max(1, count // _HEAVY))


PROTOCOLS: dict[str, Protocol] = {
    one.name: one
    for one in (
        Protocol(
            "facepipe",
            "Everything that can be measured, on all swapped frames (heavy measures on every n-th), and again on the "
            "frames that the method never learned from, where it learns from the target's clips.",
            frozenset(PARTS),
        ),
        Protocol(
            "ffpp-10",
            "The convention of papers on FaceForensics++: 10 evenly spaced frames of each video; the source is looked "
            "up among 10 frames of every original and the reference people; pose and expression as L2 to the target.",
            frozenset({"identity", "pose", "expression"}),
            frames=10,
            gallery=10,
        ),
        Protocol(
            "pose-degrees",
            "Pose alone: L2 of yaw, pitch and roll in degrees between swap and target, 10 evenly spaced frames of "
            "each video.",
            frozenset({"pose"}),
            frames=10,
        ),
    )
}

_REFUSED = {
    "pose-logits": "needs the logits of a pose net (Hopenet, Ruiz et al. 2018, arXiv:1710.00925), and the catalogue "
    "has no such net; --protocol pose-degrees compares the angles themselves"
}


def choose_protocol(name: str) -> Protocol:
    """The protocol called `name`.

    Raises
    ------
    UsageError
        There is none of that name.
    WeightsMissingError
        It is known, and needs a net that is not to be had here.
    """
    if name in _REFUSED:
        raise WeightsMissingError(f"protocol {name!r} {_REFUSED[name]}")
    if name not in PROTOCOLS:
        raise UsageError(f"protocol {name!r} is unknown; expected one of {', '.join(get_args(ProtocolName))}")
    return PROTOCOLS[name]
