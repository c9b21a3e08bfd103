"""Texture: sharpness and grain of a region, and how to make one picture's like another's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from facepipe.image._pixels import Mask, Pixels, blur, check_image, check_mask, check_rgb, cv2

__all__ = ["Texture", "add_grain", "match_blur", "sharpness", "texture"]

_FEWEST = 64
"""Pixels without which nothing is measured."""

_IMMERKAER = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
_MEDIAN = 6 * 0.67449
"""Median of the absolute response to white noise of deviation 1: the mask's norm is 6."""

_FINE = 0.889
"""Power that white noise of deviation 1 has in the finest band of a Laplacian pyramid; in the next it has 0.053."""

_SOFTNESS = ((-0.95, -0.78, -0.54, -0.25, 0.07, 0.6), (4.0, 2.25, 1.0, 0.36, 0.0, -0.4))
"""`Texture.detail` of photographs (scikit-image's astronaut, camera, cat, coffee: mean, +-0.1) and the variance of the
blur they were given; the last pair continues the line to pictures that are sharper still."""

_ROUNDING = 1 / 12
"""Variance that rounding adds."""

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Texture:
    """How sharp and how noisy a region is. Textures may be mixed over frames before they are used.

    Attributes
    ----------
    detail : float
        Logarithm of the ratio of the two finest bands' deviations (of a Laplacian pyramid), noise taken off: it falls
        when a picture is blurred, and contrast does not change it.
    grain : float
        Deviation of the noise in grey levels.
    """

    detail: float
    grain: float

    def mixed(self, other: Texture, share: float) -> Texture:
        """``(1 - share)`` of this one and `share` of the other."""
        keep = 1 - share
        return Texture(keep * self.detail + share * other.detail, keep * self.grain + share * other.grain)


def _grey(image: Pixels) -> Floats:
    if check_image(image).ndim == 2:
        return image.astype(np.float32)
    grey: Floats = cv2.cvtColor(check_rgb(image).astype(np.float32), cv2.COLOR_RGB2GRAY)
    return grey


def texture(image: Pixels, mask: Mask) -> Texture:
    """Measure sharpness and noise where the mask is at least 1/2.

    Noise is what a mask without response to planes and edges along the axes sees in the typical pixel (Immerkær 1996;
    the median in place of the mean: edges do not count). Fine texture, such as skin's, counts as noise: it cannot be
    told apart.

    Parameters
    ----------
    image : (H, W) or (H, W, 3) uint8 or float32 array
    mask : (H, W) float32 or bool array

    Returns
    -------
    Texture
        Zeros for a region of few pixels.

    References
    ----------
    J. Immerkær, "Fast noise variance estimation", Comput. Vis. Image Underst. 64 (1996) 300-302.
    DOI 10.1006/cviu.1996.0060
    P. J. Burt, E. H. Adelson, "The Laplacian pyramid as a compact image code", IEEE Trans. Commun. 31 (1983) 532-540.
    DOI 10.1109/TCOM.1983.1095851
    """
    grey = _grey(image)
    inside = check_mask(mask, image.shape) >= 0.5
    half = inside[::2, ::2]
    if np.count_nonzero(half) < _FEWEST:
        return Texture(0.0, 0.0)
    grain = float(np.median(np.abs(cv2.filter2D(grey, -1, _IMMERKAER)[inside]))) / _MEDIAN
    small = cv2.pyrDown(grey)
    smaller = cv2.pyrDown(small)
    fine = _power(grey - cv2.pyrUp(small, dstsize=grey.shape[::-1]), inside)
    coarse = _power(small - cv2.pyrUp(smaller, dstsize=small.shape[::-1]), half)
    noise = _FINE * grain * grain
    return Texture(0.5 * math.log(max(fine - noise, 0.01) / max(coarse, 0.01)), grain)


def _power(band: Floats, inside: NDArray[np.bool_]) -> float:
    values = band[inside]
    return float(values @ values) / len(values)


def match_blur(image: Pixels, own: Texture, wanted: Texture, *, most: float = 2.0) -> Pixels:
    """Blur an image that is sharper than wanted; one that is not comes back as it is, never sharpened.

    Parameters
    ----------
    image : (H, W) or (H, W, C) uint8 or float32 array
    own, wanted : Texture
        Of the image, and of what it shall look like.
    most : float
        Largest deviation of the Gaussian in pixels.
    """
    have, want = (float(np.interp(one.detail, *_SOFTNESS)) for one in (own, wanted))
    sigma = min(math.sqrt(max(want - have, 0.0)), most)
    return blur(check_image(image), sigma, sigma)


def add_grain(image: Pixels, own: Texture, wanted: Texture, *, seed: Sequence[int]) -> Pixels:
    """Add grey noise to an image that is cleaner than wanted, as much as is missing.

    Parameters
    ----------
    image : (H, W) or (H, W, C) uint8 or float32 array
    own, wanted : Texture
        Of the image, and of what it shall look like.
    seed : sequence of int
        Not negative. The same seed gives the same grain.

    Returns
    -------
    array like image
        Clipped to 0 … 255, and rounded when uint8.
    """
    missing = wanted.grain**2 - own.grain**2 - (_ROUNDING if image.dtype == np.uint8 else 0)
    if missing <= 0:
        return image
    check_image(image)
    random = np.random.Generator(np.random.PCG64(seed))
    noise = random.standard_normal(image.shape[:2], np.float32) * np.float32(math.sqrt(missing))
    grainy: Pixels = np.clip(image + (noise if image.ndim == 2 else noise[..., None]), 0, 255)
    return np.rint(grainy).astype(np.uint8) if image.dtype == np.uint8 else grainy


def sharpness(image: Pixels, mask: Mask | None = None) -> float:
    """Standard deviation of the Laplacian: how much fine detail there is.

    Parameters
    ----------
    image : (H, W) or (H, W, 3) uint8 or float32 array
        RGB is made grey first (BT.601 weights).
    mask : (H, W) float32 or bool array, optional
        Pixels that count: where it is above 0.

    Returns
    -------
    float
        Grey levels; 0 for a flat image.

    References
    ----------
    J. L. Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy: a comparative study", ICPR 2000 (there
    the variance). DOI 10.1109/ICPR.2000.903548
    """
    grey = check_image(image) if image.ndim == 2 else cv2.cvtColor(check_rgb(image), cv2.COLOR_RGB2GRAY)
    chosen = None if mask is None else cv2.compare(check_mask(mask, image.shape), 0, cv2.CMP_GT)
    _, deviation = cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_32F), mask=chosen)
    return float(deviation[0, 0])
