"""Grey planes of 16 bits from a video, as they were written: no colours, no turning, no scaling."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facepipe.errors import MediaError
from facepipe.video.source import Limits, open_input, reading

__all__ = ["read_planes"]

_FORMAT = "gray16le"


def read_planes(path: str | Path, limits: Limits | None = None) -> Generator[NDArray[np.uint16], None, None]:
    """Yield the frames of a video that `open_writer` wrote with the codec ``mask16``, one at a time.

    Parameters
    ----------
    path : str or Path
        A video of one grey plane of 16 bits.
    limits : Limits, optional
        Refuse larger frames.

    Yields
    ------
    (H, W) uint16 array

    Raises
    ------
    MediaError
        The file is missing or damaged, or its pixels are of another kind.
    MediaLimitError
        It has more pixels than allowed.
    """
    path, limits = Path(path), limits or Limits()
    with reading(path), open_input(path, limits) as container:
        if not container.streams.video:
            raise MediaError(f"{path}: expected a video, but there is none in it")
        for frame in container.decode(container.streams.video[0]):
            if frame.format.name != _FORMAT:
                raise MediaError(f"{path}: expected {_FORMAT} pixels, got {frame.format.name}")
            limits.check_size(path, frame.height, frame.width)
            yield np.asarray(frame.to_ndarray(), np.uint16)
