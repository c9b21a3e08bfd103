"""What is made says what it is: the label in every file that leaves the swap, and its reader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from facepipe import __version__
from facepipe.video import read_metadata

__all__ = ["TAG", "label", "read_label"]

TAG = "facepipe"
"""Key of the container's metadata that holds the label."""

# IPTC digital source type of pictures composed with the help of a trained model.
_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"


def label(**facts: Any) -> dict[str, str]:
    """Metadata tags for a swapped video: a sentence for people (``comment``) and JSON for machines (`TAG`).

    Parameters
    ----------
    **facts
        What made it: method, hashes of the inputs, id of the run. Everything that JSON can hold.
    """
    statement = {"software": f"facepipe {__version__}", "swapped": True, "digital_source_type": _SOURCE_TYPE, **facts}
    return {
        "comment": "Synthetic media: the face in this video was replaced by facepipe, for research.",
        TAG: json.dumps(statement, sort_keys=True),
    }


def read_label(path: Path) -> dict[str, Any] | None:
    """The label of a video, or None when it carries none.

    Raises
    ------
    MediaError
        The file is no video.
    """
    text = read_metadata(path).get(TAG)
    if text is None:
        return None
    try:
        statement = json.loads(text)
    except ValueError:
        return None
    return statement if isinstance(statement, dict) else None
