"""Feature nets: FID's Inception against pytorch-fid and torch-fidelity on one file of random weights; others."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
from numpy.typing import NDArray
from torch import nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torchvision.models import mobilenet_v2

from facepipe.backends import features
from facepipe.backends.inception import InceptionV3
from facepipe.errors import UsageError, WeightsError, WeightsHashError, WeightsMissingError
from facepipe.metrics import FeatureStatistics, frechet_distance

Array = NDArray[Any]
data: Any = skimage.data  # untyped


def images(n: int, size: tuple[int, int] = (75, 90), seed: int = 0) -> Array:
    """Parts of a real picture with noise."""
    random = np.random.default_rng(seed)
    picture = data.astronaut()
    tops, lefts = (random.integers(0, 512 - s, n) for s in size)
    parts = [picture[t : t + size[0], x : x + size[1]] for t, x in zip(tops, lefts, strict=True)]
    noise = random.normal(scale=10 + seed, size=(n, *size, 3))
    return np.clip(np.stack(parts) + noise, 0, 255).astype(np.uint8)


def randomised(net: nn.Module) -> nn.Module:
    """Weights that keep signals alive, and batch norms that are not the identity."""
    random = torch.Generator().manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, generator=random)
        elif isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1, generator=random)
            module.running_var.uniform_(0.5, 1.5, generator=random)
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=random)
    return net


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(randomised(InceptionV3()).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def mobilenet_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "mobilenet.pth"
    torch.save(randomised(mobilenet_v2(weights=None)).state_dict(), path)
    return path


# ---------------------------------------------------------------------------------------------------------- Inception


@pytest.mark.slow
def test_inception_equals_torch_fidelity(inception_file: Path) -> None:
    """The network itself, at its own size, so that no resize comes between."""
    theirs: Any = FeatureExtractorInceptionV3("net", ["2048", "logits_unbiased"], str(inception_file))
    pixels = torch.from_numpy(images(3, (299, 299))).permute(0, 3, 1, 2).contiguous()
    net = InceptionV3().eval()
    net.load_state_dict(torch.load(inception_file, weights_only=True))
    with torch.no_grad():
        ours = net((pixels.float() - 128) / 128)
    for got, expected in zip(ours, theirs(pixels), strict=True):
        assert expected.std() > 0.01
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_inception_equals_pytorch_fid(inception_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From images to the distance, with its resize."""
    theirs: Any = pytest.importorskip("pytorch_fid.inception", reason="a further witness: pip install pytorch-fid")
    monkeypatch.setattr(theirs, "load_state_dict_from_url", lambda *a, **k: torch.load(inception_file))
    block = theirs.InceptionV3([3]).eval()
    net = features.inception(inception_file)
    moments = []
    for seed in (0, 1):
        pictures = images(6, seed=seed)
        with torch.no_grad():
            expected = block(torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255)[0][:, :, 0, 0].numpy()
        got = net(pictures)
        np.testing.assert_allclose(got.values, expected, rtol=1e-4, atol=1e-4 * expected.std())
        moments.append((got.values, expected))
    ours = [FeatureStatistics().update(got[:, :256]) for got, _ in moments]
    value = frechet_distance(ours[0].mean, ours[0].covariance, ours[1].mean, ours[1].covariance)
    module: Any = importlib.import_module("pytorch_fid.fid_score")
    published = [(x[:, :256].mean(0), np.cov(x[:, :256].astype(np.float64), rowvar=False)) for _, x in moments]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its scipy calls are old, and these covariances singular
        reference = module.calculate_frechet_distance(*published[0], *published[1])
    assert value == pytest.approx(reference, rel=1e-3)


def test_distance_equals_torch_fidelity() -> None:
    random = np.random.default_rng(0)
    x, y = random.standard_normal((200, 24)), random.standard_normal((150, 24)) * 1.2 + 0.1
    theirs = fid_statistics_to_metric(*(fid_features_to_statistics(torch.from_numpy(v)) for v in (x, y)), False)[
        "frechet_inception_distance"
    ]
    a, b = (FeatureStatistics().update(v) for v in (x, y))
    assert frechet_distance(a.mean, a.covariance, b.mean, b.covariance) == pytest.approx(theirs, rel=1e-6)


# ------------------------------------------------------------------------------------------------------------- others


def test_mobilenet_equals_torchvision(mobilenet_file: Path) -> None:
    net = mobilenet_v2(weights=None).eval()
    net.load_state_dict(torch.load(mobilenet_file, weights_only=True))
    pictures = images(3, (224, 224))
    x = torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255
    x = (x - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    with torch.no_grad():
        probabilities, maps = net(x).softmax(1), net.features(x)
    ours = features.mobilenetv2(mobilenet_file)(pictures)
    assert ours.probabilities is not None
    np.testing.assert_allclose(ours.probabilities, probabilities.numpy(), rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(ours.values, maps.mean((2, 3)).numpy(), rtol=1e-4, atol=1e-4)


def test_results_do_not_depend_on_batches(mobilenet_file: Path) -> None:
    net = features.mobilenetv2(mobilenet_file)
    pictures = images(19)
    whole = net(pictures)
    apart = [net(picture[None]) for picture in pictures]
    np.testing.assert_allclose(whole.values, np.concatenate([a.values for a in apart]), rtol=1e-3, atol=1e-4)
    assert whole.values.shape == (19, net.dim)
    assert whole.values.dtype == np.float32
    assert whole.probabilities is not None
    np.testing.assert_allclose(whole.probabilities.sum(1), 1, atol=1e-5)


@pytest.mark.parametrize("load", [features.mobilenetv2, features.inception])
def test_loading_leaves_the_random_state_alone(
    load: Callable[[Path], Any], mobilenet_file: Path, inception_file: Path
) -> None:
    before = torch.get_rng_state()
    load(mobilenet_file if load is features.mobilenetv2 else inception_file)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.models
def test_mobilenet_knows_what_it_sees() -> None:
    """The published weights put the astronaut among ImageNet's people in bibs and helmets, never a dog."""
    net = features.load_features("mobilenetv2")
    assert "MobileNetV2" in net.label
    result = net(data.astronaut()[None])
    assert result.probabilities is not None
    best = np.argsort(result.probabilities[0])[::-1][:10]
    assert {652, 643, 835, 514, 578, 617, 834, 451, 450} & set(best.tolist())


@pytest.mark.models
def test_facenet_features_are_the_embedder() -> None:
    net = features.load_features("facenet")
    crop = data.astronaut()[20:180, 140:300]
    result = net(np.stack([crop, crop[:, ::-1]]))
    assert result.probabilities is None
    assert result.values.shape == (2, net.dim) == (2, 512)
    assert result.values[0] @ result.values[1] > 0.8


# ----------------------------------------------------------------------------------------------------------- refusals


def test_refuses_images_of_another_kind(mobilenet_file: Path) -> None:
    net = features.mobilenetv2(mobilenet_file)
    wrongs: list[Any] = [np.zeros((4, 4, 3), np.uint8), np.zeros((1, 4, 4, 3)), np.zeros((0, 4, 4, 3), np.uint8)]
    for wrong in wrongs:
        with pytest.raises(ValueError, match=r"images: expected uint8 of shape \(N, H, W, 3\)"):
            net(wrong)


def test_refuses_unknown_nets_and_weights(tmp_path: Path, mobilenet_file: Path) -> None:
    with pytest.raises(
        UsageError, match="features 'vgg' are unknown; expected one of mobilenetv2, inception, facenet"
    ):
        features.load_features("vgg")
    with pytest.raises(WeightsMissingError, match="no such weights file"):
        features.inception(tmp_path / "none.pth")
    with pytest.raises(WeightsError, match="expected weights of InceptionV3"):
        features.inception(mobilenet_file)
    with pytest.raises(WeightsHashError):
        features.load_features("inception", path=mobilenet_file)
    garbage = tmp_path / "garbage.pth"
    garbage.write_bytes(b"not a checkpoint at all")
    with pytest.raises(WeightsError, match=r"garbage.pth: expected weights of MobileNetV2"):
        features.mobilenetv2(garbage)


class _Trap:
    """Runs code when a careless loader opens the file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("trapped"),)


def test_nothing_in_a_file_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": _Trap()}, "trap.pth")
    with pytest.raises(WeightsError, match=r"trap.pth: expected weights"):
        features.inception(Path("trap.pth"))
    assert not Path("trapped").exists()
