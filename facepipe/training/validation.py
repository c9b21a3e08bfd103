"""What is measured on faces that are never trained on, and the pictures that a person looks at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from facepipe import losses
from facepipe.diagnostics import ShiftMonitor
from facepipe.networks import SwapNet
from facepipe.networks.linear import principal_components
from facepipe.training.data import Loader
from facepipe.training.objective import IdentityLoss
from facepipe.types import SIDES, Image, Side, evenly_spaced

__all__ = ["Validator", "component_psnr", "describe", "masked_psnr"]

_LEARNED = 1500  # faces that the components of the yardstick are computed from
_FACES = 48  # held-out faces of each person that are rebuilt ...
_SWAPS = 12  # ... and swapped
_COLUMNS = 6  # of a preview
_MARGIN = 10.0  # decibels that a margin of 1 is worth when results are compared


def masked_psnr(a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    """(B,) peak signal-to-noise ratio of pictures in [-1, 1] inside of a mask, in dB.

    ``10 log10(MAX^2 / MSE)`` with MAX 2; the mean over pixels is weighed by the mask (B, 1, H, W).
    """
    error = ((a - b).square() * mask).sum((1, 2, 3)) / (a.shape[1] * mask.sum((1, 2, 3))).clamp_min(1e-6)
    return 10 * torch.log10(4 / error.clamp_min(1e-10))


@torch.no_grad()
def component_psnr(loader: Loader, count: int) -> dict[Side, float]:
    """The yardstick: how well principal components of a person's training faces rebuild the held-out ones.

    Parameters
    ----------
    loader : Loader
        Whose persons are measured, at its size.
    count : int
        Components; fewer where there are not as many faces.

    Returns
    -------
    dict of Side to float
        Mean over the same held-out faces as `Validator` measures of the PSNR inside of the mask, in dB.
    """
    found: dict[Side, float] = {}
    for side in SIDES:
        rows = _spread(loader.persons[side].train, _LEARNED)
        known = principal_components(loader.clean(side, rows).target.flatten(1).cpu(), count)
        pair = loader.clean(side, _spread(loader.persons[side].held_out, _FACES))
        free = pair.target.flatten(1).cpu() - known.mean
        rebuilt = (known.mean + free @ known.basis.T @ known.basis).view(pair.target.shape).to(pair.target)
        found[side] = float(masked_psnr(rebuilt.clamp(-1, 1), pair.target, pair.mask).mean())
    return found


class Validator:
    """Measures a net on held-out faces.

    Parameters
    ----------
    loader : Loader
        Whose persons' held-out rows are used.
    identity : IdentityLoss, optional
        Without it similarities are not measured.
    """

    def __init__(self, loader: Loader, identity: IdentityLoss | None) -> None:
        self._loader = loader
        self._identity = identity
        self._monitor: ShiftMonitor | None = None
        self._rows = {side: _spread(loader.persons[side].held_out, _FACES) for side in SIDES}

    @torch.no_grad()
    def __call__(self, net: SwapNet) -> dict[str, float]:
        """Scores of a net.

        Returns
        -------
        dict of str to float
            ``psnr_{side}`` and ``ssim_{side}``: rebuilt held-out faces inside of the mask, means over faces.
            ``twin_{side}``: PSNR of held-out faces of the person `side` swapped, to their twins where both have face.
            ``shown_{side}`` and ``leak_{side}``: held-out faces of the person `side` swapped and pasted back,
            medians of the cosine (irv1) to the person shown and to the one replaced; absent without an identity net.
            ``shift``: how far the inputs of the net's layers moved since the last call, in standard deviations
            (`facepipe.diagnostics`); absent at the first. ``quality``: what is compared to find the best: the mean
            PSNR, and 10 dB for each unit of margin.
        """
        training = net.training
        net.eval()
        if self._monitor is None:
            self._monitor = ShiftMonitor(net, _watched(net))
        scores: dict[str, float] = {}
        margins = []
        for side in SIDES:
            pair = self._loader.clean(side, self._rows[side])
            rebuilt = net.rebuild(pair.input, side, pair.hints).image.clamp(-1, 1)
            scores[f"psnr_{side}"] = float(masked_psnr(rebuilt, pair.target, pair.mask).mean())
            scores[f"ssim_{side}"] = 1 - 2 * float(losses.dssim(rebuilt, pair.target, weight=pair.mask))
            twin, where = self._loader.twin(side, self._rows[side])
            image = net.swap(pair.input, side, pair.hints).image.clamp(-1, 1)
            scores[f"twin_{side}"] = float(masked_psnr(image, twin, where * pair.mask).mean())
            if self._identity is not None:
                few = evenly_spaced(len(self._rows[side]), _SWAPS)
                scene = self._loader.scene(side, self._rows[side][few])
                shown, leak = self._identity.similarities(image[few], scene, side)
                scores[f"shown_{side}"], scores[f"leak_{side}"] = float(shown.median()), float(leak.median())
                margins.append(float((shown - leak).median()))
        shifts = self._monitor.step()
        if shifts:
            scores["shift"] = float(np.mean([shift.mean_shift for shift in shifts]))
        psnr = (scores["psnr_source"] + scores["psnr_target"]) / 2
        scores["quality"] = psnr + _MARGIN * float(np.mean(margins) if margins else 0.0)
        net.train(training)
        return scores

    @torch.no_grad()
    def preview(self, net: SwapNet) -> Image:
        """(H, W, 3) uint8: a row of held-out faces for each of source, rebuilt, source as target; and the same for the
        target, drawn as the source.
        """
        rows = []
        for side in SIDES:
            few = self._rows[side][evenly_spaced(len(self._rows[side]), _COLUMNS)]
            pair = self._loader.clean(side, few)
            seen = (pair.input, side, pair.hints)
            rows += [pair.input, net.rebuild(*seen).image, net.swap(*seen).image]
        return np.concatenate([np.concatenate(list(_pictures(row)), axis=1) for row in rows])

    def close(self) -> None:
        """Take the monitor off the net."""
        if self._monitor is not None:
            self._monitor.close()


def _watched(net: SwapNet) -> list[str]:
    """The convolutions and dense layers of encoder and decoders."""
    kinds = (torch.nn.Conv2d, torch.nn.Linear)
    return [name for name, layer in net.named_modules() if isinstance(layer, kinds)]


def _pictures(images: Tensor) -> Image:
    whole = ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return np.asarray(whole.permute(0, 2, 3, 1).cpu().numpy())


def _spread(rows: Any, most: int) -> Tensor:
    return torch.from_numpy(rows[evenly_spaced(len(rows), most)].copy())


def describe(scores: Mapping[str, float]) -> str:
    """The scores in a line."""
    parts = [f"held-out PSNR {scores['psnr_source']:.2f} / {scores['psnr_target']:.2f} dB"]
    parts.append(f"swaps to their twins {scores['twin_source']:.2f} / {scores['twin_target']:.2f} dB")
    if "shown_target" in scores:
        parts.append(
            f"target drawn as source: to source {scores['shown_target']:.2f}, leak {scores['leak_target']:.2f}"
        )
    return ", ".join(parts)
