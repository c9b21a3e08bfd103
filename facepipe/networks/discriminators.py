"""Discriminators: raw logits of pictures, one tensor whose mean is to be taken.

None of them normalises over the batch: a penalty on the slope (`facepipe.losses.gradient_penalty`) is that of one
image only where its logits depend on no other (Gulrajani et al. 2017, section 4, arXiv:1704.00028). None of them has a
size of its own: they are convolutional, so that one serves pictures of any side.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from facepipe.networks.blocks import Blur, convolution

__all__ = [
    "DiscriminatorKind",
    "MultiScaleDiscriminator",
    "PatchDiscriminator",
    "UNetDiscriminator",
    "discriminator",
]

DiscriminatorKind = Literal["patch", "multi-scale", "unet"]

_SLOPE = 0.2  # of the leaky rectifiers; Isola et al. 2017, appendix 6.1
_WIDEST = 8  # times the first level's channels


def discriminator(
    kind: DiscriminatorKind, *, width: int = 32, spectral: bool = True, levels: int | None = None
) -> nn.Module:
    """The discriminator of that name.

    Parameters
    ----------
    kind : {"patch", "multi-scale", "unet"}
        `PatchDiscriminator`, `MultiScaleDiscriminator` or `UNetDiscriminator`.
    width : int
        Channels of the first level; they double with each, up to eight times as many.
    spectral : bool
        Spectral normalisation of every layer. Miyato et al. 2018, arXiv:1802.05957
    levels : int, optional
        Halvings; by default 3, for unet 4, which suit sides from 64 to 256 (see the classes).

    Returns
    -------
    nn.Module
        From (B, 3, S, S) pictures in [-1, 1] to raw logits (B, channels, height, width), S of at least ``2**levels``
        (twice that for multi-scale).

    Raises
    ------
    ValueError
        An unknown kind; a width or levels below 1.
    """
    if kind not in get_args(DiscriminatorKind):
        raise ValueError(f"kind: expected one of {', '.join(get_args(DiscriminatorKind))}, got {kind!r}")
    depth = (4 if kind == "unet" else 3) if levels is None else levels
    for name, value in (("width", width), ("levels", depth)):
        if value < 1:
            raise ValueError(f"{name}: expected at least 1, got {value}")
    match kind:
        case "patch":
            return PatchDiscriminator(width, spectral=spectral, levels=depth)
        case "multi-scale":
            return MultiScaleDiscriminator(width, spectral=spectral, levels=depth)
        case "unet":
            return UNetDiscriminator(width, spectral=spectral, levels=depth)


class PatchDiscriminator(nn.Module):
    """A map of logits, each of a patch. Isola et al. 2017, section 3.2.2, arXiv:1611.07004.

    Parameters
    ----------
    width : int
        Channels of the first level.
    spectral : bool
        Spectral normalisation of every layer.
    levels : int
        Halvings. A logit sees ``7 * 2**levels - 2`` pixels a side: 54 for three, about a face of 64 pixels, and the
        texture of a face of 256; 110 for four.

    Notes
    -----
    Convolutions of 4 x 4 and stride 2, which meet every pixel alike often; two of 3 x 3 at the end, where the paper
    has 4 x 4, keep the size of the map even.
    """

    def __init__(self, width: int = 32, *, spectral: bool = True, levels: int = 3) -> None:
        super().__init__()
        widths = _widths(width, levels)
        self.levels = nn.Sequential(*(_halving(a, b, spectral=spectral) for a, b in pairwise((3, *widths))))
        self.head = nn.Sequential(
            convolution(widths[-1], widths[-1], 3, spectral=spectral),
            nn.LeakyReLU(_SLOPE),
            convolution(widths[-1], 1, 3, spectral=spectral),
        )

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, S, S) pictures to (B, 1, s, s) logits, where s is S halved `levels` times."""
        return self.head(self.levels(image))  # type: ignore[no-any-return]


class MultiScaleDiscriminator(nn.Module):
    """Patch discriminators at full and halved sizes. Wang et al. 2018, section 3.2, arXiv:1711.11585.

    Parameters
    ----------
    width, spectral, levels
        Of each `PatchDiscriminator`.
    scales : int
        Discriminators; each sees pictures of half the side of the one before.

    Notes
    -----
    The maps of the smaller pictures are repeated to the size of the first and stacked as channels. So each scale has
    the same weight in a mean over the tensor, also in one that is taken after a loss's non-linearity: repeating
    changes no logit, as averaging would. Where the size of a map is no multiple of a smaller one's, some logits of the
    smaller are repeated once more than others.
    """

    def __init__(self, width: int = 32, *, spectral: bool = True, levels: int = 3, scales: int = 2) -> None:
        super().__init__()
        self.scales = nn.ModuleList(PatchDiscriminator(width, spectral=spectral, levels=levels) for _ in range(scales))
        self.blur = Blur()

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, S, S) pictures to (B, scales, s, s) logits, the full size's first."""
        maps: list[Tensor] = []
        for index, scale in enumerate(self.scales):
            image = self.blur(image) if index else image
            maps.append(scale(image))
        return torch.cat([F.interpolate(found, maps[0].shape[-2:], mode="nearest-exact") for found in maps], 1)


class UNetDiscriminator(nn.Module):
    """A logit of each pixel and one of the whole picture. Schönfeld et al. 2020, section 3.1, arXiv:2002.12655.

    Parameters
    ----------
    width : int
        Channels of the first level, and of the last one of the decoder.
    spectral : bool
        Spectral normalisation of every layer.
    levels : int
        Halvings of the encoder, whose last map gives the logit of the whole by its mean.

    Notes
    -----
    The paper's losses of encoder and decoder weigh alike; so do the two channels. Of the paper's CutMix nothing is
    here.
    """

    def __init__(self, width: int = 32, *, spectral: bool = True, levels: int = 4) -> None:
        super().__init__()
        widths = _widths(width, levels)
        self.down = nn.ModuleList(_halving(a, b, spectral=spectral) for a, b in pairwise((3, *widths)))
        whole = nn.Linear(widths[-1], 1)
        self.whole = spectral_norm(whole) if spectral else whole
        self.up = nn.ModuleList()
        inside = widths[-1]
        for skip, out in zip((*widths[-2::-1], 3), (*widths[-2::-1], width), strict=True):
            self.up.append(nn.Sequential(convolution(inside + skip, out, 3, spectral=spectral), nn.LeakyReLU(_SLOPE)))
            inside = out
        self.pixel = convolution(inside, 1, 1, spectral=spectral)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, S, S) pictures to (B, 2, S, S) logits: each pixel's, and that of the whole, the same everywhere."""
        skips = [image]
        for down in self.down:
            skips.append(down(skips[-1]))
        maps = skips.pop()
        whole: Tensor = self.whole(maps.mean((2, 3)))
        for up in self.up:
            skip = skips.pop()
            maps = up(torch.cat((F.interpolate(maps, skip.shape[-2:], mode="nearest-exact"), skip), 1))
        pixel: Tensor = self.pixel(maps)
        return torch.cat((pixel, whole[:, :, None, None].expand_as(pixel)), 1)


def _widths(width: int, levels: int) -> tuple[int, ...]:
    return tuple(width * min(2**level, _WIDEST) for level in range(levels))


def _halving(inside: int, out: int, *, spectral: bool) -> nn.Sequential:
    return nn.Sequential(convolution(inside, out, 4, stride=2, spectral=spectral), nn.LeakyReLU(_SLOPE))
