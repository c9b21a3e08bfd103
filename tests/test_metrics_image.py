"""MSE, PSNR, SSIM and multi-scale SSIM against scikit-image, torchmetrics and closed forms."""

from __future__ import annotations

import doctest
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import skimage.measure
import skimage.metrics
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

import facepipe.metrics.image
from facepipe.metrics import MS_SSIM_WEIGHTS, ms_ssim, mse, psnr, ssim

Array = NDArray[Any]
foreign: Any = skimage.metrics  # untyped
block_reduce: Any = skimage.measure.block_reduce
PUBLISHED = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
RANGES = {"uint8": 255.0, "uint16": 65535.0, "float16": 1.0, "float32": 1.0, "float64": 2.0}


def pair(dtype: str, shape: tuple[int, ...] = (61, 83, 3), seed: int = 0) -> tuple[Array, Array]:
    """A smooth picture with texture, and the same with noise, in the whole range of `dtype`."""
    random = np.random.default_rng(seed)
    y, x = np.indices(shape[:2]) / 20
    a = 0.5 + 0.3 * np.sin(x + 2 * y) + 0.1 * random.standard_normal(shape[:2])
    a = a if len(shape) == 2 else a[..., None] * np.linspace(1, 0.6, shape[2])
    b = a + 0.08 * random.standard_normal(shape)
    kind = np.dtype(dtype)
    return tuple((np.clip(v, 0, 1) * RANGES[dtype]).astype(kind) for v in (a, b))


def channel_axis(image: Array) -> int | None:
    return None if image.ndim == 2 else 2


@pytest.mark.parametrize("shape", [(61, 83), (61, 83, 1), (40, 40, 3), (11, 64, 4)])
@pytest.mark.parametrize("dtype", list(RANGES))
def test_equals_scikit_image(dtype: str, shape: tuple[int, ...]) -> None:
    a, b = pair(dtype, shape)
    span = RANGES[dtype]
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    axis = channel_axis(a)
    assert mse(a, b) == pytest.approx(foreign.mean_squared_error(wide_a, wide_b), rel=1e-6)
    assert psnr(a, b, data_range=span) == pytest.approx(
        foreign.peak_signal_noise_ratio(wide_a, wide_b, data_range=span), abs=1e-5
    )
    published = foreign.structural_similarity(wide_a, wide_b, data_range=span, channel_axis=axis, **PUBLISHED)
    assert ssim(a, b, data_range=span) == pytest.approx(published, abs=2e-6)
    uniform = foreign.structural_similarity(wide_a, wide_b, data_range=span, channel_axis=axis)
    assert ssim(a, b, data_range=span, window="uniform") == pytest.approx(uniform, abs=2e-6)


def test_float64_equals_scikit_image_to_rounding() -> None:
    a, b = pair("float64")
    published = foreign.structural_similarity(a, b, data_range=2, channel_axis=2, **PUBLISHED)
    assert ssim(a, b, data_range=2) == pytest.approx(published, abs=1e-13)


def test_float32_beside_a_large_offset_keeps_its_digits() -> None:
    a, b = (x + np.float32(100) for x in pair("float32", (64, 64)))
    exact = foreign.structural_similarity(a.astype(np.float64), b.astype(np.float64), data_range=1, **PUBLISHED)
    assert ssim(a, b, data_range=1) == pytest.approx(exact, abs=1e-5)


def multi_scale_by_scikit_image(a: Array, b: Array) -> float:
    """A scale at a time; with a huge K1 the luminance term is 1, which leaves contrast and structure."""
    product = 1.0
    for scale, exponent in enumerate(MS_SSIM_WEIGHTS):
        if scale:
            a, b = (block_reduce(x[: len(x) // 2 * 2, : x.shape[1] // 2 * 2], 2, np.mean) for x in (a, b))
        luminance = {} if scale == 4 else {"K1": 1e9}
        product *= foreign.structural_similarity(a, b, data_range=2, **luminance, **PUBLISHED) ** exponent
    return product


@pytest.mark.parametrize("size", [(176, 200), (193, 211)])
def test_multi_scale_equals_scikit_image_and_torchmetrics(size: tuple[int, int]) -> None:
    a, b = pair("float64", size)
    value = ms_ssim(a, b, data_range=2)
    assert value == pytest.approx(multi_scale_by_scikit_image(a, b), abs=1e-12)
    theirs = multiscale_structural_similarity_index_measure(
        torch.from_numpy(b)[None, None], torch.from_numpy(a)[None, None], data_range=2.0
    )
    assert value == pytest.approx(float(theirs), abs=1e-4)  # it mirrors the border at the last scale


@pytest.mark.parametrize("noise", [1, 4, 16])
def test_psnr_of_a_known_error(noise: int) -> None:
    a = np.full((32, 48, 3), 100, np.uint8)
    b = a.copy()
    b[::2] += np.uint8(noise)
    b[1::2] -= np.uint8(noise)
    assert mse(a, b) == noise**2
    assert psnr(a, b, data_range=255) == pytest.approx(20 * math.log10(255 / noise), abs=1e-12)


def test_psnr_of_known_noise() -> None:
    a = np.zeros((500, 500))
    b = np.random.default_rng(0).normal(scale=0.1, size=a.shape)
    assert psnr(a, b, data_range=1) == pytest.approx(20, abs=0.05)


def test_extreme_uint8_does_not_wrap_around() -> None:
    a, b = np.zeros((64, 64, 3), np.uint8), np.full((64, 64, 3), 255, np.uint8)
    assert mse(a, b) == mse(b, a) == 255**2
    assert psnr(a, b, data_range=255) == 0


@pytest.mark.parametrize("dtype", list(RANGES))
def test_identical_images(dtype: str) -> None:
    a, _ = pair(dtype, (176, 180, 3))
    span = RANGES[dtype]
    assert mse(a, a) == 0
    assert psnr(a, a, data_range=span) == math.inf
    assert ssim(a, a, data_range=span) == 1
    assert ssim(a, a, data_range=span, window="uniform") == 1
    assert ms_ssim(a, a, data_range=span) == 1


def test_ssim_of_constant_images() -> None:
    """Without variance only the luminance term is left: (2 x y + c1) / (x^2 + y^2 + c1)."""
    a, b = np.full((20, 20), 0.2), np.full((20, 20), 0.6)
    c1 = 0.01**2
    expected = (2 * 0.2 * 0.6 + c1) / (0.2**2 + 0.6**2 + c1)
    assert ssim(a, b, data_range=1) == pytest.approx(expected, abs=1e-12)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), scale=st.floats(0.01, 100), window=st.sampled_from(["gaussian", "uniform"]))
def test_symmetric_and_free_of_units(seed: int, scale: float, window: Any) -> None:
    a, b = pair("float64", (24, 31, 3), seed)
    value = ssim(a, b, data_range=2, window=window)
    assert ssim(b, a, data_range=2, window=window) == pytest.approx(value, abs=1e-12)
    assert ssim(a * scale, b * scale, data_range=2 * scale, window=window) == pytest.approx(value, abs=1e-9)
    assert psnr(a * scale, b * scale, data_range=2 * scale) == pytest.approx(psnr(a, b, data_range=2), abs=1e-9)
    assert -1 <= value <= 1


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), height=st.integers(11, 90), width=st.integers(11, 40))
def test_any_size_equals_scikit_image(seed: int, height: int, width: int) -> None:
    """Sizes about the strips that the work is cut into."""
    a, b = pair("float64", (height, width), seed)
    expected = foreign.structural_similarity(a, b, data_range=2, **PUBLISHED)
    assert ssim(a, b, data_range=2) == pytest.approx(expected, abs=1e-12)


# -------------------------------------------------------------------------------------------------------------- masks


def scores(a: Array, b: Array, mask: Array | None) -> list[float]:
    return [
        mse(a, b, mask=mask),
        psnr(a, b, data_range=2, mask=mask),
        ssim(a, b, data_range=2, mask=mask),
        ssim(a, b, data_range=2, window="uniform", mask=mask),
        ms_ssim(a, b, data_range=2, mask=mask),
    ]


def test_an_even_mask_changes_nothing() -> None:
    a, b = pair("float64", (176, 181, 3))
    assert scores(a, b, np.full((176, 181), 0.37)) == pytest.approx(scores(a, b, None), abs=1e-9)


def test_what_the_mask_hides_has_no_influence() -> None:
    a, b = pair("float64", (180, 190, 3))
    mask = np.zeros((180, 190))
    mask[:, 60:] = 1
    changed = b.copy()
    changed[:, :60] = np.random.default_rng(1).random((180, 60, 3)) * 2
    assert scores(a, changed, mask)[:4] == pytest.approx(scores(a, b, mask)[:4], abs=1e-12)
    outside = np.where(mask[..., None] > 0, a, changed)
    assert scores(a, outside, mask)[:4] == [0, math.inf, 1, 1]


def test_multi_scale_is_blind_to_what_the_mask_hides() -> None:
    """An edge in the middle of a coarse pixel lets some of the hidden half in, unless it falls on its border."""
    a, b = pair("float64", (192, 192))
    mask = np.zeros((192, 192))
    mask[:, 64:] = 1  # a multiple of 2^4
    changed = b.copy()
    changed[:, :64] = 0
    assert ms_ssim(a, changed, data_range=2, mask=mask) == pytest.approx(
        ms_ssim(a, b, data_range=2, mask=mask), abs=1e-12
    )


@pytest.mark.parametrize("shape", [(60, 50, 3), (60, 50), (60, 50, 4), (1700, 1900, 3)])
def test_a_mask_of_truths_is_a_mask_of_ones(shape: tuple[int, ...]) -> None:
    """It is summed in another way, exactly; the largest case is beyond 32 bits."""
    random = np.random.default_rng(0)
    a = random.integers(0, 256, shape).astype(np.uint8)
    b = (255 - a).astype(np.uint8)
    chosen = random.random(shape[:2]) < 0.7
    assert mse(a, b, mask=chosen) == pytest.approx(float(((a.astype(float) - b) ** 2)[chosen].mean()), rel=1e-12)
    assert mse(a, b, mask=chosen) == pytest.approx(mse(a, b, mask=chosen.astype(float)), rel=1e-12)


def test_masked_error_is_the_error_of_the_part() -> None:
    a, b = pair("float32", (40, 50, 3))
    mask = np.zeros((40, 50), bool)
    mask[7:33, 11:42] = True
    assert mse(a, b, mask=mask) == pytest.approx(mse(a[7:33, 11:42], b[7:33, 11:42]), rel=1e-6)
    weights = np.random.default_rng(0).random((40, 50))
    squares = (a.astype(np.float64) - b) ** 2
    assert mse(a, b, mask=weights) == pytest.approx(np.average(squares.mean(-1), weights=weights), rel=1e-6)


def test_masked_ssim_by_its_definition() -> None:
    """Every window by hand: weighted moments, the published formula, then the weighted mean over windows."""
    a, b = pair("float64", (17, 19))
    weights = np.random.default_rng(3).random((17, 19)) * (np.random.default_rng(4).random((17, 19)) > 0.4)
    x = np.arange(-5, 6)
    taps = np.exp(-0.5 * (x / 1.5) ** 2)
    total = norm = 0.0
    for i in range(5, 12):
        for j in range(5, 14):
            window = np.s_[i - 5 : i + 6, j - 5 : j + 6]
            w = np.outer(taps, taps) * weights[window]
            p, q = a[window], b[window]
            mp, mq = np.average(p, weights=w), np.average(q, weights=w)
            vp, vq = np.average((p - mp) ** 2, weights=w), np.average((q - mq) ** 2, weights=w)
            cov = np.average((p - mp) * (q - mq), weights=w)
            c1, c2 = 0.02**2, 0.06**2
            value = (2 * mp * mq + c1) * (2 * cov + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2))
            total, norm = total + weights[i, j] * value, norm + weights[i, j]
    assert ssim(a, b, data_range=2, mask=weights) == pytest.approx(total / norm, abs=1e-12)


# ----------------------------------------------------------------------------------------------------- the real case


@pytest.mark.models
def test_carphone(clip_path: Callable[[str], Path]) -> None:
    """A real clip and its distorted twin: each frame as scikit-image has it, and plausible altogether."""

    def frames(name: str) -> list[Array]:
        with av.open(str(clip_path(name))) as container:
            return [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]

    values = []
    for a, b in list(zip(frames("carphone_pristine.mp4"), frames("carphone_distorted.mp4"), strict=True))[::20]:
        ours = psnr(a, b, data_range=255), ssim(a, b, data_range=255)
        assert ours[0] == pytest.approx(foreign.peak_signal_noise_ratio(a, b, data_range=255), abs=1e-9)
        assert ours[1] == pytest.approx(foreign.structural_similarity(a, b, data_range=255, **PUBLISHED), abs=1e-6)
        values.append(ours)
    assert len(values) == 6
    mean_psnr, mean_ssim = np.mean(values, axis=0)
    assert 15 < mean_psnr < 45
    assert 0.3 < mean_ssim < 0.99


# ------------------------------------------------------------------------------------------------------------ refusals

A = np.zeros((20, 20))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: psnr(A, A[1:], data_range=1), r"same shape, got \(20, 20\) and \(19, 20\)"),
        (lambda: psnr(A, A, data_range=0), "data_range: expected a positive number.*got 0"),
        (lambda: ssim(A, A, data_range=math.nan), "data_range: expected a positive number.*got nan"),
        (lambda: psnr(A[0], A[0], data_range=1), r"expected an image of shape \(H, W\).*got \(20,\)"),
        (lambda: mse(A[:0], A[:0]), r"expected an image of shape.*got \(0, 20\)"),
        (lambda: mse(A + 1j, A), "expected real numbers, got dtype complex128"),
        (lambda: ssim(A[:10], A[:10], data_range=1), r"at least 11 pixels a side.*got \(10, 20\)"),
        (lambda: ms_ssim(A, A, data_range=1), r"at least 176 pixels a side for five scales, got \(20, 20\)"),
        (lambda: ssim(A, A, data_range=1, window="box"), "expected 'gaussian' or 'uniform', got 'box'"),  # type: ignore[arg-type]
        (lambda: psnr(A, A, data_range=1, mask=A), "empty mask"),
        (lambda: psnr(A, A, data_range=1, mask=A - 1), "weights of at least 0, got -1"),
        (lambda: psnr(A, A, data_range=1, mask=A[1:]), r"mask: expected shape \(20, 20\).*got \(19, 20\)"),
        (
            lambda: psnr(A, A, data_range=1, mask=A + np.nan),
            r"mask: expected finite values, got nan at index \(0, 0\)",
        ),
        (lambda: psnr(A, A + 1e200, data_range=1), "squares are finite"),
    ],
)
def test_refuses(call: Callable[[], float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_refuses_weight_on_the_border_alone() -> None:
    mask = np.zeros((20, 20))
    mask[0] = 1
    with pytest.raises(ValueError, match="more than 5 pixels inside of the border"):
        ssim(A, A, data_range=1, mask=mask)


def test_refuses_whole_numbers_beyond_the_range() -> None:
    a = np.arange(256, dtype=np.uint8).reshape(16, 16)
    with pytest.raises(ValueError, match=r"a: values from 0 to 255 \(uint8\) do not fit data_range=1.*data_range=255"):
        psnr(a, a, data_range=1)
    assert psnr(a // 255, a // 255, data_range=1) == math.inf


@pytest.mark.parametrize("score", [psnr, ssim, ms_ssim])
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("mask", [None, np.eye(180) + 1])
def test_refuses_what_is_not_finite(score: Callable[..., float], value: float, mask: Array | None) -> None:
    a = np.zeros((180, 180, 3), np.float32)
    b = a.copy()
    b[7, 9, 1] = value
    with pytest.raises(ValueError, match=rf"b: expected finite values, got {value} at index \(7, 9, 1\) \(1 in all\)"):
        score(a, b, data_range=1, mask=mask)


def test_input_is_left_alone() -> None:
    a, b = pair("float32")
    mask = np.random.default_rng(0).random(a.shape[:2])
    copies = a.copy(), b.copy(), mask.copy()
    psnr(a, b, data_range=1, mask=mask)
    ssim(a, b, data_range=1, mask=mask)
    for array, copy in zip((a, b, mask), copies, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_views_and_read_only_arrays() -> None:
    a, b = pair("uint8", (60, 80, 3))
    a.flags.writeable = False
    flipped = a[:, ::-1], b[:, ::-1]
    assert ssim(*flipped, data_range=255) == pytest.approx(ssim(a, b, data_range=255), abs=1e-6)
    assert psnr(*flipped, data_range=255) == psnr(a, b, data_range=255)


def test_examples() -> None:
    assert doctest.testmod(facepipe.metrics.image).failed == 0


def test_metrics_work_without_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None; "
        "import facepipe.metrics as m; print(m.psnr([[0]], [[1]], data_range=1))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) == 0
