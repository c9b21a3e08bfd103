"""From a frozen TensorFlow graph to the state dict of ``facenet_pytorch.InceptionResnetV1``, without TensorFlow.

The graph (model 20180402-114759 of *facenet*, trained on VGGFace2) is a protocol buffer: a list of nodes, of which
those with the operation ``Const`` hold the weights. Of protobuf's wire format
(https://protobuf.dev/programming-guides/encoding) only the reading of fields is needed: `_fields`.

In the graph each batch norm that follows a convolution is folded into it: weights and an offset are left. The
network's class has the batch norms, so they become the identity with that offset: weight 1, mean 0,
variance ``1 - eps``, bias = offset.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from facepipe import weights
from facepipe.errors import WeightsError

__all__ = ["CONVERTER_VERSION", "converted", "inception_resnet_v1_state", "read_constants"]

CONVERTER_VERSION = "1"
"""Written into converted files; another version is converted anew."""

_FLOAT = 1  # tensorflow/core/framework/types.proto: DT_FLOAT
_EPS = 1e-3  # of every batch norm in facenet_pytorch.InceptionResnetV1
_STEM = ("1a_3x3", "2a_3x3", "2b_3x3", "3b_1x1", "4a_3x3", "4b_3x3")
_REPEATS = (
    ("repeat_1", "Repeat/block35", 5),
    ("repeat_2", "Repeat_1/block17", 10),
    ("repeat_3", "Repeat_2/block8", 5),
)

_State = dict[str, NDArray[Any]]


def read_constants(graph: bytes | memoryview) -> dict[str, NDArray[np.float32]]:
    """The float32 constants of a serialised TensorFlow ``GraphDef``, by the name of their node.

    Parameters
    ----------
    graph : bytes
        Content of the ``.pb`` file.

    Returns
    -------
    dict of str to array
        In TensorFlow's layout: convolutions are (height, width, in, out), matrices (in, out).

    Raises
    ------
    WeightsError
        These bytes are not such a graph.
    """
    found: dict[str, NDArray[np.float32]] = {}
    try:
        for number, node in _fields(memoryview(graph)):
            parts = list(_fields(node)) if number == 1 else []  # GraphDef.node
            if not any(n == 2 and v == b"Const" for n, v in parts):  # NodeDef.op
                continue
            name = str(next(v for n, v in parts if n == 1), "utf-8")
            attributes = [dict(_fields(v)) for n, v in parts if n == 5]  # NodeDef.attr: a map of name to AttrValue
            value = next(next(_fields(a[2])) for a in attributes if a[1] == b"value")
            tensor = _tensor(value[1]) if value[0] == 8 else None  # AttrValue.tensor
            if tensor is not None:
                found[name] = tensor
    except (IndexError, KeyError, StopIteration, TypeError, ValueError) as exc:
        raise WeightsError(
            f"not a frozen TensorFlow graph ({exc or type(exc).__name__}); pull the file again"
        ) from exc
    return found


def inception_resnet_v1_state(constants: dict[str, NDArray[np.float32]]) -> _State:
    """Name and lay out the graph's constants as ``facenet_pytorch.InceptionResnetV1`` does: 714 arrays.

    Raises
    ------
    WeightsError
        A constant is missing: the graph is of another architecture.
    """
    scopes = {f"conv2d_{name[:2]}": [f"Conv2d_{name}"] for name in _STEM}
    blocks = [(f"{ours}.{i}", f"{theirs}_{i + 1}") for ours, theirs, n in _REPEATS for i in range(n)]
    residual = [*blocks, ("block8", "Block8")]
    for ours, theirs in (*residual, ("mixed_6a", "Mixed_6a"), ("mixed_7a", "Mixed_7a")):
        for branch, convolutions in _branches(constants, theirs).items():
            scopes[f"{ours}.branch{branch}"] = convolutions
    state: _State = {}
    try:
        for ours, convolutions in scopes.items():
            alone = len(convolutions) == 1  # a branch of one convolution is that module, a longer one a sequence
            for i, theirs in enumerate(convolutions):
                state |= _basic_conv(constants, ours if alone else f"{ours}.{i}", theirs)
        for ours, theirs in residual:
            at = f"InceptionResnetV1/{theirs}/Conv2d_1x1/"
            state[f"{ours}.conv2d.weight"] = _oihw(constants[at + "weights"])
            state[f"{ours}.conv2d.bias"] = constants[at + "biases"]
        state |= _bottleneck(constants)
    except KeyError as exc:
        raise WeightsError(f"the graph is not an Inception-ResNet-v1: it has no constant {exc}") from exc
    return {name: np.ascontiguousarray(array) for name, array in state.items()}


def converted(graph: Path, *, folder: Path | None = None) -> Path:
    """The graph's weights as a safetensors file, converted the first time and kept.

    Parameters
    ----------
    graph : Path
        The frozen graph, already verified (`facepipe.weights.path`).
    folder : Path, optional
        Where to keep it; by default in the cache, under the graph's sha256.

    Returns
    -------
    Path
        Its metadata names the graph's sha256 and the converter's version.

    Raises
    ------
    WeightsError
        The file is not such a graph.
    """
    digest = weights.sha256(graph)
    folder = folder or weights.cache_folder() / "converted"
    target = folder / f"irv1-{digest[:12]}-v{CONVERTER_VERSION}.safetensors"
    expected = {"converter": CONVERTER_VERSION, "source_sha256": digest}
    with contextlib.suppress(OSError, SafetensorError), safe_open(target, framework="numpy") as stored:
        if stored.metadata() == expected:
            return target
    try:
        state = inception_resnet_v1_state(read_constants(graph.read_bytes()))
    except WeightsError as exc:
        raise WeightsError(f"{graph}: {exc}") from exc
    _save(state, target, expected)
    return target


def _save(state: _State, target: Path, metadata: dict[str, str]) -> None:
    """Write beside and rename, so that a half file never has the name."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=target.name + ".", suffix=".part")
    os.close(handle)
    part = Path(name)
    try:
        save_file(state, part, metadata)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


# ------------------------------------------------------------------------------------------------- the wire format


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _fields(data: memoryview) -> Iterator[tuple[int, Any]]:
    """Number and value of each field of a message: an integer for varints, else the bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        size, at = {1: (8, at), 5: (4, at)}.get(wire) or _varint(data, at)
        if wire == 0:
            yield number, size
            continue
        if wire not in (1, 2, 5) or at + size > len(data):
            raise ValueError(f"field {number} of wire type {wire} at byte {at}")
        yield number, data[at : at + size]
        at += size


def _tensor(message: memoryview) -> NDArray[np.float32] | None:
    """A TensorProto as an array; None unless it is float32."""
    shape: list[int] = []
    kind, values = 0, memoryview(b"")
    for number, value in _fields(message):
        if number == 1:  # dtype
            kind = value
        elif number == 2:  # tensor_shape: TensorShapeProto.dim.size
            shape = [dict(_fields(dim)).get(1, 0) for n, dim in _fields(value) if n == 2]
        elif number in (4, 5):  # tensor_content, or float_val (packed)
            values = value
    if kind != _FLOAT:
        return None
    array = np.frombuffer(values, "<f4").astype(np.float32)
    return np.full(shape, array[0], np.float32) if array.size == 1 else array.reshape(shape)  # one stands for all


# ------------------------------------------------------------------------------------------------- the architecture


def _branches(constants: dict[str, NDArray[np.float32]], scope: str) -> dict[int, list[str]]:
    """The convolutions of each branch of a block, in order (0a, 0b, 0c, 1a)."""
    found: dict[int, list[str]] = {}
    start = f"InceptionResnetV1/{scope}/Branch_"
    for name in sorted(constants):
        if name.startswith(start) and name.endswith("/weights"):
            path = name.removeprefix("InceptionResnetV1/").removesuffix("/weights")
            found.setdefault(int(name[len(start)]), []).append(path)
    return found


def _basic_conv(constants: dict[str, NDArray[np.float32]], ours: str, theirs: str) -> _State:
    at = f"InceptionResnetV1/{theirs}/"
    offset = constants[at + "Conv2D_bn_offset"]
    one = np.ones_like(offset)
    return {f"{ours}.conv.weight": _oihw(constants[at + "weights"])} | _norm(
        f"{ours}.bn", weight=one, bias=offset, mean=0 * one, variance=(1 - _EPS) * one
    )


def _bottleneck(constants: dict[str, NDArray[np.float32]]) -> _State:
    at = "InceptionResnetV1/Bottleneck/"
    norm = at + "BatchNorm/"
    return {"last_linear.weight": constants[at + "weights"].T} | _norm(
        "last_bn",
        weight=constants[norm + "Const"],
        bias=constants[norm + "beta"],
        mean=constants[norm + "moving_mean"],
        variance=constants[norm + "moving_variance"],
    )


def _norm(
    ours: str,
    *,
    weight: NDArray[np.float32],
    bias: NDArray[np.float32],
    mean: NDArray[np.float32],
    variance: NDArray[np.float32],
) -> _State:
    return {
        f"{ours}.weight": weight,
        f"{ours}.bias": bias,
        f"{ours}.running_mean": mean,
        f"{ours}.running_var": variance,
        f"{ours}.num_batches_tracked": np.zeros((), np.int64),
    }


def _oihw(kernel: NDArray[np.float32]) -> NDArray[np.float32]:
    """(height, width, in, out) of TensorFlow to (out, in, height, width) of torch."""
    return kernel.transpose(3, 2, 0, 1)
