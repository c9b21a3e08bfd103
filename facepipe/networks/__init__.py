"""Generators and discriminators: tensors in, tensors out; no files, no OpenCV, no choice of device.

Convention
    Pictures are (B, 3, S, S) RGB float in [-1, 1], S a power-of-two multiple as `Architecture` says. Codes are (B, C).
    Logits of masks and discriminators have no sigmoid.
"""

from __future__ import annotations

from facepipe.networks.architecture import PRESETS, Architecture, architecture
from facepipe.networks.discriminators import DiscriminatorKind, discriminator
from facepipe.networks.generator import Face, SwapNet
from facepipe.networks.summary import Summary, summary

__all__ = [
    "PRESETS",
    "Architecture",
    "DiscriminatorKind",
    "Face",
    "Summary",
    "SwapNet",
    "architecture",
    "discriminator",
    "summary",
]
