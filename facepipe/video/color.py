"""Between the decoder's pixels and RGB, with matrix, range and rounding always stated.

swscale's quick YUV to RGB route truncates: measured against the formula in floating point it is 1.0 to 1.9 grey
levels too dark. `ACCURATE_RND | FULL_CHR_H_INT` takes the route that rounds (0.01 levels), at about a tenth of the
speed of the quick one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from av import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from numpy.typing import NDArray

from facepipe.types import Image

__all__ = ["RANGES", "SPACES", "Coding", "from_rgb", "over_black", "to_rgb"]

# AVColorSpace and AVColorRange (ITU-T H.273), and the names ffprobe has for them.
SPACES = {
    0: "gbr",
    1: "bt709",
    4: "fcc",
    5: "bt470bg",
    6: "smpte170m",
    7: "smpte240m",
    8: "ycgco",
    9: "bt2020nc",
    10: "bt2020c",
}
RANGES = {1: "tv", 2: "pc"}

_MATRIX = {
    "bt709": Colorspace.ITU709,
    "fcc": Colorspace.FCC,
    "bt470bg": Colorspace.ITU601,
    "smpte170m": Colorspace.ITU601,
    "smpte240m": Colorspace.SMPTE240M,
    "bt2020nc": Colorspace.BT2020,
    "bt2020c": Colorspace.BT2020,
}
_EXACT = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
_SHRINK = Interpolation.AREA | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT  # AREA is a low-pass
_STRETCH = np.clip(np.rint((np.arange(256) - 16) * (255 / 219)), 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Coding:
    """How YUV values mean colours: `space` is a key of the matrix table, `full` the range."""

    space: str
    full: bool

    @classmethod
    def of(cls, *, space: str, color_range: str, pixel_format: str, height: int) -> Coding:
        """What tags say, and the rule where they say nothing: BT.709 from 720 lines up, BT.601 below."""
        if space not in _MATRIX:
            space = "bt709" if height >= 720 else "smpte170m"
        full = color_range == "pc" or (not color_range and pixel_format.startswith(("yuvj", "gray", "ya")))
        return cls(space, full)

    @property
    def matrix(self) -> Colorspace:
        """The conversion matrix."""
        return _MATRIX[self.space]

    @property
    def range(self) -> ColorRange:
        """The range of the YUV values."""
        return ColorRange.JPEG if self.full else ColorRange.MPEG


def to_rgb(frame: VideoFrame, coding: Coding, size: tuple[int, int], reformatter: VideoReformatter) -> Image:
    """Pixels of a decoded frame as RGB of `size` (height, width), not yet turned."""
    transparent = frame.format.has_palette or any(c.is_alpha for c in frame.format.components)
    shrinks = size[0] < frame.height or size[1] < frame.width
    converted = reformatter.reformat(
        frame,
        width=size[1],
        height=size[0],
        format="rgba" if transparent else "rgb24",
        interpolation=_SHRINK if shrinks else _EXACT,
        src_colorspace=coding.matrix,
        dst_colorspace=coding.matrix,
        src_color_range=coding.range,
        dst_color_range=ColorRange.JPEG,
    )
    pixels = np.asarray(converted.to_ndarray(), np.uint8)
    if not coding.full and frame.format.name.startswith("gray"):
        pixels = _STRETCH[pixels]  # swscale takes every grey for full range, whatever it is told
    return over_black(pixels) if transparent else pixels


def from_rgb(
    image: Image | NDArray[np.uint16], coding: Coding, pixel_format: str, reformatter: VideoReformatter
) -> VideoFrame:
    """A frame ready for the encoder from RGB (or, for ``gray`` and ``gray16le``, from a (H, W) plane)."""
    if pixel_format in ("gray", "gray16le", "rgb24"):
        return VideoFrame.from_ndarray(image, format=pixel_format)
    return reformatter.reformat(
        VideoFrame.from_numpy_buffer(np.ascontiguousarray(image, np.uint8), format="rgb24"),  # read here only: no copy
        format=pixel_format,
        interpolation=_EXACT,
        src_colorspace=coding.matrix,
        dst_colorspace=coding.matrix,
        src_color_range=ColorRange.JPEG,
        dst_color_range=coding.range,
    )


def over_black(rgba: NDArray[Any]) -> Image:
    """Composite (H, W, 4) uint8 with straight alpha on black; (H, W, 3) uint8."""
    alpha = rgba[..., 3:]
    if np.all(alpha == 255):
        return np.ascontiguousarray(rgba[..., :3])
    product = rgba[..., :3].astype(np.uint16)
    product *= alpha
    product += 127
    product //= 255
    return product.astype(np.uint8)
