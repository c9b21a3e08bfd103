"""Nets that OpenCV runs."""

from __future__ import annotations

from pathlib import Path

import cv2

from facepipe.errors import WeightsError

__all__ = ["read_net"]


def read_net(path: Path) -> cv2.dnn.Net:
    """Load a TFLite or ONNX file.

    OpenCV 5 warns at every load that its engine cannot choose a target, which nobody asked for; its warnings are off
    while it loads.

    Raises
    ------
    WeightsError
        The file is not a net that this OpenCV knows.

    Raises
    ------
    WeightsError
        The file is not a net that this OpenCV knows.
    """
    logging = cv2.utils.logging
    level = logging.getLogLevel()
    logging.setLogLevel(logging.LOG_LEVEL_ERROR)
    try:
        read = cv2.dnn.readNetFromTFLite if path.suffix == ".tflite" else cv2.dnn.readNetFromONNX
        return read(str(path))
    except cv2.error as exc:
        raise WeightsError(f"{path}: OpenCV {cv2.__version__} cannot read it ({exc.err})") from exc
    finally:
        logging.setLogLevel(level)
