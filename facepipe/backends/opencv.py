"""Nets that OpenCV runs."""

from __future__ import annotations

from pathlib import Path

import cv2

__all__ = ["read_net"]


def read_net(path: Path) -> cv2.dnn.Net:
    """Load a TFLite or ONNX file.

    OpenCV 5 warns at every load that its engine cannot choose a target, which nobody asked for; its warnings are off
    while it loads.
    """
    logging = cv2.utils.logging
    level = logging.getLogLevel()
    logging.setLogLevel(logging.LOG_LEVEL_ERROR)
    try:
        read = cv2.dnn.readNetFromTFLite if path.suffix == ".tflite" else cv2.dnn.readNetFromONNX
        return read(str(path))
    finally:
        logging.setLogLevel(level)
