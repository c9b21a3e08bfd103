"""The discriminators, one a person, and their side of the training."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from facepipe import losses
from facepipe.config import TrainConfig
from facepipe.networks import Face
from facepipe.networks.discriminators import discriminator
from facepipe.training.data import Batch
from facepipe.types import OTHER, SIDES, Side

__all__ = ["Game"]

_SURE = 0.99  # share told right above which a discriminator has won, and the generator learns nothing from it
_MEMORY = 0.98  # of that share's running mean


def _mean_logit(critic: nn.Module) -> Callable[[Tensor], Tensor]:
    """One logit an image: the slope that counts is that of the mean, which the loss takes."""
    return lambda images: critic(images).flatten(1).mean(1)


class Game(nn.Module):
    """What is real and what was drawn, for each person.

    A discriminator sees faces alone, black outside of the mask, so that no background tells them apart. Its fakes are
    rebuilt faces of its person, and faces of the other person that were drawn as its own.

    Parameters
    ----------
    config : TrainConfig
        `gan_kind`, `discriminator`, `discriminator_width` and `spectral` are used.

    Attributes
    ----------
    right : (2,) Tensor
        Running mean of the share of faces that each tells right.
    """

    right: Tensor

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        self.rule = losses.adversarial(config.gan_kind)
        self.critics = nn.ModuleDict(
            {
                side: discriminator(config.discriminator, width=config.discriminator_width, spectral=config.spectral)
                for side in SIDES
            }
        )
        self.register_buffer("right", torch.full((2,), 0.5))

    def discriminate(self, batch: Batch, rebuilt: Mapping[Side, Face], swapped: Mapping[Side, Face]) -> Tensor:
        """The discriminators' loss, both together; scalar."""
        found = []
        for number, side in enumerate(SIDES):
            real, fake = self._faces(side, batch, rebuilt, swapped)
            fake, critic = fake.detach(), self.critics[side]
            on_real, on_fake = critic(real), critic(fake)
            loss = self.rule.discriminator(on_real, on_fake)
            if self.rule.penalty_weight:
                loss = loss + self.rule.penalty_weight * losses.gradient_penalty(_mean_logit(critic), real, fake)
            middle = 0.5 if self.rule.kind == "lsgan" else 0.0
            right = ((on_real > middle).float().mean() + (on_fake <= middle).float().mean()) / 2
            self.right[number].lerp_(right.detach(), 1 - _MEMORY)
            found.append(loss)
        return torch.stack(found).sum()

    def generate(self, batch: Batch, rebuilt: Mapping[Side, Face], swapped: Mapping[Side, Face]) -> Tensor:
        """The generator's loss, both persons together; scalar. Gradients do not reach the discriminators."""
        self.requires_grad_(False)
        found = []
        for side in SIDES:
            real, fake = self._faces(side, batch, rebuilt, swapped)
            critic = self.critics[side]
            seen = critic(real) if self.rule.kind == "relativistic" else None
            found.append(self.rule.generator(critic(fake), seen))
        self.requires_grad_(True)
        return torch.stack(found).sum()

    def clip(self) -> None:
        """Hold weights in the limits that some kinds need."""
        if self.rule.clip is not None:
            losses.clip_weights(self.critics, self.rule.clip)

    @property
    def won(self) -> list[Side]:
        """Whose discriminators tell nearly everything right. Reads the device."""
        return [side for side, right in zip(SIDES, self.right.tolist(), strict=True) if right > _SURE]

    @staticmethod
    def _faces(
        side: Side, batch: Batch, rebuilt: Mapping[Side, Face], swapped: Mapping[Side, Face]
    ) -> tuple[Tensor, Tensor]:
        """As many real faces as drawn ones: the last of the batch."""
        other = OTHER[side]
        count = len(swapped[other].image)
        own, seen = batch.pairs[side], batch.pairs[other].mask[-count:]
        fake = torch.cat((rebuilt[side].image[-count:] * own.mask[-count:], swapped[other].image * seen))
        real = torch.cat((own.target, own.target))[-2 * count :] * torch.cat((own.mask, own.mask))[-2 * count :]
        return real, fake
