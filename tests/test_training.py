"""Training: data, variation, the loop, resume, what goes wrong, and several processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from facepipe.config import AugmentConfig, TrainConfig, build
from facepipe.errors import CheckpointError, ConfigError, TrainingError
from facepipe.networks import Architecture, architecture
from facepipe.stages.train import interrupted, train_net
from facepipe.training import augment, checkpoint
from facepipe.training.data import INSIDE, Loader, Person, Swappable, as_floats, step_generator, stored_side
from facepipe.training.diary import Report
from facepipe.training.objective import IdentityLoss, put_into_scene
from facepipe.training.schedule import Clock, augmentation_strength, learning_rate
from facepipe.training.setup import _pictures
from facepipe.training.state import Trainee
from facepipe.training.team import Team
from facepipe.training.validation import component_psnr, masked_psnr
from facepipe.types import HINTS, SIDES, Side

SIZE = 32
TINY = Architecture(
    size=SIZE, widths=(8, 8), code=8, bottom=8, up=(8, 8), linear=114, hints=True, components=12, bounded=False
)
CPU = torch.device("cpu")
FACTS = {"template": "ibug68", "margin": 0.15, "window": [0.5, 0.6, 0.75]}


def make_person(seed: int, count: int = 24, size: int = SIZE) -> Person:
    """Smooth random pictures of few kinds, a round mask, landmarks on a circle."""
    rng = np.random.default_rng(seed)
    side = stored_side(size)
    y, x = np.mgrid[0:side, 0:side] / side
    parts = np.stack([np.sin(2 * np.pi * (a * x + b * y + c)) for a, b, c in rng.uniform(0, 1.5, (4, 3))])
    colors = rng.uniform(-1, 1, (4, 3))
    amounts = rng.normal(0, 1, (count, 4))
    images = 127 + 25 * np.einsum("nk,khw,kc->nhwc", amounts, parts, colors)
    mask = 255.0 * (np.hypot(x - 0.5, y - 0.5) < 0.3)
    pictures = np.concatenate([images, np.broadcast_to(mask[..., None], (count, side, side, 1))], -1)
    edge = (side - size) // 2
    inner = pictures[:, edge : edge + size, edge : edge + size]
    angle = np.linspace(0, 2 * np.pi, 68, endpoint=False)
    landmarks = 0.5 * np.stack([np.cos(angle), np.sin(angle)], -1)
    return Person(
        pictures=np.clip(pictures, 0, 255).astype(np.uint8),
        landmarks=np.repeat(landmarks[None], count, 0).astype(np.float32),
        yaw=rng.uniform(-20, 20, count).astype(np.float32),
        hints=rng.normal(0, 0.1, (count, HINTS)).astype(np.float32),
        train=np.arange(count - 6),
        held_out=np.arange(count - 4, count),
        twins=np.where(np.arange(count) < count - 6, np.arange(count), -1),
        twin_pictures=np.clip(inner[::-1], 0, 255).astype(np.uint8),
    )


@pytest.fixture(scope="module")
def persons() -> dict[Side, Person]:
    return {"source": make_person(1), "target": make_person(2)}


def make_config(**changes: Any) -> TrainConfig:
    base: dict[str, Any] = {"steps": 12, "batch": 4, "swap_batch": 2, "swap_every": 2, "validate_every": 100}
    return build({"train": {**base, **changes}}).train


def run(
    folder: Path,
    persons: Mapping[Side, Person],
    config: TrainConfig,
    *,
    stop: Callable[[int], bool] = lambda step: False,
    part: tuple[int, int] = (0, 1),
) -> tuple[Trainee, Report]:
    """Train from the newest checkpoint of the folder on."""
    loader = Loader(persons, SIZE, config, part=part)
    trainee = Trainee(TINY, config, CPU)
    known = checkpoint.load_newest(folder)
    if known is not None:
        trainee.unpack(known[0], known[1])
    team = Team(CPU)
    report = train_net(trainee, loader, None, config, team, folder, facts=FACTS, stop=stop)
    return trainee, report


def weights_of(trainee: Trainee) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in trainee.pack()[0].items()}


# -------------------------------------------------------------------------------------------------------------- data


def test_held_out_faces_never_train(persons: dict[Side, Person]) -> None:
    for person in persons.values():
        chance = person.sampling()
        assert chance.sum() == pytest.approx(1)
        assert (chance[person.held_out] == 0).all()
        assert (chance[person.train] > 0).all()


def test_sampling_is_even_over_yaw() -> None:
    person = make_person(0)
    yaw = np.where(np.arange(24) < 3, 40.0, 0.0).astype(np.float32)  # three turned faces among many frontal ones
    chance = Person(**{**vars(person), "yaw": yaw}).sampling()
    assert chance[:3].sum() == pytest.approx(0.5, abs=0.01)


def test_a_batch_depends_on_seed_and_step_alone(persons: dict[Side, Person]) -> None:
    config = make_config()
    first, again, other = (Loader(persons, SIZE, config, seed=seed) for seed in (0, 0, 1))
    with first.batches(0) as taken:
        one = [first.make(next(taken), 1.0) for _ in range(3)][2]
    with again.batches(2) as taken:
        same = again.make(next(taken), 1.0)
    with other.batches(2) as taken:
        different = other.make(next(taken), 1.0)
    assert torch.equal(one.pairs["source"].input, same.pairs["source"].input)
    assert not torch.equal(one.pairs["source"].input, different.pairs["source"].input)


def test_processes_share_a_batch_without_overlap(persons: dict[Side, Person]) -> None:
    config = make_config(batch=8, swap_batch=4)
    whole = Loader(persons, SIZE, config)
    parts = [Loader(persons, SIZE, config, part=(i, 2)) for i in range(2)]
    batches = []
    for loader in (whole, *parts):
        with loader.batches(0) as taken:
            batches.append(loader.make(next(taken), 1.0))
    faces = [{image.numpy().tobytes() for image in batch.pairs["target"].input} for batch in batches]
    assert faces[1] | faces[2] == faces[0]
    assert [len(batch.pairs["target"].input) for batch in batches] == [8, 4, 4]
    assert [batch.swapped for batch in batches] == [4, 2, 2]


def test_no_strength_leaves_faces_as_they_are(persons: dict[Side, Person]) -> None:
    config = make_config(augment={"clean": 0.0})
    loader = Loader(persons, SIZE, config)
    with loader.batches(1) as taken:
        rows = next(taken)
    pair = loader.make(rows, 0.0).pairs["source"]
    assert torch.equal(pair.input, pair.target)
    edge = (stored_side(SIZE) - SIZE) // 2
    assert torch.equal(pair.target, as_floats(rows.stored["source"])[:, :3, edge : edge + SIZE, edge : edge + SIZE])


def test_swapped_faces_are_not_varied(persons: dict[Side, Person]) -> None:
    loader = Loader(persons, SIZE, make_config(augment={"clean": 0.0}))
    with loader.batches(0) as taken:
        batch = loader.make(next(taken), 1.0)
    pair, swap = batch.pairs["target"], batch.swaps["target"]
    edge = (stored_side(SIZE) - SIZE) // 2
    kept = swap.scene.picture[:, :3, edge : edge + SIZE, edge : edge + SIZE]
    assert torch.equal(pair.input[-batch.swapped :], kept)
    assert not torch.equal(pair.input[0], pair.target[0])  # the others are


# --------------------------------------------------------------------------------------------------------- variation


def test_the_variation_of_nothing_is_the_identity() -> None:
    numbers = augment.draw(5, step_generator(0, 0))
    how = augment.variation(numbers, AugmentConfig(), 0.0)
    grid = augment.similarity_grid(how.similarity, SIZE, INSIDE)
    stored = torch.rand(5, 4, stored_side(SIZE), stored_side(SIZE))
    edge = (stored_side(SIZE) - SIZE) // 2
    found = augment.sample(stored, grid + augment.warp_field(how.warp, SIZE, INSIDE))
    torch.testing.assert_close(found, stored[..., edge : edge + SIZE, edge : edge + SIZE], atol=1e-4, rtol=0)


def test_a_mirrored_face_is_mirrored() -> None:
    config = AugmentConfig(flip=True, clean=1.0)
    numbers = augment.draw(16, step_generator(0, 0))
    how = augment.variation(numbers, config, 1.0)
    stored = torch.rand(16, 3, stored_side(SIZE), stored_side(SIZE))
    found = augment.sample(stored, augment.similarity_grid(how.similarity, SIZE, INSIDE))
    edge = (stored_side(SIZE) - SIZE) // 2
    plain = stored[..., edge : edge + SIZE, edge : edge + SIZE]
    flipped = numbers[:, 3] < 0.5
    assert 0 < flipped.sum() < 16
    torch.testing.assert_close(found[flipped], plain.flip(-1)[flipped], atol=1e-4, rtol=0)
    torch.testing.assert_close(found[~flipped], plain[~flipped], atol=1e-4, rtol=0)


def test_a_warp_to_landmarks_moves_them_there() -> None:
    """A picture whose value is its own x: sampled at the warped grid, it tells where each pixel came from."""
    identity = torch.tensor([[[1.0, 0, 0], [0, 1, 0]]])
    grid = augment.similarity_grid(identity, 64, INSIDE)
    own = torch.tensor([[[-0.2, 0.0], [0.2, 0.0], [0.0, 0.25]]])
    wanted = own + torch.tensor([0.06, -0.03])
    field = augment.warp_to_landmarks(grid, own, wanted, INSIDE)
    for source, target in zip(own[0], wanted[0], strict=True):
        nearest = (grid[0] - target).square().sum(-1).flatten().argmin()
        came_from = (grid + field)[0].flatten(0, 1)[nearest]
        assert (came_from - source).norm() < 0.025
    assert field[0, 0, 0].norm() < 0.01  # nothing moves far away from them


def test_colors_are_those_of_the_other() -> None:
    generator = torch.Generator().manual_seed(0)
    image, other = torch.rand(2, 3, 16, 16, generator=generator), 0.3 * torch.rand(2, 3, 16, 16, generator=generator)
    mask = torch.zeros(2, 1, 16, 16)
    mask[..., 4:12, 4:12] = 1
    found = augment.color_map(image, mask, other, mask)(image)
    for a, b in zip(augment.masked_moments(found, mask), augment.masked_moments(other, mask), strict=True):
        torch.testing.assert_close(a, b, atol=2e-3, rtol=0)


def test_a_face_pasted_into_its_own_picture_changes_nothing(persons: dict[Side, Person]) -> None:
    loader = Loader(persons, SIZE, make_config())
    scene = loader.scene("source", torch.arange(3))
    pasted = put_into_scene(loader.clean("source", torch.arange(3)).input, scene)
    torch.testing.assert_close(pasted, scene.picture[:, :3], atol=1e-5, rtol=0)


def test_the_identity_loss_is_small_for_the_right_person(persons: dict[Side, Person]) -> None:
    loader = Loader(persons, SIZE, make_config())

    def embed(pictures: Tensor) -> Tensor:  # a stand-in: mean colours, as directions
        return torch.nn.functional.normalize(pictures.mean((2, 3)) + torch.tensor([0.1, 0, 0]), dim=1)

    loss = IdentityLoss(embed, 16, loader, (0.1, 0.1, 0.9, 0.9))
    for side in SIDES:
        assert loss.reference[side].norm() == pytest.approx(1)
    image = loader.clean("source", torch.arange(3)).input.requires_grad_()
    twin, mask = loader.twin("target", torch.arange(3))
    numbers = augment.draw(3, step_generator(0, 0))
    value = loss(image, Swappable(loader.scene("target", torch.arange(3)), twin, mask, numbers), "target")
    value.backward()
    assert image.grad is not None
    assert torch.isfinite(image.grad).all()


def test_the_yardstick_is_the_projection_onto_components(persons: dict[Side, Person]) -> None:
    loader = Loader(persons, SIZE, make_config())
    for side, psnr in component_psnr(loader, 3).items():
        person = persons[side]
        learned = loader.clean(side, torch.from_numpy(person.train)).target.flatten(1).double()
        pair = loader.clean(side, torch.from_numpy(person.held_out))
        _, _, basis = torch.linalg.svd(learned - learned.mean(0), full_matrices=False)
        free = pair.target.flatten(1).double() - learned.mean(0)
        rebuilt = (learned.mean(0) + free @ basis[:3].T @ basis[:3]).float().view_as(pair.target)
        assert psnr == pytest.approx(float(masked_psnr(rebuilt.clamp(-1, 1), pair.target, pair.mask).mean()), abs=0.01)


# ---------------------------------------------------------------------------------------------------------- schedule


def test_the_schedule() -> None:
    config = make_config().schedule
    assert learning_rate(config, 0, 0.0) == pytest.approx(1 / config.warmup_steps)
    assert learning_rate(config, 1000, 0.1) == 1.0
    assert learning_rate(config, 1000, 1.0) == pytest.approx(config.floor)
    assert augmentation_strength(config, 0.0) == 1.0
    assert augmentation_strength(config, config.augment_off) == 0.0
    assert Clock(make_config(steps=10)).share(5) == 0.5
    assert Clock(make_config(steps=10, minutes=1.0), before=60.0).share(0) == 1.0


# -------------------------------------------------------------------------------------------------------------- loop


def test_training_learns(tmp_path: Path, persons: dict[Side, Person]) -> None:
    config = make_config(steps=120, validate_every=60, learning_rate=3e-3)
    trainee = Trainee(TINY, config, CPU)
    loader = Loader(persons, SIZE, config)
    pair = loader.clean("source", torch.arange(10))

    @torch.no_grad()
    def psnr(trainee: Trainee) -> float:
        rebuilt = trainee.averaged.rebuild(pair.input, "source", pair.hints).image
        return float(masked_psnr(rebuilt, pair.target, pair.mask).mean())

    before = psnr(trainee)
    trainee, report = run(tmp_path, persons, config)
    assert psnr(trainee) > before + 1
    assert report.step == 120
    assert report.share == 1.0
    assert {"l1", "l2", "dssim", "mask", "twin", "swap_mask"} <= set(report.losses)
    history = json.loads((tmp_path / "history.json").read_text())
    assert [row["step"] for row in history] == [60, 120]
    assert {"psnr_source", "ssim_target", "quality"} <= set(history[0])
    assert history[1]["shift"] >= 0
    assert len(list((tmp_path / "previews").glob("*.png"))) == 2
    assert list((tmp_path / "events").iterdir())


@pytest.mark.parametrize("gan", [0.0, 0.1])
@pytest.mark.parametrize("cut", [1, 5, 8])
def test_stopped_and_resumed_is_bit_equal(tmp_path: Path, persons: dict[Side, Person], gan: float, cut: int) -> None:
    config = make_config(loss={"gan": gan}, schedule={"gan_from": 0.2})
    whole, _ = run(tmp_path / "whole", persons, config)
    run(tmp_path / "parts", persons, config, stop=lambda step: step == cut)
    parts, _ = run(tmp_path / "parts", persons, config)
    assert parts.step == whole.step == 12
    a, b = weights_of(whole), weights_of(parts)
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C does what it does in a terminal; in the background a shell has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_ends_the_step_and_is_saved() -> None:
    usual = signal.getsignal(signal.SIGINT)
    with interrupted() as asked:
        assert not asked.is_set()
        signal.raise_signal(signal.SIGINT)
        assert asked.is_set()  # and the work goes on
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is usual
    with interrupted(hear=False) as asked, pytest.raises(KeyboardInterrupt):  # several processes: they have to agree
        signal.raise_signal(signal.SIGINT)
    assert not asked.is_set()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interrupted() as asked:
        signal.raise_signal(signal.SIGINT)
    assert not asked.is_set()
    with ThreadPoolExecutor(1) as pool:  # signals are the main thread's
        assert not pool.submit(lambda: interrupted().__enter__().is_set()).result()


@pytest.mark.parametrize("kind", ["bce", "minimax", "lsgan", "wgan", "wgan-gp", "hinge", "relativistic"])
def test_every_kind_of_game_is_played(tmp_path: Path, persons: dict[Side, Person], kind: str) -> None:
    config = make_config(steps=4, gan_kind=kind, loss={"gan": 0.1}, schedule={"gan_from": 0.0})
    start = weights_of(Trainee(TINY, config, CPU))
    trainee, report = run(tmp_path, persons, config)
    moved = [
        name
        for name, value in weights_of(trainee).items()
        if name.startswith("game.critics") and name in start and not torch.equal(value, start[name])
    ]
    assert moved
    assert "gan" in report.losses or report.step < 10
    assert all(torch.isfinite(value).all() for value in weights_of(trainee).values() if value.is_floating_point())


def test_the_linear_part_stays_as_it_was_found(tmp_path: Path, persons: dict[Side, Person]) -> None:
    """Its numbers are not trained, stand once in memory and in a checkpoint, and are there again after a resume."""
    loader = Loader(persons, SIZE, make_config())
    config = make_config(steps=4)
    trainee = Trainee(TINY, config, CPU)
    trainee.raw.start_linear(*_pictures(loader))
    trainee.begin()
    found = {name: value.clone() for name, value in trainee.raw.constants().items()}
    assert found["synthesis.source.weight"].any()
    train_net(trainee, loader, None, config, Team(CPU), tmp_path, facts=FACTS)
    known = checkpoint.load_newest(tmp_path)
    assert known is not None
    assert not [name for name in known[0] if name.startswith("averaged.module.synthesis")]
    again = Trainee(TINY, config, CPU, seed=5)
    again.unpack(known[0], known[1])
    for name, value in found.items():
        for net in (trainee.raw, trainee.averaged, again.raw, again.averaged):
            assert torch.equal(net.state_dict()[name], value)
    assert again.averaged.constants()["analysis.basis"] is again.raw.constants()["analysis.basis"]


def test_losses_that_are_not_finite_step_back(tmp_path: Path, persons: dict[Side, Person]) -> None:
    config = make_config(steps=30)
    loader = Loader(persons, SIZE, config)
    trainee = Trainee(TINY, config, CPU)
    start = weights_of(trainee)

    def poison(step: int) -> bool:
        if step == 13:
            with torch.no_grad():
                next(trainee.raw.parameters()).fill_(float("nan"))
        return False

    report = train_net(trainee, loader, None, config, Team(CPU), tmp_path, facts=FACTS, stop=poison)
    assert any("step 20: losses not finite; back to those of 0" in note for note in report.notes)
    assert report.step == 30
    ended = weights_of(trainee)
    assert all(torch.isfinite(value).all() for value in ended.values() if value.is_floating_point())
    assert not torch.equal(start["net.heads.both.weight"], ended["net.heads.both.weight"])  # it went on


def test_losses_that_are_never_finite_end_it(tmp_path: Path, persons: dict[Side, Person]) -> None:
    config = make_config(steps=200)
    trainee = Trainee(TINY, config, CPU)

    def poison(step: int) -> bool:
        with torch.no_grad():
            next(trainee.raw.parameters()).fill_(float("nan"))
        return False

    with pytest.raises(TrainingError, match=r"not finite 6 times; lower train\.learning_rate"):
        train_net(trainee, Loader(persons, SIZE, config), None, config, Team(CPU), tmp_path, facts=FACTS, stop=poison)


def test_early_stopping(tmp_path: Path, persons: dict[Side, Person]) -> None:
    config = make_config(steps=200, validate_every=2, patience=3, learning_rate=1e-12)
    _, report = run(tmp_path, persons, config)
    assert report.step < 30


def test_bf16_trains_on_the_cpu(tmp_path: Path, persons: dict[Side, Person]) -> None:
    trainee, report = run(tmp_path, persons, make_config(steps=20, precision="bf16"))
    assert report.step == 20
    assert all(value.dtype != torch.bfloat16 for value in weights_of(trainee).values())
    assert all(np.isfinite(list(report.losses.values())))


# ------------------------------------------------------------------------------------------------------- checkpoints


def test_a_truncated_checkpoint_is_passed_over(tmp_path: Path, persons: dict[Side, Person]) -> None:
    config = make_config(validate_every=4, keep=3)
    run(tmp_path, persons, config)
    newest = checkpoint.step_path(tmp_path, 12)
    file = newest.with_name(newest.name + ".safetensors")
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint.load(newest)
    found = checkpoint.load_newest(tmp_path)
    assert found is not None
    assert found[1]["step"] == 8
    assert "damaged" in found[2][0]


def test_only_the_last_are_kept_and_the_best(tmp_path: Path, persons: dict[Side, Person]) -> None:
    run(tmp_path, persons, make_config(validate_every=2, keep=2))
    assert sorted(path.stem for path in tmp_path.glob("step-*.safetensors")) == ["step-000000010", "step-000000012"]
    history = json.loads((tmp_path / "history.json").read_text())
    best = max(history, key=lambda row: row["quality"])
    assert json.loads((tmp_path / "generator.json").read_text())["step"] == best["step"]


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "step-000000001"
    checkpoint.save(path, {"a": torch.zeros(2)}, {"step": 1})
    file = tmp_path / "step-000000001.safetensors"
    torch.save({"a": torch.zeros(2)}, file)
    import hashlib

    state = json.loads((tmp_path / "step-000000001.json").read_text())
    state["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    (tmp_path / "step-000000001.json").write_text(json.dumps(state))
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        checkpoint.load(path)


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "step-000000001"
    checkpoint.save(path, {"a": torch.ones(2)}, {"step": 1})

    def full(tensors: Any, file: Path) -> None:
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device", str(file))

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(path, {"a": torch.zeros(2)}, {"step": 1})
    tensors, _ = checkpoint.load(path)
    assert torch.equal(tensors["a"], torch.ones(2))
    assert not list(tmp_path.glob(".*.part"))


def test_a_checkpoint_of_another_net_is_refused(tmp_path: Path, persons: dict[Side, Person]) -> None:
    config = make_config(steps=2)
    trainee, _ = run(tmp_path, persons, config)
    other = Trainee(Architecture(size=SIZE, widths=(8,), code=8, bottom=8, up=(8,)), config, CPU)
    with pytest.raises(CheckpointError, match="belongs to another net"):
        other.unpack(*trainee.pack())


# ----------------------------------------------------------------------------------------------------------- presets


def test_settings_of_the_architecture() -> None:
    assert architecture("cpu-64", {"down": "max", "up": [32, 16, 16, 8]}).up == (32, 16, 16, 8)
    with pytest.raises(ConfigError, match="unknown field 'dwon'"):
        architecture("cpu-64", {"dwon": "max"})


# --------------------------------------------------------------------------------------------------------- processes

WORKER = """
import json, sys, torch
sys.path.insert(0, {tests!r})
import importlib.util
spec = importlib.util.spec_from_file_location("t", {file!r})
t = importlib.util.module_from_spec(spec); spec.loader.exec_module(t)
from facepipe.training.team import Team
torch.set_num_threads(1)
team = Team.join("cpu")
config = t.make_config(batch=8, swap_batch=4, steps=6, augment={{"clean": 0.2}})
persons = {{"source": t.make_person(1), "target": t.make_person(2)}}
loader = t.Loader(persons, t.SIZE, config, part=(team.number, team.size))
trainee = t.Trainee(t.TINY, config, t.CPU)
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
t.train_net(trainee, loader, None, config, team, Path({out!r}), facts=t.FACTS)
"""


@pytest.mark.slow
def test_two_processes_equal_one_with_the_whole_batch(tmp_path: Path, persons: dict[Side, Person]) -> None:
    config = make_config(batch=8, swap_batch=4, steps=6, augment={"clean": 0.2})
    alone, _ = run(tmp_path / "alone", persons, config)
    script = tmp_path / "worker.py"
    script.write_text(WORKER.format(tests=str(Path(__file__).parent), file=__file__, out=str(tmp_path / "team")))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    found = checkpoint.load_newest(tmp_path / "team")
    assert found is not None
    for name, value in weights_of(alone).items():
        torch.testing.assert_close(found[0][name], value, atol=2e-4, rtol=1e-3, msg=name)
