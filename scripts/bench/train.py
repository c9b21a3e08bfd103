"""What training and the trained swap cost: images/s, memory, time to the same held-out faces, frames/s.

- Images per second: the loop (`facepipe.stages.train.train_net`) on generated faces, and between its steps the same
  net's forward and backward pass with the same losses on random tensors that lie ready: what loading, varying,
  clipping, the optimiser and the averaged weights cost. Then what channels-last, bfloat16 and `torch.compile` are
  worth, and ``original-64``, the published auto-encoder. All of them take turns, step by step, so that other work on
  the machine hits all alike; the loop's first steps are not counted, nor is its start. No swaps, no identity loss.
- Images per second of the loop in one and in two processes that ``torchrun`` starts, one thread and a batch each.
- Peak memory of a process that trains a few steps and writes a checkpoint, likewise without the identity net.
- With ``--run``: how long ``original-64`` trains to what it reaches on held-out faces in some minutes, and how long
  ``cpu-64`` takes to the same: masked PSNR, mean of both persons, of the raw or the averaged weights, whichever is
  better. Same pictures, same losses (of the rebuilt face alone), same schedule. Building the nets counts, and so does
  the linear start; measuring does not.
- With ``--run`` of a finished gan run: frames/s of the swap of its first target clip (decode, net, composite; with and
  without writing the videos) against the net alone on the same faces.

Usage: python scripts/bench/train.py [--run RUN] [--minutes 3] [--threads 2] [--steps 40] [--batch 8] [--json]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does; read when torch is loaded
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from facepipe.config import Config, LossWeights, TrainConfig, load
from facepipe.methods.faceset import hints_of
from facepipe.methods.gan import GanPlan, Generator
from facepipe.methods.plan import rows_to_swap
from facepipe.networks import PRESETS, Architecture, SwapNet
from facepipe.people import person_rows
from facepipe.stages.swap import swap_frames, write_swap
from facepipe.stages.train import train_net
from facepipe.training.data import Batch, Loader, Pair, Person, stored_side
from facepipe.training.diary import Report
from facepipe.training.objective import objective, total
from facepipe.training.setup import Setup
from facepipe.training.state import Trainee
from facepipe.training.team import Team
from facepipe.training.validation import Validator
from facepipe.types import HINTS, SIDES, Side
from facepipe.video import find_clips, open_clip
from facepipe.workspace import read_crops, read_faces, read_json, write_json

NEVER = 10**9
BLOCK = 10  # steps whose times are added up: some things are done every few steps
MEMORY_STEPS = 4
CPU = torch.device("cpu")
ALONE = Team(CPU)
NO_RUN = "give --run RUN: a finished run folder (facepipe run --set swap.method=gan)"


@dataclass(frozen=True)
class Row:
    """A line of a table; without a value the note says why."""

    name: str
    value: float | None = None
    ratio: float | None = None
    note: str = ""

    def __str__(self) -> str:
        value = f"{'-':>8s}" if self.value is None else f"{self.value:8.1f}"
        ratio = " " * 7 if self.ratio is None else f"{self.ratio:6.2f}x"
        return f"{self.name:36s} {value} {ratio}  {self.note}".rstrip()


# Images per second


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


def passes(
    shape: Architecture, batch: int, *, channels_last: bool = True, bf16: bool = False, compiled: bool = False
) -> Callable[[], float]:
    """What runs forward, losses and backward once on tensors that lie ready, both persons, and tells the seconds."""
    net = SwapNet(shape)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    net = net.to(memory_format=layout)
    images = {side: (torch.rand(batch, 3, shape.size, shape.size) * 2 - 1).to(memory_format=layout) for side in SIDES}
    mask = torch.ones(batch, 1, shape.size, shape.size)
    hints = {side: torch.zeros(batch, HINTS) for side in SIDES}
    ready = Batch({side: Pair(image, image, mask, hints[side]) for side, image in images.items()}, {})
    weights = TrainConfig().loss
    called = torch.compile(net) if compiled else net

    def seconds() -> float:
        net.zero_grad()
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16) if bf16 else contextlib.nullcontext():
            rebuilt, swaps = called(images, 0, hints)
            loss = total(objective(rebuilt, swaps, ready, weights, None, None), weights)
        loss.backward()
        return time.perf_counter() - start

    return seconds


def nothing() -> None:
    """Between two steps."""


def loop(
    shape: Architecture, batch: int, steps: int, between: Callable[[], None] = nothing, team: Team = ALONE
) -> list[float]:
    """Seconds of each step of `train_net` without swaps and identity; `between` is called after each, uncounted."""
    config = TrainConfig(steps=NEVER, batch=batch, swap_every=NEVER, validate_every=NEVER)
    persons: dict[Side, Person] = {side: person(i, shape.size) for i, side in enumerate(SIDES)}
    loader = Loader(persons, shape.size, config, part=(team.number, team.size))
    trainee = Trainee(shape, config, CPU)
    trainee.step = 1  # step 0 would swap
    took: list[float] = []
    start = time.perf_counter()

    def stop(step: int) -> bool:
        nonlocal start
        took.append(time.perf_counter() - start)
        between()
        start = time.perf_counter()
        return step > steps

    with tempfile.TemporaryDirectory() as name:
        train_net(trainee, loader, None, config, team, Path(name), facts={}, stop=stop)
    return took


def try_compiled(batch: int) -> tuple[Callable[[], float] | None, str]:
    """The pass of the compiled net after its first call, and what to say of it; none without a compiler."""
    work = passes(PRESETS["cpu-64"], batch, compiled=True)
    start = time.perf_counter()
    try:
        work()
    except RuntimeError as exc:  # torch's own kind of it, whatever is wrong
        if "compiler" not in str(exc):
            raise
        return None, f"not measured: {str(exc).splitlines()[0]}"
    return work, f"{time.perf_counter() - start:.0f} s of compiling not counted"


def speed(batch: int, steps: int) -> list[Row]:
    """Images/s, and their ratio to forward + backward alone; medians over blocks of steps."""
    cpu, base = PRESETS["cpu-64"], "cpu-64, forward + backward"
    with tempfile.TemporaryDirectory() as name:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = name  # else it is compiled only once
        fast, note = try_compiled(batch)
    works = {
        base: passes(cpu, batch),
        "cpu-64, not channels-last": passes(cpu, batch, channels_last=False),
        "cpu-64, bfloat16": passes(cpu, batch, bf16=True),
        **({} if fast is None else {"cpu-64, torch.compile": fast}),
    }
    slow = "original-64, forward + backward"
    works[slow] = passes(PRESETS["original-64"], batch)
    took: dict[str, list[float]] = {name: [] for name in works}

    def between() -> None:
        for name, work in works.items():
            if name != slow or len(took[base]) % BLOCK == 0:
                took[name].append(work())

    blocks = {"cpu-64, whole loop": _blocks(loop(cpu, batch, steps + BLOCK, between))}
    blocks |= {name: _blocks(times, 1 if name == slow else BLOCK) for name, times in took.items()}
    rows = [
        Row(name, float(np.median(2 * batch / times)), float(np.median(blocks[base] / times)))
        for name, times in blocks.items()
    ]
    rows = [replace(row, note="aim 0.85x") if "loop" in row.name else row for row in rows]
    rows = [replace(row, note=note) if "compile" in row.name else row for row in rows]
    return rows if fast is not None else [*rows, Row("cpu-64, torch.compile", note=note)]


def _blocks(times: Sequence[float], length: int = BLOCK) -> NDArray[np.float64]:
    """Mean of each block; the first block, which warms up, is left out."""
    return np.asarray(np.reshape(times, (-1, length)).mean(1)[1:])


# Several processes


def member(batch: int, steps: int) -> None:
    """Train as one of the processes that `scaling` started; the first prints images/s of all of them."""
    team = Team.join("cpu")
    whole = batch * team.size
    blocks = _blocks(loop(PRESETS["cpu-64"], whole, steps + BLOCK, team=team))
    if team.leads:
        print(float(np.median(2 * whole / blocks)))


def scaling(batch: int, steps: int) -> list[Row]:
    """The loop in one and in two processes of one thread each."""
    found = []
    for count in (1, 2):
        start = (sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}")
        command = (*start, __file__, "--member", "--threads=1", f"--batch={batch}", f"--steps={steps}")
        told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        found.append(float(told.split()[-1]))
    return [
        Row(f"{k} process(es)", rate, rate / found[0], "of 2x" if k > 1 else "") for k, rate in enumerate(found, 1)
    ]


# Memory


def peak(preset: str, batch: int, threads: int) -> float:
    """Peak memory of this process in MB, after a training of a few steps."""
    torch.set_num_threads(threads)
    loop(PRESETS[preset], batch, MEMORY_STEPS)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def memory(batch: int, threads: int) -> list[Row]:
    """Each in a process of its own. It starts with its parent's peak: call this before anything large is made."""
    found = {}
    for name in ("original-64", "cpu-64"):
        with ProcessPoolExecutor(1, get_context("spawn")) as process:
            found[name] = process.submit(peak, name, batch, threads).result()
    return [Row(name, value, value / found["original-64"]) for name, value in found.items()]


# Time to the same held-out faces


@contextlib.contextmanager
def training(run: Path, shape: Architecture, config: TrainConfig) -> Iterator[tuple[Setup, Path, float]]:
    """A training of another net on the pictures of a run, its own folder, and the seconds that it took to set up."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file in run.glob("model/faces-*"):
            (folder / file.name).symlink_to(file.resolve())
        facts = read_json(run / "model" / "setup.json")["facts"]
        write_json(folder / "setup.json", {"facts": {**facts, "architecture": asdict(shape)}})
        start = time.perf_counter()
        setup = Setup.read(folder, Config(train=config), Team(CPU), None)
        seconds = time.perf_counter() - start
        setup.trainee.step = 1  # step 0 would swap
        yield setup, folder, seconds


def held_out(setup: Setup) -> float:
    """Masked PSNR of held-out faces in dB, mean of both persons, of the better of raw and averaged weights."""
    found = []
    for net in (setup.trainee.raw, setup.trainee.averaged):
        validator = Validator(setup.loader, None)
        found.append(_psnr(validator(net)))
        validator.close()
    return max(found)


def _psnr(scores: dict[str, float]) -> float:
    return sum(scores[f"psnr_{side}"] for side in SIDES) / len(SIDES)


def train(started: tuple[Setup, Path, float], config: TrainConfig, goal: float) -> float:
    """Train until validation says `goal` or the minutes are over; the seconds, without those of validations."""
    setup, folder, seconds = started
    reports: list[Report] = []
    report = train_net(
        setup.trainee,
        setup.loader,
        None,
        config,
        Team(CPU),
        folder,
        facts={},
        watch=reports.append,
        stop=lambda _: bool(reports and reports[-1].scores and _psnr(reports[-1].scores) >= goal),
    )
    return seconds + 2 * config.batch * (report.step - 1) / report.images_per_second


def same_result(run: Path, batch: int, minutes: float) -> list[Row]:
    """Seconds of ``original-64`` to its result after some minutes, and of ``cpu-64`` to the same."""
    if read_json(run / "model" / "setup.json")["facts"]["architecture"]["size"] != 64:
        return [Row("original-64, cpu-64", note=f"not measured: the pictures of {run} are not of 64 px")]
    weights = LossWeights(identity=0, twin=0, mask=0)  # original-64 draws no masks
    config = TrainConfig(
        steps=NEVER, minutes=minutes, batch=batch, swap_every=NEVER, validate_every=NEVER, patience=0, loss=weights
    )
    with training(run, PRESETS["original-64"], config) as begun:
        slow = train(begun, config, float("inf"))
        goal, done = held_out(begun[0]), begun[0].trainee.step - 1
    rows = [Row(f"original-64 for {minutes:g} min", slow, 1.0, f"{goal:.2f} dB after {done} steps")]
    config = config.model_copy(update={"validate_every": BLOCK})
    with training(run, PRESETS["cpu-64"], config) as begun:
        fast, reached = begun[2], held_out(begun[0])
        if reached < goal:
            fast = train(begun, config, goal)
            reached = held_out(begun[0])
        done = begun[0].trainee.step - 1
    when = f"after {done} steps" if done else "by the linear start, before the first step"
    if reached < goal:
        return [*rows, Row("cpu-64 to the same", note=f"not reached: {reached:.2f} dB {when}")]
    return [*rows, Row("cpu-64 to the same", fast, slow / fast, f"{reached:.2f} dB {when}; aim 2x")]


# The trained swap


def swap_speed(run: Path, rounds: int = 3) -> list[Row]:
    """Frames/s, medians of rounds in which all take turns; ratios to the net alone."""
    config = load(run / "config.toml")
    generator = Generator.load(run / "model" / "generator")
    assert config.target is not None
    clip = find_clips(config.target)[0]
    folder = run / "target" / clip.name
    faces = read_faces(folder / "faces.parquet")
    (rows,) = person_rows([faces], similarity=config.swap.person_similarity)
    plan = GanPlan(generator, faces, rows, config.swap)
    small = generator.net.shape.size
    crops = read_crops(folder / "crops.npy")[rows_to_swap(faces, rows, config.swap)]
    images = np.stack(
        [generator.view.see(c, f, np.eye(2, 3), small).image for c, f in zip(crops, plan.faces, strict=True)]
    )
    hints = hints_of(plan.faces, plan.faces)

    def draw() -> None:
        for start in range(0, len(images), plan.batch):
            part = slice(start, start + plan.batch)
            generator.draw(images[part], "target", "source", hints[part])

    def swap(out: Path | None) -> None:
        with open_clip(clip) as reader, contextlib.closing(swap_frames(reader, plan, config.swap)) as swapped:
            if out is None:
                for _ in swapped:
                    pass
                return
            write_swap(
                swapped,
                config.swap,
                like=reader.info,
                video=out / "video.mkv",
                mask=out / "mask.mkv",
                audio_from=clip.path if reader.info.has_audio else None,
                metadata={},
                sign=lambda _: None,  # see label.py for what that costs
            )

    with tempfile.TemporaryDirectory() as name:
        works: dict[str, Callable[[], None]] = {
            "net alone, batches of 16": draw,
            "swap, not written": lambda: swap(None),
            "swap, videos written": lambda: swap(Path(name)),
        }
        draw()
        took: dict[str, list[float]] = {what: [] for what in works}
        for _ in range(rounds):
            for what, work in works.items():
                start = time.perf_counter()
                work()
                took[what].append(time.perf_counter() - start)
    alone = np.array(took["net alone, batches of 16"])
    notes = ("", "aim 0.80x", f"{clip.name}, {len(images)} faces")
    return [
        Row(what, len(images) / float(np.median(times)), float(np.median(alone / times)), note)
        for (what, times), note in zip(took.items(), notes, strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="a finished run folder, which is only read")
    parser.add_argument("--minutes", type=float, default=3.0, help="that original-64 trains (default 3)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=40, help=f"of the loop, in blocks of {BLOCK} (default 40)")
    parser.add_argument("--batch", type=int, default=8, help="faces of each person (default 8)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--member", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.steps < BLOCK or args.steps % BLOCK:
        parser.error(f"--steps: expected a multiple of {BLOCK}, got {args.steps}")
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    if args.member:
        member(args.batch, args.steps)
        return
    run: Path | None = args.run
    if run is not None and not (run / "model" / "setup.json").is_file():
        parser.error(f"--run: {run} has no model/setup.json; {NO_RUN}")
    tables: dict[str, Callable[[], list[Row]]] = {
        "peak memory, MB": lambda: memory(args.batch, args.threads),
        "images/s": lambda: speed(args.batch, args.steps),
        "images/s of the loop, a thread and a batch each": lambda: scaling(args.batch, args.steps),
        "seconds to the same held-out PSNR": lambda: (
            [Row("original-64, cpu-64", note=NO_RUN)] if run is None else same_result(run, args.batch, args.minutes)
        ),
        "frames/s": lambda: [Row("swap", note=NO_RUN)] if run is None else swap_speed(run),
    }
    if args.json:
        found = {title: [asdict(row) for row in table()] for title, table in tables.items()}
        print(json.dumps({"threads": args.threads, "batch": args.batch, "tables": found}, indent=2))
        return
    print(f"{args.threads} thread(s), {args.batch} faces of each person a step")
    for title, table in tables.items():
        print(f"\n{title}", flush=True)
        for row in table():
            print(row, flush=True)


if __name__ == "__main__":
    main()
