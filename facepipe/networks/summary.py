"""How large a net is and what one picture costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from facepipe.networks.generator import SwapNet

__all__ = ["Part", "Summary", "summary"]

# What each child of a swap net belongs to.
_PARTS = {
    "encoder": ("encoder",),
    "code": ("heads", "inters"),
    "decoder": ("decoders",),
    "linear": ("analysis", "synthesis"),
}


@dataclass(frozen=True)
class Part:
    """A part of a net.

    Attributes
    ----------
    parameters : int
        All that belong to it, of both persons; see `Summary`.
    flops : int
        Of one picture, of one person.
    """

    parameters: int
    flops: int


@dataclass(frozen=True)
class Summary:
    """The size of a net.

    Attributes
    ----------
    parameters : int
        All of its parameters.
    trainable : int
        Those of them that have a gradient.
    buffers : int
        What it knows besides: components of a linear part, statistics of batches.
    flops : int
        Of one picture through the net (for a swap net: encoder and one decoder), a multiplication and an addition
        counted as two; of convolutions and matrix products only.
    parts : mapping of str to Part
        For a swap net ``encoder``, ``code`` (codes, and the first maps made of them), ``decoder``, and ``linear``
        where it has such a part; else the net's children by their names. Their sums are those of the whole.
    """

    parameters: int
    trainable: int
    buffers: int
    flops: int
    parts: Mapping[str, Part]

    def __str__(self) -> str:
        rows = [*self.parts.items(), ("all", Part(self.parameters, self.flops))]
        width = max(len(name) for name, _ in rows)
        lines = [f"{'':{width}}  {'parameters':>10}  {'flops/image':>11}"]
        lines += [f"{name:{width}}  {_short(part.parameters):>10}  {_short(part.flops):>11}" for name, part in rows]
        frozen = self.parameters - self.trainable
        lines += [f"{_short(frozen)} of the parameters are frozen"] if frozen else []
        lines += [f"{_short(self.buffers)} numbers more are not trained"] if self.buffers else []
        return "\n".join(lines)


class _Rebuild(nn.Module):
    """One picture through all that its person has; for liae the target has more."""

    def __init__(self, net: SwapNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> object:
        return self.net.rebuild(image, "target")


def summary(net: nn.Module, size: int) -> Summary:
    """Count a net's parameters, and the operations of one picture.

    Parameters
    ----------
    net : nn.Module
        A swap net, a discriminator, or any other net from (B, 3, S, S); left as it is. Nothing is computed, so large
        nets take no longer than small ones.
    size : int
        Side of the picture; for a swap net that of its architecture.

    Returns
    -------
    Summary
    """
    call: nn.Module = _Rebuild(net) if isinstance(net, SwapNet) else net
    counted = _count(call, size)
    root = f"{type(call).__name__}." + ("net." if call is not net else "")
    children = dict(net.named_children())
    groups = _PARTS if isinstance(net, SwapNet) else {name: (name,) for name in children}
    parts: dict[str, Part] = {}
    for part, names in groups.items():
        found = Part(
            _numbers(p for name in names if name in children for p in children[name].parameters()),
            sum(_below(counted, root + name) for name in names),
        )
        if found.parameters or found.flops:
            parts[part] = found
    return Summary(
        _numbers(net.parameters()),
        _numbers(p for p in net.parameters() if p.requires_grad),
        _numbers(net.buffers()),
        counted.get("Global", 0),
        parts,
    )


@torch.no_grad()
def _count(net: nn.Module, size: int) -> dict[str, int]:
    """Operations of one picture by the name of the module that was called."""
    training = [(module, module.training) for module in net.modules()]
    net.eval()  # one picture has no statistics of a batch
    try:
        # Fake tensors have a shape and a device but no numbers; the meta device would know of no autocast.
        with FakeTensorMode(), FlopCounterMode(display=False) as counter:
            named = (*net.named_parameters(), *net.named_buffers())
            tensors = {name: torch.empty(tensor.shape, dtype=tensor.dtype) for name, tensor in named}
            functional_call(net, tensors, (torch.empty(1, 3, size, size),))
    finally:
        for module, mode in training:
            module.training = mode
    return {name: sum(kinds.values()) for name, kinds in counter.get_flop_counts().items()}


def _below(counted: Mapping[str, int], name: str) -> int:
    """The sum over the module of that name, or over those below it that were called in its stead."""
    called = [key for key in counted if key == name or key.startswith(f"{name}.")]
    return sum(counted[key] for key in called if not any(key.startswith(f"{other}.") for other in called))


def _numbers(parameters: Iterable[Tensor]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _short(number: int) -> str:
    """Three digits and a unit: 12.3 M."""
    for unit, scale in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= scale:
            return f"{number / scale:.3g} {unit}" if number < 999.5 * scale else f"{number / scale:.0f} {unit}"
    return str(number)
