"""What is odd in the frames of a clip, and which of them a person should look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

from facepipe.results import ClipResults, flag_names
from facepipe.types import evenly_spaced, longest_runs

__all__ = ["STATES", "Note", "choose_frames", "note", "worst_frames"]

STATES = ("not found again", "no face", "not swapped")
"""What can be wrong with a frame as a whole, worst first: `Note.state`."""


@dataclass(frozen=True, slots=True)
class Note:
    """What is known of a frame.

    Attributes
    ----------
    row : int or None
        Row, in the table of faces, of the face that was swapped, else of the largest face; None without a face.
    state : str
        ``no face``, ``not swapped``, ``not found again`` (in the swapped video), or nothing.
    flags : tuple of str
        Of that face.
    margins : dict of str to float
        Similarity to the source minus similarity to the target, by net.
    """

    row: int | None
    state: str
    flags: tuple[str, ...]
    margins: Mapping[str, float]

    @property
    def words(self) -> str:
        """State and flags."""
        return ", ".join(word.replace("_", " ") for word in (self.state, *self.flags) if word)


def note(clip: ClipResults) -> list[Note]:
    """One `Note` a frame of the clip."""
    largest: dict[int, int] = {}
    row_of: dict[tuple[int, int], int] = {}
    faces, swapped, scores = clip.outlines, clip.swapped, clip.scores
    for row, (frame, face) in enumerate(zip(faces.frame.tolist(), faces.face.tolist(), strict=True)):
        largest.setdefault(frame, row)
        row_of[frame, face] = row
    notes = []
    for frame in range(clip.frames):
        face = int(swapped.face[frame]) if swapped is not None and frame < len(swapped.face) else -1
        chosen = row_of.get((frame, face), largest.get(frame))
        score = scores.get(frame, {})
        state = "no face" if chosen is None else "not swapped" if swapped is not None and face < 0 else ""
        if not state and not score.get("found", True):
            state = "not found again"
        flags = () if chosen is None else flag_names(int(faces.flags[chosen]))
        notes.append(Note(chosen, state, flags, score.get("margins", {})))
    return notes


def worst_frames(notes: Sequence[Note], most: int) -> dict[int, str]:
    """Up to `most` frames that a person should look at, each with the reason; not two of one moment.

    The kinds of trouble take turns: a low margin (mean over the nets), a frame of the longest stretch where the
    face was not found again, where none was found, where it was not swapped, where it is flagged.
    """
    margins = {i: float(np.mean(list(one.margins.values()))) for i, one in enumerate(notes) if one.margins}
    kinds = [[(i, "low margin") for i in sorted(margins, key=lambda i: margins[i])]]
    kinds += [[(i, state) for i in _middles([one.state == state for one in notes])] for state in STATES]
    kinds.append([(i, "flagged") for i in _middles([bool(one.flags) for one in notes])])
    apart = len(notes) / (4 * max(1, most))
    found: dict[int, str] = {}
    for turn in zip_longest(*kinds):
        for frame, reason in (one for one in turn if one is not None):
            if len(found) < most and all(abs(frame - other) >= apart for other in found):
                found[frame] = reason
        if len(found) >= most:
            break
    return found


def _middles(odd: Sequence[bool]) -> list[int]:
    """The middle frame of each stretch, longest first."""
    return [(first + last) // 2 for first, last in longest_runs(np.asarray(odd, bool))]


def choose_frames(notes: Sequence[Note], count: int) -> dict[int, str]:
    """`count` frames in order, evenly spaced but for the worst ones (up to half), with the reason for those."""
    chosen = dict.fromkeys(evenly_spaced(len(notes), count).tolist(), "") if notes else {}
    worst = worst_frames(notes, count // 2)
    for frame, reason in worst.items():
        if frame not in chosen and len(chosen) >= count:
            plain = [other for other in chosen if other not in worst]
            del chosen[min(plain, key=lambda other: (abs(other - frame), other))]
        chosen[frame] = reason
    return dict(sorted(chosen.items()))
