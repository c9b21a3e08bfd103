"""Embedders: crops of faces in, identity embeddings of unit length out.

Each net gets the crop it was measured with; `Embedder.crop` cuts it from a frame by one warp with a proper low-pass,
so that frames need not be kept: cut while streaming, embed in batches. Compare embeddings of one net only, by their
cosine.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from facepipe import geometry, weights
from facepipe.backends import frozen_graph
from facepipe.backends.opencv import read_net
from facepipe.errors import DegenerateLandmarksError, UsageError
from facepipe.image import Picture, warp
from facepipe.types import Array, Image

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["EMBEDDERS", "Embedder", "InceptionResnetV1", "SFace", "box_to_crop", "load_embedder"]

EMBEDDERS = ("irv1", "sface")


class Embedder(Protocol):
    """What every embedder does."""

    name: str
    dim: int
    """Length of an embedding."""
    crop_size: tuple[int, int]
    """Height and width of a crop."""

    def frame_to_crop(self, box: Array, landmarks: Array, frame_size: tuple[int, int]) -> NDArray[np.float64]:
        """(2, 3) matrix from a frame of that (height, width) into the net's crop."""
        ...

    def crop(self, frame: Picture, box: Array, landmarks: Array) -> Image:
        """Cut the net's crop out of an RGB frame.

        Parameters
        ----------
        frame : (H, W, 3) uint8 array or LazyImage
            RGB.
        box : (4,) array
            The detector's ``xyxy`` in frame pixels.
        landmarks : (68, 2) or (5, 2) array
            In frame pixels.

        Returns
        -------
        (*crop_size, 3) uint8 array
            RGB.

        Raises
        ------
        DegenerateLandmarksError
            The box is not finite or has no area, or the points fix no transform.
        """
        ...

    def embed(self, crops: Image) -> NDArray[np.float32]:
        """Embed crops.

        Parameters
        ----------
        crops : (N, *crop_size, 3) uint8 array
            RGB; N may be 0.

        Returns
        -------
        (N, dim) float32 array
            Rows of unit length. They do not depend on how crops are batched (to 1e-5).

        Raises
        ------
        ValueError
            Crops of another shape or type.
        """
        ...


def load_embedder(name: str, *, device: str = "cpu") -> Embedder:
    """The embedder called `name`, one of `EMBEDDERS`, with its weights from the cache.

    Parameters
    ----------
    name : str
        ``"irv1"`` (512-d) or ``"sface"`` (128-d).
    device : str
        ``"cpu"``, ``"cuda"`` or ``"mps"``; SFace always runs on the CPU.

    Raises
    ------
    UsageError
        Unknown name.
    WeightsMissingError
        The weights are not on this machine; the message says how to get them.
    """
    if name == "irv1":
        return InceptionResnetV1(weights.path("irv1"), device=device)
    if name == "sface":
        return SFace(weights.path("sface"))
    raise UsageError(f"embedder {name!r} is unknown; expected one of {', '.join(EMBEDDERS)}")


def box_to_crop(
    box: Array, size: tuple[int, int], *, margin: float, frame_size: tuple[int, int]
) -> NDArray[np.float64]:
    """Matrix that stretches a box with a margin onto a crop, by facenet-pytorch's rule.

    Parameters
    ----------
    box : (4,) array
        ``xyxy``; its edges lie on the borders of pixels, as slicing does it: the box 0, 0, 1, 1 is the first pixel.
    size : (int, int)
        Height and width of the crop.
    margin : float
        Pixels of the crop that lie outside of the box, both sides together.
    frame_size : (int, int)
        Height and width of the frame. What a wider box has outside of it is cut off, if something is left then.

    Returns
    -------
    (2, 3) float64 array
        Frame to crop. Width and height have scales of their own.

    Raises
    ------
    DegenerateLandmarksError
        The box is not finite or has no area.
    """
    corners = np.asarray(box, np.float64).reshape(2, 2)
    extent = corners[1] - corners[0]
    if not (np.isfinite(corners).all() and (extent > 0).all()):
        raise DegenerateLandmarksError(
            f"box is expected to be finite with x0 < x1 and y0 < y1, but got {corners.ravel()}"
        )
    crop = np.array(size[::-1], np.float64)
    wider = corners + np.array([[-0.5], [0.5]]) * margin * extent / (crop - margin)
    inside = np.clip(wider, 0, np.array(frame_size[::-1], np.float64))
    low, high = inside if (inside[1] - inside[0] >= 1).all() else wider
    scale = crop / (high - low)
    # (p + 0.5 - low) * scale - 0.5: pixel centres are integers, edges lie half a pixel before them.
    return np.column_stack([np.diag(scale), (0.5 - low) * scale - 0.5])


class InceptionResnetV1:
    """Inception-ResNet-v1 (Szegedy et al. 2017, DOI 10.1609/aaai.v31i1.11231) trained on VGGFace2, 512-d, by torch.

    The crop is the detector's box with a margin of 32 at 160 pixels. It does not use the landmarks.

    Parameters
    ----------
    path : Path
        The frozen graph (converted once, see `facepipe.backends.frozen_graph`).
    device : str
        Where torch computes. On CUDA it does so in half precision where that is safe (autocast).
    """

    name = "irv1"
    dim = 512
    crop_size = (160, 160)
    _MARGIN = 32
    _BATCH = 32

    def __init__(self, path: Path, *, device: str = "cpu") -> None:
        import torch

        self._torch = torch
        self._device = torch.device(device)
        net = _fused(_inception_resnet_v1(path))
        self._net = net.to(self._device, memory_format=torch.channels_last).requires_grad_(False)

    def frame_to_crop(self, box: Array, landmarks: Array, frame_size: tuple[int, int]) -> NDArray[np.float64]:
        """See `Embedder`."""
        del landmarks
        return box_to_crop(box, self.crop_size, margin=self._MARGIN, frame_size=frame_size)

    def crop(self, frame: Picture, box: Array, landmarks: Array) -> Image:
        """See `Embedder`."""
        return warp(frame, self.frame_to_crop(box, landmarks, frame.shape[:2]), self.crop_size)

    def embed(self, crops: Image) -> NDArray[np.float32]:
        """See `Embedder`."""
        _check_crops(crops, self.crop_size)
        parts = [self._embed(crops[i : i + self._BATCH]) for i in range(0, len(crops), self._BATCH)]
        return np.concatenate(parts) if parts else np.empty((0, self.dim), np.float32)

    def _embed(self, crops: Image) -> NDArray[np.float32]:
        torch = self._torch
        writable = np.require(crops, requirements=["C", "W"])  # torch warns of arrays that may only be read
        with torch.inference_mode(), torch.autocast(self._device.type, enabled=self._device.type == "cuda"):
            pixels = torch.from_numpy(writable).to(self._device)
            x = (pixels.permute(0, 3, 1, 2).float() - 127.5) / 128  # (N, 3, 160, 160), channels last as it came
            y = torch.nn.functional.normalize(self._net(x).float())
        return np.asarray(y.cpu().numpy(), np.float32)

    def embed_tensor(self, crops: Tensor) -> Tensor:
        """(N, 512) unit-length embeddings of (N, 3, 160, 160) crops in [-1, 1] on this net's device; differentiable.

        For losses: gradients reach the crops, the net's own weights take none.
        """
        y = self._net(crops * (127.5 / 128))  # the net was trained on (pixel - 127.5) / 128
        return self._torch.nn.functional.normalize(y.float())


class SFace:
    """SFace (Zhong et al. 2021, DOI 10.1109/TIP.2020.3048632), int8, 128-d, run by OpenCV.

    The crop is 112 pixels, aligned by a similarity transform of five points to ArcFace's template. The net takes RGB
    from 0 to 255 and normalises itself. OpenCV gains nothing from batches here, so crops go one by one.
    """

    name = "sface"
    dim = 128
    crop_size = (112, 112)

    def __init__(self, path: Path) -> None:
        self._net = read_net(path)

    def frame_to_crop(self, box: Array, landmarks: Array, frame_size: tuple[int, int]) -> NDArray[np.float64]:
        """See `Embedder`."""
        del box, frame_size
        return geometry.umeyama(geometry.five_points(landmarks), geometry.TEMPLATES["arcface5"])[:2]

    def crop(self, frame: Picture, box: Array, landmarks: Array) -> Image:
        """See `Embedder`."""
        return warp(frame, self.frame_to_crop(box, landmarks, frame.shape[:2]), self.crop_size)

    def embed(self, crops: Image) -> NDArray[np.float32]:
        """See `Embedder`."""
        _check_crops(crops, self.crop_size)
        found = np.empty((len(crops), self.dim), np.float32)
        for row, crop in zip(found, crops, strict=True):
            # By name: OpenCV 5 lists the weights of this file as inputs too, so FaceRecognizerSF refuses it.
            self._net.setInput(cv2.dnn.blobFromImage(crop), "data")
            row[:] = self._net.forward()[0]
        found /= np.linalg.norm(found, axis=1, keepdims=True)
        return found


def _check_crops(crops: Image, size: tuple[int, int]) -> None:
    if crops.ndim != 4 or crops.shape[1:] != (*size, 3) or crops.dtype != np.uint8:
        raise ValueError(
            f"crops are expected to be (N, {size[0]}, {size[1]}, 3) uint8, but got {crops.shape} {crops.dtype}"
        )


def _inception_resnet_v1(path: Path) -> Any:
    """facenet-pytorch's network with the graph's weights, for inference."""
    with warnings.catch_warnings():
        # torchvision warns of its own optional parts when facenet-pytorch imports it.
        warnings.filterwarnings("ignore", module=r"torchvision\..*")
        import facenet_pytorch
    from safetensors.torch import load_file

    net = facenet_pytorch.InceptionResnetV1()
    net.load_state_dict(load_file(frozen_graph.converted(path)), strict=True)
    return net.eval()


def _fused(net: Any) -> Any:
    """The same function with each batch norm folded into its convolution: a tenth faster, equal to 1e-7."""
    import torch
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    for block in list(net.modules()):
        if isinstance(getattr(block, "bn", None), torch.nn.BatchNorm2d):
            block.conv, block.bn = fuse_conv_bn_eval(block.conv, block.bn), torch.nn.Identity()
    return net
