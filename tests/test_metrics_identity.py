"""Similarity, retrieval and verification against scipy, torchmetrics and closed forms."""

from __future__ import annotations

import doctest
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial import distance
from torchmetrics.functional.classification import binary_auroc, binary_roc

import facepipe.metrics.identity
from facepipe.metrics import (
    cosine_matrix,
    cosine_similarity,
    normalized_distance,
    retrieval_accuracy,
    retrieval_ranks,
    verification,
)

RANDOM = np.random.default_rng(0)
X, Y = RANDOM.standard_normal((7, 16)), RANDOM.standard_normal((5, 16))


def test_equals_scipy() -> None:
    expected = 1 - distance.cdist(X, Y, "cosine")
    np.testing.assert_allclose(cosine_matrix(X, Y), expected, atol=1e-14)
    np.testing.assert_allclose(cosine_similarity(X[:, None], Y), expected, atol=1e-14)
    np.testing.assert_allclose(cosine_similarity(X[:5], Y), np.diag(expected), atol=1e-14)
    np.testing.assert_allclose(cosine_similarity(X, Y[0]), expected[:, 0], atol=1e-14)
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (X, Y)]
    np.testing.assert_allclose(normalized_distance(X[:, None], Y), distance.cdist(*unit), atol=1e-14)


def test_known_angles() -> None:
    assert cosine_similarity([1, 2, 8], [1, 2, 8]) == 1
    assert cosine_similarity([1.0, 0], [0, 3]) == 0
    assert cosine_similarity([1.0, 1], [-2, -2]) == pytest.approx(-1, abs=1e-15)
    assert normalized_distance([1.0, 0], [-5, 0]) == 2


def test_distance_keeps_small_angles() -> None:
    """The cosine of 1e-9 is 1 to the last bit; the distance still tells it."""
    assert normalized_distance([1.0, 0], [1, 1e-9]) == pytest.approx(1e-9, rel=1e-6)


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 10_000), scale=st.sampled_from([1e-300, 1e-30, 1.0, 1e30, 1e300]))
def test_length_does_not_matter(seed: int, scale: float) -> None:
    a, b = np.random.default_rng(seed).standard_normal((2, 8))
    value = cosine_similarity(a, b)
    assert cosine_similarity(a * scale, b) == pytest.approx(float(value), abs=1e-12)
    assert -1 <= value <= 1
    assert normalized_distance(a, b) == pytest.approx(math.sqrt(2 - 2 * float(value)), abs=1e-7)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cosine_similarity(X, Y[:, 1:]), r"one dimension.*got shapes \(7, 16\) and \(5, 15\)"),
        (lambda: cosine_similarity([[1, 0], [0, 0]], [1, 0]), r"a: expected embeddings that are not all zero.*\(1,\)"),
        (lambda: cosine_similarity([1, math.nan], [1, 0]), r"a: expected finite values, got nan at index \(1,\)"),
        (lambda: cosine_matrix(X, Y[0]), r"b: expected an array with 2 axes, got shape \(16,\)"),
        (
            lambda: retrieval_accuracy(X, [0] * 6, Y, [0] * 5),
            r"one label a row, 7 and 5, got shapes \(6,\) and \(5,\)",
        ),
        (lambda: retrieval_accuracy(X, [0] * 7, Y, [0] * 5, top=(6,)), r"ranks from 1 to 5.*got \(6,\)"),
        (lambda: verification([1, 2], [True]), r"same: expected 2 booleans, got bool of shape \(1,\)"),
        (lambda: verification([1, 2], [0, 1]), "same: expected 2 booleans, got int64"),
        (lambda: verification([1, 2], [True, True]), "pairs of both kinds, got 2 same of 2"),
        (
            lambda: verification([1, math.inf], [True, False]),
            r"scores: expected finite values, got inf at index \(1,\)",
        ),
        (lambda: verification([1, 0], [True, False]).tar_at_far(1.5), r"far: expected a rate in \[0, 1\], got 1.5"),
    ],
)
def test_refuses(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# ----------------------------------------------------------------------------------------------------------- retrieval


def test_retrieval_by_hand() -> None:
    gallery = np.eye(4)
    queries = [[5, 4, 3, 1], [1, 5, 0, 0], [0, 1, 2, 3]]
    # The first's identity is third in its order, the second's first; nobody has the third's.
    result = retrieval_accuracy(queries, [2, 1, 9], gallery, [0, 1, 2, 3], top=(1, 2, 3, 4))
    assert result == pytest.approx({1: 1 / 3, 2: 1 / 3, 3: 2 / 3, 4: 2 / 3})


def test_retrieval_equals_sorting() -> None:
    random = np.random.default_rng(5)
    gallery, queries = random.standard_normal((60, 6)), random.standard_normal((200, 6))
    labels, names = random.integers(0, 12, 60), random.integers(0, 12, 200)
    order = np.argsort(distance.cdist(queries, gallery, "cosine"), axis=1)
    hits = labels[order] == names[:, None]
    result = retrieval_accuracy(queries, names, gallery, labels)
    assert result == pytest.approx({1: hits[:, 0].mean(), 5: hits[:, :5].any(axis=1).mean()})


def test_ranks_count_the_wrong_entries_before_the_right_one() -> None:
    gallery, labels = [[1, 0], [1, 0.1], [1, 1], [0, 1]], [0, 1, 2, 3]
    queries = [[1, 0], [1, 0], [1, 0], [1, 0], [1, 0]]
    assert retrieval_ranks(queries, [0, 1, 2, 3, 9], gallery, labels).tolist() == [0, 1, 2, 3, 4]


def test_ties_count_against_the_query() -> None:
    assert retrieval_accuracy([[1, 0]], [0], [[2, 0], [3, 0]], [1, 0], top=(1, 2)) == {1: 0, 2: 1}


# -------------------------------------------------------------------------------------------------------- verification


def pairs(seed: int, n: int = 400, digits: int = 6) -> tuple[Any, Any]:
    random = np.random.default_rng(seed)
    same = random.random(n) < 0.3
    same[:2] = True, False
    return np.round(random.normal(size=n) + 1.5 * same, digits), same


@pytest.mark.parametrize("digits", [6, 1, 0])
def test_curve_equals_torchmetrics(digits: int) -> None:
    scores, same = pairs(1, digits=digits)
    curve = verification(scores, same)
    ranks = stats.rankdata(scores, "dense") / len(scores)  # torchmetrics squashes scores beyond [0, 1]
    preds, target = torch.from_numpy(ranks), torch.from_numpy(same).long()
    fpr, tpr, _ = binary_roc(preds, target)
    np.testing.assert_allclose(curve.far, fpr.numpy(), atol=1e-6)
    np.testing.assert_allclose(curve.tar, tpr.numpy(), atol=1e-6)
    assert curve.auc == pytest.approx(float(binary_auroc(preds, target)), abs=1e-6)
    u = stats.mannwhitneyu(scores[same], scores[~same]).statistic
    assert curve.auc == pytest.approx(u / (same.sum() * (~same).sum()), abs=1e-12)


def test_thresholds_give_the_rates() -> None:
    scores, same = pairs(2, digits=1)
    curve = verification(scores, same)
    for threshold, far, tar in zip(curve.thresholds, curve.far, curve.tar, strict=True):
        assert (scores[~same] >= threshold).mean() == pytest.approx(far)
        assert (scores[same] >= threshold).mean() == pytest.approx(tar)


def test_tar_at_far_equals_a_search() -> None:
    scores, same = pairs(3)
    curve = verification(scores, same)
    for far in (0, 0.001, 0.01, 0.1, 1):
        allowed = [t for t in [*scores, np.inf] if (scores[~same] >= t).mean() <= far]
        assert curve.tar_at_far(far) == pytest.approx((scores[same] >= min(allowed)).mean())


def test_equal_error_rate_of_two_gaussians() -> None:
    """Unit Gaussians d apart: the rates meet half-way, at Phi(-d / 2)."""
    random = np.random.default_rng(0)
    same = np.arange(200_000) % 2 == 0
    curve = verification(random.normal(size=len(same)) + 2 * same, same)
    assert curve.eer == pytest.approx(stats.norm.cdf(-1), abs=3e-3)
    assert curve.auc == pytest.approx(stats.norm.cdf(math.sqrt(2)), abs=3e-3)


def test_equal_error_rate_lies_on_the_curve() -> None:
    scores, same = pairs(4, digits=1)
    curve = verification(scores, same)
    assert np.interp(curve.eer, curve.far, curve.tar) == pytest.approx(1 - curve.eer, abs=1e-12)


@pytest.mark.parametrize(
    ("scores", "auc", "eer"), [([1, 2, 3, 4], 1, 0), ([4, 3, 2, 1], 0, 1), ([1, 1, 1, 1], 0.5, 0.5)]
)
def test_extremes(scores: list[float], auc: float, eer: float) -> None:
    curve = verification(scores, np.array([False, False, True, True]))
    assert (curve.auc, curve.eer) == (auc, eer)
    assert curve.tar_at_far(1) == 1


def test_examples() -> None:
    assert doctest.testmod(facepipe.metrics.identity).failed == 0
