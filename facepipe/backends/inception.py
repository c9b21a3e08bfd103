"""Inception-v3 as TensorFlow's graph of 2015-12-05 has it: the network of FID and of the inception score.

It differs from torchvision's: average pooling leaves the padding out of the mean, the last block pools by the maximum,
and there are 1008 classes. Szegedy et al. 2016, DOI 10.1109/CVPR.2016.308. Parameters are named as in the weights file
that pytorch-fid and torch-fidelity share (``pt_inception-2015-12-05``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["InceptionV3"]

_Conv = tuple[int, int | tuple[int, int]]
"""Output channels and kernel."""
_Path = Sequence[str]
"""Names of layers in a row; "avg" and "max" pool 3x3."""


class _ConvNormRelu(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int | tuple[int, int], stride: int, *, pad: bool) -> None:
        super().__init__()
        height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (height // 2, width // 2) if pad else (0, 0)
        self.conv = nn.Conv2d(inputs, outputs, (height, width), stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


class _Block(nn.Module):
    """Paths beside each other, whose outputs are joined along the channels; paths may begin alike.

    With a stride of 2 the last layer of each path makes the step, without padding.
    """

    def __init__(self, inputs: int, convs: Mapping[str, _Conv], paths: Sequence[_Path], *, stride: int = 1) -> None:
        super().__init__()
        self.paths, self.stride = paths, stride
        ends = {path[-1] for path in paths} if stride > 1 else set()
        for path in paths:
            channels = inputs
            for name in path:
                if name in convs:
                    outputs, kernel = convs[name]
                    if name not in self._modules:
                        last = name in ends
                        conv = _ConvNormRelu(channels, outputs, kernel, stride if last else 1, pad=not last)
                        self.add_module(name, conv)
                    channels = outputs

    def forward(self, x: Tensor) -> Tensor:
        done: dict[tuple[str, ...], Tensor] = {(): x}
        for path in self.paths:
            for i, name in enumerate(path):
                before, after = tuple(path[:i]), tuple(path[: i + 1])
                if after not in done:
                    done[after] = self._layer(name, done[before])
        return torch.cat([done[tuple(path)] for path in self.paths], dim=1)

    def _layer(self, name: str, x: Tensor) -> Tensor:
        padding = 1 if self.stride == 1 else 0
        if name == "avg":
            return F.avg_pool2d(x, 3, self.stride, padding, count_include_pad=False)
        if name == "max":
            return F.max_pool2d(x, 3, self.stride, padding)
        y: Tensor = self._modules[name](x)  # type: ignore[misc]  # never None
        return y


def _block_35(inputs: int, pool: int) -> _Block:
    """Figure 5 of the paper: 35x35."""
    return _Block(
        inputs,
        {
            "branch1x1": (64, 1),
            "branch5x5_1": (48, 1),
            "branch5x5_2": (64, 5),
            "branch3x3dbl_1": (64, 1),
            "branch3x3dbl_2": (96, 3),
            "branch3x3dbl_3": (96, 3),
            "branch_pool": (pool, 1),
        },
        [
            ["branch1x1"],
            ["branch5x5_1", "branch5x5_2"],
            ["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"],
            ["avg", "branch_pool"],
        ],
    )


def _step_17(inputs: int) -> _Block:
    """From 35x35 to 17x17."""
    return _Block(
        inputs,
        {"branch3x3": (384, 3), "branch3x3dbl_1": (64, 1), "branch3x3dbl_2": (96, 3), "branch3x3dbl_3": (96, 3)},
        [["branch3x3"], ["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"], ["max"]],
        stride=2,
    )


def _block_17(inputs: int, width: int) -> _Block:
    """Figure 6: 17x17, convolutions of 7 split in two."""
    across, down = (1, 7), (7, 1)
    return _Block(
        inputs,
        {
            "branch1x1": (192, 1),
            "branch7x7_1": (width, 1),
            "branch7x7_2": (width, across),
            "branch7x7_3": (192, down),
            "branch7x7dbl_1": (width, 1),
            "branch7x7dbl_2": (width, down),
            "branch7x7dbl_3": (width, across),
            "branch7x7dbl_4": (width, down),
            "branch7x7dbl_5": (192, across),
            "branch_pool": (192, 1),
        },
        [
            ["branch1x1"],
            [f"branch7x7_{i}" for i in range(1, 4)],
            [f"branch7x7dbl_{i}" for i in range(1, 6)],
            ["avg", "branch_pool"],
        ],
    )


def _step_8(inputs: int) -> _Block:
    """From 17x17 to 8x8."""
    return _Block(
        inputs,
        {
            "branch3x3_1": (192, 1),
            "branch3x3_2": (320, 3),
            "branch7x7x3_1": (192, 1),
            "branch7x7x3_2": (192, (1, 7)),
            "branch7x7x3_3": (192, (7, 1)),
            "branch7x7x3_4": (192, 3),
        },
        [["branch3x3_1", "branch3x3_2"], [f"branch7x7x3_{i}" for i in range(1, 5)], ["max"]],
        stride=2,
    )


def _block_8(inputs: int, pool: str) -> _Block:
    """Figure 7: 8x8, paths that fork."""
    double = ["branch3x3dbl_1", "branch3x3dbl_2"]
    return _Block(
        inputs,
        {
            "branch1x1": (320, 1),
            "branch3x3_1": (384, 1),
            "branch3x3_2a": (384, (1, 3)),
            "branch3x3_2b": (384, (3, 1)),
            "branch3x3dbl_1": (448, 1),
            "branch3x3dbl_2": (384, 3),
            "branch3x3dbl_3a": (384, (1, 3)),
            "branch3x3dbl_3b": (384, (3, 1)),
            "branch_pool": (192, 1),
        },
        [
            ["branch1x1"],
            ["branch3x3_1", "branch3x3_2a"],
            ["branch3x3_1", "branch3x3_2b"],
            [*double, "branch3x3dbl_3a"],
            [*double, "branch3x3dbl_3b"],
            [pool, "branch_pool"],
        ],
    )


class InceptionV3(nn.Module):
    """The whole network, up to the logits.

    Its input is (B, 3, 299, 299) in [-1, 1], RGB; see `forward` for its outputs.
    """

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = _ConvNormRelu(3, 32, 3, 2, pad=False)
        self.Conv2d_2a_3x3 = _ConvNormRelu(32, 32, 3, 1, pad=False)
        self.Conv2d_2b_3x3 = _ConvNormRelu(32, 64, 3, 1, pad=True)
        self.Conv2d_3b_1x1 = _ConvNormRelu(64, 80, 1, 1, pad=False)
        self.Conv2d_4a_3x3 = _ConvNormRelu(80, 192, 3, 1, pad=False)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = _block_35(192, 32), _block_35(256, 64), _block_35(288, 64)
        self.Mixed_6a = _step_17(288)
        self.Mixed_6b, self.Mixed_6c = _block_17(768, 128), _block_17(768, 160)
        self.Mixed_6d, self.Mixed_6e = _block_17(768, 160), _block_17(768, 192)
        self.Mixed_7a = _step_8(768)
        self.Mixed_7b, self.Mixed_7c = _block_8(1280, "avg"), _block_8(2048, "max")
        self.fc = nn.Linear(2048, 1008)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Pooled features, (B, 2048), and logits, (B, 1008), without the bias of the last layer.

        TensorFlow's inception score leaves that bias out; so do torch-fidelity and torchmetrics.
        """
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, 2)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(F.max_pool2d(x, 3, 2))))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        features = x.mean((2, 3))
        return features, F.linear(features, self.fc.weight)
