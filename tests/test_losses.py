"""Norms and losses against torch, torchmetrics, our metrics and closed forms; gradients against finite differences."""

from __future__ import annotations

import doctest
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchmetrics.functional.image import structural_similarity_index_measure

import facepipe.losses.norms
from facepipe import losses, metrics

Loss = Callable[[Tensor, Tensor], Tensor]


def images(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two pictures in [-1, 1] that resemble each other."""
    random = torch.Generator().manual_seed(seed)
    a = torch.rand(shape, dtype=torch.float64, generator=random) * 1.6 - 0.8
    b = a + 0.2 * torch.randn(shape, dtype=torch.float64, generator=random).clamp(-1, 1)
    return a.to(dtype), b.to(dtype)


def weights(*shape: int) -> Tensor:
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(9))


# -------------------------------------------------------------------------------------------------------------- norms


def test_norms_of_the_book_example() -> None:
    x = torch.tensor([1.0, 2, 8])
    assert losses.lp_norm(x, 2) == pytest.approx(math.sqrt(69))
    assert losses.lp_norm(x, 1) == 11
    assert losses.lp_norm(x, 0) == 3
    assert losses.lp_norm(x, math.inf) == 8
    assert losses.lp_norm(x, 0.5) == pytest.approx((1 + math.sqrt(2) + math.sqrt(8)) ** 2)


@pytest.mark.parametrize("dim", [None, 0, -1, (1, 2), (0, 1, 2), (0, -1)])
@pytest.mark.parametrize("keepdim", [False, True])
@pytest.mark.parametrize("p", [0, 0.5, 1, 2, 3.7, math.inf])
def test_lp_norm_equals_torch(p: float, dim: Any, keepdim: bool) -> None:
    x = images(3, 4, 5)[0]
    expected = torch.linalg.vector_norm(x, p, dim=dim, keepdim=keepdim)
    if dim is None and keepdim:
        expected = expected.view(1, 1, 1)
    torch.testing.assert_close(losses.lp_norm(x, p, dim, keepdim=keepdim), expected)


@settings(deadline=None, max_examples=40)
@given(p=st.floats(1, 20), scale=st.floats(-100, 100), seed=st.integers(0, 1000))
def test_lp_norm_is_a_norm(p: float, scale: float, seed: int) -> None:
    a, b = images(6, seed=seed)
    size = float(losses.lp_norm(a, p))
    assert losses.lp_norm(scale * a, p) == pytest.approx(abs(scale) * size, rel=1e-9)
    assert losses.lp_norm(a + b, p) <= size + float(losses.lp_norm(b, p)) + 1e-9
    assert losses.lp_norm(a, p + 1) <= size + 1e-9


@pytest.mark.parametrize("scale", [1e-30, 1e30])
@pytest.mark.parametrize("p", [0.5, 2, 5])
def test_powers_neither_overflow_nor_vanish(scale: float, p: float) -> None:
    x = torch.tensor([3.0, 4.0]) * scale
    expected = (3.0**p + 4.0**p) ** (1 / p) * scale
    assert float(losses.lp_norm(x, p)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("p", [0, 0.3, 0.5, 1, 1.5, 2, 3, math.inf])
@pytest.mark.parametrize("x", [[0.0, 0, 0], [0, 1, -2]])
def test_gradients_are_finite_at_zero(p: float, x: list[float]) -> None:
    v = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    norm = losses.lp_norm(v, p)
    if norm.requires_grad:
        (gradient,) = torch.autograd.grad(norm, v, create_graph=True)
        assert torch.isfinite(gradient).all()
        if gradient.requires_grad:
            (second,) = torch.autograd.grad(gradient.sum(), v)
            assert torch.isfinite(second).all()
    else:
        assert p == 0


@pytest.mark.parametrize("p", [0.5, 1, 2, 3.5, math.inf])
def test_norms_gradcheck(p: float) -> None:
    x = images(3, 4)[0].requires_grad_()
    assert torch.autograd.gradcheck(lambda v: losses.lp_norm(v, p, -1), x)
    if 1 < p < math.inf:
        assert torch.autograd.gradgradcheck(lambda v: losses.lp_norm(v, p, -1), x)


@pytest.mark.parametrize("kind", ["frobenius", "nuclear", "spectral"])
def test_matrix_norms_equal_torch(kind: Any) -> None:
    x = images(2, 4, 6)[0].requires_grad_()
    order: Any = {"frobenius": "fro", "nuclear": "nuc", "spectral": 2}[kind]
    torch.testing.assert_close(losses.matrix_norm(x, kind), torch.linalg.matrix_norm(x, order))
    assert torch.autograd.gradcheck(lambda v: losses.matrix_norm(v, kind), x)
    zero = torch.zeros(3, 3, requires_grad=True)
    losses.matrix_norm(zero, kind).backward()
    assert zero.grad is not None
    assert torch.isfinite(zero.grad).all()


def test_the_2_norm_of_a_matrix_is_not_frobenius() -> None:
    x = torch.diag(torch.tensor([3.0, 4.0]))
    assert losses.matrix_norm(x, "frobenius") == pytest.approx(5)
    assert losses.matrix_norm(x, "spectral") == pytest.approx(4)
    assert losses.matrix_norm(x, "nuclear") == pytest.approx(7)


# ----------------------------------------------------------------------------------------------------- reconstruction

PIXEL: dict[str, tuple[Loss, Loss]] = {
    "l1": (losses.l1, F.l1_loss),
    "l2": (losses.l2, F.mse_loss),
    "huber": (lambda a, b: losses.huber(a, b, delta=0.1), lambda a, b: F.huber_loss(a, b, delta=0.1)),
    "charbonnier": (losses.charbonnier, lambda a, b: ((a - b) ** 2 + 1e-6).sqrt().mean()),
}
WEIGHTED: dict[str, Callable[..., Tensor]] = {
    "l1": losses.l1,
    "l2": losses.l2,
    "huber": losses.huber,
    "charbonnier": losses.charbonnier,
    "edge": losses.edge,
    "dssim": losses.dssim,
    "ms_dssim": lambda a, b, **k: losses.ms_dssim(a, b, scales=2, **k),
}
SHAPE = (2, 3, 24, 26)


@pytest.mark.parametrize("name", list(PIXEL))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_torch(name: str, dtype: torch.dtype) -> None:
    a, b = images(*SHAPE, dtype=dtype)
    ours, theirs = PIXEL[name]
    torch.testing.assert_close(ours(a, b), theirs(a, b))


@pytest.mark.parametrize("name", list(WEIGHTED))
@pytest.mark.parametrize("weighted", [False, True])
def test_gradcheck(name: str, weighted: bool) -> None:
    a, b = images(1, 2, 22, 22)
    b[..., :4] = a[..., :4]  # equal pixels too, where some have a corner
    w = weights(1, 1, 22, 22) if weighted else None
    smooth = name not in {"l1", "edge"}
    region = np.s_[..., :, :] if smooth else np.s_[..., 5:]
    a.requires_grad_()
    loss = WEIGHTED[name]

    def part(x: Tensor) -> Tensor:
        y = a.detach().clone()
        y[region] = x
        return loss(y, b, weight=w)

    assert torch.autograd.gradcheck(part, a.detach()[region].clone().requires_grad_(), fast_mode=True)


@pytest.mark.parametrize("name", list(WEIGHTED))
def test_gradients_at_equal_images_are_finite(name: str) -> None:
    a, _ = images(1, 1, 24, 24, dtype=torch.float32)
    x = a.clone().requires_grad_()
    loss = WEIGHTED[name](x, a)
    (gradient,) = torch.autograd.grad(loss, x)
    assert torch.isfinite(gradient).all()
    assert loss.item() == pytest.approx(1e-3 if name == "charbonnier" else 0, abs=1e-6)


@pytest.mark.parametrize("name", list(WEIGHTED))
def test_weights(name: str) -> None:
    loss = WEIGHTED[name]
    a, b = images(*SHAPE)
    even = torch.full((24, 26), 0.3)
    torch.testing.assert_close(loss(a, b, weight=even), loss(a, b))
    w = weights(2, 1, 24, 26)
    torch.testing.assert_close(loss(a, b, weight=5 * w), loss(a, b, weight=w))
    assert loss(a, b, weight=0 * w).item() in (0, 0.5)  # nothing to compare: MS-SSIM's product is then 0
    torch.testing.assert_close(loss(a, b, weight=w), loss(a, b, weight=w.expand(*SHAPE).contiguous()))


@pytest.mark.parametrize("name", [n for n in WEIGHTED if n != "ms_dssim"])
def test_no_gradient_where_there_is_no_weight(name: str) -> None:
    a, b = images(*SHAPE)
    w = torch.ones(1, 1, 24, 26, dtype=torch.float64)
    w[..., :12] = 0
    x = a.requires_grad_()
    (gradient,) = torch.autograd.grad(WEIGHTED[name](x, b, weight=w), x)
    assert not gradient[..., :12].any()
    assert gradient[..., 14:].any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", list(WEIGHTED))
def test_half_precision_input_is_summed_in_float32(name: str, dtype: torch.dtype) -> None:
    a, b = images(4, 3, 64, 64, dtype=dtype)
    loss = WEIGHTED[name](a, b)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, WEIGHTED[name](a.double(), b.double()).float(), rtol=1e-4, atol=1e-6)
    x = a.requires_grad_()
    (gradient,) = torch.autograd.grad(WEIGHTED[name](x, b), x)
    assert gradient.dtype == dtype
    assert torch.isfinite(gradient).all()


def test_autocast_does_not_reach_the_filters() -> None:
    a, b = images(1, 3, 64, 64, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = losses.dssim(a, b), losses.ms_dssim(a, b, scales=2)
    torch.testing.assert_close(loss, (losses.dssim(a, b), losses.ms_dssim(a, b, scales=2)))


def test_edge_of_known_steps() -> None:
    a = torch.zeros(1, 1, 4, 5)
    b = a.clone()
    b[..., 2:] = 6  # one step of 6 in each row: 4 of 16 differences across, none down
    assert losses.edge(a, b) == pytest.approx(6 * 4 / 16 / 2)
    assert losses.edge(a, b + 3) == losses.edge(a, b)
    assert losses.edge(b, b + 3) == 0


def test_edge_by_numpy() -> None:
    a, b = (x.numpy() for x in images(*SHAPE))
    across, down = np.abs(np.diff(a - b, axis=-1)).mean(), np.abs(np.diff(a - b, axis=-2)).mean()
    assert losses.edge(*images(*SHAPE)).item() == pytest.approx((across + down) / 2)


# ---------------------------------------------------------------------------------------------------- total variation


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("anisotropic", [False, True])
def test_total_variation_by_its_definition(beta: float, anisotropic: bool) -> None:
    x = images(2, 3, 5, 6)[0]
    total = 0.0
    for image in x.numpy().reshape(-1, 5, 6):
        for i in range(5):
            for j in range(6):
                dx = image[i, j + 1] - image[i, j] if j < 5 else 0.0
                dy = image[i + 1, j] - image[i, j] if i < 4 else 0.0
                total += abs(dx) ** beta + abs(dy) ** beta if anisotropic else (dx**2 + dy**2) ** (beta / 2)
    assert losses.total_variation(x, beta, anisotropic=anisotropic).item() == pytest.approx(total)
    mean = losses.total_variation(x, beta, anisotropic=anisotropic, reduction="mean")
    assert mean.item() == pytest.approx(total / x.numel())


def test_total_variation_of_a_ramp_and_a_step() -> None:
    ramp = torch.arange(6.0).expand(1, 1, 4, 6) * 3
    assert losses.total_variation(ramp) == 9 * 5 * 4
    assert losses.total_variation(ramp, 1.0) == 3 * 5 * 4
    assert losses.total_variation(torch.full((1, 1, 4, 6), 7.0), 1.0) == 0


@pytest.mark.parametrize("beta", [0.5, 1.0, 1.5, 2.0])
@pytest.mark.parametrize("anisotropic", [False, True])
def test_total_variation_gradients(beta: float, anisotropic: bool) -> None:
    x = images(1, 2, 5, 5)[0].requires_grad_()
    assert torch.autograd.gradcheck(lambda v: losses.total_variation(v, beta, anisotropic=anisotropic), x)
    flat = torch.zeros(1, 1, 4, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(losses.total_variation(flat, beta, anisotropic=anisotropic), flat)
    assert not gradient.any()


def test_weighted_total_variation() -> None:
    x = images(1, 1, 5, 6)[0]
    w = torch.zeros(5, 6)
    w[2, 3] = 2
    expected = 2 * ((x[0, 0, 2, 4] - x[0, 0, 2, 3]) ** 2 + (x[0, 0, 3, 3] - x[0, 0, 2, 3]) ** 2)
    torch.testing.assert_close(losses.total_variation(x, weight=w), expected)


# --------------------------------------------------------------------------------------------- structural similarity


def planes(x: Tensor) -> np.ndarray[Any, Any]:
    return np.asarray(x[0].permute(1, 2, 0).numpy())


@pytest.mark.parametrize("weighted", [False, True])
def test_similarity_equals_the_metrics(weighted: bool) -> None:
    a, b = images(1, 3, 180, 191)
    w = weights(180, 191) if weighted else None
    mask = None if w is None else w.numpy()
    ours = 1 - 2 * losses.dssim(a, b, weight=w).item()
    assert ours == pytest.approx(metrics.ssim(planes(a), planes(b), data_range=2, mask=mask), abs=1e-12)
    ours = 1 - 2 * losses.ms_dssim(a, b, weight=w).item()
    assert ours == pytest.approx(metrics.ms_ssim(planes(a), planes(b), data_range=2, mask=mask), abs=1e-12)


def test_similarity_equals_torchmetrics() -> None:
    """Which mirrors the border and then counts it; so images whose border is equal on a wide margin are compared."""
    a, b = images(2, 3, 40, 40)
    theirs = structural_similarity_index_measure(a, b, data_range=2.0, return_full_image=True)
    inner = theirs[1][..., 5:-5, 5:-5].mean()
    torch.testing.assert_close(1 - 2 * losses.dssim(a, b), inner)


def test_fewer_scales() -> None:
    a, b = images(1, 3, 64, 64)
    torch.testing.assert_close(losses.ms_dssim(a, b, scales=1), losses.dssim(a, b), atol=1e-3, rtol=0)
    values = [losses.ms_dssim(a, b, scales=n).item() for n in (1, 2, 3)]
    assert all(0 < v < 0.5 for v in values)


def test_images_that_contradict_each_other() -> None:
    """Negative contrast: beyond a half for one scale, exactly a half for several, with finite gradients."""
    texture = images(1, 1, 64, 64)[0] / 2
    a, b = (0.5 + texture).requires_grad_(), 0.5 - texture
    assert 0.5 < losses.dssim(a, b).item() <= 1
    loss = losses.ms_dssim(a, b, scales=2)
    assert loss.item() == 0.5
    (gradient,) = torch.autograd.grad(loss, a)
    assert torch.isfinite(gradient).all()


# -------------------------------------------------------------------------------------------------------- adversarial

KINDS: list[Any] = ["bce", "minimax", "lsgan", "wgan", "wgan-gp", "hinge", "relativistic"]


def test_cross_entropy_equals_torch() -> None:
    real, fake = images(6, 1, 4, 4)
    loss = losses.adversarial("bce")
    ones, zeros = torch.ones_like(real), torch.zeros_like(real)
    entropy = F.binary_cross_entropy_with_logits
    torch.testing.assert_close(loss.discriminator(real, fake), entropy(real, ones) + entropy(fake, zeros))
    torch.testing.assert_close(loss.generator(fake), entropy(fake, ones))
    # The minimax value itself: the discriminator maximises it, the generator minimises its second half.
    value = torch.log(torch.sigmoid(real)).mean() + torch.log(1 - torch.sigmoid(fake)).mean()
    minimax = losses.adversarial("minimax")
    torch.testing.assert_close(minimax.discriminator(real, fake), -value)
    torch.testing.assert_close(minimax.generator(fake), torch.log(1 - torch.sigmoid(fake)).mean())


@pytest.mark.parametrize(
    ("kind", "generator", "discriminator"),
    [
        ("lsgan", ((2 - 1) ** 2 + (-0.5 - 1) ** 2) / 4, ((3 - 1) ** 2 + (0.5 - 1) ** 2 + 2**2 + 0.5**2) / 4),
        ("wgan", -0.75, 0.75 - 1.75),
        ("wgan-gp", -0.75, 0.75 - 1.75),
        ("hinge", -0.75, (0 + 0.5) / 2 + (3 + 0.5) / 2),
    ],
)
def test_by_hand(kind: Any, generator: float, discriminator: float) -> None:
    real, fake = torch.tensor([3.0, 0.5]), torch.tensor([2.0, -0.5])
    loss = losses.adversarial(kind)
    assert loss.generator(fake).item() == pytest.approx(generator)
    assert loss.discriminator(real, fake).item() == pytest.approx(discriminator)


def test_relativistic_by_hand() -> None:
    real, fake = torch.tensor([3.0, 0.5]), torch.tensor([2.0, -0.5])
    loss = losses.adversarial("relativistic")
    better, worse = torch.sigmoid(real - fake.mean()), torch.sigmoid(fake - real.mean())
    expected = -better.log().mean() - (1 - worse).log().mean()
    torch.testing.assert_close(loss.discriminator(real, fake), expected)
    torch.testing.assert_close(loss.generator(real, fake), expected)  # with the roles exchanged
    assert loss.discriminator(real + 100, fake + 100) == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_adversarial_gradcheck(kind: Any) -> None:
    loss = losses.adversarial(kind)
    real, fake = images(5, 2)
    assert torch.autograd.gradcheck(loss.discriminator, (real.requires_grad_(), fake.requires_grad_()))
    assert torch.autograd.gradcheck(lambda f: loss.generator(f, real.detach()), fake)


@pytest.mark.parametrize("kind", KINDS)
def test_steps_go_the_right_way(kind: Any) -> None:
    """A step down the loss: the discriminator's raises real and lowers fake, the generator's raises fake."""
    loss = losses.adversarial(kind)
    real, fake = (torch.full((4,), 0.5, requires_grad=True) for _ in range(2))
    up, down = torch.autograd.grad(loss.discriminator(real, fake), (real, fake))
    assert (up < 0).all()
    assert (down > 0).all()
    (better,) = torch.autograd.grad(loss.generator(fake, real), fake)
    assert (better < 0).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_large_logits_stay_finite(kind: Any, dtype: torch.dtype) -> None:
    real, fake = torch.tensor([-200.0, 200], dtype=dtype), torch.tensor([200.0, -200], dtype=dtype)
    loss = losses.adversarial(kind)
    for value in (loss.generator(fake, real), loss.discriminator(real, fake)):
        assert value.dtype == torch.float32
        assert value.ndim == 0
        assert torch.isfinite(value)


def test_what_else_a_kind_calls_for() -> None:
    assert {k: losses.adversarial(k).penalty_weight for k in KINDS if losses.adversarial(k).penalty_weight} == {
        "wgan-gp": 10
    }
    assert {k: losses.adversarial(k).clip for k in KINDS if losses.adversarial(k).clip} == {"wgan": 0.01}


# ---------------------------------------------------------------------------------------------------------- penalties


@pytest.mark.parametrize("shape", [(4, 6), (4, 3, 5, 7), (4, 2, 3, 4, 5)])
@pytest.mark.parametrize("slope", [0.5, 1.0, 3.0])
def test_penalty_of_a_known_gradient(shape: tuple[int, ...], slope: float) -> None:
    """A linear critic has one gradient everywhere, whose norm over all axes is `slope`."""
    direction = images(*shape[1:])[0]
    direction = slope * direction / direction.norm()
    real, fake = images(*shape)

    def critic(x: Tensor) -> Tensor:
        return torch.sum((x * direction).flatten(1), 1)

    assert losses.gradient_penalty(critic, real, fake).item() == pytest.approx((slope - 1) ** 2, abs=1e-12)
    assert losses.gradient_penalty(critic, real, fake, target=0).item() == pytest.approx(slope**2)
    assert losses.r1_penalty(critic, real).item() == pytest.approx(slope**2 / 2)


def test_the_norm_is_over_all_axes() -> None:
    """Norm 1 in every one of 3 channels is sqrt(3) in all; a norm over the channels alone would see other numbers."""
    real, fake = images(2, 3, 4, 4)

    def critic(x: Tensor) -> Tensor:
        return x[:, :, 0, 0].sum(1)

    assert losses.gradient_penalty(critic, real, fake).item() == pytest.approx((math.sqrt(3) - 1) ** 2)


def test_points_lie_between_each_pair() -> None:
    seen: list[Tensor] = []

    def critic(x: Tensor) -> Tensor:
        seen.append(x.detach())
        return x.flatten(1).sum(1)

    real, fake = torch.zeros(64, 3, 2, 2), torch.ones(64, 3, 2, 2) * torch.arange(1.0, 65).view(-1, 1, 1, 1)
    losses.gradient_penalty(critic, real, fake, generator=torch.Generator().manual_seed(0))
    share = seen[0] / fake
    assert (share.flatten(1).std(1) < 1e-6).all()  # one share an image
    assert 0 <= share.min() < 0.1
    assert 0.9 < share.max() <= 1
    losses.gradient_penalty(critic, real, fake, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(seen[0], seen[1])


def test_penalty_trains_the_discriminator_alone() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 36, 1)).double()
    real, fake = (x.requires_grad_() for x in images(3, 3, 8, 8))
    losses.gradient_penalty(net, real, fake).backward()
    assert real.grad is None
    assert fake.grad is None
    assert all(p.grad is not None for p in (net[0].weight, net[3].weight))


def test_penalty_gradient_equals_finite_differences() -> None:
    real, fake = images(3, 4)

    def penalty(w: Tensor) -> Tensor:
        random = torch.Generator().manual_seed(1)
        return losses.gradient_penalty(lambda x: torch.tanh(x @ w), real, fake, generator=random)

    assert torch.autograd.gradcheck(penalty, images(4, 2, seed=5)[0].requires_grad_())
    assert torch.autograd.gradcheck(
        lambda w: losses.r1_penalty(lambda x: torch.tanh(x @ w), real), images(4, 2, seed=5)[0].requires_grad_()
    )


def descend(net: nn.Module, loss: Callable[[], Tensor], *, rate: float, steps: int) -> None:
    """Plain gradient descent."""
    parameters = list(net.parameters())
    for _ in range(steps):
        gradients = torch.autograd.grad(loss(), parameters, allow_unused=True)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    parameter.sub_(rate * gradient)


def test_training_brings_the_slope_to_one() -> None:
    torch.manual_seed(0)
    net = nn.Linear(5, 1)
    real, fake = images(16, 5, dtype=torch.float32)
    descend(net, lambda: losses.gradient_penalty(net, real, fake), rate=0.2, steps=50)
    assert net.weight.norm().item() == pytest.approx(1, abs=0.01)


def test_a_flat_critic_has_a_finite_penalty() -> None:
    net = nn.Linear(5, 1)
    nn.init.zeros_(net.weight)
    losses.gradient_penalty(net, *images(4, 5, dtype=torch.float32)).backward()
    assert net.weight.grad is not None
    assert torch.isfinite(net.weight.grad).all()


# ---------------------------------------------------------------------------------------------------------- Lipschitz


def test_spectral_norms_are_measured() -> None:
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.ConvTranspose2d(5, 4, 3), nn.Flatten(), nn.Linear(6, 7))
    norms = losses.spectral_norms(net)
    assert list(norms) == ["0", "2", "4"]
    conv, transposed, linear = (net.get_parameter(f"{i}.weight").detach().numpy() for i in (0, 2, 4))
    assert norms["0"] == pytest.approx(np.linalg.norm(conv.reshape(5, -1), 2), rel=1e-5)
    assert norms["2"] == pytest.approx(np.linalg.norm(transposed.swapaxes(0, 1).reshape(4, -1), 2), rel=1e-5)
    assert norms["4"] == pytest.approx(np.linalg.norm(linear, 2), rel=1e-5)


@pytest.mark.parametrize("layers", ["plain", "normalised"])
def test_spectral_normalisation_keeps_it_at_one(layers: str) -> None:
    """Through steps that otherwise let the weights grow; and measuring changes nothing."""
    torch.manual_seed(0)
    normalised = functools.partial(nn.utils.parametrizations.spectral_norm, n_power_iterations=3)
    wrap: Callable[[Any], Any] = normalised if layers == "normalised" else lambda layer: layer
    net = nn.Sequential(wrap(nn.Conv2d(1, 8, 3)), nn.LeakyReLU(0.2), nn.Flatten(), wrap(nn.Linear(8 * 36, 1)))
    loss = losses.adversarial("hinge")
    real, fake = images(8, 1, 8, 8, dtype=torch.float32)
    descend(net, lambda: loss.discriminator(net(real), net(fake)), rate=0.2, steps=100)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    norms = list(losses.spectral_norms(net).values())
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert all(module.training for module in net.modules())
    if layers == "plain":
        assert max(norms) > 2
        return
    assert norms == pytest.approx([1, 1], abs=0.2)  # the power iteration lags behind steps as large as these
    for _ in range(30):
        net(real)
    assert list(losses.spectral_norms(net).values()) == pytest.approx([1, 1], abs=0.01)


def test_clipping() -> None:
    net = nn.Linear(4, 4)
    nn.init.normal_(net.weight, std=3)
    losses.clip_weights(net, 0.01)
    assert max(p.abs().max().item() for p in net.parameters()) <= 0.01
    assert net.weight.requires_grad


# ----------------------------------------------------------------------------------------------------------- refusals

A = torch.zeros(1, 1, 16, 16)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: losses.lp_norm(A, -1), "p: expected 0, a positive number or inf, got -1"),
        (lambda: losses.lp_norm(A, math.nan), "p: expected 0.*got nan"),
        (lambda: losses.lp_norm(A + 1j, 2), "expected real numbers"),
        (lambda: losses.matrix_norm(A, "schatten"), "expected one of frobenius, nuclear, spectral, got 'schatten'"),  # type: ignore[arg-type]
        (lambda: losses.matrix_norm(A[0, 0, 0], "nuclear"), r"expected matrices.*got shape \(16,\)"),
        (lambda: losses.l1(A, A[..., 1:]), r"same shape, got \(1, 1, 16, 16\) and \(1, 1, 16, 15\)"),
        (lambda: losses.l1(A, A, weight=A[..., 1:]), r"broadcasts to \(1, 1, 16, 16\), got \(1, 1, 16, 15\)"),
        (lambda: losses.huber(A, A, delta=0), "delta: expected more than 0, got 0"),
        (lambda: losses.charbonnier(A, A, epsilon=0), "epsilon: expected more than 0, got 0"),
        (lambda: losses.edge(A[..., :1], A[..., :1]), r"at least 2 pixels a side, got shape \(1, 1, 16, 1\)"),
        (lambda: losses.total_variation(A, 0), "beta: expected more than 0, got 0"),
        (lambda: losses.dssim(A[0], A[0]), r"expected two \(B, C, H, W\)"),
        (lambda: losses.dssim(A[..., :10], A[..., :10]), "at least 11 pixels a side"),
        (lambda: losses.dssim(A, A, data_range=0), "data_range: expected a positive number"),
        (lambda: losses.ms_dssim(A, A), "at least 176 pixels a side"),
        (lambda: losses.ms_dssim(A, A, scales=6), "scales: expected from 1 to 5, got 6"),
        (lambda: losses.adversarial("gan"), "kind: expected one of bce.*got 'gan'"),  # type: ignore[arg-type]
        (lambda: losses.adversarial("relativistic").generator(A), "expected the logits of real images"),
        (lambda: losses.gradient_penalty(lambda x: x, A, A[..., 1:]), r"expected two \(B, ...\) of the same shape"),
        (lambda: losses.gradient_penalty(lambda x: x.detach(), A, A), "logits that depend on the images"),
        (lambda: losses.r1_penalty(lambda x: x, A[0, 0, 0]), r"expected \(B, ...\), got shape \(16,\)"),
        (lambda: losses.clip_weights(nn.Linear(2, 2), 0), "limit: expected more than 0"),
    ],
)
def test_refuses(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_examples() -> None:
    assert doctest.testmod(facepipe.losses.norms).failed == 0
