"""Swap nets and discriminators: shapes, gradients, what depends on what, and the linear start against closed forms."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from facepipe import losses
from facepipe.config import TrainConfig
from facepipe.errors import ConfigError
from facepipe.networks import (
    PRESETS,
    Architecture,
    DiscriminatorKind,
    Face,
    SwapNet,
    architecture,
    discriminator,
    linear,
    summary,
)
from facepipe.networks.architecture import DownKind, NormKind
from facepipe.networks.blocks import Blur, Down, Residual, Up, activation, convolution, icnr_, normalization
from facepipe.networks.linear import Analysis, Synthesis, principal_components, ridge
from facepipe.types import HINTS, OTHER, SIDES, Side

TINY = Architecture(size=16, widths=(8, 16), kernel=3, code=6, bottom=8, up=(16, 8))
LINEAR = replace(TINY, linear=24, components=24, bounded=False, activation="silu")
DOWNS, NORMS, LAYOUTS = get_args(DownKind), get_args(NormKind), ("df", "liae")
KINDS: tuple[DiscriminatorKind, ...] = get_args(DiscriminatorKind)
FAST = settings(deadline=None, max_examples=25)


def pictures(count: int, size: int = 16, seed: int = 0) -> Tensor:
    """(count, 3, size, size) noise in [-1, 1]."""
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def built(shape: Architecture, seed: int = 0) -> SwapNet:
    """A net in which nothing is zero, as after some training."""
    torch.manual_seed(seed)
    net = SwapNet(shape)
    linear_part = [part for part in net.modules() if isinstance(part, Analysis | Synthesis)]
    with torch.no_grad():
        for tensor in (*net.parameters(), *nn.ModuleList(linear_part).buffers()):
            if not tensor.any():
                tensor.normal_(std=0.1)
    return net


def same(a: Face, b: Face, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(a.image, b.image, atol=tolerance, rtol=1e-4)
    assert (a.mask_logits is None) == (b.mask_logits is None)
    if a.mask_logits is not None and b.mask_logits is not None:
        torch.testing.assert_close(a.mask_logits, b.mask_logits, atol=tolerance, rtol=1e-4)


def backward(loss: Tensor) -> None:
    loss.backward()


# ------------------------------------------------------------------------------------------------------- architectures


@pytest.mark.parametrize("name", list(PRESETS))
def test_presets(name: str) -> None:
    shape = architecture(name)
    with torch.device("cpu" if shape.linear else "meta"):  # meta has no autocast, which the linear part turns off
        net = SwapNet(shape)
        image = torch.zeros(2, 3, shape.size, shape.size)
    for side in SIDES:
        code = net.encode(image, side)
        assert code.shape == (2, shape.code_size)
        face = net.decode(code, side)
        assert face.image.shape == image.shape
        assert (face.mask_logits is not None) == shape.mask
        if face.mask_logits is not None:
            assert face.mask_logits.shape == (2, 1, shape.size, shape.size)
    assert name.endswith(f"-{shape.size}")


def test_the_settings_name_all_that_there_is() -> None:
    fields = TrainConfig.model_fields
    assert set(get_args(fields["model"].annotation)) == {"auto", *PRESETS}
    assert get_args(fields["discriminator"].annotation) == KINDS


def test_changes_of_a_preset() -> None:
    shape = architecture("cpu-64", {"widths": [8, 16], "down": "max", "mask": False})
    assert shape == replace(PRESETS["cpu-64"], widths=(8, 16), down="max", mask=False)
    assert architecture("cpu-64") == PRESETS["cpu-64"]


KNOWN = (
    "activation, bottom, bounded, code, components, down, hints, kernel, layout, linear, mask, norm, refine, shared_up"
)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": 3}, f"train.architecture: unknown field 'depth'; known are {KNOWN}, size, up, widths"),
        ({"down": "nearest"}, "train.architecture.down: expected one of stride, max, average, blur, got 'nearest'"),
        ({"layout": 1}, "train.architecture.layout: expected one of df, liae, got 1"),
        ({"size": True}, "train.architecture.size: expected a whole number, got True"),
        ({"size": 64.0}, "train.architecture.size: expected a whole number, got 64.0"),
        ({"mask": 1}, "train.architecture.mask: expected true or false, got 1"),
        ({"up": [8, 0]}, "train.architecture.up: expected positive whole numbers in brackets, got (8, 0)"),
        ({"widths": "ab"}, "train.architecture.widths: expected positive whole numbers in brackets, got 'ab'"),
        ({"size": 0}, "architecture: size is expected to be at least 1, got 0"),
        ({"code": 0}, "architecture: code is expected to be at least 1, got 0"),
        ({"bottom": -1}, "architecture: bottom is expected to be at least 1, got -1"),
        ({"components": 0}, "architecture: components is expected to be at least 1, got 0"),
        ({"kernel": 4}, "architecture: kernel is expected to be odd, so that convolutions keep the size, got 4"),
        ({"linear": 3, "hints": False}, "architecture: linear is expected to be 0, or at least 4, got 3"),
        ({"linear": 90}, "architecture: linear is expected to be 0, or at least 102, got 90"),
        ({"linear": 0}, "architecture: hints go with a linear part (linear above 0)"),
        ({"up": []}, "architecture: up is expected to be one level at least, got ()"),
        ({"widths": []}, "architecture: widths is expected to be one level at least, got ()"),
        ({"size": 40}, "architecture: size 40 is expected to be a multiple of 16 (4 halvings, 4 doublings)"),
        (
            {"shared_up": [8, 8, 8], "linear": 0},
            "architecture: size 64 is expected to be a multiple of 128 (4 halvings, 7 doublings)",
        ),
        ({"layout": "liae"}, "architecture: linear goes with layout df (a decoder a person)"),
        (
            {"size": 16, "norm": "instance"},
            "architecture: norm instance needs more than one pixel; have fewer widths",
        ),
    ],
)
def test_refuses(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        architecture("cpu-64", changes)


def test_refuses_an_unknown_preset() -> None:
    message = f"train.model: expected one of {', '.join(PRESETS)}, got 'df-65'"
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        architecture("df-65")


# -------------------------------------------------------------------------------------------------------------- blocks


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("act", ["leaky", "silu", "relu"])
def test_up_begins_as_nearest_neighbour(norm: NormKind, act: str) -> None:
    torch.manual_seed(0)
    up = Up(5, 8, norm=norm, act=act)
    y = up(torch.randn(2, 5, 4, 6))
    assert y.shape == (2, 8, 8, 12)
    small = y[..., ::2, ::2]
    torch.testing.assert_close(y, F.interpolate(small, scale_factor=2, mode="nearest"))
    assert small.std((2, 3)).min() > 0.01  # a picture, not one colour


@FAST
@given(factor=st.integers(1, 4), out=st.integers(1, 3), inside=st.integers(1, 3), seed=st.integers(0, 99))
def test_icnr_for_any_factor(factor: int, out: int, inside: int, seed: int) -> None:
    torch.manual_seed(seed)
    weight = torch.randn(out * factor**2, inside, 3, 3)
    first = weight[:: factor**2].clone()
    assert icnr_(weight, factor) is weight
    x = torch.randn(1, inside, 5, 4)
    y = F.pixel_shuffle(F.conv2d(x, weight, padding=1), factor)
    expected = F.interpolate(F.conv2d(x, first, padding=1), scale_factor=factor, mode="nearest")
    torch.testing.assert_close(y, expected)


@FAST
@given(value=st.floats(-2, 2), h=st.integers(1, 6), w=st.integers(1, 6), channels=st.integers(1, 3))
def test_blur_keeps_a_constant(value: float, h: int, w: int, channels: int) -> None:
    y = Blur()(torch.full((1, channels, 2 * h, 2 * w), value))
    torch.testing.assert_close(y, torch.full((1, channels, h, w), value))


def test_blur_removes_what_half_the_pixels_cannot_show() -> None:
    y, x = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    for wave in ((x + y) % 2, x % 2, y % 2):
        picture = (2.0 * wave - 1)[None, None]
        assert Blur()(picture)[..., 1:-1, 1:-1].abs().max() < 1e-6  # the border is repeated, so not a wave there
        assert picture[..., ::2, ::2].abs().min() == 1  # every second pixel without it


def test_blur_does_not_shift() -> None:
    """Pixel p of the half is at 2 p + 0.5 of the whole: `(p + 0.5) * s - 0.5`."""
    ramp = torch.arange(16.0).expand(1, 1, 16, 16)
    torch.testing.assert_close(Blur()(ramp)[..., 0, 1:-1], 2 * torch.arange(1.0, 7).view(1, 1, 6) + 0.5)


def test_blur_is_binomial() -> None:
    """Three boxes of two pixels one after the other."""
    row = np.convolve(np.convolve([0.5, 0.5], [0.5, 0.5]), [0.5, 0.5])
    whole = torch.from_numpy(np.outer(row, row)).float()
    blur, seen = Blur(), torch.zeros(4, 4)
    for y, x in product(range(4), range(4)):
        impulse = torch.zeros(1, 1, 8, 8)
        impulse[0, 0, 1 + y, 1 + x] = 1
        seen[y, x] = blur(impulse)[0, 0, 1, 1]
    torch.testing.assert_close(seen, whole)


@pytest.mark.parametrize(("down", "kernel"), [*product(DOWNS, (1, 3, 5, 7))])
def test_down_halves(down: DownKind, kernel: int) -> None:
    layer = Down(3, 4, kernel, down=down, norm="none", act="leaky")
    assert layer(torch.zeros(1, 3, 8, 12)).shape == (1, 4, 4, 6)


@pytest.mark.parametrize("norm", NORMS)
def test_residual_begins_as_its_activation(norm: NormKind) -> None:
    x = torch.randn(2, 8, 4, 4)
    torch.testing.assert_close(Residual(8, norm=norm, act="silu")(x), F.silu(x))


@pytest.mark.parametrize("channels", range(1, 65))
def test_groups_of_at_least_eight(channels: int) -> None:
    layer = normalization("group", channels)
    assert isinstance(layer, nn.GroupNorm)
    assert channels / layer.num_groups >= min(8, channels)
    if channels % 8 == 0:
        assert layer.num_groups == channels // 8


def test_normalisations_do_what_they_say() -> None:
    x = torch.randn(4, 16, 6, 6) * 3 + 2
    for kind, axes in (("instance", (2, 3)), ("batch", (0, 2, 3))):
        y = normalization(kind, 16)(x)  # type: ignore[arg-type]
        torch.testing.assert_close(y.mean(axes), torch.zeros_like(y.mean(axes)), atol=1e-5, rtol=0)
        assert (y.std(axes, correction=0) - 1).abs().max() < 1e-3
        assert (y.mean((2, 3)).abs().max() < 1e-5) == (kind == "instance")
    y = normalization("group", 16)(x).unflatten(1, (2, 8))
    assert y.mean((2, 3, 4)).abs().max() < 1e-5
    for kind in ("none", "spectral"):
        assert normalization(kind, 16)(x) is x  # type: ignore[arg-type]


@torch.no_grad()
def test_a_convolution_keeps_the_variance() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 64, 16, 16)
    layer = convolution(64, 64, 3)
    y = layer(activation("leaky")(layer(x)))
    assert 0.7 < float(y[..., 2:-2, 2:-2].std() / layer(x)[..., 2:-2, 2:-2].std()) < 1.3


# ------------------------------------------------------------------------------------------------------- the swap net


def silent(net: nn.Module) -> set[str]:
    """Biases that a normalisation by each channel's mean takes away again."""
    names = set()
    for name, module in net.named_modules():
        if isinstance(module, nn.Sequential):
            layers = list(module.named_children())
            for (key, layer), (_, after) in pairwise(layers):
                shuffled = isinstance(after, nn.PixelShuffle)
                if isinstance(layer, nn.Conv2d) and not shuffled and _by_channel(after):
                    names.add(f"{name}.{key}.bias")
    return names


def _by_channel(layer: nn.Module) -> bool:
    return isinstance(layer, nn.InstanceNorm2d | nn.BatchNorm2d)


@pytest.mark.parametrize(("down", "norm", "layout"), [*product(DOWNS, NORMS, LAYOUTS)])
def test_every_combination_learns(down: DownKind, norm: NormKind, layout: Any) -> None:
    shape = replace(TINY, down=down, norm=norm, layout=layout, refine=True, shared_up=(16,), up=(8,))
    net = built(shape)
    images: dict[Side, Tensor] = {side: pictures(3, seed=i) for i, side in enumerate(SIDES)}
    rebuilt, other = net(images, swapped=2)
    for faces, count in ((rebuilt, 3), (other, 2)):
        assert set(faces) == set(SIDES)
        for face in faces.values():
            assert face.image.shape == (count, 3, 16, 16)
            assert face.mask_logits.shape == (count, 1, 16, 16)
            assert face.image.abs().max() <= 1
    wanted = pictures(1, seed=7)
    backward(
        torch.stack(
            [((f.image - wanted) ** 2).mean() + f.mask_logits.sigmoid().mean() for f in rebuilt.values()]
        ).sum()
    )
    flat = silent(net)
    assert bool(flat) == (norm in {"instance", "batch"})
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        if name not in flat:
            assert parameter.grad.any(), name


@pytest.mark.parametrize("shape", [LINEAR, replace(LINEAR, mask=False, bounded=True)])
def test_the_linear_part_learns_too(shape: Architecture) -> None:
    net = built(shape)
    rebuilt, _ = net({side: pictures(3, seed=i) for i, side in enumerate(SIDES)})
    backward(
        torch.stack(
            [(f.image**2).mean() + (0 if f.mask_logits is None else f.mask_logits.mean()) for f in rebuilt.values()]
        ).sum()
    )
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())


SHAPES = {
    **{f"df-{norm}": replace(TINY, norm=norm, shared_up=(8,), up=(8,)) for norm in NORMS},
    **{f"liae-{norm}": replace(TINY, layout="liae", norm=norm) for norm in NORMS},
    "linear": LINEAR,
    "no mask": replace(TINY, mask=False, refine=True),
}
STATEFUL = {"batch", "spectral"}  # a pass in training mode changes the next one


@pytest.mark.parametrize("swapped", [0, 1, 3, 4, 9])
@pytest.mark.parametrize("name", list(SHAPES))
def test_one_pass_equals_rebuild_and_swap(name: str, swapped: int) -> None:
    net = built(SHAPES[name]).train(SHAPES[name].norm not in STATEFUL)
    images: dict[Side, Tensor] = {"source": pictures(4), "target": pictures(3, seed=1)}
    rebuilt, other = net(images, swapped)
    for side in SIDES:
        same(rebuilt[side], net.rebuild(images[side], side))
        if swapped:
            same(other[side], net.swap(images[side][-swapped:], side))
    assert bool(other) == bool(swapped)


@pytest.mark.parametrize("name", list(SHAPES))
def test_a_picture_does_not_depend_on_its_batch(name: str) -> None:
    net = built(SHAPES[name]).train(SHAPES[name].norm not in STATEFUL)
    images = pictures(4)
    for draw in (net.rebuild, net.swap):
        whole = draw(images, "target")
        for index in range(4):
            one = draw(images[index : index + 1], "target")
            mask = None if whole.mask_logits is None else whole.mask_logits[index : index + 1]
            same(one, Face(whole.image[index : index + 1], mask))


@pytest.mark.parametrize("bounded", [True, False])
def test_range(bounded: bool) -> None:
    net = built(replace(TINY, bounded=bounded))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(4)
    image = net.rebuild(pictures(4), "source").image
    assert (image.abs().max() > 1) != bounded
    assert image.min() < -0.9
    assert image.max() > 0.9


def disturb(module: nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))


@pytest.mark.parametrize("shape", [TINY, LINEAR])
def test_df_has_a_decoder_a_person(shape: Architecture) -> None:
    net, image = built(shape), pictures(2)
    before: dict[Side, Tensor] = {side: net.rebuild(image, side).image for side in SIDES}
    for side in SIDES:
        disturb(net.decoders[side])
        if shape.linear:
            disturb(net.synthesis[side])
        code = net.encode(image, side)
        assert not torch.allclose(net.decode(code, side).image, before[side], atol=1e-3)
        if side == "source":
            assert torch.equal(net.rebuild(image, "target").image, before["target"])
            # The swap of a target is drawn by the source's decoder: it changed with it.
            assert not torch.allclose(net.swap(image, "target").image, before["target"], atol=1e-3)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_persons_share_the_encoder(layout: Any) -> None:
    net, image = built(replace(TINY, layout=layout)), pictures(2)
    for side in SIDES:
        net.zero_grad()
        backward(net.rebuild(image, side).image.square().mean())
        assert all(p.grad is not None and p.grad.any() for p in net.encoder.parameters())
        assert all(p.grad is not None and p.grad.any() for p in net.heads["both"].parameters())
        assert all(p.grad is not None and p.grad.any() for p in net.inters["both"].parameters())


def test_df_codes_tell_nothing_of_the_person() -> None:
    """Without a linear part: who is seen is no input, so a swap is the other decoder on the same code."""
    net, image = built(TINY), pictures(2)
    assert torch.equal(net.encode(image, "source"), net.encode(image, "target"))
    same(net.swap(image, "source"), net.rebuild(image, "target"))


def test_liae_draws_the_source_from_the_first_code() -> None:
    net = built(replace(TINY, layout="liae"))
    code = net.encode(pictures(2), "source").detach()
    assert code.shape == (2, 12)
    other = code.clone()
    other[:, 6:] += torch.randn(2, 6)
    same(net.decode(code, "source"), net.decode(other, "source"), 0)
    assert not torch.allclose(net.decode(code, "target").image, net.decode(other, "target").image, atol=1e-3)
    other = code.clone()
    other[:, :6] += torch.randn(2, 6)
    for side in SIDES:
        assert not torch.allclose(net.decode(code, side).image, net.decode(other, side).image, atol=1e-3)
    # Nor does the target's part learn from the source's pictures.
    backward(net.rebuild(pictures(2), "source").image.square().mean())
    for part in (net.heads["target"], net.inters["target"]):
        assert not any(p.grad is not None and p.grad.any() for p in part.parameters())


@pytest.mark.parametrize("name", list(SHAPES))
def test_state_survives_safetensors(name: str, tmp_path: Path) -> None:
    net = built(SHAPES[name])
    net.train()(dict.fromkeys(SIDES, pictures(3)))  # statistics and power iterations have moved
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    again = built(SHAPES[name], seed=1)
    again.load_state_dict(load_file(tmp_path / "net.safetensors"))
    image = pictures(2, seed=5)
    for side in SIDES:
        a, b = net.eval().swap(image, side), again.eval().swap(image, side)
        assert torch.equal(a.image, b.image)
        assert a.mask_logits is None or torch.equal(a.mask_logits, b.mask_logits)  # type: ignore[arg-type]


def test_spectral_normalisation_of_the_swap_net() -> None:
    net = built(replace(TINY, norm="spectral", refine=True))
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith("original"):
                parameter.mul_(7)
        for _ in range(40):
            net(dict.fromkeys(SIDES, pictures(1)))
    norms = losses.spectral_norms(nn.ModuleList((net.encoder, net.decoders)))
    drawn = {name for name in norms if name.endswith(("image", "mask", "path.3"))}  # those that may be of any size
    assert len(norms) - len(drawn) == 2 + 2 * (2 + 2)
    for name in norms.keys() - drawn:
        assert norms[name] == pytest.approx(1, abs=0.03), name


# --------------------------------------------------------------------------------------------------------- components


def rows_of(count: int, width: int, seed: int = 0) -> Tensor:
    """Rows whose columns have many scales."""
    random = torch.Generator().manual_seed(seed)
    scale = torch.logspace(0.5, -0.5, width)
    return torch.randn(count, width, generator=random) * scale + torch.randn(width, generator=random)


@FAST
@given(count=st.integers(2, 9), width=st.integers(1, 12), most=st.integers(1, 12), seed=st.integers(0, 999))
def test_components_equal_the_singular_vectors(count: int, width: int, most: int, seed: int) -> None:
    rows = rows_of(count, width, seed)
    found = principal_components(rows, most)
    free = rows.double() - rows.double().mean(0)
    values, vectors = torch.linalg.svd(free, full_matrices=False)[1:]
    kept = min(most, count - 1, width)
    assert found.basis.shape == (kept, width)
    torch.testing.assert_close(found.mean, rows.mean(0))
    torch.testing.assert_close(found.deviation.double(), values[:kept] / count**0.5, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.basis @ found.basis.T, torch.eye(kept), atol=1e-4, rtol=0)
    gap = values[kept - 1] - (values[kept] if kept < len(values) else 0)
    if gap > 1e-2:  # the space is well defined
        ours = (found.basis.T @ found.basis).double()
        torch.testing.assert_close(ours, vectors[:kept].T @ vectors[:kept], atol=1e-3, rtol=0)


@FAST
@given(repeats=st.lists(st.integers(0, 4), min_size=4, max_size=8), seed=st.integers(0, 999))
def test_a_weight_is_a_repetition(repeats: list[int], seed: int) -> None:
    if sum(repeat > 0 for repeat in repeats) < 2:
        repeats = [*repeats, 1, 1]
    rows = rows_of(len(repeats), 5, seed)
    weight = torch.tensor(repeats)
    a = principal_components(rows, 5, weight=0.3 * weight)
    b = principal_components(rows.repeat_interleave(weight, 0), 5)
    torch.testing.assert_close(a.mean, b.mean)
    torch.testing.assert_close(a.deviation, b.deviation, rtol=1e-4, atol=1e-5)
    # Where two deviations are nearly equal, each basis is free to turn; what both span with their weights is not.
    spans = [(one.basis.T * one.deviation.square()) @ one.basis for one in (a, b)]
    torch.testing.assert_close(*spans, atol=1e-4, rtol=1e-4)


def test_coefficients_are_in_standard_deviations() -> None:
    rows = rows_of(30, 12)
    found = principal_components(rows, 5)
    codes = found.coefficients(rows)
    torch.testing.assert_close(codes.T @ codes / 30, torch.eye(5), atol=1e-4, rtol=0)
    assert codes.mean(0).abs().max() < 1e-5


def test_pictures_that_are_equal_have_no_components() -> None:
    assert principal_components(rows_of(1, 50).repeat(7, 1), 4).basis.shape == (0, 50)
    assert principal_components(torch.zeros(3, 50), 4).basis.shape == (0, 50)
    assert principal_components(rows_of(1, 50), 4).basis.shape == (0, 50)
    pair = rows_of(2, 50).repeat(5, 1)
    assert principal_components(pair, 4).basis.shape == (1, 50)


# -------------------------------------------------------------------------------------------------------------- ridge


@FAST
@given(
    penalty=st.floats(1e-3, 10),
    p=st.integers(1, 5),
    q=st.integers(1, 3),
    n=st.integers(1, 12),
    seed=st.integers(0, 99),
)
def test_ridge_equals_least_squares_with_more_rows(penalty: float, p: int, q: int, n: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    x, y = torch.randn(n, p, generator=random), torch.randn(n, q, generator=random)
    weight = torch.rand(n, generator=random) + 0.05
    matrix, constant = ridge(x, y, weight, penalty)
    root = (weight / weight.sum()).sqrt()[:, None].double()
    left = torch.cat((root * torch.cat((x.double(), torch.ones(n, 1)), 1), penalty**0.5 * torch.eye(p, p + 1)))
    right = torch.cat((root * y.double(), torch.zeros(p, q)))
    expected = torch.linalg.lstsq(left, right).solution
    torch.testing.assert_close(matrix.double(), expected[:p].T, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(constant.double(), expected[p], atol=1e-4, rtol=1e-4)
    again, _ = ridge(x, y, 7 * weight, penalty)
    torch.testing.assert_close(again, matrix)
    moved = ridge(x + 3, y - 5, weight, penalty)
    torch.testing.assert_close(moved[0], matrix, atol=1e-4, rtol=1e-4)  # the constant is not penalised


def test_ridge_recovers_a_known_map() -> None:
    torch.manual_seed(0)
    matrix, constant = torch.randn(3, 5), torch.randn(3)
    x = torch.randn(40, 5) + 2
    y = x @ matrix.T + constant
    y[:10] += 100 * torch.randn(10, 3)  # rows without weight
    found = ridge(x, y, torch.tensor([0.0] * 10 + [1.0] * 30), 1e-12)
    torch.testing.assert_close(found[0], matrix, atol=1e-4, rtol=0)
    torch.testing.assert_close(found[1], constant, atol=1e-4, rtol=0)
    flat, mean = ridge(x[10:], y[10:], torch.ones(30), 1e9)
    assert flat.abs().max() < 1e-6
    torch.testing.assert_close(mean, y[10:].mean(0), atol=1e-4, rtol=0)


# ---------------------------------------------------------------------------------------------------- the linear start


class LowRank:
    """Two persons whose faces are a mean and few components each; coefficients (poses) say what a face does."""

    def __init__(self, rank: int = 6, noise: float = 0.0, seed: int = 0, size: int = 16) -> None:
        self.random = torch.Generator().manual_seed(seed)
        self.rank, self.noise, self.size = rank, noise, size
        pixels = 3 * size**2
        self.mean = {side: 0.3 * torch.randn(pixels, generator=self.random) for side in SIDES}
        self.basis = {
            side: 3 * torch.linalg.qr(torch.randn(pixels, rank, generator=self.random))[0].T for side in SIDES
        }

    def draw(self, side: Side, pose: Tensor) -> Tensor:
        flat: Tensor = self.mean[side] + pose @ self.basis[side]
        flat = flat + self.noise * torch.randn(flat.shape, generator=self.random)
        return flat.view(-1, 3, self.size, self.size)

    def faces(self, count: int) -> tuple[dict[Side, Tensor], dict[Side, Tensor]]:
        """Pictures of each person, and for each picture the other person doing the same."""
        pose: dict[Side, Tensor] = {
            side: torch.rand(count, self.rank, generator=self.random) * 2 - 1 for side in SIDES
        }
        return (
            {side: self.draw(side, pose[side]) for side in SIDES},
            {side: self.draw(OTHER[side], pose[side]) for side in SIDES},
        )


def error(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().square().mean().sqrt())


def started(world: LowRank, count: int = 60, shape: Architecture = LINEAR) -> tuple[SwapNet, Mapping[Side, Tensor]]:
    torch.manual_seed(0)
    net = SwapNet(shape)
    images, twins = world.faces(count)
    net.start_linear(images, twins)
    return net, images


@pytest.mark.parametrize("noise", [0.0, 0.03])
def test_held_out_faces_are_rebuilt_as_well_as_by_components(noise: float) -> None:
    world = LowRank(noise=noise)
    net, images = started(world)
    held_out, _ = world.faces(40)
    for side in SIDES:
        rows = held_out[side].flatten(1)
        own = principal_components(images[side].flatten(1), LINEAR.components // 2)
        best = error((rows - own.mean) @ own.basis.T @ own.basis + own.mean, rows)
        spread = error(rows, rows.mean(0))
        assert error(net.rebuild(held_out[side], side).image, held_out[side]) < best + 0.04 * spread
        assert best < 0.5 * spread  # else there was nothing to be rebuilt


@pytest.mark.parametrize("noise", [0.0, 0.03])
def test_held_out_twins_are_drawn(noise: float) -> None:
    world = LowRank(noise=noise)
    net, _ = started(world)
    faces, twins = world.faces(40)
    for side in SIDES:
        swapped = net.swap(faces[side], side).image.detach()
        spread = error(twins[side], twins[side].mean(0))
        assert error(swapped, twins[side]) < 0.55 * spread + noise
        free, wanted = swapped - swapped.mean(0), twins[side] - twins[side].mean(0)
        assert float(F.cosine_similarity(free.flatten(1), wanted.flatten(1)).mean()) > 0.85
        # and not by a copy of the picture that went in, nor of the person seen
        assert error(swapped.mean(0), twins[side].mean(0)) < 0.1 * error(faces[side].mean(0), twins[side].mean(0))


def test_twins_beyond_the_own_pictures_are_drawn() -> None:
    """A person who was always seen with a still face: what else the face can do comes from the twins alone."""
    world = LowRank(noise=0.01)
    images, twins = world.faces(60)
    still = torch.rand(60, 6, generator=world.random) * torch.tensor([2.0, 2, 0, 0, 0, 0]) - torch.tensor(
        [1.0, 1, 0, 0, 0, 0]
    )
    images["source"], twins["source"] = world.draw("source", still), world.draw("target", still)
    net = SwapNet(LINEAR)
    net.start_linear(images, twins)
    faces, wanted = world.faces(40)
    swapped = net.swap(faces["target"], "target").image
    own = principal_components(images["source"].flatten(1), 12)
    rows = wanted["target"].flatten(1)
    alone = (rows - own.mean) @ own.basis.T @ own.basis + own.mean
    assert error(swapped.flatten(1), rows) < 0.7 * error(alone, rows)


def test_rounding_is_no_component() -> None:
    """Twins that lie in the span of the own pictures have nothing beyond them."""
    net, _ = started(LowRank(noise=0.0))
    for side in SIDES:
        synthesis = net.synthesis[side]
        assert isinstance(synthesis, Synthesis)
        assert int((synthesis.basis.abs().sum(1) > 0).sum()) == 6
        assert synthesis.weight.abs().max() < 50


def test_the_start_changes_the_linear_part_alone() -> None:
    world = LowRank()
    net, _ = started(world)
    torch.manual_seed(0)
    fresh = SwapNet(LINEAR).state_dict()
    changed = {name.split(".")[0] for name, value in net.state_dict().items() if not torch.equal(value, fresh[name])}
    assert changed == {"analysis", "synthesis"}
    # and the convolutions add nothing to the picture yet
    assert not net.decoders["source"](torch.randn(2, 8, 4, 4)).image.any()


@pytest.mark.parametrize("batch", [1, 7, 40])
def test_started_pictures_do_not_depend_on_the_batch(batch: int) -> None:
    world = LowRank(noise=0.03)
    net, _ = started(world)
    faces, _ = world.faces(40)
    whole = net.swap(faces["target"], "target").image
    parts = torch.cat([net.swap(part, "target").image for part in torch.split(faces["target"], batch)])
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-4)


def test_the_order_of_the_pictures_does_not_matter() -> None:
    world = LowRank(noise=0.03)
    images, twins = world.faces(40)
    mixed = torch.randperm(40, generator=world.random)
    nets = [SwapNet(LINEAR), SwapNet(LINEAR)]
    nets[0].start_linear(images, twins)
    nets[1].start_linear({s: x[mixed] for s, x in images.items()}, {s: x[mixed] for s, x in twins.items()})
    faces, _ = world.faces(8)
    for side in SIDES:
        a, b = (net.swap(faces[side], side).image for net in nets)
        torch.testing.assert_close(a, b, atol=2e-3, rtol=0)


def test_the_contrast_of_the_pictures_does_not_matter() -> None:
    """Pictures of a tenth of the contrast start a net that draws a tenth of the contrast."""
    world = LowRank(noise=0.03)
    images, twins = world.faces(40)
    nets = [SwapNet(LINEAR), SwapNet(LINEAR)]
    nets[0].start_linear(images, twins)
    nets[1].start_linear({s: 0.1 * x for s, x in images.items()}, {s: 0.1 * x for s, x in twins.items()})
    faces, _ = world.faces(8)
    for side in SIDES:
        for a, b in ((nets[0].swap, nets[1].swap), (nets[0].rebuild, nets[1].rebuild)):
            whole, tenth = a(faces[side], side).image, b(0.1 * faces[side], side).image
            torch.testing.assert_close(10 * tenth, whole, atol=5e-3, rtol=0)


def test_what_one_person_does_says_nothing_of_the_other() -> None:
    """Own pictures are rebuilt as they are, however the twins differ from them: in brightness and in contrast."""
    world = LowRank()
    images, twins = world.faces(60)
    net, other = SwapNet(LINEAR), SwapNet(LINEAR)
    net.start_linear(images, twins)
    other.start_linear(images, {side: 0.5 * x + 0.3 for side, x in twins.items()})
    faces, _ = world.faces(20)
    for side in SIDES:
        a, b = (one.rebuild(faces[side], side).image for one in (net, other))
        torch.testing.assert_close(a, b, atol=1e-3, rtol=0)
        moved = other.swap(faces[side], side).image - net.swap(faces[side], side).image
        assert abs(float(moved.detach().mean()) - 0.3) < 0.05


def test_hints_tell_what_the_picture_does_not() -> None:
    """Pictures that show half of the poses alone: the rest of the twins' movement comes from the hints."""
    world = LowRank()
    pose = {side: torch.rand(80, 6, generator=world.random) * 2 - 1 for side in SIDES}
    shown = torch.tensor([1.0, 1, 1, 0, 0, 0])
    images = {side: world.draw(side, pose[side] * shown) for side in SIDES}
    twins = {side: world.draw(OTHER[side], pose[side]) for side in SIDES}
    hints = {side: F.pad(4 * pose[side], (0, HINTS - 6)) for side in SIDES}
    shape = replace(LINEAR, hints=True, linear=24 + 2 * HINTS)
    net, blind = SwapNet(shape), SwapNet(LINEAR)
    learned = [{side: x[side][:60] for side in SIDES} for x in (images, twins, hints)]
    net.start_linear(*learned)
    blind.start_linear(*learned[:2])
    for side in SIDES:
        wanted = twins[side][60:]
        told = error(net.swap(images[side][60:], side, hints[side][60:]).image, wanted)
        assert told < 0.5 * error(blind.swap(images[side][60:], side).image, wanted)
        same(net.rebuild(images[side], side), net.rebuild(images[side], side, hints[side]))  # own pictures need none
        same(net.swap(images[side], side), net.swap(images[side], side, torch.zeros(80, HINTS)))


@pytest.mark.parametrize("count", [1, 5])
def test_a_still_of_each_person_starts_as_their_pictures(count: int) -> None:
    world = LowRank()
    images, twins = world.faces(count)
    images = {side: x[:1].expand(count, -1, -1, -1) for side, x in images.items()}  # though the twins move
    net = SwapNet(LINEAR)
    net.start_linear(images, twins)
    for side in SIDES:
        face = net.rebuild(images[side], side).image
        torch.testing.assert_close(face, images[side], atol=1e-5, rtol=0)
        assert all(torch.isfinite(p).all() for p in net.parameters())


def test_analysis_gives_each_person_a_half() -> None:
    world = LowRank(rank=5)
    images, _ = world.faces(40)
    rows = (images["source"].flatten(1), images["target"].flatten(1))
    analysis = Analysis(24, rows[0].shape[1])
    analysis.start(rows)
    for person, one in enumerate(rows):
        products = analysis.basis[person] @ analysis.basis[person].T
        scale = products.diagonal()[:5]
        torch.testing.assert_close(products[:5, :5], scale.mean() * torch.eye(5), atol=1e-3 * float(scale[0]), rtol=0)
        assert not products[5:].any()
        codes = analysis(one.view(-1, 3, 16, 16), person)
        mine, other = (codes[:, 12 * k : 12 * k + 12] for k in (person, 1 - person))
        assert mine[:, :11].mean(0).abs().max() < 1e-4  # a person's mean face has the code 0 ...
        assert (mine[:, 11] == 1).all()  # ... and the mark of who it is
        assert not other.any()


def test_a_code_that_no_face_had_is_held_back() -> None:
    torch.manual_seed(0)
    synthesis = Synthesis(2, 2, 4)
    with torch.no_grad():
        synthesis.weight.copy_(torch.eye(2))
        synthesis.basis.normal_()
        synthesis.mean.normal_()
    limit, slope = linear._LIMIT, linear._BEYOND
    code = torch.tensor([[0.5, -limit], [limit + 2, -limit - 5]], requires_grad=True)
    held = torch.tensor([[0.5, -limit], [limit + 2 * slope, -limit - 5 * slope]])
    picture = synthesis(code)
    torch.testing.assert_close(picture.flatten(1), synthesis.mean + held @ synthesis.basis)
    (gradient,) = torch.autograd.grad(picture.sum(), code)
    assert gradient.all()  # also there a code is drawn back


# ----------------------------------------------------------------------------------------------------- discriminators


def critic(kind: DiscriminatorKind, **more: Any) -> nn.Module:
    torch.manual_seed(0)
    return discriminator(kind, width=8, **more)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [64, 80, 96, 128, 160, 256])
def test_shapes_of_logits(kind: DiscriminatorKind, size: int) -> None:
    with torch.device("meta"):
        logits = discriminator(kind)(torch.zeros(2, 3, size, size))
    side = size if kind == "unet" else size // 8
    assert logits.shape == (2, 1 if kind == "patch" else 2, side, side)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("levels", [1, 2, 5])
def test_levels(kind: DiscriminatorKind, levels: int) -> None:
    logits = critic(kind, levels=levels)(pictures(1, 64))
    assert logits.shape[-1] == (64 if kind == "unet" else 64 // 2**levels)
    assert logits.std() > 1e-4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spectral", [False, True])
def test_logits_depend_on_their_own_image_only(kind: DiscriminatorKind, spectral: bool) -> None:
    net = critic(kind, spectral=spectral).train(not spectral)
    images = pictures(3, 32).requires_grad_()
    logits = net(images)
    (gradient,) = torch.autograd.grad(logits[1].sum(), images)
    assert not gradient[[0, 2]].any()
    assert gradient[1].any()
    torch.testing.assert_close(net(images[1:2])[0], logits[1], atol=1e-5, rtol=1e-4)
    assert not any(isinstance(m, nn.modules.batchnorm._NormBase) for m in net.modules())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spectral", [False, True])
def test_the_gradient_penalty_reaches_every_weight(kind: DiscriminatorKind, spectral: bool) -> None:
    net = critic(kind, spectral=spectral)
    real, fake = pictures(2, 32), pictures(2, 32, seed=1)
    random = torch.Generator().manual_seed(0)
    backward(losses.gradient_penalty(net, real, fake, generator=random))
    for name, parameter in net.named_parameters():
        if not name.endswith("bias"):
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
            assert parameter.grad.any(), name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("game", ["hinge", "relativistic", "wgan-gp"])
def test_discriminators_learn_to_tell(kind: DiscriminatorKind, game: Any) -> None:
    """Smooth pictures from noise of the same mean and deviation; every channel of the logits learns it."""
    net, loss = critic(kind), losses.adversarial(game)
    real, fake = F.avg_pool2d(pictures(4, 36), 5, 1), pictures(4, 32, seed=1)
    real, fake = (0.3 * (x - x.mean()) / x.std() for x in (real, fake))
    optimizer = torch.optim.Adam(net.parameters(), 3e-3, betas=(0.5, 0.99))
    for _ in range(20):
        optimizer.zero_grad()
        value = loss.discriminator(net(real), net(fake))
        if loss.penalty_weight:  # of the slope of the mean, which is what the loss sees
            value = value + losses.gradient_penalty(lambda x: net(x).flatten(1).mean(1), real, fake)
        backward(value)
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())
        optimizer.step()
    with torch.no_grad():
        on_real, on_fake = (net(x).mean((2, 3)) for x in (real, fake))
    assert (on_real.amin(0) > on_fake.amax(0) + 0.5).all()


@pytest.mark.parametrize("kind", KINDS)
def test_spectral_normalisation_of_discriminators(kind: DiscriminatorKind) -> None:
    net = critic(kind)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(5)
        for _ in range(40):
            net(pictures(1, 32))
    for name, norm in losses.spectral_norms(net).items():
        assert norm == pytest.approx(1, abs=0.03), name
    assert max(losses.spectral_norms(critic(kind, spectral=False)).values()) > 1.5


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_a_patch_has_the_side_that_is_said(levels: int) -> None:
    net = critic("patch", levels=levels, spectral=False)
    image = pictures(1, 128).requires_grad_()
    middle = 128 // 2**levels // 2
    (gradient,) = torch.autograd.grad(net(image)[0, 0, middle, middle], image)
    seen = gradient.abs().sum((0, 1)) > 0
    for axis in (0, 1):
        where = seen.any(axis).nonzero().flatten()
        assert int(where.max() - where.min()) + 1 == 7 * 2**levels - 2
    assert "``7 * 2**levels - 2`` pixels" in (type(net).__doc__ or "")


def test_a_shifted_picture_has_shifted_logits() -> None:
    net = critic("patch", levels=2, spectral=False)
    image = pictures(1, 96)
    a, b = net(image), net(image.roll((4, -8), (2, 3)))
    torch.testing.assert_close(a[..., 4:-6, 6:-4], b[..., 5:-5, 4:-6], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["bce", "lsgan", "hinge", "wgan"])
def test_scales_weigh_alike(kind: Any) -> None:
    """The loss of the stacked logits is the mean of the scales' losses, also where it is not linear."""
    net = critic("multi-scale").eval()
    real, fake = 3 * pictures(2, 64), 3 * pictures(2, 64, seed=1)
    loss = losses.adversarial(kind)
    assert isinstance(net.scales, nn.ModuleList)
    half = Blur()
    alone = [net.scales[0](real), net.scales[0](fake), net.scales[1](half(real)), net.scales[1](half(fake))]
    assert alone[0].numel() == 4 * alone[2].numel()
    expected = (loss.discriminator(*alone[:2]) + loss.discriminator(*alone[2:])) / 2
    torch.testing.assert_close(loss.discriminator(net(real), net(fake)), expected)
    torch.testing.assert_close(net(fake).mean(), (alone[1].mean() + alone[3].mean()) / 2)
    torch.testing.assert_close(loss.generator(net(fake)), (loss.generator(alone[1]) + loss.generator(alone[3])) / 2)
    # No logit is new, and none is lost.
    assert set(net(real)[:, 1].flatten().tolist()) == set(alone[2].flatten().tolist())


def test_the_unet_judges_pixels_and_the_whole() -> None:
    net = critic("unet").eval()
    image = pictures(2, 32).requires_grad_()
    pixel, whole = net(image).unbind(1)
    assert torch.equal(whole, whole[:, :1, :1].expand_as(whole))
    assert pixel.flatten(1).std(1).min() > 1e-4
    (gradient,) = torch.autograd.grad(whole[0, 0, 0], image, retain_graph=True)
    assert (gradient[0].abs().sum(0) > 0).all()
    (gradient,) = torch.autograd.grad(pixel[0, 9, 20], image)
    reach = gradient[0].abs().sum(0)
    assert reach[9, 20] > 10 * reach[-1, 0]  # its own pixel, by the skip at full size


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: discriminator("style"), "kind: expected one of patch, multi-scale, unet, got 'style'"),  # type: ignore[arg-type]
        (lambda: discriminator("patch", width=0), "width: expected at least 1, got 0"),
        (lambda: discriminator("unet", levels=0), "levels: expected at least 1, got 0"),
    ],
)
def test_refused_discriminators(call: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()


# ------------------------------------------------------------------------------------------------------------ summary


def test_summary_of_one_convolution() -> None:
    found = summary(nn.Conv2d(3, 8, 5, stride=2, padding=2), 16)
    assert found.parameters == found.trainable == 8 * 3 * 25 + 8
    assert found.flops == 2 * (8 * 8 * 8) * (3 * 25)  # two for each of 75 products at 8 x 8 places of 8 channels


def test_summary_of_a_swap_net_by_hand() -> None:
    found = summary(built(LINEAR), 16)
    code, pixels = LINEAR.code_size, 3 * 16 * 16
    encoder = (8**2 * 8 * 3 + 4**2 * 16 * 8) * 9
    decoder = (4**2 * 64 * 8 + 8**2 * 32 * 16 + 16**2 * 4 * 8) * 9
    assert {name: part.flops for name, part in found.parts.items()} == {
        "encoder": 2 * encoder,
        "code": 2 * (256 * 6 + code * 8 * 16),
        "decoder": 2 * decoder,  # of one person
        "linear": 2 * (pixels * 11 + code * 24 + 24 * pixels),
    }
    assert {name: part.parameters for name, part in found.parts.items()} == {
        "encoder": (8 * 3 + 16 * 8) * 9 + 8 + 16,
        "code": 256 * 6 + 6 + (code + 1) * 8 * 16,
        "decoder": 2 * ((64 * 8 + 32 * 16 + 4 * 8) * 9 + 64 + 32 + 4),  # of both
        "linear": 0,
    }
    assert found.buffers == 2 * 11 * (pixels + 1) + 2 * (1 + 24) * pixels + 2 * (code + 1) * 24
    assert found.flops == sum(part.flops for part in found.parts.values())
    assert found.parameters == sum(part.parameters for part in found.parts.values())


@pytest.mark.parametrize("name", list(SHAPES))
def test_summary_leaves_the_net_alone(name: str) -> None:
    net = built(SHAPES[name])
    net.encoder.eval()
    net.inters.requires_grad_(False)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    modes = [module.training for module in net.modules()]
    found = summary(net, 16)
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert modes == [module.training for module in net.modules()]
    assert all(p.device.type == "cpu" for p in net.parameters())
    assert found.trainable == found.parameters - sum(p.numel() for p in net.inters.parameters())
    assert found.parameters == sum(p.numel() for p in net.parameters())
    assert found.flops == sum(part.flops for part in found.parts.values())
    assert ("linear" in found.parts) == (name == "linear")


def test_summary_needs_no_batch() -> None:
    """One picture has no statistics at a map of one pixel."""
    shape = replace(TINY, size=4, norm="batch")
    assert summary(SwapNet(shape), 4).parts["encoder"].flops == 2 * (2**2 * 8 * 3 + 16 * 8) * 9


def test_liae_costs_both_codes() -> None:
    """A target is drawn from two; the decoder takes both."""
    df, liae = (summary(SwapNet(replace(TINY, layout=layout)), 16).parts for layout in LAYOUTS)  # type: ignore[arg-type]
    assert liae["encoder"] == df["encoder"]
    assert liae["code"].flops == 2 * df["code"].flops
    assert liae["decoder"].flops > df["decoder"].flops


@pytest.mark.parametrize("kind", KINDS)
def test_summary_of_a_discriminator(kind: DiscriminatorKind) -> None:
    net = critic(kind)
    small, large = summary(net, 64), summary(net, 128)
    assert small.parameters == sum(p.numel() for p in net.parameters()) == large.parameters
    assert large.flops == pytest.approx(4 * small.flops, rel=1e-3)
    assert small.flops == sum(part.flops for part in small.parts.values())


def test_summary_is_printed_in_columns() -> None:
    with torch.device("meta"):
        net = SwapNet(PRESETS["original-64"])
    net.decoders["source"].requires_grad_(False)
    lines = str(summary(net, 64)).splitlines()
    assert [line.split()[0] for line in lines[1:5]] == ["encoder", "code", "decoder", "all"]
    assert len({len(line) for line in lines[:5]}) == 1
    assert lines[4].split() == ["all", "82.1", "M", "3.8", "G"]
    assert lines[5:] == ["6.2 M of the parameters are frozen"]
