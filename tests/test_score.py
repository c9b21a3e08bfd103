"""Stage score: the numbers of known videos, the people who are the floor, the summary's arithmetic."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.metrics import peak_signal_noise_ratio

from facepipe import geometry
from facepipe.backends.detectors import Detections
from facepipe.backends.landmarkers import Fit
from facepipe.stages.score import (
    ClipScores,
    Judge,
    Triple,
    embed_rows,
    reference_people,
    score_clip,
    summarize,
)
from facepipe.types import Faces, Flag

SIZE = (120, 160)
SOURCE, TARGET, OTHER = (np.eye(3, 128, dtype=np.float32)[i] for i in range(3))


class Sees:
    """Detector, landmarker and embedder by the colour of a square: red is the source, green the target."""

    name = "sface"
    follows = False
    crop_size = (1, 1)
    dim = 128

    def __init__(self) -> None:
        self.embedded = 0

    def detect(self, image: Any) -> Detections:
        ys, xs = np.nonzero(image.max(2) > 200)
        if not len(ys):
            return Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))
        box = np.array([[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]], np.float32)
        return Detections(box, np.array([0.9], np.float32))

    def fit(self, image: Any, box: Any) -> Fit:
        return Fit((geometry.template("ibug68", int(box[2] - box[0])) + box[:2]).astype(np.float32))

    follow = None

    def crop(self, image: Any, box: Any, landmarks: Any) -> Any:
        x, y = ((box[:2] + box[2:]) / 2).astype(int)
        return image[y : y + 1, x : x + 1]

    def embed(self, crops: Any) -> Any:
        self.embedded += len(crops)
        red = crops[:, 0, 0, 0].astype(np.float32) / 255
        return red[:, None] * SOURCE + np.sqrt(1 - red[:, None] ** 2) * TARGET


def scene(colour: tuple[int, int, int] | None, left: int = 50) -> NDArray[np.uint8]:
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    image = np.stack([60 + x // 4, 60 + y // 4, (x + y) // 4], -1).astype(np.uint8)
    if colour is not None:
        image[40:80, left : left + 40] = colour
    return image


def frames(images: list[Any]) -> list[Any]:
    return [SimpleNamespace(index=i, pts=10 * i, image=image) for i, image in enumerate(images)]


def faces_at(numbers: list[int], left: int = 50) -> Faces:
    n = len(numbers)
    empty = Faces.empty(embedding=128)
    columns = {
        name: np.zeros((n, *getattr(empty, name).shape[1:]), getattr(empty, name).dtype) for name in vars(empty)
    }
    columns["frame"][:] = numbers
    columns["box"][:] = [left, 40, left + 40, 80]
    columns["landmarks"][:] = geometry.template("ibug68", 40) + np.array([left, 40])
    return Faces(**columns)


MASK = np.zeros((*SIZE, 3), np.uint8)
MASK[35:85, 45:95] = 255
RED, GREEN = (255, 0, 0), (0, 255, 0)


def score(target: list[Any], swapped: list[Any], *, faces: Faces, done: list[bool], **more: Any) -> ClipScores:
    fake: Any = Sees()
    masks = [MASK if d else np.zeros_like(MASK) for d in done]
    return score_clip(
        Triple(frames(target), frames(swapped), frames(masks)),
        faces,
        np.array(done),
        [Judge(fake, SOURCE, TARGET)],
        (fake, fake, 1),
        **more,
    )


# --------------------------------------------------------------------------------------------------- known videos


def test_a_perfect_swap() -> None:
    scores = score([scene(GREEN)] * 5, [scene(RED)] * 5, faces=faces_at([0, 1, 2, 3, 4]), done=[True] * 5)
    columns = scores.columns
    np.testing.assert_allclose(columns["to_source_sface"], 1, atol=1e-6)
    np.testing.assert_allclose(columns["to_target_sface"], 0, atol=1e-6)
    assert columns["frame"] == [0, 1, 2, 3, 4]
    assert columns["pts"] == [0, 10, 20, 30, 40]
    assert columns["found"] == [True] * 5
    assert columns["outside_psnr"] == [None] * 5  # identical: JSON has no infinity
    assert columns["outside_ssim"] == pytest.approx([1.0] * 5)
    summary = summarize({"x": scores}, ["sface"])
    assert summary["identity"]["sface"]["margin"] == pytest.approx(1, abs=1e-6)
    assert summary["outside"]["psnr"] is None
    assert summary["outside"]["ssim"] == pytest.approx(1)
    assert summary["frames"] == {"total": 5, "swapped": 5, "skipped": 0, "flagged": 0, "no_face": 0, "lost": 0}
    assert summary["clips"]["x"] == {key: value for key, value in summary.items() if key != "clips"}


def test_a_swap_that_did_nothing() -> None:
    scores = score([scene(GREEN)] * 3, [scene(GREEN)] * 3, faces=faces_at([0, 1, 2]), done=[True] * 3)
    identity = summarize({"x": scores}, ["sface"])["identity"]["sface"]
    assert identity["to_target"] == pytest.approx(1, abs=1e-6)
    assert identity["margin"] == pytest.approx(-1, abs=1e-6)


def test_outside_is_scikit_images_psnr_of_the_unmasked_pixels() -> None:
    target, swapped = scene(GREEN), scene(RED)
    swapped[:, :20] += 3
    scores = score([target], [swapped], faces=faces_at([0]), done=[True])
    outside = MASK[..., 0] == 0
    witness: Any = peak_signal_noise_ratio
    expected = witness(target[outside], swapped[outside], data_range=255)
    assert scores.columns["outside_psnr"][0] == pytest.approx(expected, rel=1e-6)
    assert 0.5 < scores.columns["outside_ssim"][0] < 1


def test_every_frame_is_counted() -> None:
    """0 swapped, 1 skipped (flagged), 2 without a face, 3 swapped and not found again."""
    target = [scene(GREEN), scene(GREEN), scene(None), scene(GREEN)]
    swapped = [scene(RED), scene(GREEN), scene(None), scene(None)]
    faces = faces_at([0, 1, 3])
    faces.flags[1] = Flag.PROFILE
    scores = score(target, swapped, faces=faces, done=[True, False, False, True])
    assert scores.counts == {"total": 4, "swapped": 2, "skipped": 1, "flagged": 1, "no_face": 1, "lost": 1}
    assert scores.columns["frame"] == [0, 3]
    assert scores.columns["found"] == [True, False]
    assert scores.columns["to_source_sface"][1] is None
    assert scores.columns["to_source_sface"][0] == pytest.approx(1, abs=1e-6)
    summary = summarize({"x": scores}, ["sface"])
    assert summary["identity"]["sface"]["n"] == 1
    assert summary["jitter"]["swapped"] == {"second_difference": None, "residual": None}


def test_another_face_elsewhere_is_not_the_swapped_one() -> None:
    scores = score([scene(GREEN)], [scene(RED, left=110)], faces=faces_at([0]), done=[True])
    assert scores.columns["found"] == [False]


def test_values_stay_in_their_rows_over_batches_and_misses() -> None:
    """40 frames, every seventh lost: each row has the similarity of its own frame."""
    reds = np.linspace(40, 255, 40).astype(int)
    lost = set(range(0, 40, 7))
    swapped = [scene(None if i in lost else (int(red), 210, 0)) for i, red in enumerate(reds)]
    scores = score([scene(GREEN)] * 40, swapped, faces=faces_at(list(range(40))), done=[True] * 40)
    column = scores.columns["to_source_sface"]
    assert len(column) == 40
    for i, (value, red) in enumerate(zip(column, reds, strict=True)):
        assert value is None if i in lost else value == pytest.approx(red / 255, abs=1e-5)


def test_videos_of_different_lengths_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"shorter|longer"):
        score([scene(GREEN)] * 3, [scene(RED)] * 2, faces=faces_at([0, 1, 2]), done=[True] * 3)


def test_a_mask_over_the_whole_frame_leaves_no_outside() -> None:
    fake: Any = Sees()
    whole = np.full((*SIZE, 3), 255, np.uint8)
    scores = score_clip(
        Triple(frames([scene(GREEN)]), frames([scene(RED)]), frames([whole])),
        faces_at([0]),
        np.array([True]),
        [Judge(fake, SOURCE, TARGET)],
        (fake, fake, 1),
    )
    assert scores.columns["outside_psnr"] == [None]
    assert scores.columns["outside_ssim"] == [None]


def test_the_same_identity_swap_is_scored_inside_its_mask() -> None:
    truth = scene(GREEN)
    rebuilt = truth.copy()
    rebuilt[:30] += 90  # far outside of the mask
    rebuilt[45:75, 55:85, 2] += 5
    mask = np.zeros(SIZE, np.float32)
    mask[45:75, 55:85] = 1
    called = []

    def rebuild(frame: Any) -> Any:
        called.append(frame.index)
        return None if frame.index == 2 else (truth, rebuilt, mask)

    scores = score(
        [truth] * 4,
        [scene(RED)] * 4,
        faces=faces_at([0, 1, 2, 3]),
        done=[True] * 4,
        rebuild=rebuild,
        rebuild_frames=frozenset({1, 2}),
    )
    assert called == [1, 2]
    assert len(scores.rebuilt) == 1
    expected = 10 * math.log10(255**2 / (25 / 3))
    assert scores.rebuilt[0][0] == pytest.approx(expected, rel=1e-6)


def test_jitter_of_a_face_that_moves_evenly_is_nothing() -> None:
    target = [scene(GREEN, left=30 + 2 * i) for i in range(12)]
    swapped = [scene(RED, left=30 + 2 * i + (i % 2) * 2) for i in range(12)]
    faces = Faces.concatenate([faces_at([i], left=30 + 2 * i) for i in range(12)])
    jitter = summarize({"x": score(target, swapped, faces=faces, done=[True] * 12)}, ["sface"])["jitter"]
    assert jitter["target"]["second_difference"] == pytest.approx(0, abs=1e-3)
    assert jitter["swapped"]["second_difference"] > 1
    assert jitter["swapped"]["residual"] == pytest.approx(0, abs=1e-2)  # a shift is no deformation


# --------------------------------------------------------------------------------------------------------- people


@pytest.mark.parametrize("net", ["irv1", "sface"])
def test_reference_people_are_unrelated(net: str) -> None:
    people = reference_people()[net]
    assert people.shape[1] == {"irv1": 512, "sface": 128}[net]
    assert len(people) >= 5
    np.testing.assert_allclose(np.linalg.norm(people, axis=1), 1, atol=1e-3)
    similar = people @ people.T - np.eye(len(people))
    assert similar.max() < 0.65  # two children of one family photo; all other pairs stay below .4
    assert (similar > 0.4).sum() <= 2


def test_whoever_takes_part_is_no_stranger() -> None:
    people = reference_people()["sface"]
    fake: Any = Sees()
    assert len(Judge(fake, SOURCE, TARGET).strangers) == len(people)
    judge = Judge(fake, people[0], people[3])
    np.testing.assert_array_equal(judge.strangers, people[[i for i in range(len(people)) if i not in (0, 3)]])


def test_a_person_is_embedded_from_at_most_32_faces_over_the_whole_clip() -> None:
    fake: Any = Sees()
    faces = faces_at(list(range(5, 105)))
    drawn = []

    def clip() -> Any:
        for index in range(300):
            drawn.append(index)
            yield SimpleNamespace(index=index, pts=index, image=scene(RED if index >= 55 else GREEN))

    mean = embed_rows(clip(), faces, fake)
    assert fake.embedded == 32
    assert max(drawn) == 104  # no frame is decoded after the last face
    assert np.linalg.norm(mean) == pytest.approx(1)
    assert mean @ SOURCE == pytest.approx(mean @ TARGET, abs=0.1)


# -------------------------------------------------------------------------------------------------------- summary


def clip_scores(values: list[float | None], *, total: int = 9) -> ClipScores:
    columns: dict[str, list[Any]] = {
        "frame": list(range(len(values))),
        "to_source_irv1": list(values),
        "to_target_irv1": [None if v is None else v / 2 for v in values],
        "to_strangers_irv1": [None if v is None else 0.05 for v in values],
        "outside_psnr": [None if v is None else 40 + v for v in values],
        "outside_ssim": [0.99 for _ in values],
    }
    counts = {"total": total, "swapped": len(values)}
    return ClipScores(columns, {"swapped": [], "target": []}, [(30.0, 0.9)], counts)


def test_the_summary_has_medians_over_frames_of_all_clips() -> None:
    clips = {"a": clip_scores([0.1, 0.2, 0.9]), "b": clip_scores([0.8, None])}
    summary = summarize(clips, ["irv1"])
    assert summary["identity"]["irv1"] == pytest.approx(
        {"to_source": 0.5, "to_target": 0.25, "margin": 0.25, "floor": 0.05, "n": 4}
    )
    assert summary["clips"]["a"]["identity"]["irv1"]["to_source"] == 0.2
    assert summary["clips"]["b"]["identity"]["irv1"]["to_source"] == 0.8
    assert summary["outside"]["psnr"] == pytest.approx(40.5)
    assert summary["frames"] == {"total": 18, "swapped": 5}
    assert summary["same_identity"] == {"psnr": 30.0, "ssim": 0.9, "n": 2}


def test_the_summary_of_nothing() -> None:
    summary = summarize({}, ["irv1"])
    assert summary["identity"]["irv1"]["to_source"] is None
    assert summary["frames"] == {}
    assert summary["clips"] == {}
