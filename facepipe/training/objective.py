"""What the swap net is trained for: the rebuilt face, and the swapped one."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from facepipe import losses
from facepipe.config import AugmentConfig, LossWeights
from facepipe.networks import Face
from facepipe.training.augment import color_map, sample, variation
from facepipe.training.data import Batch, Loader, Pair, Scene, Swappable
from facepipe.training.game import Game
from facepipe.types import OTHER, SIDES, Side

__all__ = [
    "Embed",
    "IdentityLoss",
    "Region",
    "Terms",
    "objective",
    "put_into_scene",
    "reconstruction",
    "swapped",
    "total",
]

Embed = Callable[[Tensor], Tensor]
"""From (B, 3, S, S) pictures in [-1, 1] to (B, D) embeddings of unit length."""

Terms = dict[str, Tensor]
Region = tuple[float, float, float, float]

_LEAK = 0.05  # similarity to the replaced person that counts as none ...
_ALIKE = 0.85  # ... and to the person shown that is enough: beyond it the net is fooled by patterns, not by a face
_VIEWS = AugmentConfig(clean=0, rotation=4, scale=0.04, shift=0.02, gain=0.1, flip=True)  # a pattern fits one view


def total(terms: Terms, weights: LossWeights) -> Tensor:
    """The weighted sum of terms that are named as their weights are (``swap_mask`` is weighted as ``mask``)."""
    return torch.stack([getattr(weights, name.removeprefix("swap_")) * term for name, term in terms.items()]).sum()


def objective(
    rebuilt: Mapping[Side, Face],
    swaps: Mapping[Side, Face],
    batch: Batch,
    weights: LossWeights,
    identity: IdentityLoss | None,
    game: Game | None,
) -> Terms:
    """All terms of a step, means over both persons.

    Parameters
    ----------
    rebuilt, swaps : mapping of Side to Face
        What the net made of the batch; see `SwapNet.forward`.
    batch : Batch
        What it saw.
    weights : LossWeights
        Terms of weight 0 are not computed.
    identity : IdentityLoss, optional
        Where it counts already.
    game : Game, optional
        Where it is played already.
    """
    terms: Terms = {}
    for side in SIDES:
        found = reconstruction(rebuilt[side], batch.pairs[side], weights)
        if batch.swapped:
            found |= swapped(swaps[side], batch.pairs[side], batch.swaps[side], weights)
            if identity is not None:
                found["identity"] = identity(swaps[side].image, batch.swaps[side], side)
        for name, term in found.items():
            half = term.float() / len(SIDES)
            terms[name] = terms[name] + half if name in terms else half
    if game is not None:
        terms["gan"] = game.generate(batch, rebuilt, swaps) / len(SIDES)
    return terms


def reconstruction(face: Face, pair: Pair, weights: LossWeights) -> Terms:
    """Terms of a rebuilt face against the un-warped one.

    Parameters
    ----------
    face : Face
        Of B images.
    pair : Pair
        What was seen, and what is wanted.
    weights : LossWeights
        Terms of weight 0 are not computed.

    Returns
    -------
    dict of str to Tensor
        Scalars, not weighted: means over images and pixels, so that their mean over processes is the batch's.
    """
    terms: Terms = {}
    inside = weights.background + (1 - weights.background) * pair.mask
    if weights.l1:
        terms["l1"] = losses.l1(face.image * inside, pair.target * inside)
    if weights.l2:
        root = inside.sqrt()
        terms["l2"] = losses.l2(face.image * root, pair.target * root)
    if weights.dssim:
        terms["dssim"] = losses.dssim(face.image, pair.target)
    if weights.mask and face.mask_logits is not None:
        terms["mask"] = F.binary_cross_entropy_with_logits(face.mask_logits.float(), pair.mask)
    return terms


def swapped(face: Face, pair: Pair, swap: Swappable, weights: LossWeights) -> Terms:
    """Terms of a swapped face but for those that need another net.

    Parameters
    ----------
    face : Face
        Of K images: the other person, drawn from the last K faces of `pair`.
    pair : Pair
        What was seen.
    swap : Swappable
        The twins.
    weights : LossWeights
        Terms of weight 0 are not computed.

    Returns
    -------
    dict of str to Tensor
        ``twin``: mean absolute difference to the twin inside of the face. ``swap_mask``: cross entropy of the
        predicted mask to where both are face. ``tv``: total variation a pixel of the face.
    """
    terms: Terms = {}
    mask = pair.mask[-len(face.image) :]
    inside = mask * swap.twin_mask
    if weights.twin:
        terms["twin"] = losses.l1(face.image, swap.twin, weight=inside)
    if weights.mask and face.mask_logits is not None:
        terms["swap_mask"] = F.binary_cross_entropy_with_logits(face.mask_logits.float(), inside)
    if weights.tv:
        terms["tv"] = losses.total_variation(face.image * mask) / mask[:, 0].numel()
    return terms


def put_into_scene(image: Tensor, scene: Scene) -> Tensor:
    """A face put into the picture it was made from, in the colours of what it covers, as a composite does it.

    Parameters
    ----------
    image : (B, 3, s, s) Tensor
        The swapped face in [-1, 1].
    scene : Scene
        The picture with its surroundings, and where the face goes.

    Returns
    -------
    (B, 3, S, S) Tensor
        Differentiable in `image`; the map of colours (Reinhard's, inside of the mask) is a constant for the gradient.
    """
    picture, mask = scene.picture[:, :3], scene.picture[:, 3:]
    if scene.place is None:
        edge = (picture.shape[-1] - image.shape[-1]) // 2
        face = F.pad(image, (edge, edge, edge, edge))
        mask = F.pad(mask[..., edge:-edge, edge:-edge], (edge, edge, edge, edge))
    else:
        face = sample(image, scene.place)
    with torch.no_grad():
        recolor = color_map(face, mask, picture, mask)
    return torch.lerp(picture, recolor(face), mask)


class IdentityLoss:
    """How far swapped faces are from the person they shall show, by an identity net.

    Parameters
    ----------
    embed : Embed
        The net, differentiable.
    size : int
        Side of its pictures.
    region : (float, float, float, float)
        The box of a scene that the net sees, ``xyxy`` in parts of its side.
    loader : Loader
        The mean embedding of each person is that of their training faces.

    Attributes
    ----------
    reference : dict of Side to (D,) Tensor
        Unit-length mean embeddings of the training faces.
    """

    _FACES = 48  # enough for a mean

    def __init__(self, embed: Embed, size: int, loader: Loader, region: Region) -> None:
        self._embed = embed
        self._size = size
        self._region = region
        self.reference: dict[Side, Tensor] = {}
        for side in SIDES:
            rows = torch.from_numpy(loader.persons[side].train)
            few = rows[:: max(1, len(rows) // self._FACES)]
            with torch.no_grad():
                found = torch.cat([self.of(loader.scene(side, part).picture[:, :3]) for part in few.split(16)])
            self.reference[side] = F.normalize(found.mean(0), dim=0)

    def of(self, pictures: Tensor) -> Tensor:
        """(B, D) embeddings of the pictures (B, 3, S, S) of scenes."""
        left, top, right, bottom = (round(part * pictures.shape[-1]) for part in self._region)
        pictures = pictures[..., top:bottom, left:right]
        size = (self._size, self._size)
        return self._embed(F.interpolate(pictures, size, mode="bilinear", align_corners=False, antialias=True))

    def _compared(self, found: Tensor, seen: Side) -> tuple[Tensor, Tensor]:
        return found @ self.reference[OTHER[seen]], found @ self.reference[seen]

    def _view(self, pictures: Tensor, numbers: Tensor) -> Tensor:
        left, top, right, bottom = self._region
        how = variation(numbers, _VIEWS, 1.0)
        scale, middle = (right - left, bottom - top), (left + right - 1, top + bottom - 1)
        matrix = how.similarity.clone()
        for axis in range(2):
            matrix[:, axis] *= scale[axis]
            matrix[:, axis, 2] += middle[axis]
        size = [len(pictures), 1, self._size, self._size]
        return sample(pictures, F.affine_grid(matrix, size, align_corners=False)) * how.gain

    def similarities(self, image: Tensor, scene: Scene, seen: Side) -> tuple[Tensor, Tensor]:
        """(B,) cosines of swapped faces to the person they shall show, and to the one who was seen."""
        return self._compared(self.of(put_into_scene(image, scene)), seen)

    def __call__(self, image: Tensor, swap: Swappable, seen: Side) -> Tensor:
        """What the cosine to the person shown lacks to .85, plus half of what is left of the one replaced; scalar.

        The net looks at each picture a little turned, shifted, scaled and perhaps mirrored, by the numbers of `swap`:
        what holds from everywhere is a feature of the face (Athalye et al. 2018, arXiv:1707.07397).
        """
        found = self._embed(self._view(put_into_scene(image, swap.scene), swap.numbers))
        wanted, leak = self._compared(found, seen)
        return F.relu(_ALIKE - wanted).mean() + 0.5 * F.relu(leak - _LEAK).mean()
