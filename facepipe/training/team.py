"""The processes that train together: one, or as many as ``torchrun`` started.

Process groups and devices are accelerate's; gradients are averaged here, in one buffer after the backward pass. So a
net may be run as often in a step as its losses need, some parts of it or none, and penalties may differentiate twice:
none of which wrappers around a module allow.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, nn

__all__ = ["Team", "processes"]


def processes() -> tuple[int, int]:
    """Number of this process, from 0, and of all that ``torchrun`` started with it; (0, 1) without it."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


@dataclass(frozen=True)
class Team:
    """This process among those that train together.

    Attributes
    ----------
    device : torch.device
        This process's.
    number, size : int
        Of this process, from 0; of all.
    """

    device: torch.device
    number: int = 0
    size: int = 1

    @classmethod
    def join(cls, device: str) -> Team:
        """Meet the other processes, if there are any; each gets a device of its own where there are several."""
        if processes()[1] == 1:
            return cls(torch.device(device))
        from accelerate import PartialState

        # The first process may have hours of clips to detect before the others are needed.
        state = PartialState(cpu=device == "cpu", timeout=timedelta(days=7))
        return cls(torch.device(state.device), state.process_index, state.num_processes)

    @property
    def leads(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.number == 0

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace gradients by their mean over the processes. A parameter has one in all processes or in none."""
        if self.size > 1:
            self.average([parameter.grad for parameter in parameters if parameter.grad is not None])

    def agree(self, value: float) -> float:
        """The first process's value, in all of them; each waits for the others here."""
        told = torch.tensor([value if self.leads else 0.0], device=self.device)
        self.average([told])
        return float(told) * self.size

    @torch.no_grad()
    def average(self, tensors: list[Tensor]) -> None:
        """Replace tensors by their mean over the processes, in place, in one message."""
        if self.size == 1 or not tensors:
            return
        from accelerate.utils import reduce

        whole = reduce(torch.cat([tensor.flatten() for tensor in tensors]), reduction="mean")
        parts = whole.split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))
