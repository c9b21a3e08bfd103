"""Milliseconds a face of the embedders, and of what was tried to make Inception-ResNet-v1 faster.

Each variant is also compared with the plain network: its largest difference stands in the last column.

    python scripts/bench/embed.py [--threads 1 2] [--batches 1 8 32]
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
import torch
from facenet_pytorch import InceptionResnetV1
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch.nn.utils.fusion import fuse_conv_bn_eval

from facepipe import weights
from facepipe.backends.embedders import load_embedder
from facepipe.backends.frozen_graph import converted

Run = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


def network(*, fused: bool, channels_last: bool) -> Any:
    net = InceptionResnetV1()
    net.load_state_dict(load_file(converted(weights.path("irv1"))))
    net.eval()
    for block in list(net.modules()) if fused else ():
        if isinstance(getattr(block, "bn", None), torch.nn.BatchNorm2d):
            block.conv, block.bn = fuse_conv_bn_eval(block.conv, block.bn), torch.nn.Identity()
    return net.to(memory_format=torch.channels_last) if channels_last else net


def runner(net: Any, *, channels_last: bool) -> Run:
    def run(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            x = (torch.from_numpy(crops).permute(0, 3, 1, 2).float() - 127.5) / 128
            return np.asarray(net(x if channels_last else x.contiguous()).numpy())

    return run


def traced(net: Any, *, channels_last: bool, optimized: bool) -> Run:
    x = torch.zeros(2, 3, 160, 160)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch.jit is on its way out, and says so
        script = torch.jit.freeze(torch.jit.trace(net, x, check_trace=False))
        script = torch.jit.optimize_for_inference(script) if optimized else script
    return runner(script, channels_last=channels_last)


def opencv() -> Run:
    net = cv2.dnn.readNetFromTensorflow(str(weights.path("irv1")))

    def run(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        rows = []
        for crop in crops:  # OpenCV 5 cannot run this graph on more than one
            net.setInput(cv2.dnn.blobFromImage(crop, 1 / 128, mean=(127.5, 127.5, 127.5)))
            rows.append(net.forward()[0].copy())
        return np.stack(rows)

    return run


def variants() -> Iterator[tuple[str, Run]]:
    for fused in (False, True):
        for last in (False, True):
            net = network(fused=fused, channels_last=last)
            name = f"torch{', fused' if fused else ''}{', channels last' if last else ''}"
            yield name, runner(net, channels_last=last)
            if fused:
                yield f"{name}, jit.freeze", traced(net, channels_last=last, optimized=False)
                yield f"{name}, optimize_for_inference", traced(net, channels_last=last, optimized=True)
    yield "OpenCV on the graph", opencv()
    yield "facepipe irv1", load_embedder("irv1").embed


def milliseconds(run: Run, crops: NDArray[np.uint8]) -> float:
    """Shortest time a crop, after two calls to warm up: the one that other programs disturbed least."""
    run(crops), run(crops)
    times = []
    for _ in range(max(3, 16 // len(crops))):
        start = time.perf_counter()
        run(crops)
        times.append(time.perf_counter() - start)
    return min(times) / len(crops) * 1000


def table(title: str, runs: Iterator[tuple[str, Run]], size: int, batches: list[int]) -> None:
    crops = np.random.default_rng(0).integers(0, 256, (max(batches), size, size, 3), dtype=np.uint8)
    expected = None
    print(f"{title:54}" + "".join(f"  batch {b:<3}" for b in batches) + "  difference")
    for name, run in runs:
        told = [milliseconds(run, crops[:b]) for b in batches]
        found = run(crops)
        expected = found if expected is None else expected
        print(
            f"  {name:52}" + "".join(f"{t:8.1f} ms" for t in told) + f"  {abs(found - expected).max():.0e}", flush=True
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    options = parser.parse_args()
    print(f"torch {torch.__version__}, OpenCV {cv2.__version__}; milliseconds a face, best call")
    for threads in options.threads:
        torch.set_num_threads(threads)
        cv2.setNumThreads(threads)
        table(f"Inception-ResNet-v1, {threads} thread(s)", variants(), 160, options.batches)
        sface = load_embedder("sface").embed
        table(f"SFace, {threads} thread(s)", iter([("facepipe sface", sface)]), 112, options.batches)


if __name__ == "__main__":
    main()
