"""Adversarial losses, penalties on the discriminator's slope, and the measure of its Lipschitz constant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facepipe.losses._checks import wide
from facepipe.losses.norms import lp_norm, matrix_norm

__all__ = [
    "AdversarialKind",
    "AdversarialLoss",
    "adversarial",
    "clip_weights",
    "gradient_penalty",
    "r1_penalty",
    "spectral_norms",
]

AdversarialKind = Literal["bce", "minimax", "lsgan", "wgan", "wgan-gp", "hinge", "relativistic"]


@dataclass(frozen=True)
class AdversarialLoss:
    """What generator and discriminator minimise, on raw logits (no sigmoid at the discriminator's end).

    Logits have any shape: one an image, or a map of patches; their mean is taken.

    Attributes
    ----------
    kind : str
        See `adversarial`.
    penalty_weight : float
        Weight with which `gradient_penalty` belongs to the discriminator's loss; 0 when it does not.
    clip : float or None
        Limit that `clip_weights` is to hold the discriminator's weights in after each of its steps.
    """

    kind: AdversarialKind
    penalty_weight: float = 0.0
    clip: float | None = None

    def generator(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        """The generator's loss: a scalar to minimise.

        Parameters
        ----------
        fake : Tensor
            Logits of generated images.
        real : Tensor, optional
            Logits of real images; only ``relativistic`` looks at them, and needs them.
        """
        fake = wide(fake)
        match self.kind:
            case "bce":  # Goodfellow et al. 2014, section 3: maximise log D(G(z))
                return F.softplus(-fake).mean()
            case "minimax":  # Goodfellow et al. 2014, eq. (1): minimise log(1 - D(G(z)))
                return -F.softplus(fake).mean()
            case "lsgan":  # Mao et al. 2017, eq. (9)
                return (fake - 1).square().mean() / 2
            case "relativistic":  # Jolicoeur-Martineau 2019, eq. (11)
                if real is None:
                    raise ValueError("real: expected the logits of real images for the relativistic kind, got None")
                return _relativistic(better=fake, worse=wide(real))
            case _:  # wgan, wgan-gp, hinge: Arjovsky et al. 2017, algorithm 1; Miyato et al. 2018, eq. (17)
                return -fake.mean()

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        """The discriminator's loss: a scalar to minimise. Add the penalty and clip the weights where called for.

        Parameters
        ----------
        real, fake : Tensor
            Logits of real and of generated images (detached from the generator).
        """
        real, fake = wide(real), wide(fake)
        match self.kind:
            case "bce" | "minimax":  # Goodfellow et al. 2014, eq. (1), negated
                return F.softplus(-real).mean() + F.softplus(fake).mean()
            case "lsgan":
                return ((real - 1).square().mean() + fake.square().mean()) / 2
            case "hinge":  # Miyato et al. 2018, eq. (16), negated
                return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
            case "relativistic":  # eq. (10)
                return _relativistic(better=real, worse=fake)
            case _:
                return fake.mean() - real.mean()


def adversarial(kind: AdversarialKind) -> AdversarialLoss:
    """The adversarial loss of that name.

    Parameters
    ----------
    kind : str
        - ``bce``: cross entropy, the generator's loss non-saturating. Goodfellow et al. 2014, arXiv:1406.2661
        - ``minimax``: the same game with the generator's original, saturating loss.
        - ``lsgan``: least squares to 1 and 0. Mao et al. 2017, arXiv:1611.04076
        - ``wgan``: Wasserstein, weights clipped to 0.01. Arjovsky et al. 2017, arXiv:1701.07875
        - ``wgan-gp``: Wasserstein with gradient penalty of weight 10. Gulrajani et al. 2017, arXiv:1704.00028
        - ``hinge``: for discriminators with spectral normalisation. Miyato et al. 2018, arXiv:1802.05957
        - ``relativistic``: relativistic average, cross entropy. Jolicoeur-Martineau 2019, arXiv:1807.00734

    Returns
    -------
    AdversarialLoss

    Raises
    ------
    ValueError
        For an unknown kind.
    """
    if kind not in get_args(AdversarialKind):
        raise ValueError(f"kind: expected one of {', '.join(get_args(AdversarialKind))}, got {kind!r}")
    return AdversarialLoss(
        kind, penalty_weight=10.0 if kind == "wgan-gp" else 0.0, clip=0.01 if kind == "wgan" else None
    )


def _relativistic(better: Tensor, worse: Tensor) -> Tensor:
    return F.softplus(worse.mean() - better).mean() + F.softplus(worse - better.mean()).mean()


def gradient_penalty(
    discriminator: Callable[[Tensor], Tensor],
    real: Tensor,
    fake: Tensor,
    *,
    target: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Penalty on discriminators whose slope between real and generated images is not `target`.

    Parameters
    ----------
    discriminator : callable
        From (B, ...) to logits, of which each depends on its own image only (no batch norm).
    real, fake : (B, ...) Tensor
        Of one shape, any rank from 2. Gradients reach the discriminator's parameters only.
    target : float
        The slope wanted.
    generator : torch.Generator, optional
        Of the random points between the pairs, for runs that can be repeated.

    Returns
    -------
    Tensor
        Scalar, not yet weighted (10 in the paper): the mean over the batch of ``(|gradient|_2 - target)^2`` where the
        norm is over all axes of an image (C, H and W) together.

    Raises
    ------
    ValueError
        For different shapes, or a discriminator whose output does not depend on its input.

    Notes
    -----
    Gulrajani et al. 2017, eq. (3), arXiv:1704.00028. The graph of the gradient is kept, so that it can be trained.
    """
    if real.shape != fake.shape or real.ndim < 2:
        raise ValueError(f"expected two (B, ...) of the same shape, got {tuple(real.shape)} and {tuple(fake.shape)}")
    shape = (len(real), *(1,) * (real.ndim - 1))
    mix = torch.rand(shape, dtype=wide(real).dtype, device=real.device, generator=generator).to(real.dtype)
    slope = _slope(discriminator, torch.lerp(fake.detach(), real.detach(), mix))
    return (slope - target).square().mean()


def r1_penalty(discriminator: Callable[[Tensor], Tensor], real: Tensor) -> Tensor:
    """Half of the mean squared slope at real images, to be weighted with gamma (10 in the paper).

    Parameters
    ----------
    discriminator : callable
        From (B, ...) to logits.
    real : (B, ...) Tensor
        Any rank from 2.

    Returns
    -------
    Tensor
        Scalar.

    Notes
    -----
    Mescheder, Geiger, Nowozin 2018, eq. (9), arXiv:1801.04406
    """
    if real.ndim < 2:
        raise ValueError(f"real: expected (B, ...), got shape {tuple(real.shape)}")
    return _slope(discriminator, real.detach()).square().mean() / 2


def _slope(discriminator: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """(B,) length of the gradient of the summed logits, with its graph."""
    with torch.enable_grad():
        x = x.requires_grad_()
        logits = discriminator(x)
        if not logits.requires_grad:
            raise ValueError("discriminator: expected logits that depend on the images, got some without a gradient")
        (gradient,) = torch.autograd.grad(wide(logits).sum(), x, create_graph=True)
        return lp_norm(gradient.flatten(1), 2, 1)


@torch.no_grad()
def clip_weights(module: nn.Module, limit: float = 0.01) -> None:
    """Clamp every parameter to [-limit, limit] in place. Arjovsky et al. 2017, algorithm 1, line 7."""
    if not limit > 0:
        raise ValueError(f"limit: expected more than 0, got {limit}")
    for parameter in module.parameters():
        parameter.clamp_(-limit, limit)


@torch.no_grad()
def spectral_norms(module: nn.Module) -> dict[str, float]:
    """Largest singular value of each linear and convolution layer's weight: what spectral normalisation keeps at 1.

    Parameters
    ----------
    module : nn.Module
        Left as it is.

    Returns
    -------
    dict
        From the layer's name to the norm of its weight as a matrix with a row an output channel, as Miyato et al. 2018
        take it. For a linear layer that is its Lipschitz constant; for a convolution of k x k it bounds it within a
        factor of k.
    """
    training = [(layer, layer.training) for layer in module.modules()]
    module.eval()  # a spectral normalisation would take a step each time its weight is read
    norms = {}
    for name, layer in module.named_modules():
        weight: Any = getattr(layer, "weight", None)
        if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd) and isinstance(weight, Tensor):  # noqa: SLF001
            transposed = isinstance(layer, nn.modules.conv._ConvTransposeNd)  # noqa: SLF001 - has no public base
            rows = (weight.transpose(0, 1) if transposed else weight).flatten(1)
            norms[name] = float(matrix_norm(rows, "spectral"))
    for layer, mode in training:
        layer.training = mode
    return norms
