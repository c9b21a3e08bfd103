"""Images per second of training: the whole loop against forward and backward alone, and what each setting is worth.

- The loop (`facepipe.stages.train.train_net`) on generated faces against the same net's forward and backward pass with
  the same losses on random tensors that lie ready: what loading, varying and book-keeping cost. The identity loss is
  left out of both: its net is another one's work.
- Presets beside each other, forward and backward alone; ``original-64`` is the published auto-encoder.
- Memory format and bfloat16, forward and backward alone.

Usage: python scripts/bench/train.py [--threads 2] [--steps 40] [--batch 8] [--json]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does; read when torch is loaded

import numpy as np
import torch
from torch import Tensor

from facepipe.config import TrainConfig
from facepipe.networks import HINTS, PRESETS, SIDES, Architecture, SwapNet
from facepipe.stages.train import train_net
from facepipe.training.data import Batch, Loader, Pair, Person, stored_side
from facepipe.training.diary import Report
from facepipe.training.objective import objective, total
from facepipe.training.state import Trainee
from facepipe.training.team import Team
from facepipe.types import Side


def person(seed: int, size: int, count: int = 128) -> Person:
    """Noise: the time does not depend on what is in the pictures."""
    rng = np.random.default_rng(seed)
    side = stored_side(size)
    return Person(
        pictures=rng.integers(0, 256, (count, side, side, 4), np.uint8),
        landmarks=rng.uniform(-0.5, 0.5, (count, 68, 2)).astype(np.float32),
        yaw=rng.uniform(-20, 20, count).astype(np.float32),
        hints=rng.normal(0, 1, (count, HINTS)).astype(np.float32),
        train=np.arange(count - 8),
        held_out=np.arange(count - 8, count),
        twins=np.arange(count),
        twin_pictures=rng.integers(0, 256, (count, size, size, 4), np.uint8),
    )


def median_seconds(work: Callable[[], object], repeat: int) -> float:
    work()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def passes(shape: Architecture, batch: int, repeat: int, *, channels_last: bool = True, bf16: bool = False) -> float:
    """Images per second of forward, losses and backward on tensors that lie ready, both persons."""
    net = SwapNet(shape)
    if channels_last:
        net = net.to(memory_format=torch.channels_last)
    images = {side: torch.rand(batch, 3, shape.size, shape.size) * 2 - 1 for side in SIDES}
    if channels_last:
        images = {side: image.to(memory_format=torch.channels_last) for side, image in images.items()}
    mask = torch.ones(batch, 1, shape.size, shape.size)
    hints = {side: torch.zeros(batch, HINTS) for side in SIDES}
    ready = Batch({side: Pair(image, image, mask, hints[side]) for side, image in images.items()}, {})
    weights = TrainConfig().loss

    def step() -> Tensor:
        context = torch.autocast("cpu", torch.bfloat16) if bf16 else contextlib.nullcontext()
        with context:
            rebuilt, swaps = net(images, 0, hints)
            loss = total(objective(rebuilt, swaps, ready, weights, None, None), weights)
        loss.backward()
        return loss

    return 2 * batch / median_seconds(step, repeat)


def loop(shape: Architecture, batch: int, steps: int) -> float:
    """Images per second of the whole loop, without swaps and identity, as `train_net` reports them."""
    config = TrainConfig(steps=steps, batch=batch, swap_every=10**9, validate_every=10**9)
    persons: dict[Side, Person] = {side: person(i, shape.size) for i, side in enumerate(SIDES)}
    loader = Loader(persons, shape.size, config)
    trainee = Trainee(shape, config, torch.device("cpu"))
    trainee.step = 1  # step 0 would swap
    with tempfile.TemporaryDirectory() as name:
        reports: list[Report] = []
        train_net(
            trainee,
            loader,
            None,
            config,
            Team(torch.device("cpu")),
            Path(name),
            facts={},
            watch=reports.append,
            stop=lambda step: step >= steps - 1,
        )
    return reports[-1].images_per_second


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=40, help="of the loop (default 40)")
    parser.add_argument("--batch", type=int, default=8, help="faces of each person (default 8)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    repeat = max(3, args.steps // 4)
    cpu = PRESETS["cpu-64"]
    rows = {
        "cpu-64, whole loop": loop(cpu, args.batch, args.steps),
        "cpu-64, forward + backward": passes(cpu, args.batch, repeat),
        "cpu-64, not channels-last": passes(cpu, args.batch, repeat, channels_last=False),
        "cpu-64, bfloat16": passes(cpu, args.batch, repeat, bf16=True),
        "original-64, forward + backward": passes(PRESETS["original-64"], args.batch, 3),
    }
    if args.json:
        print(json.dumps({"threads": args.threads, "batch": args.batch, "images_per_second": rows}, indent=2))
        return
    print(f"{args.threads} thread(s), {args.batch} faces of each person a step; images/s")
    for name, value in rows.items():
        print(f"{name:34s} {value:8.1f}  {value / rows['cpu-64, forward + backward']:5.2f}x")


if __name__ == "__main__":
    main()
