"""The plain label in the container's metadata: a sentence for people, and JSON for machines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from facepipe import __version__
from facepipe.video import IMAGE_SUFFIXES, read_metadata, read_tags

__all__ = ["TAG", "label", "read_label", "source_type", "statement_of"]

TAG = "facepipe"
"""Key of the container's metadata that holds the label."""

# https://cv.iptc.org/newscodes/digitalsourcetype/ (2024-10-23), which C2PA 2.x takes its types from:
# compositeWithTrainedAlgorithmicMedia "Edited using Generative AI"; compositeCapture "Mix or composite of several
# elements that are all captures of real life".
_SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
_ONLY_CAPTURES = frozenset({"procrustes"})


def source_type(method: str | None) -> str:
    """IPTC digital source type of a video that a swap method made.

    ``procrustes`` pastes warped frames of a camera into frames of a camera and draws nothing: a composite of captures.
    All others draw the face with what they learned from samples (eigenfaces are a trained model too), which is also
    what is said of a method that is not known.
    """
    return _SOURCE_TYPES + ("compositeCapture" if method in _ONLY_CAPTURES else "compositeWithTrainedAlgorithmicMedia")


def label(**facts: Any) -> dict[str, str]:
    """Metadata tags for a swapped video: a sentence for people (``comment``) and JSON for machines (`TAG`).

    Parameters
    ----------
    **facts
        What made it: method, hashes of the inputs, id of the run. Everything that JSON can hold.
    """
    statement = {
        "software": f"facepipe {__version__}",
        "swapped": True,
        "digital_source_type": source_type(facts.get("method")),
        **facts,
    }
    return {
        "comment": "Synthetic media: the face in this video was replaced by facepipe, for research.",
        TAG: json.dumps(statement, sort_keys=True),
    }


def statement_of(tags: Mapping[str, str]) -> dict[str, Any] | None:
    """What the tags of a container say for machines, or None where they hold no label."""
    try:
        statement = json.loads(tags[TAG])
    except (KeyError, ValueError):
        return None
    return statement if isinstance(statement, dict) else None


def read_label(path: Path) -> dict[str, Any] | None:
    """The label of a video or an image, or None when it carries none. It is not checked: `check` does that.

    Raises
    ------
    MediaError
        The file is neither.
    """
    return statement_of(read_tags(path) if path.suffix.lower() in IMAGE_SUFFIXES else read_metadata(path))
