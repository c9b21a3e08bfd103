"""Pixels: warp and paste, masks, colour, texture, blending, piecewise and smooth warps. Numpy and OpenCV.

Images are (H, W) or (H, W, C) arrays, C up to 4, uint8 or float32; colour is RGB, and float32 colour has the range of
uint8, 0 … 255. Masks are (H, W) float32 in [0, 1]. Points are (x, y) with pixel centres at integers; sizes are
(height, width); matrices are named by direction, all as in `facepipe.types`. Wrong shapes and types raise ValueError.
"""

from __future__ import annotations

from facepipe.image.blending import blend_feather, blend_multiband
from facepipe.image.color import (
    ColorMap,
    ColorStats,
    apply_color,
    apply_color_map,
    color_map,
    color_stats,
    match_color,
    transfer_map,
)
from facepipe.image.lazy import LazyImage, Picture
from facepipe.image.masks import hull_mask, polygon_mask, soften
from facepipe.image.meshes import delaunay, piecewise_map, piecewise_warp, smooth_map
from facepipe.image.poisson import blend_poisson, poisson_shift
from facepipe.image.texture import Texture, add_grain, match_blur, sharpness, texture
from facepipe.image.transport import sliced_transport
from facepipe.image.warping import paste, paste_into, warp

__all__ = [
    "ColorMap",
    "ColorStats",
    "LazyImage",
    "Picture",
    "Texture",
    "add_grain",
    "apply_color",
    "apply_color_map",
    "blend_feather",
    "blend_multiband",
    "blend_poisson",
    "color_map",
    "color_stats",
    "delaunay",
    "hull_mask",
    "match_blur",
    "match_color",
    "paste",
    "paste_into",
    "piecewise_map",
    "piecewise_warp",
    "poisson_shift",
    "polygon_mask",
    "sharpness",
    "sliced_transport",
    "smooth_map",
    "soften",
    "texture",
    "transfer_map",
    "warp",
]
