"""The trained swap through the whole pipeline, on slices of the real clips, with a net too small to be any good."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facepipe import pipeline
from facepipe.cli import main
from facepipe.errors import CheckpointError, NoFaceError, TrainingError, UsageError
from facepipe.methods.gan import Generator
from facepipe.methods.view import Window
from facepipe.types import HINTS
from facepipe.video import open_clip
from facepipe.workspace import read_crops

TINY = (
    "train.architecture={widths=[8, 8, 8, 8], up=[8, 8, 8, 8], code=8, bottom=8, linear=120, components=20}",
    "train.steps=6",
    "train.batch=4",
    "train.loss.identity=0",
    "train.validate_every=3",
    "swap.method=gan",
)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory, cut_clip: Callable[..., Path]) -> tuple[Path, Path]:
    """40 frames of each person: 27 to learn from, 8 held out."""
    root = tmp_path_factory.mktemp("forty")
    cut_clip("single_face.mp4", root / "man" / "man.mp4", 8, 48)
    cut_clip("WolfgangLanger_Pexels.mp4", root / "woman" / "woman.mp4", 240, 280)
    return root / "man", root / "woman"


Run = Callable[..., Any]


@pytest.fixture(scope="module")
def run(clips: tuple[Path, Path], quick: tuple[str, ...]) -> Run:
    """``run(out, *overrides)``: the whole pipeline."""

    def call(out: Path, *overrides: str) -> Any:
        config = pipeline.resolve(None, (*quick, *TINY, *overrides), source=clips[0], target=clips[1], out=out)
        return pipeline.run(config)

    return call


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, run: Run) -> tuple[Path, Any]:
    out = tmp_path_factory.mktemp("gan") / "RUN"
    return out, run(out)


def test_a_net_is_trained_and_swaps(finished: tuple[Path, Any]) -> None:
    out, result = finished
    assert not result.failed
    assert result.scores["method"] == "gan"
    assert result.scores["frames"]["swapped"] == 40
    assert 15 < result.scores["same_identity"]["psnr"] < 45
    history = json.loads((out / "model" / "history.json").read_text())
    assert [row["step"] for row in history] == [3, 6]
    with open_clip(out / "swapped" / "woman.mp4") as swapped:
        assert sum(1 for _ in swapped) == 40


def test_only_the_held_out_end_is_measured(finished: tuple[Path, Any]) -> None:
    out, _ = finished
    with np.load(out / "model" / "faces-target.npz") as faces:
        assert faces["held_out"].tolist() == list(range(32, 40))
        assert faces["train"].tolist() == list(range(27))


@pytest.mark.slow
def test_a_person_of_clips_of_two_sizes(
    clips: tuple[Path, Path], quick: tuple[str, ...], cut_clip: Callable[..., Path], tmp_path: Path
) -> None:
    """Crops have the size that each clip's faces need; textures, scenes and scores do not depend on it."""
    both, out = tmp_path / "both", tmp_path / "RUN"
    both.mkdir()
    (both / "small.mp4").symlink_to(clips[0] / "man.mp4")
    cut_clip("face_noface.mov", both / "large.mp4", 0, 40)
    settings = (*quick, *TINY, "align.size=auto", "score.features=mobilenetv2")
    result = pipeline.run(pipeline.resolve(None, settings, source=both, target=clips[1], out=out))
    assert not result.failed
    sides = {path.parent.name: read_crops(path).shape[1] for path in (out / "source").glob("*/crops.npy")}
    assert sides["small"] < sides["large"]
    scenes, places = (np.load(out / "model" / f"faces-source-{what}.npy") for what in ("scenes", "places"))
    clip = np.arange(len(scenes)) < np.load(out / "model" / "faces-source.npz")["yaw"].size - 40
    inside = [(np.abs(places[rows][..., 0].astype(float)) <= 1).mean() for rows in (clip, ~clip)]
    assert inside[0] == pytest.approx(inside[1], rel=0.15)  # the face takes up the same part of both clips' scenes
    with pytest.raises(UsageError, match="all crops have to be of one size"):
        pipeline.run(pipeline.resolve(None, (*settings, "train.view=crop"), source=both, target=clips[1], out=out))


@pytest.mark.slow
def test_ctrl_c_in_a_training_loses_nothing(clips: tuple[Path, Path], quick: tuple[str, ...], tmp_path: Path) -> None:
    settings = (*quick, *TINY, "train.steps=20", "train.validate_every=100")
    config = pipeline.resolve(None, settings, source=clips[0], target=clips[1], out=tmp_path / "RUN")

    def stop(stage: str, _clip: str, done: int, _total: int | None) -> None:
        if stage == "train" and done == 10:
            signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background a shell has it ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            pipeline.train(config, progress=stop)
    finally:
        signal.signal(signal.SIGINT, before)
    model = tmp_path / "RUN" / "model"
    assert [path.stem for path in model.glob("step-*.json")] == ["step-000000010"]
    pipeline.train(config)
    whole = pipeline.resolve(None, settings, source=clips[0], target=clips[1], out=tmp_path / "WHOLE")
    pipeline.train(whole)
    assert (model / "generator.safetensors").read_bytes() == (
        tmp_path / "WHOLE" / "model" / "generator.safetensors"
    ).read_bytes()


@pytest.mark.slow
def test_a_net_can_see_the_crop(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "RUN"
    result = run(out, "train.view=crop")
    assert not result.failed
    assert result.scores["frames"]["swapped"] == 40
    assert 15 < result.scores["same_identity"]["psnr"] < 45
    assert not (out / "model" / "faces-source-scenes.npy").exists()
    with pytest.raises(CheckpointError, match=r"trained with view crop, not texture; delete .*model to begin anew"):
        run(out, "train.view=texture")
    with pytest.raises(CheckpointError, match="trained with size"):
        run(out, "train.view=crop", "align.size=192")


def test_the_generator_draws_alike_in_any_batch(finished: tuple[Path, Any]) -> None:
    generator = Generator.load(finished[0] / "model" / "generator")
    assert set(generator.fine) == {"source", "target"}
    images = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), np.uint8)
    hints = np.random.default_rng(1).normal(0, 1, (5, HINTS)).astype(np.float32)
    whole = generator.draw(images, "target", "source", hints)
    assert whole.images.shape == (5, 192, 192, 3)
    single = [generator.draw(images[i : i + 1], "target", "source", hints[i : i + 1]).images[0] for i in range(5)]
    assert np.abs(whole.images.astype(int) - np.stack(single)).max() <= 1


def test_onnx_gives_the_same(finished: tuple[Path, Any], tmp_path: Path) -> None:
    import onnxruntime
    import torch

    generator = Generator.load(finished[0] / "model" / "generator")
    with pytest.raises(SystemExit) as ended:
        main(["export", "--out", str(finished[0]), str(tmp_path / "swap.onnx")])
    assert ended.value.code == 0
    session = onnxruntime.InferenceSession(str(tmp_path / "swap.onnx"))
    for count in (1, 3):
        images = np.random.default_rng(count).uniform(-1, 1, (count, 3, 64, 64)).astype(np.float32)
        hints = np.random.default_rng(count).normal(0, 1, (count, HINTS)).astype(np.float32)
        pictures, masks = session.run(None, {"images": images, "hints": hints})
        with torch.inference_mode():
            code = generator.net.encode(torch.from_numpy(images), "target", torch.from_numpy(hints))
            image, mask = generator.fine_picture(code, "source")
        np.testing.assert_allclose(pictures, image.clamp(-1, 1).numpy(), atol=1e-4)
        np.testing.assert_allclose(masks, mask.numpy(), atol=1e-4)


def test_nothing_to_do_trains_nothing(finished: tuple[Path, Any], run: Run) -> None:
    again = run(finished[0])
    assert {outcome.status for outcome in again.outcomes} == {"kept"}


@pytest.mark.slow
def test_more_steps_go_on(finished: tuple[Path, Any], run: Run, tmp_path: Path) -> None:
    import shutil

    out = tmp_path / "RUN"
    shutil.copytree(finished[0], out)
    result = run(out, "train.steps=9")
    assert not result.failed
    assert [row["step"] for row in json.loads((out / "model" / "history.json").read_text())] == [3, 6, 9]


def test_another_architecture_or_template_is_refused(finished: tuple[Path, Any], run: Run, tmp_path: Path) -> None:
    import shutil

    out = tmp_path / "RUN"
    shutil.copytree(finished[0], out)
    with pytest.raises(CheckpointError, match=r"another architecture \(differs in .*'down': 'max'.*delete .*model"):
        run(out, "train.architecture.down=max")
    with pytest.raises(CheckpointError, match=r"trained with template ibug68, not arcface5"):
        run(out, "align.template=arcface5")
    assert Generator.load(out / "model" / "generator").net.shape.down == "stride"  # nothing was lost


def test_a_net_of_before_there_were_views_is_refused(finished: tuple[Path, Any], run: Run, tmp_path: Path) -> None:
    import shutil

    out = tmp_path / "RUN"
    shutil.copytree(finished[0], out)
    for path in (out / "model").glob("step-*.json"):
        path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "view"}))
    with pytest.raises(
        CheckpointError, match=r"older facepipe, which had no setting view; delete .*model to begin anew"
    ):
        run(out, "train.steps=9")


def test_a_damaged_generator_is_told(finished: tuple[Path, Any], tmp_path: Path) -> None:
    for suffix in (".json", ".safetensors"):
        data = (finished[0] / "model" / f"generator{suffix}").read_bytes()
        (tmp_path / f"generator{suffix}").write_bytes(data if suffix == ".json" else data[:-50])
    with pytest.raises(CheckpointError, match="damaged"):
        Generator.load(tmp_path / "generator")
    changed = bytearray((finished[0] / "model" / "generator.safetensors").read_bytes())
    changed[-10_000] ^= 1  # it still can be read
    (tmp_path / "generator.safetensors").write_bytes(changed)
    with pytest.raises(CheckpointError, match="damaged, its sha256 is not the one"):
        Generator.load(tmp_path / "generator")
    with pytest.raises(CheckpointError, match="no trained net there; run `facepipe train`"):
        Generator.load(tmp_path / "nothing")


def test_too_few_faces(clips: tuple[Path, Path], short_clips: Any, quick: tuple[str, ...], tmp_path: Path) -> None:
    config = pipeline.resolve(None, (*quick, *TINY), source=short_clips.man, target=clips[1], out=tmp_path / "RUN")
    with pytest.raises(NoFaceError, match=r"too few faces to learn from: 8 .* expected 16 or more"):
        pipeline.train(config)


@pytest.mark.slow
def test_one_person_is_not_enough(clips: tuple[Path, Path], tmp_path: Path) -> None:
    config = pipeline.resolve(None, TINY, source=clips[0], target=clips[0], out=tmp_path / "RUN")
    with pytest.raises(TrainingError, match="source and target show one person"):
        pipeline.train(config)


@pytest.mark.slow
def test_eigenface_runs_through_the_pipeline(run: Run, tmp_path: Path) -> None:
    result = run(tmp_path / "RUN", "swap.method=eigenface")
    assert not result.failed
    assert result.scores["method"] == "eigenface"
    assert result.scores["frames"]["swapped"] == 40
    assert not (tmp_path / "RUN" / "model").exists()


def test_a_window_keeps_half_pixels() -> None:
    window = Window(0.5, 0.5, 0.5)
    matrix = window.crop_to_window(100, 50)
    corner = matrix @ np.array([24.5, 24.5, 1])  # the outer corner of the window's first pixel
    np.testing.assert_allclose(corner, [-0.5, -0.5], atol=1e-9)
    bordered = window.crop_to_window(100, 100, border=0.5)
    np.testing.assert_allclose(bordered @ np.array([-0.5, -0.5, 1]), [-0.5, -0.5], atol=1e-9)
