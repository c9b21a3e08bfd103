"""Norms and losses for training: lp norms, reconstruction, total variation, the family of adversarial losses.

Convention
    - Images are (B, C, H, W) of any floating dtype. Reductions run in float32, or in float64 for float64 input, so
      bfloat16 and float16 images give a float32 loss and lose nothing in the sum.
    - `weight` broadcasts to the image, e.g. (B, 1, H, W) or (H, W); the loss is the weighted mean, so a mask does not
      make it smaller by being small. A weight that is zero everywhere gives 0.
    - Every loss is differentiable, with finite gradients where the mathematics has a corner (x = 0).
"""

from __future__ import annotations

from facepipe.losses.gan import (
    AdversarialKind,
    AdversarialLoss,
    adversarial,
    clip_weights,
    gradient_penalty,
    r1_penalty,
    spectral_norms,
)
from facepipe.losses.norms import MatrixNorm, lp_norm, matrix_norm
from facepipe.losses.reconstruction import charbonnier, edge, huber, l1, l2, total_variation
from facepipe.losses.similarity import dssim, ms_dssim

__all__ = [
    "AdversarialKind",
    "AdversarialLoss",
    "MatrixNorm",
    "adversarial",
    "charbonnier",
    "clip_weights",
    "dssim",
    "edge",
    "gradient_penalty",
    "huber",
    "l1",
    "l2",
    "lp_norm",
    "matrix_norm",
    "ms_dssim",
    "r1_penalty",
    "spectral_norms",
    "total_variation",
]
