"""The parts that generators and discriminators are built of."""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from facepipe.networks.architecture import DownKind, NormKind

__all__ = ["Blur", "Down", "Residual", "Up", "activation", "convolution", "icnr_", "normalization"]


def activation(kind: str) -> nn.Module:
    """``leaky``: slope 0.1, ``silu``, or ``relu``."""
    return {"leaky": nn.LeakyReLU(0.1), "silu": nn.SiLU(), "relu": nn.ReLU()}[kind]


def convolution(inside: int, out: int, kernel: int, *, stride: int = 1, spectral: bool = False) -> nn.Conv2d:
    """A convolution that keeps the size (or divides it by the stride); spectrally normalised where asked."""
    layer = nn.Conv2d(inside, out, kernel, stride, padding=(kernel - 1) // 2)
    nn.init.kaiming_normal_(layer.weight, a=0.1, nonlinearity="leaky_relu")
    nn.init.zeros_(cast("Tensor", layer.bias))
    return cast("nn.Conv2d", spectral_norm(layer)) if spectral else layer


def normalization(kind: NormKind, channels: int) -> nn.Module:
    """What follows a convolution: nothing for ``none``, and for ``spectral``, which is part of the convolution.

    Instance: Ulyanov et al. 2016, arXiv:1607.08022. Batch: Ioffe, Szegedy 2015, arXiv:1502.03167. Group (of 8
    channels, or more where 8 do not divide them): Wu, He 2018, arXiv:1803.08494. Spectral: Miyato et al. 2018,
    arXiv:1802.05957.
    """
    match kind:
        case "instance":
            return nn.InstanceNorm2d(channels, affine=True)
        case "batch":
            return nn.BatchNorm2d(channels)
        case "group":
            return nn.GroupNorm(math.gcd(max(1, channels // 8), channels), channels)
        case _:
            return nn.Identity()


class Blur(nn.Module):
    """Every second pixel after a binomial filter of 4 x 4: halving without aliases. Zhang 2019, arXiv:1904.11486."""

    taps: Tensor

    def __init__(self) -> None:
        super().__init__()
        row = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        self.register_buffer("taps", torch.outer(row, row)[None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H / 2, W / 2)."""
        channels = x.shape[1]
        x = F.pad(x, (1, 1, 1, 1), mode="replicate")
        return F.conv2d(x, self.taps.to(x.dtype).expand(channels, 1, 4, 4), stride=2, groups=channels)


class Down(nn.Sequential):
    """Convolution, normalisation, activation, and half the size."""

    def __init__(self, inside: int, out: int, kernel: int, *, down: DownKind, norm: NormKind, act: str) -> None:
        stride = 2 if down == "stride" else 1
        pool: dict[str, nn.Module] = {"max": nn.MaxPool2d(2), "average": nn.AvgPool2d(2), "blur": Blur()}
        super().__init__(
            convolution(inside, out, kernel, stride=stride, spectral=norm == "spectral"),
            normalization(norm, out),
            activation(act),
            pool.get(down, nn.Identity()),
        )


class Up(nn.Sequential):
    """Twice the size by a convolution and pixel shuffle (Shi et al. 2016, arXiv:1609.05158), without checkerboards."""

    def __init__(self, inside: int, out: int, *, norm: NormKind, act: str) -> None:
        layer = convolution(inside, 4 * out, 3)
        icnr_(layer.weight)
        spread = spectral_norm(layer) if norm == "spectral" else layer
        super().__init__(spread, nn.PixelShuffle(2), normalization(norm, out), activation(act))


class Residual(nn.Module):
    """Two convolutions beside the identity, and an activation; starts as that alone."""

    def __init__(self, channels: int, *, norm: NormKind, act: str) -> None:
        super().__init__()
        last = convolution(channels, channels, 3)
        nn.init.zeros_(last.weight)
        first = convolution(channels, channels, 3, spectral=norm == "spectral")
        self.path = nn.Sequential(first, normalization(norm, channels), activation(act), last)
        self.act = activation(act)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W), the same shape."""
        return self.act(x + self.path(x))  # type: ignore[no-any-return]


@torch.no_grad()
def icnr_(weight: Tensor, factor: int = 2) -> Tensor:
    """Start a convolution before a pixel shuffle so that the picture begins as nearest-neighbour upsampling.

    The ``factor^2`` filters that make one block of pixels begin equal, so no checkerboard is there to be unlearned.
    Aitken et al. 2017, arXiv:1707.02937

    Parameters
    ----------
    weight : (factor^2 * C, I, k, k) Tensor
        Changed in place: the filters of each block become copies of its first.
    """
    weight.copy_(weight[:: factor**2].repeat_interleave(factor**2, dim=0))
    return weight
