"""Distances of sets against scipy, torch-fidelity, torchmetrics, pytorch-fid's form of the trace, and closed forms."""

from __future__ import annotations

import contextlib
import doctest
import math
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import linalg, stats
from scipy.spatial import distance
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kernel_mmd
from torchmetrics.image.kid import poly_mmd

import facepipe.metrics.distribution
import facepipe.metrics.statistics
from facepipe.metrics import (
    FeatureStatistics,
    FewSamplesWarning,
    block_bootstrap,
    bootstrap,
    frechet_distance,
    frechet_distance_between,
    frechet_distance_of_features,
    half_sampling,
    inception_score,
    kernel_distance,
    kernel_distance_subsets,
    manifold_scores,
)

Array = NDArray[Any]


def features(n: int, d: int, seed: int, shift: float = 0.0) -> Array:
    """Correlated features away from the origin, like those of a net."""
    random = np.random.default_rng(seed)
    return random.standard_normal((n, d)) @ np.random.default_rng(99).standard_normal((d, d)) + 3 + shift


# --------------------------------------------------------------------------------------------------------- statistics


@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_any_split_gives_the_same_bits(data: Any) -> None:
    x = features(1300, 5, seed=0)
    whole = FeatureStatistics().update(x)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(x)), max_size=8)))
    split = FeatureStatistics()
    for start, stop in zip([0, *cuts], [*cuts, len(x)], strict=True):
        split.update(x[start:stop])
        if data.draw(st.booleans()) and split.count > 1:
            assert np.isfinite(split.covariance).all()  # looking does not disturb
    assert split.count == len(x)
    np.testing.assert_array_equal(split.mean, whole.mean)
    np.testing.assert_array_equal(split.covariance, whole.covariance)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64])
@pytest.mark.parametrize("n", [2, 511, 512, 513, 2000])
def test_equals_numpy(n: int, dtype: type[Any]) -> None:
    x = (features(n, 7, seed=1) * 10).astype(dtype)
    statistics = FeatureStatistics()
    for start in range(0, n, 100):
        statistics.update(x[start : start + 100])
    np.testing.assert_allclose(statistics.mean, x.astype(np.float64).mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(statistics.covariance, np.cov(x.astype(np.float64).T), rtol=1e-10, atol=1e-10)


@settings(deadline=None, max_examples=20)
@given(workers=st.lists(st.integers(0, 900), min_size=1, max_size=6))
def test_merging_workers_equals_one(workers: list[int]) -> None:
    x = features(sum(workers) + 2, 6, seed=2)
    total, start = FeatureStatistics().update(x[:2]), 2
    for rows in workers:
        total.merge(FeatureStatistics().update(x[start : start + rows]))
        start += rows
    assert total.count == len(x)
    np.testing.assert_allclose(total.mean, x.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(total.covariance, np.cov(x.T), rtol=1e-10, atol=1e-10)


def test_a_huge_offset_does_not_cancel() -> None:
    x = features(1000, 4, seed=3)
    moved = FeatureStatistics().update(x + 1e7)
    np.testing.assert_allclose(moved.covariance, np.cov(x.T), rtol=1e-6)


def test_merge_leaves_the_other_alone_and_goes_on() -> None:
    x = features(700, 3, seed=4)
    first, second = FeatureStatistics().update(x[:300]), FeatureStatistics(3).update(x[300:600])
    before = second.covariance
    first.merge(second).update(x[600:])
    np.testing.assert_array_equal(second.covariance, before)
    np.testing.assert_allclose(first.covariance, np.cov(x.T), rtol=1e-10)
    doubled = FeatureStatistics().update(x)
    doubled.merge(doubled)
    np.testing.assert_allclose(doubled.covariance, np.cov(np.concatenate([x, x]).T), rtol=1e-10)


def test_statistics_travel_between_processes() -> None:
    x = features(600, 3, seed=4)
    sent = pickle.loads(pickle.dumps(FeatureStatistics().update(x[:300])))
    sent.update(x[300:])
    np.testing.assert_array_equal(sent.covariance, FeatureStatistics().update(x).covariance)


def test_the_caller_may_reuse_the_batch() -> None:
    batch = features(10, 3, seed=5)
    expected = batch.mean(axis=0)
    statistics = FeatureStatistics().update(batch)
    batch[:] = 0
    statistics.mean[:] = 0
    np.testing.assert_allclose(statistics.mean, expected)


# ------------------------------------------------------------------------------------------------------------ Fréchet


def by_sqrtm(mu1: Array, sigma1: Array, mu2: Array, sigma2: Array) -> float:
    """As published, by scipy's root of the product."""
    root = linalg.sqrtm(sigma1 @ sigma2)
    return float(((mu1 - mu2) ** 2).sum() + np.trace(sigma1 + sigma2 - 2 * np.real(root)))


def moments(x: Array) -> tuple[Array, Array]:
    return x.mean(axis=0), np.atleast_2d(np.cov(x.T))


@pytest.mark.parametrize("d", [1, 2, 17, 64])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_equals_scipy(d: int, scale: float) -> None:
    first, second = moments(features(300, d, seed=0) * scale), moments(features(400, d, seed=1, shift=0.3) * scale)
    assert frechet_distance(*first, *second) == pytest.approx(by_sqrtm(*first, *second), rel=1e-6)
    assert frechet_distance(*second, *first) == pytest.approx(frechet_distance(*first, *second), rel=1e-9)


def test_equal_covariances_give_the_distance_of_means() -> None:
    mu, sigma = moments(features(100, 8, seed=0))
    assert frechet_distance(mu, sigma, mu + 2, sigma) == pytest.approx(4 * 8, rel=1e-12)
    assert frechet_distance(mu, sigma, mu, sigma) == 0
    assert frechet_distance(mu, sigma, mu, sigma.copy() * (1 + 1e-15)) == pytest.approx(0, abs=1e-9)


def test_covariances_that_commute() -> None:
    """Diagonal ones: the sum of (s1 - s2)^2 over the standard deviations."""
    s1, s2 = np.array([1.0, 2, 3, 0]), np.array([4.0, 0, 3, 0])
    assert frechet_distance(np.zeros(4), np.diag(s1**2), np.zeros(4), np.diag(s2**2)) == pytest.approx(13, rel=1e-12)
    rotation = stats.ortho_group.rvs(4, random_state=np.random.default_rng(0))
    turned = [rotation @ np.diag(s**2) @ rotation.T for s in (s1, s2)]
    assert frechet_distance(np.zeros(4), turned[0], np.zeros(4), turned[1]) == pytest.approx(13, rel=1e-7)


@pytest.mark.parametrize(("n1", "n2"), [(5, 7), (5, 300), (300, 5), (2, 2)])
def test_rank_deficient(n1: int, n2: int) -> None:
    """Fewer samples than dimensions: singular values of the centred samples are the truth."""
    x, y = features(n1, 40, seed=0), features(n2, 40, seed=1)
    centred = [(v - v.mean(axis=0)) / math.sqrt(len(v) - 1) for v in (x, y)]
    cross = np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False).sum()
    difference = x.mean(axis=0) - y.mean(axis=0)
    expected = difference @ difference + (centred[0] ** 2).sum() + (centred[1] ** 2).sum() - 2 * cross
    value = frechet_distance(*moments(x), *moments(y))
    assert value == pytest.approx(expected, rel=1e-7)
    assert frechet_distance(*moments(y), *moments(x)) == pytest.approx(value, rel=1e-7)


@pytest.mark.parametrize("n", [150, 700])
@pytest.mark.parametrize("likeness", [0.0, 1.0])
def test_the_quick_way_equals_the_exact_one(n: int, likeness: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """With full and with deficient rank; and for sets so alike that the distance is nearly 0."""
    x = features(n, 300, seed=0)
    y = likeness * x + (1 - likeness * 0.9999) * features(n, 300, seed=1)
    exact = frechet_distance(*moments(x), *moments(y))
    monkeypatch.setattr(facepipe.metrics.distribution, "_SMALL", 0)
    assert frechet_distance(*moments(x), *moments(y)) == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize(("n", "m"), [(2, 3), (9, 40), (40, 9), (20, 21), (21, 20), (80, 70)])
def test_features_give_what_their_moments_give(n: int, m: int) -> None:
    x, y = features(n, 20, seed=0), features(m, 20, seed=1, shift=0.2)
    expected = frechet_distance(*moments(x), *moments(y))
    with pytest.warns(FewSamplesWarning) if min(n, m) < 20 else contextlib.nullcontext():
        value = frechet_distance_of_features(x, y)
    assert value == pytest.approx(expected, rel=1e-7)


def test_features_against_themselves() -> None:
    x = features(40, 20, seed=0)
    assert frechet_distance_of_features(x, x) == pytest.approx(0, abs=1e-9 * float((x**2).sum()))
    assert frechet_distance_of_features(x[:20], x[:20]) == pytest.approx(0, abs=1e-9 * float((x**2).sum()))


def test_samples_in_subspaces_that_do_not_meet() -> None:
    """The product of the covariances is 0, and so is its root: the traces alone count."""
    x, y = np.zeros((50, 6)), np.zeros((50, 6))
    x[:, :3], y[:, 3:] = features(50, 3, seed=0) - 3, features(50, 3, seed=1) - 3
    (mu1, s1), (mu2, s2) = moments(x), moments(y)
    expected = ((mu1 - mu2) ** 2).sum() + np.trace(s1) + np.trace(s2)
    assert frechet_distance(mu1, s1, mu2, s2) == pytest.approx(expected, rel=1e-12)


def test_no_variance_at_all() -> None:
    zero = np.zeros((3, 3))
    assert frechet_distance(np.zeros(3), zero, np.ones(3), zero) == 3
    assert frechet_distance(np.zeros(3), zero, np.zeros(3), np.eye(3)) == 3


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), rank1=st.integers(0, 8), rank2=st.integers(0, 8), power=st.integers(-8, 8))
def test_never_negative_nan_or_complex(seed: int, rank1: int, rank2: int, power: int) -> None:
    random = np.random.default_rng(seed)
    a, b = random.standard_normal((8, rank1)), random.standard_normal((8, rank2)) * 10.0**power
    value = frechet_distance(np.zeros(8), a @ a.T, np.zeros(8), b @ b.T)
    expected = (a**2).sum() + (b**2).sum() - 2 * np.linalg.svd(a.T @ b, compute_uv=False).sum()
    assert isinstance(value, float)
    assert value >= 0
    assert value == pytest.approx(expected, rel=1e-6, abs=1e-7 * float((a**2).sum() + (b**2).sum()))


def test_few_samples_warn() -> None:
    few, many = (
        FeatureStatistics().update(features(9, 10, seed=0)),
        FeatureStatistics().update(features(50, 10, seed=1)),
    )
    with pytest.warns(FewSamplesWarning, match="from 9 samples of 10 dimensions"):
        value = frechet_distance_between(few, many)
    assert value == frechet_distance(few.mean, few.covariance, many.mean, many.covariance)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert frechet_distance_between(many, many) == 0


# ------------------------------------------------------------------------------------------------------------- kernel


def test_kernel_distance_equals_torch_fidelity_and_torchmetrics() -> None:
    x, y = features(50, 12, seed=0) / 4, features(50, 12, seed=1, shift=0.5) / 4
    value = kernel_distance(x, y)
    theirs = kernel_mmd(x, y)
    assert value == pytest.approx(float(theirs), rel=1e-9)
    assert value == pytest.approx(float(poly_mmd(torch.from_numpy(x), torch.from_numpy(y))), rel=1e-9)


def test_kernel_distance_by_its_definition() -> None:
    x, y = features(5, 3, seed=0), features(8, 3, seed=1)

    def k(a: Array, b: Array) -> float:
        return float((a @ b / 3 + 1) ** 3)

    xx = np.mean([k(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j])
    yy = np.mean([k(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j])
    xy = np.mean([k(a, b) for a in x for b in y])
    assert kernel_distance(x, y) == pytest.approx(xx + yy - 2 * xy, rel=1e-9)


def test_kernel_distance_is_unbiased() -> None:
    """Of equal distributions: about 0 on average, and often below."""
    values = [kernel_distance(*np.random.default_rng(i).standard_normal((2, 20, 4))) for i in range(400)]
    assert abs(np.mean(values)) < 3 * np.std(values) / math.sqrt(400)
    assert 0.3 < np.mean(np.array(values) < 0) < 0.8


def test_kernel_distance_does_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = features(100, 4, seed=0), features(90, 4, seed=1)
    whole = kernel_distance(x, y)
    monkeypatch.setattr(facepipe.metrics.distribution, "_ROWS", 7)
    assert kernel_distance(x, y) == pytest.approx(whole, rel=1e-10)


def test_kernel_distance_of_subsets() -> None:
    x, y = features(60, 4, seed=0) / 4, features(50, 4, seed=1) / 4
    assert kernel_distance_subsets(x, y[:50], subsets=2, size=50)[0] != kernel_distance(x, y)
    assert kernel_distance_subsets(x[:50], y, subsets=3, size=50) == pytest.approx(
        (kernel_distance(x[:50], y), 0), abs=1e-9
    )
    mean, deviation = kernel_distance_subsets(x, y, subsets=200, size=30)
    assert mean == pytest.approx(kernel_distance(x, y), abs=4 * deviation / math.sqrt(200))
    assert kernel_distance_subsets(x, y, subsets=5, size=20) == kernel_distance_subsets(x, y, subsets=5, size=20)


# ---------------------------------------------------------------------------------------------------- inception score


def test_inception_score_equals_torch_fidelity() -> None:
    logits = torch.from_numpy(np.random.default_rng(0).standard_normal((103, 20)))
    theirs = isc_features_to_metric(logits, splits=10, shuffle=False)
    ours = inception_score(logits.softmax(1).numpy(), splits=10)
    assert ours == pytest.approx(tuple(theirs.values()), rel=1e-6)


@pytest.mark.parametrize("n", [2, 5, 10])
def test_inception_score_of_one_hot_rows(n: int) -> None:
    """n classes, each sure of itself, as often as the others: n, and 0 log 0 = 0."""
    rows = np.tile(np.eye(n), (10, 1))
    assert inception_score(rows, splits=1) == pytest.approx((n, 0))
    assert inception_score(rows) == pytest.approx((n, 0))


def test_inception_score_of_rows_that_agree() -> None:
    assert inception_score(np.full((20, 4), 0.25)) == pytest.approx((1, 0))
    assert inception_score(np.tile([1.0, 0, 0], (20, 1))) == pytest.approx((1, 0))


# ----------------------------------------------------------------------------------------------------------- manifold


def manifold_by_definition(real: Array, fake: Array, k: int) -> list[float]:
    def radii(x: Array) -> Array:
        return np.sort(distance.cdist(x, x), axis=1)[:, k]

    between = distance.cdist(fake, real)
    inside = between <= radii(real)
    near_fake = between <= radii(fake)[:, None]
    return [inside.any(1).mean(), near_fake.any(0).mean(), inside.sum() / (k * len(fake)), inside.any(0).mean()]


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("shift", [0.0, 1.0, 6.0])
def test_manifold_equals_brute_force(k: int, shift: float, monkeypatch: pytest.MonkeyPatch) -> None:
    real, fake = features(80, 3, seed=0), features(60, 3, seed=1, shift=shift)
    monkeypatch.setattr(facepipe.metrics.distribution, "_ROWS", 17)
    result = manifold_scores(real, fake, neighbours=k)
    got = [result.precision, result.recall, result.density, result.coverage]
    assert got == pytest.approx(manifold_by_definition(real, fake, k))


def test_manifold_of_equal_and_of_distant_sets() -> None:
    real = features(100, 4, seed=0)
    same = manifold_scores(real, real[::-1])
    assert (same.precision, same.recall, same.coverage) == (1, 1, 1)
    far = manifold_scores(real, real + 1000)
    assert (far.precision, far.recall, far.density, far.coverage) == (0, 0, 0, 0)
    alike = manifold_scores(np.random.default_rng(0).random((2000, 2)), np.random.default_rng(1).random((2000, 2)))
    assert alike.density == pytest.approx(1, abs=0.05)
    assert alike.coverage == pytest.approx(1 - 0.5**5, abs=0.02)  # Naeem et al. 2020, eq. (10), for N = M


def test_manifold_of_repeated_points() -> None:
    """Balls of radius 0: the points themselves are inside."""
    real = np.repeat(features(4, 64, seed=0) * 1e3, 6, axis=0)
    result = manifold_scores(real, real, neighbours=5)
    assert (result.precision, result.recall, result.coverage) == (1, 1, 1)


# ---------------------------------------------------------------------------------------------------------- intervals


def test_bootstrap_equals_scipy() -> None:
    x = np.random.default_rng(0).exponential(size=200)
    theirs = stats.bootstrap((x,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(1))
    ours = bootstrap(np.mean, x, resamples=4000)
    assert ours.value == x.mean()
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs.confidence_interval), abs=0.01)
    assert ours == bootstrap(np.mean, x, resamples=4000)


def test_bootstrap_of_pairs() -> None:
    x = np.random.default_rng(0).standard_normal(100)

    def gap(a: Array, b: Array) -> float:
        return float(np.mean(a) - np.mean(b))

    paired = bootstrap(gap, x + 1, x, paired=True)
    assert (paired.low, paired.high) == pytest.approx((1, 1), abs=1e-12)
    apart = bootstrap(gap, x + 1, x)
    assert apart.high - apart.low == pytest.approx(2 * 1.96 * math.sqrt(2 / 100), rel=0.15)


def test_bootstrap_of_infinite_scores() -> None:
    interval = bootstrap(np.max, [1.0, 2.0, math.inf], resamples=200)
    assert (interval.value, interval.high) == (math.inf, math.inf)
    assert interval.low in (1, 2)


def test_drawing_blocks_is_drawing_their_means() -> None:
    """Blocks of one size: the mean over rows is the mean of the blocks' means, draw by draw."""
    rows = np.random.default_rng(0).normal(size=(30, 7))
    blocks = np.repeat(np.arange(30), 7)
    mixed = np.random.default_rng(1).permutation(210)
    ours = block_bootstrap(np.mean, rows.reshape(-1)[mixed], blocks=blocks[mixed], resamples=300)
    theirs = bootstrap(np.mean, rows.mean(axis=1), resamples=300)
    assert (ours.value, ours.low, ours.high) == pytest.approx((theirs.value, theirs.low, theirs.high))


def test_blocks_of_one_row_are_the_bootstrap_of_pairs() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 50))

    def gap(a: Array, b: Array) -> float:
        return float(np.median(a) - np.median(b))

    assert block_bootstrap(gap, x, y, blocks=np.arange(50), resamples=200) == bootstrap(
        gap, x, y, resamples=200, paired=True
    )


def test_block_bootstrap_covers_where_neighbours_repeat_each_other() -> None:
    """Each value ten times over: by blocks the truth is inside as often as promised, by rows far less often."""
    hits = {"blocks": 0, "rows": 0}
    for seed in range(150):
        x = np.repeat(np.random.default_rng(seed).standard_normal(40), 10)
        for kind, blocks in (("blocks", np.arange(400) // 10), ("rows", np.arange(400))):
            found = block_bootstrap(np.mean, x, blocks=blocks, resamples=150, level=0.9)
            hits[kind] += found.low <= 0 <= found.high
    assert hits["blocks"] > 0.82 * 150
    assert hits["rows"] < 0.6 * 150


def test_half_sampling_covers() -> None:
    """The mean's interval has the width that theory gives, and holds the truth as often as it says."""
    wide = half_sampling(np.mean, np.random.default_rng(0).standard_normal(400), resamples=2000)
    assert wide.high - wide.low == pytest.approx(2 * 1.96 / 20, rel=0.1)
    hits = 0
    for seed in range(200):
        interval = half_sampling(np.mean, np.random.default_rng(seed).standard_normal(50), resamples=200, level=0.9)
        hits += interval.low <= 0 <= interval.high
    assert 0.84 < hits / 200 < 0.95


def test_half_sampling_of_the_frechet_distance_holds_it() -> None:
    """The bootstrap's interval lies above: repeated rows take variance away."""

    def statistic(a: Array, b: Array) -> float:
        return frechet_distance(*moments(a), *moments(b))

    x, y = features(100, 6, seed=0), features(100, 6, seed=1)
    interval = half_sampling(statistic, x, y)
    assert interval.low < interval.value < interval.high
    assert bootstrap(statistic, x, y, resamples=100).low > interval.low


# ----------------------------------------------------------------------------------------------------------- refusals

EYE = np.eye(3)
ZERO = np.zeros(3)
NAN_ROW = np.array([[1.0, 2, 3], [4, math.nan, 6]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: block_bootstrap(np.mean, ZERO, blocks=[1, 1, 1]), "expected at least 2 blocks, got 1"),
        (lambda: block_bootstrap(np.mean, ZERO, blocks=[1, 2]), r"of one length, got lengths \[3, 2\]"),
        (lambda: FeatureStatistics().update(NAN_ROW), r"features: expected finite values, got nan at index \(1, 1\)"),
        (lambda: FeatureStatistics(2).update(EYE), "features: expected dimension 2, got 3"),
        (lambda: FeatureStatistics().update(EYE).merge(FeatureStatistics(2)), "expected dimension 3, got 2"),
        (lambda: FeatureStatistics().update(ZERO), r"features: expected an array with 2 axes, got shape \(3,\)"),
        (lambda: FeatureStatistics().mean, "expected at least 1 rows of features, got 0"),
        (lambda: FeatureStatistics().update(EYE[:1]).covariance, "expected at least 2 rows of features, got 1"),
        (lambda: frechet_distance(ZERO, EYE, ZERO[1:], EYE[1:, 1:]), r"one dimension, got \(3,\) and \(2,\)"),
        (lambda: frechet_distance(ZERO, EYE[1:], ZERO, EYE), r"sigma1: expected shape \(3, 3\).*got \(2, 3\)"),
        (lambda: frechet_distance(ZERO, EYE, ZERO, np.triu(EYE + 1)), "sigma2: expected a symmetric covariance"),
        (lambda: frechet_distance(ZERO, np.diag([1, 1, -1]), ZERO, EYE), "sigma1: expected a positive semidefinite"),
        (lambda: frechet_distance(ZERO, EYE, ZERO, np.diag([1, 1, -1])), "sigma2: expected a positive semidefinite"),
        (lambda: frechet_distance(ZERO, np.full((3, 3), math.inf), ZERO, EYE), r"sigma1: expected finite values, got"),
        (lambda: kernel_distance(EYE, EYE[:, 1:]), r"one dimension, got \(3, 3\) and \(3, 2\)"),
        (lambda: kernel_distance(EYE, EYE[:1]), r"y: expected at least 2 rows of features, got shape \(1, 3\)"),
        (lambda: kernel_distance_subsets(EYE, EYE, size=4), "size from 2 to 3, got 100 and 4"),
        (lambda: inception_score(EYE, splits=4), r"splits: expected from 1 to 3.*got 4"),
        (lambda: inception_score(EYE + 0.1, splits=1), "expected rows >= 0 of sum 1.*row 0 of sum 1.3"),
        (lambda: inception_score(EYE * 2 - 1 / 3, splits=1), "got a minimum of -0.333"),
        (lambda: manifold_scores(EYE, EYE, neighbours=3), "real: expected at least 4 rows"),
        (lambda: manifold_scores(EYE, EYE, neighbours=0), "neighbours: expected at least 1, got 0"),
        (lambda: bootstrap(np.mean), "at least 1 rows, got lengths"),
        (lambda: bootstrap(np.mean, []), r"at least 1 rows, got lengths \[0\]"),
        (lambda: bootstrap(np.mean, [1], [1, 2], paired=True), r"one length to draw pairs, got lengths \[1, 2\]"),
        (lambda: bootstrap(np.mean, [1], level=1), "level in .0, 1., got 1000 and 1"),
        (lambda: half_sampling(np.mean, [1, 2, 3]), r"at least 4 rows, got lengths \[3\]"),
    ],
)
def test_refuses(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_examples() -> None:
    assert doctest.testmod(facepipe.metrics.statistics).failed == 0
