"""What a swap net is made of, and the presets: a few lines each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args, get_type_hints

from facepipe.errors import ConfigError
from facepipe.types import HINTS

__all__ = ["PRESETS", "Architecture", "DownKind", "NormKind", "architecture"]

DownKind = Literal["stride", "max", "average", "blur"]
NormKind = Literal["none", "instance", "batch", "group", "spectral"]


@dataclass(frozen=True)
class Architecture:
    """The shape of a swap net; what a checkpoint needs to build it again.

    Attributes
    ----------
    size : int
        Side of the square pictures, in pixels.
    layout : {"df", "liae"}
        ``df``: one decoder a person. ``liae``: one decoder for both, told by its codes whom to draw.
    widths : tuple of int
        Channels after each halving of the encoder.
    kernel : int
        Side of the encoder's convolutions.
    down : {"stride", "max", "average", "blur"}
        How a level is halved: by its convolution's stride (Springenberg et al. 2014, arXiv:1412.6806), or by pooling
        after a convolution of stride 1; blur is a binomial filter of 4 before taking every second pixel (Zhang 2019,
        arXiv:1904.11486).
    norm : {"none", "instance", "batch", "group", "spectral"}
        Normalisation of the encoder's and decoders' convolutions, but of those that draw; by statistics of the maps
        not at the encoder's first.
    activation : {"leaky", "silu"}
        Leaky rectifier of slope 0.1, or SiLU.
    code : int
        Numbers in the code of a face (in each of the two, for liae).
    bottom : int
        Channels of the smallest map that is drawn from the code.
    shared_up : tuple of int
        Channels after each doubling that both persons share.
    up : tuple of int
        Channels after each doubling of a decoder.
    refine : bool
        A residual block after each doubling.
    mask : bool
        Whether the decoders draw a mask of the face too.
    linear : int
        Numbers of a face's code that are its coefficients on components of its person, a half for each of the two; 0
        leaves the linear part out. With it the net starts as the best linear one (`facepipe.networks.linear`), and its
        convolutions learn the rest.
    hints : bool
        The code has `HINTS` numbers of the landmarks' pose and expression too; they help where a pose was never seen.
        Only with a linear part.
    components : int
        Components that a decoder has of its person, where there is a linear part.
    bounded : bool
        A sigmoid at the end keeps pictures in [-1, 1].
    """

    size: int = 64
    layout: Literal["df", "liae"] = "df"
    widths: tuple[int, ...] = (32, 64, 96, 128)
    kernel: int = 5
    down: DownKind = "stride"
    norm: NormKind = "none"
    activation: Literal["leaky", "silu"] = "leaky"
    code: int = 256
    bottom: int = 128
    shared_up: tuple[int, ...] = ()
    up: tuple[int, ...] = (96, 64, 32, 16)
    refine: bool = False
    mask: bool = True
    linear: int = 0
    hints: bool = False
    components: int = 256
    bounded: bool = True

    def __post_init__(self) -> None:
        for name in ("size", "kernel", "code", "bottom", "components"):
            self._expect(getattr(self, name) >= 1, name, "at least 1")
        self._expect(self.kernel % 2 == 1, "kernel", "odd, so that convolutions keep the size")
        least = 2 * (2 + (HINTS if self.hints else 0))  # each person: a component, the hints, a mark
        self._expect(self.linear == 0 or self.linear >= least, "linear", f"0, or at least {least}")
        for name in ("widths", "up"):
            self._expect(len(getattr(self, name)) > 0, name, "one level at least")
        for name in ("widths", "shared_up", "up"):
            self._expect(min(getattr(self, name), default=1) >= 1, name, "channels, at least 1 each")
        halved, doubled = 2 ** len(self.widths), 2 ** (len(self.shared_up) + len(self.up))
        if self.size % halved or self.size % doubled:
            raise ConfigError(
                f"architecture: size {self.size} is expected to be a multiple of {max(halved, doubled)} "
                f"({len(self.widths)} halvings, {len(self.shared_up) + len(self.up)} doublings)"
            )
        if self.norm == "instance" and self.down == "stride" and self.size == halved:
            raise ConfigError("architecture: norm instance needs more than one pixel; have fewer widths")
        if self.hints and not self.linear:
            raise ConfigError("architecture: hints go with a linear part (linear above 0)")
        if self.linear and self.layout != "df":
            raise ConfigError("architecture: linear goes with layout df (a decoder a person)")

    def _expect(self, right: bool, name: str, what: str) -> None:
        if not right:
            raise ConfigError(f"architecture: {name} is expected to be {what}, got {getattr(self, name)}")

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Architecture:
        """From its fields as JSON gives them back, with lists for tuples."""
        given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
        return cls(**given)

    @property
    def code_size(self) -> int:
        """All numbers of a code."""
        return self.linear + self.code * (2 if self.layout == "liae" else 1)


PRESETS: Mapping[str, Architecture] = {
    # The published deepfakes auto-encoder, the field's yardstick: 64 px, 5x5 stride 2, dense 1024.
    "original-64": Architecture(
        widths=(128, 256, 512, 1024), code=1024, bottom=1024, shared_up=(512,), up=(256, 128, 64), mask=False
    ),
    # For two CPU cores: starts as a linear model, small convolutions.
    "cpu-64": Architecture(
        widths=(32, 64, 96, 128),
        activation="silu",
        norm="group",
        linear=484,
        hints=True,
        components=384,
        bounded=False,
    ),
    # For one GPU of 8 GB.
    "df-128": Architecture(
        size=128,
        widths=(64, 128, 256, 512),
        code=256,
        bottom=256,
        shared_up=(512,),
        up=(256, 128, 64),
        refine=True,
    ),
    # For a GPU of 16 GB and more: one decoder, two codes.
    "liae-256": Architecture(
        size=256,
        layout="liae",
        widths=(64, 128, 256, 512, 512),
        code=256,
        bottom=512,
        shared_up=(512,),
        up=(384, 256, 128, 64),
        refine=True,
    ),
}
"""Architectures by name; ``original-64`` is for comparison."""


def architecture(preset: str, changes: Mapping[str, Any] | None = None) -> Architecture:
    """A preset with some fields changed.

    Parameters
    ----------
    preset : str
        A key of `PRESETS`.
    changes : mapping, optional
        From the name of a field of `Architecture` to its value; lists stand for tuples.

    Raises
    ------
    ConfigError
        An unknown preset or field, a value that is not one of those it can have, sizes that do not fit.
    """
    if preset not in PRESETS:
        raise ConfigError(f"train.model: expected one of {', '.join(PRESETS)}, got {preset!r}")
    known, types = {field.name for field in fields(Architecture)}, get_type_hints(Architecture)
    given: dict[str, Any] = {}
    for name, value in (changes or {}).items():
        if name not in known:
            raise ConfigError(f"train.architecture: unknown field {name!r}; known are {', '.join(sorted(known))}")
        given[name] = tuple(value) if isinstance(value, list) else value
        _check(name, given[name], types[name])
    return replace(PRESETS[preset], **given)


def _check(name: str, value: Any, kind: Any) -> None:
    choices = get_args(kind)
    if kind == tuple[int, ...]:
        right = isinstance(value, tuple) and all(type(item) is int and item > 0 for item in value)
        wanted = "positive whole numbers in brackets"
    elif choices:
        right, wanted = value in choices, f"one of {', '.join(choices)}"
    else:
        right, wanted = type(value) is kind, {int: "a whole number", bool: "true or false"}[kind]
    if not right:
        raise ConfigError(f"train.architecture.{name}: expected {wanted}, got {value!r}")
