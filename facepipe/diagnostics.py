"""Internal covariate shift: how far the inputs of a network's layers move while it trains.

Ioffe and Szegedy 2015 (arXiv:1502.03167) call it internal covariate shift that the distribution of a layer's inputs
changes as the layers before it learn. Here it is a number: watch the layers, call `ShiftMonitor.step` after each step
of the optimiser, read how far each layer's inputs moved since the last.

Batches differ from each other too. To see the training alone, run the same probe batch before each call of `step`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

__all__ = ["LayerShift", "ShiftMonitor", "gaussian_divergence"]

_FLOOR = 1e-5  # added to variances, as in batch norm: a dead channel has none


@dataclass(frozen=True)
class LayerShift:
    """How far the inputs of one layer moved between two steps.

    Attributes
    ----------
    layer : str
        The module's name.
    step : int
        Number of the later of the two steps, from 0.
    mean_shift : float
        Root mean square over the channels of the difference of means, in standard deviations; at least 0.
    divergence : float
        Mean over the channels of the symmetric Kullback-Leibler divergence of Gaussians, in nats; at least 0.
    """

    layer: str
    step: int
    mean_shift: float
    divergence: float


class ShiftMonitor:
    """Watches the inputs of layers and reports how far they move.

    The mean and the variance of each channel (axis 1; the last axis of a sequence of tokens is not known as such) are
    gathered over all forward passes of a step, without keeping an activation, gradient or graph.

    Parameters
    ----------
    model : nn.Module
        The network; hooks are put on its layers until `close`, or to the end of the ``with`` block.
    layers : iterable of str, optional
        Names as in ``model.named_modules()``. Default: every module that has weights of its own and no children.

    Attributes
    ----------
    history : list of LayerShift
        All that `step` has returned, in order.

    Raises
    ------
    ValueError
        For a name the model does not have, or a model without a layer to watch.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    >>> probe = torch.randn(8, 3)
    >>> with ShiftMonitor(model) as monitor:
    ...     for _ in range(2):
    ...         _ = model(probe)
    ...         shifts = monitor.step()
    >>> [(s.layer, s.mean_shift) for s in shifts]
    [('0', 0.0), ('2', 0.0)]
    """

    def __init__(self, model: nn.Module, layers: Iterable[str] | None = None) -> None:
        modules = dict(model.named_modules())
        names = _weighted_leaves(modules) if layers is None else list(layers)
        unknown = [name for name in names if name not in modules]
        if unknown or not names:
            raise ValueError(
                f"layers: expected names of the model's modules, got {unknown or 'none'}; "
                f"it has {', '.join(name for name in modules if name)}"
            )
        self.history: list[LayerShift] = []
        self._step = 0
        self._now: dict[str, _Moments] = {}
        self._before: dict[str, _Moments] = {}
        self._handles = [modules[name].register_forward_pre_hook(self._hook(name)) for name in names]

    def step(self) -> list[LayerShift]:
        """End a step: compare what was seen since the last call with what was seen before it.

        Returns
        -------
        list of LayerShift
            One a layer that was run in both steps; empty at the first call.

        Raises
        ------
        ValueError
            When no watched layer was run since the last call, or one was fed NaN or infinity.
        """
        if not self._now:
            raise ValueError(f"step {self._step}: expected a forward pass since the last step, got none")
        shifts = [
            _shift(name, self._step, self._before[name], now)
            for name, now in self._now.items()
            if name in self._before
        ]
        # A layer that was not run keeps its last moments: it will be compared with those when it is.
        self._before, self._now = {**self._before, **self._now}, {}
        self._step += 1
        self.history += shifts
        return shifts

    def close(self) -> None:
        """Take the hooks off; what was reported stays."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _hook(self, name: str) -> Any:
        def watch(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
            if inputs and isinstance(inputs[0], Tensor) and inputs[0].numel() and inputs[0].is_floating_point():
                self._now[name] = _merged(self._now.get(name), _Moments.of(name, inputs[0]))

        return watch


@dataclass(frozen=True)
class _Moments:
    """Number of values a channel, (C,) mean and (C,) sum of squares about it, float64 on the CPU."""

    count: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, name: str, x: Tensor) -> _Moments:
        # float32 at least for the reduction; float64 only after it, since not every device has that.
        x = x.detach() if x.dtype == torch.float64 else x.detach().float()
        rows = x.transpose(0, 1).flatten(1) if x.ndim > 1 else x[None]
        variance, mean = torch.var_mean(rows, dim=1, correction=0)
        if not bool(torch.isfinite(variance).all()):
            raise ValueError(f"layer {name!r}: expected finite inputs, got NaN or infinity; has training diverged?")
        return cls(rows.shape[1], mean.cpu().double(), variance.cpu().double() * rows.shape[1])

    @property
    def variance(self) -> Tensor:
        return self.scatter / self.count + _FLOOR


def _merged(a: _Moments | None, b: _Moments) -> _Moments:
    """Of both; Chan, Golub, LeVeque 1983, eq. (2.1)."""
    if a is None:
        return b
    count, difference = a.count + b.count, b.mean - a.mean
    scatter = a.scatter + b.scatter + difference.square() * (a.count * b.count / count)
    return _Moments(count, a.mean + difference * (b.count / count), scatter)


def gaussian_divergence(mean1: Tensor, variance1: Tensor, mean2: Tensor, variance2: Tensor) -> Tensor:
    """Symmetric Kullback-Leibler divergence of one-dimensional Gaussians, ``KL(1, 2) + KL(2, 1)``.

    Parameters
    ----------
    mean1, variance1, mean2, variance2 : Tensor
        Of shapes that broadcast; variances more than 0.

    Returns
    -------
    Tensor
        Nats, at least 0.

    Notes
    -----
    Jeffreys 1946, DOI 10.1098/rspa.1946.0056
    """
    difference = (mean1 - mean2).square()
    # (v1 + d) / v2 + (v2 + d) / v1 - 2, written so that equal Gaussians give 0 exactly.
    spread = (variance1 - variance2).square() / (variance1 * variance2)
    return (spread + difference * (1 / variance1 + 1 / variance2)) / 2


def _shift(name: str, step: int, before: _Moments, now: _Moments) -> LayerShift:
    if before.mean.shape != now.mean.shape:
        raise ValueError(f"layer {name!r}: expected {len(before.mean)} channels as before, got {len(now.mean)}")
    pooled = (before.variance + now.variance) / 2
    squares = (now.mean - before.mean).square() / pooled
    divergence = gaussian_divergence(before.mean, before.variance, now.mean, now.variance)
    return LayerShift(name, step, math.sqrt(float(squares.mean())), float(divergence.mean()))


def _weighted_leaves(modules: dict[str, nn.Module]) -> list[str]:
    return [
        name
        for name, module in modules.items()
        if next(module.children(), None) is None and next(module.parameters(recurse=False), None) is not None
    ]
