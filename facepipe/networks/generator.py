"""The swap net: a shared encoder, and decoders that draw a code as one person or as the other."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from facepipe.networks.architecture import Architecture
from facepipe.networks.blocks import Down, Residual, Up, convolution
from facepipe.networks.linear import Analysis, Synthesis
from facepipe.types import HINTS, OTHER, SIDES, Side

__all__ = ["Decoder", "Encoder", "Face", "Inter", "SwapNet"]


class Face(NamedTuple):
    """What a decoder draws.

    Attributes
    ----------
    image : (B, 3, S, S) Tensor
        RGB, about [-1, 1]; not clamped where the architecture is not bounded.
    mask_logits : (B, 1, S, S) Tensor or None
        Above 0 where there is face.
    """

    image: Tensor
    mask_logits: Tensor | None


class Encoder(nn.Module):
    """(B, 3, S, S) pictures to (B, F) features: halvings, then flat."""

    def __init__(self, shape: Architecture) -> None:
        super().__init__()
        widths = (3, *shape.widths)
        # The first level's statistics are the picture's light and colour, which a code needs.
        norms = ("spectral" if shape.norm == "spectral" else "none", *[shape.norm] * (len(widths) - 2))
        self.levels = nn.Sequential(
            *(
                Down(a, b, shape.kernel, down=shape.down, norm=norm, act=shape.activation)
                for norm, (a, b) in zip(norms, pairwise(widths), strict=True)
            )
        )
        self.features = widths[-1] * (shape.size // 2 ** len(shape.widths)) ** 2

    def forward(self, image: Tensor) -> Tensor:
        """See the class."""
        return self.levels(image).flatten(1)  # type: ignore[no-any-return]


class Inter(nn.Module):
    """A code (B, C) to the first maps of a decoder, which both persons share."""

    def __init__(self, code: int, shape: Architecture) -> None:
        super().__init__()
        self.bottom = shape.bottom
        self.side = shape.size // 2 ** (len(shape.shared_up) + len(shape.up))
        self.spread = nn.Linear(code, shape.bottom * self.side**2)
        widths = (shape.bottom, *shape.shared_up)
        self.levels = nn.Sequential(*_doublings(widths, shape))

    def forward(self, code: Tensor) -> Tensor:
        """See the class."""
        return self.levels(self.spread(code).unflatten(1, (self.bottom, self.side, self.side)))  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """Maps (B, C, s, s) to a `Face`."""

    def __init__(self, inside: int, shape: Architecture) -> None:
        super().__init__()
        self.levels = nn.Sequential(*_doublings((inside, *shape.up), shape))
        self.image = convolution(shape.up[-1], 3, shape.kernel)
        self.mask = convolution(shape.up[-1], 1, shape.kernel) if shape.mask else None
        self.bounded = shape.bounded
        if shape.linear:  # the picture begins as the linear one
            nn.init.zeros_(self.image.weight)
            if self.mask is not None:  # and face is all that may be face, until it is known better
                nn.init.zeros_(self.mask.weight)
                nn.init.constant_(cast("Tensor", self.mask.bias), 2.0)

    def forward(self, maps: Tensor) -> Face:
        """See the class."""
        maps = self.levels(maps)
        image = self.image(maps)
        if self.bounded:
            image = 2 * torch.sigmoid(image) - 1
        return Face(image, None if self.mask is None else self.mask(maps))


def _doublings(widths: tuple[int, ...], shape: Architecture) -> list[nn.Module]:
    levels: list[nn.Module] = []
    for a, b in pairwise(widths):
        levels.append(Up(a, b, norm=shape.norm, act=shape.activation))
        if shape.refine:
            levels.append(Residual(b, norm=shape.norm, act=shape.activation))
    return levels


class SwapNet(nn.Module):
    """Draws a picture of one person as the same or as the other person, with pose, expression and light kept.

    Parameters
    ----------
    shape : Architecture
        See there.

    Notes
    -----
    Pictures are (B, 3, S, S) RGB in [-1, 1]. ``df``: one code for all that a face does, and a decoder a person.
    ``liae``: a code that both persons have, and one that only the target has; a source face is drawn from the first
    twice over.
    """

    def __init__(self, shape: Architecture) -> None:
        super().__init__()
        self.shape = shape
        self.encoder = Encoder(shape)
        pair = shape.layout == "liae"
        width = shape.shared_up[-1] if shape.shared_up else shape.bottom
        heads = ("both", "target") if pair else ("both",)
        self.heads = nn.ModuleDict({name: nn.Linear(self.encoder.features, shape.code) for name in heads})
        inside = shape.code if pair else shape.code_size
        self.inters = nn.ModuleDict({name: Inter(inside, shape) for name in heads})
        persons = ("both",) if pair else SIDES
        self.decoders = nn.ModuleDict({name: Decoder(width * len(heads), shape) for name in persons})
        self.analysis = (
            Analysis(shape.linear, 3 * shape.size**2, HINTS if shape.hints else 0) if shape.linear else None
        )
        self.synthesis = nn.ModuleDict(
            {name: Synthesis(shape.code_size, shape.components, shape.size) for name in SIDES} if shape.linear else {}
        )

    def encode(self, image: Tensor, side: Side, hints: Tensor | None = None) -> Tensor:
        """(B, code_size) codes of pictures of the person `side`, with their (B, HINTS) hints where the net takes any.

        Without hints the face is taken for one of average pose and expression.
        """
        features = self.encoder(image)
        codes = [head(features) for head in self.heads.values()]
        if self.analysis is not None:
            codes.insert(0, self.analysis(image, SIDES.index(side), hints))
        return torch.cat(codes, 1)

    def decode(self, code: Tensor, side: Side) -> Face:
        """The person `side` as the codes say."""
        if self.shape.layout == "liae":
            both, target = code.chunk(2, 1)
            first = self.inters["both"](both)
            second = first if side == "source" else self.inters["target"](target)
            return self.decoders["both"](torch.cat((first, second), 1))  # type: ignore[no-any-return]
        face: Face = self.decoders[side](self.inters["both"](code))
        if self.analysis is not None:
            face = face._replace(image=face.image + self.synthesis[side](code))
        return face

    def rebuild(self, image: Tensor, side: Side, hints: Tensor | None = None) -> Face:
        """The same person."""
        return self.decode(self.encode(image, side, hints), side)

    def swap(self, image: Tensor, side: Side, hints: Tensor | None = None) -> Face:
        """The other person, doing what the person `side` does."""
        return self.decode(self.encode(image, side, hints), OTHER[side])

    def forward(
        self, images: Mapping[Side, Tensor], swapped: int = 0, hints: Mapping[Side, Tensor] | None = None
    ) -> tuple[dict[Side, Face], dict[Side, Face]]:
        """Rebuild all pictures, and swap the last `swapped` of each person: one pass for all that a step needs.

        Returns
        -------
        rebuilt, swapped : dict of Side to Face
            By the person who is *seen* in the picture that went in; the second is empty for 0.
        """
        codes = {
            side: self.encode(image, side, None if hints is None else hints[side]) for side, image in images.items()
        }
        rebuilt: dict[Side, Face] = {}
        other: dict[Side, Face] = {}
        for side in SIDES:
            # One call a decoder: its own person's codes, and those of the other that it shall draw.
            own, strange = codes[side], codes[OTHER[side]]
            face = self.decode(torch.cat((own, strange[-swapped:])), side) if swapped else None
            rebuilt[side] = self.decode(own, side) if face is None else _rows(face, 0, len(own))
            if face is not None:
                other[OTHER[side]] = _rows(face, len(own), None)
        return rebuilt, other

    def constants(self) -> dict[str, Tensor]:
        """What `start_linear` has set and no training changes, by its names in the state."""
        linear = [("analysis", self.analysis), ("synthesis", self.synthesis)]
        return {
            f"{part}.{name}": value
            for part, module in linear
            if module is not None
            for name, value in module.named_buffers()
        }

    @torch.no_grad()
    def start_linear(
        self,
        images: Mapping[Side, Tensor],
        twins: Mapping[Side, Tensor],
        hints: Mapping[Side, Tensor] | None = None,
    ) -> None:
        """Give the linear part the best weights that can be computed: mean faces, components, and codes to draw them.

        Parameters
        ----------
        images : mapping of Side to (N, 3, S, S) Tensor
            Pictures of each person.
        twins : mapping of Side to (N, 3, S, S) Tensor
            For each of them a picture of the *other* person doing the same: what the swap shall look like.
        hints : mapping of Side to (N, HINTS) Tensor, optional
            Of the pictures.
        """
        analysis = self.analysis
        assert analysis is not None, "expected an architecture with a linear part"
        rows = {side: images[side].flatten(1) for side in SIDES}
        analysis.start((rows["source"], rows["target"]))
        codes = {
            side: analysis(images[side], SIDES.index(side), None if hints is None else hints[side]) for side in SIDES
        }
        for side in SIDES:
            other = OTHER[side]
            synthesis = cast("Synthesis", self.synthesis[side])
            synthesis.start(analysis, SIDES.index(side), rows[side], twins[other].flatten(1), codes[other])


def _rows(face: Face, start: int, stop: int | None) -> Face:
    mask = face.mask_logits
    return Face(face.image[start:stop], None if mask is None else mask[start:stop])
