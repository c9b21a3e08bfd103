"""The monitor of internal covariate shift: known moments, known shifts, and what lowers it in training."""

from __future__ import annotations

import doctest
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, distributions, nn

import facepipe.diagnostics
from facepipe.diagnostics import ShiftMonitor, gaussian_divergence


def test_divergence_equals_torch() -> None:
    first, second = distributions.Normal(0.3, 1.7), distributions.Normal(-1.0, 0.4)
    kl = distributions.kl_divergence
    expected = kl(first, second) + kl(second, first)
    values = [torch.tensor(v) for v in (0.3, 1.7**2, -1.0, 0.4**2)]
    torch.testing.assert_close(gaussian_divergence(*values), expected)
    assert gaussian_divergence(*values[:2], *values[:2]) == 0


@pytest.mark.parametrize("shape", [(400, 6), (40, 6, 5, 5), (40, 6, 7)])
def test_shift_of_known_size(shape: tuple[int, ...]) -> None:
    """Inputs moved by half of their standard deviation, channel by channel, of whatever scale."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scale = torch.arange(1.0, 7).view(1, 6, *(1,) * (len(shape) - 2))
    axes = [0, *range(2, len(shape))]
    deviation = x.std(axes, correction=0, keepdim=True)
    layer = nn.Identity()
    with ShiftMonitor(nn.Sequential(layer), ["0"]) as monitor:
        layer(x * scale)
        assert monitor.step() == []
        layer((x + 0.5 * deviation) * scale)
        (shift,) = monitor.step()
    assert (shift.layer, shift.step) == ("0", 1)
    assert shift.mean_shift == pytest.approx(0.5, rel=1e-4)
    assert shift.divergence == pytest.approx(0.25, rel=1e-4)
    assert monitor.history == [shift]


def test_growth_without_movement() -> None:
    x = torch.randn(1000, 3)
    x = x - x.mean(0)
    layer = nn.Identity()
    with ShiftMonitor(layer, [""]) as monitor:
        layer(x)
        monitor.step()
        layer(3 * x)
        (shift,) = monitor.step()
    assert shift.mean_shift == pytest.approx(0, abs=1e-3)
    assert shift.divergence == pytest.approx((9 + 1 / 9 - 2) / 2, rel=1e-3)


def test_batches_of_a_step_count_as_one() -> None:
    x = torch.randn(100, 4, 6, 6) * 3 + 50
    y = x * 1.3 + 2
    layer = nn.Identity()

    def shift(batches: list[Tensor]) -> Any:
        with ShiftMonitor(layer, [""]) as monitor:
            layer(x)
            monitor.step()
            for batch in batches:
                layer(batch)
            (result,) = monitor.step()
        return result

    whole, split = shift([y]), shift([y[:1], y[1:30], y[30:]])
    assert split.mean_shift == pytest.approx(whole.mean_shift, rel=1e-5)
    assert split.divergence == pytest.approx(whole.divergence, rel=1e-5)


def test_default_layers_and_hooks_that_go() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
    x = torch.randn(5, 3, 4, 4)
    with ShiftMonitor(net) as monitor:
        for _ in range(2):
            net(x)
            monitor.step()
        assert [s.layer for s in monitor.history] == ["0", "1", "4"]
        assert monitor.history[0].mean_shift == 0
    net(x)
    with pytest.raises(ValueError, match="step 2: expected a forward pass"):
        monitor.step()


def test_layers_that_rest_are_compared_when_they_run() -> None:
    a, b = nn.Linear(3, 3), nn.Linear(3, 3)
    net = nn.ModuleDict({"a": a, "b": b})
    x = torch.randn(50, 3)
    monitor = ShiftMonitor(net)
    for layers in ((a, b), (a,), (a, b)):
        for layer in layers:
            layer(x)
        monitor.step()
    monitor.close()
    assert [(s.layer, s.step) for s in monitor.history] == [("a", 1), ("a", 2), ("b", 2)]


def test_it_does_not_disturb_training() -> None:
    def gradient(watched: bool) -> Tensor:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1))
        monitor = ShiftMonitor(net) if watched else None
        net(torch.randn(8, 4)).sum().backward()
        if monitor is not None:
            assert monitor.step() == []
        weight = net[0].weight.grad
        assert isinstance(weight, Tensor)
        return weight

    assert torch.equal(gradient(True), gradient(False))


def test_half_precision_and_dead_channels() -> None:
    layer = nn.Identity()
    x = torch.zeros(64, 2, dtype=torch.bfloat16)
    x[:, 0] = torch.arange(64) % 2
    with ShiftMonitor(layer, [""]) as monitor:
        for _ in range(2):
            layer(x)
            shifts = monitor.step()
    assert shifts[0].divergence == 0


def test_refuses() -> None:
    net = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"layers: expected names of the model's modules, got \['1'\]; it has 0"):
        ShiftMonitor(net, ["1"])
    with pytest.raises(ValueError, match="got none"):
        ShiftMonitor(nn.Sequential(nn.ReLU()))
    with ShiftMonitor(net), pytest.raises(ValueError, match="layer '0': expected finite inputs"):
        net(torch.tensor([[1.0, math.nan]]))
    with ShiftMonitor(nn.Sequential(nn.Identity()), ["0"]) as monitor:
        hook = monitor._handles
        assert len(hook) == 1


# ------------------------------------------------------------------------------------------------------------ training


def shift_of_training(rate: float) -> float:
    """Median shift of the deeper layers' inputs while a small net learns; measured on one probe batch."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))
    x = torch.randn(256, 8)
    y = torch.sin(3 * x[:, :1]) + x[:, 1:2] * x[:, 2:3]
    parameters = list(net.parameters())
    with ShiftMonitor(net, ["2", "4"]) as monitor:
        for _ in range(30):
            gradients = torch.autograd.grad(nn.functional.mse_loss(net(x), y), parameters)
            with torch.no_grad():
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter.sub_(rate * gradient)
            monitor.step()
    return float(np.median([shift.mean_shift for shift in monitor.history]))


def test_a_smaller_step_shifts_less() -> None:
    assert 0 < shift_of_training(0.03) < shift_of_training(0.3) / 3


def test_examples() -> None:
    assert doctest.testmod(facepipe.diagnostics).failed == 0
