"""Nets that OpenCV runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2

from facepipe.errors import WeightsError

__all__ = ["loading", "read_net"]


@contextmanager
def loading(path: Path) -> Iterator[None]:
    """What OpenCV does while it loads a net: its errors become ours, and its warnings are off.

    OpenCV 5 warns at every load that its engine cannot choose a target, which nobody asked for.

    Raises
    ------
    WeightsError
        The file is not a net that this OpenCV knows.
    """
    logging = cv2.utils.logging
    level = logging.getLogLevel()
    logging.setLogLevel(logging.LOG_LEVEL_ERROR)
    try:
        yield
    except cv2.error as exc:
        raise WeightsError(f"{path}: OpenCV {cv2.__version__} cannot read it ({exc.err})") from exc
    finally:
        logging.setLogLevel(level)


def read_net(path: Path) -> cv2.dnn.Net:
    """Load a TFLite or ONNX file; errors as in `loading`."""
    with loading(path):
        read = cv2.dnn.readNetFromTFLite if path.suffix == ".tflite" else cv2.dnn.readNetFromONNX
        return read(str(path))
