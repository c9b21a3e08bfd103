"""How open eyes look, by their pictures: landmarks lie on lowered lids as on open ones.

An open eye is dark and bright from side to side, white, iris, white; a closed one, and one that looks down, from lid
to lash only. So what tells is the share of its gradients that point along the line of its corners.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from facepipe.image import warp
from facepipe.types import Image

__all__ = ["eye_openness"]

_CORNERS = ((36, 39), (42, 45))  # of iBUG's 68, left to right in the picture
_SIZE = (16, 32)
_WIDTH = 0.6  # of the picture's, from corner to corner
_INNER = np.s_[4:12, 8:24]  # between the corners, and a quarter of the eye's width up and down
_FLAT = 1.0  # grey levels a pixel of gradient, below which a picture shows nothing


def eye_openness(crop: Image, landmarks: NDArray[np.floating]) -> NDArray[np.float32]:
    """How open both eyes look.

    Parameters
    ----------
    crop : (H, W, 3) uint8 array
        RGB.
    landmarks : (68, 2) array
        iBUG points in pixels of `crop`.

    Returns
    -------
    (2,) float32 array
        The eye on the left of the picture, then the other: the mean absolute gradient along the line of the corners by
        the sum of those along and across, in [0, 1]. 0.35 to 0.5 for most open eyes and 0.2 to 0.3 for closed or
        lowered ones; people differ, so compare with the person's own. NaN where nothing can be told: corners that
        coincide, a flat picture.
    """
    found = np.full(2, np.nan, np.float32)
    height, width = _SIZE
    for eye, (left, right) in enumerate(_CORNERS):
        (x0, y0), (x1, y1) = np.asarray(landmarks[[left, right]], np.float64).tolist()
        along, across = x1 - x0, y1 - y0
        squared = along * along + across * across
        if not math.isfinite(squared) or squared < 1:
            continue
        # The similarity that lays the line of the corners level, `_WIDTH` of the width long, in the middle.
        a, b = (_WIDTH * width * part / squared for part in (along, across))
        x, y = (x0 + x1) / 2, (y0 + y1) / 2
        matrix = np.array([[a, b, (width - 1) / 2 - a * x - b * y], [-b, a, (height - 1) / 2 + b * x - a * y]])
        grey = cv2.cvtColor(warp(crop, matrix, _SIZE, border="replicate"), cv2.COLOR_RGB2GRAY)
        smooth = cv2.GaussianBlur(grey.astype(np.float32), (0, 0), 1.0)
        level, upright = (
            float(np.abs(cv2.Sobel(smooth, cv2.CV_32F, *by) / 8)[_INNER].mean()) for by in ((1, 0), (0, 1))
        )
        if level + upright > _FLAT:
            found[eye] = level / (level + upright)
    return found
