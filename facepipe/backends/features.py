"""Feature nets for the distribution scores: images in, features (and class probabilities) out.

Each is called by its own name wherever a number is printed: only Inception's Fréchet distance is FID.

=============  ====================================  =====  =======================================  =============
name           net                                   D      resize                                   weights
=============  ====================================  =====  =======================================  =============
mobilenetv2    MobileNetV2, ImageNet                 1280   224x224, bilinear with low-pass          default set
inception      Inception-v3 of FID                   2048   299x299, bilinear, as pytorch-fid        user-supplied
facenet        Inception-ResNet-v1, VGGFace2         512    160x160, area                            default set
=============  ====================================  =====  =======================================  =============
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models import mobilenet_v2

from facepipe import weights
from facepipe.backends.embedders import Embedder, load_embedder
from facepipe.backends.inception import InceptionV3
from facepipe.errors import UsageError, WeightsError, WeightsMissingError
from facepipe.types import Image

__all__ = ["FEATURE_NETS", "FeatureNet", "Features", "inception", "load_features", "mobilenetv2"]

FEATURE_NETS = ("mobilenetv2", "inception", "facenet")
_BATCH = 16


@dataclass(frozen=True)
class Features:
    """What a feature net says of N images.

    Attributes
    ----------
    values : (N, D) float32 array
        Features.
    probabilities : (N, K) float32 array or None
        Of the net's classes, rows of sum 1; None for a net without classes.
    """

    values: NDArray[np.float32]
    probabilities: NDArray[np.float32] | None


@dataclass(frozen=True)
class FeatureNet:
    """A net with its weights, ready to run.

    Attributes
    ----------
    name : str
        One of `FEATURE_NETS`.
    label : str
        What to print beside a number: net and resize.
    dim : int
        D, length of the features.
    run : callable
        From (N, H, W, 3) uint8 RGB of any size, N >= 1, to `Features`. Images do not influence each other.
    """

    name: str
    label: str
    dim: int
    run: Callable[[Image], Features]

    def __call__(self, images: Image) -> Features:
        """Features of `images`, (N, H, W, 3) uint8 RGB, N >= 1; ValueError for anything else."""
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3 or 0 in images.shape:
            raise ValueError(f"images: expected uint8 of shape (N, H, W, 3), got {images.dtype} of {images.shape}")
        parts = [self.run(images[i : i + _BATCH]) for i in range(0, len(images), _BATCH)]
        known = [p.probabilities for p in parts if p.probabilities is not None]
        return Features(np.concatenate([p.values for p in parts]), np.concatenate(known) if known else None)


def load_features(name: str, *, device: str = "cpu", path: Path | None = None) -> FeatureNet:
    """The feature net called `name`.

    Parameters
    ----------
    name : str
        One of `FEATURE_NETS`.
    device : str
        Where torch computes.
    path : Path, optional
        Weights file to use instead of the cache's (``mobilenetv2``, ``inception``); it must be the one that the
        catalogue names.

    Raises
    ------
    UsageError
        Unknown name.
    WeightsError
        Weights that are missing, are not the catalogue's, or do not fit the net.
    """
    if name == "mobilenetv2":
        return mobilenetv2(weights.path("mobilenetv2", user_path=path), device=device)
    if name == "inception":
        return inception(weights.path("inception", user_path=path), device=device)
    if name == "facenet":
        return _facenet(load_embedder("irv1", device=device))
    raise UsageError(f"features {name!r} are unknown; expected one of {', '.join(FEATURE_NETS)}")


def mobilenetv2(path: Path, *, device: str = "cpu") -> FeatureNet:
    """MobileNetV2 (Sandler et al. 2018, DOI 10.1109/CVPR.2018.00474) from a torchvision weights file.

    The whole image is squeezed into 224x224; features are the mean over the last map, before the classifier.
    """
    with torch.device("meta"):  # no random start, so the caller's random state is left alone
        net = mobilenet_v2(weights=None)
    _folded(_loaded(net, path))
    net.to(device).to(memory_format=torch.channels_last)
    mean = torch.tensor([0.485, 0.456, 0.406], device=device).view(1, 3, 1, 1)
    deviation = torch.tensor([0.229, 0.224, 0.225], device=device).view(1, 3, 1, 1)

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.interpolate(x, (224, 224), mode="bilinear", antialias=True)
        features = net.features((x / 255 - mean) / deviation).mean((2, 3))
        return features, net.classifier(features).softmax(1)

    return FeatureNet("mobilenetv2", "MobileNetV2 ImageNet, 224x224 bilinear", 1280, _runner(forward, device))


def inception(path: Path, *, device: str = "cpu") -> FeatureNet:
    """The Inception-v3 of FID (Heusel et al. 2017, arXiv:1706.08500) from the weights file of pytorch-fid.

    Resize and range are pytorch-fid's, so that the Fréchet distance is its FID. (TensorFlow's and torch-fidelity's
    resize have other pixel centres and give other numbers.)
    """
    with torch.device("meta"):
        net = _loaded(InceptionV3(), path).to(device)

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.interpolate(x / 255, (299, 299), mode="bilinear", align_corners=False)
        features, logits = net(2 * x - 1)
        return features, logits.softmax(1)

    return FeatureNet("inception", "Inception-v3 FID, 299x299 bilinear as pytorch-fid", 2048, _runner(forward, device))


def _facenet(embedder: Embedder) -> FeatureNet:
    height, width = embedder.crop_size

    def run(images: Image) -> Features:
        crops = [cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA) for image in images]
        return Features(embedder.embed(np.stack(crops).astype(np.uint8, copy=False)), None)

    return FeatureNet("facenet", f"Inception-ResNet-v1 VGGFace2, {height}x{width} area", embedder.dim, run)


def _runner(forward: Callable[[Tensor], tuple[Tensor, Tensor]], device: str) -> Callable[[Image], Features]:
    """`Features` from a forward pass that takes (B, 3, H, W) float32 in [0, 255]."""

    def run(images: Image) -> Features:
        with torch.inference_mode():
            x = torch.from_numpy(images.copy()).to(device).permute(0, 3, 1, 2).float()
            values, probabilities = forward(x)
        return Features(values.float().cpu().numpy(), probabilities.float().cpu().numpy())

    return run


def _folded(net: nn.Module) -> None:
    """Fold each batch norm into the convolution before it, in place: the same function, half of the time on a CPU."""
    for block in list(net.modules()):
        for i, (first, second) in enumerate(itertools.pairwise(block.children())):
            if (
                isinstance(block, nn.Sequential)
                and isinstance(first, nn.Conv2d)
                and isinstance(second, nn.BatchNorm2d)
            ):
                block[i], block[i + 1] = fuse_conv_bn_eval(first, second), nn.Identity()


def _loaded(net: nn.Module, path: Path) -> nn.Module:
    """`net`, made on the meta device, with the weights of a file; nothing in it is executed."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        net.load_state_dict(state, assign=True)
    except FileNotFoundError as exc:
        raise WeightsMissingError(f"{path}: there is no such weights file") from exc
    except (UnpicklingError, RuntimeError, TypeError, EOFError, ValueError) as exc:
        reason = str(exc).strip().splitlines()[0]
        raise WeightsError(f"{path}: expected weights of {type(net).__name__}, got {reason}") from exc
    return net.eval().requires_grad_(False)
