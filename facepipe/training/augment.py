"""How training faces are varied: in whole batches, on the device that trains, by random numbers of one generator.

Convention
    Stored pictures are (B, 4, S, S): RGB in [-1, 1] and the face's mask in [0, 1], with surroundings around the window
    that the net sees. Grids are those of `torch.nn.functional.grid_sample` with ``align_corners=False``: -1 and 1 are
    the outer edges of the stored picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from facepipe.config import AugmentConfig

__all__ = [
    "NUMBERS",
    "Variation",
    "color_map",
    "draw",
    "masked_moments",
    "sample",
    "similarity_grid",
    "variation",
    "warp_field",
    "warp_to_landmarks",
]

_KNOTS = 5  # of the random warp, across and down: as coarse as features of a face are apart
_REACH = 0.12  # of the window: how far a landmark drags its surroundings


NUMBERS = 12 + 2 * (_KNOTS - 2) ** 2
"""Random numbers that the variation of one face takes."""


class Variation(NamedTuple):
    """What is done to each of B faces.

    Attributes
    ----------
    similarity : (B, 2, 3) Tensor
        From the window's coordinates, [-1, 1], to those of the window in the stored picture.
    warp : (B, 2, K, K) Tensor
        Displacement of the input at the knots of a grid over the window; 0 at its border.
    gain, bias : (B, 3, 1, 1) Tensor
        Colours of input and target.
    to_other, recolored : (B, 1, 1, 1) Tensor
        1 where the input is warped to landmarks of the other person, and where colours are taken from there.
    """

    similarity: Tensor
    warp: Tensor
    gain: Tensor
    bias: Tensor
    to_other: Tensor
    recolored: Tensor


def draw(count: int, generator: torch.Generator) -> Tensor:
    """(count, NUMBERS) random numbers: four uniform ones, then normal ones cut off at 2.5 deviations.

    Drawn on the CPU, so that they are the same on every device.
    """
    uniform = torch.rand(count, 4, generator=generator)
    return torch.cat([uniform, torch.randn(count, NUMBERS - 4, generator=generator).clamp(-2.5, 2.5)], 1)


def variation(numbers: Tensor, config: AugmentConfig, strength: float) -> Variation:
    """The variation of faces by their random numbers.

    Parameters
    ----------
    numbers : (B, NUMBERS) Tensor
        See `draw`.
    config : AugmentConfig
        Standard deviations and shares.
    strength : float
        From 0 (faces as they are, but for mirroring) to 1.
    """
    uniform, normal = numbers[:, :4], numbers[:, 4:]
    varied = (uniform[:, 0] >= config.clean).float()
    amount = varied * strength
    angle = normal[:, 0] * amount * math.radians(config.rotation)
    scale = torch.exp(normal[:, 1] * amount * config.scale)
    shift = 2 * normal[:, 2:4] * (amount * config.shift)[:, None]
    cos, sin = scale * angle.cos(), scale * angle.sin()
    mirror = 1 - 2 * (uniform[:, 3] < 0.5 * config.flip).float()
    turn = torch.stack([cos * mirror, -sin, sin * mirror, cos], 1).view(-1, 2, 2)
    knots = normal[:, 8:].view(-1, 2, _KNOTS - 2, _KNOTS - 2) * (2 * config.warp * amount).view(-1, 1, 1, 1)
    return Variation(
        torch.cat([turn, shift[..., None]], 2),
        F.pad(knots, (1, 1, 1, 1)),
        torch.exp(normal[:, 4:5] * (amount * config.gain)[:, None]).expand(-1, 3)[..., None, None],
        (2 * config.bias * normal[:, 5:8] * amount[:, None])[..., None, None],
        (varied * (uniform[:, 1] < config.warp_to_other * strength)).view(-1, 1, 1, 1),
        (varied * (uniform[:, 2] < config.color * strength)).view(-1, 1, 1, 1),
    )


def similarity_grid(similarity: Tensor, size: int, inside: float) -> Tensor:
    """(B, size, size, 2) where each pixel of the window lies in the stored picture.

    Parameters
    ----------
    similarity : (B, 2, 3) Tensor
        See `Variation`.
    size : int
        Side of the window in pixels.
    inside : float
        Side of the window as a part of the stored picture's.
    """
    grid = F.affine_grid(similarity, [len(similarity), 1, size, size], align_corners=False)
    return grid * inside


def warp_field(warp: Tensor, size: int, inside: float) -> Tensor:
    """(B, size, size, 2) displacement of a smooth random warp, in coordinates of the stored picture."""
    field = F.interpolate(warp, (size, size), mode="bicubic", align_corners=True)
    return field.permute(0, 2, 3, 1) * inside


def warp_to_landmarks(grid: Tensor, own: Tensor, wanted: Tensor, inside: float) -> Tensor:
    """Displacement that makes a face's landmarks lie where another face has them: for the input only.

    Parameters
    ----------
    grid : (B, s, s, 2) Tensor
        Where the pixels of the window lie in the stored picture.
    own, wanted : (B, P, 2) Tensor
        Landmarks of the face, and those that it shall have; in coordinates of the stored picture.
    inside : float
        Side of the window as a part of the stored picture's.

    Returns
    -------
    (B, s, s, 2) Tensor
        What to add to `grid`: sampling there puts every landmark about where `wanted` has it. The displacement of a
        pixel is the Gaussian mean of those of the landmarks near it (Nadaraya 1964, DOI 10.1137/1109020), and falls to
        nothing away from them. Computed at a fourth of the size.
    """
    size = grid.shape[1]
    coarse = F.interpolate(grid.permute(0, 3, 1, 2), (max(4, size // 4),) * 2, mode="bilinear", align_corners=False)
    points = coarse.permute(0, 2, 3, 1).flatten(1, 2)
    near = torch.exp(-torch.cdist(points, wanted).square() / (2 * (_REACH * 2 * inside) ** 2))
    total = near.sum(-1, keepdim=True)
    field = near @ (own - wanted) / (total + 0.1)
    side = coarse.shape[-1]
    field = field.transpose(1, 2).unflatten(2, (side, side))
    return F.interpolate(field, (size, size), mode="bilinear", align_corners=False).permute(0, 2, 3, 1)


def color_map(image: Tensor, mask: Tensor, other: Tensor, other_mask: Tensor) -> Callable[[Tensor], Tensor]:
    """The map of colours that gives an image the mean and deviation of each channel of another, inside the masks.

    Reinhard et al. 2001 (DOI 10.1109/38.946629), in RGB. Shapes (B, 3, H, W) and (B, 1, H, W).
    """
    mean, spread = masked_moments(image, mask)
    wanted_mean, wanted_spread = masked_moments(other, other_mask)
    gain = wanted_spread / spread
    return lambda colors: torch.addcmul(wanted_mean - mean * gain, colors, gain)


def masked_moments(image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """(B, C, 1, 1) mean and deviation of each channel inside of the mask."""
    area = mask.sum((2, 3), keepdim=True).clamp_min(1.0)
    mean = (image * mask).sum((2, 3), keepdim=True) / area
    variance = ((image - mean).square() * mask).sum((2, 3), keepdim=True) / area
    return mean, (variance + 1e-4).sqrt()


def sample(picture: Tensor, grid: Tensor) -> Tensor:
    """(B, C, s, s) of stored pictures at a grid; beyond their edge lies their last pixel."""
    return F.grid_sample(picture, grid.to(picture.dtype), mode="bilinear", padding_mode="border", align_corners=False)
