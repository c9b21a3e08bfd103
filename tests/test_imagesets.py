"""Folders of images: matching by name, paired and set scores, and what is wrong with a folder said plainly."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import skimage.data
from numpy.typing import NDArray

from facepipe import imagesets, metrics
from facepipe.backends.features import FeatureNet, Features
from facepipe.errors import ConfigError, MediaError, UsageError, WeightsMissingError
from facepipe.imagesets import match_by_name, score_folders
from facepipe.video import read_image

Array = NDArray[Any]
data: Any = skimage.data  # untyped


def write(path: Path, image: Array) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[..., ::-1] if image.ndim == 3 else image)
    return path


def picture(i: int, noise: float = 0.0) -> Array:
    part = data.astronaut()[10 * i : 10 * i + 48, 20 * i : 20 * i + 64].astype(float)
    noisy: Array = part + np.random.default_rng(i).normal(scale=noise or 1e-9, size=part.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """24 pairs: the reference as png, the prediction with noise; one in a subfolder, the first without noise."""
    pred, ref = tmp_path / "pred", tmp_path / "ref"
    for i in range(24):
        name = f"sub/{i:02d}" if i == 5 else f"{i:02d}"
        write(ref / f"{name}.png", picture(i))
        write(pred / f"{name}.bmp", picture(i, noise=0 if i == 0 else 10))
    return pred, ref


class _MeanColour:
    """Stands in for a net: three features, two classes."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def load(self, name: str, *, device: str = "cpu", path: Path | None = None) -> FeatureNet:
        assert device == "cpu"
        return FeatureNet(name, f"mean colour as {name}", 3, self.run)

    def run(self, images: Array) -> Features:
        self.batches.append(len(images))
        values = images.reshape(len(images), -1, 3).mean(axis=1).astype(np.float32)
        first = values[:, :1] / 255
        return Features(values, np.concatenate([first, 1 - first], axis=1))


@pytest.fixture
def net(monkeypatch: pytest.MonkeyPatch) -> _MeanColour:
    net = _MeanColour()
    monkeypatch.setattr(imagesets, "load_features", net.load)
    return net


# ----------------------------------------------------------------------------------------------------------- matching


def test_matching_by_name(folders: tuple[Path, Path]) -> None:
    pairs = match_by_name(*folders)
    assert [name for name, _, _ in pairs][:2] == ["00", "01"]
    assert ("sub/05", folders[0] / "sub/05.bmp", folders[1] / "sub/05.png") in pairs
    assert len(pairs) == 24


def test_other_files_are_left_out(folders: tuple[Path, Path]) -> None:
    (folders[0] / "notes.txt").write_text("nothing")
    write(folders[0] / ".thumbnails" / "00.png", picture(0))
    assert len(match_by_name(*folders)) == 24


def test_names_in_one_folder_only(folders: tuple[Path, Path]) -> None:
    pred, ref = folders
    (pred / "03.bmp").unlink()
    for i in range(5):
        write(pred / f"new{i}.png", picture(i))
    with pytest.raises(MediaError) as told:
        score_folders(pred, ref)
    message = str(told.value)
    assert f"new0, new1, new2 and 2 more only in {pred}; 03 only in {ref}" in message
    assert "whole sets" in message
    assert "\n" not in message


def test_set_metrics_need_no_names(folders: tuple[Path, Path], net: _MeanColour) -> None:
    (folders[0] / "03.bmp").unlink()
    result = score_folders(*folders, metrics=["frechet"])
    assert (result.pred, result.ref, result.pairs) == (23, 24, 0)


# ------------------------------------------------------------------------------------------------------------- paired


def test_paired_scores(folders: tuple[Path, Path]) -> None:
    result = score_folders(*folders, metrics=["psnr", "ssim", "mse"])
    assert list(result.scores) == ["psnr", "ssim", "mse"]
    assert (result.pred, result.ref, result.pairs, result.notes) == (24, 24, 24, ())
    a, b = picture(7, noise=10), picture(7)
    assert result.images["psnr"]["07"] == metrics.psnr(a, b, data_range=255)
    assert result.images["ssim"]["07"] == metrics.ssim(a, b, data_range=255)
    assert result.images["psnr"]["00"] == math.inf
    assert result.images["mse"]["00"] == 0
    values = sorted(result.images["psnr"].values())
    interval = result.scores["psnr"]
    assert interval.value in values[11:13]
    assert interval.low <= interval.value <= interval.high
    assert 26 < interval.value < 30  # noise of 10 grey levels: 28.1 dB


def test_json_has_no_infinity(folders: tuple[Path, Path]) -> None:
    result = score_folders(*folders, metrics=["psnr"])
    plain = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert plain["images"]["psnr"]["00"] is None
    assert plain["scores"]["psnr"]["value"] == result.scores["psnr"].value
    assert plain["pairs"] == 24


def test_identical_folders(folders: tuple[Path, Path]) -> None:
    result = score_folders(folders[1], folders[1], metrics=["psnr", "ssim"])
    assert (result.scores["psnr"].value, result.scores["psnr"].high) == (math.inf, math.inf)
    assert result.scores["ssim"].value == 1


def test_progress(folders: tuple[Path, Path], net: _MeanColour) -> None:
    steps: list[int] = []
    score_folders(*folders, metrics=["mse", "frechet"], progress=steps.append)
    assert sum(steps) == 24 + 48
    assert max(net.batches) <= 16


# --------------------------------------------------------------------------------------------------------------- sets


def test_set_scores(folders: tuple[Path, Path], net: _MeanColour) -> None:
    result = score_folders(*folders, metrics=["frechet", "kernel", "coverage", "class_score"], features="mobilenetv2")
    _, preds, refs = zip(*match_by_name(*folders), strict=True)
    colours = [np.stack([read_image(f).reshape(-1, 3).mean(0) for f in files]) for files in (preds, refs)]
    colours = [c.astype(np.float32) for c in colours]
    a, b = (metrics.FeatureStatistics().update(c) for c in colours)
    expected = metrics.frechet_distance(a.mean, a.covariance, b.mean, b.covariance)
    assert result.scores["frechet"].value == pytest.approx(expected, rel=1e-6)
    assert result.scores["kernel"].value == pytest.approx(metrics.kernel_distance(*colours), rel=1e-5)
    assert result.scores["coverage"].value == metrics.manifold_scores(colours[1], colours[0]).coverage
    assert 1 <= result.scores["class_score"].value <= 2
    assert set(result.features.values()) == {"mean colour as mobilenetv2"}
    for interval in result.scores.values():
        assert interval.low <= interval.high
    assert result == score_folders(*folders, metrics=list(result.scores))


def test_fid_is_inception_only(folders: tuple[Path, Path], net: _MeanColour) -> None:
    result = score_folders(*folders, metrics=["frechet", "fid", "kid", "is"], features="facenet")
    assert result.features == {
        "frechet": "mean colour as facenet",
        "fid": "mean colour as inception",
        "kid": "mean colour as inception",
        "is": "mean colour as inception",
    }
    assert list(result.scores) == ["frechet", "fid", "kid", "is"]


def test_fid_without_weights_says_how_to_get_them(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("FACEPIPE_WEIGHTS_INCEPTION", raising=False)
    with pytest.raises(WeightsMissingError):
        score_folders(*folders, metrics=["fid"], weights=tmp_path / "none.pth")


def test_too_few_images_are_said(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, net: _MeanColour
) -> None:
    wide = FeatureNet("mobilenetv2", "net", 1280, net.run)
    monkeypatch.setattr(imagesets, "load_features", lambda *a, **k: wide)
    (note,) = score_folders(*folders, metrics=["frechet"]).notes
    assert note.startswith("24 images for features of 1280 dimensions: the Fréchet distance is too large")
    for path in sorted(folders[0].glob("1*.bmp")):
        path.unlink()
    result = score_folders(*folders, metrics=["kernel", "frechet"])
    assert "14 images are too few for a confidence interval of kernel, frechet" in result.notes[1]
    assert math.isnan(result.scores["kernel"].low)
    assert math.isfinite(result.scores["kernel"].value)
    assert json.loads(json.dumps(result.to_json(), allow_nan=False))["scores"]["kernel"]["low"] is None


def test_images_of_several_sizes(folders: tuple[Path, Path], net: _MeanColour) -> None:
    write(folders[0] / "big.png", data.astronaut())
    result = score_folders(*folders, metrics=["frechet"])
    assert result.pred == 25


@pytest.mark.slow
@pytest.mark.models
def test_with_the_real_nets(folders: tuple[Path, Path]) -> None:
    for path in [path for folder in folders for path in folder.rglob("*") if path.stem > "03"]:
        if path.is_file():
            path.unlink()
    result = score_folders(*folders, metrics=["frechet", "identity"], features="mobilenetv2", resamples=4)
    assert result.scores["frechet"].value > 0
    assert "MobileNetV2" in result.features["frechet"]
    assert result.images["identity"]["00"] == pytest.approx(1, abs=1e-5)
    assert -1 <= result.scores["identity"].value <= 1


# -------------------------------------------------------------------------------------------------------------- images


def make(folder: Path, **files: Array | bytes) -> Path:
    for name, content in files.items():
        path = folder / f"{name}.png"
        if isinstance(content, bytes):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        else:
            write(path, content)
    return folder


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"a\.png: the file is empty"),
        (b"no image", r"a\.png: .*image"),
        (np.zeros((20, 20, 3), np.uint16), r"a\.png: expected 8 bits a channel, got uint16"),
        (np.zeros((20, 21, 3), np.uint8), r"a\.png: expected the size of .*a\.png, \(20, 20\), got \(20, 21\)"),
        (np.zeros((5, 5, 3), np.uint8), r"expected the size of"),
    ],
)
def test_refuses_files(tmp_path: Path, content: Any, message: str) -> None:
    ref = make(tmp_path / "ref", a=np.zeros((20, 20, 3), np.uint8))
    with pytest.raises(MediaError, match=message):
        score_folders(make(tmp_path / "pred", a=content), ref)


def test_an_image_too_small_for_the_metric_is_named(tmp_path: Path) -> None:
    folder = make(tmp_path / "a", small=np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(MediaError, match=r"small\.png: ssim: expected images of at least 11 pixels a side"):
        score_folders(folder, folder)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda p, r: score_folders(p / "x", r), UsageError, r"x: expected a folder of images, got nothing"),
        (lambda p, r: score_folders(p, r / "00.png"), UsageError, r"00\.png: expected a folder of images, got a file"),
        (lambda p, r: score_folders(p, r, metrics=["lpips"]), ConfigError, "metrics: expected some of mse.*got lpips"),
        (lambda p, r: score_folders(p, r, metrics=[]), ConfigError, "metrics: expected some of mse.*got none"),
    ],
)
def test_refuses(
    folders: tuple[Path, Path], call: Callable[[Path, Path], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call(*folders)


def test_refuses_folders_without_images_and_double_names(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(MediaError, match=r"empty: expected images \(\.bmp.*got none"):
        match_by_name(empty, empty)
    folder = make(tmp_path / "twice", a=picture(0))
    write(folder / "a.bmp", picture(0))
    with pytest.raises(MediaError, match=r"twice: expected one image named a, got a\.bmp and a\.png"):
        match_by_name(folder, folder)


def test_class_score_needs_classes(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    net = FeatureNet("facenet", "net", 3, lambda images: Features(np.ones((len(images), 3), np.float32), None))
    monkeypatch.setattr(imagesets, "load_features", lambda *a, **k: net)
    with pytest.raises(ConfigError, match="class_score: expected features of a net with classes"):
        score_folders(*folders, metrics=["class_score"], features="facenet")
